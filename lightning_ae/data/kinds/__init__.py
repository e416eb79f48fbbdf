"""Kinds of data: how the columns of a data set become one array, and the array's rows what a model takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_ae.data.columns import image_columns, sparse_columns
from lightning_ae.data.kinds.base import Kind
from lightning_ae.data.kinds.counts import Counts
from lightning_ae.data.kinds.image import Image
from lightning_ae.data.kinds.sequence import Sequence
from lightning_ae.data.kinds.tabular import Tabular

if TYPE_CHECKING:
    from datasets import Features

__all__ = ["Counts", "Image", "Kind", "Sequence", "Tabular", "kind_of"]


def kind_of(features: Features) -> Kind:
    """Images where there is a column of them, counts where there are sparse rows, else a table."""
    if image_columns(features):
        return Image()
    return Counts() if sparse_columns(features) else Tabular()
