"""Ending a run on SIGTERM or Ctrl-C, with a checkpoint from which it goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from lightning_ae.training.private import cluster_environment

NAME = "preempted.ckpt"
STATUS = 128 + signal.SIGTERM
PASSED_ON = 0.5
"""Seconds in which a second Ctrl-C is the first one, which both a terminal and a launcher pass on."""


class Preemption(pl.Callback):
    """Writes `preempted.ckpt` beside the run's other checkpoints after the step in which a signal comes, and ends.

    Any rank may get SIGTERM or SIGINT (Ctrl-C); all end after the same step, the next but one at the latest. On
    SIGTERM the process ends with status 143; Ctrl-C is to the caller what it is in Lightning, and a second one ends at
    once, without a checkpoint. In a validation of several ranks the signal waits for the next step of training; of one
    process the validation ends, too, and is made from its start where the run goes on. Under SLURM with Lightning's
    own requeueing (`SLURMEnvironment(auto_requeue=True)`), SIGTERM is left to that; where a program has its own answer
    to Ctrl-C, that stays.

    Every model has this callback from `configure_callbacks`.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        """The checkpoint, where the last run ended so."""
        self._asked = 0
        self._asked_at = 0.0
        self._previous: dict[int, Any] = {}
        self._group: Any = None
        self._pending: tuple[Any, Tensor] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self._asked, self._pending, self.path = 0, None, None
        if threading.current_thread() is threading.main_thread():
            environment = cluster_environment(trainer)
            if not (isinstance(environment, SLURMEnvironment) and environment.auto_requeue):
                self._answer(signal.SIGTERM)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                self._answer(signal.SIGINT)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            # on the CPU whatever the device, so that nobody waits for an accelerator
            self._group = dist.new_group(backend="gloo")

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:  # noqa: D102
        if asked := self._agreed():
            self._end(trainer, asked)

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:  # noqa: D102
        if self._asked and self._group is None and not trainer.sanity_checking:
            self._end(trainer, self._asked)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        if self._pending is not None:
            self._pending[0].wait()
        if self._group is not None:
            dist.destroy_process_group(self._group)
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:  # noqa: D102
        self._restore()

    def _answer(self, number: int) -> None:
        self._previous[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self._asked and now - self._asked_at > PASSED_ON:
            raise KeyboardInterrupt
        if not self._asked and number == signal.SIGINT and getattr(rank_zero_only, "rank", 0) == 0:
            # print and logging must not be entered twice, as they would be here while they are at work
            os.write(2, b"\nCtrl-C: the run writes a checkpoint after this step, and ends; once more ends it at once\n")
        if not self._asked:
            self._asked_at = now
        self._asked = max(self._asked, number)

    def _agreed(self) -> int:
        """The signal that some rank had got by the end of the last step, or 0: what came then arrived meanwhile."""
        if self._group is None:
            return self._asked
        agreed = 0
        if self._pending is not None:
            work, flag = self._pending
            work.wait()
            agreed = int(flag)
        flag = torch.tensor(self._asked)
        self._pending = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group, async_op=True), flag
        return agreed

    def _end(self, trainer: pl.Trainer, number: int) -> None:
        path = Path(_folder(trainer)) / NAME
        trainer.save_checkpoint(path, weights_only=False)
        self.path = path
        name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        rank_zero_info(f"{name}: the run stops here; it goes on with ckpt_path={str(path)!r}")
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SIGTERMException(STATUS)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            if signal.getsignal(number) == self._ask:  # Lightning ignores Ctrl-C while it ends a run
                signal.signal(number, handler)
        self._previous = {}
        self._group = self._pending = None


def _folder(trainer: pl.Trainer) -> Any:
    callback = trainer.checkpoint_callback
    return getattr(callback, "dirpath", None) or trainer.default_root_dir
