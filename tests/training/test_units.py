"""What is said once of a fit: units of the code without use, data far from the likelihood's scale."""

from __future__ import annotations

import random
import warnings
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from datasets import Dataset, DatasetDict
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_ae import VAE, Autoencoder, HFDataModule, KSparseAutoencoder
from lightning_ae.architectures import MLP
from lightning_ae.data import Tabular
from lightning_ae.parts import Bernoulli, Gaussian, Laplace
from lightning_ae.training import units


def fitted(model: Any, data: Any, epochs: int = 1) -> list[str]:
    """What a fit says of units and of scale."""
    run = pl.Trainer(
        max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", num_sanity_val_steps=0,
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run.fit(model, data) if isinstance(data, DataLoader) else run.fit(model, datamodule=data)
    return [str(each.message) for each in said if "units" in str(each.message) or "scale" in str(each.message)]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits of few steps are judged, too."""
    monkeypatch.setattr(units, "LEAST_STEPS", 40)


def loader(x: Tensor) -> DataLoader[Any]:
    return DataLoader(x, batch_size=64)


def normal(columns: int = 8) -> Tensor:
    return torch.randn(256, columns, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tabular", [False, True])
@pytest.mark.parametrize(("scale", "silent"), [(100.0, False), (0.3, True)])
def test_a_code_that_the_divergence_silenced_is_said_once(scale: float, silent: bool, tabular: bool) -> None:
    torch.manual_seed(0)
    model = VAE((8,), 4, architecture=MLP((32,)), likelihood=Gaussian(scale=scale), lr=1e-2)
    data: Any = loader(normal())
    if tabular:
        rows = Dataset.from_dict({f"c{i}": column for i, column in enumerate(normal().T.tolist())})
        data = HFDataModule(DatasetDict(train=rows, test=rows), cache="memory", val_fraction=0)
    said = fitted(model, data, epochs=20)
    variance = model.eval().encode(normal()).var(dim=0, correction=0)
    assert bool((variance <= 0.01).all()) is not silent
    assert len(said) == (0 if silent else 1)
    assert silent or said[0].startswith("4 of the code's 4 units hardly depend on the data")


def test_of_a_sparse_code_units_that_are_never_active_are_said() -> None:
    torch.manual_seed(0)
    data = normal(4)[:1].repeat(256, 1) + 1e-3 * normal(4)  # all alike, so the same unit wins
    model = KSparseAutoencoder((4,), 10, k=1, lr=1e-9)
    assert fitted(model, loader(data), epochs=9) == []  # they may yet come into use
    (said,) = fitted(model, loader(data), epochs=20)
    active = model.active(model.eval().encode(data)).any(dim=0)
    assert said.startswith(f"{int((~active).sum())} of the code's 10 units were active in none of 256 training samples")
    # silence of many units among few samples says nothing
    assert fitted(KSparseAutoencoder((4,), 100, k=1, lr=1e-9), loader(data), epochs=20) == []


def test_codes_without_a_scale_are_not_judged() -> None:
    torch.manual_seed(0)
    model = Autoencoder((8,), 4, weight_decay=0.0, lr=1e-9)
    with torch.no_grad():
        for weight in model.encoder.parameters():
            weight.mul_(1e-4)
    assert fitted(model, loader(normal()), epochs=20) == []


def test_looking_leaves_random_states_and_modes_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    class Drawn(torch.utils.data.Dataset[Tensor]):
        def __len__(self) -> int:
            return 64

        def __getitem__(self, row: int) -> Tensor:
            return torch.randn(8) + random.random() + np.random.rand()

    def states() -> tuple[list[Any], list[bool]]:
        return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()], [
            module.training for module in model.modules()
        ]

    seen = []

    def watched(model: Any, trainer: Any) -> None:
        before = states()
        units.warn_of_idle_units(model, trainer)
        seen.append((before, states()))

    monkeypatch.setattr("lightning_ae.autoencoder.warn_of_idle_units", watched)
    model = VAE((8,), 4, likelihood=Gaussian(scale=1e3))
    model.encoder.eval()
    fitted(model, DataLoader(Drawn(), batch_size=16), epochs=20)
    ((before, after),) = seen
    assert before == after


COUNTS = torch.randint(0, 60, (256, 8), generator=torch.Generator().manual_seed(0)).float()


@pytest.mark.parametrize(
    ("x", "likelihood", "word"),
    [
        (COUNTS, Gaussian(scale="optimal"), "NegativeBinomial"),
        (COUNTS, Laplace(), "NegativeBinomial"),
        (COUNTS - 1, Gaussian(), None),  # neither counts nor far out
        (1000 + normal(), Gaussian(scale="optimal"), "reach from"),
        (-1000 + normal(), Gaussian(), "reach from"),
        (normal(), Gaussian(), None),
        (normal().sigmoid(), Bernoulli(), None),
        ((COUNTS > 30).float(), Gaussian(), None),
    ],
    ids=["counts", "counts, Laplace", "small", "large", "negative", "unit", "Bernoulli", "binary"],
)
def test_data_far_from_unit_scale_are_said_once(x: Tensor, likelihood: Any, word: str | None) -> None:
    torch.manual_seed(0)
    said = fitted(Autoencoder((8,), 4, likelihood=likelihood, lr=1e-4), loader(x), epochs=2)
    assert len(said) == (0 if word is None else 1)
    assert word is None or (word in said[0] and "scaling='standard'" in said[0])


@pytest.mark.parametrize(("scaling", "times"), [("none", 1), ("standard", 0)])
def test_scaled_tables_are_left_alone(scaling: Any, times: int) -> None:
    x = 1000 + torch.randn(20_000, 2)
    x[0] = 1e6  # scaled it is 141 deviations away
    rows = Dataset.from_dict({f"c{i}": column for i, column in enumerate(x.T.tolist())})
    splits = DatasetDict(train=rows, test=rows)
    data = HFDataModule(splits, kind=Tabular(scaling=scaling), cache="memory", val_fraction=0, batch_size=20_000)
    said = fitted(Autoencoder((2,), 1, lr=1e-4), data)
    assert len([each for each in said if "reach from" in each]) == times
