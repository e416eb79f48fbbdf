"""An average of the weights, by Lightning's `WeightAveraging` and `EMAWeightAveraging`, made right for our modules.

Where a trainer has such a callback, what validates, is saved and is published is the average; training goes on from the
weights themselves, and a checkpoint holds both.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy
from torch import nn

from lightning_ae.errors import InputError


class Exactly(WeightAveraging):
    """What a trainer's averaging callback does otherwise here than in Lightning.

    - The average is in place until all callbacks have heard of a validation's end: measures and pictures that are taken
      then are of it, too.
    - Numbers and flags among the buffers are the model's own: an average of a count would be cut to a whole number.
    - Where a model has constraints, its average keeps them.
    - Before the first update the average is the weights, whatever has happened to them since the callback was set up.
    - A checkpoint holds the average as its weights, and the weights beside it, wherever it is written: in a validation,
      after the fit, or as weights alone. A later fit's validation does not get an earlier one's average.
    """

    _in_place = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: D102
        self._in_place, self._average_model = False, None
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:  # noqa: D102
        super().on_train_batch_end(trainer, pl_module, *args)
        self._correct(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: D102
        super().on_train_epoch_end(trainer, pl_module)
        self._correct(pl_module)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: D102
        self._follow(pl_module)
        super().on_validation_epoch_start(trainer, pl_module)
        self._in_place = self._average_model is not None

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Nothing yet: other callbacks measure and draw."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: D102
        if self._in_place:
            self._swap_models(pl_module)
        self._in_place = False

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: D102
        self._follow(pl_module)
        self._swap_models(pl_module)  # and not a copy, so that what is saved later has both
        self._in_place = True

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: D102
        self._follow(pl_module)
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._in_place and "current_model_state" in checkpoint:
            average, weights = checkpoint["current_model_state"], checkpoint["state_dict"]
            checkpoint |= {"state_dict": average, "current_model_state": weights}

    def _correct(self, module: Any) -> None:
        average: Any = self._average_model
        if average is None or not int(average.n_averaged):
            return
        for ours, theirs in zip(average.module.buffers(), module.buffers(), strict=True):
            if not ours.is_floating_point():
                ours.copy_(theirs)
        if hasattr(average.module, "constrain"):
            average.module.constrain()

    def _follow(self, module: nn.Module) -> None:
        average: Any = self._average_model
        if average is not None and not self._in_place and int(average.n_averaged) == 0:
            average.module.load_state_dict(module.state_dict())


def use_exact_averaging(trainer: Any, plain: bool) -> None:
    """Makes a trainer's averaging callback, where it has one, work for our modules.

    Args:
        trainer: a trainer, or None.
        plain: whether the module's `configure_model` is ours, of which Lightning need not warn: it shards alone.

    Raises:
        InputError: when there are several, or weights are sharded, whose average would be each rank's own part.
    """
    found = averagings(trainer)
    if len(found) > 1:
        raise InputError(
            f"the trainer has {len(found)} callbacks that average the weights, {', '.join(map(_name, found))}",
            "leave one: a checkpoint holds one average",
        )
    for callback in found:
        if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
            raise InputError(
                f"{_name(callback)} cannot average weights that {type(trainer.strategy).__name__} shards",
                "leave it out, or use strategy='ddp'",
            )
        if plain:
            warnings.filterwarnings("ignore", message=".*WeightAveraging callback with a model that overrides the conf")
        cls = type(callback)
        if not isinstance(callback, Exactly):
            names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}  # by which checkpoints know it
            callback.__class__ = type(cls.__name__, (Exactly, cls), names)


def write_average(trainer: Any, checkpoint: dict[str, Any]) -> None:
    """Puts the average for the weights of a checkpoint that holds nothing else, of which no callback is told."""
    for callback in averagings(trainer):
        average = callback._average_model
        if "current_model_state" not in checkpoint and average is not None and not callback._in_place:
            callback._follow(trainer.lightning_module)
            checkpoint["state_dict"] = average.module.state_dict()


def check_average(trainer: Any, checkpoint: dict[str, Any]) -> None:
    """Refuses to go on from an average with a trainer that takes none.

    Raises:
        InputError: naming what is missing.
    """
    if "current_model_state" in checkpoint and not averagings(trainer):
        raise InputError(
            "the checkpoint's run took an average of its weights, and this trainer has no callback that does",
            "add pytorch_lightning.callbacks.EMAWeightAveraging, or start a new fit from load_model(path)",
        )


def averagings(trainer: Any) -> list[Any]:
    """A trainer's callbacks that average the weights."""
    callbacks = [] if trainer is None else trainer.callbacks
    return [callback for callback in callbacks if isinstance(callback, WeightAveraging)]


def _name(callback: Any) -> str:
    return type(callback).__name__
