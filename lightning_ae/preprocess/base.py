"""What every preprocessing is: a fixed map from natural units to a model's input."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from lightning_ae.config import Configurable
from lightning_ae.errors import InputError
from lightning_ae.natural import Reading, batch_of


class Preprocess(Configurable):
    """A fixed map from natural units to a model's input."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Natural units to the model's, on whole batches; always float32, which the model converts to its own type."""

    @abstractmethod
    def inverse(self, x: Tensor) -> Tensor:
        """The model's units to natural ones; what was resized or converted stays so."""

    def natural(self, data: Any, how: Reading = Reading()) -> Tensor:
        """Data of any form as a tensor in natural units, which this map takes, on the data's device.

        Args:
            data: a tensor, or what makes one.
            how: what is known of them; a map has use for a part of it.

        Raises:
            InputError: naming the row, and the column, of what cannot be used.
        """
        return batch_of(data, how)


def check_moments(mean: Any, std: Any) -> None:
    """Raises InputError for what are no numbers, or no positive ones of std."""
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and not (isinstance(values, tuple) and all(isinstance(v, int | float) for v in values)):
            raise InputError(f"{name} must be a list of numbers, one for each channel or dimension, got {values!r}")
    if std is not None and not all(s > 0 for s in std):
        raise InputError(f"std must hold positive numbers, got {std}")


def standardize(x: Tensor, mean: tuple[float, ...] | None, std: tuple[float, ...] | None, what: str) -> Tensor:
    """(x - mean) / std along dimension 1, which is called `what` in errors."""
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) != x.shape[1]:
            raise InputError(
                f"{name} has {len(values)} values, but the data have {x.shape[1]} {what}",
                f"give (B, {', '.join([str(len(values)), *['...'][: x.ndim - 2]])}), as in training; got the shape "
                f"{tuple(x.shape)}",
            )
    if mean is not None:
        x = x - _along_dim_1(mean, x)
    return x if std is None else x / _along_dim_1(std, x)


def unstandardize(x: Tensor, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> Tensor:
    """x * std + mean along dimension 1."""
    if std is not None:
        x = x * _along_dim_1(std, x)
    return x if mean is None else x + _along_dim_1(mean, x)


def _along_dim_1(values: tuple[float, ...], x: Tensor) -> Tensor:
    return torch.tensor(values, dtype=x.dtype, device=x.device).view(-1, *[1] * (x.ndim - 2))
