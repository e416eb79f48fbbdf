"""From a path, an id or an object to a dictionary of splits."""

from __future__ import annotations

import csv
import difflib
import json
import logging
import os
import pkgutil
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from lightning_ae.data.fingerprint import states
from lightning_ae.data.memory import read_h5ad, splits_in_memory
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
        return splits_in_memory(path, name)
    path = os.fspath(path)
    if path.lower().endswith(".h5ad"):
        return read_h5ad(path, name)
    if path == "digits":
        # read as it is: small enough for memory, and it needs no cache folder that can be written
        return DatasetDict({s: Dataset(parquet.read_table(DIGITS / f"{s}.parquet")) for s in ("train", "test")})
    folder = Path(
        os.path.expanduser(path)
    ).absolute()  # a bare name like "csv" would be that of a format, not of a folder
    if folder.is_dir():
        _check_folder(folder)
        unread: list[str] = []
        try:
            if any((folder / mark).is_file() for mark in ("dataset_dict.json", "state.json")):
                loaded = load_from_disk(str(folder))
                return loaded if isinstance(loaded, DatasetDict) else DatasetDict({"train": loaded})
            with _files_not_read(unread):
                return load_dataset(str(folder), name, streaming=True) if streaming else _prepared(folder, name)
        except Exception as error:  # each file format's reader raises errors of its own
            raise InputError(
                f"the folder {path!r} cannot be read as a data set{''.join(f', {file!r}' for file in unread[:1])}: "
                f"{_first_line(error)}",
                "it should hold parquet files named after their splits (train-*.parquet), images, text in UTF-8 as CSV "
                "or JSON lines, or what save_to_disk wrote",
            ) from error
    if folder.exists():
        raise InputError(f"path {path!r} is a file", f"give the folder it lies in, {str(folder.parent)!r}")
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise InputError(f"path {path!r} looks like a local folder, but there is none", f"looked from {os.getcwd()!r}")
    if "/" not in path and difflib.get_close_matches(path.lower(), ["digits"], cutoff=0.8):
        raise InputError(f"path {path!r} is no local folder; did you mean 'digits', the embedded data set?", _else())
    if path in _formats():
        raise InputError(
            f"path {path!r} names a file format, not a data set, and there is no folder of that name",
            f"looked from {os.getcwd()!r}; give the folder that holds the files",
        )
    try:
        return load_dataset(path, name, revision=revision, streaming=streaming)
    except (OSError, ValueError) as error:  # the hub's client raises a family of each
        near = difflib.get_close_matches(path, sorted(each.name for each in Path().iterdir() if each.is_dir()), n=1)
        raise InputError(
            f"path {path!r} is no local folder, and cannot be loaded from the hub: {_first_line(error)}",
            "".join(f"did you mean the folder {each!r}? " for each in near)
            + "check the id and the network; "
            + _else(),
        ) from error


def _prepared(folder: Path, name: str | None) -> Any:
    """The splits of a folder of files, from the copy that `datasets` makes of them: a new one after any change.

    By itself it knows its copy by paths and time stamps, and some versions what they unpacked by its path alone.
    """
    from datasets import DownloadConfig, load_dataset_builder
    from datasets.config import HF_DATASETS_CACHE

    builder = load_dataset_builder(str(folder), name, cache_dir=os.path.join(HF_DATASETS_CACHE, "lightning_ae"))
    files = [file for files in (builder.config.data_files or {}).values() for file in files]
    copy = f"{builder.cache_dir}-{states(files)}"
    builder.download_and_prepare(copy, download_config=DownloadConfig(cache_dir=f"{copy}-unpacked"))
    return builder.as_dataset()


def _else() -> str:
    return (
        "offline, give path the folder of a local copy, or set HF_HUB_OFFLINE=1 to use one that is cached; "
        "'digits' comes with the package"
    )


