"""Counts."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from lightning_ae.counts import MOST, CountPreprocess, not_a_count, refuse_uncounted, uncounted
from lightning_ae.data.columns import (
    check_columns,
    choose,
    dimensions,
    is_whole,
    scalar_columns,
    sparse_columns,
    vector_columns,
)
from lightning_ae.data.kinds.base import Kind
from lightning_ae.data.kinds.tabular import numbers
from lightning_ae.data.memory import fingerprint, sparse_column
from lightning_ae.data.signature import Column, Signature, check_names, listed
from lightning_ae.errors import InputError

if TYPE_CHECKING:
    from datasets import Features

READ = 65_536  # rows that are looked at together
SMALL = {np.dtype(name) for name in ("bool", "uint8", "int8", "int16")}


@dataclass(frozen=True)
class Counts(Kind):
    """Whole numbers of 0 and more, as a model of counts takes them: unscaled, in float32.

    A network takes their logarithm itself (`MLP(log1p=True)`), and the likelihood the number of all counts of a sample
    (its library). Sparse rows stay sparse until the batch: what is decoded, cached and moved to the device are their
    entries. Dimensions that have names, as genes have, are found by them.

    Where `columns` does not say it, the only column of sparse rows is the input, else the only one of vectors, else all
    of whole numbers, but the label; what looks like a target, an index or an identifier is left out (see `Tabular`).

    Args:
        columns: their names: one column of sparse rows or of vectors, or any number of columns of numbers.
    """

    columns: tuple[str, ...] | None = None
    # what the data say, or the model; no options
    _width: int | None = field(default=None, init=False, repr=False)  # of sparse rows
    _names: tuple[str, ...] | None = field(default=None, init=False, repr=False)  # of their dimensions
    _split: _Split | None = field(default=None, init=False, repr=False)

    def input_columns(self, features: Features, label: str | None) -> list[str]:
        """The columns that make the vectors."""
        if self.columns is not None:
            return self._named(features)
        choice = choose(features, label)
        vectors = [name for name in choice.input if name in vector_columns(features)]
        found = sparse_columns(features) or vectors
        if len(found) > 1:
            raise InputError(
                f"the data set has {len(found)} columns of {'vectors' if found == vectors else 'sparse rows'}, "
                f"{listed(found)}",
                "name the one to use: kind=Counts(columns=[...])",
            )
        found = found or [name for name in choice.input if is_whole(features[name])]
        if not found:
            raise InputError(
                f"no column of the data set holds whole numbers; it has {listed(list(features))}",
                "name columns of numbers to use all the same: kind=Counts(columns=[...]); other numbers are read by "
                "kind=Tabular(...)",
            )
        return found

    def _named(self, features: Features) -> list[str]:
        columns = list(self.columns or ())
        check_columns(columns, features)
        if repeated := [column for column in columns if columns.count(column) > 1]:
            raise InputError(f"columns names {repeated[0]!r} more than once", "name each column once")
        wide = [*sparse_columns(features), *vector_columns(features)]
        for column in columns:
            if not (column in scalar_columns(features) or (column in wide and len(columns) == 1)):
                raise InputError(
                    f"column {column!r} does not hold one number; columns takes one column of sparse rows or of "
                    "vectors, or any number of columns of numbers",
                    f"sparse rows and vectors: {listed(wide)}",
                )
        return columns

    @property
    def decoding(self) -> dict[str, Any]:
        """The dimensions, by their names where they have some."""
        names = ["\0".join(each or ()) for each in (self._names, self._split and self._split.names)]
        digest = hashlib.blake2b("\n".join(names).encode(), digest_size=16).hexdigest()
        return super().decoding | {"width": self._width, "names": digest}

    def of_rows(self, rows: Any, label: str | None, streaming: bool) -> Counts:
        """With the names of a column's dimensions."""
        columns = self.input_columns(rows.features, label)
        if columns[0] not in sparse_columns(rows.features):
            return self
        width, names = dimensions(rows.features[columns[0]])
        return self._with(_width=width, _names=names)

    def of_signature(self, signature: Signature) -> Counts:
        """The model's columns and dimensions.

        Raises:
            InputError: when the model takes no counts, or other columns than this kind names.
        """
        wanted = signature.preprocess
        if not isinstance(wanted, CountPreprocess):
            raise InputError(
                "the data are read as counts, which the model does not take",
                "leave kind out; instead of sparse rows give a dense array, matrix.toarray()",
            )
        columns = tuple(signature.names)
        if columns and self.columns is not None and set(self.columns) != set(columns):
            raise InputError(
                f"kind=Counts(columns=...) names {listed(self.columns)}, where the model was trained on "
                f"{listed(columns)}",
                "leave columns out: the model says them",
            )
        names = signature.columns[0].names if columns else self._names
        return replace(self, columns=columns or self.columns)._with(_width=wanted.width, _names=names)

    def of_split(self, rows: Any, columns: list[str], whole: bool) -> Counts:
        """With where the dimensions of its sparse rows stand in the model's, and how many entries the fullest has.

        Raises:
            InputError: when it lacks dimensions.
        """
        if columns[0] not in sparse_columns(rows.features):
            return self
        assert self._width is not None
        width, own = dimensions(rows.features[columns[0]])
        places = None
        if own is None or self._names is None:
            if width != self._width:
                raise InputError(
                    f"column {columns[0]!r} has {width} dimensions, where the model takes {self._width}",
                    "dimensions with names are found by them: give an AnnData",
                )
        elif own != self._names:
            check_names(columns[0], self._names, own)
            place = {name: i for i, name in enumerate(self._names)}
            places = np.array([place.get(name, -1) for name in own])
            if others := [name for name in own if name not in place]:
                rank_zero_info(
                    f"dimensions of column {columns[0]!r} that the model does not take are left out: {listed(others)}"
                )
        entries, most = 1, float(MOST)
        if whole:
            table = rows.select_columns(columns).with_format("arrow")
            looked = [_looked_at(part[columns[0]].combine_chunks()) for part in table.iter(READ)]
            entries, most = max(1, *(n for n, _ in looked)), max(value for _, value in looked)
        small = most < 2**15 and self._width < 2**15
        return self._with(_split=_Split(own, places, entries if whole else None, "int16" if small else "int32"))

    def described(self, columns: list[Column], first: pa.Table) -> list[Column]:
        """The input's columns, with the names of the dimensions."""
        return columns if self._names is None else [replace(columns[0], names=self._names)]

    def preprocess(self, chunks: Callable[[], Iterable[Tensor]], columns: Sequence[str] = ()) -> CountPreprocess:
        """Counts as they are; sparse rows dense."""
        return CountPreprocess(self._width or next(iter(chunks())).shape[1])

    def suits(self, columns: Sequence[str]) -> dict[str, Any]:
        """A network that takes logarithms, and a likelihood of counts beside the sample's number of all of them.

        Width and normalisation are those of Lopez et al. 2018, https://doi.org/10.1038/s41592-018-0229-2.
        """
        from lightning_ae.architectures import MLP
        from lightning_ae.parts import NegativeBinomial

        return {"architecture": MLP((128,), norm="batch", log1p=True), "likelihood": NegativeBinomial(library=True)}

    @property
    def padded(self) -> bool:
        """Whether they are sparse rows."""
        return self._width is not None

    @property
    def how(self) -> str:
        """That they are counts, and of how many dimensions."""
        return "counts" if self._width is None else f"sparse counts of {self._width} dimensions"

    def _with(self, **state: Any) -> Counts:
        found = copy.copy(self)
        for name, value in state.items():
            object.__setattr__(found, name, value)
        return found

    def decode(self, rows: pa.Table, columns: list[str], split: str, first: int) -> np.ndarray:
        """Integers (N, dimensions); of sparse rows (N, 2, entries), see `CountPreprocess`."""
        if pa.types.is_struct(rows[columns[0]].type):
            return self._sparse(rows[columns[0]].combine_chunks(), columns[0], split, first)
        arrays = []
        for column in columns:
            where = f"column {column!r} of split {split!r}"
            values = numbers(rows[column], np.dtype(np.float64), where, first)
            single = values.shape[1] == 1 and len(columns) > 1
            refuse_uncounted(values, lambda i, w=where, s=single: w if s else f"{w} at {i}", first)  # type: ignore[misc]
            arrays.append(values)
        own = {values.dtype for values in arrays}
        kept = own.pop() if len(own) == 1 and own <= SMALL else np.dtype(np.int32)
        return np.concatenate(arrays, axis=1, dtype=np.uint8 if kept.kind == "b" else kept, casting="unsafe")

    def _sparse(self, column: pa.StructArray, name: str, split: str, first: int) -> np.ndarray:
        where = f"column {name!r} of split {split!r}"
        indices, values = column.field("indices"), column.field("values")
        lengths = pc.list_value_length(indices)
        if column.null_count or lengths.null_count:
            row = first + int(pc.index(pc.or_(pc.is_null(column), pc.is_null(indices)), pa.scalar(True)).as_py())
            raise InputError(f"{where} holds a missing row in row {row}", "drop such rows (Dataset.filter)")
        n = lengths.to_numpy(zero_copy_only=False)
        other = pc.list_value_length(values).fill_null(-1).to_numpy(zero_copy_only=False)
        if (n != other).any():
            row = int((n != other).argmax())
            raise InputError(f"{where} has {n[row]} indices and {max(other[row], 0)} values in row {first + row}")
        at, counts = pc.list_flatten(indices), pc.list_flatten(values)
        row_of = np.repeat(np.arange(len(n)), n)
        if at.null_count or counts.null_count:
            null = int(pc.index(pc.or_(pc.is_null(at), pc.is_null(counts)), pa.scalar(True)).as_py())
            raise InputError(f"{where} holds a missing value in row {first + int(row_of[null])}")
        at, counts = at.to_numpy(zero_copy_only=False), counts.to_numpy(zero_copy_only=False)
        if (place := uncounted(counts)) is not None:
            names = self._split.names if self._split is not None else None
            dimension = f"{at[place]}" if names is None else repr(names[int(at[place])])
            raise not_a_count(counts[place], f"{where} in row {first + int(row_of[place])} at {dimension}")
        assert self._width is not None
        assert self._split is not None
        if not 0 <= at.min(initial=0) <= at.max(initial=0) < len(self._split.names or range(self._width)):
            raise InputError(f"{where} has indices outside its dimensions")
        in_row = np.arange(len(at)) - np.repeat(np.cumsum(n) - n, n)
        entries = self._split.entries or max(1, int(n.max(initial=1)))
        found = np.zeros((len(n), 2, entries), self._split.type)
        found[:, 0] = self._width
        places = at if self._split.places is None else self._split.places[at]
        known = places >= 0
        found[row_of[known], 0, in_row[known]] = places[known]
        found[row_of[known], 1, in_row[known]] = counts[known]
        return found


