"""Kinds of data: how the columns of a data set become one array, and the array's rows what a model takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_ae.data.columns import image_columns
from lightning_ae.data.kinds.base import Kind
from lightning_ae.data.kinds.image import Image
from lightning_ae.data.kinds.sequence import Sequence
from lightning_ae.data.kinds.tabular import Tabular

if TYPE_CHECKING:
    from datasets import Features

__all__ = ["Image", "Kind", "Sequence", "Tabular", "kind_of"]


def kind_of(features: Features) -> Kind:
    """Images where there is a column of them, else a table."""
    return Image() if image_columns(features) else Tabular()
