"""Masks beside images: which of their pixels are to be found."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_ae.data.columns import check_columns, image_columns
from lightning_ae.data.kinds.image import open_image
from lightning_ae.errors import InputError, unknown
from lightning_ae.preprocess import ImagePreprocess


def check_masks(data: Any, split: str, column: str) -> None:
    """Refuses a column of a data module's split that holds no masks of its images.

    Raises:
        InputError: naming it.
    """
    if not isinstance(data.preprocess, ImagePreprocess):
        raise InputError(f"mask {column!r} is of images, and the model takes something else", "leave mask out")
    features = data.dataset(split).features
    others = [name for name in image_columns(features) if name not in data.input_columns]
    check_columns([column], features)
    if column not in others:
        if others:
            raise unknown("column of masks", column, others)
        held = "the images" if column in data.input_columns else features[column]
        raise InputError(
            f"mask {column!r} holds no masks, but {held}",
            "masks are a column of images of their own, 0 where a pixel is as it should be: cast it to datasets.Image",
        )


def read_masks(data: Any, split: str, column: str, first: int, last: int) -> tuple[Tensor, Tensor]:
    """The masks of a split's samples from `first` up to `last`, exclusive, in the order of evaluation.

    A pixel is to be found where any channel of the mask is not 0. Masks are brought to the model's size and cut as
    their images are, each pixel that of the nearest.

    Args:
        data: the data module.
        split: train, val or test.
        column: of masks, each as high and wide as its image; a row without one has none.
        first: a position.
        last: a position.

    Returns:
        The masks (B, height, width), bool, and of which rows they are known, (B,), bool.

    Raises:
        InputError: naming the row, for a mask of another size than its image's, one with transparency, or none that can
            be read.
    """
    preprocess: ImagePreprocess = data.preprocess
    assert preprocess.size is not None
    image = data.input_columns[0]
    rows = data.dataset(split).select_columns([image, column]).with_format("arrow")[first:last]
    found = torch.zeros(len(rows), *preprocess.size, dtype=torch.bool)
    known = torch.tensor([each.is_valid for each in rows[column]])
    numbers = data.keys(split, first, last)["row"]
    for i in known.nonzero().flatten().tolist():
        try:
            mask = _mask(rows[column][i].as_py(), split, numbers[i])
            size = _size(rows[image][i].as_py(), preprocess.layout, split, numbers[i])
            if mask.shape != size:
                raise InputError(
                    f"row {numbers[i]} of split {split!r} has {mask.shape[0]} x {mask.shape[1]} pixels, and its image "
                    f"{size[0]} x {size[1]}",
                    "a mask is as high and as wide as its image",
                )
        except InputError as error:
            raise InputError(f"mask {column!r}: {error.message}", error.hint) from error
        found[i] = preprocess.resize_mask(torch.from_numpy(mask).unsqueeze(0))[0]
    return found, known


def _mask(item: dict[str, Any], split: str, row: int) -> np.ndarray:
    """Where a mask is not 0, (height, width), bool."""
    from PIL import ImageOps

    with open_image(item, split, row) as opened:
        if "transparency" in opened.info or opened.mode[-1:] in ("A", "a"):
            raise InputError(
                f"row {row} of split {split!r} has transparency (mode {opened.mode}), which is neither 0 nor not",
                "save it without",
            )
        values = np.asarray(ImageOps.exif_transpose(opened))  # of a palette the indices
    return (values != 0).reshape(*values.shape[:2], -1).any(axis=2)


def _size(item: Any, layout: str | None, split: str, row: int) -> tuple[int, ...]:
    """The height and width of an image as it is in the data set."""
    from PIL import ImageOps

    if not isinstance(item, dict):
        shape = np.shape(item)
        return shape[:2] if layout == "HWC" and len(shape) == 3 else shape[-2:]
    with open_image(item, split, row) as opened:
        return ImageOps.exif_transpose(opened).size[::-1]
