"""Vectors and sequences as a model takes them: scaled column by column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_ae.natural import Reading, sequences, vectors
from lightning_ae.preprocess.base import Preprocess, check_moments, standardize, unstandardize

FARTHEST = 5.199337582605575  # standard deviations; the normal distribution has 1e-7 beyond
_WIDE = (torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64)  # hold more than float32 does


@dataclass(frozen=True)
class TabularPreprocess(Preprocess):
    """Vectors (B, dimensions), or arrays (B, channels, ...), scaled column by column; NaN stays NaN.

    Args:
        mean: subtracted from each column, or none.
        std: divides each column after that, or none.
        knots: of each column the values at equally spaced probabilities from 0 to 1, which are mapped to those of a
            standard normal distribution, within 5.2 standard deviations; () for one that stays as it is.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    knots: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_moments(self.mean, self.std)
        if self.knots is not None:
            object.__setattr__(self, "knots", tuple(tuple(each) for each in self.knots))

    @property
    def scales(self) -> bool:
        """Whether it changes anything."""
        return self.mean is not None or self.std is not None or self.knots is not None

    def __call__(self, x: Tensor) -> Tensor:
        """(B, dimensions) of any number type to float32 of the same shape.

        Raises:
            InputError: on another number of dimensions than `mean` and `std` have.
        """
        # what float32 cannot hold stays in float64 until it is centred, so that a large offset costs no digits
        x = x.double() if x.dtype in _WIDE else x.float()
        x = standardize(x, self.mean, self.std, "dimensions")
        return (x if self.knots is None else _normal(x, self.knots)).float()

    def natural(self, data: Any, how: Reading = Reading()) -> Tensor:
        """Vectors of any form as a tensor (B, dimensions).

        Args:
            data: an array, a sparse one too, nested lists or a tensor (B, dimensions), in the model's order; or a data
                frame or a dict of columns, which are found by their names.
            how: its names are those of the columns, in the model's order.

        Raises:
            InputError: naming the column that is missing, or row and column of what is no finite number.
        """
        return vectors(data, how)

    def inverse(self, x: Tensor) -> Tensor:
        """The model's units to natural ones; by `knots`, values beyond the ends are the ends."""
        return unstandardize(x if self.knots is None else _natural(x, self.knots), self.mean, self.std)


@dataclass(frozen=True)
class SequencePreprocess(TabularPreprocess):
    """Sequences (B, channels, length), scaled channel by channel; NaN stays NaN.

    Args:
        mean: subtracted from each channel, or none.
        std: divides each channel after that, or none.
        knots: see `TabularPreprocess`.
        length: of a sample that is so many rows of a table, whose columns are the channels; none of ready samples.
        layout: of arrays of ready samples, "NCL", (B, channels, length), or "NLC", (B, length, channels); none of
            columns that are a channel each, whose arrays are (B, channels, length).
    """

    length: int | None = None
    layout: Literal["NCL", "NLC"] | None = None

    def natural(self, data: Any, how: Reading = Reading()) -> Tensor:
        """Sequences of any form as a tensor (B, channels, length).

        Args:
            data: an array, nested lists or a tensor, (B, channels, length) or as `layout` says, of one channel also
                (B, length); or a data frame or a dict of columns by their names, of ready samples those that hold
                them, else `length` rows that are one.
            how: its names are those of the columns, in the model's order.

        Raises:
            InputError: on another shape, for a column that is missing, or naming row, channel and step of what is no
                finite number.
        """
        return sequences(data, how, self.length, self.layout or "NCL")


def _normal(x: Tensor, knots: Sequence[Sequence[float]]) -> Tensor:
    """Each column (dimension 1) by its quantiles to a standard normal distribution; see `TabularPreprocess`."""
    x, columns = x.double(), []
    for values, quantiles in zip(x.unbind(1), knots, strict=True):
        at = torch.tensor(quantiles or (0.0, 1.0), dtype=torch.float64, device=x.device)
        # a value that several probabilities share gets their middle: the means from either side
        columns.append((_interpolated(values, at) + 1 - _interpolated(-values, -at.flip(0))) / 2)
    mapped = torch.tensor([bool(each) for each in knots], device=x.device).view(-1, *[1] * (x.ndim - 2))
    return torch.where(mapped, torch.special.ndtri(torch.stack(columns, dim=1)).clamp(-FARTHEST, FARTHEST), x)


def _natural(x: Tensor, knots: Sequence[Sequence[float]]) -> Tensor:
    columns = []
    for values, quantiles in zip(x.double().unbind(1), knots, strict=True):
        at = torch.tensor(quantiles, dtype=torch.float64, device=x.device)
        if not quantiles:
            columns.append(values)
            continue
        place = torch.special.ndtr(values) * (len(at) - 1)
        below = place.nan_to_num().floor().long().clamp(max=len(at) - 2)
        columns.append(torch.lerp(at[below], at[below + 1], place - below))
    return torch.stack(columns, dim=1).to(x.dtype)


def _interpolated(values: Tensor, knots: Tensor) -> Tensor:
    """The probability of each value, where knots are those of equally spaced ones; NaN stays NaN."""
    above = torch.bucketize(values.contiguous(), knots, right=True).clamp(1, len(knots) - 1)  # which ONNX has
    low, high = knots[above - 1], knots[above]
    within = ((values - low) / (high - low)).nan_to_num(nan=1.0).clamp(0, 1)  # 0 / 0 where the last knots are equal
    return torch.where(values.isnan(), values, (above - 1 + within) / (len(knots) - 1))
