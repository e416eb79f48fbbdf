"""Tables of numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from lightning_ae.counts import CountPreprocess
from lightning_ae.data.columns import (
    array_columns,
    arrays_as,
    category_columns,
    check_columns,
    choose,
    label_columns,
    reasons,
    value_columns,
    vector_columns,
)
from lightning_ae.data.kinds.base import Kind
from lightning_ae.data.labels import MOST, classes_of, texts
from lightning_ae.data.scaling import Scaling, scaled
from lightning_ae.data.signature import Column, Signature, listed
from lightning_ae.errors import InputError, unknown
from lightning_ae.natural import MISSING
from lightning_ae.preprocess import SequencePreprocess, TabularPreprocess

if TYPE_CHECKING:
    from datasets import Features

COMPACT = {np.dtype(name) for name in ("uint8", "int8", "float16", "float32")}
WHOLE = 2**53  # from here on float64 does not hold every integer


@dataclass(frozen=True)
class Tabular(Kind):
    """Columns of numbers, dates, durations and categories, as float vectors.

    Where `columns` does not say it, the only column of vectors is the input, else all numbers (integers, floats,
    decimals, booleans, durations) and the `categories`, but the label. What is left out is said, with the reason: text,
    dates, classes and whatever else is no number; and by their names, in any case,

    - what looks like a target: label, target, class, y (unless a number x stands beside it), outcome, response,
      diagnosis, fraud, anomaly, outlier, churn, default, their plurals and is_... forms, and names that end in _label,
      _target, _class or _outcome;
    - of integers and texts what is an index (__index_level_0__, Unnamed: 0, level_0, index) or an identifier: id, uuid,
      guid, key, pk, idx, rowid, by itself or at the end after a separator (user_id) or a small letter (userId).

    Name such a column in `columns` to take it all the same. Dates are seconds since 1970 (UTC), times of day and
    durations seconds.

    A model sees float32. Where columns are scaled they stay in float64 until they are centred, so that a large offset
    costs no digits; integers of 2^53 and more, which float64 cannot tell apart, are refused.

    Args:
        columns: their names: one column of vectors or arrays (of any rank, the first dimension their channels), or any
            number of others.
        scaling: of each dimension (each channel of an array), by the training split: "standard", its mean and standard
            deviation; "robust", its median and interquartile range / 1.349, which is the standard deviation of a
            normal distribution (of a column whose quartiles are equal, its standard deviation); "quantile", to a
            standard normal distribution by its quantiles; "none". Constant dimensions are only centred. By default
            "standard", and of a stream "none".
        categories: columns of text, booleans, whole numbers or classes that are numbered from 0, for an `MLP` with
            `categories`: their names; or with each name its classes in order, by default those of the training split,
            sorted. "auto" are all classes, and the texts of at most 1000 kinds, no more than half of the rows.
        missing: "refused"; or "masked": what is missing (None, NaN) is zero in the model's input, which is the mean of
            a standardised column, and does not count in its loss. Missing categories are a class of their own.
    """

    columns: tuple[str, ...] | None = None
    scaling: Scaling | None = None
    categories: dict[str, tuple[str, ...]] | tuple[str, ...] | Literal["auto"] | None = None
    missing: Literal["refused", "masked"] = "refused"
    # what a split says; no option
    _declared: dict[str, tuple[str, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scaling is not None and self.scaling not in get_args(Scaling):
            raise unknown("scaling of Tabular", str(self.scaling), get_args(Scaling))
        if self.missing not in ("refused", "masked"):
            raise unknown("missing of Tabular", str(self.missing), ("refused", "masked"))
        if isinstance(self.categories, str) and self.categories != "auto":
            raise InputError(
                f"categories of Tabular must be names of columns, 'auto' or none, got {self.categories!r}",
                f"categories=[{self.categories!r}]",
            )
        if isinstance(self.categories, Mapping):
            object.__setattr__(self, "categories", {name: tuple(each) for name, each in self.categories.items()})

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """The classes of each column of categories, once they are known."""
        return self.categories if isinstance(self.categories, dict) else {}

    def input_columns(self, features: Features, label: str | None) -> list[str]:
        """The columns that make the vectors."""
        if self.columns is not None:
            return self._named(features)
        choice = choose(features, label, categories=list(self.classes))
        if not choice.input:
            there = f"the label {label!r}" + (" and " if choice.left_out else "") if label is not None else ""
            arrays = [name for name in array_columns(features) if name != label]
            raise InputError(
                f"no column of the data set makes an input by itself; it has {there}{reasons(choice.left_out)}"
                if features else "the data set has no columns",
                arrays_as(arrays[0], features[arrays[0]]) if arrays else
                "name columns of numbers to use all the same: kind=Tabular(columns=[...]); texts of few kinds by "
                "Tabular(categories=[...]); or convert others first (Dataset.cast_column, Dataset.map)",
            )  # fmt: skip
        if len(choice.input) > 1 and choice.input[0] in vector_columns(features):
            raise InputError(
                f"the data set has {len(choice.input)} columns of vectors, {listed(choice.input)}",
                "name the one to use: kind=Tabular(columns=[...])",
            )
        return list(choice.input)

    def _named(self, features: Features) -> list[str]:
        columns = list(self.columns or ())
        check_columns([*columns, *self.classes], features)
        if repeated := [column for column in columns if columns.count(column) > 1]:
            raise InputError(f"columns names {repeated[0]!r} more than once", "name each column once")
        if lacking := [name for name in self.classes if name not in columns]:
            raise InputError(f"categories names {lacking[0]!r}, which is not among columns", "name it in both")
        vectors, arrays, single = vector_columns(features), array_columns(features), value_columns(features)
        for column in columns:
            if not (column in single or column in self.classes or (column in vectors + arrays and len(columns) == 1)):
                text = column in label_columns(features)
                raise InputError(
                    f"column {column!r} holds {features[column]}; columns takes one column of vectors or any number of "
                    "scalar ones",
                    f"texts of few kinds are categories: kind=Tabular(categories=[{column!r}])" if text else
                    f"vectors: {listed(vectors)}; scalars: {listed(single)}",
                )  # fmt: skip
        return columns

    @property
    def decoding(self) -> dict[str, Any]:
        """In which precision values are kept, what numbers categories have, and whether values may be missing."""
        about: dict[str, Any] = {"precision": "double" if self.fitted else "single"}
        about |= {"categories": {name: list(each) for name, each in self.classes.items()}} if self.classes else {}
        about |= {"declared": {name: list(each) for name, each in self._declared.items()}} if self._declared else {}
        return super().decoding | about | ({"missing": self.missing} if self.missing == "masked" else {})

    def decode(self, rows: pa.Table, columns: list[str], split: str, first: int) -> np.ndarray:
        """(N, dimensions), in the columns' own type where they share one that is compact; else float64 where they are
        scaled, and float32 where not. What is missing is NaN."""
        wide = np.dtype(np.float64 if self.fitted else np.float32)
        arrays = []
        for column in columns:
            where = f"column {column!r} of split {split!r}"
            if column in self.classes:
                values = named(rows[column], self._declared[column]) if column in self._declared else rows[column]
                arrays.append(numbered(values, self.classes[column], where, first).astype(wide)[:, None])
            else:
                arrays.append(numbers(rows[column], wide, where, first, self.missing == "masked"))
        own = {values.dtype for values in arrays}
        dtype = own.pop() if len(own) == 1 and own <= COMPACT and self.missing == "refused" else wide
        return np.concatenate(arrays, axis=1, dtype=dtype, casting="unsafe")

    def unlike(self, rows: pa.Table, columns: list[str]) -> list[str]:
        """The columns of which float32 cannot tell values apart that differ: some integers, or 1 % of the floats."""
        if self.fitted:
            return []
        found = []
        for column in columns:
            if column in self.classes:
                continue
            values = _values(rows[column])
            if values.dtype in COMPACT or values.dtype == bool:
                continue
            distinct = np.unique(values[np.isfinite(values)])
            if not len(distinct):  # whoever reads it says so
                continue
            merged = 1 - len(np.unique(distinct.astype(np.float32))) / max(1, len(distinct))
            if merged > (0.01 if values.dtype.kind == "f" else 0):
                found.append(column)
        return found

    def described(self, columns: list[Column], first: pa.Table) -> list[Column]:
        """The input's columns, with the classes of categories, and what becomes of missing values."""
        return [
            replace(column, kind="category", classes=self.classes[column.name])
            if column.name in self.classes
            else replace(column, missing=self.missing)
            for column in columns
        ]

    def of_rows(self, rows: Any, label: str | None, streaming: bool) -> Tabular:
        """Scaled or not, and with the classes of its categories.

        Raises:
            InputError: when the classes would have to be looked for in a stream, or a column has too many.
        """
        scaling: Scaling = self.scaling or ("none" if streaming else "standard")
        return replace(self, scaling=scaling, categories=self._classes_of(rows, label, streaming))

    def _classes_of(self, rows: Any, label: str | None, streaming: bool) -> dict[str, tuple[str, ...]] | None:
        declared = [name for name, each in rows.features.items() if type(each).__name__ == "ClassLabel"]
        named = [name for name in self.columns or () if name in declared]  # whose numbers are names, no numbers
        if isinstance(self.categories, dict):
            check_columns(self.categories, rows.features)
            return self.categories
        if self.categories == "auto":
            named += [name for name in category_columns(rows.features) if name != label]
        elif self.categories is not None:
            named += self.categories
        check_columns(named, rows.features)
        most = None if self.categories == "auto" else MOST
        found = {name: classes_of(rows, name, streaming, most) for name in dict.fromkeys(named)}
        return {name: classes for name, classes in found.items() if classes is not None} or None

    def of_split(self, rows: Any, columns: list[str], whole: bool) -> Tabular:
        """With the names of the classes that its columns of categories declare, whose rows hold their numbers."""
        found = copy.copy(self)
        names = {name: getattr(rows.features[name], "names", None) for name in columns if name in self.classes}
        object.__setattr__(found, "_declared", {name: tuple(each) for name, each in names.items() if each is not None})
        return found

    def of_signature(self, signature: Signature) -> Kind:
        """The model's columns, scaled where the model's input is, with the model's classes; or as counts.

        Raises:
            InputError: when the model takes images, or other columns than this kind names.
        """
        wanted = signature.preprocess
        if isinstance(wanted, SequencePreprocess):
            raise InputError("the model takes sequences, where the data are read as a table", "give kind=Sequence(...)")
        if isinstance(wanted, CountPreprocess):
            from lightning_ae.data.kinds.counts import Counts  # which reads numbers as this module does

            return Counts(self.columns).of_signature(signature)
        if not isinstance(wanted, TabularPreprocess):
            raise InputError("the data hold no column of images, where the model takes images", "give kind=Image(...)")
        names = tuple(signature.names)
        if names and self.columns is not None and set(self.columns) != set(names):
            raise InputError(
                f"kind=Tabular(columns=...) names {listed(self.columns)}, where the model was trained on "
                f"{listed(names)}",
                "leave columns out: the model says them",
            )
        return replace(
            self,
            columns=names or self.columns,
            scaling="standard" if wanted.scales else "none",
            categories=signature.classes or None,
            missing="masked" if signature.masked else "refused",
        )

    @property
    def how(self) -> str:
        """How columns are scaled, which are categories, and what becomes of missing values."""
        scaling = {"standard": "standardised", "robust": "scaled by quartiles", "quantile": "scaled by quantiles"}
        said = [scaling[self.scaling]] if self.scaling in scaling else []
        if self.classes:
            said.append(f"categories {listed([f'{name} ({len(each)})' for name, each in self.classes.items()])}")
        if self.masked:
            said.append("missing values masked")
        return ", ".join(said)

    def suits(self, columns: Sequence[str]) -> dict[str, Any]:
        """For categories, a network that embeds them and a likelihood of each column's own."""
        from lightning_ae.architectures import MLP
        from lightning_ae.parts import Mixed

        categories = tuple(len(self.classes.get(name, ())) for name in columns)
        if not any(categories):
            return {}
        return {"architecture": MLP(categories=categories), "likelihood": Mixed(categories)}

    @property
    def fitted(self) -> bool:
        """Whether the samples are scaled."""
        return self.scaling not in (None, "none")

    @property
    def masked(self) -> bool:
        """Whether samples may have missing values."""
        return self.missing == "masked"

    def preprocess(self, chunks: Callable[[], Iterable[Tensor]], columns: Sequence[str] = ()) -> TabularPreprocess:
        """Scaling by the training split, where asked for."""
        if self.scaling is None or not self.fitted:
            return TabularPreprocess()
        categories = [i for i, column in enumerate(columns) if column in self.classes]
        return scaled(self.scaling, chunks, categories)


