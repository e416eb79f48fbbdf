"""Contestants that take turns in one process, so that what else the machine does hits all of them alike."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import torch

Tick = Callable[[], None]


CLOCK = time.perf_counter if torch.cuda.is_available() else time.process_time
"""Without a GPU, seconds of this process's own, all threads together: what else the machine does counts less."""


class Stop(BaseException):
    """Ends a contestant's loop; no `except Exception` on its way catches it."""


def contest(contestants: dict[str, Callable[[Tick], None]], steps: int, rounds: int) -> dict[str, np.ndarray]:
    """Seconds per step of each contestant in each round.

    A contestant is a function that works in steps for ever, and calls the `tick` it is given after each. It runs in a
    thread of its own, but only in its turns of `steps` steps. The first two rounds warm up and do not count.
    """
    turns = {name: threading.Semaphore(0) for name in contestants}
    back = threading.Semaphore(0)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    failures: dict[str, BaseException] = {}
    over = threading.Event()

    def run(name: str) -> None:
        done = 0
        turns[name].acquire()
        started = CLOCK()

        def tick() -> None:
            nonlocal done, started
            done += 1
            if done % steps:
                return
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append((CLOCK() - started) / steps)
            back.release()
            turns[name].acquire()
            if over.is_set():
                raise Stop
            started = CLOCK()

        try:
            contestants[name](tick)
            raise RuntimeError(f"{name} ended before the contest")
        except Stop:
            pass
        except BaseException as error:
            if not over.is_set():  # two bars of one process cannot both end well
                failures[name] = error
        finally:
            back.release()

    streams = sys.stdout, sys.stderr  # progress bars redirect them, and put them back in another order
    threads = [threading.Thread(target=run, args=(name,)) for name in contestants]
    for thread in threads:
        thread.start()
    for _ in range(rounds + 2):
        for name in contestants:
            if not failures:
                turns[name].release()
                back.acquire()
    over.set()
    for name in contestants:
        turns[name].release()
    for thread in threads:
        thread.join()
    sys.stdout, sys.stderr = streams
    for name, error in failures.items():
        raise RuntimeError(f"{name} failed") from error
    return {name: np.array(values[2:]) for name, values in seconds.items()}


def ratio(times: dict[str, np.ndarray], ours: str, peer: str) -> str:
    """How many times as fast as the peer: the median over rounds, with the 10 % and 90 % quantiles."""
    low, middle, high = np.quantile(times[peer] / times[ours], [0.1, 0.5, 0.9])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"
