"""Labels as numbers of classes, and what else a batch has besides its input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from lightning_ae.data.columns import is_text, is_whole
from lightning_ae.data.signature import Column, listed
from lightning_ae.errors import InputError
from lightning_ae.natural import MISSING

if TYPE_CHECKING:
    from lightning_ae.data.kinds.conditions import Given

FEW, MOST = 20, 1000  # classes: always enough to be classes, never too many
UNLABELLED = -1  # as Hugging Face marks it


def label_column(rows: Any, name: str, streaming: bool, model: tuple[str, ...] | None = None) -> Column:
    """The column of labels, with its classes where it names any.

    A ClassLabel has its classes with it; of booleans they are false and true. The distinct texts of a column are its
    classes, and so are distinct integers where there are at most 20, or at most 1000 that are no more than half of the
    rows: classes in order, made of these rows. -1 among integers marks rows without a label, unless the others are all
    1. Floats and decimals are numbers, and so are integers of more values. Integers of a stream are taken for numbers
    of classes as they are: which there are shows at its end only.

    Args:
        rows: of the training split.
        name: the column.
        streaming: whether they are read as they come, and only declared classes are known.
        model: the classes that a trained model knows, which a stream's labels are taken to name.

    Raises:
        InputError: for texts of more than 1000 kinds, or of a stream.
    """
    feature = rows.features[name]
    type_ = str(rows.features.arrow_schema.field(name).type)
    known = model if streaming and (is_text(feature) or is_whole(feature)) else None
    classes = known or _classes(rows, name, feature, streaming)
    numbered = classes is None and not (streaming and is_whole(feature))
    return Column(name, "number" if numbered else "category", type_, classes=classes)


def _classes(rows: Any, name: str, feature: Any, streaming: bool) -> tuple[str, ...] | None:
    if (names := getattr(feature, "names", None)) is not None:
        return tuple(names)
    if feature.dtype == "bool":
        return "false", "true"
    if not (is_text(feature) or is_whole(feature)):
        return None
    if streaming:
        if is_whole(feature):
            return None
        raise InputError(
            f"label {name!r} holds text, and a stream does not say which classes there are",
            "declare them (ClassLabel), or use streaming=False",
        )
    values = rows.select_columns([name]).with_format("arrow")[:][name]
    distinct = pc.unique(values).drop_null().sort()
    if is_whole(feature):
        found = distinct.to_pylist()
        if found and found[0] == UNLABELLED and found != [-1, 1]:
            found = found[1:]
        many = len(found) > max(FEW, min(MOST, len(values) // 2))
        return None if many or not found else tuple(map(str, found))
    if len(distinct) > MOST:
        raise InputError(
            f"label {name!r} holds {len(distinct)} different texts, too many for classes",
            "name another column: label=...",
        )
    return tuple(distinct.to_pylist()) or None


def classes_of(rows: Any, name: str, streaming: bool, most: int | None = None) -> tuple[str, ...] | None:
    """The classes of a column of categories in these rows: those it declares, or its distinct values, sorted.

    Missing ones are the last class, where there are any.

    Args:
        rows: of the training split.
        name: the column.
        streaming: whether they are read as they come, and only declared classes are known.
        most: how many there may be; by default no column of more than half as many as rows, or more than 1000, counts,
            and the answer is None.

    Raises:
        InputError: when there are more than `most`, or a stream declares none.
    """
    feature = rows.features[name]
    if (names := getattr(feature, "names", None)) is not None:
        return (*names, MISSING)
    if feature.dtype == "bool":
        return "false", "true", MISSING
    if streaming:
        raise InputError(
            f"categories of column {name!r} are not declared, and a stream does not say which there are",
            f"state them: kind=Tabular(categories={{{name!r}: [...]}}), or use streaming=False",
        )
    values = rows.select_columns([name]).with_format("arrow")[:][name]
    distinct = pc.unique(texts(values)).drop_null().sort().to_pylist()
    if len(distinct) > (min(MOST, len(values) // 2) if most is None else most):
        if most is None:
            return None
        raise InputError(
            f"column {name!r} holds {len(distinct)} different values, too many for categories",
            "leave it out, or group them first (Dataset.map)",
        )
    if is_whole(feature):
        distinct.sort(key=int)
    # one alone would be no choice
    return (*distinct, *([MISSING] if values.null_count or len(distinct) == 1 else []))


@dataclass(frozen=True)
class Beside:
    """What a batch has besides its input: the label (int64 classes, or float32), columns of numbers, and the condition.

    In further columns and in labels that are numbers missing values are NaN, and whole numbers without missing ones
    are int64; rows without a class have -1.

    Args:
        names: of the columns.
        label: the column of labels, with the classes that its numbers mean; None where there is none.
        features: of the columns in the data set that is read.
        split: its name, for errors.
        labelled: whether a row without a class is refused.
        condition: reads the condition, where there is one.
    """

    names: list[str]
    label: Column | None
    features: dict[str, Any] = field(repr=False)
    split: str
    labelled: bool = False
    condition: Given | None = None

    @property
    def columns(self) -> list[str]:
        """The columns that it reads."""
        return list(dict.fromkeys((*self.names, *(() if self.condition is None else self.condition.columns))))

    def __call__(self, rows: pa.Table, numbers: Sequence[Any]) -> dict[str, Tensor]:
        """The columns (B,) of these rows; `numbers` are the data set's own of the rows.

        Raises:
            InputError: naming the row, for a class that is not known, or for none.
        """
        found = {name: torch.from_numpy(self._column(name, rows[name], numbers)) for name in self.names}
        if self.labelled and self.label is not None and self.label.kind == "category" and self.label.name in found:
            self.refuse_unlabelled(found[self.label.name], numbers)
        if self.condition is not None:
            found[self.condition.name] = self.condition(rows, numbers)
        return found

    def refuse_unlabelled(self, labels: Tensor, numbers: Sequence[Any]) -> None:
        """Refuses labels (B,) of which one is of no class.

        Raises:
            InputError: naming the first such row.
        """
        if (missing := labels < 0).any():
            assert self.label is not None
            raise InputError(
                f"the model needs a label for each sample, and {self.label.name!r} of split {self.split!r} has none in "
                f"row {numbers[int(missing.int().argmax())]} (missing, or -1)",
                "drop such rows (Dataset.filter)",
            )

    def _column(self, name: str, values: pa.ChunkedArray, numbers: Sequence[Any]) -> np.ndarray:
        is_label = self.label is not None and name == self.label.name
        if is_label and self.label is not None and self.label.classes is not None:
            return self._classes(name, values, self.label.classes, numbers)
        unnamed = is_label and self.label is not None and self.label.kind == "category"
        if unnamed or getattr(self.features[name], "names", None) is not None:
            values = values.fill_null(UNLABELLED)
        whole, boolean = pa.types.is_integer(values.type), pa.types.is_boolean(values.type)
        if is_label and whole and values.null_count:
            row = numbers[_first(pc.is_null(values))]
            raise InputError(
                f"label {name!r} of split {self.split!r} has no value in row {row}",
                "drop such rows, or cast the column to float, where missing values are NaN (Dataset.cast_column)",
            )
        kept = boolean and not values.null_count
        wide = whole and not values.null_count
        try:
            return np.array(pc.cast(values, pa.bool_() if kept else pa.int64() if wide else pa.float64())).astype(
                bool if kept else np.int64 if wide else np.float32
            )
        except pa.ArrowInvalid as error:
            raise InputError(f"column {name!r} of split {self.split!r} holds what int64 cannot: {error}") from error

    def _classes(
        self, name: str, values: pa.ChunkedArray, classes: Sequence[str], numbers: Sequence[Any]
    ) -> np.ndarray:
        own = getattr(self.features[name], "names", None)
        if own is None:
            known = pc.index_in(texts(values), value_set=pa.array(classes, pa.string()))
            none = pc.is_null(values, nan_is_null=True)
            if pa.types.is_integer(values.type) and str(UNLABELLED) not in classes:
                none = pc.or_(none, pc.equal(values, UNLABELLED).fill_null(False))
        else:
            values = values.fill_null(UNLABELLED)
            none = pc.equal(values, UNLABELLED)
            known = pc.index_in(pc.cast(values, pa.int64()), value_set=pa.array(range(len(own)), pa.int64()))
            if tuple(own) != tuple(classes):  # the same classes in another order, or some of them
                number = {each: i for i, each in enumerate(classes)}
                known = pc.take(pa.array([number.get(each) for each in own], pa.int64()), known)
        unknown = pc.and_(pc.is_null(known), pc.invert(none))
        if pc.any(unknown).as_py():
            at = _first(unknown)
            value = values[at].as_py()
            value = own[value] if own is not None and 0 <= value < len(own) else value
            raise InputError(
                f"label {name!r} of split {self.split!r} is {value!r} in row {numbers[at]}, which is no class of the "
                f"training data: {listed(list(classes))}",
                "drop such rows; where the column holds no classes, cast it to float (Dataset.cast_column) or name "
                "another: label=...",
            )
        return np.array(known.fill_null(UNLABELLED)).astype(np.int64)


def texts(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Classes by name: 1.0 is 1, as a column of integers with missing values becomes one of floats."""
    if pa.types.is_floating(values.type):
        double = pc.cast(values, pa.float64())
        whole = pc.fill_null(pc.and_(pc.equal(pc.round(double), double), pc.less(pc.abs(double), 2.0**53)), False)
        texts = pc.cast(pc.cast(pc.if_else(whole, double, None), pa.int64()), pa.string())
        return pc.coalesce(texts, pc.cast(values, pa.string()))
    return pc.cast(values, pa.string())


def _first(marked: pa.ChunkedArray) -> int:
    return int(pc.index(marked, pa.scalar(True)).as_py())
