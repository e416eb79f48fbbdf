"""A leaner path through Lightning's training step.

Lightning's loop calls some forty hooks in each step, most of them empty; for a small network that takes as long as a
part of the backward pass. Here a step calls those hooks only that somebody has overridden, in Lightning's own order.
Whatever is out of the ordinary (several ranks, accumulation, a gradient scaler, a profiler, a strategy or a precision
with a step of its own, a module that overrides the optimizer's step) takes Lightning's path.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loops.optimization.automatic import ClosureResult
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.trainer import call
from torch import Tensor

from lightning_ae.preemption import Preemption

STEPS_OF_ITS_OWN = (
    "backward",
    "optimizer_step",
    "optimizer_zero_grad",
    "configure_gradient_clipping",
    "lr_scheduler_step",
    "on_before_batch_transfer",
)
TRANSFERS = ("transfer_batch_to_device", "on_after_batch_transfer")
HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


def use_lean_loop(trainer: pl.Trainer) -> None:
    """Makes the trainer take the lean path wherever it may."""
    loop = trainer.fit_loop.epoch_loop
    if type(loop) is _TrainingEpochLoop:
        loop.__class__ = LeanEpochLoop  # it keeps what it has counted, and its evaluation loop


class LeanEpochLoop(_TrainingEpochLoop):
    """Lightning's epoch of training, without the calls of hooks that do nothing."""

    _overridden: set[tuple[str, str]] | None = None
    _plain_transfer = False

    def on_run_start(self, data_fetcher: Any) -> None:
        """Finds out, once an epoch, which hooks there are."""
        super().on_run_start(data_fetcher)
        trainer: Any = self.trainer
        self._overridden = _overridden_hooks(trainer) if _is_plain(trainer) else None
        self._plain_transfer = not any(
            _overrides(trainer.lightning_module, pl.LightningModule, name) for name in TRANSFERS
        ) and not _overrides(trainer.datamodule, pl.LightningDataModule, TRANSFERS[0])

    def _broadcast_sigterm_tensor(self) -> None:
        # Lightning's way makes every step wait for the first rank
        if not any(isinstance(callback, Preemption) for callback in self.trainer.callbacks):  # type: ignore[attr-defined]
            super()._broadcast_sigterm_tensor()

    def advance(self, data_fetcher: Any) -> None:
        """One step."""
        if self._overridden is None or self.restarting:
            super().advance(data_fetcher)
            return
        trainer: Any = self.trainer
        module = trainer.lightning_module
        optimizer = trainer.optimizers[0]
        precision = trainer.precision_plugin
        optimization = self.automatic_optimization.optim_progress.optimizer

        self.val_loop.restarting = False
        batch, _, _ = next(data_fetcher)
        batch_idx = self.batch_idx + 1
        self.batch_progress.is_last_batch = data_fetcher.done
        batch = self._to_device(precision.convert_input(batch))
        self.batch_progress.increment_ready()
        trainer._logger_connector.on_batch_start(batch)
        if self._hook("on_train_batch_start", batch, batch_idx) == -1:
            self.batch_progress.increment_by(0, is_last_batch=True)
            self.batch_progress.increment_processed()
            self._step_schedulers()
            raise StopIteration
        self.batch_progress.increment_started()

        optimization.step.increment_ready()
        # set as nn.Module would not: its way of setting an attribute takes as long as a small kernel
        vars(module)["_current_fx_name"] = "training_step"
        with precision.train_step_context():
            output = module.training_step(batch, batch_idx)
        vars(module)["_current_fx_name"] = None
        result = ClosureResult.from_training_step_output(output)
        optimization.zero_grad.increment_ready()
        self._hook("on_before_zero_grad", optimizer)
        optimization.zero_grad.increment_started()
        optimizer.zero_grad()
        optimization.zero_grad.increment_completed()
        if result.closure_loss is not None:
            self._hook("on_before_backward", result.closure_loss)
            result.closure_loss.backward()
            self._hook("on_after_backward")
        self._hook("on_before_optimizer_step", optimizer)
        if trainer.gradient_clip_val:
            precision._clip_gradients(
                module, optimizer, trainer.gradient_clip_val, gradient_clip_algorithm=trainer.gradient_clip_algorithm
            )
        optimizer.step()
        optimization.step.increment_completed()

        self.batch_progress.increment_processed()
        self._step_schedulers()
        self._hook("on_train_batch_end", {} if result.loss is None else result.asdict(), batch, batch_idx)
        trainer._logger_connector.on_batch_end()
        self.batch_progress.increment_completed()
        trainer._logger_connector.update_train_step_metrics()

    def _step_schedulers(self) -> None:
        if self.trainer.lr_scheduler_configs:
            self.update_lr_schedulers("step", update_plateau_schedulers=False)
            if self._num_ready_batches_reached():
                self.update_lr_schedulers("epoch", update_plateau_schedulers=False)

    def _to_device(self, batch: Any) -> Any:
        trainer: Any = self.trainer
        strategy, data = trainer.strategy, trainer.datamodule
        # what is there already needs no transfer, only what the data module makes of it
        if data is None or not self._plain_transfer or not _lies_on(batch, strategy.root_device):
            return strategy.batch_to_device(batch, dataloader_idx=0)
        return data.on_after_batch_transfer(batch, 0)

    def _hook(self, name: str, *args: Any) -> Any:
        overridden = self._overridden or set()
        if ("callback", name) in overridden:
            call._call_callback_hooks(self.trainer, name, *args)
        if ("module", name) in overridden:
            return call._call_lightning_module_hook(self.trainer, name, *args)
        return None


def _is_plain(trainer: Any) -> bool:
    """Whether a step here is what Lightning would make of it."""
    module, precision = trainer.lightning_module, trainer.precision_plugin
    return (
        type(trainer.strategy) is SingleDeviceStrategy
        and isinstance(trainer.profiler, PassThroughProfiler)
        and trainer.accumulate_grad_batches == 1
        and len(trainer.optimizers) == 1
        and module.automatic_optimization
        and getattr(precision, "scaler", None) is None
        and all(
            getattr(type(precision), name) in (getattr(Precision, name), getattr(MixedPrecision, name))
            for name in ("pre_backward", "backward", "post_backward", "optimizer_step", "clip_gradients")
        )
        and not any(_overrides(module, pl.LightningModule, name) for name in STEPS_OF_ITS_OWN)
        and not _overrides(trainer.datamodule, pl.LightningDataModule, STEPS_OF_ITS_OWN[-1])
        and not hasattr(trainer.fit_loop._data_fetcher, "_batch")  # training_step(dataloader_iter)
    )


def _overridden_hooks(trainer: Any) -> set[tuple[str, str]]:
    found = {
        ("callback", name)
        for name in HOOKS
        if any(_overrides(callback, pl.Callback, name) for callback in trainer.callbacks)
    }
    return found | {
        ("module", name) for name in HOOKS if _overrides(trainer.lightning_module, pl.LightningModule, name)
    }


def _overrides(instance: Any, base: type, name: str) -> bool:
    if instance is None:
        return False
    # an attribute of the instance, too: a patched method, or what LambdaCallback sets
    return name in vars(instance) or getattr(type(instance), name) is not getattr(base, name)


def _lies_on(batch: Any, device: torch.device) -> bool:
    return isinstance(batch, dict) and all(isinstance(v, Tensor) and v.device == device for v in batch.values())
