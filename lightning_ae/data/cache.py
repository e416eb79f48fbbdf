"""Decoded samples on disk: one folder an entry, mapped into memory, shared by all processes of a machine.

An entry appears by the renaming of a finished folder, so that a killed process leaves nothing half-made. Blocks of it
carry checksums; what is damaged is noticed when it is opened, and made again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from filelock import FileLock
from numpy.lib.format import open_memmap
from platformdirs import user_cache_path

from lightning_ae.errors import InputError

FORMAT = 1
BLOCK = 1 << 20
ABOUT = 64 << 20  # bytes of a description, enough for samples of 3 TiB
CHECKED = 256  # blocks read when an entry is opened: all of what is smaller than 256 MiB


@dataclass(frozen=True)
class Entry:
    """What lies in the cache: where, the bytes it takes, and what was written about it."""

    folder: Path
    size: int
    about: dict[str, Any]


def cache_folder() -> Path:
    """`$LIGHTNING_AE_CACHE/decoded`, or a folder in the user's cache."""
    given = os.environ.get("LIGHTNING_AE_CACHE")
    return (Path(given).expanduser() if given else user_cache_path("lightning_ae")) / "decoded"


def entries() -> list[Entry]:
    """What lies in the cache, the newest first."""
    found = []
    for path in cache_folder().glob("*/entry.json"):
        try:
            about = _about(path.parent)
            size = sum(file.stat().st_size for file in path.parent.iterdir())
        except (OSError, ValueError):  # removed meanwhile, or damaged: noticed when it is used
            continue
        found.append(Entry(path.parent, size, about))
    return sorted(found, key=lambda entry: str(entry.about.get("made")), reverse=True)


def clear() -> int:
    """Removes every entry; the bytes that were freed. Runs that have one open keep it until they end."""
    freed = sum(entry.size for entry in entries())
    folder = cache_folder()
    if folder.is_dir():
        for path in folder.iterdir():
            _remove(path)
        if not folder.is_symlink():
            folder.rmdir()
    return freed


def cached(name: str, about: dict[str, Any], rows: int, chunks: Iterable[np.ndarray]) -> np.ndarray:
    """The array that `chunks` make, read from the cache where it is there, else decoded and written to it.

    One process of a machine decodes; the others wait, and map the same file. The array may be written to without
    harm: changes stay with the process.

    Args:
        name: what people know it by.
        about: plain data that tell this array from every other; kept beside it.
        rows: its length.
        chunks: its parts in order, all of one type, iterated only where it is not there yet.

    Raises:
        InputError: when the disk is full. Where the folder cannot be written at all, or holds a damaged entry that
            cannot be removed, there is a warning, and the array is kept in this process's memory.
    """
    about = {"format": FORMAT, **about}
    key = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16).hexdigest()
    entry = cache_folder() / key
    if (found := _open(entry, rows, quiet=True)) is not None:
        return found
    part = entry.with_suffix(".part")
    with ExitStack() as locked:
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            locked.enter_context(FileLock(f"{entry}.lock"))
            if (found := _open(entry, rows)) is not None:  # another process may have been faster
                return found
            _remove(part)  # of a process that was killed
            part.mkdir()
        except OSError as error:
            warnings.warn(
                f"the cache folder {str(entry.parent)!r} cannot be written ({error.strerror}): decoded samples are "
                "kept in memory, and decoded again in each run; set LIGHTNING_AE_CACHE to a folder that can be "
                "written, or cache='memory'",
                stacklevel=2,
            )
            return in_memory(rows, chunks)
        try:
            _write(part, {"name": name, **about}, rows, chunks)
            part.rename(entry)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        found = _open(entry, rows)
    assert found is not None
    return found


def in_memory(rows: int, chunks: Iterable[np.ndarray]) -> np.ndarray:
    """The array that `chunks` make."""
    array: np.ndarray | None = None
    at = 0
    for chunk in chunks:
        if array is None:
            array = np.empty((rows, *chunk.shape[1:]), chunk.dtype)
        array[at : at + len(chunk)] = chunk
        at += len(chunk)
    assert array is not None  # empty splits are refused before
    assert at == rows
    return array


