"""Counts in natural units: whole numbers of 0 and more, dense, or as the entries of sparse rows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_ae.errors import InputError
from lightning_ae.natural import Reading, column_keys, taken, vectors
from lightning_ae.preprocess import Preprocess

MOST = 2**24  # to which float32 holds every whole number
WHAT = "counts are whole numbers of 0 and more"
HINT = "give counts as they were measured, before any scaling or logarithm; other numbers are read by kind=Tabular(...)"


@dataclass(frozen=True)
class CountPreprocess(Preprocess):
    """Counts as they are, in float32: (B, dimensions), or sparse rows, which are made dense.

    A batch of sparse rows is an array of integers (B, 2, entries): the dimension of each entry, and its count. Rows of
    fewer entries are filled up with entries of dimension `width`, which is none.

    Args:
        width: the number of dimensions.
    """

    width: int

    def __call__(self, x: Tensor) -> Tensor:
        """(B, dimensions) of any number type, or integers (B, 2, entries), to float32 (B, dimensions).

        Raises:
            InputError: on another number of dimensions than `width`.
        """
        if x.ndim == 3 and x.shape[1] == 2 and not x.is_floating_point():
            dense = torch.zeros(len(x), self.width + 1, device=x.device)
            return dense.scatter_(1, x[:, 0].long(), x[:, 1].float())[:, : self.width]
        if x.ndim != 2 or x.shape[1] != self.width:
            raise InputError(f"counts must have the shape (B, {self.width}), got {tuple(x.shape)}")
        return x.float()

    def inverse(self, x: Tensor) -> Tensor:
        """The same: a model's units are counts."""
        return x

    def natural(self, data: Any, how: Reading = Reading()) -> Tensor:
        """Counts of any form as a tensor (B, dimensions), in their own type.

        Args:
            data: an array, a sparse one too, nested lists or a tensor (B, dimensions), in the model's order; or a data
                frame, a dict of columns or an AnnData (its X), whose columns are found by their names.
            how: its names are those of the columns, in the model's order.

        Raises:
            InputError: naming the column that is missing, or row, column and value of what is no count.
        """
        names = how.names
        if len(names) == 1 and how.classes.get(names[0]):
            names = list(how.classes[names[0]])
        if hasattr(data, "X") and hasattr(data, "var_names"):  # AnnData
            own = [str(name) for name in data.var_names]
            data = data.X
            if len(names) == self.width and own != list(names):
                place = {name: i for i, name in enumerate(own)}
                data = data[:, [place[name] for name in taken(place, names)]]
        elif len(names) != self.width and (keys := column_keys(data)) is not None and names:
            data = data[keys[taken(keys, names)[0]]]  # one column of vectors
        x = vectors(data, Reading(names, mask=how.mask, check=how.check))
        if x.shape[1] != self.width:
            raise InputError(f"the data have {x.shape[1]} dimensions, where the model takes {self.width}")
        if how.check:
            with suppress(RuntimeError):  # under vmap, or without values, there is nothing to read
                values = (x.float() if x.dtype == torch.bfloat16 else x).detach().cpu().numpy()
                known = len(names) == self.width
                refuse_uncounted(values, lambda i: f"column {names[i]!r}" if known else f"column {i}")
        return x


def refuse_uncounted(values: np.ndarray, where: Callable[[int], str], first: int = 0) -> None:
    """Refuses values (N, dimensions) that are no counts.

    Args:
        values: numbers of any type.
        where: a dimension, in words.
        first: the number of the first row, for errors.

    Raises:
        InputError: naming row, dimension and value of the first.
    """
    if (place := uncounted(values)) is not None:
        row, column = divmod(place, values.shape[1])
        raise not_a_count(values[row, column], f"row {first + row}, {where(column)}")


def uncounted(values: np.ndarray) -> int | None:
    """The place of the first value that is no count, in a flat array; None where all are."""
    flat = values.reshape(-1)
    if flat.dtype == bool or flat.size == 0:
        return None
    if flat.dtype.kind in "iu" and flat.min() >= 0 and flat.max() <= MOST:
        return None
    for start in range(0, flat.size, 1 << 20):  # no second array of all
        part = flat[start : start + (1 << 20)]
        good = (part >= 0) & (part <= MOST)
        if part.dtype.kind == "f":
            good &= np.floor(part) == part
        if not good.all():
            return start + int((~good).argmax())
    return None


def not_a_count(value: Any, where: str) -> InputError:
    """Says that a value is no count."""
    if value > MOST and value == np.floor(value):
        return InputError(
            f"{where} holds {value:.0f}: from 2^24 on float32 cannot tell counts apart",
            "read such numbers by kind=Tabular(...)",
        )
    return InputError(f"{where} holds {value:g}, where {WHAT}", HINT)