@contextmanager
def _files_not_read(found: list[str]) -> Iterator[None]:
    """Inside, `found` gets the names of files that `datasets` fails to read, which it says in its log alone."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if match := re.search(r"Failed to read (?:file|schema from) '(.+?)'", record.getMessage()):
                found.append(os.path.basename(match[1]))

    log, listener = logging.getLogger("datasets"), Listener()
    others, log.handlers = log.handlers, [listener]  # whose words the error repeats
    try:
        yield
    finally:
        log.handlers = others


def _check_tables(folder: Path) -> None:
    """Refuses tables among images, of which one kind would be left out, and a CSV file's column names that repeat."""
    own = ("metadata", "dataset_info", "dataset_dict", "dataset_infos", "state")
    files = [file for file in folder.iterdir() if not file.name.startswith(".")]
    tables = [f for f in files if f.suffix.lower() in (".csv", ".tsv", ".json", ".jsonl", ".parquet")]
    tables = [file for file in tables if file.stem not in own]
    images = (f for f in files if f.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"))
    if tables and (image := next(images, None)) is not None:
        raise InputError(
            f"the folder {str(folder)!r} holds images ({image.name!r}) and tables ({tables[0].name!r}), of which only "
            "one kind would be read",
            "give each a folder of its own; a table about the images is called metadata.csv",
        )
    for file in tables:
        if file.suffix.lower() in (".csv", ".tsv"):
            with file.open(newline="", encoding="utf-8-sig", errors="replace") as opened:
                names = next(csv.reader(opened, delimiter="\t" if file.suffix.lower() == ".tsv" else ","), [])
            if twice := [name for i, name in enumerate(names) if name in names[:i]]:
                raise InputError(
                    f"{str(file)!r} has the column {twice[0]!r} more than once", "rename them in its header"
                )


def _check_folder(folder: Path) -> None:
    """Refuses a folder whose description has other things read than its own files, or that holds what never ends."""
    try:
        endless = [each for place in (folder, *filter(Path.is_dir, folder.iterdir())) for each in _endless(place)]
        named = [] if endless else list(_named(folder))
        if not endless:
            _check_tables(folder)
    except InputError:
        raise
    except (OSError, ValueError, AttributeError, RecursionError, yaml.YAMLError, csv.Error) as error:
        raise InputError(
            f"the description of the data in the folder {str(folder)!r} cannot be read: {_first_line(error)}"
        ) from error
    if endless:
        raise InputError(f"{endless[0]!r} is no file: a pipe, a socket or a device", "remove it from the folder")
    for value in named:
        # "::" chains file systems, some of which fill in templates
        if "::" in value or "://" in value or value.startswith(("/", "~")) or ".." in Path(value).parts:
            raise InputError(
                f"the description of the data in the folder {str(folder)!r} names {value!r}, which lies elsewhere",
                "a local folder is read by itself: copy the files into it, and name them by their paths in it",
            )


def _endless(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:  # the types come with the names: no look at each of a million images
        return [e.path for e in entries if not (e.is_file() or e.is_dir()) and os.path.exists(e.path)]


def _named(folder: Path) -> Iterator[str]:
    """The files and folders that descriptions of the data name, those that `datasets` reads."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    cards: list[Any] = []
    if (folder / "README.md").is_file() and (
        block := REGEX_YAML_BLOCK.search((folder / "README.md").read_text(encoding="utf-8"))
    ):
        cards.append(yaml.safe_load(block.group(2)))
    if (folder / ".huggingface.yaml").is_file():
        cards.append(yaml.safe_load((folder / ".huggingface.yaml").read_text(encoding="utf-8")))
    for card in filter(None, cards):
        for config in card.get("configs") or []:
            yield from _strings([config.get("data_files"), config.get("data_dir")])
    for name, key in (("state.json", "_data_files"), ("dataset_dict.json", "splits")):
        for file in filter(Path.is_file, (folder / name, *folder.glob(f"*/{name}"))):
            yield from _strings(json.loads(file.read_text(encoding="utf-8")).get(key))


def _strings(value: Any) -> Iterator[str]:
    left, seen = [value], 0
    while left:
        each = left.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict | list):
            left += each.values() if isinstance(each, dict) else each
        seen += 1
        if seen > 1_000_000:  # aliases of YAML multiply
            raise ValueError("it names more than a million files")


def _formats() -> set[str]:
    """Names that `load_dataset` takes for those of file formats, and reads from the working folder."""
    import datasets.packaged_modules

    return {module.name for module in pkgutil.iter_modules(datasets.packaged_modules.__path__)}


def _first_line(error: BaseException) -> str:
    """The first line of what an error says; where a reader of a file is to blame, of what that one says."""
    while type(error).__name__.startswith("DatasetGeneration") and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    if "corresponds to no data" in str(error):
        return "it holds no rows"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
