"""Splits that a data set lacks, made of its training split: which of its rows train, validate and test.

Each is a function of the data and the options alone, so that every rank, and every later run, makes the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lightning_ae.data.columns import check_columns, is_text, label_columns, value_columns
from lightning_ae.data.signature import listed
from lightning_ae.errors import InputError

Parts = dict[str, np.ndarray]
"""The numbers of the rows of "train", "val" and "test", int64, each in order; none of what is not set aside."""
DOES = {"train": "train", "val": "validate", "test": "test"}
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


@dataclass(frozen=True)
class Division:
    """How a training split is divided.

    Args:
        val: the fraction that validates.
        test: the fraction that tests.
        seed: of what is drawn.
        by: the column of groups, of which none is divided, or None.
        time: the column of times, of which the last are set aside, or None.
        ends: whether, where neither is given, the last rows of each series are set aside.
    """

    val: float
    test: float
    seed: int
    by: str | None = None
    time: str | None = None
    ends: bool = False

    @property
    def drawn(self) -> bool:
        """Whether chance has a part in it."""
        return self.by is not None or (self.time is None and not self.ends)

    def of(self, rows: Any, split: str, series: np.ndarray | None = None) -> tuple[Parts, str]:
        """The rows of each part of a split, and in one line which they are.

        Args:
            rows: of the split.
            split: its name.
            series: the number of each row's series, (rows,), where `ends`.

        Raises:
            InputError: when there is no such column, or its values make no groups or times.
        """
        if self.by is not None:
            values = column_of(
                rows, self.by, "split_by", [*value_columns(rows.features), *label_columns(rows.features)]
            )
            groups, n = group_numbers(values, f"column {self.by!r} of split {split!r}")
            _check_groups(n, len(rows), f"split_by={self.by!r}", split)
            parts = by_group(groups, self.val, self.test, self.seed)
            how = f"no {self.by!r} is in two of them (split_by), drawn with split_seed {self.seed}"
            notes = {part: f" ({len(np.unique(groups[numbers]))} of {n} groups)" for part, numbers in parts.items()}
        elif self.time is not None:
            values = column_of(rows, self.time, "split_time", time_columns(rows.features))
            times, _ = instants(values, f"column {self.time!r} of split {split!r}")
            parts = by_time(times, self.val, self.test)
            how = f"the last by {self.time!r} (split_time)"
            notes = {
                part: f" (from {values[int(numbers[times[numbers].argmin()])].as_py()} on)"
                for part, numbers in parts.items()
                if part != "train" and len(numbers)
            }
        elif series is not None:
            parts = by_end(series, self.val, self.test)
            how = "the last of each series, as windows that share rows would tell of each other"
            notes = {}
        else:
            parts = at_random(len(rows), self.val, self.test, self.seed)
            how, notes = f"drawn with split_seed {self.seed}", {}
        said = [f"{len(numbers)} {DOES[part]}{notes.get(part, '')}" for part, numbers in parts.items() if len(numbers)]
        return parts, f"of the {len(rows)} rows of split {split!r} {', '.join(said)}: {how}"


def at_random(rows: int, val: float, test: float, seed: int) -> Parts:
    """Parts of so many rows, of which `round(fraction * rows)` are set aside by a permutation."""
    return _drawn(np.random.default_rng(seed).permutation(rows), round(val * rows), round(test * rows))


def by_group(groups: np.ndarray, val: float, test: float, seed: int) -> Parts:
    """Parts that share no group: of n of them `ceil(fraction * n)` are set aside, drawn without regard to their sizes,
    as scikit-learn's `GroupShuffleSplit` does.

    Args:
        groups: the number of each row's group, 0..n-1, (rows,).
        val: the fraction of the groups that validates.
        test: the fraction that tests.
        seed: of the draw.
    """
    n = int(groups.max()) + 1
    order = np.random.default_rng(seed).permutation(n)
    drawn = _drawn(order, *(int(np.ceil(round(fraction * n, 9))) for fraction in (val, test)))
    return {part: np.flatnonzero(np.isin(groups, chosen)) for part, chosen in drawn.items()}


def by_time(times: np.ndarray, val: float, test: float) -> Parts:
    """Parts of which each lies after the one before: the last `round(fraction * rows)` rows by time test, those before
    them validate. Rows of one time stay together, in the later part; without ties it is the last of scikit-learn's
    `TimeSeriesSplit`."""
    ordered, rows = np.sort(times), len(times)
    last = rows - round(test * rows)
    middle = last - round(val * rows)
    tests = times >= ordered[last] if last < rows else np.zeros(rows, bool)
    later = times >= ordered[middle] if middle < rows else np.zeros(rows, bool)
    found = {"train": ~later, "val": later & ~tests, "test": tests}
    return {part: np.flatnonzero(of_it) for part, of_it in found.items()}


def by_end(series: np.ndarray, val: float, test: float) -> Parts:
    """Parts of each series of n rows: the last `round(fraction * n)` test, those before them validate.

    Args:
        series: the number of each row's series, (rows,); its rows are in order.
        val: the fraction that validates.
        test: the fraction that tests.
    """
    order = np.argsort(series, kind="stable")
    sizes = np.bincount(series)
    place = np.empty_like(order)
    place[order] = np.arange(len(series)) - np.repeat(sizes.cumsum() - sizes, sizes)
    last = (sizes - np.round(test * sizes))[series]
    middle = last - np.round(val * sizes)[series]
    found = {"train": place < middle, "val": (middle <= place) & (place < last), "test": place >= last}
    return {part: np.flatnonzero(of_it) for part, of_it in found.items()}


def _drawn(order: np.ndarray, val: int, test: int) -> Parts:
    parts = {"train": order[val + test :], "val": order[:val], "test": order[val : val + test]}
    return {part: np.sort(numbers) for part, numbers in parts.items()}


# ---- columns that divide ------------------------------------------------------------------------------------------


def column_of(rows: Any, name: str, argument: str, able: list[str]) -> pa.ChunkedArray:
    """A column that an argument names.

    Args:
        rows: of one split.
        name: the column.
        argument: which names it, for errors.
        able: the columns that it may name.

    Raises:
        InputError: when it is not there, or none of those.
    """
    check_columns([name], rows.features)
    if name not in able:
        raise InputError(
            f"{argument}={name!r} is a column of {rows.features[name]}",
            f"it takes one of {listed(list(dict.fromkeys(able)))}",
        )
    return rows.select_columns([name]).with_format("arrow")[:][name]


def time_columns(features: Any) -> list[str]:
    """The columns that may hold times: numbers, dates, times, durations, and texts, which may be dates."""
    return [*value_columns(features), *(name for name, feature in features.items() if is_text(feature))]


def group_numbers(values: pa.ChunkedArray, where: str) -> tuple[np.ndarray, int]:
    """The number of each row's group, int64 (rows,), by the order of the groups' values, and how many there are.

    Raises:
        InputError: naming the first row that has none.
    """
    if pa.types.is_boolean(values.type):
        values = pc.cast(values, pa.uint8())
    missing = pc.is_null(values, nan_is_null=True)
    if pc.any(missing).as_py():
        row = pc.index(missing, pa.scalar(True)).as_py()
        raise InputError(f"{where} names no group in row {row}", "fill such rows, or drop them (Dataset.filter)")
    groups = pc.unique(values).sort()
    return np.asarray(pc.index_in(values, value_set=groups)).astype(np.int64), len(groups)


def _check_groups(n: int, rows: int, given: str, split: str) -> None:
    if n == 1:
        raise InputError(
            f"{given} names one group in all {rows} rows of split {split!r}, which cannot be divided",
            "name another column, or leave it out to divide the rows themselves",
        )
    if n == rows:
        raise InputError(
            f"{given} names a group of one row in each of the {rows} rows of split {split!r}: nothing is kept together",
            "name the column of what rows have in common, or leave it out",
        )


def instants(values: pa.ChunkedArray, where: str) -> tuple[np.ndarray, float]:
    """Times as numbers, int64 where they are exact, else float64, (rows,), and how many seconds a unit is.

    Texts are read as dates of ISO 8601; of numbers a unit is 1.

    Raises:
        InputError: naming the first row that has no time.
    """
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or values.type == pa.string_view():
        values = _dates(values.cast(pa.string()), where)
    if pa.types.is_floating(values.type) or pa.types.is_decimal(values.type):
        values = pc.cast(values, pa.float64())
        missing = pc.invert(pc.is_finite(values).fill_null(False))
    else:
        missing = pc.is_null(values)
    if pc.any(missing).as_py():
        row = pc.index(missing, pa.scalar(True)).as_py()
        raise InputError(f"{where} holds no time in row {row}", "fill such rows, or drop them (Dataset.filter)")
    kind = values.type
    if pa.types.is_floating(kind):
        return np.asarray(values), 1.0
    unit = 1.0
    if pa.types.is_temporal(kind):
        unit = 86400.0 if kind == pa.date32() else 1e-3 if kind == pa.date64() else SECONDS[kind.unit]
        values = pc.cast(values, pa.int32() if kind.bit_width == 32 else pa.int64())
    try:
        return np.asarray(pc.cast(values, pa.int64())), unit
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{where} holds what int64 cannot: {error}", "subtract an offset first (Dataset.map)"
        ) from error


def _dates(texts: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Texts of ISO 8601 as time stamps."""
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.timestamp("ns"), pa.timestamp("ns", "UTC")):
        try:
            return pc.cast(texts, kind)
        except pa.ArrowInvalid:
            continue
    known = texts.drop_null()
    zoned = pa.timestamp("ns", "UTC") if _is_date(known[0], pa.timestamp("ns", "UTC")) else pa.timestamp("ns")
    row = next(row for row, text in enumerate(texts) if text.is_valid and not _is_date(text, zoned))
    raise InputError(
        f"{where} holds {texts[row].as_py()[:40]!r} in row {row}, which is no date of ISO 8601"
        + (" as those before it" if row else ""),
        "write them as 2024-05-01 or 2024-05-01T12:00:00, or make them time stamps first (Dataset.cast_column)",
    )


def _is_date(text: pa.Scalar, kind: pa.DataType) -> bool:
    try:
        pc.cast(text, kind)
    except pa.ArrowInvalid:
        return False
    return True
