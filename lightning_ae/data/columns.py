"""What the columns of a data set are, and which of them make a model's input where nobody says so."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lightning_ae.data.signature import Column, listed
from lightning_ae.errors import InputError

if TYPE_CHECKING:
    from datasets import Features

LABELS = ("label", "labels", "target", "class", "cls", "y")
TARGETS = {
    *(*LABELS, "targets", "classes", "outcome", "response", "diagnosis"),
    *("fraud", "anomaly", "outlier", "churn", "default", "is_fraud", "is_anomaly", "is_outlier", "is_default"),
}
TARGET_ENDINGS = ("_label", "_labels", "_target", "_class", "_outcome")
IDENTIFIER = re.compile(r"(^|[_\-. ])(id|ids|uuid|guid|key|pk|rowid|row_?id|idx)$")
CAMEL_IDENTIFIER = re.compile(r"[a-z](Id|ID)$")
INDEX = re.compile(r"__index_level_\d+__|Unnamed: ?\d+(_level_\d+)?|level_\d+|[Ii]ndex|")
LOOKS = ("looks like a target", "an identifier", "an index")
_LISTS = ("List", "LargeList", "Sequence")
_WHOLE = ("int", "uint")
_NUMBERS = (*_WHOLE, "float", "double", "bool", "decimal")
_DATES = ("timestamp", "date", "time")
_TEXTS = ("string", "large_string", "string_view")


@dataclass(frozen=True)
class Choice:
    """Which columns of a data set a model takes, and which it does not.

    Args:
        input: the columns that make the input, in order.
        label: the column of labels, or None.
        left_out: what else there is, with the reason why it makes no input.
    """

    input: tuple[str, ...]
    label: str | None
    left_out: Mapping[str, str]

    def said(self, how: str = "", classes: str = "", hint: bool = False) -> str:
        """In one line; `how` is said of the input, `classes` of the label, and `hint` says how to take what was left
        out by its name."""
        names = listed(self.input)
        columns = names if len(self.input) == 1 else f"{len(self.input)} columns ({names})"
        parts = [
            f"input: {columns}{f', {how}' if how else ''}",
            f"label: {'none' if self.label is None else self.label + classes}",
        ]
        if self.left_out:
            parts.append(f"left out: {reasons(self.left_out)}")
        if hint and any(reason in LOOKS for reason in self.left_out.values()):
            parts.append("to take one all the same, name the input: kind=Tabular(columns=[...])")
        return "; ".join(parts)


def choose(
    features: Features, label: str | None, chosen: Iterable[str] | None = None, categories: Iterable[str] = ()
) -> Choice:
    """The columns of a table that make the input: the only one of vectors, else all of numbers.

    What looks like a target, an index or an identifier is left out, whatever it holds; see `Tabular`.

    Args:
        features: of the data set.
        label: the column of labels, or None.
        chosen: the columns that make the input, where that is settled; the rest is left out then.
        categories: columns that are taken beside numbers, whatever they hold and look like.
    """
    known, named = describe(features), set(categories)
    why: dict[str, str] = {}
    for name, feature in features.items():
        if name != label:
            looks = _looks(name, feature, features)
            wide = is_array(feature) or is_sparse(feature)
            able = name in known and known[name].kind in ("image", "number", "vector") and not wide
            why[name] = "" if name in named else looks or ("" if able else _what(feature))
    if chosen is not None:
        taken = tuple(chosen)
    else:
        vectors = tuple(name for name, reason in why.items() if not reason and known[name].kind == "vector")
        numbers = tuple(
            name for name, reason in why.items() if not reason and (name in named or known[name].kind == "number")
        )
        taken = numbers if named else vectors or numbers
    beside, inside = "not among the input's columns", set(taken)
    return Choice(taken, label, {name: reason or beside for name, reason in why.items() if name not in inside})


def find_label(features: Features, texts: bool = True) -> str | None:
    """The only column of classes, else one named label, labels, target, class, cls or y, in any case; else None.

    Where there is a column x of numbers, y is a coordinate. Columns of text count where `texts` says so. A
    field of webdataset's .json members ("json.label") counts where no column is named so.
    """
    classes = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    if len(classes) == 1:
        return classes[0]
    able = [
        name for name in (label_columns if texts else scalar_columns)(features)
        if not (name.lower() == "y" and _coordinates(features))
    ]  # fmt: skip
    for wanted in LABELS:
        if named := [name for name in able if name.lower() == wanted]:
            return named[0] if wanted not in named else wanted
    fields = {name.removeprefix("json.").lower(): name for name in reversed(able) if name.startswith("json.")}
    return next((fields[wanted] for wanted in LABELS if wanted in fields), None)


def describe(features: Features) -> dict[str, Column]:
    """The columns that can make an input or be a label, by name; the shape of images, and of vectors of any length, is
    not known before they are read."""
    found: dict[str, Column] = {}
    schema = features.arrow_schema
    for name, feature in features.items():
        if type(feature).__name__ == "Image":
            found[name] = Column(name, "image", "image", range=(0, 255))
        elif (classes := getattr(feature, "names", None)) is not None:
            found[name] = Column(name, "category", str(schema.field(name).type), classes=tuple(classes))
        elif _is_number(feature) or _dtype(feature).startswith("duration"):
            found[name] = Column(name, "number", str(schema.field(name).type))
        elif _is_vector(feature) or is_array(feature):
            found[name] = Column(name, "vector", str(schema.field(name).type))
        elif is_sparse(feature):
            width, names = dimensions(feature)
            found[name] = Column(name, "vector", str(schema.field(name).type), (width,), names=names)
        elif is_text(feature):
            found[name] = Column(name, "text", str(schema.field(name).type))
        elif _dtype(feature).startswith(_DATES):
            found[name] = Column(name, "date", str(schema.field(name).type))
    return found


def image_columns(features: Features) -> list[str]:
    """The columns that hold images."""
    return [name for name, feature in features.items() if type(feature).__name__ == "Image"]


def scalar_columns(features: Features) -> list[str]:
    """The columns that hold a number or a class each."""
    return [name for name, feature in features.items() if _is_number(feature)]


def vector_columns(features: Features) -> list[str]:
    """The columns that hold a list of numbers each."""
    return [name for name, feature in features.items() if _is_vector(feature)]


def array_columns(features: Features) -> list[str]:
    """The columns that hold an array of numbers of two or more dimensions each, or nested lists of them."""
    return [name for name, feature in features.items() if is_array(feature)]


def sparse_columns(features: Features) -> list[str]:
    """The columns that hold sparse rows; see `lightning_ae.data.memory.sparse_column`."""
    return [name for name, feature in features.items() if is_sparse(feature)]


def value_columns(features: Features) -> list[str]:
    """The columns that hold a number, a class, a date, a time or a duration each."""
    times = (*_DATES, "duration")
    return [name for name, feature in features.items() if _is_number(feature) or _dtype(feature).startswith(times)]


def category_columns(features: Features) -> list[str]:
    """The columns of classes and texts, but those that look like a target or an identifier."""
    return [
        name
        for name, feature in features.items()
        if (is_text(feature) or type(feature).__name__ == "ClassLabel") and not _looks(name, feature, features)
    ]


def label_columns(features: Features) -> list[str]:
    """The columns that hold a number, a class or a text each."""
    return [name for name, feature in features.items() if _is_number(feature) or _dtype(feature) in _TEXTS]


def is_text(feature: Any) -> bool:
    """Whether a column holds texts."""
    return _dtype(feature) in _TEXTS


def is_whole(feature: Any) -> bool:
    """Whether a column holds whole numbers, of no declared class."""
    return type(feature).__name__ == "Value" and _dtype(feature).startswith(_WHOLE)


def holds(name: str, features: Features) -> str:
    """What a column holds, in words, with its type."""
    known = describe(features).get(name)
    words = {"number": "numbers", "vector": "vectors"}.get(known.kind if known else "") or _what(features[name])
    return f"{words} ({features.arrow_schema.field(name).type})"


def same_kind(name: str, one: Features, other: Features) -> bool:
    """Whether a column is read in the same way from two data sets: as images, numbers of any type, or vectors of them;
    what a kind of one's own reads must be of the same type."""
    kinds = [found[name].kind if name in (found := describe(features)) else None for features in (one, other)]
    return kinds[0] == kinds[1] if kinds[0] or kinds[1] else bool(one[name] == other[name])


