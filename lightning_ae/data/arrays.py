"""Files of numpy's arrays as data sets."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lightning_ae.data.memory import of_other_channels
from lightning_ae.errors import InputError
from lightning_ae.natural import image_batch

if TYPE_CHECKING:
    from datasets import Dataset

_SPLIT = re.compile(r"(?P<name>.+)_(?P<split>train|val|validation|test)|"
                    r"(?P<split_>train|val|validation|test)_(?P<name_>.+)")  # fmt: skip


def read_arrays(file: Path) -> dict[str, Dataset]:
    """The splits of an .npy or .npz file: columns by the arrays' names, or their fields'.

    The array of an .npy file is called x. Where all arrays of an .npz file are called x_train, y_test or test_y they
    belong to these splits, else to "train". An array (N,) makes a column of values, (N, D) one of vectors, one of
    more dimensions arrays, and bytes (N, H, W), (N, H, W, C) or (N, C, H, W) images, of one channel or three.

    Raises:
        InputError: when it cannot be read, holds objects, arrays of several lengths, or of other shapes.
    """
    from datasets import concatenate_datasets

    try:
        loaded: Any = np.load(file, allow_pickle=False)
        arrays = {"x": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    # a header is parsed as Python's literals
    except (OSError, ValueError, EOFError, MemoryError, SyntaxError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{str(file)!r} cannot be read as arrays: "
            + ("it holds objects of Python, or none" if "pickle" in str(error) else str(error).partition("\n")[0]),
            "it should hold arrays of numbers or texts, as numpy.save or numpy.savez writes them",
        ) from error
    found: dict[str, dict[str, np.ndarray]] = {}
    matches = {name: _SPLIT.fullmatch(name) for name in arrays}
    for name, array in arrays.items():
        match, split = matches[name], "train"
        if match is not None and all(matches.values()):
            name, split = match["name"] or match["name_"], match["split"] or match["split_"]
        fields = array.dtype.names
        found.setdefault(split, {}).update({name: array} if fields is None else {each: array[each] for each in fields})
    splits = {}
    for split, columns in found.items():
        lengths = {name: len(array) if array.ndim else None for name, array in columns.items()}
        if len(set(lengths.values())) != 1 or None in lengths.values():
            shapes = ", ".join(f"{name} {array.shape}" for name, array in list(columns.items())[:8])
            raise InputError(
                f"the arrays of {str(file)!r} do not have a row for each sample: {shapes}", "save those alone that do"
            )
        made = [_column(name, array, file) for name, array in columns.items()]
        splits[split] = made[0] if len(made) == 1 else concatenate_datasets(made, axis=1)
    if not splits:
        raise InputError(f"{str(file)!r} holds no arrays")
    return splits


def _column(name: str, array: np.ndarray, file: Path) -> Dataset:
    import pyarrow as pa
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature

    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.ndim > 2 and array.dtype == np.uint8 and not of_other_channels(array.shape):
        return Dataset.from_dict({name: [_png(each) for each in _images(name, array, file)]},
                                 Features({name: ImageFeature()}))  # fmt: skip
    if array.dtype.kind not in "biufUMm":
        raise InputError(
            f"the array {name!r} of {str(file)!r} holds {array.dtype} {array.shape}",
            "arrays are of numbers, texts or times",
        )
    values = pa.array(np.ascontiguousarray(array).reshape(-1))
    for width in reversed(array.shape[1:]):
        values = pa.FixedSizeListArray.from_arrays(values, width)
    return Dataset(pa.table({name: values}))


def _images(name: str, array: np.ndarray, file: Path) -> np.ndarray:
    try:
        return image_batch(torch.from_numpy(array[:, None] if array.ndim == 3 else array), None, None).numpy()
    except InputError as error:
        raise InputError(f"the array {name!r} of {str(file)!r}: {error.message}", error.hint) from None


def _png(pixels: np.ndarray) -> dict[str, Any]:
    """An image (C, H, W) as a PNG file, which keeps each byte."""
    import PIL.Image

    to = io.BytesIO()
    PIL.Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(
        to, "PNG", compress_level=1
    )
    return {"bytes": to.getvalue(), "path": None}
