"""Batches by one gather each: the same ones on any number of ranks, and again after a resumption."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from lightning_ae.data.identity import Identity, check_identity
from lightning_ae.data.signature import Natural
from lightning_ae.errors import InputError
from lightning_ae.exact import GLOBAL_BATCH_SIZE

Batch = dict[str, Any]
"""Tensors by column, and under several ranks how many samples all of them have, `GLOBAL_BATCH_SIZE`."""


def split_evenly(left: int, batch_size: int) -> int:
    """The size of the next batch where `left` samples remain.

    Batches are full, but the last two share their samples where the last would be less than half full: no batch is
    too small for its statistics, and each is large enough for several ranks.
    """
    if batch_size < left < 1.5 * batch_size:
        return (left + 1) // 2
    return min(left, batch_size)


class Order:
    """Which samples make which batch of an epoch, and which of those are this rank's.

    A batch is defined over all ranks, of which rank r takes positions r, r + W, ...: the batches are the same on any
    number of ranks. Each sample comes once in an epoch.

    Args:
        samples: how many there are.
        batch_size: of a batch, over all ranks.
        shuffle: whether each epoch has an order of its own.
        seed: of the orders.
        world: the number of ranks.
        rank: this one.
        drop_last: leave the last batch out where it is not full.

    Raises:
        InputError: when some rank would get no sample of a batch.
    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        world: int = 1,
        rank: int = 0,
        drop_last: bool = False,
    ) -> None:
        self.samples, self.batch_size, self.shuffle, self.seed = samples, batch_size, shuffle, seed
        self.world, self.rank, self.drop_last = world, rank, drop_last
        self.epoch = 0
        smallest = min(self.sizes(), default=world)
        if smallest < world:
            raise InputError(
                f"{samples} samples in batches of {batch_size} leave one of {smallest} for {world} ranks",
                "give batch_size, which counts the samples of all ranks together, some for each; or use fewer ranks",
            )
        if drop_last and not len(self):
            raise InputError(
                f"drop_last leaves nothing of {samples} samples in batches of {batch_size}", "make batch_size smaller"
            )

    @property
    def sampler(self) -> Order:
        """Itself: where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order is given."""
        self.epoch = epoch

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return self.samples // self.batch_size if self.drop_last else -(-self.samples // self.batch_size)

    def sizes(self) -> Iterator[int]:
        """The sizes of the last two batches, over all ranks; those before are full."""
        if self.drop_last:
            yield from [self.batch_size] * min(2, len(self))
            return
        left = self.samples - max(0, len(self) - 2) * self.batch_size
        while left > 0:
            size = split_evenly(left, self.batch_size)
            yield size
            left -= size

    def batches(self, start: int = 0) -> Iterator[tuple[Tensor, int]]:
        """From batch `start` on: the positions of this rank's samples, int64 (B,), and how many samples all have."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.samples, generator=generator) if self.shuffle else torch.arange(self.samples)
        at = 0
        for index in range(len(self)):
            size = self.batch_size if self.drop_last else split_evenly(self.samples - at, self.batch_size)
            if index >= start:
                yield order[at + self.rank : at + size : self.world], size
            at += size

    def position(self, batch: int, row: int) -> int:
        """Of the sample that is `row` of this rank's share of a batch, in the epoch chosen last."""
        positions, _ = next(self.batches(batch))
        return int(positions[row])


class Columns:
    """Samples in memory, in a mapped file or on an accelerator, from which a batch is gathered at once.

    Args:
        columns: tensors of one length, by name.
        rows: those that count, int64 (N,); by default all.
        windows: where a sample is several of these rows, that many, and the position of the first of each, int64 (W,).
        input: the column that a window has whole, (B, length, ...); it has the last row's of the others.
    """

    def __init__(
        self,
        columns: dict[str, Tensor],
        rows: Tensor | None = None,
        windows: tuple[int, Tensor] | None = None,
        input: str | None = None,
    ) -> None:
        self.columns, self.rows, self.windows, self.input = columns, rows, windows, input

    def __call__(self, positions: Tensor) -> Batch:
        """The samples at these positions among those that count."""
        if self.windows is None:
            # a tenth of the time of column[positions]
            at = self._placed(positions)
            return {name: column.index_select(0, at) for name, column in self.columns.items()}
        length, starts = self.windows
        first = starts.index_select(0, positions)
        whole = self._placed((first[:, None] + torch.arange(length)).flatten())
        last = whole[length - 1 :: length]
        return {
            name: column.index_select(0, whole).unflatten(0, (-1, length))
            if name == self.input
            else column.index_select(0, last)
            for name, column in self.columns.items()
        }

    def _placed(self, positions: Tensor) -> Tensor:
        """The rows at these positions among those that count, where the columns lie."""
        rows = positions if self.rows is None else self.rows.index_select(0, positions)
        return rows.to(next(iter(self.columns.values())).device)

    @property
    def nbytes(self) -> int:
        """The memory they take."""
        return sum(column.nbytes for column in self.columns.values())

    def to(self, device: torch.device) -> Columns:
        """The same on an accelerator."""
        columns = {name: column.to(device) for name, column in self.columns.items()}
        return Columns(columns, self.rows, self.windows, self.input)


