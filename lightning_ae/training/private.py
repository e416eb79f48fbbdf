"""Every private name of Lightning's and torch's that this package uses.

A release may take one away. So pyproject.toml bounds the versions, and a test looks each name up in those installed.
Where one that the lean loop needs is missing at run time, Lightning's own loop runs, and says so.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.utils.data import BatchSampler, DataLoader

LOOP = (
    "_logger_connector.on_batch_end",
    "_logger_connector.on_batch_start",
    "_logger_connector.update_train_step_metrics",
    "fit_loop.epoch_loop._broadcast_sigterm_tensor",
    "fit_loop.epoch_loop._build_kwargs",
    "fit_loop.epoch_loop._num_ready_batches_reached",
    "fit_loop.epoch_loop.advance",
    "fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.increment_completed",
    "fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.increment_ready",
    "fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.zero_grad.increment_completed",
    "fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.zero_grad.increment_ready",
    "fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.zero_grad.increment_started",
    "fit_loop.epoch_loop.automatic_optimization.run",
    "fit_loop.epoch_loop.batch_idx",
    "fit_loop.epoch_loop.batch_progress.increment_by",
    "fit_loop.epoch_loop.batch_progress.increment_completed",
    "fit_loop.epoch_loop.batch_progress.increment_processed",
    "fit_loop.epoch_loop.batch_progress.increment_ready",
    "fit_loop.epoch_loop.batch_progress.increment_started",
    "fit_loop.epoch_loop.batch_progress.is_last_batch",
    "fit_loop.epoch_loop.manual_optimization.run",
    "fit_loop.epoch_loop.restarting",
    "fit_loop.epoch_loop.update_lr_schedulers",
    "fit_loop.epoch_loop.val_loop.restarting",
    "lightning_module._current_fx_name",
    "precision_plugin._clip_gradients",
    "strategy._lightning_optimizers",
)
"""What the lean loop needs of a trainer."""

RESUME = (
    "_logger_connector._callback_metrics",
    "fit_loop._data_fetcher",
    "fit_loop._load_combined_loader_states",
    "fit_loop._restart_stage",
    "fit_loop._restarting",
    "fit_loop.epoch_loop._batches_that_stepped",
    "fit_loop.epoch_loop._restart_stage",
    "fit_loop.epoch_loop._should_accumulate",
    "fit_loop.epoch_loop._should_check_val_fx",
    "fit_loop.epoch_loop.val_loop._restart_stage",
)
"""What going on inside an epoch needs of one."""

ELSEWHERE = (
    "lightning_module._trainer",  # of a module that may have none
    "_accelerator_connector.cluster_environment",  # without it, nobody requeues
    "_logger_connector.should_update_logs",  # without it, every step is logged
    "fit_loop.epoch_loop.batch_progress.current.ready",  # how far in an epoch the data module is
    "fit_loop.epoch_progress.current.processed",
)
"""What other parts need of one."""

AVERAGING = ("_average_model", "_swap_models")
"""What an average of the weights needs of the callback that takes it."""

CLI = ("cli.LightningCLI._get",)
"""What the command line needs of Lightning."""

TORCH = (
    "nn.Module._call_impl",
    "nn.Module._apply",
    "nn.BatchNorm1d._check_input_dim",
    "nn.modules.batchnorm._BatchNorm",
    "_dynamo.exc.TorchDynamoException",
)
"""What they need of torch."""

MODULE = ("_buffers", "_modules", "_parameters")
"""What they need of a module of torch's."""

CSV_WRITER = ("_record_new_keys", "_rewrite_with_new_header")
"""What the writer of metrics.csv replaces or calls."""


def _found(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(f"pytorch_lightning.loops.{module}"), name)
    except (ImportError, AttributeError):
        return None


EpochLoop = _found("training_epoch_loop", "_TrainingEpochLoop")
Fetcher = _found("fetchers", "_PrefetchDataFetcher")
Closure = _found("optimization.automatic", "Closure")
ClosureResult = _found("optimization.automatic", "ClosureResult")
FitRestart = _found("fit_loop", "RestartStage")
EpochRestart = _found("training_epoch_loop", "RestartStage")
EvaluationRestart = _found("evaluation_loop", "RestartStage")