@dataclass(frozen=True)
class _Split:
    """What is known of a split's sparse rows before they are decoded.

    Args:
        names: of its own dimensions, where it has some.
        places: of its dimensions in the model's, -1 where the model does not take one; None where they are the same.
        entries: of the fullest row; None where that is not known, and each chunk is as wide as it needs.
        type: that holds dimensions and counts.
    """

    names: tuple[str, ...] | None
    places: np.ndarray | None
    entries: int | None
    type: str


def gathered(splits: Any, signature: Signature) -> Any:
    """Splits that have a column for each dimension, as frames have it, with the one column of sparse rows that a model
    was trained on; others as they are.

    Args:
        splits: of a data set.
        signature: of a model, which finds the columns by its dimensions' names.

    Raises:
        InputError: when some of the columns are missing, hold what are no counts, or the data are streamed.
    """
    (wanted, *more) = signature.columns or (None,)
    if wanted is None or more or wanted.names is None:
        return splits
    names, column = list(wanted.names), wanted.name
    own = {split: set(rows.features or ()) for split, rows in splits.items()}
    apart = [split for split, there in own.items() if column not in there and there & set(names)]
    found = type(splits)(splits)
    for split in apart:
        rows = splits[split]
        check_names(column, names, list(rows.features))
        if not hasattr(rows, "select_columns") or not hasattr(rows, "__len__"):
            raise InputError(
                f"split {split!r} is streamed and has a column for each dimension of {column!r}, on which the model "
                "was trained",
                "use streaming=False",
            )
        found[split] = _gathered(rows, column, names, split)
    if apart:
        rank_zero_info(f"the columns that the model knows as dimensions of {column!r} are read as this one column")
    return found


