"""Going on where a run stopped, wherever in an epoch that was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from lightning_ae.exact.collectives import group, world_size
from lightning_ae.training.private import EpochRestart, EvaluationRestart, FitRestart, missing_to_resume

KEY = "resumption"


class Resumption(pl.Callback):
    """Makes a run that stopped inside an epoch go on there, bit for bit, however it stopped.

    Lightning counts an epoch that `max_steps`, `max_time` or `should_stop` cut short as a whole one; after a
    checkpoint written at the end of a training batch it leaves out the validation that was due; and it never updates
    a ReduceLROnPlateau in the epoch in which a run goes on. Here what a checkpoint has counted is read as a
    `Position`, and what was left to do there is done.

    A checkpoint also holds the logged metrics, which such a scheduler asks for, and in the middle of an accumulation
    the gradients so far.

    Every model has this callback from `configure_callbacks`.
    """

    def __init__(self) -> None:
        self._position: Position | None = None
        self._saved: dict[str, Any] = {}
        self._closes_epoch = False

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: D102
        metrics = {name: value for name, value in trainer.callback_metrics.items() if isinstance(value, Tensor)}
        position = Position.of(checkpoint["loops"]["fit_loop"])
        batch = trainer.fit_loop.epoch_loop.batch_progress.current
        if batch.started > batch.processed == position.batches and any(True for _ in pl_module.buffers()):
            rank_zero_warn(
                "the checkpoint is written in the middle of a step: a run goes on from it with that batch, but the "
                "model's buffers (batch statistics, say) may have seen it already"
            )
        checkpoint[KEY] = {
            "metrics": {name: value.detach().cpu() for name, value in metrics.items()},
            "gradients": _gradients(trainer, pl_module, position),
        }

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: D102
        loops = checkpoint.get("loops")
        if trainer.state.fn != "fit" or loops is None:
            return
        if lacking := missing_to_resume(trainer):
            rank_zero_warn(
                f"this version of Lightning has no {', '.join(lacking)}: the run goes on as Lightning makes it, which "
                "inside an epoch may repeat or leave out batches"
            )
            return
        self._saved = checkpoint.get(KEY, {"metrics": {}, "gradients": None})
        self._position = Position.of(loops["fit_loop"])
        self._position.write(loops["fit_loop"])

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        self._closes_epoch = False
        if self._position is None:
            return
        trainer._logger_connector._callback_metrics.update(
            {name: value.to(pl_module.device) for name, value in self._saved["metrics"].items()}
        )
        if self._saved["gradients"] is not None:
            _take_up(pl_module, self._saved["gradients"])
        # a loader that was made before the loops were restored, to count a schedule's steps, has not heard of it
        trainer.fit_loop._load_combined_loader_states()
        self._closes_epoch = self._position.take_up(trainer)
        self._position, self._saved = None, {}

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        if self._closes_epoch:  # its last step, which logs them otherwise, lies before the checkpoint
            pl_module._log_epoch()
        self._closes_epoch = False


@dataclass(frozen=True)
class Position:
    """Where a run is.

    Args:
        epoch: how many epochs are behind it.
        batches: how many batches of the next one, too.
        whole: whether these are all of that epoch.
        left: what is still to be done before another batch: "validate" where that is due, and then what follows;
            the "rest" of the step after the validation; the schedulers of a whole "epoch"; or nothing.
    """

    epoch: int
    batches: int
    whole: bool
    left: Literal["validate", "rest", "epoch", "nothing"]

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Position:
        """Reads the state of Lightning's fit loop, of any moment."""
        epoch = state["epoch_progress"]["current"]
        progress = state["epoch_loop.batch_progress"]
        batch, batches = progress["current"], progress["current"]["processed"]
        whole = progress["is_last_batch"] and batch["ready"] == batches
        completed: int = epoch["completed"]
        if epoch["processed"] == epoch["started"]:  # at the end of an epoch, or between two
            if whole and epoch["completed"] == epoch["processed"]:
                return cls(completed, 0, False, "nothing")
            if epoch["processed"] == 0:
                return cls(0, 0, False, "nothing")
            return cls(epoch["processed"] - 1, batches, whole, "epoch" if whole else "nothing")
        if batch["ready"] > batches or batches == 0:  # in the next step
            return cls(epoch["processed"], batches, False, "nothing")
        validation = state["epoch_loop.val_loop.batch_progress"]
        validated = (
            batch["completed"] == batches
            and validation["is_last_batch"]
            and validation["current"]["completed"] == validation["current"]["ready"]
        )
        return cls(epoch["processed"], batches, whole, "rest" if validated else "validate")

    def write(self, state: dict[str, Any]) -> None:
        """Makes the state of Lightning's fit loop that of this position, so that nothing in it is in between."""
        inside = int(self.batches > 0)
        for part in ("current", "total"):
            epoch = state["epoch_progress"][part]
            started = self.epoch + inside
            epoch |= {"ready": started, "started": started, "processed": self.epoch, "completed": self.epoch}
            batch = state["epoch_loop.batch_progress"][part]
            batch |= dict.fromkeys(("ready", "started", "completed"), batch["processed"])
        # as Lightning has it before the first epoch and between two: a Tuner runs a loop that is restored so
        state["epoch_loop.batch_progress"]["is_last_batch"] = self.whole or (not inside and self.epoch > 0)
        for loader in state["state_dict"].get("combined_loader", []):
            if isinstance(loader, dict) and {"batch", "batch_size", "seed"} <= loader.keys():  # of this package
                loader["batch"] = 0 if self.whole else self.batches

    def take_up(self, trainer: pl.Trainer) -> bool:
        """Makes the loops of a trainer, about to start, go on here; whether they are to end an epoch's last step."""
        loop: Any = trainer.fit_loop
        steps = loop.epoch_loop
        loop._restarting = steps.val_loop.restarting = False
        if self.batches and self.left == "epoch":
            loop.epoch_progress.current.completed = self.epoch
            steps.update_lr_schedulers("epoch", update_plateau_schedulers=True)
        if not self.batches or self.left == "epoch":
            for progress in (loop.epoch_progress.current, loop.epoch_progress.total):
                epoch = self.epoch + int(self.left == "epoch")
                progress.ready = progress.started = progress.processed = progress.completed = epoch
            loop._restart_stage = FitRestart.NONE
            steps.restarting = False
            steps._restart_stage = EpochRestart.NONE
            return False

        whole = self.whole or self.batches >= trainer.num_training_batches
        steps.batch_progress.is_last_batch = whole
        counted = trainer.global_step if trainer.lightning_module.automatic_optimization else self._total(steps)
        # the loop will count this step as one that its logs have not counted yet
        steps._batches_that_stepped = counted - int(not steps._should_accumulate())
        steps._restart_stage = EpochRestart.RESTARTED_ON_LAST
        due = self.left != "nothing" and steps._should_check_val_fx(loop._data_fetcher)
        if due and self.left == "validate":
            steps.val_loop._restart_stage = EvaluationRestart.RESTARTED_MID_EVALUATION  # which it does from the start
        elif not due:
            if self.left != "nothing":
                steps.update_lr_schedulers("step", update_plateau_schedulers=True)
            steps._restart_stage = EpochRestart.NONE
            if whole:  # no batch is left to this epoch, though the loader may have one of the next
                steps._batches_that_stepped = counted
                loop._data_fetcher.iterator, loop._data_fetcher.batches = iter(()), []
        return whole

    def _total(self, steps: Any) -> int:
        total: int = steps.batch_progress.total.processed
        return total


