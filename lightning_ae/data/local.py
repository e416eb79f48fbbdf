"""From a folder or a file on this machine to a dictionary of splits."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import escape, has_magic
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from lightning_ae.data.alike import make_alike
from lightning_ae.data.archive import check_shards, unpacked
from lightning_ae.data.arrays import read_arrays
from lightning_ae.data.csv_files import check, dialect
from lightning_ae.data.fingerprint import states
from lightning_ae.errors import InputError
from lightning_ae.natural import listed

READERS = {
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "json"),
    ".parquet": "parquet",
    ".arrow": "arrow",
}
PACKED = (".gz", ".bz2", ".xz", ".zst")
ARRAYS, ARCHIVES = (".npy", ".npz"), (".zip",)
WORDS = {"csv": "CSV", "json": "JSON", "parquet": "parquet", "arrow": "Arrow"}
FOLDER = (
    "it should hold parquet files named after their splits (train-*.parquet), images, tar files of samples "
    "(webdataset), text in UTF-8 as CSV or JSON lines, or what save_to_disk wrote"
)
ABOUT = ("dataset_info", "dataset_infos", "dataset_dict", "state", "config")  # what describes data, as JSON


def read_folder(folder: Path, given: str, name: str | None, streaming: bool) -> Any:
    """The splits of a folder: of files as `datasets` reads them, of zip files, or of what `save_to_disk` wrote.

    Args:
        folder: absolute.
        given: as the user wrote it.
        name: the configuration, of a folder whose description has several.
        streaming: as an `IterableDatasetDict`, where the files can be read as they come.

    Raises:
        InputError: when it cannot be read, would be read in part only, or has other things read than its own files.
    """
    from datasets import DatasetDict, load_dataset_builder, load_from_disk

    described = _check_folder(folder)
    with _named_errors(f"the folder {given!r}", FOLDER):
        if any((folder / mark).is_file() for mark in ("dataset_dict.json", "state.json")):
            for file in sorted(folder.glob("**/*.arrow")):
                _check_arrow(file)
            loaded = load_from_disk(str(folder))
            return loaded if isinstance(loaded, DatasetDict) else DatasetDict({"train": loaded})
        there = {} if described else _files(folder)
        if archives := [file for file in there if file.suffix.lower() in ARCHIVES]:
            if len(archives) < len(there):
                raise _in_part(given, folder, archives[0], next(file for file in there if file not in archives), there)
            return _read_archives(archives, given, name, streaming)
        if has_magic(str(folder.resolve())):
            raise InputError(
                f"the path of the folder {given!r} holds one of *, ? and [, which name no folder to datasets"
            )
        builder = load_dataset_builder(str(folder), name, cache_dir=_copies())
        read = [Path(file) for files in (builder.config.data_files or {}).values() for file in files]
        taken = set(read)
        if read and (left := next((file for file in there if file not in taken), None)) is not None:
            raise _in_part(given, folder, read[0], left, there)
        if builder.name == "webdataset":
            splits = _splits(builder, streaming, lambda: check_shards(read))
            # a stream has no such way: it says that it leaves them out
            return splits if streaming else DatasetDict({split: _fields(rows) for split, rows in splits.items()})
        plain = [file for file in read if file.suffix.lower() in (".csv", ".tsv")] if builder.name == "csv" else []
        if plain and not described:
            options = dialect(plain)
            if any(getattr(builder.config, option) != value for option, value in options.items()):
                builder = load_dataset_builder(str(folder), name, cache_dir=_copies(), **options)
            return _splits(builder, streaming, lambda: check(plain, options["sep"]))
        return _splits(builder, streaming)


def read_file(file: Path, given: str, streaming: bool, arrays: bool = False) -> Any:
    """The splits of a single file, by its ending: a table (`READERS`), arrays, or a zip file of tables or of images.

    Args:
        file: absolute.
        given: as the user wrote it.
        streaming: as an `IterableDatasetDict`, where it can be read as it comes.
        arrays: whether bytes of more than two dimensions stay arrays; else they are images.

    Raises:
        InputError: when it cannot be read, or its kind is none of these.
    """
    from datasets import DatasetDict

    if not file.is_file():
        raise InputError(f"path {given!r} is no file: a pipe, a socket or a device")
    endings = [ending.lower() for ending in file.suffixes]
    packed = bool(endings) and endings[-1] in PACKED
    ending = "".join(endings[-2:-1] if packed else endings[-1:])
    if ending in ARCHIVES:
        return _read_archives([file], given, None, streaming)
    with _named_errors(f"the file {given!r}", "see whether it is whole, and of the kind that its ending says"):
        if ending in ARRAYS and not packed:
            return DatasetDict(read_arrays(file, arrays))
        if ending not in READERS:
            raise InputError(
                f"path {given!r} is a file of a kind that is not read",
                f"give a file that ends in {', '.join((*READERS, *ARRAYS, *ARCHIVES))}, a folder of such files or of "
                "images, or a Dataset in memory",
            )
        kind = READERS[ending]
        plain = kind == "csv" and not packed
        options = dialect([file]) if plain else {"sep": "\t"} if ending == ".tsv" else {}
        reader = getattr(import_module(f"datasets.packaged_modules.{kind}.{kind}"), kind.capitalize())
        builder = reader(cache_dir=_copies(), data_files={"train": [escape(str(file))]}, **options)
        return _splits(builder, streaming, (lambda: check([file], options["sep"])) if plain else None)


def _fields(rows: Any) -> Any:
    """Samples whose .json members are a column for each field, "json.label"; a member that is a list stays one."""
    structs = {name for name, feature in rows.features.items() if isinstance(feature, dict)}
    if not structs:
        return rows
    flat = rows.flatten()
    fields = [name for name in flat.column_names if name not in rows.column_names]
    rank_zero_info(f"of the samples' {listed(sorted(structs))} the fields are columns: {listed(fields)}")
    return flat


def _read_archives(files: list[Path], given: str, name: str | None, streaming: bool) -> Any:
    folder = unpacked(files)
    there = _files(folder)
    inner = [file for file in there if file.suffix.lower() in ARCHIVES]
    if inner or not there:
        holds = f"the archive {inner[0].name!r}" if inner else "neither images nor tables"
        raise InputError(f"the zip file {given!r} holds {holds}", "pack images, or tables, by themselves")
    return read_folder(folder, given, name, streaming)


def _copies() -> str:
    from datasets.config import HF_DATASETS_CACHE

    return os.path.join(HF_DATASETS_CACHE, "lightning_ae")


def _splits(builder: Any, streaming: bool, check: Callable[[], None] | None = None) -> Any:
    """The splits of files, from the copy that `datasets` makes of them: a new one after any change.

    By itself it knows its copy by paths and time stamps, and some versions what they unpacked by its path alone.

    Args:
        builder: of `datasets`.
        streaming: read as it comes, without a copy.
        check: looks at the files before there is a copy.
    """
    from datasets import DownloadConfig
    from pyarrow.dataset import ParquetFragmentScanOptions

    files = [file for files in (builder.config.data_files or {}).values() for file in files]
    if builder.name == "parquet":  # of which the whole file would lie in memory until its last row is read
        builder.config.fragment_scan_options = ParquetFragmentScanOptions(pre_buffer=False)
    if streaming:
        if builder.name in ("parquet", "arrow"):  # which say it without their rows
            make_alike(builder, files)
        return builder.as_streaming_dataset()
    copy = f"{builder.cache_dir}-{states(files)}"
    if check is not None and not os.path.isdir(copy):
        check()
    for again in (False, True):
        try:
            builder.download_and_prepare(copy, download_config=DownloadConfig(cache_dir=f"{copy}-unpacked"))
        except Exception:
            if again or not make_alike(builder, files):
                raise
            continue
        try:
            for file in Path(copy).glob("*.arrow"):
                _check_arrow(file)
            return builder.as_dataset()
        except InputError as error:
            if again:
                raise
            rank_zero_warn(f"the copy of the data in {copy!r} is damaged ({error.message}): it is made again")
            shutil.rmtree(copy, ignore_errors=True)
    raise AssertionError


# ---- what lies in a folder -------------------------------------------------------------------------------------------


def _files(folder: Path) -> dict[Path, str]:
    """The files of data in a folder, each with what it is in words, as `datasets` looks for them."""
    from datasets.packaged_modules.imagefolder.imagefolder import IMAGE_EXTENSIONS

    words = {ending: f"{WORDS[kind]} tables" for ending, kind in READERS.items()}
    words |= dict.fromkeys(ARRAYS, "arrays") | dict.fromkeys(ARCHIVES, "archives") | {".tar": "archives"}
    words |= dict.fromkeys(IMAGE_EXTENSIONS, "images")
    found = {}
    for place, inner, names in os.walk(folder.resolve()):
        inner[:] = sorted(each for each in inner if not each.startswith((".", "__")))
        for name in sorted(names):
            stem, ending = os.path.splitext(name.lower())
            ending = os.path.splitext(stem)[1] if ending in PACKED else ending
            if ending in words and not name.startswith(".") and not (ending == ".json" and stem in ABOUT):
                found[Path(place, name)] = words[ending]
    return found


def _in_part(given: str, folder: Path, read: Path, left: Path, there: dict[Path, str]) -> InputError:
    """Says that a folder would be read in part only: which file is read, and which is not."""
    kinds = {os.path.relpath(file, folder.resolve()): there.get(file, "notes") for file in (read, left)}
    one, other = kinds
    if kinds[one] != kinds[other]:
        one, other = sorted(kinds)
        return InputError(
            f"the folder {given!r} holds {kinds[one]} ({one!r}) and {kinds[other]} ({other!r}), of which only one "
            "kind would be read",
            "give each a folder of its own; a table about the images is called metadata.csv",
        )
    return InputError(
        f"the folder {given!r} holds {one!r}, which belongs to a split by its name, and {other!r}, which belongs to "
        "none and would not be read",
        "name every file or folder after its split (train-*, validation-*, test-*), or none of them",
    )


def _check_folder(folder: Path) -> bool:
    """Whether a description in the folder says which files make its data.

    Raises:
        InputError: when it has other things read than the folder's own files, or something there never ends.
    """
    try:
        endless = [each for place in (folder, *filter(Path.is_dir, folder.iterdir())) for each in _endless(place)]
        named = [] if endless else list(_named(folder))
    except (OSError, ValueError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise InputError(
            f"the description of the data in the folder {str(folder)!r} cannot be read: {first_line(error)}"
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
    return bool(named)


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


# ---- errors ----------------------------------------------------------------------------------------------------------


@contextmanager
def _named_errors(what: str, hint: str) -> Iterator[None]:
    """Turns what readers of files raise, each errors of its own, into one that names the file."""
    unread: list[str] = []
    try:
        with _files_not_read(unread):
            yield
    except InputError:
        raise
    except Exception as error:
        file = next((f", {each!r}" for each in unread if each not in what), "")
        raise InputError(f"{what} cannot be read as a data set{file}: {first_line(error)}", hint) from error


def _check_arrow(file: Path) -> None:
    """Refuses an Arrow file that is cut short, by its name; reads its outline only."""
    try:
        with pa.memory_map(str(file)) as mapped:
            pa.ipc.open_stream(mapped).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{str(file)!r} cannot be read: {first_line(error)}", "it may be cut short: write it again"
        ) from error


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


def first_line(error: BaseException) -> str:
    """The first line of what an error says; where a reader of a file is to blame, of what that one says."""
    while type(error).__name__.startswith("DatasetGeneration") and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    if "corresponds to no data" in str(error):
        return "it holds no rows"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
