"""What a row of `reproduce.py` is: what it measures, what stands beside it, and the table of all."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
ROWS: dict[str, Row] = {}
HUB = {"mnist": "ylecun/mnist", "fashion_mnist": "zalando-datasets/fashion_mnist"}


@dataclass(frozen=True)
class Figure:
    """A number of a row, and what it is held against."""

    what: str
    published: str = ""
    """The number that a paper prints, and where in it."""
    beside: str = ""
    """Another reference, and whose: theory, a threshold of our own, or what was measured here ({reference})."""


@dataclass
class Number:
    """What was measured of a figure."""

    ours: float
    spread: float | None = None
    reference: float | None = None


@dataclass
class Found:
    """What a row measured, and how: the content of its file."""

    setting: str
    seeds: list[int]
    figures: dict[str, Number]
    seconds: float = 0.0
    """In all; a row says what earlier calls took that this one goes on from."""
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """What a run is asked for.

    Args:
        data: a folder that holds the data sets, mnist/, fashion_mnist/ and frey_faces/; None takes them from the hub.
        epochs: of the rows that come in tiers.
        keep: a folder of checkpoints, from which a longer tier goes on where a shorter one ended; None keeps none.
    """

    data: str | None = None
    epochs: int = 30
    keep: str | None = None

    def path(self, name: str) -> str:
        """Where the data set `name` is."""
        if self.data is not None:
            return str(Path(self.data, name))
        if name not in HUB:
            sys.exit(f"{name} is on no hub: --data FOLDER with {name}/ in it")
        return HUB[name]


@dataclass(frozen=True)
class Row:
    """What is compared with what. A figure that a run does not measure is in the table as not measured.

    `measure` gives what it has found each time that there is more, so that what takes hours is not lost.
    """

    title: str
    source: str
    figures: list[Figure]
    differs: str
    spread: str
    measure: Callable[[Asked], Iterator[Found]]


Measure = Callable[[Asked], Iterator[Found]]
SEEDS = "the standard deviation over seeds"


def _place(row: Row) -> tuple[str, int]:
    return row.measure.__module__, row.measure.__code__.co_firstlineno  # type: ignore[attr-defined]


def row(
    title: str, source: str, figures: list[Figure], differs: str = "", spread: str = SEEDS
) -> Callable[[Measure], Measure]:
    """Puts a function into the table. `spread` says what ± is."""

    def register(measure: Measure) -> Measure:
        ROWS[measure.__name__] = Row(title, source, figures, differs, spread, measure)
        # in the order of files and lines, whichever is imported first
        ordered = sorted(ROWS.items(), key=lambda each: _place(each[1]))
        ROWS.clear()
        ROWS.update(ordered)
        return measure

    return register


# ---- training -----------------------------------------------------------------------------------------------------


class Clock(pl.Callback):
    """The processor's seconds that a fit takes, over all its parts, and the wall's of the parts before this one."""

    def __init__(self) -> None:
        self.processor = self.wall = self.before = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = time.process_time(), time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.processor += time.process_time() - self._start[0]
        self.wall += time.perf_counter() - self._start[1]

    def state_dict(self) -> dict[str, Any]:
        return {"processor": self.processor, "wall": self.wall}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.processor, self.wall = state_dict["processor"], state_dict["wall"]
        self.before = self.wall


def fit(model: pl.LightningModule, data: Any, epochs: int, keep: Path | None = None, **options: Any) -> pl.Trainer:
    """A quiet fit with a progress bar; where `keep` names a file, it goes on from there, and is kept there."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=epochs,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            default_root_dir=folder,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            **options,
        )
        trainer.fit(model, data, ckpt_path=str(keep) if keep is not None and keep.is_file() else None)
    if keep is not None:
        keep.parent.mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(keep.with_suffix(".new"))
        keep.with_suffix(".new").replace(keep)
    return trainer


# ---- the table ----------------------------------------------------------------------------------------------------


def mean(values: list[float]) -> float:
    return float(np.mean(values))


def std(values: list[float]) -> float:
    return float(np.std(values, ddof=1))


def shown(number: Number) -> str:
    spread = "" if number.spread is None else f" ± {number.spread:.2g}"
    return f"{number.ours:.5g}{spread}"


def beside(figure: Figure, number: Number | None) -> str:
    """What else than a published number a figure is held against."""
    if "{reference}" not in figure.beside:
        return figure.beside
    known = number is not None and number.reference is not None
    return figure.beside.format(reference=f"{number.reference:.5g}") if known else "not measured"


def read(name: str) -> Found | None:
    """What a row measured, from its file.

    Raises:
        KeyError: when the file holds a figure that the row does not know, which the table would lose.
    """
    file = HERE / "results" / f"{name}.json"
    if not file.is_file():
        return None
    content = json.loads(file.read_text())
    content["figures"] = {what: Number(**number) for what, number in content["figures"].items()}
    unknown = content["figures"].keys() - {figure.what for figure in ROWS[name].figures}
    if unknown:
        raise KeyError(f"{file.name} holds {sorted(unknown)}, which the row {name} does not know")
    return Found(**content)


def table() -> str:
    """RESULTS.md from the results on file."""
    lines = [
        "# Published numbers beside ours",
        "",
        "Made by `python benchmarks/reproduce.py --table` from `benchmarks/results/`; each row by",
        "`python benchmarks/reproduce.py ROW`. ± is the standard deviation over seeds, or what the row says.",
        "*Published* is what a paper prints; a number marked unconfirmed is quoted at second hand. *Other reference*",
        "is everything else: theory, what was measured here by other code, a threshold of our own. A published number",
        "that no run has tried to reach is *not measured*.",
    ]
    for name, row in ROWS.items():
        found = read(name)
        numbers = {} if found is None else found.figures
        lines += ["", f"## `{name}`: {row.title}", "", "| | ours | published | other reference |", "|---|---|---|---|"]
        for figure in row.figures:
            number = numbers.get(figure.what)
            ours = "not measured" if number is None else shown(number)
            cells = figure.what, ours, figure.published or "none", beside(figure, number)
            lines.append("| " + " | ".join(cells).rstrip() + " |")
        setting = "Not measured." if found is None else f"Setting: {found.setting}. Seeds {found.seeds}."
        if row.spread != SEEDS:
            setting += f" ± is {row.spread}."
        lines += ["", f"{setting} Source: {row.source}."]
        if row.differs:
            lines += ["", f"Differs: {row.differs}."]
        if found is not None:
            versions = ", ".join(f"{k} {v}" for k, v in found.versions.items())
            lines += ["", f"{found.seconds / 60:.1f} minutes; {versions}."]
    return "\n".join(lines) + "\n"