def missing(trainer: Any) -> list[str]:
    """What the lean loop needs, and this version of Lightning has no longer."""
    classes = {
        "_TrainingEpochLoop": EpochLoop,
        "_PrefetchDataFetcher": Fetcher,
        "Closure": Closure,
        "ClosureResult": ClosureResult,
    }
    return [*(name for name, found in classes.items() if found is None), *absent(trainer, LOOP)]


def missing_to_resume(trainer: Any) -> list[str]:
    """The names among `RESUME` that this version of Lightning has no longer."""
    stages = {"fit_loop": FitRestart, "training_epoch_loop": EpochRestart, "evaluation_loop": EvaluationRestart}
    return [*(f"{name}.RestartStage" for name, found in stages.items() if found is None), *absent(trainer, RESUME)]


def absent(root: Any, names: tuple[str, ...]) -> list[str]:
    """Those of the names, with dots between them, that cannot be looked up."""
    found = []
    for name in names:
        try:
            attrgetter(name)(root)
        except AttributeError:
            found.append(name)
    return found


def trainer_of(module: pl.LightningModule) -> Any:
    """The module's trainer, or None: the public property raises where there is none."""
    return getattr(module, "_trainer", None)


def cluster_environment(trainer: pl.Trainer) -> Any:
    """Where the trainer's processes were started, SLURM say, or None."""
    return getattr(getattr(trainer, "_accelerator_connector", None), "cluster_environment", None)


def logs_now(trainer: pl.Trainer) -> bool:
    """Whether the trainer logs the step at hand: it counts batches with a step, not steps of optimizers."""
    connector = getattr(trainer, "_logger_connector", None)
    return bool(getattr(connector, "should_update_logs", trainer.log_every_n_steps != 0))  # type: ignore[attr-defined]


def unscales_nothing(optimizer: torch.optim.Optimizer) -> None:
    """Says that a fused optimizer takes gradients as they are, so that Lightning clips them; a scaler unscales first.

    Lightning refuses to clip under mixed precision what the optimizer's own kernel might have to unscale yet.
    """
    flags: Any = optimizer
    flags._step_supports_amp_scaling = False


def find_unused_parameters(trainer: pl.Trainer, on: bool) -> bool:
    """Makes DistributedDataParallel look for weights that a loss does not use, or no longer.

    Returns:
        Whether anything changed: where the strategy is another one, or says what it wants, it stays as it is.
    """
    options = getattr(trainer.strategy, "_ddp_kwargs", None)
    if not isinstance(trainer.strategy, DDPStrategy) or not isinstance(options, dict):
        return False
    if on and not options.keys() & {"find_unused_parameters", "static_graph"}:
        options["find_unused_parameters"] = True
        return True
    return not on and options.pop("find_unused_parameters", None) is not None


def compiler_error() -> type[Exception]:
    """What torch.compile raises; looked up where it is needed, since importing it takes long."""
    error: type[Exception] = torch._dynamo.exc.TorchDynamoException
    return error


def compiled_by(network: nn.Module, call: Any) -> None:
    """Puts what runs a network where `nn.Module.compile` does; copies and checkpoints leave it out."""
    network._compiled_call_impl = call


@contextmanager
def uncompiled(network: nn.Module) -> Iterator[None]:
    """Inside, a network runs as it is, compiled or not."""
    call, network._compiled_call_impl = network._compiled_call_impl, None
    try:
        yield
    finally:
        network._compiled_call_impl = call


def restore_loaders() -> None:
    """Takes off what Lightning wraps around the constructors of loaders and samplers while a hook makes them.

    Where the hook ends in an exception it leaves that on, and a later fit of the same process wraps them once more.
    """
    for base in (DataLoader, BatchSampler):
        for cls in (base, *_subclasses(base)):
            for name in ("__setattr__", "__delattr__", "__init__"):
                if f"__old{name}" in vars(cls):
                    setattr(cls, name, vars(cls)[f"__old{name}"])
                    delattr(cls, f"__old{name}")


def _subclasses(cls: type) -> list[type]:
    own: list[type] = cls.__subclasses__()
    return own + [found for each in own for found in _subclasses(each)]
