"""What Lightning runs, we run: its ways to train with less, for every model."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from asking import variants
from torch import Tensor

from lightning_ae import VAE, Autoencoder, FineTuneClassifier, HFDataModule, get_model

SHAPE = (1, 8, 8)
NAMES = [*variants(), "fine-tuned"]
WAYS: list[dict[str, Any]] = [
    {"barebones": True},
    {"log_every_n_steps": 0, "logger": True},
    {"log_every_n_steps": 0, "logger": False},
    {"fast_dev_run": True},
]


def model(name: str) -> Any:
    if name == "fine-tuned":
        return FineTuneClassifier(VAE(SHAPE, 4))
    return get_model(name)(SHAPE, latent_dim=4, **{"stacked": {"epochs_per_layer": 0}}.get(name, {}))


def quiet(folder: Path, options: dict[str, Any]) -> pl.Trainer:
    others: dict[str, Any] = {"accelerator": "cpu", "default_root_dir": folder, "max_epochs": 1}
    if not options.get("barebones"):
        others |= {"enable_progress_bar": False, "enable_model_summary": False}
        others["enable_checkpointing"] = False
    return pl.Trainer(**others | {"limit_train_batches": 2, "limit_val_batches": 1} | options)


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_command_runs(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    trained, data = model(name), HFDataModule("digits", batch_size=64)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*self.log")  # as barebones warns of
        trainer = quiet(tmp_path, options)
        trainer.fit(trained, data)
        assert trainer.global_step == (1 if "fast_dev_run" in options else 2)
        trainer.validate(trained, data)
        trainer.test(trained, data)
        assert trainer.predict(trained, data)


def test_epoch_means_are_logged_without_steps(tmp_path: Path) -> None:
    trainer = quiet(tmp_path, {"log_every_n_steps": 0})
    trainer.fit(VAE(SHAPE, 4), HFDataModule("digits", batch_size=64))
    assert "train/loss" not in trainer.callback_metrics
    assert trainer.callback_metrics["train/loss_epoch"] > 0


# ---- clipping -----------------------------------------------------------------------------------------------------


class Norms(pl.Callback):
    """The largest value and the norm of the gradients that a step was made with."""

    def __init__(self, later: float | None = None) -> None:
        self.norms: list[float] = []
        self.largest: list[float] = []
        self.later = later

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.later is not None:
            trainer.gradient_clip_val = self.later

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        gradients = torch.cat([p.grad.flatten() for p in pl_module.parameters() if p.grad is not None])
        self.norms.append(float(gradients.norm()))
        self.largest.append(float(gradients.abs().max()))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("make", [lambda: Autoencoder(SHAPE, 4), lambda: FineTuneClassifier(VAE(SHAPE, 4))])
@pytest.mark.parametrize("by", ["norm", "value", "later"])
def test_gradients_are_clipped(precision: Any, make: Any, by: str, fit: Any, digits: Tensor, tmp_path: Path) -> None:
    """Under bf16-mixed Lightning refuses it for optimizers that might unscale in their kernel; ours has nothing to."""
    clip = {"norm": {"gradient_clip_val": 1e-3}, "later": {}}
    clip["value"] = {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"}
    norms = Norms(1e-3 if by == "later" else None)
    trainer = quiet(tmp_path, {"precision": precision, "callbacks": [norms], **clip[by]})
    trainer.fit(make(), HFDataModule("digits", batch_size=64))
    assert trainer.optimizers[0].defaults["fused"]
    found = norms.largest if by == "value" else norms.norms
    assert found == pytest.approx([1e-3] * 2, rel=1e-2)


def test_clipped_on_the_command_line(tmp_path: Path) -> None:
    from lightning_ae.cli import main

    options = ["--trainer.precision", "bf16-mixed", "--trainer.gradient_clip_val", "1.0"]
    limits = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]
    main(["fit", "-c", "ae", "-c", "digits", *options, *limits, "--run_dir", str(tmp_path / "run")])
    assert (tmp_path / "run" / "checkpoints").is_dir()
