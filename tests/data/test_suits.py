"""The plain calls of the README: a model of the options that suit the data trains on every kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch

from lightning_ae import VAE, HFDataModule, InputError, load_model
from lightning_ae.architectures import MLP, SequenceNet
from lightning_ae.data import Counts, Sequence, Tabular
from lightning_ae.parts import Mixed, NegativeBinomial

ROWS = 120


def table() -> tuple[Any, Tabular]:
    rng = np.random.default_rng(0)
    group = rng.integers(0, 3, ROWS)
    columns = {"a": group + rng.normal(0, 0.1, ROWS), "b": rng.normal(size=ROWS), "c": np.array(list("xyz"))[group]}
    frame = pd.DataFrame(columns)
    frame.loc[5, "b"] = np.nan
    return frame, Tabular(categories=("c",), missing="masked")


def counts() -> tuple[Any, Counts]:
    rng = np.random.default_rng(0)
    rate = np.exp(rng.normal(size=(3, 10)))[rng.integers(0, 3, ROWS)] * rng.uniform(1, 20, (ROWS, 1))
    return rng.poisson(rate), Counts()


def series() -> tuple[Any, Sequence]:
    t = np.arange(ROWS * 4)
    frame = pd.DataFrame({"t": t, "u": np.sin(t / 3), "v": np.cos(t / 3)})
    return frame, Sequence(length=16, time="t")


KINDS = {
    "table": (table, {"architecture": MLP(categories=(0, 0, 3)), "likelihood": Mixed((0, 0, 3))}),
    "counts": (
        counts,
        {"architecture": MLP((128,), norm="batch", log1p=True), "likelihood": NegativeBinomial(library=True)},
    ),
    "series": (series, {"architecture": SequenceNet()}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_suits_learns(kind: str, tmp_path: Any) -> None:
    make, expected = KINDS[kind]
    rows, given = make()
    data = HFDataModule(rows, kind=given, cache="memory", batch_size=24)
    suits = data.suits
    assert suits.pop("input_shape") == data.input_shape
    assert suits == expected
    pl.seed_everything(0, verbose=False)
    model = VAE(**data.suits, latent_dim=2, lr=3e-3)
    trainer = pl.Trainer(
        max_epochs=6, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    before = trainer.validate(model, data, verbose=False)[0]["val/loss"]
    trainer.fit(model, data)
    assert trainer.callback_metrics["val/loss"] < before
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    batch = next(data.batches("val"))
    loaded = load_model(tmp_path / "model.ckpt").eval()
    with torch.no_grad():
        for one, other in zip(model.eval().read(batch)[:2], loaded.read(batch)[:2], strict=True):
            assert torch.equal(one, other)
        x, _, roles = loaded.read(batch)
        assert torch.equal(loaded.encode(x, **roles), model.encode(x, **roles))
        assert loaded(x, **roles).shape == x.shape


def test_a_model_that_takes_categories_for_numbers_is_refused() -> None:
    rows, kind = table()
    data = HFDataModule(rows, kind=kind, cache="memory")
    trainer = pl.Trainer(max_steps=1, accelerator="cpu", barebones=True)
    with pytest.raises(InputError, match=r"(?s)categories.*architecture.*VAE\(\*\*data.suits\)"):
        trainer.fit(VAE(data.input_shape, latent_dim=2), data)