def _open(entry: Path, rows: int, quiet: bool = False) -> np.ndarray | None:
    """The array of an entry, or None where it is missing or damaged; unless `quiet`, what is damaged is removed."""
    if not os.path.lexists(entry):
        return None
    try:
        about = _about(entry)
        if not (entry / "samples.npy").is_file():  # a pipe would never open
            raise ValueError("it has no samples")
        # private to the process where it is written to, else one copy for all
        with np.errstate(over="raise"):  # of a size that no number holds
            array: np.ndarray = open_memmap(entry / "samples.npy", mode="c")
        if [list(array.shape), array.dtype.str] != [about["shape"], about["dtype"]] or len(array) != rows:
            raise ValueError(f"it holds {array.dtype} {array.shape}")
        flat = array.reshape(-1).view(np.uint8)
        sums = about["checksums"]
        if len(sums) != -(-flat.size // BLOCK):
            raise ValueError("its size is wrong")
        for i in np.unique(np.linspace(0, len(sums) - 1, min(CHECKED, len(sums)), dtype=np.int64)).tolist():
            if xxhash.xxh3_64_hexdigest(flat[i * BLOCK : (i + 1) * BLOCK].data) != sums[i]:
                raise ValueError(f"block {i} has another checksum")
    # a header is parsed as Python's literals, which nest and overflow
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, MemoryError, RecursionError) as error:
        if not quiet:
            why = str(error).partition("\n")[0]
            warnings.warn(f"the cached samples in {str(entry)!r} are damaged ({why}): decoding again", stacklevel=3)
            _remove(entry)
        return None
    return array


def _about(entry: Path) -> dict[str, Any]:
    """What was written about an entry.

    Raises:
        OSError, ValueError: when it cannot be read, or is something else.
    """
    file = entry / "entry.json"
    if not file.is_file() or file.stat().st_size > ABOUT:  # neither waits for a pipe nor reads what fills the memory
        raise ValueError("it has no description")
    try:
        about = json.loads(file.read_text())
    except RecursionError as error:
        raise ValueError("its description is nested too deeply") from error
    types = {"name": str, "shape": list, "dtype": str, "made": str, "checksums": list}
    if not isinstance(about, dict) or not all(isinstance(about.get(key), kind) for key, kind in types.items()):
        raise ValueError("its description is incomplete")
    return about


def _remove(path: Path) -> None:
    """A file, a folder or a link, but never what a link leads to; what is not there stays so."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write(part: Path, about: dict[str, Any], rows: int, chunks: Iterable[np.ndarray]) -> None:
    """An entry's files, in the empty folder `part`."""
    with _enough_space(part.parent) as check:
        sums, shape, dtype = _Checksums(), (rows,), None
        with (part / "samples.npy").open("wb") as file:
            for chunk in chunks:
                chunk = np.ascontiguousarray(chunk)
                if dtype is None:
                    shape, dtype = (rows, *chunk.shape[1:]), chunk.dtype
                    check(rows * chunk[:1].nbytes)
                    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_2_0(file, header)
                file.write(chunk.data)
                sums.add(chunk.data.cast("B"))
            assert dtype is not None  # empty splits are refused before
            file.flush()
            os.fsync(file.fileno())
        made = datetime.now(UTC).isoformat(timespec="seconds")
        written = {**about, "shape": shape, "dtype": dtype.str, "made": made, "checksums": sums.all()}
        (part / "entry.json").write_text(json.dumps(written))


class _Checksums:
    """Of each block of a stream of bytes."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.block, self.filled = xxhash.xxh3_64(), 0

    def add(self, data: memoryview) -> None:
        while data:
            part = data[: BLOCK - self.filled]
            self.block.update(part)
            self.filled += len(part)
            if self.filled == BLOCK:
                self.done.append(self.block.hexdigest())
                self.block, self.filled = xxhash.xxh3_64(), 0
            data = data[len(part) :]

    def all(self) -> list[str]:
        return self.done + ([self.block.hexdigest()] if self.filled else [])


@contextmanager
def _enough_space(folder: Path) -> Iterator[Any]:
    needed = 0

    def check(size: int) -> None:
        nonlocal needed
        needed = size
        if shutil.disk_usage(folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    try:
        yield check
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        free = shutil.disk_usage(folder).free
        raise InputError(
            f"the decoded samples take {needed / 2**20:.0f} MiB, but the disk of the cache folder {str(folder)!r} is "
            f"full ({free / 2**20:.0f} MiB are free)",
            "free some space (lightning-ae cache --clear true), set LIGHTNING_AE_CACHE to another disk, or use "
            "cache='memory' or 'none'",
        ) from error
