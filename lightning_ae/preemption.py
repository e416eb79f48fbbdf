"""Ending a run on SIGTERM, with a checkpoint from which it goes on as if nothing had happened."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from lightning_ae.private import cluster_environment

NAME = "preempted.ckpt"
STATUS = 128 + signal.SIGTERM


class Preemption(pl.Callback):
    """Writes `preempted.ckpt` beside the run's other checkpoints after the step in which SIGTERM comes, and ends.

    Any rank may get the signal; all end after the same step, the next but one at the latest. The process ends with
    status 143. Outside of training steps, in a validation say, the signal waits for the next of them. Under SLURM with
    Lightning's own requeueing (`SLURMEnvironment(auto_requeue=True)`), SIGTERM is left to that.

    Every model has this callback from `configure_callbacks`.
    """

    def __init__(self) -> None:
        self._asked = False
        self._previous: Any = None
        self._group: Any = None
        self._pending: tuple[Any, Tensor] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self._asked, self._pending = False, None
        environment = cluster_environment(trainer)
        requeues = isinstance(environment, SLURMEnvironment) and environment.auto_requeue
        if not requeues and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._ask)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            # on the CPU whatever the device, so that nobody waits for an accelerator
            self._group = dist.new_group(backend="gloo")

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:  # noqa: D102
        if not self._agreed():
            return
        path = Path(_folder(trainer)) / NAME
        trainer.save_checkpoint(path, weights_only=False)
        rank_zero_info(f"SIGTERM: the run stops here; it goes on with ckpt_path={str(path)!r}")
        raise SIGTERMException(STATUS)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        if self._pending is not None:
            self._pending[0].wait()
        if self._group is not None:
            dist.destroy_process_group(self._group)
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:  # noqa: D102
        self._restore()

    def _ask(self, signum: int, frame: Any) -> None:
        self._asked = True

    def _agreed(self) -> bool:
        """Whether some rank had been asked by the end of the last step: what was sent then arrived meanwhile."""
        if self._group is None:
            return self._asked
        stop = False
        if self._pending is not None:
            work, flag = self._pending
            work.wait()
            stop = bool(flag.item())
        flag = torch.tensor(int(self._asked))
        self._pending = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group, async_op=True), flag
        return stop

    def _restore(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
        self._previous = self._group = self._pending = None


def _folder(trainer: pl.Trainer) -> Any:
    callback = trainer.checkpoint_callback
    return getattr(callback, "dirpath", None) or trainer.default_root_dir