def is_array(feature: Any) -> bool:
    """Whether a column holds arrays of two or more dimensions, or nested lists, of numbers."""
    if type(feature).__name__.startswith("Array"):
        return str(feature.dtype).startswith(_NUMBERS)
    inner = getattr(feature, "feature", None)
    return type(feature).__name__ in _LISTS and (_is_vector(inner) or is_array(inner))


def arrays_as(name: str, feature: Any, images: bool = False) -> str:
    """The kinds that read a column of arrays, in words, since nothing says which; those of images alone, if so asked.

    The range is the one that values of their type mostly have.
    """
    inner, dims = feature, 0
    while type(inner).__name__ in _LISTS:
        inner, dims = inner.feature, dims + 1
    dims = dims or len(inner.shape)
    limits = {"bool": "(0, 1)", "float": "(0, 1)", "uint8": "(0, 255)", "uint16": "(0, 65535)"}
    said = next((each for type_, each in limits.items() if str(inner.dtype).startswith(type_)), "(low, high)")
    layout = ", layout='CHW') or 'HWC'" if dims == 3 else ")"
    ways = [f"kind=Image(range={said}{layout} for images, the range being what is black and white"] if dims < 4 else []
    if not images:
        ways += ["kind=Sequence(layout='NCL') or 'NLC' for sequences"] if dims == 2 else []
        ways += [f"kind=Tabular(columns=[{name!r}]) for other numbers, scaled along their first dimension"]
    return f"say what the arrays in {name!r} are: {'; '.join(ways)}" if ways else "images have two dimensions or three"


