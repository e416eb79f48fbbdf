"""Values outside a likelihood's support: found in every batch, and named; kept on a device that must not wait."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from datasets import Dataset, DatasetDict
from torch.utils.data import DataLoader

from lightning_ae import Autoencoder, HFDataModule, InputError
from lightning_ae.data import Tabular
from lightning_ae.data.signature import Column, Signature
from lightning_ae.parts import Bernoulli, Categorical, DiscretizedLogistic, Gaussian, Mixed, Poisson
from lightning_ae.preprocess import TabularPreprocess
from lightning_ae.training.values import Offender, Watch, offender

BAD = [1.5, -0.001, math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("value", BAD)
def test_the_first_offender_is_named(value: float) -> None:
    x = torch.rand(6, 2, 3)
    assert offender(x, 0, 1) is None
    x[4, 1, 2] = x[5, 0, 0] = value
    found, watch = offender(x, 0, 1, batch=3), Watch()
    assert found is not None
    assert (found.batch, found.row, found.place) == (3, 4, 5)
    assert found.value == pytest.approx(value, nan_ok=True)
    x[5, 0, 0] = 0
    for batch in (torch.rand(6, 2, 3), x, torch.full((6, 2, 3), 9.0)):
        watch.look(batch, 0, 1, batch=3 if batch is x else 9)
    kept = watch.first()
    assert kept is not None
    assert (kept.batch, kept.row, kept.place) == (3, 4, 5)
    assert kept.value == pytest.approx(value, nan_ok=True)
    assert watch.first() is None


@pytest.mark.parametrize("likelihood", [Poisson(), Categorical(5), Mixed((0, 5, 5, 0))], ids=str)
@pytest.mark.parametrize("value", [-1.0, 0.5, math.nan])
def test_what_an_interval_does_not_say(likelihood: Any, value: float) -> None:
    x, watch = torch.arange(24.0).view(6, 4) % 5, Watch()
    assert offender(x, *likelihood.support, 0, likelihood.distance) is None
    watch.look(x, *likelihood.support, 0, likelihood.distance)
    x[4, 2] = value
    found = offender(x, *likelihood.support, 3, likelihood.distance)
    watch.look(x, *likelihood.support, 3, likelihood.distance)
    for each in (found, watch.first()):
        assert each is not None
        assert (each.batch, each.row, each.place) == (3, 4, 2)
        assert each.value == pytest.approx(value, nan_ok=True)


def test_in_words() -> None:
    numbers = Signature(
        TabularPreprocess(), (Column("height", "number", "double"), Column("width", "number", "double"))
    )
    picture = Signature(TabularPreprocess(), (Column("image", "image", "image"),))
    assert Offender(2, 7, 1, 1.5).named((2,), numbers) == "row 7 of batch 2, column 'width': 1.5"
    assert Offender(2, 7, 5, 1.5).named((1, 2, 3), picture) == "row 7 of batch 2, column 'image' at (0, 1, 2): 1.5"
    assert Offender(2, 7, 1, 1.5).named((2,), None) == "row 7 of batch 2, column 1: 1.5"


def batches(value: float, at: int = 3) -> DataLoader[Any]:
    x = torch.rand(40, 4)
    x[8 * at + 2, 1] = value
    return DataLoader(x, batch_size=8)


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, **options,
    )  # fmt: skip


@pytest.mark.parametrize("likelihood", [Bernoulli(), DiscretizedLogistic()], ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
@pytest.mark.parametrize("value", BAD)
def test_every_batch_is_looked_at(tmp_path: Path, likelihood: Any, stage: str, value: float) -> None:
    run = getattr(trainer(tmp_path), stage)
    said = rf"row 2 of batch 3, column 1: {value}, where \[0, 1\] is what {type(likelihood).__name__}"
    with pytest.raises(InputError, match=said):
        run(Autoencoder((4,), 2, likelihood=likelihood), batches(value))


def test_nan_is_named_where_the_support_is_all_numbers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="row 2 of batch 3, column 1: nan"):
        trainer(tmp_path).fit(Autoencoder((4,), 2), batches(math.nan))
    trainer(tmp_path).fit(Autoencoder((4,), 2, likelihood=Gaussian()), batches(99.0))


class ReadsBesides(pl.Callback):
    """What a probe does: batches of its own, between those of the trainer."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        list(trainer.datamodule.batches("train", 3))

    def on_validation_batch_start(self, trainer: Any, *_: Any) -> None:
        list(trainer.datamodule.batches("val", 3))

    def on_test_batch_start(self, trainer: Any, *_: Any) -> None:
        list(trainer.datamodule.batches("test", 3))


@pytest.mark.parametrize("options", [{}, {"cache": "none"}, {"batch_size": 7}], ids=str)
@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_the_data_sets_own_row_is_named(tmp_path: Path, stage: str, options: dict[str, Any]) -> None:
    values = np.random.default_rng(0).uniform(size=(90, 2))
    values[61, 1] = 1.5
    rows = Dataset.from_dict({"a": values[:, 0], "b": values[:, 1]})
    data = HFDataModule(
        DatasetDict(train=rows, test=rows),
        kind=Tabular(scaling="none"),
        **{"cache": "memory", "batch_size": 8, **options},
    )
    if stage != "test":  # the row trains, or validates
        data.split_seed = next(s for s in range(99) if (61 in held_out(s)) == (stage == "validate"))
    model = Autoencoder((2,), 1, likelihood=Bernoulli())
    with pytest.raises(InputError, match=r"row 61 of split '(train|test)' in batch \d+, column 'b': 1.5"):
        getattr(trainer(tmp_path, callbacks=[ReadsBesides()]), stage)(model, datamodule=data)


def held_out(seed: int) -> list[int]:
    return np.random.default_rng(seed).permutation(90)[:9].tolist()


class Waiting(Autoencoder):
    """Which watches its values as it would on an accelerator."""

    def check_values(self, x: torch.Tensor, interval: Any, what: str, batch_idx: int, distance: Any = None) -> None:
        self._interval = what, interval, tuple(x.shape[1:])
        if batch_idx == 0:
            self._watch = Watch()
        self._watch.look(x, *interval, batch_idx, distance)


def test_what_an_accelerator_keeps_is_raised_before_a_checkpoint_is_written(tmp_path: Path) -> None:
    every = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1)
    with pytest.raises(InputError, match="row 2 of batch 3, column 1: 1.5"):
        trainer(tmp_path, callbacks=[every]).fit(Waiting((4,), 2, likelihood=Bernoulli()), batches(1.5))
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {f"epoch=0-step={n}.ckpt" for n in (1, 2, 3)}
