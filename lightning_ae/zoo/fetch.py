"""From an entry's file to its bytes: bundled, a local mirror, the cache, then the network. What has another hash than
the entry says is never used, and never kept.
"""

from __future__ import annotations

import errno
import hashlib
import inspect
import os
import shutil
import stat
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urljoin, urlsplit

from filelock import FileLock, Timeout
from platformdirs import user_cache_path
from pytorch_lightning.utilities import rank_zero_info

from lightning_ae.errors import InputError
from lightning_ae.files import whole_file
from lightning_ae.zoo import index
from lightning_ae.zoo.schema import LARGEST_FILE, Entry, File, check_url, parse_hf

TIMEOUT = 30  # seconds without a byte
GRACE, SLOWEST = 60, 50_000  # a download may take these seconds, and one more for each so many bytes
SILENT = 2  # seconds that one waits for another process without a word
T = TypeVar("T")


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
        try:
            return _read(place, file)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except InputError as error:
            problems.append(error)
        except OSError as error:
            problems.append(InputError(f"{str(place)!r} cannot be read: {error.strerror or error}"))
    if (data := _cached(file)) is not None:
        return data
    urls = [_mirrored(url) for url in file.urls]
    if urls and offline():
        told = "".join(f"; {problem.message}" for problem in problems)
        raise InputError(
            f"{file.name} of {entry.name} is neither bundled nor in the cache, and {offline()} forbids fetching it"
            f"{told}",
            f"unset it, or run `lightning-ae zoo download {entry.name}` where there is a network and set "
            "LIGHTNING_AE_MIRROR to that folder",
        )
    with _locked(file, len(urls) * (GRACE + _allowed(file.size))) if urls else nullcontext():
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
            with whole_file(folder / file.name) as part:
                part.write_bytes(data)
        folders.append(folder)
    return folders


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


def hub_file(repo: str, revision: str, name: str, folder: str | None = None, most: int = LARGEST_FILE) -> Path:
    """A file on the Hugging Face hub at a commit, in the hub's own cache or in `folder`.

    Args:
        repo: "organisation/name".
        revision: the commit.
        name: the file's.
        folder: where to put it; by default the hub's own cache.
        most: how many bytes it may have.

    Raises:
        InputError: when it cannot be had, is larger, or takes too long.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    where = f"{name} of hf://{repo}@{revision[:8]}"

    def size(late: threading.Event) -> int:
        return get_hf_file_metadata(hf_hub_url(repo, name, revision=revision)).size or most

    def get(late: threading.Event) -> Path:
        options: dict[str, Any] = {"local_dir": folder, "local_files_only": bool(offline())}
        if "tqdm_class" in inspect.signature(hf_hub_download).parameters:  # of later versions
            options["tqdm_class"] = _counting(most, where, late)
        return Path(hf_hub_download(repo, name, revision=revision, **options))

    cached = folder is None and isinstance(try_to_load_from_cache(repo, name, revision=revision), str)
    try:
        found = most if cached or offline() else within(GRACE, where, size)
        if found > most:
            raise IntegrityError(f"{where} has {found} bytes; at most {most} make sense")
        return within(_allowed(found), where, get)
    except hub_errors() as error:
        _full(error, cache_folder())
        hint = f"{offline()} is set" if offline() else "check the name, the commit and the network"
        raise InputError(f"{where} cannot be fetched: {short(error)}", hint) from error


def hub_errors() -> tuple[type[Exception], ...]:
    """What the hub's client raises where something cannot be had, its network's errors among them."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # what it talks by, which depends on its version; of requests the errors are an OSError
    clients = [sys.modules[name].HTTPError for name in ("httpx", "httpx2") if name in sys.modules]
    return (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, *clients)


