"""From a data set's rows to arrays: chunk by chunk, in worker processes where it is worth it."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm.auto import tqdm

from lightning_ae.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

    from lightning_ae.data.kinds import Kind
    from lightning_ae.data.labels import Beside

CHUNK_BYTES = 4 << 20
DENSE = 4  # times as many rows as are wanted are read at most, where they lie together
WORTH_WORKERS = 0.5  # seconds of decoding


def decode_chunks(kind: Kind, rows: Dataset, columns: list[str], split: str) -> Iterator[np.ndarray]:
    """The samples of a split, in order, in chunks of some MiB; a bar shows what takes more than two seconds.

    Raises:
        InputError: when samples cannot be used, or differ in shape.
    """
    rows = rows.select_columns(columns).with_format("arrow")
    first = kind.decode(rows[:1], columns, split, 0)
    size = int(np.clip(CHUNK_BYTES // first.nbytes, 1, 1024))
    chunks = _Chunks(kind, rows, columns, split, size)
    bar = tqdm(total=len(rows), desc=f"decoding {split}", unit=" samples", delay=2, leave=False)
    with bar:
        started = time.perf_counter()
        for i, chunk in enumerate(_all(chunks, started)):
            if isinstance(chunk, InputError):
                raise chunk
            if (chunk.shape[1:], chunk.dtype) != (first.shape[1:], first.dtype):
                raise mixed_shapes(first, chunk, split, 0, i * size)
            bar.update(len(chunk))
            yield chunk


def mixed_shapes(one: np.ndarray, other: np.ndarray, split: str, row: Any, other_row: Any) -> InputError:
    """Says that samples of a split differ."""
    return InputError(
        f"samples of split {split!r} differ: row {row} is {one.dtype} {one.shape[1:]}, row {other_row} is "
        f"{other.dtype} {other.shape[1:]}",
        "bring vectors to one length first (Dataset.map); images are brought to one shape by kind=Image(size=(height, "
        "width), channels=1 or 3)",
    )


def decode_rows(kind: Kind, rows: pa.Table, columns: list[str], split: str, numbers: Sequence[int]) -> np.ndarray:
    """The samples of rows from anywhere in a split, where `numbers` are the data set's own, so that errors name those.

    Raises:
        InputError: when samples cannot be used, or differ in shape.
    """
    try:
        return kind.decode(rows, columns, split, numbers[0])
    except InputError:
        # a kind counts on from the first row: one by one, each has its own number
        alone = [kind.decode(rows[i : i + 1], columns, split, number) for i, number in enumerate(numbers)]
        for each, number in zip(alone, numbers, strict=True):
            if each.shape != alone[0].shape:
                raise mixed_shapes(alone[0], each, split, numbers[0], number) from None
        raise


class OnTheFly:
    """Batches that are decoded each time they are used.

    Args:
        kind: decodes.
        rows: all of a split of the data set's own.
        split: its name, for errors.
        columns: those that make the input.
        key: the input's name in a batch.
        beside: reads what a batch has besides.
        numbers: of the rows that count, int64 (N,); by default they are all of them.
        seed: of what is drawn once for each sample; None where nothing is.
    """

    def __init__(
        self,
        kind: Kind,
        rows: Any,
        split: str,
        columns: list[str],
        key: str,
        beside: Beside,
        numbers: np.ndarray | None = None,
        seed: int | None = None,
    ) -> None:
        self.kind, self.split = kind.of_split(rows, columns, whole=False), split
        self.columns, self.key, self.beside = columns, key, beside
        self.numbers, self.seed = numbers, seed
        self.rows = rows.select_columns(list(dict.fromkeys((*columns, *beside.columns)))).with_format("arrow")

    def __call__(self, positions: Tensor) -> dict[str, Tensor]:
        """The samples at these positions, int64 (B,)."""
        numbers = positions.numpy() if self.numbers is None else self.numbers[positions.numpy()]
        batch = self._decode(self._read(numbers), numbers.tolist())
        if self.seed is not None:  # by the row's number, so that a sample keeps its draw in any batch
            drawn = [
                self.kind.freeze(sample, torch.Generator().manual_seed(self.seed + int(number)))
                for sample, number in zip(batch[self.key], numbers, strict=True)
            ]
            batch[self.key] = torch.stack(drawn)
        return batch

    def share(self, rows: pa.Table, numbers: list[int], share: slice, index: int, size: int) -> dict[str, Tensor]:
        """The samples `rows` of a stream, which are a rank's share of batch `index` of `size` samples."""
        batch = self._decode(rows, numbers)
        if self.seed is not None:  # each sample keeps its draw: the order of evaluation is always the same
            generator = torch.Generator().manual_seed(self.seed + index)
            whole = batch[self.key].new_zeros(size, *batch[self.key].shape[1:])
            whole[share] = batch[self.key]
            batch[self.key] = self.kind.freeze(whole, generator)[share]
        return batch

    def _read(self, numbers: np.ndarray) -> pa.Table:
        first, last = int(numbers[0]), int(numbers[-1]) + 1
        if last - first > DENSE * len(numbers) or (np.diff(numbers) <= 0).any():
            return self.rows[numbers.tolist()]
        rows = self.rows[first:last]  # a slice is read much faster than rows by number
        return rows if len(rows) == len(numbers) else rows.take(numbers - first)

    def _decode(self, rows: pa.Table, numbers: list[int]) -> dict[str, Tensor]:
        samples = torch.from_numpy(decode_rows(self.kind, rows, self.columns, self.split, numbers))
        return {self.key: samples, **self.beside(rows, numbers)}


class _Chunks(TorchDataset[Any]):
    def __init__(self, kind: Kind, rows: Dataset, columns: list[str], split: str, size: int) -> None:
        self.kind, self.rows, self.columns, self.split, self.size = kind, rows, columns, split, size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def __getitem__(self, index: int) -> np.ndarray | InputError:
        first = index * self.size
        try:
            return self.kind.decode(self.rows[first : first + self.size], self.columns, self.split, first)
        except InputError as error:  # a worker's exception would reach the user as the text of a traceback
            return error


def _all(chunks: _Chunks, started: float) -> Iterator[Any]:
    yield chunks[0]
    left = len(chunks) - 1
    seconds = (time.perf_counter() - started) * left
    processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # daemons may have no children
    workers = min(processes, left) if seconds > WORTH_WORKERS and not multiprocessing.current_process().daemon else 0
    if workers < 2:
        for index in range(1, len(chunks)):
            yield chunks[index]
        return
    loader: Any = DataLoader(
        chunks, batch_size=None, sampler=range(1, len(chunks)), num_workers=workers, collate_fn=lambda item: item
    )
    try:
        yield from loader
    except RuntimeError as error:  # torch's, where one of them is gone
        if "exited unexpectedly" not in str(error):
            raise
        raise InputError(
            f"a process that decodes split {chunks.split!r} ended unexpectedly: {error}",
            "it may have been killed because memory ran out: free some, or let fewer processes decode (taskset -c 0)",
        ) from error
