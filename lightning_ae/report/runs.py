"""What a run's folder says of the run: its checkpoint, its configuration, its dates, and what it logged."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from lightning_ae.errors import InputError

FACTS = "run.json"
"""The file in which a fit writes when it began, by which command, with which versions, and when it ended."""
METRICS, CONFIG = "metrics.csv", "config.yaml"
POINTS_IN_A_CURVE = 400
"""How many points of a curve are drawn at most."""
STAGES = ("train", "val", "test")


@dataclass(frozen=True)
class Series:
    """The values of a term that were logged in one way.

    Args:
        name: "train", "train, mean of the epoch", "validation" or "test"; of what has no stage "".
        points: (step, value), by step.
        logged: how many there were, of which every n-th is kept.
        broken: how many were not finite, which are left out.
    """

    name: str
    points: Sequence[tuple[int, float]]
    logged: int
    broken: int = 0


@dataclass(frozen=True)
class Run:
    """A run, as far as its folder tells of it.

    Args:
        checkpoint: the checkpoint's file, or the name of an entry of the zoo.
        folder: of the run, where the checkpoint is of one.
        facts: of run.json.
        config: the text of its configuration.
        terms: the curves of each term, the loss and what it is made of first.
        why: what is lacking, and why, by the name of a part of the page.
    """

    checkpoint: str
    folder: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    config: str = ""
    terms: Mapping[str, Sequence[Series]] = field(default_factory=dict)
    why: Mapping[str, str] = field(default_factory=dict)

    @property
    def options(self) -> Mapping[str, Any]:
        """The configuration, as plain data."""
        try:
            found = yaml.safe_load(self.config)
        except yaml.YAMLError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def duration(self) -> float | None:
        """How long it trained, in seconds, where it came to its end."""
        try:
            began, ended = (datetime.fromisoformat(self.facts[name]) for name in ("started", "ended"))
        except (KeyError, TypeError, ValueError):
            return None
        return (ended - began).total_seconds()


def find_run(source: str | os.PathLike[str]) -> Run:
    """The run of a folder, of a checkpoint in such a folder, or of an entry of the zoo, which has none.

    Of a folder the checkpoint is best.ckpt or, without one, the newest that is not last.ckpt, or else that.

    Raises:
        InputError: where a run's folder has no checkpoint, since it was stopped in its first epoch, say.
    """
    text = os.fspath(source)
    place = Path(text)
    if place.is_dir() and any((place / name).exists() for name in (CONFIG, METRICS, FACTS, "checkpoints")):
        return _read(place, str(_checkpoint_in(place)))
    if place.is_file():
        folder = place.parent.parent if place.parent.name == "checkpoints" else place.parent
        if any((folder / name).is_file() for name in (CONFIG, METRICS)):
            return _read(folder, text)
    why = "it comes without the folder of its run"
    return Run(text, why={"curves": why, "configuration of the run": why})


def _checkpoint_in(folder: Path) -> Path:
    found = sorted((folder / "checkpoints").glob("*.ckpt"), key=lambda file: file.stat().st_mtime_ns)
    found = [file for file in found if file.is_file()]
    if not found:
        raise InputError(
            f"the run in {str(folder)!r} has no checkpoint: it was stopped before the end of its first epoch, or keeps "
            "none",
            f"start it again, `lightning-ae fit -c {folder / CONFIG}`; nothing of it was touched",
        )
    named = {file.stem: file for file in found}
    others = [file for file in found if file.stem != "last"]
    return named.get("best") or (others or found)[-1]


def _read(folder: Path, checkpoint: str) -> Run:
    why = {}
    facts = _json(folder / FACTS)
    config = _text(folder / CONFIG)
    if not config:
        why["configuration of the run"] = f"{folder / CONFIG} is not there"
    terms = read_metrics(folder / METRICS)
    if not terms:
        why["curves"] = f"{folder / METRICS} is not there, or empty: the run had no logger, or logged nothing yet"
    return Run(checkpoint, folder, facts, config, terms, why)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def _json(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(_text(file) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def read_metrics(file: Path) -> dict[str, list[Series]]:
    """The curves of each term of a run's metrics.csv, the loss and what it is made of first; none where there is none.

    The columns train/kl, train/kl_epoch, val/kl and test/kl are curves of the term "kl".
    """
    if not file.is_file():
        return {}
    columns: dict[str, list[tuple[int, float]]] = {}
    with open(file, newline="") as content:
        for row in csv.DictReader(content):
            step = _number(row.pop("step", None))
            row.pop("epoch", None)
            if step is None or not math.isfinite(step):
                continue
            for name, value in row.items():
                if name and (number := _number(value)) is not None:
                    columns.setdefault(name, []).append((int(step), number))
    found: dict[str, list[Series]] = {}
    for column, points in sorted(columns.items(), key=lambda each: _order(each[0])):
        term, kind = _split(column)
        finite = sorted(point for point in points if math.isfinite(point[1]))
        every = -(-len(finite) // POINTS_IN_A_CURVE)
        kept = finite[:: max(1, every)]
        if finite and kept[-1] != finite[-1]:
            kept.append(finite[-1])  # where it ended
        found.setdefault(term, []).append(Series(kind, kept, len(finite), len(points) - len(finite)))
    trained = [term for term, each in found.items() if any(series.name.startswith("train") for series in each)]
    order = sorted(trained, key=lambda term: (term != "loss", term))
    return {term: found[term] for term in [*order, *sorted(found.keys() - set(order))]}


def _split(column: str) -> tuple[str, str]:
    """The term of a column, and which of its curves it is."""
    stage, _, term = column.partition("/")
    if stage not in STAGES or not term:
        return column, ""
    if stage == "train" and term.endswith("_epoch"):
        return term.removesuffix("_epoch"), "train, mean of the epoch"
    return term, {"train": "train", "val": "validation", "test": "test"}[stage]


def _order(column: str) -> tuple[int, str]:
    names = ("train", "train, mean of the epoch", "validation", "test", "")
    return names.index(_split(column)[1]), column


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
