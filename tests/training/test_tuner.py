"""Lightning's Tuner with our models and data, and the trainer that it used, used again."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest
import pytorch_lightning as pl
from pytorch_lightning.tuner import Tuner

from lightning_ae import VAE, HFDataModule


def test_the_tuner_and_then_a_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    data = HFDataModule("digits", batch_size=64)
    model = VAE((1, 8, 8), 2)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", limit_val_batches=0, enable_checkpointing=False, **quiet)
    tuner = Tuner(trainer)
    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.INFO):
        warnings.simplefilter("always")
        size = tuner.scale_batch_size(model, datamodule=data, steps_per_trial=1, max_trials=2, init_val=64)
        assert size == data.batch_size == 128
        found = tuner.lr_find(model, datamodule=data, num_training=5, update_attr=False)
        assert found is not None
        assert len(found.results["lr"]) == 5
        trainer.fit(model, data)
    assert trainer.global_step == -(-len(data.dataset("train")) // 128)
    said = [str(each.message) for each in warned] + [record.getMessage() for record in caplog.records]
    ours = [text for text in said if "lightning_ae" in text or "callback" in text.lower()]
    assert ours == []
