"""An average of the weights: what validates, is saved and is loaded, while training goes on from the weights."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint, WeightAveraging
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor

from lightning_ae import VAE, Autoencoder, HFDataModule, InputError, load_model
from lightning_ae.architectures import MLP
from lightning_ae.training import processes

DECAY = 0.9
NORMED = MLP(hidden=(8,), norm="batch")


class Unit(Autoencoder):
    """Columns of unit norm, a count of steps, and a mean that the fit sets."""

    count: Tensor
    mean: Tensor

    def __init__(self, input_shape: Any, latent_dim: int = 4, *, lr: float = 0.05) -> None:
        super().__init__(input_shape, latent_dim, architecture=NORMED, lr=lr)
        self.register_buffer("count", torch.tensor(1000))
        self.register_buffer("mean", torch.zeros(()))

    def on_fit_start(self) -> None:
        self.mean.fill_(3.0)

    def loss(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        if self.training:
            self.count += 1
        return super().loss(x, target)

    def constrain(self) -> None:
        with torch.no_grad():
            weight = self.encoder.linears[-1].weight
            norm = weight.norm(dim=1, keepdim=True)
            weight.div_(torch.where((norm - 1).abs() > 1e-6, norm, torch.ones_like(norm)))


class Reference(pl.Callback):
    """The average, by hand: of the weights after each step, in a dict of its own."""

    def __init__(self) -> None:
        self.average: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.weights = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}
        for name, value in self.weights.items():
            if not self.average or name not in self.average or not value.is_floating_point():
                self.average[name] = value.clone()
            else:
                self.average[name] = DECAY * self.average[name] + (1 - DECAY) * value


def model(cls: type[Autoencoder] = Autoencoder) -> Any:
    torch.manual_seed(0)
    return cls((1, 8, 8)) if cls is Unit else cls((1, 8, 8), 4, architecture=NORMED, lr=0.01)


def fitted(folder: Path, trained: Any, *callbacks: pl.Callback, ckpt_path: Path | None = None, **options: Any) -> Any:
    pl.seed_everything(3, verbose=False)
    ema = EMAWeightAveraging(decay=DECAY)
    trainer = pl.Trainer(**{
        "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
        "max_epochs": 2, "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
        "default_root_dir": folder, "callbacks": [ema, *callbacks], **options,
    })  # fmt: skip
    trainer.fit(trained, HFDataModule("digits", batch_size=256), ckpt_path=ckpt_path)
    return trainer


def close(found: Any, expected: dict[str, Tensor], **tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **tolerance)


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "Lightning's"])
@pytest.mark.parametrize("cls", [Autoencoder, VAE])
def test_what_is_saved_and_left_is_the_average(
    cls: type[Autoencoder], lean: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not lean:
        monkeypatch.setattr("lightning_ae.training.module.use_lean_loop", lambda trainer: None)
    reference, trained = Reference(), model(cls)
    whole = ModelCheckpoint(tmp_path / "whole", save_last=True, every_n_epochs=1)

    class Alone(pl.Callback):  # as ModelCheckpoint(save_weights_only=True) does
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / "alone.ckpt", weights_only=True)

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*WeightAveraging")
        trainer = fitted(tmp_path, trained, reference, whole, Alone())
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    close(trained.state_dict(), reference.average)
    for path in ("whole/last.ckpt", "alone.ckpt", "after.ckpt"):
        close(load_model(tmp_path / path).state_dict(), reference.average)
        saved = torch.load(tmp_path / path, weights_only=True)
        if "alone" not in path:
            close(saved["current_model_state"], reference.weights, rtol=0, atol=0)


def test_validation_and_what_is_measured_at_its_end_see_the_average(tmp_path: Path) -> None:
    seen: dict[str, list[Tensor]] = {}

    class Looking(pl.Callback):
        def look(self, name: str, module: Any) -> None:
            seen.setdefault(name, []).append(module.encoder.linears[0].weight.detach().clone())

        def on_validation_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            if not trainer.sanity_checking:
                self.look("batch", pl_module)

        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if not trainer.sanity_checking:
                self.look("end", pl_module)
                seen.setdefault("average", []).append(reference.average["encoder.linears.0.weight"].clone())
                trainer.save_checkpoint(tmp_path / "inside.ckpt")

    reference = Reference()
    trained = model()
    trainer = fitted(tmp_path, trained, reference, Looking())
    assert len(seen["end"]) == 2
    firsts = seen["batch"][:: len(seen["batch"]) // 2]  # of each epoch
    for batch, end, average in zip(firsts, seen["end"], seen["average"], strict=True):
        torch.testing.assert_close(batch, average)
        torch.testing.assert_close(end, average)
    # a checkpoint that is written then has both, the right way round
    saved = torch.load(tmp_path / "inside.ckpt", weights_only=True)
    close(saved["state_dict"], reference.average)
    close(saved["current_model_state"], reference.weights, rtol=0, atol=0)
    trainer.validate(trained, HFDataModule("digits"), verbose=False)
    close(trained.state_dict(), reference.average)


def test_counts_constraints_and_what_the_fit_begins_with(tmp_path: Path) -> None:
    trained = model(Unit)
    counts: list[int] = []

    class Counting(pl.Callback):
        def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            counts.append(int(pl_module.count))

    trainer = fitted(tmp_path, trained, Counting(), ModelCheckpoint(tmp_path, save_last=True))
    steps = trainer.global_step
    loaded = load_model(tmp_path / "last.ckpt")
    assert int(loaded.count) == int(trained.count) == 1000 + steps
    assert counts == [1000, 1000 + steps // 2, 1000 + steps]  # sanity check, and two epochs
    torch.testing.assert_close(loaded.encoder.linears[-1].weight.norm(dim=1), torch.ones(4))
    assert float(loaded.mean) == pytest.approx(3.0)


def test_before_the_first_update_it_is_the_weights(tmp_path: Path) -> None:
    late = EMAWeightAveraging(decay=DECAY, update_starting_at_step=10_000)
    reference, trained = Reference(), model(Unit)
    pl.seed_everything(3, verbose=False)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
                         max_epochs=1, enable_checkpointing=False, callbacks=[late, reference])  # fmt: skip
    trainer.fit(trained, HFDataModule("digits", batch_size=256))
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    close(load_model(tmp_path / "m.ckpt").state_dict(), reference.weights, rtol=0, atol=0)


@pytest.mark.parametrize("cls", [Autoencoder, Unit])
@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}], ids=str)
def test_a_run_goes_on_bit_for_bit(cls: Any, options: dict[str, Any], tmp_path: Path) -> None:
    class Save(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            if trainer.global_step == 4 and not (tmp_path / "m.ckpt").exists():
                trainer.save_checkpoint(tmp_path / "m.ckpt")

    first, second = model(cls), model(cls)
    fitted(tmp_path, first, Save(), **options).save_checkpoint(tmp_path / "first.ckpt")
    fitted(tmp_path, second, ckpt_path=tmp_path / "m.ckpt", **options).save_checkpoint(tmp_path / "second.ckpt")
    whole, resumed = (torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("first", "second"))
    for key in ("state_dict", "current_model_state", "averaging_state"):
        close(resumed[key], whole[key], rtol=0, atol=0)


@pytest.mark.slow
def test_two_ranks_have_the_average_of_one(tmp_path: Path) -> None:
    alone = model().double()
    fitted(tmp_path, alone, precision="64-true")
    processes.run(_rank, (str(tmp_path),), 2)
    close(torch.load(tmp_path / "found.pt", weights_only=True), dict(alone.state_dict()), rtol=1e-6, atol=1e-8)


def _rank(rank: int, folder: str) -> None:
    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29583", "GROUP_RANK": "0"})
    os.environ["TORCHELASTIC_RUN_ID"] = "averaging"
    torch.set_num_threads(1)
    trained = model().double()
    fitted(Path(folder), trained, devices=2, strategy="ddp", precision="64-true")
    if rank == 0:
        torch.save(dict(trained.state_dict()), Path(folder) / "found.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="EMAWeightAveraging cannot average weights that ModelParallelStrategy shards"):
        fitted(tmp_path, model(), strategy=ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1))
    with pytest.raises(InputError, match="2 callbacks that average the weights"):
        fitted(tmp_path, model(), WeightAveraging())
    trainer = fitted(tmp_path, model(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    plain = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
                       max_epochs=2, enable_checkpointing=False)  # fmt: skip
    with pytest.raises(InputError, match="took an average of its weights, and this trainer has no callback"):
        plain.fit(model(), HFDataModule("digits", batch_size=256), ckpt_path=tmp_path / "m.ckpt")
    saved = torch.load(tmp_path / "m.ckpt", weights_only=True)
    saved["current_model_state"]["encoder.linears.0.weight"][0] = float("nan")
    torch.save(saved, tmp_path / "nan.ckpt")
    with pytest.raises(InputError, match="encoder.linears.0.weight"):
        fitted(tmp_path, model(), ckpt_path=tmp_path / "nan.ckpt")
    saved["current_model_state"] = {"encoder": "text"}
    torch.save(saved, tmp_path / "text.ckpt")
    with pytest.raises(InputError, match="beside an average"):
        load_model(tmp_path / "text.ckpt")
