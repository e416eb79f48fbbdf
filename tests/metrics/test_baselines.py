"""Codes beside principal components, inputs and the untrained model, against scikit-learn."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from datasets import Dataset
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from lightning_ae import Autoencoder, HFDataModule, InputError
from lightning_ae.metrics import compare_codes


def test_errors_are_those_of_scikit_learn() -> None:
    data = HFDataModule("digits", val_fraction=0)
    pl.seed_everything(0, verbose=False)
    model = Autoencoder(data.input_shape, latent_dim=4)
    found = compare_codes(model, data, k=1, seed=3)
    assert model.training
    x = {split: torch.cat([batch["image"] for batch in data.batches(split)]) for split in ("train", "test")}
    pl.seed_everything(3, verbose=False)
    fresh = Autoencoder(data.input_shape, latent_dim=4)
    flat = {split: each.flatten(1).numpy() for split, each in x.items()}
    pca = PCA(4, svd_solver="full").fit(flat["train"])
    with torch.no_grad():
        expected = {
            "codes": [model.encode(x[split]).numpy() for split in ("train", "test")],
            "pca": [pca.transform(flat[split]) for split in ("train", "test")],
            "inputs": [flat["train"], flat["test"]],
            "untrained": [fresh.encode(x[split]).numpy() for split in ("train", "test")],
        }
    for name, (train, test) in expected.items():
        neighbours = KNeighborsClassifier(1).fit(train, data.labels("train"))
        assert found[name] == pytest.approx(1 - neighbours.score(test, data.labels("test")), abs=0.003), name


def test_data_without_classes() -> None:
    rows = Dataset.from_dict({"a": [0.0, 1.0], "b": [1.0, 0.0]})
    data = HFDataModule(rows, val_fraction=0, cache="memory")
    with pytest.raises(InputError, match="no label that names any"):
        compare_codes(Autoencoder((2,), latent_dim=1), data)
