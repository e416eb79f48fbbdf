"""By what the cache knows decoded samples again: the rows, the files they are read from, and the code that reads them.

Reading it costs a look at each file, not its content: a file that was exchanged, or written again, has another size,
time of change or inode, whatever its path and its time stamp say.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import xxhash
from pytorch_lightning.utilities import rank_zero_warn

from lightning_ae.config import class_path
from lightning_ae.data.code_digest import DECODING, Code, named

if TYPE_CHECKING:
    from datasets import Dataset

    from lightning_ae.data.kinds import Kind

HASHED = 1 << 30  # bytes that are read whole where a file system does not tell what changed
TICK = 20_000_000  # ns; two changes within one have the same time
VAGUE = ("fuse", "9p", "cifs", "smb", "vfat", "exfat", "msdos", "ntfs", "drvfs", "virtiofs")


def fingerprint(kind: Kind, rows: Dataset, columns: list[str]) -> dict[str, Any]:
    """Plain data that differ wherever the decoded samples of these rows may.

    - rows: the table's own fingerprint, which knows what was done to it (a selection of rows, a map, a cast), and the
      content of what lies in memory, which may have been written to.
    - files: those that the table is mapped from, and those that the columns name by path.
    - kind: its options and, of a class outside this package, every field and the code.

    Args:
        kind: decodes.
        rows: of one split.
        columns: those that make the input.
    """
    mapped = [file["filename"] for file in rows.cache_files]
    by_path = [path for column in columns for path in _paths(rows.data.column(column))]
    return {
        "rows": rows._fingerprint,
        "content": _content(rows, columns),
        "files": states([*mapped, *by_path]),
        "columns": columns,
        "kind": {**kind.decoding, "class_path": named(class_path(type(kind))), "code": Code().of(kind) or DECODING},
    }


# ---- files ------------------------------------------------------------------------------------------------------


def states(paths: Iterable[str]) -> str:
    """A digest that is another one after any of these files has changed, or another has taken its place.

    Of path, size, times and inode. Where a file system keeps no time of change of its own, as those of Windows and many
    over a network, files are read whole, up to 1 GiB of them; that more were not is said in a warning.
    """
    digest, left, latest, unread = xxhash.xxh3_128(), HASHED, 0, False
    vague = _vague_devices()
    for path in paths:
        if "::" in path and not os.path.lexists(path):  # of a file in an archive
            path = path.rpartition("::")[2]
        state: tuple[Any, ...] = (path, "cannot be read")  # who decodes it says why
        with suppress(OSError, ValueError):
            stat = os.stat(path)
            content = None
            if os.name == "nt" or not stat.st_ctime_ns or not stat.st_ino or stat.st_dev in vague:
                left -= stat.st_size
                unread |= left < 0
                content = _hash(path) if left >= 0 else None
            latest = max(latest, stat.st_ctime_ns)
            state = (path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, content)
        digest.update(repr(state).encode())
    if unread:
        rank_zero_warn(
            "the data lie on a file system that does not tell when files changed, and are too large to be read whole "
            "at each start: samples of the cache are used as long as paths, sizes and time stamps stay, whatever the "
            "files hold. After a change that keeps those: lightning-ae cache --clear true, or cache='memory'"
        )
    if 0 <= time.time_ns() - latest < TICK:
        time.sleep(TICK / 1e9)  # so that what changes from now on has another time
    return digest.hexdigest()


def _hash(path: str) -> str:
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _vague_devices() -> set[int]:
    """Numbers of the devices whose file systems make up times of change, or inodes."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    except OSError:  # other systems than Linux
        return set()
    devices = [fields[2].split(":") for fields in mounts if fields[fields.index("-") + 1].startswith(VAGUE)]
    return {os.makedev(int(major), int(minor)) for major, minor in devices}


def _paths(values: pa.ChunkedArray) -> list[str]:
    """The files that a column names, at any depth: by paths instead of encoded bytes, or as texts that are paths."""
    kind, found = values.type, []
    for chunk in values.chunks:
        if isinstance(chunk, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
            found += _paths(pa.chunked_array([chunk.flatten()]))
        elif isinstance(chunk, pa.StructArray):
            names = [field.name for field in kind]
            if "bytes" in names and "path" in names:
                if chunk.field("bytes").null_count:  # else it is embedded, and the path says where it came from
                    found += chunk.field("path").filter(chunk.field("bytes").is_null()).drop_null().to_pylist()
            else:
                found += [path for name in names for path in _paths(pa.chunked_array([chunk.field(name)]))]
        elif isinstance(chunk, pa.StringArray | pa.LargeStringArray):  # of a kind that opens files itself
            texts = chunk.drop_null()
            if len(texts) and _is_file(texts[0].as_py()):
                found += texts.to_pylist()
    return found


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(path)
    except ValueError:  # no path at all
        return False


# ---- rows -------------------------------------------------------------------------------------------------------


def _content(rows: Dataset, columns: list[str]) -> str | None:
    """A digest of what lies in memory of these columns; None where all is mapped from files that can be looked at.

    A mapped file that another has taken the place of goes on being read: it counts as memory.
    """
    from datasets.table import ConcatenationTable, MemoryMappedTable

    table, digest = rows.data, None
    blocks = [block for line in table.blocks for block in line] if isinstance(table, ConcatenationTable) else [table]
    for block in blocks:
        used = [column for column in columns if column in block.column_names]
        content = block.table.select(used)
        if used and not (isinstance(block, MemoryMappedTable) and _is_mapped(content, block.path)):
            digest = digest or xxhash.xxh3_128()
            with pa.ipc.new_stream(pa.PythonFile(_Sink(digest), "w"), content.schema) as stream:
                stream.write_table(content)
    return None if digest is None else digest.hexdigest()


class _Sink:
    """Passes what is written on to a digest."""

    closed = False

    def __init__(self, digest: Any) -> None:
        self.digest = digest

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is open."""


def _is_mapped(table: pa.Table, path: str) -> bool:
    """Whether a table is mapped from the file that lies at this path now; taken for true where no system tells."""
    try:
        lines = Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return True
    mapped = [fields for fields in (line.split(maxsplit=5) for line in lines) if len(fields) == 6]
    starts, ends = zip(*([int(end, 16) for end in fields[0].split("-")] for fields in mapped), strict=True)
    for address in _addresses(table):
        at = bisect_right(starts, address) - 1
        if at >= 0 and address < ends[at] and mapped[at][4] != "0":  # the inode of a file
            return mapped[at][5] == os.path.realpath(path)  # else it was moved, or removed: "... (deleted)"
    return False


def _addresses(table: pa.Table) -> Iterator[int]:
    for column in table.columns:
        for chunk in column.chunks:
            yield from (buffer.address for buffer in chunk.buffers() if buffer is not None and buffer.size)
