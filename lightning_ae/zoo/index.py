"""The index: one file for each entry, in the package. It is never fetched."""

from __future__ import annotations

import fnmatch
import functools
from pathlib import Path
from typing import Any, Literal

import yaml

from lightning_ae.errors import InputError, unknown
from lightning_ae.strict_yaml import load_yaml
from lightning_ae.zoo.schema import Entry, parse

Sort = Literal["name", "model", "dataset", "size", "probe_error", "knn_error"]


def zoo_folder() -> Path:
    """The folder with entries/ and weights/: in the package, or beside it in a checkout."""
    inside = Path(__file__).parent / "bundled"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "zoo"


def list_models(
    pattern: str = "*",
    model: str | None = None,
    dataset: str | None = None,
    licence: str | None = None,
    sort: Sort = "name",
) -> list[str]:
    """The names of the entries.

    Args:
        pattern: of names, such as "vae_*" or "*mnist*".
        model: a variant's name in the registry.
        dataset: digits, mnist, fashion_mnist and so on.
        licence: of the weights or of the data, an SPDX identifier.
        sort: name, model, dataset, size, probe_error or knn_error; what has no such value comes last.

    Raises:
        InputError: for another `sort`.
    """
    found = [
        entry
        for entry in map(info, names())
        if fnmatch.fnmatchcase(entry.name, pattern)
        and model in (None, entry.model)
        and dataset in (None, entry.dataset)
        and licence in (None, entry.licence.weights, entry.licence.data)
    ]

    def key(entry: Entry) -> Any:
        if sort == "size":
            return sum(file.size for file in entry.files), entry.name
        if sort in ("probe_error", "knn_error"):
            value = entry.metric(sort)
            return value is None, value, entry.name
        if sort in ("name", "model", "dataset"):
            return getattr(entry, sort), entry.name
        raise unknown("sort", sort, ("name", "model", "dataset", "size", "probe_error", "knn_error"))

    return [entry.name for entry in sorted(found, key=key)]


def names() -> list[str]:
    """The names of all entries."""
    return sorted(file.stem for file in (zoo_folder() / "entries").glob("*.yaml"))


def info(name: str) -> Entry:
    """What the index says of an entry.

    Raises:
        InputError: for an unknown name, with the nearest one suggested.
    """
    if name not in names():
        raise unknown("zoo entry", name, names())
    return read_entry(zoo_folder() / "entries" / f"{name}.yaml")


@functools.cache
def read_entry(file: Path) -> Entry:
    """The entry in a file.

    Raises:
        InputError: when it is not valid.
    """
    try:
        data = load_yaml(file.read_text(), str(file))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"the entry {str(file)!r} cannot be read: {error}") from error
    entry: Entry = parse(Entry, data, str(file))
    if entry.name != file.stem:
        raise InputError(f"{str(file)!r} holds the entry {entry.name!r}", "a file is called as its entry")
    return entry
