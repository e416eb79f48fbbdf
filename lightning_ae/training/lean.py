"""A leaner path through Lightning's training step.

Lightning's loop calls some forty hooks in each step, most of them empty; for a small network that takes as long as a
part of the backward pass. Here a step calls those hooks only that somebody has overridden, in Lightning's own order.
What is not plainly ours (another module, several ranks, a step, an optimizer or a transfer with a way of its own,
accumulation, a gradient scaler, a profiler, a batch of None) takes Lightning's path: each step looks anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.plugins.precision import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from lightning_ae.training import private
from lightning_ae.training.preemption import Preemption

HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
STEPS = ("backward", "configure_gradient_clipping", "optimizer_step", "optimizer_zero_grad")
PRECISIONS = (Precision, MixedPrecision, DoublePrecision, HalfPrecision)
# set on an instance, these would change the step
OF_STRATEGY = frozenset(
    {"backward", "batch_to_device", "on_train_batch_start", "optimizer_step", "post_backward", "post_training_step"}
    | {"pre_backward", "training_step"}
)
OF_PRECISION = frozenset(
    {"backward", "clip_gradients", "optimizer_step", "post_backward", "pre_backward", "_after_closure", "_wrap_closure"}
)


def use_lean_loop(trainer: pl.Trainer) -> None:
    """Makes the trainer take the lean path for its module, wherever it may."""
    if missing := private.missing(trainer):
        rank_zero_info(f"Lightning's own loop runs, since version {pl.__version__} lacks {', '.join(missing)}")
        return
    use_lightnings_loop(trainer)
    loop: Any = trainer.fit_loop.epoch_loop
    if type(loop) is private.EpochLoop and "advance" not in vars(loop):  # or it is a loop of one's own
        step = LeanStep(trainer)
        loop.advance, loop._broadcast_sigterm_tensor = step, step.broadcast_sigterm


def use_lightnings_loop(trainer: pl.Trainer) -> None:
    """Takes the lean path away again, where there is one."""
    own = vars(getattr(trainer.fit_loop, "epoch_loop", trainer))
    if isinstance(own.get("advance"), LeanStep):
        del own["advance"], own["_broadcast_sigterm_tensor"]


class LeanStep:
    """What a training epoch's loop does for a batch, without the calls of hooks that do nothing.

    It stands on the loop as its `advance`, and acts for the module that the trainer had at the time.
    """

    def __init__(self, trainer: Any) -> None:
        from lightning_ae.training.module import ExactModule  # which makes the trainer lean

        self.trainer, self.module, self.loop = trainer, trainer.lightning_module, trainer.fit_loop.epoch_loop
        self.training_step = ExactModule.training_step

    def broadcast_sigterm(self) -> None:
        """Lightning's way makes every step wait for the first rank; `Preemption` does without."""
        if self.trainer.lightning_module is not self.module or not any(
            isinstance(callback, Preemption) for callback in self.trainer.callbacks
        ):
            type(self.loop)._broadcast_sigterm_tensor(self.loop)

    def __call__(self, fetcher: Any) -> None:
        """One step."""
        trainer, module, loop = self.trainer, self.module, self.loop
        if loop.restarting or not self._fetches_plainly(fetcher):
            type(loop).advance(loop, fetcher)
            return
        fetched = next(fetcher)
        if fetched[0] is None:
            type(loop).advance(loop, _Fetched(fetched, fetcher.done))
            return
        progress, connector = loop.batch_progress, trainer._logger_connector

        loop.val_loop.restarting = False
        batch_idx = loop.batch_idx + 1
        progress.is_last_batch = fetcher.done
        batch = self._to_device(trainer.precision_plugin.convert_input(fetched[0]))
        progress.increment_ready()
        connector.on_batch_start(batch)
        output = None
        if skips := self._hook("on_train_batch_start", batch, batch_idx) == -1:
            progress.increment_by(0, is_last_batch=True)
        else:
            progress.increment_started()
            if self._steps_plainly():
                output = self._step(batch, batch_idx)
            else:
                kwargs = loop._build_kwargs(OrderedDict(), batch, batch_idx)
                with trainer.profiler.profile("run_training_batch"):
                    if module.automatic_optimization:
                        output = loop.automatic_optimization.run(trainer.optimizers[0], batch_idx, kwargs)
                    else:
                        output = loop.manual_optimization.run(kwargs)
        progress.increment_processed()
        if trainer.lr_scheduler_configs:
            loop.update_lr_schedulers("step", update_plateau_schedulers=False)
            if loop._num_ready_batches_reached():
                loop.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        if skips:
            raise StopIteration
        self._hook("on_train_batch_end", output, batch, batch_idx)
        connector.on_batch_end()
        progress.increment_completed()
        connector.update_train_step_metrics()

    def _step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """The optimizer's step, which runs forward and backward pass by a closure, as Lightning has it."""
        trainer, module = self.trainer, self.module
        optimizer, precision = trainer.optimizers[0], trainer.precision_plugin
        counts = self.loop.automatic_optimization.optim_progress.optimizer

        def forward() -> Any:
            # set as nn.Module would not: its way of setting an attribute takes as long as a small kernel
            own = vars(module)
            before, own["_current_fx_name"] = own["_current_fx_name"], "training_step"
            with precision.train_step_context():
                output = module.training_step(batch, batch_idx)
            own["_current_fx_name"] = before
            return private.ClosureResult.from_training_step_output(output)

        def zero_grad() -> None:
            counts.zero_grad.increment_ready()
            self._hook("on_before_zero_grad", optimizer)
            counts.zero_grad.increment_started()
            module.optimizer_zero_grad(trainer.current_epoch, batch_idx, optimizer)
            counts.zero_grad.increment_completed()

        def backward(loss: Tensor) -> None:
            self._hook("on_before_backward", loss)
            module.backward(loss)
            self._hook("on_after_backward")

        closure = private.Closure(forward, backward, zero_grad)

        def whole() -> Tensor | None:
            loss: Tensor | None = closure()
            self._hook("on_before_optimizer_step", optimizer)
            if clip := trainer.gradient_clip_val:
                algorithm = trainer.gradient_clip_algorithm
                precision._clip_gradients(module, optimizer, clip, gradient_clip_algorithm=algorithm)
            return loss

        counts.step.increment_ready()
        optimizer.step(closure=whole)
        counts.step.increment_completed()
        result = closure.consume_result()
        return {} if result.loss is None else result.asdict()

    def _hook(self, name: str, *args: Any) -> Any:
        trainer, module = self.trainer, self.module
        empty = _EMPTY[name]
        own = vars(module)
        for callback in trainer.callbacks:
            hook = getattr(callback, name)
            # of the class or of the instance: a patched method, or what LambdaCallback sets
            if getattr(hook, "__func__", None) is not empty[0] and callable(hook):
                before, own["_current_fx_name"] = own["_current_fx_name"], name
                hook(trainer, module, *args)
                own["_current_fx_name"] = before
        hook = getattr(module, name)
        if getattr(hook, "__func__", None) is empty[1] or not callable(hook):
            return None
        before, own["_current_fx_name"] = own["_current_fx_name"], name
        response = hook(*args)
        own["_current_fx_name"] = before
        return response

    def _to_device(self, batch: Any) -> Any:
        strategy, data = self.trainer.strategy, self.trainer.datamodule
        # what is there already needs no transfer, only what the data module makes of it
        if (
            data is not None
            and _lies_on(batch, strategy.root_device)
            and _is(data, _TRANSFER_OF_DATA)
            and _is(self.module, _TRANSFERS)
        ):
            return data.on_after_batch_transfer(batch, 0)
        return strategy.batch_to_device(batch, dataloader_idx=0)

    def _fetches_plainly(self, fetcher: Any) -> bool:
        """Whether this is our module's batch, and nobody has a way of their own to get it onto the device."""
        trainer, strategy, data = self.trainer, self.trainer.strategy, self.trainer.datamodule
        return (
            trainer.lightning_module is self.module
            and type(self.loop) is private.EpochLoop
            and type(fetcher) is private.Fetcher
            and type(trainer.profiler) is PassThroughProfiler
            and type(strategy) is SingleDeviceStrategy
            and OF_STRATEGY.isdisjoint(vars(strategy))
            and _is(self.module, _BEFORE_TRANSFER)
            and (data is None or _is(data, _BEFORE_TRANSFER_OF_DATA))
        )

    def _steps_plainly(self) -> bool:
        """Whether Lightning would make of the step what is made of it here: asked after the hooks that start it."""
        trainer, module, precision = self.trainer, self.module, self.trainer.precision_plugin
        return (
            getattr(module.training_step, "__func__", None) is self.training_step
            and module.automatic_optimization
            and trainer.accumulate_grad_batches == 1
            and len(trainer.optimizers) == 1
            and getattr(trainer.strategy._lightning_optimizers[0].step, "__func__", None) is _OPTIMIZER_STEP
            and type(trainer.profiler) is PassThroughProfiler
            and type(precision) in PRECISIONS
            and getattr(precision, "scaler", None) is None
            and OF_PRECISION.isdisjoint(vars(precision))
            and OF_STRATEGY.isdisjoint(vars(trainer.strategy))
            and _is(module, _STEPS)
        )


