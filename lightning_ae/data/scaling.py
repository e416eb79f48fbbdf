"""How the columns of a table are scaled: statistics of the training split, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from lightning_ae.errors import InputError
from lightning_ae.preprocess import TabularPreprocess

Scaling = Literal["standard", "robust", "quantile", "none"]
KNOTS = 101  # quantiles of each dimension that are kept
NORMAL_IQR = 1.3489795003921634  # the interquartile range of a standard normal distribution
VALUES = 1 << 24  # that are sorted at a time

Chunks = Callable[[], Iterable[Tensor]]


def scaled(scaling: Scaling, chunks: Chunks, untouched: Sequence[int] = ()) -> TabularPreprocess:
    """The map that brings samples to one scale; values that are NaN do not count.

    Args:
        scaling: "standard", "robust" or "quantile"; see `Tabular`.
        chunks: passes over the samples (N, dimensions), or (N, channels, ...).
        untouched: dimensions that are left as they are.

    Raises:
        InputError: naming a dimension that has no value, or spreads too far for float64.
    """
    mean, std, constant = _moments(chunks)
    knots = None
    if scaling == "robust":
        low, median, high = _quantiles(chunks, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).unbind(1)
        mean = torch.where(constant, mean, median)
        std = torch.where(high > low, (high - low) / NORMAL_IQR, std)
    mean[list(untouched)], std[list(untouched)] = 0.0, 1.0
    if scaling == "quantile":
        values = _quantiles(chunks, torch.linspace(0, 1, KNOTS, dtype=torch.float64))
        left = [bool(constant[i]) or i in untouched for i in range(len(values))]
        knots = tuple(() if left[i] else tuple(row.tolist()) for i, row in enumerate(values))
        mean, std = torch.where(torch.tensor(left), mean, 0.0), torch.where(torch.tensor(left), std, 1.0)
    return TabularPreprocess(tuple(mean.tolist()), tuple(std.tolist()), knots)


def _moments(chunks: Chunks) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation of each dimension, which is 1 where the third says that it is constant."""
    n = torch.stack([(~rows.isnan()).sum(dim=0) for rows in _rows(chunks)]).sum(dim=0)
    if (n == 0).any():
        raise InputError(
            f"dimension {int((n == 0).int().argmax())} of the input has no value in the training split",
            "leave it out: kind=Tabular(columns=[...])",
        )
    infinity = torch.inf
    low = torch.stack([rows.double().nan_to_num(nan=infinity).amin(dim=0) for rows in _rows(chunks)]).amin(dim=0)
    high = torch.stack([rows.double().nan_to_num(nan=-infinity).amax(dim=0) for rows in _rows(chunks)]).amax(dim=0)
    # sums of float32 are exact in float64; of float64 what lies above the least value is summed
    offset = low if next(iter(chunks())).dtype == torch.float64 else torch.zeros_like(low)
    total = torch.stack([(rows.double() - offset).nansum(dim=0) for rows in _rows(chunks)]).sum(dim=0)
    # a spread of the last digit is that of rounding: such a column is constant
    constant = high - low <= torch.finfo(torch.float64).eps * torch.maximum(high.abs(), low.abs())
    mean = torch.where(constant, low, offset + total / n)
    squares = torch.stack([(rows.double() - mean).square().nansum(dim=0) for rows in _rows(chunks)]).sum(dim=0)
    std = torch.where(constant, 1.0, (squares / n).sqrt())
    if not (mean.isfinite() & std.isfinite()).all():
        dimension = int((~(mean.isfinite() & std.isfinite())).int().argmax())
        raise InputError(
            f"dimension {dimension} of the input spreads from {low[dimension]:g} to {high[dimension]:g}, too far for a "
            "standard deviation in float64",
            "rescale it, or take its logarithm (Dataset.map)",
        )
    return mean, torch.where(std > 0, std, 1.0), constant


def _quantiles(chunks: Chunks, probabilities: Tensor) -> Tensor:
    """Of each dimension, (dimensions, probabilities), with linear interpolation; some dimensions at a time."""
    rows = sum(len(each) for each in _rows(chunks))
    dimensions = next(iter(_rows(chunks))).shape[1]
    found = []
    for some in torch.arange(dimensions).split(max(1, VALUES // rows)):
        values = torch.cat([each[:, some] for each in _rows(chunks)]).double()
        ordered, n = values.sort(dim=0)[0], (~values.isnan()).sum(dim=0)  # NaN come last
        at = probabilities[:, None] * (n - 1)
        below, above = at.floor().long(), at.ceil().long()
        found.append(torch.lerp(ordered.gather(0, below), ordered.gather(0, above), at - below).T)
    return torch.cat(found)


def _rows(chunks: Chunks) -> Iterable[Tensor]:
    """Each position of an array as a row of its own, (N, dimensions)."""
    return (chunk.movedim(1, -1).flatten(0, -2) for chunk in chunks())
