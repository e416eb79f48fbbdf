"""Processes of several ranks on this machine."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch.multiprocessing as mp

_IMPORTED = ("lightning_ae.training.certify", "lightning_ae.models.vae", "torchmetrics")


def run(work: Callable[..., None], args: tuple[Any, ...], count: int) -> None:
    """Runs `work(index, *args)` in so many processes, and waits for them.

    They are forked from a server that has imported torch and Lightning once, which takes each process of its own many
    seconds, and that has computed nothing, so that no thread is lost in the fork. Ctrl-C is this process's to answer,
    which ends them.

    Raises:
        ProcessRaisedException: when one raises, with its traceback.
    """
    method = "forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn"
    if method == "forkserver":
        mp.get_context(method).set_forkserver_preload(list(_IMPORTED))
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main else None  # as the processes inherit it
    try:
        given = (dict(os.environ), work, args)
        context = mp.start_processes(_begin, given, nprocs=count, join=False, start_method=method)
    finally:
        if in_main:
            signal.signal(signal.SIGINT, before)
    try:
        while not context.join():
            pass
    except BaseException:
        for process in context.processes:
            process.terminate()
        raise


def _begin(index: int, environ: Mapping[str, str], work: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(environ)  # as they are now, and not when the server began
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever began the server
    work(index, *args)
