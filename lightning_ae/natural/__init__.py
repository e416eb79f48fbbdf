"""Data of any form as tensors in natural units: images, arrays, frames and dicts of columns."""

from lightning_ae.natural.images import batch_of, image_batch, image_of, image_units, pixels, warn_if_dark, warn_if_grey
from lightning_ae.natural.numbers import Reading, is_array, listed, tensor_of
from lightning_ae.natural.tables import MISSING, column_keys, sequences, taken, vectors

__all__ = [
    "MISSING",
    "Reading",
    "batch_of",
    "column_keys",
    "image_batch",
    "image_of",
    "image_units",
    "is_array",
    "listed",
    "pixels",
    "sequences",
    "taken",
    "tensor_of",
    "vectors",
    "warn_if_dark",
    "warn_if_grey",
]
