"""From an entry's file to its bytes: bundled, a local mirror, the cache, then the network. What has another hash than
the entry says is never used, and never kept.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

from filelock import FileLock
from platformdirs import user_cache_path

from lightning_ae.errors import InputError
from lightning_ae.zoo import index
from lightning_ae.zoo.schema import Entry, File, check_url, parse_hf

TIMEOUT = 30  # seconds without a byte


class IntegrityError(InputError):
    """A file is not the one that the entry describes."""


def fetch(entry: Entry, file: File) -> bytes:
    """The bytes of an entry's file, of which the hash is right.

    Raises:
        IntegrityError: when no place has the right file; nothing is kept of others.
        InputError: when none can be reached, or the cache folder cannot be written.
    """
    problems: list[InputError] = []
    for place in _local_places(entry, file):
        with suppress(FileNotFoundError, NotADirectoryError):
            try:
                return _checked(_read(place), file, str(place))
            except IntegrityError as error:
                problems.append(error)
    if (data := _cached(file)) is not None:
        return data
    urls = [_mirrored(url) for url in file.urls]
    if urls and offline():
        raise InputError(
            f"{file.name} of {entry.name} is neither bundled nor in the cache, and {offline()} forbids fetching it",
            f"unset it, or run `lightning-ae zoo download {entry.name}` where there is a network and set "
            "LIGHTNING_AE_MIRROR to that folder",
        )
    with _locked(file) if urls else nullcontext():
        if (data := _cached(file)) is not None:  # another process was faster
            return data
        for url in urls:
            try:
                return _download(url, file)
            except InputError as error:
                problems.append(error)
    told = "; ".join(problem.message for problem in problems) or "it is bundled with the package, but not there"
    kind = IntegrityError if any(isinstance(problem, IntegrityError) for problem in problems) else InputError
    raise kind(
        f"{file.name} of {entry.name} cannot be had: {told}",
        "check the network, set LIGHTNING_AE_MIRROR to a folder or an https address that has it, or install again",
    )


def download(names: Sequence[str], to: str | os.PathLike[str]) -> list[Path]:
    """Copies entries to a folder, one folder for each, which `load` takes and LIGHTNING_AE_MIRROR may name.

    Args:
        names: of entries.
        to: the folder.

    Returns:
        The folder of each entry.

    Raises:
        InputError: for an unknown name, or when a file cannot be had or written.
    """
    folders = []
    for entry in [index.info(name) for name in names]:
        folder = Path(to) / entry.name
        for file in entry.files:
            data = fetch(entry, file)
            with _said(folder):
                folder.mkdir(parents=True, exist_ok=True)
                write(folder / file.name, data)
        folders.append(folder)
    return folders


def write(place: Path, data: bytes) -> None:
    """Writes a file in one piece or not at all."""
    handle, part = tempfile.mkstemp(dir=place.parent, prefix=".part-")
    try:
        with open(handle, "wb") as file:
            file.write(data)
        os.chmod(part, 0o644)
        os.replace(part, place)
    except BaseException:
        with suppress(OSError):
            os.unlink(part)
        raise


def cache_folder() -> Path:
    """`$LIGHTNING_AE_CACHE/zoo`, or a folder in the user's cache; its files are called by their SHA-256."""
    given = os.environ.get("LIGHTNING_AE_CACHE")
    return (Path(given).expanduser() if given else user_cache_path("lightning_ae")) / "zoo"


def offline() -> str | None:
    """The variable that forbids the network, where one does."""
    for name in ("LIGHTNING_AE_OFFLINE", "HF_HUB_OFFLINE"):
        if os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on"):
            return name
    return None