def of_all_ranks(own: Any) -> list[Any]:
    """What each rank gives, in the order of ranks. All of them must call it, as they must to save a checkpoint."""
    if not (dist.is_available() and dist.is_initialized()):
        return [own]
    ranks: list[Any] = [None] * world_size()
    dist.all_gather_object(ranks, own, group=group())
    return ranks


def _gradients(trainer: Any, module: pl.LightningModule, position: Position) -> list[dict[str, Tensor]] | None:
    """What each rank has accumulated for a step that is not complete yet."""
    accumulated = position.batches % trainer.accumulate_grad_batches
    if not accumulated or position.whole:
        return None
    batch = trainer.fit_loop.epoch_loop.batch_progress.current
    if getattr(module, "device_mesh", None) is not None or batch.started > batch.processed:
        rank_zero_warn(
            "the checkpoint is written in the middle of an accumulation, whose gradients cannot be kept here: a run "
            "that goes on from it makes one step with fewer batches"
        )
        return None
    return of_all_ranks({name: p.grad.detach().cpu() for name, p in module.named_parameters() if p.grad is not None})


def _take_up(module: pl.LightningModule, ranks: list[dict[str, Tensor]]) -> None:
    world = module.trainer.world_size
    for name, parameter in module.named_parameters():
        found = [gradients[name] for gradients in ranks if name in gradients]
        if found:  # on another number of ranks, of whose gradients the mean is taken: the mean of these
            gradient = found[module.global_rank] if len(found) == world else sum(found[1:], found[0]) / len(ranks)
            parameter.grad = gradient.to(parameter)
