"""Zip files of images or tables, unpacked into a folder of the cache; and tar files of samples, looked through."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from filelock import FileLock

from lightning_ae.data.fingerprint import states
from lightning_ae.errors import InputError


def unpacked(files: Sequence[Path]) -> Path:
    """A folder with the content of zip files, each in a folder of its own name where there are several.

    It lies in the cache of `datasets`, once for each state of the files, and appears by the renaming of a finished
    folder. Hidden files, and what macOS keeps beside files, are left out.

    Args:
        files: the zip files.

    Raises:
        InputError: when one is damaged or needs a password, holds what would lie outside the folder, a link, or a name
            twice, or there is no space for what it unpacks to.
    """
    folder = unpacked_root() / states(map(str, files))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            part = folder.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
            try:
                for file in files:
                    _unpack(file, part / file.stem if len(files) > 1 else part)
                part.rename(folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return folder


def unpacked_root() -> Path:
    """Where folders of unpacked files lie."""
    from datasets.config import HF_DATASETS_CACHE

    return Path(HF_DATASETS_CACHE).absolute() / "lightning_ae" / "unpacked"


def check_shards(files: Sequence[Path]) -> None:
    """Reads the names in tar files of samples through: members of one key (the name up to its first dot), side by side.

    `datasets` unpacks nothing of them, but passes over links, and takes what a sample lacks for missing.

    Raises:
        InputError: when one is damaged or cut short, or has an entry that lies outside, is a link, or is called .json
            and is none, a key twice, or a sample of other members than the first one's; naming file and entry.
    """
    wanted: tuple[str, ...] = ()
    of_first = ""
    for file in files:
        keys: dict[str, list[str]] = {}
        last = ""
        for name in _members(file):
            folder, _, own = name.rpartition("/")
            stem, _, ending = own.partition(".")
            key = f"{folder}/{stem}" if folder else stem
            if (key in keys and key != last) or ending in keys.get(key, ()):
                raise InputError(f"the tar file {str(file)!r} has the sample {key!r} more than once", "pack it again")
            keys.setdefault(key, []).append(ending)
            last = key
        for key, endings in keys.items():
            if not wanted:
                wanted, of_first = tuple(sorted(endings)), key
            if tuple(sorted(endings)) != wanted:
                raise InputError(
                    f"the tar file {str(file)!r} has of the sample {key!r} {', '.join(sorted(endings))}, and of the "
                    f"first one, {of_first!r}, {', '.join(wanted)}",
                    "give every sample the same members, as 0001.jpg and 0001.cls",
                )


def _members(file: Path) -> Iterator[str]:
    """The names of the files in a tar file.

    Raises:
        InputError: as `check_shards` says.
    """
    at, end = "", 0
    try:
        with tarfile.open(file) as opened:
            for entry in opened:
                at = f" after {entry.name!r}"
                end = entry.offset_data + entry.size
                why = "lies outside of it" if _outside(entry.name) else "is a link, or no file"
                if _outside(entry.name) or not (entry.isfile() or entry.isdir()):
                    raise InputError(
                        f"the tar file {str(file)!r} has the entry {entry.name!r}, which {why}", "pack it again"
                    )
                if entry.isfile():
                    if entry.name.endswith(".json"):
                        _check_json(file, entry.name, opened.extractfile(entry))
                    yield entry.name
            stream: Any = opened.fileobj  # of a compressed one, what it unpacks to
            if stream.seek(0, os.SEEK_END) < end:
                raise tarfile.ReadError("unexpected end of data")
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"the tar file {str(file)!r} cannot be read{at}: {error}", "it may be cut short: write it again"
        ) from error


def _check_json(file: Path, name: str, content: Any) -> None:
    try:
        json.loads(content.read())
    except ValueError as error:  # of JSON, and of its encoding
        raise InputError(f"the tar file {str(file)!r} has the entry {name!r}, which is no JSON: {error}") from error


def _unpack(file: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    at = ""
    try:
        with zipfile.ZipFile(file) as opened:
            _check(file, opened.infolist())
            entries = [entry for entry in opened.infolist() if not _hidden(entry.filename)]
            size, free = sum(entry.file_size for entry in entries), shutil.disk_usage(folder).free
            if size > free:
                raise InputError(
                    f"{str(file)!r} unpacks to {size / 2**20:.0f} MiB, but the disk of {str(unpacked_root())!r} has "
                    f"{free / 2**20:.0f} MiB free",
                    "free some space, or set HF_DATASETS_CACHE to a folder on another disk",
                )
            for entry in entries:
                at = f" at {entry.filename!r}"
                opened.extract(entry, folder)  # no more than the size that it declares
    # each way in which one is damaged has its error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the zip file {str(file)!r} cannot be unpacked{at}: {error}") from error
    if not entries:
        raise InputError(f"the zip file {str(file)!r} is empty")


def _check(file: Path, entries: list[zipfile.ZipInfo]) -> None:
    seen: set[str] = set()
    for entry in entries:
        name = entry.filename
        why = "lies outside of it" if _outside(name) else ""
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            why = "is a link, or no file"
        elif entry.flag_bits & 1:
            why = "needs a password"
        elif os.path.normpath(name) in seen and not entry.is_dir():
            why = "is there more than once"
        seen.add(os.path.normpath(name))
        if why:
            raise InputError(f"the zip file {str(file)!r} has the entry {name!r}, which {why}", "pack it again")


def _outside(name: str) -> bool:
    # a name that begins with a drive, or holds "\", is another place on Windows only: as bad an archive
    outside = PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name.replace("\\", "/")).parts
    return outside or bool(PureWindowsPath(name).drive or PureWindowsPath(name).root)


def _hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part.startswith((".", "__")) and part not in (".", "..") for part in parts)
