"""The signature: what a model's input is, as plain data that its checkpoints and zoo entries carry."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from lightning_ae.config import from_plain, to_plain
from lightning_ae.errors import InputError
from lightning_ae.natural import Reading, listed
from lightning_ae.preprocess import ImagePreprocess, Preprocess

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2  # 1 did not say whether images are binarised
_UNSAID = {"fit": "stretch", "range": None, "layout": None, "multiple": None}
"""Options of a preprocessing that came later, and what they are where nothing is said: hashes stay what they were."""
ColumnKind = Literal["image", "number", "vector", "category", "text", "date"]


@dataclass(frozen=True)
class Column:
    """A column of the data that a model was trained on.

    Args:
        name: in the data set, where it has one.
        kind: "image", "number", "vector" (a list of numbers of one length, or an array), "category" (a class), "date"
            (or a time of day), or "text", which makes no input by itself.
        type: of its values as the data set declares them, in Arrow's terms ("uint8", "double", "list<item: float>"),
            "image" for encoded ones.
        shape: of a value: () for a number, (13,) for a vector, (channels, height, width) of an image as it is read.
        range: the closed interval of natural units in which values lie, of what has one: (0, 255) for bytes.
        classes: their names, in the order of their numbers.
        missing: what becomes of missing values: "masked" are zero in the model's input, and do not count in its loss.
        names: of a vector's dimensions, where they have some, as genes have.
    """

    name: str
    kind: ColumnKind
    type: str
    shape: tuple[int, ...] = ()
    range: tuple[float, float] | None = None
    classes: tuple[str, ...] | None = None
    missing: Literal["refused", "masked"] = "refused"
    names: tuple[str, ...] | None = field(default=None, repr=False)

    def plain(self) -> dict[str, Any]:
        """Its fields, from which it is made again; `names` only where there are some."""
        return {name: value for name, value in asdict(self).items() if name != "names" or value is not None}


@dataclass(frozen=True)
class Signature:
    """What goes into a model; made once, from its training data, and what everything that feeds it goes through.

    Columns are found by their names, and statistics are those of the training data, whatever data are at hand.

    Args:
        preprocess: from natural units to the model's input, with the statistics in float64.
        columns: those that make the input, in order; none where nobody said (a tensor of one's own, older checkpoints).
        label: the column of labels, where there is one.
        support: the closed interval of values, in the model's units, that its likelihood takes; None for all numbers.
        version: of this format.
        condition: what the model is given besides, where that is columns: those, and their statistics.
    """

    preprocess: Preprocess
    columns: tuple[Column, ...] = ()
    label: Column | None = None
    support: tuple[float, float] | None = None
    version: int = FORMAT
    condition: Signature | None = None

    @property
    def names(self) -> list[str]:
        """The names of the input's columns, in order."""
        return [column.name for column in self.columns]

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """The classes of each column of categories among the input's."""
        return {each.name: each.classes for each in self.columns if each.kind == "category" and each.classes}

    @property
    def masked(self) -> bool:
        """Whether values of the input may be missing."""
        return any(column.missing == "masked" for column in self.columns)

    @cached_property
    def hash(self) -> str:
        """32 hexadecimal digits that tell this signature from every other."""
        text = json.dumps(self.plain(), sort_keys=True, allow_nan=False)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def plain(self) -> dict[str, Any]:
        """Numbers, texts, lists and dicts, from which `from_plain` makes it again."""
        preprocess = to_plain(self.preprocess, "preprocess")
        init_args = preprocess["init_args"]
        for name, plainly in _UNSAID.items():
            if name in init_args and init_args[name] == plainly:
                del init_args[name]
        if self.version == 1:
            for later in ("binarize", "knots"):
                init_args.pop(later, None)
        condition = {} if self.condition is None else {"condition": self.condition.plain()}
        return condition | {
            "version": self.version,
            "columns": [to_plain(column.plain(), "columns") for column in self.columns],
            "label": None if self.label is None else to_plain(self.label.plain(), "label"),
            "preprocess": preprocess,
            "support": None if self.support is None else [None if math.isinf(v) else float(v) for v in self.support],
        }

    @classmethod
    def from_plain(cls, value: Any) -> Signature:
        """The signature that plain data of a file describe.

        Raises:
            InputError: when they do not, or are of a later version of this package.
        """
        try:
            if value["version"] > FORMAT:
                raise InputError(
                    f"its signature is of format {value['version']}, and this version of lightning_ae reads up to "
                    f"{FORMAT}",
                    "pip install --upgrade lightning_ae",
                )
            low, high = value["support"] or (None, None)
            bounds = (-math.inf if low is None else float(low), math.inf if high is None else float(high))
            return cls(
                preprocess=from_plain(Preprocess, value["preprocess"], "preprocess"),
                columns=tuple(_column(each) for each in value["columns"]),
                label=None if value["label"] is None else _column(value["label"]),
                support=None if value["support"] is None else bounds,
                version=value["version"],
                condition=cls.from_plain(value["condition"]) if value.get("condition") is not None else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"its signature is not what it should be ({type(error).__name__}: {error})",
                "the file is of another version, or damaged",
            ) from error

    def value_names(self, count: int) -> list[str]:
        """The names of a vector's `count` values, or of the channels of sequences and arrays; else their numbers."""
        if len(self.columns) == count and (count > 1 or not self.columns[0].shape):
            return self.names
        if len(self.columns) == 1 and self.columns[0].kind == "vector":
            column = self.columns[0]
            named = column.names is not None and len(column.names) == count
            return list(column.names or ()) if named else [f"{column.name}[{i}]" for i in range(count)]
        return [str(i) for i in range(count)]

    def check(self, found: Mapping[str, Column]) -> None:
        """Whether data with these columns are what the model was trained on.

        Args:
            found: the columns of the data at hand, by name; further ones do not matter.

        Raises:
            InputError: naming each column that is missing, or holds another kind of values.
        """
        if missing := [name for name in self.names if name not in found]:
            raise InputError(
                f"the model was trained on the columns {listed(self.names)}, of which the data lack {listed(missing)}",
                f"columns are found by their names; the data have {listed(list(found))}: rename them "
                "(Dataset.rename_columns) to the model's",
            )
        for column in self.columns:
            other = found[column.name]
            if column.kind == "category" and other.kind in ("category", "text", "number"):
                continue  # values are found by name
            if column.names is not None and other.names is not None:
                check_names(column.name, column.names, other.names)
                continue
            read_as_image = len(column.shape) == 3 and not other.shape  # of arrays, whose shape reading tells
            alike = column.kind == other.kind and (column.shape == other.shape or read_as_image)
            if not alike and "image" not in (column.kind, other.kind):
                raise InputError(
                    f"column {column.name!r} holds {_described(other)}, where the model was trained on "
                    f"{_described(column)}",
                    "convert it to what it was (Dataset.cast_column)",
                )
            if column.kind != other.kind:
                raise InputError(
                    f"column {column.name!r} holds {_described(other)}, where the model takes {_described(column)}",
                    "bytes are arrays where the kind is that of training: kind=Image(range=..., layout=...), say"
                    if other.kind == "image"
                    else "convert it to what it was (Dataset.cast_column)",
                )

    def natural(self, data: Any, mask: Tensor | None = None, check: bool = True) -> Tensor:
        """Data of any form in natural units, (B, ...), on the data's device; see `Preprocess.natural`.

        Args:
            data: for images a PIL image, an array or a tensor, or a sequence of them; for columns a data frame, a dict
                of columns, or anything that makes an array (B, dimensions).
            mask: true where a value is known, of the data's shape; the others become zero.
            check: whether floats are looked at, which waits for the device.

        Values that may be missing are NaN where they are.

        Raises:
            InputError: naming the row, and the column, of what cannot be used.
        """
        return self.preprocess.natural(data, self.reading(mask, check))

    def reading(self, mask: Tensor | None = None, check: bool = True) -> Reading:
        """How data are read in natural units; see `natural`."""
        named = {each.name: each.names for each in self.columns if each.names is not None}
        return Reading(
            names=self.names,
            shape=self.columns[0].shape if len(self.columns) == 1 else (),
            mask=mask,
            check=check,
            classes=self.classes | named,
            masked=self.masked,
            unknown=self.masked and all(column.missing == "masked" for column in self.columns),
            dates=[each.name for each in self.columns if each.kind == "date" or each.type.startswith("duration")],
        )

    def tensor(self, data: Any) -> Tensor:
        """Data of any form, in natural units, as the model takes them: (B, ...), float32; see `natural`.

        What is missing is zero.
        """
        x = self.preprocess(self.natural(data))
        return x.nan_to_num(nan=0.0) if self.masked else x

    def of_any_size(self, multiple: int) -> Signature:
        """The same, of a model that takes images as they are: of any height and width that `multiple` divides."""
        if not isinstance(self.preprocess, ImagePreprocess):
            return self
        return replace(self, preprocess=replace(self.preprocess, size=None, fit="stretch", multiple=multiple))

    def with_support(self, support: tuple[float, float]) -> Signature:
        """The same, of a model whose likelihood takes values in this interval."""
        return replace(self, support=None if support == (-math.inf, math.inf) else support)


class Natural(dict[str, Any]):
    """A batch in natural units, which the data module has yet to make what a model takes."""


def check_names(column: str, names: Sequence[str], found: Sequence[str]) -> None:
    """Whether all dimensions of a column that a model takes are there, in any order.

    Raises:
        InputError: naming those that are missing.
    """
    there = set(found)
    if missing := [name for name in names if name not in there]:
        raise InputError(
            f"column {column!r} lacks {len(missing)} of the {len(names)} dimensions that the model was trained on: "
            f"{listed(missing)}",
            f"dimensions are found by their names; it has {listed(found)}: rename them to the model's",
        )


def _column(value: Mapping[str, Any]) -> Column:
    lists = {name: tuple(value[name]) for name in ("shape", "range", "classes", "names") if value.get(name) is not None}
    return Column(**{**value, **lists})


def _described(column: Column) -> str:
    shape = f" of shape {tuple(column.shape)}" if column.shape else ""
    return f"{'an' if column.kind == 'image' else 'a'} {column.kind}{shape} ({column.type})"