class _Fetched:
    """A fetcher of the one batch that had been fetched before it was known to be Lightning's."""

    def __init__(self, fetched: Any, done: bool) -> None:
        self.fetched, self.done = fetched, done

    def __next__(self) -> Any:
        return self.fetched


def _functions(base: type, *names: str) -> tuple[tuple[str, Callable[..., Any]], ...]:
    return tuple((name, getattr(base, name)) for name in names)


# as they are when this is imported, so that whoever patches them later is heard
_EMPTY = {name: (getattr(pl.Callback, name), getattr(pl.LightningModule, name)) for name in HOOKS}
_STEPS = _functions(pl.LightningModule, *STEPS)
_BEFORE_TRANSFER = _functions(pl.LightningModule, "on_before_batch_transfer")
_BEFORE_TRANSFER_OF_DATA = _functions(pl.LightningDataModule, "on_before_batch_transfer")
_TRANSFERS = _functions(pl.LightningModule, "transfer_batch_to_device", "on_after_batch_transfer")
_TRANSFER_OF_DATA = _functions(pl.LightningDataModule, "transfer_batch_to_device")
_OPTIMIZER_STEP = LightningOptimizer.step


def _is(instance: Any, functions: tuple[tuple[str, Callable[..., Any]], ...]) -> bool:
    for name, function in functions:  # noqa: SIM110  a generator would take twice as long
        if getattr(getattr(instance, name), "__func__", None) is not function:
            return False
    return True


def _lies_on(batch: Any, device: torch.device) -> bool:
    return isinstance(batch, dict) and all(isinstance(v, Tensor) and v.device == device for v in batch.values())
