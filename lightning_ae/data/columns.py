"""What the columns of a data set are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lightning_ae.data.signature import Column
from lightning_ae.errors import InputError

if TYPE_CHECKING:
    from datasets import Features


def describe(features: Features) -> dict[str, Column]:
    """The columns that can make an input or be a label, by name; the shape of images, and of vectors of any length, is
    not known before they are read."""
    found: dict[str, Column] = {}
    schema = features.arrow_schema
    for name in features:
        if name in image_columns(features):
            found[name] = Column(name, "image", "image", range=(0, 255))
        elif (classes := getattr(features[name], "names", None)) is not None:
            found[name] = Column(name, "category", str(schema.field(name).type), classes=tuple(classes))
        elif name in scalar_columns(features):
            found[name] = Column(name, "number", str(schema.field(name).type))
        elif name in vector_columns(features):
            found[name] = Column(name, "vector", str(schema.field(name).type))
    return found


def image_columns(features: Features) -> list[str]:
    """The columns that hold images."""
    return [name for name, feature in features.items() if type(feature).__name__ == "Image"]


def scalar_columns(features: Features) -> list[str]:
    """The columns that hold a number or a class each."""
    return [name for name, feature in features.items() if _is_number(feature)]


def vector_columns(features: Features) -> list[str]:
    """The columns that hold a list of numbers each."""
    return [
        name for name, feature in features.items()
        if type(feature).__name__ in ("List", "LargeList", "Sequence") and _is_number(feature.feature)
    ]  # fmt: skip


def check_columns(names: Iterable[str], features: Features) -> None:
    """Raises InputError for a column that is not there, listing those that are."""
    for name in names:
        if name not in features:
            raise InputError(f"the data set has no column {name!r}", f"it has {list(features)}")


def _is_number(feature: Any) -> bool:
    # arrays of two and more dimensions have a dtype as well
    return type(feature).__name__ in ("Value", "ClassLabel") and feature.dtype.startswith(
        ("int", "uint", "float", "bool")
    )