@contextmanager
def plain_file(place: Path, links: bool = True) -> Iterator[tuple[IO[bytes], int]]:
    """A file and how many bytes it has, before any is read; a pipe or a device is not waited for.

    Args:
        place: where it is.
        links: whether it may be a symbolic link.

    Raises:
        InputError: for a folder, a pipe, a device and the like.
        OSError: when it cannot be opened.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(place, flags | (0 if links else getattr(os, "O_NOFOLLOW", 0)))
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise InputError(f"{str(place)!r} is no plain file")
        with open(descriptor, "rb", closefd=False) as file:
            yield file, about.st_size
    finally:
        os.close(descriptor)


# ---- places on this machine ------------------------------------------------------------------------------------------


def _local_places(entry: Entry, file: File) -> Iterator[Path]:
    yield index.zoo_folder() / "weights" / entry.name / file.name
    mirror = os.environ.get("LIGHTNING_AE_MIRROR")
    if mirror and "://" not in mirror:
        yield Path(mirror).expanduser() / entry.name / file.name


def _cached(file: File) -> bytes | None:
    place = cache_folder() / file.sha256
    try:
        return _read(place, file, links=False)  # one in the cache could lead anywhere
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        damage = "is a symbolic link" if error.errno == errno.ELOOP else f"cannot be read ({error.strerror or error})"
    except IntegrityError:
        damage = "is damaged"
    except InputError:
        damage = "is no plain file"
    warnings.warn(f"{file.name} in the cache {damage}, and is fetched again ({place})", stacklevel=3)
    with suppress(OSError):
        place.unlink()
    return None


def _read(place: Path, file: File, links: bool = True) -> bytes:
    with plain_file(place, links) as (opened, size):
        if size != file.size:
            raise IntegrityError(f"{place} has {size} bytes instead of {file.size}")
        return _checked(opened.read(size), file, str(place))


def _checked(data: bytes, file: File, where: str) -> bytes:
    if len(data) != file.size:
        raise IntegrityError(f"{where} has {len(data)} bytes instead of {file.size}")
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise IntegrityError(f"{where} has another hash than the entry says")
    return data


@contextmanager
def _locked(file: File, longest: float) -> Iterator[None]:
    """Lets one process of a machine fetch a file while the others wait for it, `longest` seconds at most."""
    folder = cache_folder()
    place = folder / f"{file.sha256}.lock"
    with _said(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place)
        try:
            lock.acquire(timeout=SILENT)
        except Timeout:
            rank_zero_info(f"waiting for another process that fetches {file.name} (it holds {place})")
            try:
                lock.acquire(timeout=longest)
            except Timeout as error:
                raise InputError(
                    f"another process has held {str(place)!r} for {longest:.0f} s to fetch {file.name}",
                    "end that process, or set LIGHTNING_AE_CACHE to another folder",
                ) from error
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
            part = hub_file(hub.repo, hub.revision, hub.file or file.name, folder, file.size)
        else:
            _https(url, file, part)
        with plain_file(part, links=False) as (opened, size):
            data = _checked(opened.read(size), file, url)
        with _said(place.parent):
            os.replace(part, place)
        return data
    except _DiskFullError:
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Bounded:
    """A file that takes no more bytes than the entry says, and none when it is too late, with a bar."""

    def __init__(self, file: IO[bytes], size: int, url: str, bar: Any, late: threading.Event) -> None:
        self.file, self.left, self.url, self.bar, self.late = file, size, url, bar, late

    def write(self, chunk: bytes) -> None:
        if self.late.is_set():
            raise TooLate
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

    fetch = HTTPDownloader(
        timeout=TIMEOUT, chunk_size=1 << 14, hooks={"response": _https_only}, headers={"Accept-Encoding": "identity"}
    )

    def get(late: threading.Event) -> None:
        bar = tqdm(total=file.size, desc=file.name, unit="B", unit_scale=True, delay=2, leave=False)
        with bar, open(place, "wb") as output:
            fetch(check_url(url), _Bounded(output, file.size, url, bar, late), None)

    try:
        within(_allowed(file.size), url, get)
    except requests.RequestException as error:  # an OSError, too
        raise InputError(f"{url} cannot be fetched: {short(error)}") from error
    except OSError as error:
        _full(error, place.parent.parent)
        raise InputError(f"{url} cannot be fetched: {error.strerror or error}") from error


def _allowed(size: int) -> float:
    """How many seconds a file of that many bytes may take."""
    return GRACE + size / SLOWEST


def within(seconds: float, what: str, work: Callable[[threading.Event], T]) -> T:
    """What `work` gives, if it does so in time; it is told when it is too late, and left to find that out.

    Timeouts of a connection begin again with each byte, and a server may send one a second, of headers too.

    Raises:
        InputError: when it does not.
    """
    late, done = threading.Event(), Future[T]()

    def run() -> None:
        try:
            done.set_result(work(late))
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        done.exception(seconds)
    except TooLate as error:
        raise InputError(f"{what} has not come within {seconds:.0f} s") from error
    finally:
        late.set()
    return done.result()


def _counting(most: int, what: str, late: threading.Event) -> Any:
    """A class of bars that stop a download of more than `most` bytes, or one that is late."""
    from huggingface_hub.utils import tqdm

    class Counting(tqdm):
        left: float = most

        def update(self, n: float | None = 1) -> bool | None:
            self.left -= n or 0
            if late.is_set():
                raise TooLate
            if self.left < 0:
                raise IntegrityError(f"{what} has more than {most} bytes")
            return super().update(n)

    return Counting


def _https_only(response: Any, *args: Any, **kwargs: Any) -> None:
    """Refuses to be sent elsewhere than to https."""
    if response.is_redirect:
        try:
            check_url(urljoin(response.url, response.headers["location"]))
        except InputError as error:
            raise InputError(f"{response.url} redirects: {error.message}") from error


def short(error: BaseException) -> str:
    """The kind of an error, and the first line of what it says."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
