"""Sequences: windows over long series, or arrays of channels and steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Several
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from lightning_ae.data.columns import array_columns, check_columns, label_columns, value_columns, vector_columns
from lightning_ae.data.kinds.base import Kind
from lightning_ae.data.kinds.tabular import Tabular
from lightning_ae.data.scaling import Scaling
from lightning_ae.data.signature import Column, Signature, listed
from lightning_ae.data.splits import DOES, column_of, group_numbers, instants, time_columns
from lightning_ae.data.windows import Series, Windows, cut
from lightning_ae.errors import InputError, unknown
from lightning_ae.preprocess import SequencePreprocess

if TYPE_CHECKING:
    from datasets import Features

GAP = 1.5  # median steps


@dataclass(frozen=True)
class Sequence(Kind):
    """Samples of shape (channels, length), as floats: windows over long series, or arrays that are samples already.

    With `length` the rows of a table are steps, its columns channels (by default those that `Tabular` takes), and each
    `length` rows in a line make a sample. No window reaches over the end of a series, over a gap in time, or from one
    split into another: where splits are made, the last part of each series is set aside, as neighbouring windows share
    rows, or whole groups by `split_by`, or all that is later by `split_time`. How many windows there are, and how many
    rows lie in none, is said. The rows are kept once, and windows gathered from them. What a batch has besides the
    input, the label too, is that of a window's last row.

    Without `length` a row is a sample: a column of arrays or nested lists, whose `layout` says which dimension is
    which; or any number of columns of vectors, each a channel.

    Args:
        columns: the channels' columns; or those that hold samples.
        length: of a window, in rows.
        stride: from one window's first row to the next one's; by default `length // 2`, so that each row lies in two
            windows, in the middle half of one.
        group: the column that tells series apart, as several machines'; its rows need not lie together.
        time: the column of times, in which the rows of each series ascend: dates, or numbers.
        gap: the longest time between neighbours in a window, in seconds or, of times that are numbers, in their unit;
            by default 1.5 times the median in the training split.
        layout: of arrays, "NCL", (channels, length), or "NLC", (length, channels).
        scaling: of each channel, by the rows that train; see `Tabular`.
        missing: "refused"; or "masked": steps that are missing are zero in the input, and do not count in the loss.
    """

    columns: tuple[str, ...] | None = None
    length: int | None = None
    stride: int | None = None
    group: str | None = None
    time: str | None = None
    gap: float | None = None
    layout: Literal["NCL", "NLC"] | None = None
    scaling: Scaling | None = None
    missing: Literal["refused", "masked"] = "refused"

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self._table  # names what it cannot use
        if self.layout not in (None, "NCL", "NLC"):
            raise unknown("layout of Sequence", str(self.layout), ("NCL", "NLC"))
        for name in ("length", "stride"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"{name} of Sequence must be a positive integer, got {value!r}")
        if self.gap is not None and not self.gap > 0:
            raise InputError(f"gap of Sequence must be positive, got {self.gap!r}")
        of_windows = [name for name in ("stride", "group", "time", "gap") if getattr(self, name) is not None]
        if self.length is None and of_windows:
            raise InputError(
                f"{of_windows[0]} of Sequence is that of windows, whose length is not given", "give length=..., in rows"
            )
        if self.gap is not None and self.time is None:
            raise InputError("gap of Sequence needs times", "give time=..., their column")
        if self.length is not None and self.layout is not None:
            raise InputError(
                "layout of Sequence is that of arrays, and length cuts windows from rows, whose columns are the "
                "channels",
                "leave one of them out",
            )

    @property
    def _table(self) -> Tabular:
        """Which reads the columns."""
        return Tabular(columns=self.columns, scaling=self.scaling, missing=self.missing)

    @property
    def steps(self) -> int | None:
        """The length of windows."""
        return self.length

    # ---- columns -------------------------------------------------------------------------------------------------

    def input_columns(self, features: Features, label: str | None) -> list[str]:
        """The columns of channels, or of samples."""
        from datasets import Features

        check_columns(self.columns or (), features)
        arrays, vectors = array_columns(features), vector_columns(features)
        if self.length is not None:
            if held := [name for name in self.columns or () if name in arrays + vectors]:
                raise InputError(
                    f"column {held[0]!r} holds {features[held[0]]}, each a sample, and length={self.length} cuts "
                    "windows from rows",
                    "leave length out, or name columns of numbers",
                )
            beside = () if self.columns is not None else (self.group, self.time)
            able = {*value_columns(features), *label_columns(features), *(self.columns or ())} - set(beside)
            with _of_sequences():
                return self._table.input_columns(Features({n: f for n, f in features.items() if n in able}), label)
        found = list(self.columns or (arrays if len(arrays) == 1 and not vectors else vectors if not arrays else ()))
        if not found:
            raise InputError(
                f"the data set has {len(arrays)} columns of arrays and {len(vectors)} of vectors",
                "name that of samples, kind=Sequence(columns=[...]); or give length=... for windows over rows",
            )
        for name in found:
            if not (name in vectors or (name in arrays and len(found) == 1)):
                raise InputError(
                    f"column {name!r} holds {features[name]}; without length, columns takes one column of arrays, or "
                    "columns of vectors",
                    f"arrays: {listed(arrays)}; vectors: {listed(vectors)}; for windows over rows give length=...",
                )
        if found[0] in arrays and self.layout is None:
            raise InputError(
                f"column {found[0]!r} holds {features[found[0]]}, and which dimension is which is not said",
                "give kind=Sequence(layout='NCL') for (channels, length), or 'NLC' for (length, channels)",
            )
        if found[0] in vectors and self.layout is not None:
            raise InputError(
                f"layout is that of arrays, and column {found[0]!r} holds vectors, each a channel", "leave it out"
            )
        return found

    def described(self, columns: list[Column], first: pa.Table) -> list[Column]:
        """The input's columns, with what becomes of missing values."""
        return [replace(column, missing=self.missing) for column in columns]

    def of_rows(self, rows: Any, label: str | None, streaming: bool) -> Sequence:
        """Scaled or not, and with the longest time between neighbours.

        Raises:
            InputError: for windows over a stream, or times that do not ascend.
        """
        settled = replace(self, scaling=self.scaling or ("none" if streaming else "standard"))
        if self.length is None or self.time is None or self.gap is not None:
            return settled
        series = self._series(rows, "train")
        steps = series.steps(series.ordered(), f"column {self.time!r}")
        known = steps[~np.isnan(steps)]
        return replace(settled, gap=GAP * float(np.median(known))) if len(known) else settled

    def of_signature(self, signature: Signature) -> Sequence:
        """The model's columns, as long as its windows are, scaled where the model's input is.

        Raises:
            InputError: when the model takes something else, or this kind states another reading than the model's.
        """
        wanted = signature.preprocess
        if not isinstance(wanted, SequencePreprocess):
            raise InputError(
                "the data hold sequences, where the model takes none", "give kind=Tabular(...) or Image(...)"
            )
        names = tuple(signature.names)
        if names and self.columns is not None and set(self.columns) != set(names):
            raise InputError(
                f"kind=Sequence(columns=...) names {listed(self.columns)}, where the model was trained on "
                f"{listed(names)}",
                "leave columns out: the model says them",
            )
        if self.length is not None and self.length != wanted.length:
            raise InputError(
                f"kind=Sequence(length={self.length}) reads sequences otherwise than the model was trained with, "
                f"{wanted.length}",
                "leave length out: the model says it",
            )
        return replace(
            self,
            columns=names or self.columns,
            length=wanted.length,
            layout=self.layout or wanted.layout,  # of these data, which may have another
            scaling="standard" if wanted.scales else "none",
            missing="masked" if signature.masked else "refused",
        )

    # ---- values --------------------------------------------------------------------------------------------------

    @property
    def decoding(self) -> dict[str, Any]:
        """Precision and missing values as a table's, and the layout; not how windows are cut from the rows."""
        return self._table.decoding | super().decoding | {"layout": self.layout, "rows": self.length is not None}

    def decode(self, rows: pa.Table, columns: list[str], split: str, first: int) -> np.ndarray:
        """Of windows the rows, (N, channels); else (N, channels, length)."""
        with _of_sequences():
            if self.length is not None:
                return self._table.decode(rows, columns, split, first)
            found = [self._table.decode(rows, [column], split, first) for column in columns]
        if found[0].ndim == 3:
            return np.ascontiguousarray(found[0].transpose(0, 2, 1)) if self.layout == "NLC" else found[0]
        for column, values in zip(columns, found, strict=True):
            if values.ndim != 2 or values.shape != found[0].shape:
                raise InputError(
                    f"column {column!r} of split {split!r} holds samples of shape {values.shape[1:]}"
                    + ("" if values.ndim != 2 else f", where column {columns[0]!r} has {found[0].shape[1:]}"),
                    "a sample has channels and a length: arrays of two dimensions, or vectors of one length",
                )
        return np.stack(found, axis=1)

    def unlike(self, rows: pa.Table, columns: list[str]) -> list[str]:
        """See `Tabular`."""
        return self._table.unlike(rows, columns)

    def arranged(self, x: Tensor) -> Tensor:
        """Windows (B, length, channels) with their channels first."""
        return x if self.length is None else x.transpose(1, 2).contiguous()

    @property
    def fitted(self) -> bool:
        """Whether the samples are scaled."""
        return self._table.fitted

    @property
    def masked(self) -> bool:
        """Whether samples may have missing values."""
        return self._table.masked

    @property
    def how(self) -> str:
        """How channels are scaled, and what a window is."""
        said = [self._table.how] if self._table.how else []
        if self.length is not None:
            within = "" if self.group is None else f" of each {self.group!r}"
            by = "" if self.time is None else f" by {self.time!r}"
            by += "" if self.gap is None else f", none with a step of more than {self.gap:g}"
            said.append(f"in windows of {self.length} rows{within}{by}, one every {self._stride} (stride)")
        return ", ".join(said)

    def preprocess(self, chunks: Callable[[], Iterable[Tensor]], columns: Several[str] = ()) -> SequencePreprocess:
        """Scaling of each channel by the rows that train, where asked for."""
        with _of_sequences():
            found = self._table.preprocess(chunks, columns)
        moments = {field.name: getattr(found, field.name) for field in fields(found)}
        return SequencePreprocess(**moments, length=self.length, layout=self.layout)

    # ---- windows -------------------------------------------------------------------------------------------------

    def suits(self, columns: Several[str]) -> dict[str, Any]:
        """Convolutions along the steps."""
        from lightning_ae.architectures import SequenceNet

        return {"architecture": SequenceNet()}

    @property
    def _stride(self) -> int:
        assert self.length is not None
        return self.stride or max(1, self.length // 2)

    def series(self, rows: Any, split: str) -> np.ndarray | None:
        """The number of each row's series, (rows,); None where a row is a sample."""
        return None if self.length is None else self._numbers(rows, split)

    def windows(self, rows: Any, numbers: np.ndarray | None, split: str, part: str) -> Windows | None:
        """The windows over some rows of a split; says how many there are, and how many rows lie in none.

        Raises:
            InputError: when there is none, or times do not ascend.
        """
        if self.length is None:
            return None
        numbers = np.arange(len(rows)) if numbers is None else numbers
        gap, where = self.gap or np.inf, f"column {self.time!r} of split {split!r}"
        ordered, runs = self._series(rows, split).runs(numbers, gap, where)
        found = cut(ordered, runs, self.length, self._stride)
        if not len(found.starts):
            divided = len(numbers) < len(rows)
            what = f"split {split!r}" + (f" among the rows that {DOES[part]}" if divided else "")
            fraction = f"{'val' if part == 'train' else part}_fraction"
            raise InputError(
                f"a window of {self.length} rows is longer than every series of {what}: without a gap they have "
                f"{listed(sorted(runs.tolist(), reverse=True))} rows",
                "make length smaller, or gap larger"
                + (f"; or divide otherwise ({fraction}), or by whole series (split_by)" if divided else ""),
            )
        covered = np.zeros(len(numbers) + 1, np.int64)  # where windows begin, and where they end
        np.add.at(covered, found.starts, 1)
        np.add.at(covered, found.starts + self.length, -1)
        none = int((covered.cumsum()[:-1] == 0).sum())
        rank_zero_info(
            f"{len(found.starts)} windows of {self.length} rows {DOES[part]}; of {len(numbers)} rows {none} lie in none"
        )
        return found

    def _series(self, rows: Any, split: str) -> Series:
        time, unit = None, 1.0
        if self.time is not None:
            values = column_of(rows, self.time, "time", time_columns(rows.features))
            time, unit = instants(values, f"column {self.time!r} of split {split!r}")
        return Series(self._numbers(rows, split), time, unit)

    def _numbers(self, rows: Any, split: str) -> np.ndarray:
        if self.group is None:
            return np.zeros(len(rows), np.int64)
        able = [*value_columns(rows.features), *label_columns(rows.features)]
        values = column_of(rows, self.group, "group", able)
        return group_numbers(values, f"column {self.group!r} of split {split!r}")[0]


@contextmanager
def _of_sequences() -> Iterator[None]:
    """What a table's errors advise, for this kind."""
    try:
        yield
    except InputError as error:
        raise InputError(error.message, error.hint.replace("Tabular(", "Sequence(")) from error
