"""The count model of scVI: a dispersion for each gene and batch, a library, and the batch given to the decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from scipy import stats
from torch import Tensor

from lightning_ae import VAE, ConditionalVAE, HFDataModule, InputError, get_model, load_model
from lightning_ae.architectures import MLP
from lightning_ae.data import Counts
from lightning_ae.parts import NegativeBinomial, ZeroInflatedNegativeBinomial

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False,
    "enable_checkpointing": False, "num_sanity_val_steps": 0,
}  # fmt: skip
GENES, BATCHES = 6, 3

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]


def scvi(likelihood: Any = None, **options: Any) -> ConditionalVAE:
    likelihood = likelihood or NegativeBinomial(library=True, dispersion="feature_batch")
    shared: dict[str, Any] = {
        "latent_dim": 2, "num_classes": 0, "conditions": (BATCHES, 0), "condition_encoder": False,
        "architecture": MLP((16,), log1p=True),
    }  # fmt: skip
    return ConditionalVAE((GENES,), likelihood=likelihood, **{**shared, **options})


def rows(n: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.poisson(torch.rand(n, GENES, generator=generator) * 20, generator=generator)
    return x, torch.stack([torch.arange(n) % BATCHES, torch.randn(n, generator=generator)], dim=1)


@pytest.mark.parametrize("inflated", [False, True])
def test_each_batch_has_its_dispersions_by_scipy(inflated: bool) -> None:
    torch.manual_seed(0)
    family: Any = ZeroInflatedNegativeBinomial if inflated else NegativeBinomial
    model = scvi(family(library=True, dispersion="feature_batch")).double().eval()
    assert model.likelihood == family(library=True, dispersion="feature_batch", batches=BATCHES)
    log_theta = torch.linspace(-2, 3, BATCHES * GENES, dtype=torch.float64).view(BATCHES, GENES)
    assert model.head.shared is not None
    with torch.no_grad():
        model.head.shared.copy_(log_theta.view(1, -1))
    x, condition = rows()
    x, condition = x.double(), condition.double()
    z = torch.randn(len(x), 2, dtype=torch.float64)
    library = torch.full((len(x),), 50.0, dtype=torch.float64)
    found = model.log_likelihood(z, x, condition=condition, library=library)
    # by hand: the decoder's shares of the library, and scipy's density with the dispersion of each sample's batch
    beside = torch.cat([z, torch.eye(BATCHES, dtype=torch.float64)[condition[:, 0].long()], condition[:, 1:]], dim=1)
    output = model.decoder(beside).view(len(x), -1, GENES)
    mean = (50.0 * output[:, 0].softmax(dim=1)).detach().numpy()
    for row in range(len(x)):
        theta = log_theta[int(condition[row, 0])].exp().numpy()
        mass = stats.nbinom(theta, theta / (theta + mean[row])).pmf(x[row].numpy())
        if inflated:
            share = output[row, 1].sigmoid().detach().numpy()
            mass = share * (x[row].numpy() == 0) + (1 - share) * mass
        assert float(found[row].detach()) == pytest.approx(np.log(mass).sum(), rel=1e-9)


def test_the_gradient_reaches_the_batches_of_the_step_alone() -> None:
    torch.manual_seed(0)
    model = scvi()
    x, condition = rows()
    condition[:, 0] = 1
    model.loss(x, x, condition=condition, **model.implies(x, {}))["loss"].backward()
    assert model.head.shared is not None
    assert model.head.shared.grad is not None
    reached = model.head.shared.grad.view(BATCHES, GENES).abs().sum(dim=1) > 0
    assert reached.tolist() == [False, True, False]


def test_what_cannot_be_is_refused() -> None:
    likelihood = NegativeBinomial(dispersion="feature_batch")
    for make in (
        lambda: VAE((GENES,), likelihood=likelihood),
        lambda: scvi(likelihood, conditions=(0, 3)),
        lambda: scvi(NegativeBinomial(dispersion="feature_batch", batches=2)),
    ):
        with pytest.raises(InputError, match="takes the batch from the first column of the model's condition"):
            make()
    with pytest.raises(InputError, match="no dispersion of a sample whose batch is missing"):
        scvi(likelihood, condition_dropout=0.1)
    with pytest.raises(InputError, match="batches of NegativeBinomial go with"):
        NegativeBinomial(batches=2)
    assert get_model("scvi") is ConditionalVAE


def test_from_counts_of_two_batches_to_samples(tmp_path: Path) -> None:
    pl.seed_everything(0, verbose=False)
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 2, 200)
    frame = pd.DataFrame(rng.poisson(5 + 10 * batch[:, None], (200, GENES)), columns=list("abcdef"))
    frame["site"] = np.array(["north", "south"])[batch]
    data = HFDataModule(frame, kind=Counts(), condition=["site"], cache="memory", batch_size=50)
    likelihood = ZeroInflatedNegativeBinomial(library=True, dispersion="feature_batch")
    model = ConditionalVAE(
        **{**data.suits, "likelihood": likelihood}, latent_dim=2, num_classes=0, conditions=data.conditions,
        condition_encoder=False,
    )  # fmt: skip
    trainer = pl.Trainer(max_epochs=2, **QUIET)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    loaded = load_model(tmp_path / "m.ckpt").eval()
    assert loaded.likelihood == model.likelihood
    drawn = loaded.sample(4, condition={"site": "south"}, library=300.0)
    assert drawn.shape == (4, GENES)
    assert float(drawn.sum(dim=1).max()) <= 300  # the zeros' share is not there
    some = frame.iloc[:5]
    assert torch.isfinite(loaded.score(some[list("abcdef")], condition=some[["site"]])).all()
    with pytest.raises(InputError, match="'site' holds 'east', which is none of the classes"):
        loaded.sample(1, condition={"site": "east"}, library=300.0)
