"""Folders of weights: on this machine, or a repository on the Hugging Face hub at a commit."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_info

from lightning_ae.errors import InputError
from lightning_ae.zoo.fetch import GRACE, hub_errors, hub_file, offline, plain_file, short, within
from lightning_ae.zoo.schema import LARGEST_FILE, parse_hf

CONFIG, LARGEST_CONFIG = "config.json", 1 << 20  # bytes
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass
class Place:
    """A folder of files, which are read as they are asked for.

    Args:
        where: what errors call it.
        folder: where it is on this machine; or none.
        repo: on the hub, and at which commit.
        subfolder: of the repository, with a slash at its end, or nothing.
        names: of its files; None where nobody has asked the hub, which a commit does without.
    """

    where: str
    folder: Path | None = None
    repo: tuple[str, str] | None = None
    subfolder: str = ""
    names: list[str] | None = None

    def read(self, name: str, most: int = LARGEST_FILE) -> bytes:
        """The bytes of a file, at most so many.

        Raises:
            InputError: when it is not there, larger, or no plain file.
        """
        if self.repo is None:
            assert self.folder is not None
            file = self.folder / name
        else:
            file = hub_file(*self.repo, f"{self.subfolder}{name}", most=most)
        try:
            with plain_file(file) as (opened, size):
                if size > most:
                    raise InputError(f"{str(file)!r} has {size} bytes; at most {most} make sense")
                return opened.read(size)
        except OSError as error:
            raise InputError(f"{str(file)!r} cannot be read: {error.strerror or error}", self.told()) from error

    def told(self) -> str:
        """What the folder holds, in words."""
        return "" if self.names is None else f"it holds {', '.join(self.names[:12]) or 'no files'}"

    def config(self) -> dict[str, Any]:
        """What config.json says.

        Raises:
            InputError: when there is none, or it is no JSON object.
        """
        if self.names is not None and CONFIG not in self.names:
            pipeline = "model_index.json" in self.names
            inside = "it is a pipeline of diffusers, whose autoencoder is in a folder of it: subfolder='vae'"
            raise InputError(f"{self.where} has no {CONFIG}", inside if pipeline else self.told())
        text = self.read(CONFIG, LARGEST_CONFIG)
        try:
            data: Any = json.loads(text, object_pairs_hook=unique)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{CONFIG} of {self.where} is no JSON: {error}") from error
        if not isinstance(data, dict):
            raise InputError(f"{CONFIG} of {self.where} holds a {type(data).__name__}, no JSON object")
        return data

    def weights(self, name: str) -> bytes:
        """The bytes of a safetensors file.

        Raises:
            InputError: when it is not there; a pickle of that name is refused as such.
        """
        if self.names is not None and name not in self.names:
            stem = name.removesuffix(".safetensors")
            pickles = [other for other in self.names if other.startswith(stem) and other.endswith(PICKLES)]
            if pickles:
                raise InputError(
                    f"{self.where} has its weights as {pickles[0]} only, a pickle, which may run code when it is read",
                    f"have its owner save it as {name}, or convert it where you trust it",
                )
            raise InputError(f"{self.where} has no {name}", self.told())
        return self.read(name)


def place_of(source: str | os.PathLike[str], revision: str | None = None, subfolder: str | None = None) -> Place:
    """A folder here, or else a repository on the hub.

    Args:
        source: the folder; "organisation/name"; or hf://organisation/name@commit.
        revision: of a repository.
        subfolder: of either.

    Raises:
        InputError: when there is none, or the network would be needed and is forbidden.
    """
    text, within_it = os.fspath(source), (subfolder or "").strip("/")
    if ".." in within_it.split("/"):
        raise InputError(f"subfolder {subfolder!r} leads out of {text!r}")
    if text.startswith("hf://"):
        if revision is not None:
            raise InputError(f"{text!r} says its commit, and so does revision={revision!r}", "give one of them")
        hub = parse_hf(text)
        return _on_hub(hub.repo, hub.revision, within_it)
    folder = Path(text) / within_it
    if Path(text).is_dir():
        if revision is not None:
            raise InputError(f"{text!r} is a folder, which has no revision {revision!r}")
        if not folder.is_dir():
            raise InputError(f"{text!r} has no folder {within_it!r}")
        names = sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))
        return Place(repr(str(folder)), folder, names=names)
    if Path(text).is_file():
        raise InputError(
            f"{text!r} is a file, not a folder with {CONFIG} and weights",
            "a checkpoint is loaded by lightning_ae.load_model",
        )
    if not _REPO.fullmatch(text):
        raise InputError(f"there is no folder {text!r}, and it is no name of a repository", "that is organisation/name")
    return _on_hub(text, revision or "main", within_it)


def _on_hub(repo: str, revision: str, subfolder: str) -> Place:
    prefix = f"{subfolder}/" if subfolder else ""
    where = f"hf://{repo}@{revision[:8]}{f'/{subfolder}' if subfolder else ''}"
    if _COMMIT.fullmatch(revision):
        return Place(where, repo=(repo, revision), subfolder=prefix)
    if offline():
        raise InputError(
            f"there is no folder {repo!r}, and {offline()} forbids asking the hub which commit {revision!r} is",
            "give revision, the commit that is in the cache, or unset it",
        )
    from huggingface_hub import HfApi

    try:
        about = within(GRACE, where, lambda late: HfApi().model_info(repo, revision=revision))
    except hub_errors() as error:
        raise InputError(
            f"there is no folder {repo!r}, and the hub does not give it: {short(error)}",
            "check the name, the revision and the network",
        ) from error
    names = [file.rfilename for file in about.siblings or [] if file.rfilename.startswith(prefix)]
    rank_zero_info(f"{repo} at {revision!r} is the commit {about.sha}; give it as revision to have the same again")
    return Place(where, repo=(repo, str(about.sha)), subfolder=prefix, names=[n.removeprefix(prefix) for n in names])


def unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of which no key stands twice, since readers differ on which one counts."""
    found: dict[str, Any] = {}
    for name, value in items:
        if name in found:
            raise InputError(f"the key {name!r} stands twice")
        found[name] = value
    return found