def _gathered(rows: Any, column: str, names: list[str], split: str) -> Any:
    from datasets import Dataset, DatasetInfo, Features

    parts, first = [], 0
    for part in rows.select_columns(names).with_format("arrow").iter(READ):
        values = [
            numbers(part[name], np.dtype(np.float64), f"column {name!r} of split {split!r}", first) for name in names
        ]
        dense = np.concatenate(values, axis=1, dtype=np.float64)
        refuse_uncounted(dense, lambda i: f"column {names[i]!r}", first)
        parts.append(scipy.sparse.csr_array(dense.astype(np.float32)))
        first += len(dense)
    array, feature = sparse_column(scipy.sparse.vstack(parts, format="csr"), names, f"column {column!r}")
    others = [name for name in rows.column_names if name not in set(names)]
    columns = rows.select_columns(others).with_format("arrow")[:].columns if others else []
    table = pa.table([*columns, array], names=[*others, column])
    features = Features({**{name: rows.features[name] for name in others}, column: feature})
    return Dataset(table, info=DatasetInfo(features=features), fingerprint=fingerprint(table, features))


def _looked_at(column: pa.StructArray) -> tuple[int, float]:
    """The number of entries of the fullest row, and the largest value."""
    lengths = pc.max(pc.list_value_length(column.field("values"))).as_py()
    return lengths or 0, float(pc.max(pc.list_flatten(column.field("values"))).as_py() or 0)