def hub_file(repo: str, revision: str, name: str, folder: str | None = None) -> Path:
    """A file on the Hugging Face hub at a commit, in the hub's own cache or in `folder`.

    Raises:
        InputError: when it cannot be had.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, name, revision=revision, local_dir=folder, local_files_only=bool(offline())))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        _full(error, cache_folder())
        hint = f"{offline()} is set" if offline() else "check the name, the commit and the network"
        raise InputError(f"{name} of hf://{repo}@{revision[:8]} cannot be fetched: {_short(error)}", hint) from error


# ---- places on this machine ------------------------------------------------------------------------------------------


def _local_places(entry: Entry, file: File) -> Iterator[Path]:
    yield index.zoo_folder() / "weights" / entry.name / file.name
    mirror = os.environ.get("LIGHTNING_AE_MIRROR")
    if mirror and "://" not in mirror:
        yield Path(mirror).expanduser() / entry.name / file.name


def _cached(file: File) -> bytes | None:
    place = cache_folder() / file.sha256
    try:
        return _checked(_read(place), file, str(place))
    except OSError as error:
        if error.errno != errno.ELOOP:
            return None
        damage = "is a symbolic link"
    except IntegrityError:
        damage = "is damaged"
    warnings.warn(f"{file.name} in the cache {damage}, and is fetched again ({place})", stacklevel=3)
    with suppress(OSError):
        place.unlink()
    return None


def _read(place: Path) -> bytes:
    """The bytes of a file that is no link: one in the cache could lead anywhere."""
    with open(os.open(place, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
        return file.read()


def _checked(data: bytes, file: File, where: str) -> bytes:
    if len(data) != file.size:
        raise IntegrityError(f"{where} has {len(data)} bytes instead of {file.size}")
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise IntegrityError(f"{where} has another hash than the entry says")
    return data


@contextmanager
def _locked(file: File) -> Iterator[None]:
    """Lets one process of a machine fetch a file while the others wait for it."""
    folder = cache_folder()
    with _said(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{file.sha256}.lock")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _said(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _full(error, folder)
        raise InputError(
            f"the folder {str(folder)!r} cannot be written: {error.strerror or error}",
            "set LIGHTNING_AE_CACHE to a folder that can, or name another",
        ) from error


def _full(error: BaseException, folder: Path) -> None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(folder).free if folder.is_dir() else 0
        raise _DiskFullError(
            f"the disk is full: {str(folder)!r} has {free / 2**20:.0f} MiB left; nothing was kept",
            "make room, or set LIGHTNING_AE_CACHE to a folder on another disk",
        ) from error


class _DiskFullError(InputError):
    pass


# ---- the network -----------------------------------------------------------------------------------------------------


def _mirrored(url: str) -> str:
    """The address to use: on the mirror, where one is set."""
    mirror = os.environ.get("LIGHTNING_AE_MIRROR")
    if not mirror or "://" not in mirror:
        return url
    mirror = check_url(mirror).rstrip("/")
    if url.startswith("hf://"):
        hub = parse_hf(url)
        return f"{mirror}/{hub.repo}/resolve/{hub.revision}/{hub.file}"
    return mirror + urlsplit(url).path


def _download(url: str, file: File) -> bytes:
    """Fetches a file into the cache.

    Raises:
        IntegrityError: when it is not the right one.
        InputError: when it cannot be fetched.
    """
    place = cache_folder() / file.sha256
    with _said(place.parent):
        folder = tempfile.mkdtemp(dir=place.parent, prefix=".part-")
    try:
        part = Path(folder) / file.name
        if url.startswith("hf://"):
            hub = parse_hf(url)
            part = hub_file(hub.repo, hub.revision, hub.file or file.name, folder)
        else:
            _https(url, file, part)
        data = _checked(_read(part), file, url)
        with _said(place.parent):
            os.replace(part, place)
        return data
    except _DiskFullError:
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Bounded:
    """A file that takes no more bytes than the entry says, with a bar."""

    def __init__(self, file: IO[bytes], size: int, url: str, bar: Any) -> None:
        self.file, self.left, self.url, self.bar = file, size, url, bar

    def write(self, chunk: bytes) -> None:
        self.left -= len(chunk)
        if self.left < 0:
            raise IntegrityError(f"{self.url} sends more bytes than the entry says")
        self.file.write(chunk)
        self.bar.update(len(chunk))

    def flush(self) -> None:
        """Left to the file's own buffer."""


def _https(url: str, file: File, place: Path) -> None:
    import requests
    from pooch import HTTPDownloader
    from tqdm.auto import tqdm

    fetch = HTTPDownloader(timeout=TIMEOUT, chunk_size=1 << 16, hooks={"response": _https_only})
    bar = tqdm(total=file.size, desc=file.name, unit="B", unit_scale=True, delay=2, leave=False)
    try:
        with bar, open(place, "wb") as output:
            fetch(check_url(url), _Bounded(output, file.size, url, bar), None)
    except requests.RequestException as error:  # an OSError, too
        raise InputError(f"{url} cannot be fetched: {_short(error)}") from error
    except OSError as error:
        _full(error, place.parent.parent)
        raise InputError(f"{url} cannot be fetched: {error.strerror or error}") from error


def _https_only(response: Any, *args: Any, **kwargs: Any) -> None:
    """Refuses to be sent elsewhere than to https."""
    if response.is_redirect:
        try:
            check_url(urljoin(response.url, response.headers["location"]))
        except InputError as error:
            raise InputError(f"{response.url} redirects: {error.message}") from error


def _short(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