def is_sparse(feature: Any) -> bool:
    """Whether a column holds sparse rows: lists of dimensions, which are classes, and of their values."""
    if not isinstance(feature, dict) or set(feature) != {"indices", "values"}:
        return False
    indices, values = feature["indices"], feature["values"]
    listed = all(type(each).__name__ in _LISTS for each in (indices, values))
    return listed and type(indices.feature).__name__ == "ClassLabel" and _is_number(values.feature)


def dimensions(feature: Any) -> tuple[int, tuple[str, ...] | None]:
    """How many dimensions sparse rows have, and their names, None where they are but numbers."""
    names = tuple(feature["indices"].feature.names)
    return len(names), None if names == tuple(map(str, range(len(names)))) else names


def reasons(left_out: Mapping[str, str]) -> str:
    """Columns in a message, each with why it was left out: those named by themselves first."""
    order = sorted(left_out, key=lambda name: left_out[name] not in LOOKS)
    return listed([f"{name} ({left_out[name]})" for name in order])


def check_columns(names: Iterable[str], features: Features) -> None:
    """Raises InputError for a column that is not there, listing those that are."""
    for name in names:
        if name not in features:
            raise InputError(
                f"the data set has no column {name!r}", f"it has [{listed([repr(each) for each in features])}]"
            )


def _looks(name: str, feature: Any, features: Features) -> str | None:
    """What a column is by its name, whatever it holds."""
    lower = name.lower()
    if (lower in TARGETS or lower.endswith(TARGET_ENDINGS)) and not (lower == "y" and _coordinates(features)):
        return "looks like a target"
    if name.startswith("__index_level_") and INDEX.fullmatch(name):
        return "an index"
    if not (is_whole(feature) or is_text(feature)):
        return None
    if INDEX.fullmatch(name):
        return "an index"
    return "an identifier" if IDENTIFIER.search(lower) or CAMEL_IDENTIFIER.search(name) else None


def _coordinates(features: Features) -> bool:
    """Whether y stands beside a number x, so that it is a coordinate."""
    return any(name.lower() == "x" and _is_number(feature) for name, feature in features.items())


def _what(feature: Any) -> str:
    """What a column that makes no input holds, in words."""
    name, dtype = type(feature).__name__, _dtype(feature)
    if name == "ClassLabel":
        return "classes"
    if name in _LISTS:
        inner = feature.feature
        return "lists of images" if type(inner).__name__ == "Image" else "nested lists" if (
            type(inner).__name__ in _LISTS) else f"lists: {_what(inner)}"  # fmt: skip
    if name.startswith("Array"):
        return f"arrays of shape {tuple(feature.shape)}"
    if isinstance(feature, dict):
        return "sparse rows" if is_sparse(feature) else "a struct"
    if name == "Image":
        return "images"
    if name != "Value":
        return name.lower()
    if dtype in _TEXTS:
        return "text"
    if dtype == "null":
        return "all values missing"
    return "a date" if dtype.startswith(_DATES) else dtype


def _dtype(feature: Any) -> str:
    return str(feature.dtype) if type(feature).__name__ in ("Value", "ClassLabel") else ""


def _is_number(feature: Any) -> bool:
    # arrays of two and more dimensions have a dtype as well
    return _dtype(feature).startswith(_NUMBERS)


def _is_vector(feature: Any) -> bool:
    return type(feature).__name__ in _LISTS and _is_number(feature.feature)
