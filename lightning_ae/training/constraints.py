"""What happens about a model's weights at the start of a fit and after each step of an optimizer."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import pytorch_lightning as pl
import torch

from lightning_ae.errors import InputError


class Constraints(pl.Callback):
    """Calls a model's `constrain` where an optimizer stepped, and tells it how many training samples there are.

    A hook on the optimizer, since a batch is no step (accumulation, a gradient scaler that skips one).
    """

    def __init__(self) -> None:
        self._handles: list[Any] = []

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Tells it here already: the loss of a validation batch may ask."""
        if pl_module.needs_data_size:
            trainer.fit_loop.setup_data()
            pl_module.data_size.fill_(_samples(trainer, pl_module))

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: D102
        if not hasattr(pl_module, "constrain"):  # the trainer had another model before
            return
        if pl_module.needs_data_size:
            pl_module.data_size.fill_(_samples(trainer, pl_module))

        @torch.no_grad()
        def constrain(*args: Any) -> None:
            pl_module.constrain()

        constrain()
        self._handles = [optimizer.register_step_post_hook(constrain) for optimizer in trainer.optimizers]

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: D102
        self._remove()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:  # noqa: D102
        self._remove()

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _samples(trainer: pl.Trainer, model: Any) -> int:
    """The samples of the training split over all ranks, as the loader says; what the model has, where none does."""
    loader: Any = trainer.train_dataloader
    batches, rows = getattr(loader, "batch_sampler", None), getattr(loader, "dataset", None)
    found = int(model.data_size)
    if isinstance(declared := getattr(getattr(loader, "stream", batches), "samples", None), int):  # this package's
        found = declared
    elif batches is not None and isinstance(rows, Sized):  # without batch_size a row is a batch
        found = len(rows)
    if found < 1:
        raise InputError(
            f"{type(model).__name__} asks how many samples the training data have, which {type(loader).__name__} does "
            "not say",
            "set it before the fit: model.data_size.fill_(n)",
        )
    return found
