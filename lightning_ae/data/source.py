"""From a path, an id or an object to a dictionary of splits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning_ae.errors import InputError

DIGITS = Path(__file__).parent / "digits"


def load_splits(path: Any, name: str | None = None, revision: str | None = None, streaming: bool = False) -> Any:
    """The splits of a data set.

    Args:
        path: "digits" for the embedded data set; a local folder, of parquet files in the hub's layout or written by
            `save_to_disk`; an id on the hub; or a `Dataset` or `DatasetDict` in memory.
        name: the configuration of a data set on the hub that has several.
        revision: the revision on the hub.
        streaming: as an `IterableDatasetDict`, read as it comes, instead of a `DatasetDict`.

    Raises:
        InputError: when there is no such folder, it cannot be read, or the hub cannot be reached.
    """
    from datasets import DatasetDict, IterableDatasetDict, SplitDict, SplitInfo

    splits = _load(path, name, revision, streaming)
    if streaming and isinstance(splits, DatasetDict):  # of what lies here as a whole
        streams = IterableDatasetDict({split: rows.to_iterable_dataset() for split, rows in splits.items()})
        for split, rows in streams.items():
            rows.info.splits = SplitDict({split: SplitInfo(split, num_examples=len(splits[split]))})
        return streams
    if not streaming and isinstance(splits, IterableDatasetDict):
        raise InputError("path is an iterable data set, which can only be streamed", "set streaming=True")
    return splits


def _load(path: Any, name: str | None, revision: str | None, streaming: bool) -> Any:
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset, load_from_disk
    from pyarrow import parquet

    if isinstance(path, DatasetDict | IterableDatasetDict):
        return path
    if isinstance(path, Dataset):
        return DatasetDict({"train": path})
    if isinstance(path, IterableDataset):
        return IterableDatasetDict({"train": path})
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"path must name a data set or be a Dataset, got {type(path).__name__}")
    path = os.fspath(path)
    if path == "digits":
        # read as it is: small enough for memory, and it needs no cache folder that can be written
        return DatasetDict({s: Dataset(parquet.read_table(DIGITS / f"{s}.parquet")) for s in ("train", "test")})
    folder = Path(path).expanduser()
    if folder.is_dir():
        try:
            if any((folder / mark).is_file() for mark in ("dataset_dict.json", "state.json")):
                loaded = load_from_disk(str(folder))
                return loaded if isinstance(loaded, DatasetDict) else DatasetDict({"train": loaded})
            return load_dataset(str(folder), name, streaming=streaming)
        except Exception as error:  # each file format's reader raises errors of its own
            raise InputError(
                f"the folder {path!r} cannot be read as a data set: {_first_line(error)}",
                "it should hold parquet files named after their splits (train-*.parquet), or what save_to_disk wrote",
            ) from error
    if folder.exists():
        raise InputError(f"path {path!r} is a file", f"give the folder it lies in, {str(folder.parent)!r}")
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise InputError(f"path {path!r} looks like a local folder, but there is none", f"looked from {os.getcwd()!r}")
    try:
        return load_dataset(path, name, revision=revision, streaming=streaming)
    except (OSError, ValueError) as error:  # the hub's client raises a family of each
        raise InputError(
            f"path {path!r} is no local folder, and cannot be loaded from the hub: {_first_line(error)}",
            "check the id and the network; offline, give path the folder of a local copy, or set HF_HUB_OFFLINE=1 to "
            "use one that is cached",
        ) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