def _values(column: pa.ChunkedArray) -> np.ndarray:
    """All numbers of a column, in one dimension: missing ones are NaN, decimals float64, and times in seconds."""
    array = column.combine_chunks()
    while _is_list(array.type):
        array = array.flatten()
    if pa.types.is_decimal(array.type):
        array = pc.cast(array, pa.float64())
    if pa.types.is_temporal(array.type):
        return _seconds(array)
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _seconds(array: pa.Array) -> np.ndarray:
    """Dates as float64 seconds since 1970 (UTC), times of day since midnight, and durations."""
    kind = array.type
    unit = {pa.date32(): 86400.0, pa.date64(): 1e-3}.get(kind) or {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}[
        kind.unit
    ]
    whole = pc.cast(array, pa.int32() if kind.bit_width == 32 else pa.int64())
    return np.asarray(pc.cast(whole, pa.float64(), safe=False).to_numpy(zero_copy_only=False)) * unit


def _is_list(type_: pa.DataType) -> bool:
    return pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)


def named(numbers: pa.ChunkedArray, names: Sequence[str]) -> pa.ChunkedArray:
    """The names of declared classes, by their numbers; of none (-1) it is missing."""
    known = pc.if_else(pc.greater_equal(numbers, 0), numbers, pa.scalar(None, numbers.type))
    return pc.take(pa.chunked_array([pa.array(names, pa.string())]), known)


