"""Splits, order, sharding, and what a Trainer gets."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from datasets import Dataset, DatasetDict
from pytorch_lightning.cli import LightningCLI

import lightning_ae.data  # noqa: F401  imported, its classes are known by their bare names
from lightning_ae import VAE, InputError
from lightning_ae.config import class_path
from lightning_ae.data import HFDataModule, Image, Tabular
from lightning_ae.data.cache import entries
from lightning_ae.preprocess import ImagePreprocess


def counted(n: int = 100) -> Dataset:
    return Dataset.from_dict({"a": np.arange(n, dtype=np.float32), "row": list(range(n))})


COUNTED = Tabular(columns=("a",), scaling="none")


def rows_of(data: HFDataModule, split: str) -> list[int]:
    return data.dataset(split)["row"][:]


class Tiny(pl.LightningModule):
    """One weight for each pixel; notes what it was given."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(features, 1)
        self.seen: dict[str, list[dict[str, torch.Tensor]]] = {"train": [], "val": [], "test": [], "predict": []}

    def value(self, batch: dict[str, torch.Tensor], stage: str) -> torch.Tensor:
        self.seen[stage].append(batch)
        x = next(v for v in batch.values() if v.ndim > 1)
        return self.layer(x.flatten(1)).square().mean()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.value(batch, "train")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.value(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.value(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.value(batch, "predict")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trainer(**options: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(**quiet | {"accelerator": "cpu", "enable_checkpointing": False} | options)


def test_validation_split_is_fixed_and_disjoint() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = HFDataModule(counted(), val_fraction=0.25)
    torch.manual_seed(2)
    np.random.seed(2)
    again = HFDataModule(counted(), val_fraction=0.25)
    other = HFDataModule(counted(), val_fraction=0.25, split_seed=1)
    assert rows_of(first, "val") == rows_of(again, "val")
    assert rows_of(first, "val") != rows_of(other, "val")
    assert len(rows_of(first, "val")) == 25
    assert sorted(rows_of(first, "val") + rows_of(first, "train")) == list(range(100))


def test_validation_split_by_name() -> None:
    data = HFDataModule(DatasetDict(train=counted(9), dev=counted(5)), val_split="dev")
    assert (len(data.dataset("train")), len(data.dataset("val"))) == (9, 5)


def test_batches_follow_the_data_set() -> None:
    data = HFDataModule(counted(), kind=COUNTED)
    for split in ("train", "val"):
        batches = list(data.batches(split, 32))
        assert torch.cat([batch["row"] for batch in batches]).tolist() == rows_of(data, split)
        assert torch.cat([batch["a"] for batch in batches])[:, 0].tolist() == rows_of(data, split)


def test_order_follows_the_seed_without_a_trainer() -> None:
    def shuffled(seed: int) -> list[int]:
        torch.manual_seed(seed)
        loader = HFDataModule(counted(), kind=COUNTED).train_dataloader()
        return torch.cat([batch["row"] for batch in loader]).tolist()

    assert shuffled(0) == shuffled(0)
    assert shuffled(0) != shuffled(1)


class Recorder(Tiny):
    """Starts each process with a seed of its own, as a script without seed_everything does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(1)
        self.folder = folder

    def setup(self, stage: str) -> None:
        torch.manual_seed(100 + self.global_rank)

    def on_train_end(self) -> None:
        torch.save(torch.cat([batch["row"] for batch in self.seen["train"]]), self.folder / f"{self.global_rank}.pt")


def test_unseeded_processes_share_one_order(tmp_path: Path) -> None:
    data = HFDataModule(counted(64), kind=COUNTED, val_fraction=0, batch_size=8)
    options = {"strategy": "ddp_fork", "devices": 2, "max_epochs": 1, "log_every_n_steps": 1}
    trainer(**options).fit(Recorder(tmp_path), data)
    parts = [torch.load(tmp_path / f"{rank}.pt").tolist() for rank in (0, 1)]
    assert sorted(parts[0] + parts[1]) == list(range(64))


def test_trainer_passes() -> None:
    data = HFDataModule("digits", batch_size=32)
    model = Tiny(64)
    run = trainer(fast_dev_run=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module="pytorch_lightning.utilities._pytree")  # Lightning's own
        run.fit(model, data)
        run.validate(model, data)
        run.test(model, data)
        run.predict(model, data)
    for batches in model.seen.values():
        batch = batches[0]
        assert set(batch) == {"image", "label"}
        assert batch["image"].shape == (32, 1, 8, 8)
        assert batch["image"].dtype == torch.float32
        assert 0 <= batch["image"].min() < batch["image"].max() == 1
        assert batch["label"].dtype == torch.int64
    torch.testing.assert_close(model.seen["test"][0], next(data.batches("test", 32)), rtol=0, atol=0)
    assert data.preprocess == ImagePreprocess(size=(8, 8), channels=1)
    assert data.class_names == [str(digit) for digit in range(10)]


def test_epochs_are_shuffled_anew() -> None:
    data, model = HFDataModule(counted(40), kind=COUNTED, batch_size=36), Tiny(1)
    trainer(max_epochs=2, log_every_n_steps=1).fit(model, data)
    first, second = (batch["row"].tolist() for batch in model.seen["train"])
    assert sorted(first) == sorted(second)
    assert first != second


def test_no_validation() -> None:
    model = Tiny(64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module="pytorch_lightning.utilities._pytree")  # Lightning's own
        trainer(fast_dev_run=True).fit(model, HFDataModule("digits", val_fraction=0))
    assert len(model.seen["train"]) == 1
    assert model.seen["val"] == []


@pytest.mark.parametrize(("precision", "dtype"), [("64-true", torch.float64), ("bf16-true", torch.bfloat16)])
def test_true_precision(precision: str, dtype: torch.dtype) -> None:
    model = Tiny(64)
    trainer(fast_dev_run=True, precision=precision).fit(model, HFDataModule("digits"))
    assert model.seen["train"][0]["image"].dtype == dtype
    assert model.seen["val"][0]["image"].dtype == dtype


def test_dynamic_binarisation_repeats_with_the_seed() -> None:
    def train(seed: int) -> list[torch.Tensor]:
        pl.seed_everything(seed, verbose=False)
        model = Tiny(64)
        data = HFDataModule("digits", kind=Image(binarize="dynamic"), batch_size=1437, val_fraction=0)
        trainer(max_epochs=2, log_every_n_steps=1).fit(model, data)
        return [batch["image"][batch["label"].argsort(stable=True)] for batch in model.seen["train"]]

    first, again, other = train(0), train(0), train(1)
    assert first[0].unique().tolist() == [0, 1]
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


def test_stages_decode_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: set[str] = set()
    original = Image.decode

    def decode(self: Image, rows: Any, columns: list[str], split: str, first: int) -> np.ndarray:
        decoded.add(split)
        return original(self, rows, columns, split, first)

    monkeypatch.setattr(Image, "decode", decode)
    data = HFDataModule("digits", cache="memory")
    data.prepare_data()
    data.setup("test")
    list(data.batches("test"))
    assert decoded == {"test"}
    data.setup("fit")
    assert decoded == {"test", "train"}
    decoded.clear()
    data.setup("fit")
    list(data.train_dataloader())
    assert not decoded


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_a_trainer_decodes_before_other_ranks_ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: str) -> None:
    """In the one process of a node that prepares; the others find what they need in the cache."""
    monkeypatch.setenv("LIGHTNING_AE_CACHE", str(tmp_path))

    class Looks(HFDataModule):
        def setup(self, stage: Any) -> None:
            assert len(entries()) == 1
            super().setup(stage)

    getattr(trainer(fast_dev_run=True), stage)(Tiny(64), Looks("digits"))


def test_config_makes_it_again() -> None:
    data = HFDataModule("digits", kind=Image(binarize="static"), val_fraction=0.2, batch_size=7)
    config = data.config
    assert config is not None
    assert config["class_path"] == class_path(HFDataModule)
    again = HFDataModule(**config["init_args"])
    assert again.config == config
    assert again.kind == data.kind


@pytest.mark.parametrize(
    "args",
    [
        ["--data=HFDataModule", "--data.path=digits", "--data.kind=Image", "--data.kind.size=[4, 6]"],
        ["--data={class_path: HFDataModule, init_args: {path: digits, kind: {class_path: Image, init_args: "
         "{size: [4, 6]}}}}"],
    ],
)  # fmt: skip
def test_command_line(args: list[str]) -> None:
    cli = LightningCLI(
        Tiny, pl.LightningDataModule, subclass_mode_data=True, run=False, save_config_callback=None,
        seed_everything_default=False, args=["--model.features=24", *args],
    )  # fmt: skip
    assert cli.datamodule.kind == Image(size=(4, 6))
    cli.datamodule.setup("fit")
    assert cli.datamodule.input_shape == (1, 4, 6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: HFDataModule(counted(), val_fraction=1.0), "val_fraction"),
        (lambda: HFDataModule(counted(), val_fraction=-0.1), "val_fraction"),
        (lambda: HFDataModule(counted(), batch_size=0), "batch_size"),
        (lambda: HFDataModule(counted(), batch_size=1.5), "batch_size"),  # type: ignore[arg-type]
        (lambda: HFDataModule(counted(), kind={"class_path": "Imag"}), "Image"),  # type: ignore[arg-type]
        (lambda: HFDataModule(counted(), train_split="training").setup("fit"), r"(?s)'training'.*it has 'train'"),
        (lambda: HFDataModule(counted(), val_split="dev").setup("fit"), r"(?s)'dev'.*it has 'train'"),
        (lambda: HFDataModule(counted()).setup("test"), r"(?s)'test'.*it has 'train'"),
        (lambda: HFDataModule(counted()).dataset("all"), "'all'"),
        (lambda: HFDataModule(counted(0)).setup("fit"), "'train'.*empty"),
        (lambda: HFDataModule(counted(2)).setup("fit"), "no validation data"),
        (lambda: HFDataModule(counted(1), val_fraction=0.9).setup("fit"), "no training data"),
    ],
)
def test_refused(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_a_missing_test_split_does_not_matter_to_training() -> None:
    model = Tiny(1)
    trainer(fast_dev_run=True).fit(model, HFDataModule(counted(), kind=COUNTED))
    assert len(model.seen["train"]) == 1


def test_label() -> None:
    rows = Dataset.from_dict({"a": [1.0], "y": [1], "target": [0]})
    assert HFDataModule(rows).label == "target"
    assert HFDataModule(rows, label="y").label == "y"
    assert HFDataModule(counted()).label is None
    assert HFDataModule(counted()).class_names is None
    assert HFDataModule("digits").label == "label"


STOPS = (3, 12, 17, 24)  # an epoch has 12


class StopsAfter(pl.Callback):
    """Writes checkpoints after some steps, as runs that are stopped there would have done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step in STOPS:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


@pytest.mark.parametrize("options", [{}, {"prefetch": 2}, {"streaming": True, "shuffle_buffer": 200}])
def test_a_run_goes_on_where_it_stopped(tmp_path: Path, options: dict[str, Any]) -> None:
    def fit(*callbacks: pl.Callback, **resumed: Any) -> pl.LightningModule:
        pl.seed_everything(3, verbose=False)
        model = VAE((1, 8, 8), 4)
        data = HFDataModule("digits", val_fraction=0, batch_size=128, **options)
        run = trainer(max_epochs=3, callbacks=list(callbacks))
        run.fit(model, data, weights_only=True, **resumed)
        assert run.global_step == 36
        return model

    whole = fit(StopsAfter(tmp_path))
    for steps in STOPS:
        resumed = fit(ckpt_path=tmp_path / f"{steps}.ckpt")
        torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_a_loader_that_could_not_be_made_leaves_others_alone() -> None:
    data = HFDataModule(counted(), kind=COUNTED, batch_size=8)
    data.train_dataloader = lambda: data._part("nonsense")  # type: ignore[method-assign]
    trainer = pl.Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True)
    with pytest.raises(InputError, match="nonsense"):
        trainer.fit(Tiny(1), data)
    assert not [name for name in vars(torch.utils.data.DataLoader) if name.startswith("__old")]
