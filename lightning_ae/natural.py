"""Data of any form as tensors in natural units: images, arrays, frames and dicts of columns."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from numbers import Real
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.Image import Image as PILImage
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_ae.errors import InputError

SHOWN = 8  # names that a message lists
MISSING = "(missing)"  # the class of categories that are
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
            "bring images to one number of bits first (Dataset.map)",
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


def tensor_of(data: Any) -> Tensor:
    """Numbers of any form but a frame as a tensor, in their own type: arrays, sparse ones too, nested lists, tensors.

    Raises:
        InputError: when they are no numbers, or of several lengths.
    """
    if isinstance(data, list | tuple) and data and all(isinstance(each, Tensor) for each in data):
        if len({each.shape for each in data}) > 1:
            raise _ragged([tuple(each.shape) for each in data])
        return torch.stack([each.to(data[0].device) for each in data])
    if isinstance(data, Tensor):
        if data.is_complex():
            raise _no_numbers(str(data.dtype))
        return data if data.layout == torch.strided else data.to_dense()
    array = _array_of(data)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise _no_numbers(str(array.dtype))
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def batch_of(data: Any, mask: Tensor | None = None, check: bool = True) -> Tensor:
    """Samples of any form as they are, (B, ...); PIL images as bytes (B, C, H, W).

    Args:
        data: see `tensor_of`; or PIL images.
        mask: true where a value is known, of the samples' shape; the others become zero.
        check: whether NaN and infinite values are looked for.

    Raises:
        InputError: naming the row of what cannot be used.
    """
    if isinstance(data, PILImage):
        data = [data]
    if isinstance(data, list | tuple) and any(isinstance(each, PILImage) for each in data):
        data = [_pixels(each, row) if isinstance(each, PILImage) else np.asarray(each) for row, each in enumerate(data)]
        if len({each.shape for each in data}) > 1:
            raise _ragged([each.shape for each in data])
    x = filled(tensor_of(data), mask)
    if check and x.is_floating_point():
        largest = torch.finfo(x.dtype).max
        refuse_outside(x, -largest, largest, lambda place: f"place {place}", "clean the data first")
    return x


def is_array(data: Any) -> bool:
    """Whether the data are one array of numbers, or a tensor, rather than a sequence of samples."""
    return isinstance(data, Tensor) or (hasattr(data, "shape") and getattr(data.dtype, "kind", "") != "O")


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
            f"images must be (B, H, W) or (B, C, H, W) of one channel or three, got the shape {shape}",
            "an image with transparency becomes one in colour, on white, as a PIL image (PIL.Image.fromarray)",
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
        "an image with transparency becomes one in colour, on white, as a PIL image (PIL.Image.fromarray)",
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
    most = _read(x.amax()) if x.numel() else None
    if most is not None and 0 < most[0] <= (1 if x.dtype == torch.uint8 else 1.001 / 255):
        given = "bytes (0..255)" if x.dtype == torch.uint8 else "floats in [0, 1]"
        rank_zero_warn(f"the largest value of the images is {most[0]:.3g}, as {given}: were they scaled twice?")


def warn_if_grey(x: Tensor) -> None:
    """Warns where bytes, or floats in [0, 1], are not all black or white, for a model that was trained on such."""
    # in bytes the product is taken modulo 256, and is zero for 0 and 255 alone all the same
    most = _read((x * (x.new_tensor(255 if x.dtype == torch.uint8 else 1) - x)).amax()) if x.numel() else None
    if most is not None and most[0] > 0:
        rank_zero_warn(
            "the model was trained on zeros and ones, drawn with the grey values as probabilities; here grey values go "
            "in as they are: draw them first, x = (torch.rand_like(x) < x).float() of floats in [0, 1]"
        )


def vectors(
    data: Any,
    names: Sequence[str] = (),
    mask: Tensor | None = None,
    check: bool = True,
    classes: Mapping[str, Sequence[str]] = MappingProxyType({}),
    masked: bool = False,
    dates: Collection[str] = (),
) -> Tensor:
    """Vectors (B, dimensions) of any form, in their own type, or one that holds all that columns have.

    Args:
        data: an array, nested lists, a tensor; a data frame or a dict of columns, which are found by their names.
        names: the columns that the model takes, in its order, where they are known.
        mask: true where a value is known, (B, dimensions); the others become zero.
        check: whether NaN and infinite values are looked for.
        classes: of each column of categories, by name; its values are those, or their numbers.
        masked: whether values may be missing, and are NaN then.
        dates: columns of dates, times or durations, which are seconds.

    Raises:
        InputError: naming the column that is missing, or row and column of what is no number.
    """
    keys = column_keys(data)
    if keys is None:
        x = tensor_of(data)
    else:
        if not names:
            names = list(keys)
            rank_zero_warn(
                "the model does not know the names of its columns: those of the data are taken in their order, "
                f"{_listed(names)}"
            )
        arrays = {
            name: _column(data[keys[name]], name, classes.get(name), name in dates) for name in taken(keys, names)
        }
        if len({len(array) for array in arrays.values()}) > 1:
            lengths = [f"{name!r} {len(array)}" for name, array in arrays.items()]
            raise InputError(f"the columns have different numbers of rows: {_listed(lengths)}")
        x = torch.from_numpy(np.concatenate(list(arrays.values()), axis=1))
    if x.ndim < 2:
        raise InputError(
            f"vectors must have the shape (B, dimensions), got {tuple(x.shape)}", "give one vector as [vector]"
        )
    x = filled(x, mask)

    def where(place: tuple[int, ...]) -> str:
        if len(names) == x.shape[1]:
            return f"column {names[place[0]]!r}"
        at = place[0] if len(place) == 1 else place
        return f"column {names[0]!r} at {at}" if len(names) == 1 else f"column {at}"

    if check and x.is_floating_point():
        largest = torch.finfo(x.dtype).max
        looked_at = x.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf) if masked else x
        refuse_outside(looked_at, -largest, largest, where, "drop or fill missing values first")
    return x


def sequences(
    data: Any,
    names: Sequence[str] = (),
    length: int | None = None,
    layout: str = "NCL",
    mask: Tensor | None = None,
    check: bool = True,
    masked: bool = False,
) -> Tensor:
    """Sequences (B, channels, length) of any form, in their own type.

    Args:
        data: see `SequencePreprocess.natural`.
        names: the columns that the model takes, in its order, where they are known.
        length: of a sample that is so many rows of a table; None of ready samples.
        layout: of arrays, "NCL" or "NLC".
        mask: true where a value is known, (B, channels, length); the others become zero.
        check: whether NaN and infinite values are looked for.
        masked: whether values may be missing, and are NaN then.

    Raises:
        InputError: naming the column that is missing, or row, channel and step of what is no number.
    """
    keys = column_keys(data)
    if keys is None:
        x = tensor_of(data)
        x = (
            x[:, None]
            if x.ndim == 2 and len(names) <= 1
            else x.transpose(1, 2)
            if layout == "NLC" and x.ndim == 3
            else x
        )
    elif length is not None:
        x = vectors(data, names, check=False).T[None]
        if x.shape[2] != length:
            raise InputError(
                f"the data have {x.shape[2]} rows, where a sample of the model is {length} in a line",
                "give one window, or arrays (B, channels, length); HFDataModule cuts windows from longer series",
            )
    else:
        columns = [tensor_of(_listed_values(data[keys[name]])) for name in taken(keys, names or list(keys))]
        if len(columns) == 1 and columns[0].ndim == 3:
            return sequences(columns[0], (), None, layout, mask, check, masked)
        x = torch.stack([*columns], dim=1)
    if x.ndim != 3:
        wanted = "(B, length, channels)" if layout == "NLC" else "(B, channels, length)"
        raise InputError(f"sequences must have the shape {wanted}, got {tuple(x.shape)}", "give one as [sequence]")
    x = filled(x, mask)

    def where(place: tuple[int, ...]) -> str:
        named = len(names) == x.shape[1]
        return f"{f'column {names[place[0]]!r}' if named else f'channel {place[0]}'}, step {place[1]}"

    if check and x.is_floating_point():
        largest = torch.finfo(x.dtype).max
        looked_at = x.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf) if masked else x
        refuse_outside(looked_at, -largest, largest, where, "drop or fill missing values first")
    return x


def column_keys(data: Any) -> dict[str, Any] | None:
    """The columns of a data frame, a dict or a structured array: what it calls each, by its name as text.

    Returns:
        None of anything else.

    Raises:
        InputError: when two columns have one name.
    """
    if isinstance(data, Mapping):
        keys = list(data)
    elif isinstance(data, np.ndarray):
        if data.dtype.names is None:
            return None
        keys = list(data.dtype.names)
    else:  # of pandas, polars, pyarrow and datasets
        found = getattr(data, "column_names", getattr(data, "columns", None))
        if found is None or callable(found) or isinstance(data, Tensor):
            return None
        keys = list(found)
    named = {str(key): key for key in keys}
    if len(named) < len(keys):
        twice = sorted({str(key) for key in keys if sum(str(key) == str(other) for other in keys) > 1})
        raise InputError(f"the data have several columns of one name: {_listed(twice)}", "rename them")
    return named


def taken(keys: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """The columns that a model takes, in its order; says once which others there are.

    Raises:
        InputError: naming those that are missing.
    """
    if missing := [name for name in names if name not in keys]:
        raise InputError(
            f"the model was trained on the columns {_listed(names)}, of which the data lack {_listed(missing)}",
            f"columns are found by their names; the data have {_listed(list(keys))}: rename them to the model's",
        )
    if others := [name for name in keys if name not in set(names)]:
        rank_zero_info(f"columns that the model does not take are left out: {_listed(others)}")
    return list(names)


def refuse_outside(
    x: Tensor, low: float, high: float, where: Any, hint: str, what: str = "values are finite", first: int = 0
) -> None:
    """Refuses values (B, ...) that are NaN or outside [low, high]; one reduction, which is read back.

    Under transforms that leave nothing to read (`torch.vmap`, tensors without values) it looks at nothing.

    Raises:
        InputError: naming the row, by `where(place)` the place in the sample, and the value of the first.
    """
    x = x.detach()
    if x.is_floating_point():  # so that the ends are values of x's own type
        low, high = (torch.tensor(each, dtype=x.dtype).item() for each in (low, high))
    if x.numel() == 0 or (found := _read(*torch.aminmax(x))) is None or (low <= found[0] and found[1] <= high):
        return
    bad = ~((x >= low) & (x <= high))
    row, *place = (int(n) for n in np.unravel_index(int(bad.flatten().to(torch.uint8).argmax()), x.shape))
    value = x[(row, *place)].item()
    said = "NaN" if math.isnan(value) else f"{value:g}"
    raise InputError(f"row {first + row}, {where(tuple(place))} holds {said}, where {what}", hint)


def filled(x: Tensor, mask: Tensor | None) -> Tensor:
    """The values that are known, and zero elsewhere; a mask of another form is left to who takes it."""
    if mask is None or mask.shape != x.shape or mask.is_floating_point():
        return x
    return torch.where(mask.to(x.device, torch.bool), x, torch.zeros_like(x))


def _read(*values: Tensor) -> list[float] | None:
    try:
        return [value.item() for value in values]
    except RuntimeError:  # under vmap, or without values: meta, fake
        return None


def _pixels(image: PILImage, row: int) -> np.ndarray:
    try:
        return pixels(image)
    except InputError as error:
        raise InputError(f"row {row}: {error.message}", error.hint) from error


def _array_of(data: Any) -> np.ndarray:
    if hasattr(data, "toarray"):  # of scipy's sparse matrices
        data = data.toarray()
    if isinstance(data, np.ma.MaskedArray) and np.ma.is_masked(data):
        raise InputError("the data are a masked array with masked values", "drop or fill missing values first")
    try:
        array = np.asarray(data)
    except ValueError as error:  # numpy's of ragged lists
        raise InputError(f"the data make no array: {error}", "all samples need one shape") from error
    return _from_objects(array) if array.dtype.kind == "O" else array


def _from_objects(array: np.ndarray) -> np.ndarray:
    """Objects as float64; what is missing as NaN."""
    if array.size and all(isinstance(each, list | tuple | np.ndarray | Tensor) for each in array.flat):
        inner = [tensor_of(each).cpu().numpy() for each in array.flat]
        if len({each.shape for each in inner}) > 1:
            raise _ragged([each.shape for each in inner])
        return np.stack(inner).reshape(*array.shape, *inner[0].shape)
    numbers = np.empty(array.shape, np.float64)
    for place, value in np.ndenumerate(array):
        if value is None or type(value).__name__ in ("NAType", "NaTType"):
            numbers[place] = math.nan
        elif isinstance(value, Real | Decimal):
            try:
                numbers[place] = float(value)
            except OverflowError:  # of integers
                numbers[place] = math.inf
        else:
            row, column = place[0] if place else 0, f", column {place[1]}" if len(place) > 1 else ""
            raise InputError(
                f"the data must be numbers, but row {row}{column} is {str(value)[:40]!r}, a {type(value).__name__}",
                "give numbers, arrays of them, or PIL images",
            )
    return numbers


def _column(values: Any, name: str, classes: Sequence[str] | None = None, dates: bool = False) -> np.ndarray:
    """A column as (B, dimensions): dates in seconds since 1970, durations in seconds, categories as their numbers."""
    if classes is not None:
        return _numbers_of(values, name, classes)[:, None]
    if dates:
        zoned = getattr(getattr(values, "dtype", None), "tz", None) is not None  # of pandas
        array = np.asarray(values.dt.tz_convert(None) if zoned else values)
        seconds = array.astype("timedelta64[ns]" if array.dtype.kind == "m" else "datetime64[ns]")
        return np.where(np.isnat(seconds), np.nan, seconds.astype(np.int64) / 1e9)[:, None]
    try:
        found = tensor_of(values).detach().cpu().numpy()
    except InputError as error:
        raise InputError(f"column {name!r}: {error.message}", error.hint) from error
    if found.ndim not in (1, 2):
        raise InputError(f"column {name!r} has the shape {found.shape}, where columns hold numbers or vectors")
    return found[:, None] if found.ndim == 1 else found


def _listed_values(values: Any) -> Any:
    """A column of arrays as what `tensor_of` takes."""
    return values.to_list() if hasattr(values, "to_list") else values


def _numbers_of(values: Any, name: str, classes: Sequence[str]) -> np.ndarray:
    """A column of categories as the numbers of its classes, (B,)."""
    number = {each: i for i, each in enumerate(classes)}
    found = []
    for row, value in enumerate(values.tolist() if hasattr(values, "tolist") else list(values)):
        missing = value is None or value != value or type(value).__name__ == "NAType"
        if isinstance(value, float) and value.is_integer():  # as whole numbers beside missing ones become
            value = int(value)
        text = MISSING if missing else str(value).lower() if isinstance(value, bool) else str(value)
        if text not in number:
            raise InputError(
                f"row {row}, column {name!r} holds {value!r}, which is none of the classes that the model was trained "
                f"on: {_listed(classes)}"
            )
        found.append(number[text])
    return np.array(found, np.float64)


def _no_numbers(dtype: str) -> InputError:
    return InputError(f"the data must be numbers, got {dtype}", "give integers or floats of at most 64 bits")


def _ragged(shapes: Sequence[tuple[int, ...]]) -> InputError:
    other = next(row for row, shape in enumerate(shapes) if shape != shapes[0])
    return InputError(
        f"the samples must have one shape, but row 0 has {shapes[0]}, row {other} {shapes[other]}",
        "resize images first",
    )


def _listed(names: Sequence[Any]) -> str:
    text = ", ".join(str(name) for name in names[:SHOWN])
    return f"{text} and {len(names) - SHOWN} more" if len(names) > SHOWN else text
