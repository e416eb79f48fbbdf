"""Batches from data sets that are read as they come, and never held as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import IterableDataset as TorchIterableDataset

from lightning_ae.data.identity import Identity, check_identity
from lightning_ae.data.loader import Batch, split_evenly
from lightning_ae.data.signature import Natural, listed
from lightning_ae.errors import InputError
from lightning_ae.exact import GLOBAL_BATCH_SIZE

if TYPE_CHECKING:
    from datasets import IterableDataset

READ = 256  # rows fetched at a time
_Sample = tuple[int, int | None, dict[str, Any]]  # its number, in which of the files (None: in all of them), the row


class Stream(TorchIterableDataset[Any]):
    """An epoch of batches in one order over all ranks and workers, each sample once.

    Shuffling takes the data set's files in an order of the epoch's, and draws from a buffer of samples. Every rank and
    worker follows the whole stream, and decodes its own share only: rank r takes positions r, r + W, ... of each batch,
    worker k every K-th batch. So batches are the same on any number of both, at the price of reading the encoded
    samples in each.

    Args:
        rows: the data set.
        decode: makes this rank's share of a batch, given its rows, their numbers for errors, which share that is, the
            number of the batch, and the size of the whole. Rows are counted in the data set, or in their file where
            files come in an order of the epoch's.
        batch_size: of a batch, over all ranks.
        buffer: how many samples are held to draw from; 0 keeps the data set's order.
        seed: of the orders.
        world: the number of ranks.
        rank: this one.
        samples: how many there are, where that is known; then a stream has a length.

    Raises:
        InputError: from a pass, when it holds more or fewer samples than it declares, or than an earlier epoch had.
    """

    def __init__(
        self,
        rows: IterableDataset,
        decode: Callable[[pa.Table, list[int], slice, int, int], Batch],
        batch_size: int,
        buffer: int = 0,
        seed: int = 0,
        world: int = 1,
        rank: int = 0,
        samples: int | None = None,
    ) -> None:
        self.rows, self.decode, self.batch_size, self.samples = rows, decode, batch_size, samples
        self.buffer, self.seed, self.world, self.rank = buffer, seed, world, rank
        self.epoch = self.start = 0
        self.counted: int | None = None  # in an earlier epoch
        self._schema: pa.Schema | None = None
        if batch_size < 2 * world and world > 1:
            raise InputError(
                f"batch_size {batch_size} is too small for {world} ranks that stream",
                f"batch_size counts the samples of all ranks together: give at least {2 * world}",
            )

    def __iter__(self) -> Iterator[Batch | InputError]:
        worker = get_worker_info()
        try:
            yield from self._pass(worker)
        except InputError as error:
            if worker is None:
                raise
            yield error  # a worker's exception would reach the user as the text of a traceback

    def _pass(self, worker: Any) -> Iterator[Batch]:
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        index = -1
        for index, samples in enumerate(self._batches()):
            if index >= self.start and (index - self.start) % step == first:
                if len(samples) < self.world:
                    raise InputError(
                        f"the data set ends in a batch of {len(samples)} samples, too few for {self.world} ranks",
                        "use fewer ranks, or a smaller batch_size",
                    )
                share = slice(self.rank, None, self.world)
                batch = self._decode(samples[share], share, index, len(samples))
                yield batch if self.world == 1 else batch | {GLOBAL_BATCH_SIZE: len(samples)}
        if 0 < self.start > index:
            raise InputError(
                f"the run stopped after batch {self.start} of an epoch, but the stream now ends after {index + 1}",
                "give the data it began with, or go on from a checkpoint written at the end of an epoch",
            )

    def _decode(self, samples: list[_Sample], share: slice, index: int, size: int) -> Batch:
        rows = pa.Table.from_pylist([row for _, _, row in samples], schema=self._schema)
        try:
            return self.decode(rows, [number for number, _, _ in samples], share, index, size)
        except InputError as error:
            if samples[0][1] is None:
                raise
            names = sorted({file for _, file, _ in samples if file is not None})
            raise InputError(
                f"{error.message} (rows are counted in each of the stream's files; it is one of number "
                f"{listed(names)} of {self.rows.num_shards})",
                error.hint,
            ) from error

    def _batches(self) -> Iterator[list[_Sample]]:
        waiting: list[_Sample] = []
        seen = 0
        for sample in self._shuffled():
            waiting.append(sample)
            seen += 1
            if len(waiting) == 2 * self.batch_size:  # the last two may share theirs
                self._check_count(seen, ended=False)
                yield waiting[: self.batch_size]
                del waiting[: self.batch_size]
        self._check_count(seen, ended=True)
        while waiting:
            size = split_evenly(len(waiting), self.batch_size)
            yield waiting[:size]
            del waiting[:size]

    def _check_count(self, seen: int, ended: bool) -> None:
        if ended and seen == 0:
            raise InputError("the stream is empty", "see whether its files are there, or a filter lets nothing pass")
        found = f"{seen}" if ended else "more"
        if self.samples is not None and (seen != self.samples if ended else seen > self.samples):
            raise InputError(
                f"the data set declares {self.samples} samples, but its files hold {found}",
                "correct its description, or load it yourself and give the IterableDataset as path",
            )
        if self.counted is not None and (seen != self.counted if ended else seen > self.counted):
            raise InputError(
                f"the stream had {self.counted} samples in an earlier epoch, and now holds {found}",
                "see whether files are missing; each epoch passes over the same samples. Where they are meant to "
                "change, set Trainer(reload_dataloaders_every_n_epochs=1)",
            )

    def _shuffled(self) -> Iterator[_Sample]:
        if not self.buffer:
            yield from self._samples(self.rows)
            return
        generator = np.random.default_rng((self.seed, self.epoch))
        files = self.rows.num_shards
        in_turn = ((self.rows.shard(files, int(i)), int(i)) for i in generator.permutation(files))
        held: list[_Sample] = []
        draws: Iterator[int] = iter(())
        for sample in (sample for file, i in in_turn for sample in self._samples(file, i if files > 1 else None)):
            if len(held) < self.buffer:
                held.append(sample)
                continue
            drawn = next(draws, None)
            if drawn is None:
                draws = iter(generator.integers(self.buffer, size=4096).tolist())
                drawn = next(draws)
            yield held[drawn]
            held[drawn] = sample
        generator.shuffle(held)
        yield from held

    def _samples(self, rows: IterableDataset, file: int | None = None) -> Iterator[_Sample]:
        number = 0
        for table in rows.with_format("arrow").iter(READ):
            self._schema = table.schema
            for row in table.to_pylist():
                yield number, file, row
                number += 1


class StreamLoader:
    """Epochs of a stream, resumable in the middle of one by reading again up to there.

    Args:
        stream: gives the batches.
        num_workers: processes that read and decode; 0 does so here.
        prefetch: how many batches each of them prepares ahead; 0 leaves it to torch.
        pin_memory: whether batches lie in page-locked memory, from which a GPU copies while it computes.
        position: the epoch, and how many of its batches have been used; by default, what `set_epoch` said, and how many
            were given out.
        identity: of the data, see `lightning_ae.data.identity`.
        natural: whether batches are in natural units, so that no model takes them as they are.
    """

    def __init__(
        self,
        stream: Stream,
        num_workers: int = 0,
        prefetch: int = 0,
        pin_memory: bool = False,
        position: Callable[[], tuple[int, int]] | None = None,
        identity: Callable[[], Identity] | None = None,
        natural: bool = False,
    ) -> None:
        self.stream, self._position, self._identity, self.natural = stream, position, identity, natural
        self._start = self._given = 0
        options: dict[str, Any] = {"prefetch_factor": prefetch} if prefetch and num_workers else {}
        self._loader: Any = DataLoader(
            stream, batch_size=None, num_workers=num_workers, pin_memory=pin_memory, **options
        )

    def __len__(self) -> int:
        if self.stream.samples is None:
            raise TypeError("the stream does not say how many samples it has")  # what len() raises without one
        return -(-self.stream.samples // self.stream.batch_size)

    @property
    def batch_sampler(self) -> StreamLoader:
        """Itself: where Lightning looks for a sampler."""
        return self

    @property
    def sampler(self) -> StreamLoader:
        """Itself: where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order is given."""
        self.stream.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        if self._position is not None:  # Lightning asks for a first batch before it calls set_epoch
            self.stream.epoch = self._position()[0]
        start = self._given = self.stream.start = self._start
        self._start = samples = 0
        for batch in self._loader:
            if isinstance(batch, InputError):
                raise batch
            self._given += 1
            samples += batch.get(GLOBAL_BATCH_SIZE) or len(next(iter(batch.values())))
            yield Natural(batch) if self.natural else batch
        self._given = 0  # the next epoch's beginning
        if start == 0:
            self.stream.counted = samples

    def state_dict(self) -> dict[str, Any]:
        """Where in the epoch it is, and of which data."""
        batch = self._given if self._position is None else self._position()[1]
        state = {name: getattr(self.stream, name) for name in ("batch_size", "buffer", "seed", "counted")}
        state["batch"] = batch
        return state if self._identity is None else state | {"identity": self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there in the next pass.

        Raises:
            InputError: when the batches are no longer the same ones in the middle of an epoch, or the data are others
                than a run can go on with.
        """
        if self._identity is not None and "identity" in state:  # older checkpoints have none
            check_identity(state["identity"], self._identity(), middle=state["batch"] > 0)
        for name in ("batch_size", "buffer") if state["batch"] else ():
            if state[name] != getattr(self.stream, name):
                raise InputError(
                    f"the run stopped in the middle of an epoch with {name} {state[name]}, and goes on with "
                    f"{getattr(self.stream, name)}: that would repeat or leave out samples",
                    f"use {name} {state[name]}, or go on from a checkpoint written at the end of an epoch",
                )
        self.stream.seed = state["seed"]
        if state["batch"]:
            self.stream.counted = state.get("counted")
        self._start = state["batch"]
