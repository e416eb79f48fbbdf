"""From a path, an id or an object to a dictionary of splits."""

from __future__ import annotations

import difflib
import os
import pkgutil
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_warn

from lightning_ae.data.local import ARCHIVES, ARRAYS, READERS, first_line, read_file, read_folder
from lightning_ae.data.memory import read_h5ad, splits_in_memory
from lightning_ae.data.sprites import DEFAULT_SIZE, draw_sprites
from lightning_ae.errors import InputError

EMBEDDED = ("digits", "fashion", "sprites")  # each a folder beside this file, but for the last, which are drawn


def load_splits(
    path: Any, name: str | None = None, revision: str | None = None, streaming: bool = False, arrays: bool = False
) -> Any:
    """The splits of a data set.

    Args:
        path: "digits", "fashion" or "sprites" for an embedded data set; a local folder (images, parquet, CSV, JSON
            lines, Arrow, zip files of these, or what `save_to_disk` wrote) or a single file of those kinds, or of
            numpy's arrays; an id on the hub; or a `Dataset` or `DatasetDict` in memory.
        name: the configuration of a data set on the hub that has several; the size of "sprites".
        revision: the revision on the hub.
        streaming: as an `IterableDatasetDict`, read as it comes, instead of a `DatasetDict`.
        arrays: whether bytes of more than two dimensions stay arrays; else they are images.

    Raises:
        InputError: when there is no such folder or file, it cannot be read as a whole, or the hub cannot be reached.
    """
    from datasets import DatasetDict, IterableDatasetDict, SplitDict, SplitInfo

    splits = _load(path, name, revision, streaming, arrays)
    if isinstance(splits, DatasetDict):
        splits = DatasetDict({split: _as_set(rows, split) for split, rows in splits.items()})
    if streaming and isinstance(splits, DatasetDict):  # of what lies here as a whole
        for split, rows in splits.items():
            if len(rows) == 0:
                raise InputError(f"split {split!r} of the data set is empty", "leave it out of what is streamed")
        streams = IterableDatasetDict({split: rows.to_iterable_dataset() for split, rows in splits.items()})
        for split, rows in streams.items():
            rows.info.splits = SplitDict({split: SplitInfo(split, num_examples=len(splits[split]))})
        return streams
    if not streaming and isinstance(splits, IterableDatasetDict):
        raise InputError("path is an iterable data set, which can only be streamed", "set streaming=True")
    return splits


def _as_set(rows: Any, split: str) -> Any:
    """The rows of a split as the data set itself is set to give them: the columns of its format, and no others.

    Raises:
        InputError: when it is set to a function of its own, which batches of whole columns cannot call.
    """
    form = rows.format
    if form["type"] == "custom":
        raise InputError(
            f"split {split!r} of the data set has a transform (set_transform, with_transform), which would not be "
            "called: samples are read by whole columns",
            "apply it once with Dataset.map, or take it off with Dataset.reset_format()",
        )
    return rows if set(form["columns"]) == set(rows.column_names) else rows.select_columns(form["columns"])


def _load(path: Any, name: str | None, revision: str | None, streaming: bool, arrays: bool) -> Any:
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset
    from pyarrow import parquet

    if isinstance(path, DatasetDict | IterableDatasetDict):
        return path
    if isinstance(path, Dataset):
        return DatasetDict({"train": path})
    if isinstance(path, IterableDataset):
        return IterableDatasetDict({"train": path})
    if not isinstance(path, str | os.PathLike):
        return splits_in_memory(path, name, arrays)
    path = os.fspath(path)
    if path.lower().endswith(".h5ad"):
        return read_h5ad(path, name)
    if path in EMBEDDED:
        # read as it is: small enough for memory, and it needs no cache folder that can be written
        if os.path.isdir(path):
            rank_zero_warn(f"{path!r} is the embedded data set; the folder of that name here is './{path}'")
        if path == "sprites":
            return draw_sprites(size=_size(name))
        here = Path(__file__).parent / path
        return DatasetDict({s: Dataset(parquet.read_table(here / f"{s}.parquet")) for s in ("train", "test")})
    # absolute: a bare name like "csv" would be that of a format, not of a folder
    local = Path(os.path.expanduser(path)).absolute()
    if local.is_dir():
        return read_folder(local, path, name, streaming)
    if local.exists():
        return read_file(local, path, streaming, arrays)
    is_file = path.lower().endswith((*READERS, *ARRAYS, *ARCHIVES))
    if is_file or path.startswith((".", "/", "~")) or path.count("/") > 1:
        near = difflib.get_close_matches(local.name, os.listdir(local.parent) if local.parent.is_dir() else (), n=1)
        raise InputError(
            f"path {path!r} looks like a local {'file' if is_file else 'folder'}, but there is none",
            "".join(f"did you mean {each!r}? " for each in near) + f"looked from {os.getcwd()!r}",
        )
    if "/" not in path and (near := difflib.get_close_matches(path.lower(), EMBEDDED, n=1, cutoff=0.8)):
        raise InputError(f"path {path!r} is no local folder; did you mean {near[0]!r}, an embedded data set?", _else())
    if path in _formats():
        raise InputError(
            f"path {path!r} names a file format, not a data set, and there is no folder of that name",
            f"looked from {os.getcwd()!r}; give the folder that holds the files",
        )
    try:
        return load_dataset(path, name, revision=revision, streaming=streaming)
    except (OSError, ValueError) as error:  # the hub's client raises a family of each
        near = difflib.get_close_matches(path, sorted(each.name for each in Path().iterdir()), n=1)
        raise InputError(
            f"path {path!r} is no local folder, and cannot be loaded from the hub: {first_line(error)}",
            "".join(f"did you mean {each!r}, which lies here? " for each in near)
            + "check the id and the network; "
            + _else(),
        ) from error


def _else() -> str:
    return (
        "offline, give path the folder of a local copy, or set HF_HUB_OFFLINE=1 to use one that is cached; "
        "'digits', 'fashion' and 'sprites' come with the package"
    )


def _size(name: str | None) -> int:
    """Of sprites, in pixels."""
    if name is not None and not str(name).isdecimal():
        raise InputError(
            f"name of 'sprites' is their size in pixels, such as '64', got {name!r}",
            "other options: HFDataModule(draw_sprites(...)), of lightning_ae.data",
        )
    return DEFAULT_SIZE if name is None else int(name)


def _formats() -> set[str]:
    """Names that `load_dataset` takes for those of file formats, and reads from the working folder."""
    import datasets.packaged_modules

    return {module.name for module in pkgutil.iter_modules(datasets.packaged_modules.__path__)}
