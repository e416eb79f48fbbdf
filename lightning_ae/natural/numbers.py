"""Numbers of any form as tensors, in their own type, and what is refused of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Real
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_ae.errors import InputError

SHOWN = 8  # names that a message lists


@dataclass(frozen=True, eq=False)
class Reading:
    """How data are read in natural units: what a signature knows of them, and what the caller says.

    Args:
        names: the columns that make the input, in order, where they are known.
        shape: of images in training, before they were brought to the model's, where it is known.
        mask: true where a value is known, of the samples' shape; the others become zero.
        check: whether floats are looked at, which waits for the device.
        classes: of each column of categories, by name, whose values are those or their numbers; of one of counts, the
            names of its dimensions.
        masked: whether values may be missing, and are NaN then.
        dates: columns of dates, times or durations, which are seconds.
        unknown: whether a missing category is NaN, and no class of its own.
    """

    names: Sequence[str] = ()
    shape: tuple[int, ...] = ()
    mask: Tensor | None = None
    check: bool = True
    classes: Mapping[str, Sequence[str]] = field(default_factory=lambda: MappingProxyType({}))
    masked: bool = False
    dates: Collection[str] = ()
    unknown: bool = False


def tensor_of(data: Any) -> Tensor:
    """Numbers of any form but a frame as a tensor, in their own type: arrays, sparse ones too, nested lists, tensors.

    Raises:
        InputError: when they are no numbers, or of several lengths.
    """
    if isinstance(data, list | tuple) and data and all(isinstance(each, Tensor) for each in data):
        if len({each.shape for each in data}) > 1:
            raise ragged([tuple(each.shape) for each in data])
        return torch.stack([each.to(data[0].device) for each in data])
    if isinstance(data, Tensor):
        if data.is_complex():
            raise _no_numbers(str(data.dtype))
        return data if data.layout == torch.strided else data.to_dense()
    array = _array_of(data)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise _no_numbers(str(array.dtype))
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def is_array(data: Any) -> bool:
    """Whether the data are one array of numbers, or a tensor, rather than a sequence of samples."""
    return isinstance(data, Tensor) or (hasattr(data, "shape") and getattr(data.dtype, "kind", "") != "O")


def filled(x: Tensor, mask: Tensor | None) -> Tensor:
    """The values that are known, and zero elsewhere; a mask of another form is left to who takes it."""
    if mask is None or mask.shape != x.shape or mask.is_floating_point():
        return x
    return torch.where(mask.to(x.device, torch.bool), x, torch.zeros_like(x))


def refuse_outside(
    x: Tensor, low: float, high: float, where: Any, hint: str, what: str = "values are finite", first: int = 0
) -> None:
    """Refuses values (B, ...) that are NaN or outside [low, high]; one reduction, which is read back.

    Under transforms that leave nothing to read (`torch.vmap`, tensors without values) it looks at nothing.

    Raises:
        InputError: naming the row, by `where(place)` the place in the sample, and the value of the first.
    """
    x = x.detach()
    if x.is_floating_point():  # so that the ends are values of x's own type
        low, high = (torch.tensor(each, dtype=x.dtype).item() for each in (low, high))
    if x.numel() == 0 or (found := read_back(*torch.aminmax(x))) is None or (low <= found[0] and found[1] <= high):
        return
    bad = ~((x >= low) & (x <= high))
    row, *place = (int(n) for n in np.unravel_index(int(bad.flatten().to(torch.uint8).argmax()), x.shape))
    value = x[(row, *place)].item()
    said = "NaN" if math.isnan(value) else f"{value:g}"
    raise InputError(f"row {first + row}, {where(tuple(place))} holds {said}, where {what}", hint)


def read_back(*values: Tensor) -> list[float] | None:
    """Single values as Python's numbers; None where there are none to read."""
    try:
        return [value.item() for value in values]
    except RuntimeError:  # under vmap, or without values: meta, fake
        return None


def _array_of(data: Any) -> np.ndarray:
    if hasattr(data, "toarray"):  # of scipy's sparse matrices
        data = data.toarray()
    if isinstance(data, np.ma.MaskedArray) and np.ma.is_masked(data):
        raise InputError("the data are a masked array with masked values", "drop or fill missing values first")
    try:
        array = np.asarray(data)
    except ValueError as error:  # numpy's of ragged lists
        raise InputError(f"the data make no array: {error}", "all samples need one shape") from error
    return _from_objects(array) if array.dtype.kind == "O" else array


def _from_objects(array: np.ndarray) -> np.ndarray:
    """Objects as float64; what is missing as NaN."""
    if array.size and all(isinstance(each, list | tuple | np.ndarray | Tensor) for each in array.flat):
        inner = [tensor_of(each).cpu().numpy() for each in array.flat]
        if len({each.shape for each in inner}) > 1:
            raise ragged([each.shape for each in inner])
        return np.stack(inner).reshape(*array.shape, *inner[0].shape)
    numbers = np.empty(array.shape, np.float64)
    for place, value in np.ndenumerate(array):
        if value is None or type(value).__name__ in ("NAType", "NaTType"):
            numbers[place] = math.nan
        elif isinstance(value, Real | Decimal):
            try:
                numbers[place] = float(value)
            except OverflowError:  # of integers
                numbers[place] = math.inf
        else:
            row, column = place[0] if place else 0, f", column {place[1]}" if len(place) > 1 else ""
            raise InputError(
                f"the data must be numbers, but row {row}{column} is {str(value)[:40]!r}, a {type(value).__name__}",
                "give numbers, arrays of them, or PIL images",
            )
    return numbers


def _no_numbers(dtype: str) -> InputError:
    return InputError(f"the data must be numbers, got {dtype}", "give integers or floats of at most 64 bits")


def ragged(shapes: Sequence[tuple[int, ...]]) -> InputError:
    """Says that samples differ in shape."""
    other = next(row for row, shape in enumerate(shapes) if shape != shapes[0])
    return InputError(
        f"the samples must have one shape, but row 0 has {shapes[0]}, row {other} {shapes[other]}",
        "resize images first",
    )


def listed(names: Sequence[Any], shown: int = SHOWN) -> str:
    """Names in a message: the first ones, and how many more there are."""
    text = ", ".join(str(name) for name in names[:shown])
    return (f"{text} and {len(names) - shown} more" if len(names) > shown else text) or "none"
