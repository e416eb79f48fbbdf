"""Values that a batch must not have: found for one reduction, named by row, column and value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_ae.data.signature import Signature
from lightning_ae.parts.likelihoods import at_least_float32


@dataclass(frozen=True)
class Offender:
    """A value that is not taken.

    Args:
        batch: the number of its batch in the epoch.
        row: in the batch.
        place: in the flattened sample.
        value: what stands there.
    """

    batch: int
    row: int
    place: int
    value: float

    def named(self, shape: tuple[int, ...], signature: Signature | None, row: str | None = None) -> str:
        """Row, column and value in words, of samples of this shape; `row` is what the data set calls the row."""
        place = f"batch {self.batch}, {self.where(shape, signature)}: {self.value:g}"
        return f"{row or f'row {self.row}'}{' in' if row else ' of'} {place}"

    def where(self, shape: tuple[int, ...], signature: Signature | None) -> str:
        """The column or the place in words, of samples of this shape."""
        index = tuple(int(n) for n in torch.unravel_index(torch.tensor(self.place), shape))
        columns = () if signature is None else signature.columns
        if len(columns) > 1 and len(shape) > 1:  # each is a channel
            where = f"column {columns[index[0]].name!r} at {index[1] if len(index) == 2 else index[1:]}"
        elif len(columns) > 1:
            where = f"column {columns[self.place].name!r}" if self.place < len(columns) else f"place {index}"
        elif columns:
            where = f"column {columns[0].name!r} at {index if len(index) > 1 else index[0]}"
        else:
            where = f"column {self.place}" if len(shape) == 1 else f"place {index}"
        return where


Distance = Callable[[Tensor], Tensor]
"""How far each value is from what is taken, 0 of what is; of the same shape. For what an interval does not say."""


def offender(x: Tensor, low: float, high: float, batch: int = 0, distance: Distance | None = None) -> Offender | None:
    """The first value of `x` (B, *shape) that is NaN, infinite, outside [low, high], or away from what is taken.

    One reduction where there is none; another with a distance.
    """
    x = x.detach()
    least, most = torch.aminmax(x)  # NaN where there is one
    within = low <= least.item() and most.item() <= high and not any(map(math.isinf, (least.item(), most.item())))
    if within and (distance is None or distance(x).max().item() == 0):
        return None
    flat = x.flatten(1)
    bad = ~((flat >= low) & (flat <= high) & flat.isfinite())
    if distance is not None:
        bad |= distance(x).flatten(1) != 0
    row = int(bad.any(dim=1).int().argmax())
    place = int(bad[row].int().argmax())
    return Offender(batch, row, place, flat[row, place].item())


class Watch:
    """The first offender of an epoch, kept on an accelerator until somebody asks: to read it back makes it wait."""

    def __init__(self) -> None:
        self._found: Tensor | None = None  # batch, row, place, value; batch -1 where there is none

    def look(self, x: Tensor, low: float, high: float, batch: int, distance: Distance | None = None) -> None:
        """Takes a batch (B, *shape)."""
        flat = x.detach().flatten(1)
        # how far outside; NaN where it is NaN, and for a maximum NaN is the largest
        outside = (flat - flat.clamp(low, high)).abs()
        if distance is not None:
            outside = torch.maximum(outside, distance(x.detach()).flatten(1))
        far, at = outside.flatten().max(dim=0)
        value = at_least_float32(flat.flatten()[at])  # whose type holds the numbers of batches and rows, too
        number = torch.where(far == 0, -1.0, float(batch))
        now = torch.stack([each.to(value.dtype) for each in (number, at // flat.shape[1], at % flat.shape[1], value)])
        self._found = now if self._found is None else torch.where(self._found[0] >= 0, self._found, now)

    def first(self) -> Offender | None:
        """The offender of the first batch that has one; waits for the device."""
        if self._found is None:
            return None
        batch, row, place, value = self._found.tolist()
        self._found = None
        return None if batch < 0 else Offender(int(batch), int(row), int(place), value)
