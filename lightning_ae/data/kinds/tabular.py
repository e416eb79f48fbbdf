"""Tables of numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from lightning_ae.data.columns import check_columns, choose, reasons, scalar_columns, vector_columns
from lightning_ae.data.kinds.base import Kind
from lightning_ae.data.signature import Signature, listed
from lightning_ae.errors import InputError
from lightning_ae.preprocess import TabularPreprocess

if TYPE_CHECKING:
    from datasets import Features

COMPACT = {np.dtype(name) for name in ("uint8", "int8", "float16", "float32")}
WHOLE = 2**53  # from here on float64 does not hold every integer


@dataclass(frozen=True)
class Tabular(Kind):
    """Columns of numbers, as float vectors.

    Where `columns` does not say it, the only column of vectors is the input, else all numbers (integers, floats,
    decimals, booleans) but the label. What is left out is said, with the reason: text, dates, classes and whatever else
    is no number; and by their names, in any case,

    - what looks like a target: label, target, class, y (unless a number x stands beside it), outcome, response,
      diagnosis, fraud, anomaly, outlier, churn, default, their plurals and is_... forms, and names that end in _label,
      _target, _class or _outcome;
    - of integers and texts what is an index (__index_level_0__, Unnamed: 0, level_0, index) or an identifier: id, uuid,
      guid, key, pk, idx, rowid, by itself or at the end after a separator (user_id) or a small letter (userId).

    Name such a column in `columns` to take it all the same.

    A model sees float32. Where columns are standardised they stay in float64 until they are centred, so that a large
    offset costs no digits; integers of 2^53 and more, which float64 cannot tell apart, are refused.

    Args:
        columns: their names: one column of vectors, or any number of scalar ones.
        standardize: subtract each dimension's mean over the training split and divide by its standard deviation
            (constant dimensions are only centred).
    """

    columns: tuple[str, ...] | None = None
    standardize: bool = False

    def input_columns(self, features: Features, label: str | None) -> list[str]:
        """The columns that make the vectors."""
        if self.columns is not None:
            columns = list(self.columns)
            check_columns(columns, features)
            vectors, scalars = vector_columns(features), scalar_columns(features)
            if repeated := [column for column in columns if columns.count(column) > 1]:
                raise InputError(f"columns names {repeated[0]!r} more than once", "name each column once")
            for column in columns:
                if column not in scalars and not (column in vectors and len(columns) == 1):
                    raise InputError(
                        f"column {column!r} holds {features[column]}; columns takes one column of vectors or any "
                        "number of scalar ones",
                        f"vectors: {listed(vectors)}; scalars: {listed(scalars)}",
                    )
            return columns
        choice = choose(features, label)
        if not choice.input:
            there = f"the label {label!r}" + (" and " if choice.left_out else "") if label is not None else ""
            raise InputError(
                f"no column of the data set makes an input by itself; it has {there}{reasons(choice.left_out)}"
                if features else "the data set has no columns",
                "name columns of numbers to use all the same: kind=Tabular(columns=[...]); or convert others first "
                "(Dataset.cast_column, Dataset.map)",
            )  # fmt: skip
        if len(choice.input) > 1 and choice.input[0] in vector_columns(features):
            raise InputError(
                f"the data set has {len(choice.input)} columns of vectors, {listed(choice.input)}",
                "name the one to use: kind=Tabular(columns=[...])",
            )
        return list(choice.input)

    @property
    def decoding(self) -> dict[str, Any]:
        """In which precision values are kept."""
        return super().decoding | {"precision": "double" if self.standardize else "single"}

    def decode(self, rows: pa.Table, columns: list[str], split: str, first: int) -> np.ndarray:
        """(N, dimensions), in the columns' own type where they share one that is compact; else float64 where they are
        standardised, and float32 where not."""
        wide = np.dtype(np.float64 if self.standardize else np.float32)
        arrays = [_numbers(rows[column], wide, f"column {column!r} of split {split!r}", first) for column in columns]
        own = {values.dtype for values in arrays}
        dtype = own.pop() if len(own) == 1 and own <= COMPACT else wide
        return np.concatenate(arrays, axis=1, dtype=dtype, casting="unsafe")

    def unlike(self, rows: pa.Table, columns: list[str]) -> list[str]:
        """The columns of which float32 cannot tell values apart that differ: some integers, or 1 % of the floats."""
        if self.standardize:
            return []
        found = []
        for column in columns:
            values = _values(rows[column])
            if values.dtype in COMPACT or values.dtype == bool:
                continue
            distinct = np.unique(values[np.isfinite(values)])
            merged = 1 - len(np.unique(distinct.astype(np.float32))) / max(1, len(distinct))
            if merged > (0.01 if values.dtype.kind == "f" else 0):
                found.append(column)
        return found

    def of_signature(self, signature: Signature) -> Tabular:
        """The model's columns, standardised where the model's input is.

        Raises:
            InputError: when the model takes images, or other columns than this kind names.
        """
        wanted = signature.preprocess
        if not isinstance(wanted, TabularPreprocess):
            raise InputError("the data hold no column of images, where the model takes images", "give kind=Image(...)")
        names = tuple(signature.names)
        if names and self.columns is not None and set(self.columns) != set(names):
            raise InputError(
                f"kind=Tabular(columns=...) names {listed(self.columns)}, where the model was trained on "
                f"{listed(names)}",
                "leave columns out: the model says them",
            )
        return replace(self, columns=names or self.columns, standardize=wanted.mean is not None)

    @property
    def fitted(self) -> bool:
        """Whether the samples are standardised."""
        return self.standardize

    def preprocess(self, chunks: Callable[[], Iterable[Tensor]]) -> TabularPreprocess:
        """Standardisation by the training split, where asked for."""
        if not self.standardize:
            return TabularPreprocess()
        n = sum(len(chunk) for chunk in chunks())
        found = [torch.stack([chunk.double().amin(dim=0), chunk.double().amax(dim=0)]) for chunk in chunks()]
        low, high = torch.stack(found).amin(dim=0)[0], torch.stack(found).amax(dim=0)[1]
        # sums of float32 are exact in float64; of float64 what lies above the least value is summed
        offset = low if next(iter(chunks())).dtype == torch.float64 else torch.zeros_like(low)
        total = torch.stack([(chunk.double() - offset).sum(dim=0) for chunk in chunks()]).sum(dim=0)
        # a spread of the last digit is that of rounding: such a column is constant
        constant = high - low <= torch.finfo(torch.float64).eps * torch.maximum(high.abs(), low.abs())
        mean = torch.where(constant, low, offset + total / n)
        squares = torch.stack([(chunk.double() - mean).square().sum(dim=0) for chunk in chunks()]).sum(dim=0)
        std = torch.where(constant, 1.0, (squares / n).sqrt())
        if not (mean.isfinite() & std.isfinite()).all():
            dimension = int((~(mean.isfinite() & std.isfinite())).int().argmax())
            raise InputError(
                f"dimension {dimension} of the input spreads from {low[dimension]:g} to {high[dimension]:g}, too far "
                "for a standard deviation in float64",
                "rescale it, or take its logarithm (Dataset.map)",
            )
        return TabularPreprocess(tuple(mean.tolist()), tuple(torch.where(std > 0, std, 1.0).tolist()))


def _values(column: pa.ChunkedArray) -> np.ndarray:
    """All numbers of a column, in one dimension; missing ones are NaN, and decimals float64."""
    array = column.combine_chunks()
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    if pa.types.is_decimal(array.type):
        array = pc.cast(array, pa.float64())
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _numbers(column: pa.ChunkedArray, wide: np.dtype[Any], where: str, first: int) -> np.ndarray:
    """A column of numbers (N, 1), or of vectors (N, dimensions), of which each can be told in the type `wide`.

    Args:
        column: of rows as the data set has them.
        wide: float32 or float64.
        where: the column in words, for errors.
        first: the number of the first row, for errors.

    Raises:
        InputError: naming the row, for what is missing, not finite, too large, or of another length.
    """
    drop = "drop such rows, or fill them first"
    array = column.combine_chunks()
    if column.null_count:
        row = first + int(pc.index(pc.is_null(array), pa.scalar(True)).as_py())
        raise InputError(f"{where} holds missing values (None, NaN), first in row {row}", drop)
    width = 1
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
        width = int(lengths[0])
        if (lengths != width).any():
            row = int((lengths != width).argmax())
            raise InputError(
                f"the vectors in {where} differ in length: row {first} has {width} values, row {first + row} has "
                f"{lengths[row]}",
                "bring them to one length first (Dataset.map)",
            )
        if width == 0:
            raise InputError(f"{where} holds empty vectors, first in row {first}")
    values = _values(column).reshape(-1, width)
    whole = values.dtype.kind in "iu"
    if values.dtype.itemsize < 4 and values.dtype.kind != "f" or values.dtype == bool:
        return values
    if whole:
        bad = (values >= WHOLE) | (values <= -WHOLE) if values.dtype.itemsize == 8 else np.zeros_like(values, bool)
    else:
        bad = ~np.isfinite(values)
        if not bad.any() and values.dtype.itemsize > wide.itemsize:
            bad = np.abs(values) > np.finfo(wide).max
    if not bad.any():
        return values
    row, place = divmod(int(bad.argmax()), width)
    at = f"row {first + row}" + (f" at {place}" if width > 1 else "")
    value = values[row, place]
    if whole:
        raise InputError(
            f"{where} holds {value} in {at}: integers of 2^53 and more cannot be told apart in float64",
            "where they are identifiers, leave the column out: kind=Tabular(columns=[...]); else subtract an offset "
            "first (Dataset.map)",
        )
    if np.isfinite(value):
        raise InputError(
            f"{where} holds {value:g}, which float32 cannot hold, first in {at}",
            "give kind=Tabular(standardize=True), which scales it first, or take the logarithm (Dataset.map)",
        )
    raise InputError(f"{where} holds NaN or infinite values, first in {at}", drop)
