"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lightning_ae.errors import InputError


@contextlib.contextmanager
def whole_file(file: str | os.PathLike[str], overwrite: bool = True, suffix: str | None = None) -> Iterator[Path]:
    """A place beside a file to write it to; at the end it is moved there, or, after any error, removed.

    Args:
        file: the file; its folder is made.
        overwrite: whether to replace a file that is there by then.
        suffix: what the place's name ends in; by default what the file's does, by which some writers know the format.

    Raises:
        InputError: when it cannot be written, the disk being full, say, or is there already.
    """
    place = Path(file)
    part = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=place.parent, prefix=".part-", suffix=place.suffix if suffix is None else suffix
        )
        part = Path(name)
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(handle, 0o666 & ~mask)  # as any other file
        os.close(handle)
        yield part
        with open(part, "rb") as written:
            os.fsync(written.fileno())  # or a crash of the machine could leave the name without the contents
        if overwrite:
            os.replace(part, place)
        else:
            _move(part, place)
    except OSError as error:
        if isinstance(error, FileExistsError):
            raise InputError(f"{place} exists already", "give another output, or set overwrite") from error
        raise InputError(
            f"{place} cannot be written: {error.strerror or error}",
            "make room, or write elsewhere; files that were there are untouched",
        ) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def _move(part: Path, place: Path) -> None:
    """Never replaces a file, not even one that somebody else wrote meanwhile."""
    try:
        os.link(part, place)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if place.exists():
            raise FileExistsError(place) from None
        os.replace(part, place)
