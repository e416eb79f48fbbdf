"""Images of any form as bytes, or as floats in [0, 1], (B, C, H, W)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.Image import Image as PILImage
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from lightning_ae.errors import InputError
from lightning_ae.natural.numbers import Reading, filled, listed, ragged, read_back, refuse_outside, tensor_of
from lightning_ae.natural.tables import column_keys

_GREY = ("1", "L", "LA", "La")
_ONE_OR_THREE = (1, 3)


def pixels(image: PILImage, limits: tuple[float, float] | None = None) -> np.ndarray:
    """A PIL image as uint8 (C, H, W), of one channel or three: upright, as its EXIF data say, on white.

    Palettes become colours. What is transparent lets white through, as on a page; opaque pixels stay as they are.

    Args:
        image: of any mode.
        limits: between which values lie, where they are no bytes; they are float32 then.

    Raises:
        InputError: when the image cannot be read, has more than 8 bits a channel and no `limits`, or has 8 and others.
    """
    deep = image.mode.startswith(("I", "F"))
    if limits is not None and not deep and tuple(limits) != (0, 255):
        raise InputError(
            f"an image of mode {image.mode!r} has 8 bits, 0..255, where range says {limits}",
            "leave range out where all have 8; else bring them to one number of bits first (Dataset.map)",
        )
    if deep and limits is None:
        raise InputError(
            f"an image of mode {image.mode!r} has more than 8 bits, and does not say which of its values are black and "
            "white",
            "say it: kind=Image(range=(0, 65535)) of 16 bits in use, (0, 4095) of 12",
        )
    try:
        image = ImageOps.exif_transpose(image)
        if deep:
            return np.asarray(image).astype(np.float32)[None]
        mode = "L" if image.mode in _GREY else "RGB"
        if "transparency" in image.info or image.mode[-1:] in ("A", "a"):
            if image.mode == "La":  # PIL makes nothing else of grey that is multiplied by its alpha
                image = image.convert("LA")
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        found = np.array(image if image.mode == mode else image.convert(mode))  # a copy: PIL's own is read-only
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # as PIL says it of damaged files, and of modes
        raise InputError(f"the image is not readable: {error}") from error
    found = found if limits is None else found.astype(np.float32)
    return found[None] if found.ndim == 2 else found.transpose(2, 0, 1)


def batch_of(data: Any, how: Reading = Reading()) -> Tensor:
    """Samples of any form as they are, (B, ...); PIL images as bytes (B, C, H, W).

    Args:
        data: see `tensor_of`; or PIL images.
        how: whose mask and check count.

    Raises:
        InputError: naming the row of what cannot be used.
    """
    if (keys := column_keys(data)) is not None:
        raise InputError(
            f"the data have the columns {listed(list(keys))}, and the model does not know which make its input",
            "give the samples alone, an array or a tensor",
        )
    if isinstance(data, PILImage):
        data = [data]
    if isinstance(data, list | tuple) and any(isinstance(each, PILImage) for each in data):
        data = [_pixels(each, row) if isinstance(each, PILImage) else np.asarray(each) for row, each in enumerate(data)]
        if len({each.shape for each in data}) > 1:
            raise ragged([each.shape for each in data])
    x = filled(tensor_of(data), how.mask)
    if how.check and x.is_floating_point():
        largest = torch.finfo(x.dtype).max
        refuse_outside(x, -largest, largest, lambda place: f"place {place}", "clean the data first")
    return x


def image_batch(data: Any, size: tuple[int, int] | None, channels: int | None, layout: str | None = None) -> Tensor:
    """An array of images as (B, C, H, W): from (H, W), (B, H, W), (B, C, H, W) and (B, H, W, C), or one (H, W, C).

    Args:
        data: the array, or a tensor.
        size: height and width that the model takes.
        channels: how many of them it takes.
        layout: "CHW" or "HWC" where images have that, with any number of channels: (B, ...) or one.

    Raises:
        InputError: when that leaves open what the dimensions are.
    """
    x = tensor_of(data)
    if layout is not None:
        if x.ndim not in (3, 4):
            raise InputError(f"images must be (B, {', '.join(layout)}), as in training, got the shape {tuple(x.shape)}")
        x = x[None] if x.ndim == 3 else x
        return x.permute(0, 3, 1, 2) if layout == "HWC" else x
    shape = tuple(x.shape)
    flat = size is not None and x.ndim == 2 and shape[1] == size[0] * size[1] * (channels or 1)
    if flat and shape != size:
        assert size is not None
        raise InputError(
            f"images must be (B, H, W) or (B, C, H, W), got the shape {shape}",
            f"flat images want their shape: reshape(-1, {channels or 1}, {size[0]}, {size[1]})",
        )
    if x.ndim == 2:
        return x[None, None]
    if x.ndim == 3 and shape[2] in (3, 4) and (size is None or shape[2] != size[1]):
        return image_batch(x[None], size, channels)
    if x.ndim == 3 and shape[0] == 3 and not (channels == 1 and size == shape[1:]):
        raise InputError(
            f"the shape {shape} may be one image in colour, or three in grey",
            "give one as x[None], (1, C, H, W), or several as x[:, None], (B, 1, H, W)",
        )
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and shape[1] not in _ONE_OR_THREE and shape[3] in _ONE_OR_THREE:
        return x.permute(0, 3, 1, 2)
    if x.ndim != 4 or shape[1] not in _ONE_OR_THREE:
        raise InputError(
            f"images must be (B, H, W) or (B, C, H, W) of one channel or three, got the shape {shape}", _hint(shape[1:])
        )
    return x


def image_of(item: Any, row: int, limits: tuple[float, float] | None = None, layout: str | None = None) -> Tensor:
    """One image of a sequence, a PIL image or an array (H, W), (C, H, W) or (H, W, C), as (C, H, W).

    Args:
        item: the image.
        row: its number, for errors.
        limits: see `pixels`.
        layout: see `image_batch`.

    Raises:
        InputError: naming the row.
    """
    try:
        if isinstance(item, PILImage):
            return torch.from_numpy(pixels(item, limits))
        x = tensor_of(item)
        if layout is not None and x.ndim == 3:
            return x.permute(2, 0, 1) if layout == "HWC" else x
        if x.ndim == 2:
            return x[None]
        if x.ndim == 3 and x.shape[0] in _ONE_OR_THREE:
            return x
        if x.ndim == 3 and x.shape[2] in _ONE_OR_THREE:
            return x.permute(2, 0, 1)
    except InputError as error:
        raise InputError(f"row {row}: {error.message}", error.hint) from error
    raise InputError(
        f"row {row} has the shape {tuple(x.shape)}, where an image is (H, W), (C, H, W) or (H, W, C) of one channel "
        "or three",
        _hint(tuple(x.shape)),
    )


def image_units(
    x: Tensor,
    first: int = 0,
    mask: Tensor | None = None,
    check: bool = True,
    limits: tuple[float, float] | None = None,
) -> Tensor:
    """Images (B, C, H, W) as bytes, or as floats in [0, 1], which other types and values are told from.

    Integers in 0..255 are bytes, and booleans black and white; what 16 bits mean nobody knows.

    Args:
        x: of any number type.
        first: the number of the first row, for errors.
        mask: true where a value is known, of the shape of `x`; the others become zero.
        check: whether floats are looked at.
        limits: between which values lie, of images that are neither; these are float32.

    Raises:
        InputError: naming row, place and value of what lies outside.
    """
    x = filled(x, mask)

    def where(place: tuple[int, ...]) -> str:
        return f"channel {place[0]}, pixel {place[1:]}"

    if limits is not None:
        if check:
            what = f"values of the model's images lie in [{limits[0]:g}, {limits[1]:g}]"
            refuse_outside(x.float(), *limits, where, "give images in the units of the training data", what, first)
        return x.float()
    if x.dtype == torch.bool:
        return x.to(torch.uint8) * 255
    if x.dtype == torch.uint16:
        raise InputError(
            "images of 16 bits (uint16) have no range that everybody uses",
            "scale them to bytes, or to floats in [0, 1]: x / 65535.0, say",
        )
    if not x.is_floating_point() and x.dtype != torch.uint8:
        what, hint = "integers of images are bytes, 0..255", "scale them to bytes, or to floats in [0, 1]"
        refuse_outside(x.long(), 0, 255, where, hint, what, first)
        x = x.to(torch.uint8)
    if check and x.is_floating_point():
        half = 0.5 / 255  # of a level of bytes, by which rounding may miss the interval
        what, hint = (
            "floats of images lie in [0, 1]",
            "divide by the largest possible value, or give bytes (uint8)",
        )
        refuse_outside(x, -half, 1 + half, where, hint, what, first)
    return x


def warn_if_dark(x: Tensor) -> None:
    """Warns where bytes, or floats in [0, 1], are at most one level of bytes: they were scaled twice, it seems."""
    most = read_back(x.amax()) if x.numel() else None
    if most is not None and 0 < most[0] <= (1 if x.dtype == torch.uint8 else 1.001 / 255):
        given = "bytes (0..255)" if x.dtype == torch.uint8 else "floats in [0, 1]"
        rank_zero_warn(f"the largest value of the images is {most[0]:.3g}, as {given}: were they scaled twice?")


def warn_if_grey(x: Tensor) -> None:
    """Warns where bytes, or floats in [0, 1], are not all black or white, for a model that was trained on such."""
    # in bytes the product is taken modulo 256, and is zero for 0 and 255 alone all the same
    most = read_back((x * (x.new_tensor(255 if x.dtype == torch.uint8 else 1) - x)).amax()) if x.numel() else None
    if most is not None and most[0] > 0:
        rank_zero_warn(
            "the model was trained on zeros and ones, drawn with the grey values as probabilities; here grey values go "
            "in as they are: draw them first, x = (torch.rand_like(x) < x).float() of floats in [0, 1]"
        )


def _hint(shape: tuple[int, ...]) -> str:
    """What may be done about images of such a shape."""
    if len(shape) == 3 and 4 in (shape[0], shape[2]):
        return "an image with transparency becomes one in colour, on white, as a PIL image (PIL.Image.fromarray)"
    return "a model takes other channels where it was trained on such: kind=Image(range=..., layout='CHW') or 'HWC'"


def _pixels(image: PILImage, row: int) -> np.ndarray:
    try:
        return pixels(image)
    except InputError as error:
        raise InputError(f"row {row}: {error.message}", error.hint) from error
