"""The lean path through a step does what Lightning's own does: the same weights, hooks, counters and logs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.profilers import SimpleProfiler
from torch import Tensor

from lightning_ae import VAE, HFDataModule
from lightning_ae.lean import HOOKS, LeanEpochLoop


class Noted(pl.Callback):
    """Notes every hook that has to do with a batch, and what it could see."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def _note(self, name: str, trainer: pl.Trainer, module: pl.LightningModule, *args: Any) -> None:
        gradient = next(module.parameters()).grad
        batch = trainer.fit_loop.epoch_loop.batch_progress.current
        self.seen.append(
            (name, len(args), trainer.global_step, copy.copy(vars(batch)), None if gradient is None else gradient.sum())
        )


for hook in (*HOOKS, "on_train_epoch_start", "on_train_epoch_end", "on_validation_end"):
    setattr(Noted, hook, lambda self, *args, name=hook: self._note(name, *args))


class Hooked(VAE):
    """A subclass with hooks of its own."""

    def __init__(self) -> None:
        super().__init__((1, 8, 8), 4)
        self.calls: list[Any] = []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        self.calls.append(("start", batch_idx))
        return -1 if batch_idx == 4 and self.current_epoch == 1 else None

    def on_after_backward(self) -> None:
        self.calls.append(("backward", sum(p.grad is not None for p in self.parameters())))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.calls.append(("step", len(optimizer.state)))

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class OneStep(VAE):
    """A step of its own, which only Lightning's path respects."""

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)


def run(folder: Path, lean: bool, monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, Any]:
    with monkeypatch.context() as patch:
        if not lean:
            patch.setattr("lightning_ae.exact.use_lean_loop", lambda trainer: None)
        pl.seed_everything(0, verbose=False)
        model, noted = Hooked(), Noted()
        logger = pl.loggers.CSVLogger(folder, version="lean" if lean else "plain")
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        trainer = pl.Trainer(max_epochs=3, logger=logger, log_every_n_steps=2, callbacks=[noted], **quiet | options)
        trainer.fit(model, HFDataModule("digits", batch_size=128))
    loop = trainer.fit_loop.epoch_loop
    assert isinstance(loop, LeanEpochLoop) == lean
    return {
        "weights": model.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict(),
        "seen": noted.seen,
        "calls": model.calls,
        "loops": trainer.fit_loop.state_dict(),
        "metrics": dict(trainer.callback_metrics),
        "log": (Path(logger.log_dir) / "metrics.csv").read_text(),
        "took": loop._overridden is not None if lean else None,
    }


@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_clip_val": 0.5}, {"precision": "bf16-mixed"}, {"precision": "64-true"}, {"val_check_interval": 5}],
)
def test_it_is_lightnings_own_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    lean, plain = (run(tmp_path, lean, monkeypatch, **options) for lean in (True, False))
    assert lean.pop("took")
    assert plain.pop("took") is None
    assert len(lean["seen"]) > 100
    assert lean["log"] == plain["log"]
    assert lean["calls"] == plain["calls"]
    assert str(lean["loops"]) == str(plain["loops"])
    assert str(lean["seen"]) == str(plain["seen"])
    for name in ("weights", "metrics"):
        torch.testing.assert_close(lean[name], plain[name], rtol=0, atol=0)
    assert str(lean["optimizer"]) == str(plain["optimizer"])


@pytest.mark.parametrize(
    ("options", "model"),
    [
        ({"accumulate_grad_batches": 2}, VAE),
        ({"profiler": SimpleProfiler()}, VAE),
        ({}, OneStep),
    ],
)
def test_what_is_out_of_the_ordinary_takes_lightnings_path(
    tmp_path: Path, options: dict[str, Any], model: type[VAE], fit: Any, digits: Tensor
) -> None:
    trainer = fit(model((1, 8, 8), 4), digits[:256], enable_checkpointing=False, **options)
    assert trainer.fit_loop.epoch_loop._overridden is None
    assert trainer.global_step == 4 // options.get("accumulate_grad_batches", 1)


def test_a_loop_of_ones_own_stays(fit: Any, digits: Tensor) -> None:
    class Own(_TrainingEpochLoop):
        pass

    class Swaps(pl.Callback):
        def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
            trainer.fit_loop.epoch_loop.__class__ = Own

    trainer = fit(VAE((1, 8, 8), 4), digits[:128], callbacks=[Swaps()], enable_checkpointing=False)
    assert type(trainer.fit_loop.epoch_loop) is Own
