"""Batches: each sample once, the same ones on any number of ranks, and again after a resumption."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor

from lightning_ae import InputError
from lightning_ae.data import HFDataModule, Tabular
from lightning_ae.data.loader import BatchLoader, Columns, Order, _ahead


def rows(order: Order, start: int = 0) -> list[list[int]]:
    return [positions.tolist() for positions, _ in order.batches(start)]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("samples", [1, 7, 8, 9, 11, 12, 16, 17, 40, 45])
def test_each_sample_once_in_full_batches(samples: int, shuffle: bool) -> None:
    batches = rows(Order(samples, 8, shuffle))
    assert sorted(sum(batches, [])) == list(range(samples))
    assert len(batches) == len(Order(samples, 8)) == -(-samples // 8)
    assert all(len(batch) == 8 for batch in batches[:-2])
    assert max(map(len, batches)) <= 8
    assert samples < 4 or min(map(len, batches)) >= 4
    assert [len(batch) for batch in batches[-2:]] == list(Order(samples, 8).sizes())


@pytest.mark.parametrize("samples", [17, 45, 96])
@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_together_make_the_batches_of_one(samples: int, world: int) -> None:
    single = rows(Order(samples, 12, shuffle=True, seed=3))
    shares = [rows(Order(samples, 12, shuffle=True, seed=3, world=world, rank=rank)) for rank in range(world)]
    sizes = [size for _, size in Order(samples, 12, world=world).batches()]
    assert sizes == [len(batch) for batch in single]
    for index, batch in enumerate(single):
        for rank in range(world):
            assert shares[rank][index] == batch[rank::world]
            assert shares[rank][index]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    order, again, other = Order(40, 8, True, seed=1), Order(40, 8, True, seed=1), Order(40, 8, True, seed=2)
    first = rows(order)
    assert first == rows(again)
    assert first != rows(other)
    order.set_epoch(1)
    assert first != rows(order)
    order.set_epoch(0)
    assert first == rows(order)


def test_drop_last() -> None:
    assert [len(batch) for batch in rows(Order(45, 8, drop_last=True))] == [8] * 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"samples": 3, "batch_size": 8, "world": 4}, "3 samples.*4 ranks"),
        ({"samples": 9, "batch_size": 2, "world": 2}, "leave one of 1 for 2 ranks"),
        ({"samples": 3, "batch_size": 8, "drop_last": True}, "leaves nothing of 3 samples"),
    ],
)
def test_batches_that_cannot_be_made(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Order(**arguments)


def loader(samples: int = 45, **options: Any) -> BatchLoader:
    columns = Columns({"row": torch.arange(100, 100 + samples)})
    return BatchLoader(columns, Order(samples, 8, shuffle=True, seed=7), **options)


def seen(batches: Any) -> list[list[int]]:
    return [batch["row"].tolist() for batch in batches]


@pytest.mark.parametrize("options", [{}, {"prefetch": 3}, {"num_workers": 2}, {"num_workers": 2, "prefetch": 4}])
def test_it_goes_on_in_the_middle_of_an_epoch(options: dict[str, Any]) -> None:
    whole = seen(loader(**options))
    assert whole == seen(loader())
    stopped = loader(**options)
    stopped.batch_sampler.seed = 7
    passing = iter(stopped)
    begun = [next(passing)["row"].tolist() for _ in range(2)]
    resumed = loader(**options)
    resumed.batch_sampler.seed = 1  # another process, another seed: the epoch's order is that of the state
    resumed.load_state_dict(stopped.state_dict())
    assert begun + seen(resumed) == whole
    resumed.batch_sampler.set_epoch(1)
    assert len(seen(resumed)) == len(whole)  # the next epoch is whole again


def test_other_batches_cannot_go_on() -> None:
    stopped = loader()
    next(iter(stopped))
    for changed in (loader(46), BatchLoader(Columns({"row": torch.arange(45)}), Order(45, 9))):
        with pytest.raises(InputError, match="middle of an epoch with (samples 45|batch_size 8)"):
            changed.load_state_dict(stopped.state_dict())
        list(ended := loader())
        changed.load_state_dict(ended.state_dict())  # what an epoch's end allows
        assert len(list(changed)) == len(changed)


def test_ahead_keeps_order_and_errors() -> None:
    def slow(n: int) -> int:
        time.sleep(0.01 * (n % 2))
        if n == 5:
            raise ValueError("five")
        return n

    assert list(_ahead(slow, iter(range(4)), 3)) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="five"):
        list(_ahead(slow, iter(range(9)), 3))


def test_rows_that_count() -> None:
    columns = Columns({"a": torch.arange(10) * 10, "b": torch.arange(10.0)}, torch.tensor([1, 3, 5]))
    batch = columns(torch.tensor([2, 0]))
    assert batch["a"].tolist() == [50, 10]
    assert batch["b"].tolist() == [5.0, 1.0]
    assert columns.nbytes == 10 * 12
    assert columns.to(torch.device("cpu"))(torch.tensor([1]))["a"].tolist() == [30]


@pytest.mark.parametrize("options", [{"cache": "none"}, {"cache": "none", "num_workers": 2}, {"cache": "memory"}])
def test_every_cache_gives_the_same_batches(options: dict[str, Any]) -> None:
    def batches(**options: Any) -> list[dict[str, Tensor]]:
        torch.manual_seed(3)
        data = HFDataModule("digits", batch_size=100, **options)
        return [*data.train_dataloader(), *data.batches("val"), *data.batches("test")]

    torch.testing.assert_close(batches(**options), batches(), rtol=0, atol=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_read_is_named(workers: int) -> None:
    rows = Dataset.from_dict({"a": [0.0] * 40 + [float("nan")]})
    loader = HFDataModule(rows, cache="none", num_workers=workers, val_fraction=0).train_dataloader()
    with pytest.raises(InputError, match="^column 'a' of split 'train' holds NaN"):
        list(loader)


def counted(n: int) -> Dataset:
    return Dataset.from_dict({"a": np.arange(n, dtype=np.float32), "row": list(range(n))})


class Accelerator:
    """What a data module asks a Trainer for."""

    root_device, overfit_batches = torch.device("meta"), 0

    def __init__(self, world: int = 1) -> None:
        self.distributed_sampler_kwargs = {"num_replicas": world, "rank": 0}

    def broadcast(self, value: Any) -> Any:
        return value

    @property
    def strategy(self) -> Accelerator:
        return self


def test_samples_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    data = HFDataModule(counted(64), kind=Tabular(columns=("a",)), on_device=True, val_fraction=0, batch_size=8)
    data.trainer = Accelerator()  # type: ignore[assignment]
    assert {column.device.type for column in next(iter(data.train_dataloader())).values()} == {"meta"}
    monkeypatch.setattr("lightning_ae.data.module.free_memory", lambda device: 64 * 12 * 2 - 1)
    with pytest.warns(UserWarning, match="on_device: split 'train' takes .* more than half"):
        loader = data.train_dataloader()
    assert sorted(torch.cat([batch["row"] for batch in loader]).tolist()) == list(range(64))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cache": "disc"}, "cache must be 'disk', 'memory' or 'none', got 'disc'"),
        ({"num_workers": 2}, "num_workers 2 has nothing to do"),
        ({"prefetch": -1}, "prefetch must be an integer of 0 or more"),
        ({"on_device": True, "cache": "none"}, "on_device needs decoded samples"),
        ({"streaming": True}, "cannot set val_fraction 0.1"),
        ({"streaming": True, "val_fraction": 0, "drop_last": True}, "has no drop_last"),
        ({"streaming": True, "val_fraction": 0, "on_device": True}, "on_device needs decoded samples"),
        ({"streaming": True, "val_fraction": 0, "kind": Tabular(scaling="standard")}, "scaling needs the whole"),
    ],
)
def test_options_that_exclude_each_other(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        HFDataModule("digits", **options)


def test_a_batch_that_ranks_cannot_share() -> None:
    data = HFDataModule(counted(64), kind=Tabular(columns=("a",)), batch_size=8)
    accelerator = Accelerator()
    accelerator.distributed_sampler_kwargs = {"num_replicas": 3, "rank": 0}
    data.trainer = accelerator  # type: ignore[assignment]
    with pytest.raises(InputError, match=r"(?s)8 cannot be shared evenly by 3.*use 6 or 9"):
        data.train_dataloader()