class BatchLoader:
    """An epoch of batches, resumable in its middle.

    Args:
        read: gives the batch at some positions, int64 (B,).
        order: which positions make which batch.
        num_workers: processes that read; 0 reads here.
        prefetch: how many batches a thread reads ahead; with workers, each of them.
        pin_memory: whether batches lie in page-locked memory, from which a GPU copies while it computes.
        position: the epoch, and how many of its batches have been used; by default, how many were given out.
        identity: of the data, see `lightning_ae.data.identity`.
        natural: whether batches are in natural units, so that no model takes them as they are.
    """

    def __init__(
        self,
        read: Callable[[Tensor], Batch],
        order: Order,
        num_workers: int = 0,
        prefetch: int = 0,
        pin_memory: bool = False,
        position: Callable[[], tuple[int, int]] | None = None,
        identity: Callable[[], Identity] | None = None,
        natural: bool = False,
    ) -> None:
        self.read, self.batch_sampler, self.natural = read, order, natural
        self.num_workers, self.prefetch, self.pin_memory = num_workers, prefetch, pin_memory
        self._position, self._identity = position, identity
        self._given = self._start = 0

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        start, self._start = self._start, 0
        self._given = start
        for batch in self._batches(self.batch_sampler.batches(start)):
            self._given += 1
            yield Natural(batch) if self.natural else batch
        self._given = 0  # the next epoch's beginning

    def state_dict(self) -> dict[str, Any]:
        """Where in the epoch it is, and of which data."""
        batch = self._given if self._position is None else self._position()[1]
        order = self.batch_sampler
        state = {"batch": batch, "samples": order.samples, "batch_size": order.batch_size, "seed": order.seed}
        return state if self._identity is None else state | {"identity": self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there in the next pass.

        Raises:
            InputError: when the batches are no longer the same ones in the middle of an epoch, or the data are others
                than a run can go on with.
        """
        order = self.batch_sampler
        if self._identity is not None and "identity" in state:  # older checkpoints have none
            check_identity(state["identity"], self._identity(), middle=state["batch"] > 0)
        for name in ("samples", "batch_size") if state["batch"] else ():
            if state[name] != getattr(order, name):
                raise InputError(
                    f"the run stopped in the middle of an epoch with {name} {state[name]}, and goes on with "
                    f"{getattr(order, name)}: that would repeat or leave out samples",
                    f"use {name} {state[name]}, or go on from a checkpoint written at the end of an epoch",
                )
        order.seed = state["seed"]
        self._start = state["batch"] % max(1, len(self))

    def _batches(self, shares: Iterator[tuple[Tensor, int]]) -> Iterator[Batch]:
        if self.num_workers:
            options: dict[str, Any] = {"prefetch_factor": self.prefetch} if self.prefetch else {}
            loader: Any = DataLoader(
                _Reader(self._read_share),
                batch_size=None,
                sampler=list(shares),
                num_workers=self.num_workers,
                pin_memory=self.pin_memory,
                **options,
            )
            for batch in loader:
                if isinstance(batch, InputError):
                    raise batch
                yield batch
        elif self.prefetch:
            yield from _ahead(self._read, shares, self.prefetch)
        else:
            yield from map(self._read, shares)

    def _read_share(self, share: tuple[Tensor, int]) -> Batch:
        positions, whole = share
        batch = self.read(positions)
        return batch if self.batch_sampler.world == 1 else batch | {GLOBAL_BATCH_SIZE: whole}

    def _read(self, share: tuple[Tensor, int]) -> Batch:
        batch = self._read_share(share)
        if not self.pin_memory:
            return batch
        return {name: value.pin_memory() if isinstance(value, Tensor) else value for name, value in batch.items()}


class _Reader(TorchDataset[Any]):
    def __init__(self, read: Callable[[Any], Batch]) -> None:
        self.read = read

    def __getitem__(self, share: Any) -> Batch | InputError:
        try:
            return self.read(share)
        except InputError as error:  # a worker's exception would reach the user as the text of a traceback
            return error


def _ahead(function: Callable[[Any], Any], items: Iterator[Any], n: int) -> Iterator[Any]:
    """The function of each item in order, computed by a thread up to `n` ahead."""
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Any] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > n:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
