"""The form of the table of inputs: what goes in, and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from lightning_ae.data import HFDataModule, Kind, Tabular
from lightning_ae.data.kinds import kind_of


def unscaled(path: Any, kind: Kind | None = None, **options: Any) -> HFDataModule:
    """A data module that takes tables as they are where nothing else is said, so that values show."""
    data = HFDataModule(path, kind=kind, **options)
    chosen = kind or kind_of(next(iter(data.splits.values())).features or {})
    if isinstance(chosen, Tabular) and chosen.scaling is None:
        raw = replace(chosen, scaling="none")
        if not isinstance(path, str | PathLike):  # what lies in memory is settled already
            return HFDataModule(path, kind=raw, **options)
        data.kind = raw
    return data


@dataclass(frozen=True)
class Refused:
    """An InputError whose text this regular expression finds."""

    because: str


@dataclass(frozen=True)
class Said:
    """A warning, or a line of information, that this regular expression finds; and what comes out all the same."""

    what: str
    value: Any = None


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Args:
        goes_in: what, in words.
        run: does it, in an empty folder; its result is compared.
        comes_out: a value, Refused or Said.
    """

    goes_in: str
    run: Callable[[Path], Any]
    comes_out: Any