def numbered(column: pa.ChunkedArray, classes: Sequence[str], where: str, first: int) -> np.ndarray:
    """A column of categories as the numbers of its classes, (N,).

    Raises:
        InputError: naming the row of a class that is not among them.
    """
    found = pc.index_in(texts(column).fill_null(MISSING), value_set=pa.array(classes, pa.string()))
    if found.null_count:
        row = int(pc.index(pc.is_null(found), pa.scalar(True)).as_py())
        value = column[row].as_py()
        raise InputError(
            f"{where} holds {value!r} in row {first + row}, which is none of the classes that the model was trained "
            f"on: {listed(classes)}",
            "leave such rows out (Dataset.filter), or train on data that have it",
        )
    return np.asarray(found.to_numpy())


def numbers(column: pa.ChunkedArray, wide: np.dtype[Any], where: str, first: int, masked: bool = False) -> np.ndarray:
    """A column of numbers (N, 1), vectors (N, dimensions) or arrays, of which each can be told in the type `wide`.

    Args:
        column: of rows as the data set has them.
        wide: float32 or float64.
        where: the column in words, for errors.
        first: the number of the first row, for errors.
        masked: whether values may be missing; they are NaN then.

    Raises:
        InputError: naming the row, for what is missing, not finite, too large, or of another length.
    """
    drop = "drop such rows, fill them first, or give kind=Tabular(missing='masked'), which leaves them out of the loss"
    array = column.combine_chunks()
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    shape: tuple[int, ...] = ()
    while _is_list(array.type):
        if array.null_count:
            row = first + int(pc.index(pc.is_null(array), pa.scalar(True)).as_py()) // max(1, math.prod(shape))
            raise InputError(f"{where} holds a missing vector in row {row}", "drop such rows (Dataset.filter)")
        lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
        width = int(lengths[0])
        if (lengths != width).any():
            other = int((lengths != width).argmax())
            raise InputError(
                f"the vectors in {where} differ in length: row {first} has {width} values, row "
                f"{first + other // math.prod(shape)} has {lengths[other]}",
                "bring them to one length first (Dataset.map)",
            )
        if width == 0:
            raise InputError(f"{where} holds empty vectors, first in row {first}")
        shape, array = (*shape, width), array.flatten()
    if array.null_count and not masked:
        row, place = divmod(int(pc.index(pc.is_null(array), pa.scalar(True)).as_py()), math.prod(shape))
        at = f"row {first + row}" + (f" at {place}" if shape else "")
        raise InputError(f"{where} holds missing values (None, NaN), first in {at}", drop)
    missing = pc.is_null(array).to_numpy(zero_copy_only=False) if array.null_count else None
    if missing is not None and (pa.types.is_integer(array.type) or pa.types.is_boolean(array.type)):
        array = array.fill_null(0 if pa.types.is_integer(array.type) else False)  # numpy's have no missing ones
    values = _values(pa.chunked_array([array])).reshape(-1, *(shape or (1,)))
    _check_values(values, wide, where, first, masked, drop)
    if missing is not None:
        values = values.astype(np.promote_types(values.dtype, wide))
        values[missing.reshape(values.shape)] = np.nan
    return values


