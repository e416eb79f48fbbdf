"""Windows over long series: which rows make each, none across a series' end, a gap in time, or rows of another part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightning_ae.errors import InputError


@dataclass(frozen=True)
class Windows:
    """Samples of several rows each, which may share them.

    Args:
        rows: the numbers of rows, one series after the other, int64 (rows,).
        starts: where in `rows` each window begins, int64 (windows,).
        length: how many rows each has.
    """

    rows: np.ndarray
    starts: np.ndarray
    length: int

    @property
    def first(self) -> np.ndarray:
        """The number of each window's first row, (windows,)."""
        return self.rows[self.starts]

    @property
    def last(self) -> np.ndarray:
        """The number of each window's last row, (windows,)."""
        return self.rows[self.starts + self.length - 1]


@dataclass(frozen=True)
class Series:
    """The rows of a split as series.

    Args:
        number: of each row's series, int64 (rows,).
        time: of each row, (rows,), or None where their order is all there is.
        unit: how many seconds a unit of time is, 1 of numbers.
    """

    number: np.ndarray
    time: np.ndarray | None
    unit: float

    def ordered(self) -> np.ndarray:
        """The numbers of the rows, one series after the other, each in the order of its rows."""
        return np.argsort(self.number, kind="stable")

    def steps(self, order: np.ndarray, where: str) -> np.ndarray:
        """The time from each row of `order` to the next, (rows - 1,); NaN where a series ends, or there are no times.

        Raises:
            InputError: naming the first row that is not later than the one before it in its series.
        """
        if self.time is None:
            return np.full(len(order) - 1, np.nan)
        same, step = np.diff(self.number[order]) == 0, np.diff(self.time[order])
        if (bad := same & (step <= 0)).any():
            before, row = (int(order[int(bad.argmax()) + i]) for i in (0, 1))
            equal = self.time[row] == self.time[before]
            raise InputError(
                f"{where} is {'the same' if equal else 'earlier'} in row {row} {'as' if equal else 'than'} in row "
                f"{before}, the one before it in its series",
                "sort the rows first (Dataset.sort), and drop duplicates; series in one table are told apart by "
                "group=..., the column that names them",
            )
        return np.where(same, step * self.unit, np.nan)

    def runs(self, rows: np.ndarray, gap: float, where: str) -> tuple[np.ndarray, np.ndarray]:
        """Rows in runs of neighbours: their numbers, one run after the other, (rows,), and how long each is, (runs,).

        Args:
            rows: those that count, in order; others stand between them.
            gap: the longest time between neighbours, in seconds or the unit of numbers.
            where: the column of times in words, for errors.

        Raises:
            InputError: see `steps`.
        """
        order = self.ordered()
        steps = self.steps(order, where)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        places = np.sort(place[rows])
        taken = order[places]
        joined = (np.diff(places) == 1) & (np.diff(self.number[taken]) == 0)
        joined &= ~(steps[places[:-1]] > gap + self._rounding)
        ends = np.flatnonzero(np.concatenate([~joined, [True]])) + 1
        return taken, np.diff(ends, prepend=0)

    @property
    def _rounding(self) -> float:
        """How far the difference of two times may be off."""
        if self.time is None or self.time.dtype.kind != "f":
            return 0.0
        return 2 * float(np.spacing(np.abs(self.time).max()))


def cut(rows: np.ndarray, runs: np.ndarray, length: int, stride: int) -> Windows:
    """The windows over runs of rows, see `Series.runs`; the first of each begins where the run does."""
    counts = np.maximum(0, (runs - length) // stride + 1)
    within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    return Windows(rows, np.repeat(runs.cumsum() - runs, counts) + stride * within, length)
