"""Frames, dicts of columns and arrays as vectors (B, dimensions), or as sequences (B, channels, length)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_ae.errors import InputError
from lightning_ae.natural.numbers import Reading, filled, listed, refuse_outside, tensor_of

MISSING = "(missing)"  # the class of categories that are


def vectors(data: Any, how: Reading = Reading()) -> Tensor:
    """Vectors (B, dimensions) of any form, in their own type, or one that holds all that columns have.

    Args:
        data: an array, nested lists, a tensor; a data frame or a dict of columns, which are found by their names.
        how: its names are those of the columns that the model takes, in its order.

    Raises:
        InputError: naming the column that is missing, or row and column of what is no number.
    """
    keys, names = column_keys(data), how.names
    if keys is None:
        x = tensor_of(data)
    else:
        if not names:
            names = list(keys)
            rank_zero_warn(
                "the model does not know the names of its columns: those of the data are taken in their order, "
                f"{listed(names)}"
            )
        arrays = {name: _column(data[keys[name]], name, how) for name in taken(keys, names)}
        if len({len(array) for array in arrays.values()}) > 1:
            lengths = [f"{name!r} {len(array)}" for name, array in arrays.items()]
            raise InputError(f"the columns have different numbers of rows: {listed(lengths)}")
        x = torch.from_numpy(np.concatenate(list(arrays.values()), axis=1))
    if x.ndim < 2:
        raise InputError(
            f"vectors must have the shape (B, dimensions), got {tuple(x.shape)}", "give one vector as [vector]"
        )

    def where(place: tuple[int, ...]) -> str:
        if len(names) == x.shape[1]:
            return f"column {names[place[0]]!r}"
        at = place[0] if len(place) == 1 else place
        return f"column {names[0]!r} at {at}" if len(names) == 1 else f"column {at}"

    return _looked_at(filled(x, how.mask), how, where)


def sequences(data: Any, how: Reading = Reading(), length: int | None = None, layout: str = "NCL") -> Tensor:
    """Sequences (B, channels, length) of any form, in their own type.

    Args:
        data: see `SequencePreprocess.natural`.
        how: its names are those of the columns that the model takes, in its order.
        length: of a sample that is so many rows of a table; None of ready samples.
        layout: of arrays, "NCL" or "NLC".

    Raises:
        InputError: naming the column that is missing, or row, channel and step of what is no number.
    """
    keys, names = column_keys(data), how.names
    if keys is None:
        x = tensor_of(data)
        x = (
            x[:, None]
            if x.ndim == 2 and len(names) <= 1
            else x.transpose(1, 2)
            if layout == "NLC" and x.ndim == 3
            else x
        )
    elif length is not None:
        x = vectors(data, Reading(names, check=False)).T[None]
        if x.shape[2] != length:
            raise InputError(
                f"the data have {x.shape[2]} rows, where a sample of the model is {length} in a line",
                "give one window, or arrays (B, channels, length); HFDataModule cuts windows from longer series",
            )
    else:
        columns = [tensor_of(_listed_values(data[keys[name]])) for name in taken(keys, names or list(keys))]
        if len(columns) == 1 and columns[0].ndim == 3:
            return sequences(columns[0], replace(how, names=()), None, layout)
        x = torch.stack([*columns], dim=1)
    if x.ndim != 3:
        wanted = "(B, length, channels)" if layout == "NLC" else "(B, channels, length)"
        raise InputError(f"sequences must have the shape {wanted}, got {tuple(x.shape)}", "give one as [sequence]")

    def where(place: tuple[int, ...]) -> str:
        named = len(names) == x.shape[1]
        return f"{f'column {names[place[0]]!r}' if named else f'channel {place[0]}'}, step {place[1]}"

    return _looked_at(filled(x, how.mask), how, where)


def _looked_at(x: Tensor, how: Reading, where: Callable[[tuple[int, ...]], str]) -> Tensor:
    """Numbers (B, ...), of which none is infinite, nor missing where that may not be."""
    if how.check and x.is_floating_point():
        largest = torch.finfo(x.dtype).max
        known = x.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf) if how.masked else x
        refuse_outside(known, -largest, largest, where, "drop or fill missing values first")
    return x


def column_keys(data: Any) -> dict[str, Any] | None:
    """The columns of a data frame, a dict or a structured array: what it calls each, by its name as text.

    Returns:
        None of anything else.

    Raises:
        InputError: when two columns have one name.
    """
    if isinstance(data, Mapping):
        keys = list(data)
    elif isinstance(data, np.ndarray):
        if data.dtype.names is None:
            return None
        keys = list(data.dtype.names)
    else:  # of pandas, polars, pyarrow and datasets
        found = getattr(data, "column_names", getattr(data, "columns", None))
        if found is None or callable(found) or isinstance(data, Tensor):
            return None
        keys = list(found)
    named = {str(key): key for key in keys}
    if len(named) < len(keys):
        twice = sorted({str(key) for key in keys if sum(str(key) == str(other) for other in keys) > 1})
        raise InputError(f"the data have several columns of one name: {listed(twice)}", "rename them")
    return named


def taken(keys: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """The columns that a model takes, in its order; says once which others there are.

    Raises:
        InputError: naming those that are missing.
    """
    if missing := [name for name in names if name not in keys]:
        raise InputError(
            f"the model was trained on the columns {listed(names)}, of which the data lack {listed(missing)}",
            f"columns are found by their names; the data have {listed(list(keys))}: rename them to the model's",
        )
    if others := [name for name in keys if name not in set(names)]:
        rank_zero_info(f"columns that the model does not take are left out: {listed(others)}")
    return list(names)


def _column(values: Any, name: str, how: Reading) -> np.ndarray:
    """A column as (B, dimensions): dates in seconds since 1970, durations in seconds, categories as their numbers."""
    if name in how.classes:
        return _numbers_of(values, name, how.classes[name], how.unknown)[:, None]
    if name in how.dates:
        zoned = getattr(getattr(values, "dtype", None), "tz", None) is not None  # of pandas
        array = np.asarray(values.dt.tz_convert(None) if zoned else values)
        seconds = array.astype("timedelta64[ns]" if array.dtype.kind == "m" else "datetime64[ns]")
        return np.where(np.isnat(seconds), np.nan, seconds.astype(np.int64) / 1e9)[:, None]
    try:
        found = tensor_of(values).detach().cpu().numpy()
    except InputError as error:
        raise InputError(f"column {name!r}: {error.message}", error.hint) from error
    if found.ndim not in (1, 2):
        raise InputError(f"column {name!r} has the shape {found.shape}, where columns hold numbers or vectors")
    return found[:, None] if found.ndim == 1 else found


def _listed_values(values: Any) -> Any:
    """A column of arrays as what `tensor_of` takes."""
    return values.to_list() if hasattr(values, "to_list") else values


def _numbers_of(values: Any, name: str, classes: Sequence[str], unknown: bool = False) -> np.ndarray:
    """A column of categories as the numbers of its classes, (B,); a missing one is NaN where it may be `unknown`."""
    number: dict[str, float] = {each: i for i, each in enumerate(classes)}
    if unknown:
        number[MISSING] = np.nan
    found = []
    for row, value in enumerate(values.tolist() if hasattr(values, "tolist") else list(values)):
        missing = value is None or value != value or type(value).__name__ == "NAType"
        if isinstance(value, float) and value.is_integer():  # as whole numbers beside missing ones become
            value = int(value)
        text = MISSING if missing else str(value).lower() if isinstance(value, bool) else str(value)
        if text not in number:
            raise InputError(
                f"row {row}, column {name!r} holds {value!r}, which is none of the classes that the model was trained "
                f"on: {listed(classes)}"
            )
        found.append(number[text])
    return np.array(found, np.float64)