def _check_values(values: np.ndarray, wide: np.dtype[Any], where: str, first: int, masked: bool, drop: str) -> None:
    """Refuses what is not finite, too large, or a whole number that float64 cannot tell; see `numbers`."""
    whole = values.dtype.kind in "iu"
    if values.dtype.itemsize < 4 and values.dtype.kind != "f" or values.dtype == bool:
        return
    if whole:
        bad = (values >= WHOLE) | (values <= -WHOLE) if values.dtype.itemsize == 8 else np.zeros_like(values, bool)
    else:
        bad = np.isinf(values) if masked else ~np.isfinite(values)
        if not bad.any() and values.dtype.itemsize > wide.itemsize:
            bad = np.abs(values) > np.finfo(wide).max
    if not bad.any():
        return
    place = tuple(int(n) for n in np.unravel_index(int(bad.argmax()), values.shape))
    at = f"row {first + place[0]}" + (f" at {place[1] if len(place) == 2 else place[1:]}" if values[0].size > 1 else "")
    value = values[place]
    if whole:
        raise InputError(
            f"{where} holds {value} in {at}: integers of 2^53 and more cannot be told apart in float64",
            "where they are identifiers, leave the column out: kind=Tabular(columns=[...]); else subtract an offset "
            "first (Dataset.map)",
        )
    if np.isfinite(value):
        raise InputError(
            f"{where} holds {value:g}, which float32 cannot hold, first in {at}",
            "scale the columns, kind=Tabular(scaling='standard'), or take the logarithm (Dataset.map)",
        )
    raise InputError(f"{where} holds NaN or infinite values, first in {at}", drop)
