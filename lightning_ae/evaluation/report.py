"""What an evaluation found: as plain data, as a table, and as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_ae.evaluation.numbers import Number


@dataclass(frozen=True)
class Evaluation:
    """The numbers of one model on one data set.

    Args:
        model: what the model is called: a checkpoint, an entry of the zoo.
        data: the data set.
        rows: how many rows of each split were looked at.
        settings: what else the numbers depend on.
        numbers: by side, "reconstruction", "likelihood", "code" and so on.
        left_out: why a side was not measured, by its name.
    """

    model: str
    data: str
    rows: Mapping[str, int]
    settings: Mapping[str, Any]
    numbers: Mapping[str, Sequence[Number]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """For JSON; what is not finite is null."""
        return {
            "model": self.model,
            "data": self.data,
            "rows": dict(self.rows),
            "settings": dict(self.settings),
            "numbers": {
                side: {
                    each.name: {"value": finite(each.value), "error": finite(each.error), "better": each.better}
                    for each in found
                }
                for side, found in self.numbers.items()
            },
            "left_out": dict(self.left_out),
        }

    def logged(self) -> dict[str, float]:
        """For loggers: evaluation/<side>/<name>."""
        return {f"evaluation/{side}/{each.name}": each.value for side, found in self.numbers.items() for each in found}


def finite(value: float | None) -> float | None:
    """A number, or None where it is none or not finite."""
    return value if value is not None and math.isfinite(value) else None


def shown(number: Number) -> str:
    """A number in four digits, with its standard error where there is one."""
    if number.error is None or not math.isfinite(number.error):
        return f"{number.value:.4g}"
    digits = 4 if number.error <= 0 else max(0, min(6, 1 - math.floor(math.log10(number.error))))
    return f"{number.value:.{digits}f} ± {number.error:.{digits}f}"


@dataclass(frozen=True)
class Row:
    """A line of the table: a number of each model, empty where it has none, and which of them are the best."""

    side: str
    name: str
    cells: tuple[str, ...]
    best: tuple[bool, ...]


def table(found: Sequence[Evaluation]) -> list[Row]:
    """The numbers of several models side by side; the best of a line is marked where one way is better."""
    names = {(side, each.name): None for one in found for side, numbers in one.numbers.items() for each in numbers}
    rows = []
    for side, name in names:
        cells = [next((each for each in one.numbers.get(side, ()) if each.name == name), None) for one in found]
        values = [each.value for each in cells if each is not None and math.isfinite(each.value)]
        better = next((each.better for each in cells if each is not None), None)
        top = (max if better == "higher" else min)(values) if better and len(values) > 1 else None
        rows.append(
            Row(
                side,
                name,
                tuple("" if each is None else shown(each) for each in cells),
                tuple(each is not None and top is not None and each.value == top for each in cells),
            )
        )
    return rows


def markdown(found: Sequence[Evaluation]) -> str:
    """The table as Markdown, with what was left out, and why, below."""
    head = ["", "", *(one.model for one in found)]
    lines = [" | ".join(["", *head, ""]).strip(), " | ".join(["", "---", "---", *["---:"] * len(found), ""]).strip()]
    side = ""
    for row in table(found):
        cells = [f"**{cell}**" if best else cell for cell, best in zip(row.cells, row.best, strict=True)]
        lines.append(" | ".join(["", row.side if row.side != side else "", f"`{row.name}`", *cells, ""]).strip())
        side = row.side
    settings = [
        f"{one.model}: {', '.join(f'{n} {split}' for split, n in one.rows.items())} rows of {one.data}; "
        + ", ".join(f"{name} {value}" for name, value in one.settings.items())
        for one in found
    ]
    skipped = [f"{one.model} has no {side}: {why}" for one in found for side, why in one.left_out.items()]
    return "\n".join([*lines, "", *[f"- {text}" for text in (*settings, *skipped)], ""])
