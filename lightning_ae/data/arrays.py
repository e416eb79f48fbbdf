"""Files of numpy's arrays as data sets."""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_ae.data.memory import rows_of
from lightning_ae.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

_SPLIT = re.compile(r"(?P<name>.+)_(?P<split>train|val|validation|test)|"
                    r"(?P<split_>train|val|validation|test)_(?P<name_>.+)")  # fmt: skip


def read_arrays(file: Path, arrays: bool = False) -> dict[str, Dataset]:
    """The splits of an .npy or .npz file: columns by the arrays' names, or their fields'.

    The array of an .npy file is called x. Where all arrays of an .npz file are called x_train, y_test or test_y they
    belong to these splits, else to "train". What an array makes says `lightning_ae.data.memory.splits_in_memory`.

    Raises:
        InputError: when it cannot be read, holds objects, arrays of several lengths, or of other shapes.
    """
    try:
        loaded: Any = np.load(file, allow_pickle=False)
        held = {"x": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    # a header is parsed as Python's literals
    except (OSError, ValueError, EOFError, MemoryError, SyntaxError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{str(file)!r} cannot be read as arrays: "
            + ("it holds objects of Python, or none" if "pickle" in str(error) else str(error).partition("\n")[0]),
            "it should hold arrays of numbers or texts, as numpy.save or numpy.savez writes them",
        ) from error
    found: dict[str, dict[str, np.ndarray]] = {}
    matches = {name: _SPLIT.fullmatch(name) for name in held}
    for name, array in held.items():
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
        try:
            splits[split] = rows_of(columns, f"its split {split!r}", arrays=arrays)
        except InputError as error:
            raise InputError(f"{str(file)!r}: {error.message}", error.hint) from None
    if not splits:
        raise InputError(f"{str(file)!r} holds no arrays")
    return splits
