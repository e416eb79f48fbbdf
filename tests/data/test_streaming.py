"""Streams: each sample once over any number of ranks and workers, in batches that do not depend on how many."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, IterableDataset, Value

from lightning_ae import InputError
from lightning_ae.data import HFDataModule, Tabular
from lightning_ae.data import Image as ImageKind


class World:
    """What a data module asks a Trainer for."""

    overfit_batches = 0

    def __init__(self, world_size: int, rank: int) -> None:
        self.strategy = self
        self.distributed_sampler_kwargs = {"num_replicas": world_size, "rank": rank}
        self.fit_loop = self.epoch_loop = self.epoch_progress = self.batch_progress = self.current = self
        self.processed = self.ready = 0  # epochs, batches
        self.is_last_batch = False

    def broadcast(self, value: Any) -> Any:
        return value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """103 rows in three files."""
    folder = tmp_path_factory.mktemp("set")
    for part, rows in enumerate(np.split(np.arange(103), [40, 50])):
        table = Dataset.from_dict({"v": [[float(row), 0.5] for row in rows], "row": rows.tolist()})
        table.to_parquet(folder / f"train-{part:05}-of-00003.parquet")
        table.to_parquet(folder / f"validation-{part:05}-of-00003.parquet")
    return folder


def stream(folder: Any, world: int = 1, rank: int = 0, **options: Any) -> HFDataModule:
    defaults = {"kind": Tabular(), "val_split": "validation", "batch_size": 12, "shuffle_buffer": 30}
    data = HFDataModule(str(folder), streaming=True, **{**defaults, **options})
    data.trainer = World(world, rank)  # type: ignore[assignment]
    return data


def train_rows(data: HFDataModule, epoch: int = 0) -> list[list[int]]:
    torch.manual_seed(5)
    data.trainer.processed = epoch  # type: ignore[union-attr]
    loader = data.train_dataloader()
    return [batch["row"].tolist() for batch in loader]


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_each_sample_once_over_ranks_and_workers(folder: Path, world: int, workers: int) -> None:
    single = train_rows(stream(folder))
    assert sorted(sum(single, [])) == list(range(103))
    assert [len(batch) for batch in single] == [12] * 8 + [7]
    shares = [train_rows(stream(folder, world, rank, num_workers=workers)) for rank in range(world)]
    assert shares == [[batch[rank::world] for batch in single] for rank in range(world)]


def test_epochs_have_orders_of_their_own(folder: Path) -> None:
    first, again, second = (train_rows(stream(folder), epoch) for epoch in (0, 0, 1))
    assert first == again
    assert first != second
    assert sorted(sum(second, [])) == list(range(103))


def test_shuffling_mixes_files(folder: Path) -> None:
    early = sum(train_rows(stream(folder))[:3], [])
    assert min(early) < 40 <= max(early) or min(early) < 50 <= max(early)
    assert early != sorted(early)


@pytest.mark.parametrize("workers", [0, 2])
def test_it_goes_on_in_the_middle_of_an_epoch(folder: Path, workers: int) -> None:
    whole = train_rows(stream(folder), epoch=1)
    for used in (1, 4):
        data = stream(folder, num_workers=workers)
        torch.manual_seed(9)  # another process, another seed
        loader = data.train_dataloader()
        loader.load_state_dict({"batch": used, "batch_size": 12, "buffer": 30, "seed": 5})
        data.trainer.processed = 1  # type: ignore[union-attr]
        assert [batch["row"].tolist() for batch in loader] == whole[used:]
        assert len(list(loader)) == len(whole)
    with pytest.raises(InputError, match="with buffer 40, and goes on with 30"):
        loader.load_state_dict({"batch": 1, "batch_size": 12, "buffer": 40, "seed": 5})


def test_evaluation_keeps_the_order(folder: Path) -> None:
    shares = [[batch["row"].tolist() for batch in stream(folder, 2, rank).val_dataloader()] for rank in range(2)]
    merged = [sorted(a + b) for a, b in zip(*shares, strict=True)]
    assert sum(merged, []) == list(range(103))
    data = stream(folder)
    assert torch.cat([batch["row"] for batch in data.batches("val", 50)]).tolist() == list(range(103))


def test_the_same_batches_as_from_memory() -> None:
    whole = HFDataModule("digits", val_fraction=0, batch_size=100)
    streamed = HFDataModule("digits", val_fraction=0, batch_size=100, streaming=True)
    assert whole.input_shape == streamed.input_shape
    for split in ("train", "test"):
        torch.testing.assert_close(list(streamed.batches(split)), list(whole.batches(split)), rtol=0, atol=0)


def test_draws_do_not_depend_on_the_ranks() -> None:
    def drawn(world: int, rank: int) -> list[torch.Tensor]:
        data = HFDataModule(
            "digits", val_fraction=0, batch_size=100, streaming=True, kind=ImageKind(binarize="dynamic")
        )
        data.trainer = World(world, rank)  # type: ignore[assignment]
        return [batch["image"] for batch in data.test_dataloader()]

    single = drawn(1, 0)
    assert all(set(batch.unique().tolist()) <= {0, 255} for batch in single)
    for rank in range(2):
        expected = [batch[rank::2] for batch in single]
        torch.testing.assert_close(drawn(2, rank), expected, rtol=0, atol=0)


def test_memory_stays_the_same() -> None:
    pixels = np.zeros((64, 64), np.uint8)
    import PIL.Image

    def rows(n: int) -> Any:
        features = Features({"image": Image(), "row": Value("int64")})
        shards = [
            Dataset.from_dict({"image": [PIL.Image.fromarray(pixels)] * 256, "row": list(range(256))}, features)
        ] * (n // 256)
        from datasets import concatenate_datasets

        return concatenate_datasets(shards)

    def peak(n: int) -> int:
        data = HFDataModule(rows(n), streaming=True, val_fraction=0, batch_size=64, shuffle_buffer=128)
        loader = data.train_dataloader()
        tracemalloc.start()
        for _ in loader:
            pass
        most: int = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(512)
    assert peak(4096) < 1.3 * peak(1024)


def test_what_cannot_be_streamed(folder: Path) -> None:
    with pytest.raises(InputError, match="binarize='static' draws once"):
        HFDataModule("digits", streaming=True, val_fraction=0, kind=ImageKind(binarize="static"))
    with pytest.raises(InputError, match="batch_size 3 is too small for 2 ranks"):
        stream(folder, 2, 0, batch_size=3, val_split="validation").val_dataloader()
    iterable = Dataset.from_dict({"v": [[1.0]] * 4}).to_iterable_dataset()
    with pytest.raises(InputError, match=r"(?s)only be streamed.*streaming=True"):
        HFDataModule(iterable).setup("fit")
    assert len(list(HFDataModule(iterable, streaming=True, val_fraction=0).batches("train"))) == 1


def test_length(folder: Path) -> None:
    assert len(stream("digits", kind=None, val_split="test").train_dataloader()) == len(
        HFDataModule("digits", batch_size=12, val_fraction=0).train_dataloader()
    )
    data = stream(folder)
    with pytest.raises(TypeError, match="does not say how many"):
        len(data.train_dataloader())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("declared", [100, 90, 104, 200])
def test_a_wrong_count_is_noticed(folder: Path, declared: int, workers: int) -> None:
    data = stream(folder, num_workers=workers)
    loader = data.train_dataloader()
    loader.stream.samples = declared  # type: ignore[union-attr]
    with pytest.raises(InputError, match=f"^the data set declares {declared} samples, but its files hold (more|103)"):
        list(loader)


@pytest.mark.parametrize("whole", [True, False])
def test_an_empty_stream_is_refused(whole: bool) -> None:
    empty = Dataset.from_dict({"v": [[1.0]]}).select([])
    if not whole:
        empty = IterableDataset.from_generator(lambda: iter(()), features=empty.features)
    for kind in (Tabular(), None, ImageKind(size=(1, 1))) if whole else (Tabular(), None):
        with pytest.raises(InputError, match="is empty"):
            list(HFDataModule(empty, streaming=True, val_fraction=0, kind=kind).train_dataloader())
    images = IterableDataset.from_generator(lambda: iter(()), features=Features({"image": Image()}))
    with pytest.raises(InputError, match="is empty"):
        HFDataModule(images, streaming=True, val_fraction=0).setup("fit")
