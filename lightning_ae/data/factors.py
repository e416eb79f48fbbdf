"""The factors of data whose making is known: which columns hold them, and their values as numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from lightning_ae.data.columns import check_columns, image_columns, is_text, label_columns
from lightning_ae.data.labels import MOST, UNLABELLED, texts
from lightning_ae.data.signature import Column, listed
from lightning_ae.errors import InputError

if TYPE_CHECKING:
    from datasets import Features

KNOWN: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "dSprites": (
        ("shape", "scale", "orientation", "x", "y"),  # "sprites" of this package
        ("shape", "scale", "orientation", "position_x", "position_y"),
        ("label_shape", "label_scale", "label_orientation", "label_x_position", "label_y_position"),
    ),
    "3D Shapes": (
        ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation"),
        ("label_floor_hue", "label_wall_hue", "label_object_hue", "label_scale", "label_shape", "label_orientation"),
    ),
    "MPI3D": (
        ("object_color", "object_shape", "object_size", "camera_height", "background_color", "horizontal_axis",
         "vertical_axis"),
    ),
}  # fmt: skip
"""The columns of factors of well-known data sets, as copies on the hub name them; a factor with one value is none."""


def find_factors(features: Features, names: Sequence[str] | None = None) -> tuple[str, ...]:
    """The columns that hold factors: those named, else those of a well-known data set of images that has all of them,
    else none.

    Raises:
        InputError: when a column is not there, stands twice, or holds no values that can be told apart.
    """
    able = set(label_columns(features))
    if names is None:
        if not image_columns(features):  # a table's columns of such names may be anything
            return ()
        return next((each for known in KNOWN.values() for each in known if set(each) <= able), ())
    if isinstance(names, str) or not names:
        raise InputError(f"factors must be names of columns, got {names!r}", f"factors={[names or '...']!r}")
    check_columns(names, features)
    for name in names:
        if name not in able:
            raise InputError(
                f"factor {name!r} holds {features[name]}, not numbers, classes or text",
                f"columns of those: {listed([each for each in features if each in able])}",
            )
    if len(set(names)) < len(names):
        raise InputError(f"factors names a column twice: {listed(list(names))}")
    return tuple(names)


def factor_columns(splits: Iterable[Any], names: Sequence[str]) -> tuple[Column, ...]:
    """The factors, with their values.

    A factor is a "category" where its values have no order: those of a column of text, or of declared classes whose
    names are no numbers. Else it is a "number": its values are in order.

    Args:
        splits: the rows of each split of the data set: their values together are those of the factor, so that a number
            means the same in each.
        names: of the columns.

    Raises:
        InputError: when one has more than 1000 values, or none.
    """
    rows = list(splits)
    return tuple(_column(rows, name) for name in names)


def _column(splits: list[Any], name: str) -> Column:
    feature = splits[0].features[name]
    type_ = str(splits[0].features.arrow_schema.field(name).type)
    if (declared := getattr(feature, "names", None)) is not None:
        ordered = all(map(_is_number, declared))
        return Column(name, "number" if ordered else "category", type_, classes=tuple(declared))
    tables = [rows.select_columns([name]).with_format("arrow")[:][name] for rows in splits]
    values = pc.unique(pa.chunked_array([chunk for table in tables for chunk in table.cast(tables[0].type).chunks]))
    values = values.drop_null().sort()
    if pa.types.is_floating(values.type):
        values = values.filter(pc.is_finite(values))
    if pa.types.is_integer(values.type) and values.to_pylist() != [UNLABELLED, 1]:
        values = values.filter(pc.not_equal(values, UNLABELLED))  # which marks rows without one
    if not 0 < len(values) <= MOST:
        raise InputError(
            f"factor {name!r} holds {len(values)} different values, and a factor has 1 to {MOST}",
            "put the values of a continuous one into bins first (Dataset.map)",
        )
    classes = tuple(texts(pa.chunked_array([values])).to_pylist())
    return Column(name, "category" if is_text(feature) else "number", type_, classes=classes)


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
