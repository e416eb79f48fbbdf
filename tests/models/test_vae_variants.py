"""The papers' classes: each settles a part, and is the variational autoencoder with it."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, distributions
from torch.utils.data import DataLoader, TensorDataset

from lightning_ae import (
    CIWAE,
    DIPVAE,
    IWAE,
    PIWAE,
    VAE,
    BetaTCVAE,
    BetaVAE,
    HamiltonianVAE,
    HFDataModule,
    InfoVAE,
    MissingDataIWAE,
    VampPriorVAE,
    get_model,
    load_model,
)
from lightning_ae.architectures import MLP, ConvNet, ResNet
from lightning_ae.cli.training import training_parser
from lightning_ae.parts import (
    Bernoulli,
    Capacity,
    CIWAEObjective,
    DisentangledPrior,
    IWAEObjective,
    MaximumMeanDiscrepancy,
    MixturePrior,
    PIWAEObjective,
    TotalCorrelation,
    VampPrior,
)
from lightning_ae.parts.posteriors import DiagonalNormal

NAMES = ["vampprior_vae", "iwae", "ciwae", "piwae", "hamiltonian_vae", "beta_tc_vae"]
PAIRS: list[tuple[type[VAE], dict[str, Any], dict[str, Any]]] = [
    (VampPriorVAE, {"pseudo_inputs": 7, "beta": 2.0}, {"prior": VampPrior(7), "beta": 2.0}),
    (VampPriorVAE, {}, {"prior": VampPrior(500)}),
    (IWAE, {"samples": 3, "prior": MixturePrior(2)}, {"objective": IWAEObjective(3), "prior": MixturePrior(2)}),
    (IWAE, {}, {"objective": IWAEObjective(5)}),
    (CIWAE, {"samples": 3, "elbo_weight": 0.2}, {"objective": CIWAEObjective(3, elbo_weight=0.2)}),
    (PIWAE, {"samples": 6, "bounds": 3}, {"objective": PIWAEObjective(6, bounds=3)}),
    (BetaTCVAE, {"alpha": 0.5, "gamma": 2.0}, {"objective": TotalCorrelation(0.5, 2.0), "beta": 6.0}),
    (BetaTCVAE, {"beta": 3.0}, {"objective": TotalCorrelation(), "beta": 3.0}),
    (BetaVAE, {}, {"beta": 4.0}),
    (BetaVAE, {"capacity": 9.0, "beta": 2.0}, {"objective": Capacity(9.0), "beta": 2.0}),
    (DIPVAE, {"kind": "II", "diagonal": 3.0}, {"objective": DisentangledPrior("II", 10.0, 3.0)}),
    (InfoVAE, {"alpha": 0.5, "marginal_weight": 5.0}, {"objective": MaximumMeanDiscrepancy(4.5), "beta": 0.5}),
]


@pytest.mark.parametrize(("cls", "own", "settled"), PAIRS, ids=[f"{c.__name__} {list(o)}" for c, o, _ in PAIRS])
def test_each_is_the_vae_with_its_part(cls: type[VAE], own: Any, settled: Any, digits: Tensor) -> None:
    found = []
    for make, options in ((cls, own), (VAE, settled)):
        torch.manual_seed(0)
        model = make((1, 8, 8), 3, architecture=MLP((8,)), **options)
        if model.needs_data_size:
            model.data_size.fill_(100)
        torch.manual_seed(0)
        found.append({name: float(value.detach()) for name, value in model.loss(digits[:9], digits[:9]).items()})
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_trains_on_the_digits(name: str, precision: Any, tmp_path: Any) -> None:
    pl.seed_everything(0, verbose=False)
    options = {"pseudo_inputs": 20} if name == "vampprior_vae" else {}
    model = get_model(name)((1, 8, 8), 4, architecture=MLP((32,)), **options)
    data = HFDataModule("digits", val_fraction=0.2, batch_size=64)
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", precision=precision, logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(model, data)
    first = float(trainer.callback_metrics["val/loss"])
    trainer.fit_loop.max_epochs = 9
    trainer.fit(model, data)
    assert trainer.callback_metrics["val/loss"] < first - 1
    assert all(value.isfinite() for value in trainer.callback_metrics.values())
    assert all(p.isfinite().all() for p in model.parameters())
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded: Any = load_model(tmp_path / "model.ckpt").eval()
    assert type(loaded) is type(model)
    torch.manual_seed(0)
    samples = loaded.sample(4)
    torch.manual_seed(0)
    assert torch.equal(samples, model.eval().sample(4))
    assert samples.shape == (4, 1, 8, 8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("shape", "network"),
    [((5,), MLP()), ((2, 9), MLP()), ((1, 9, 7), ConvNet(code="map")), ((3, 16, 16), ResNet()), ((2, 3, 4, 5), MLP())],
    ids=str,
)
def test_any_shape(name: str, shape: tuple[int, ...], network: Any) -> None:
    torch.manual_seed(0)
    model: Any = get_model(name)(shape, architecture=network)
    if model.needs_data_size:
        model.data_size.fill_(100)
    x = torch.rand(3, *shape)
    model.loss(x, x)["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.eval().sample(2).shape == (2, *shape)
    assert model(x).shape == x.shape
    assert model.features(x).shape == (3, 16)
    assert model.rate(x).shape == (3,)


@torch.no_grad()
def test_the_rate_under_a_vampprior_is_the_divergence_from_it() -> None:
    torch.manual_seed(0)
    model = VampPriorVAE((6,), 2, architecture=MLP((8,)), pseudo_inputs=4).double().eval()
    x, weights = torch.rand(1, 6, dtype=torch.float64), model.prior_weights
    q, each = model.infer(x), model.infer(weights.values)  # type: ignore[union-attr, arg-type]
    assert isinstance(q, DiagonalNormal)
    assert isinstance(each, DiagonalNormal)
    mixture = distributions.MixtureSameFamily(
        distributions.Categorical(torch.ones(4)),
        distributions.Independent(distributions.Normal(each.mean, (each.log_variance / 2).exp()), 1),
    )
    torch.manual_seed(1)
    z = q.mean + (q.log_variance / 2).exp() * torch.randn(100_000, 2, dtype=torch.float64)
    log_q = distributions.Normal(q.mean, (q.log_variance / 2).exp()).log_prob(z).sum(dim=1)
    drawn = (log_q - mixture.log_prob(z)) / math.log(2)
    found = model.rate(x.expand(100_000, -1))
    error = math.sqrt(float(drawn.var() + found.var()) / 100_000)
    assert abs(float(found.mean() - drawn.mean())) < 5 * error < 0.02


def test_the_same_networks_have_tighter_bounds_with_more_draws(digits: Tensor) -> None:
    """Of a model trained for a while, on samples that it has not seen."""
    pl.seed_everything(0, verbose=False)
    model = IWAE((1, 8, 8), 4, architecture=MLP((64,)), likelihood=Bernoulli(), lr=3e-3)
    trainer = pl.Trainer(
        max_epochs=10, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(model, DataLoader(TensorDataset(digits[:1400]), 64, shuffle=True))
    model.eval()
    x = digits[1400:].repeat(4, 1, 1, 1)
    with torch.no_grad():
        bounds = [float(IWAEObjective(k)(model, model.infer(x), x)["loss"]) for k in (1, 5, 50)]
    assert bounds[0] > bounds[1] + 0.1 > bounds[2] + 0.1


@pytest.mark.parametrize("name", NAMES)
def test_the_command_line_builds_it_from_its_shape_alone(name: str) -> None:
    cls = get_model(name).__name__
    parser = training_parser("fit")
    config = parser.parse_args(
        ["--model", cls, "--model.input_shape", "[1,8,8]", "--data", "HFDataModule", "--data.path", "digits"]
    )
    model = parser.instantiate_classes(config).model
    assert type(model).__name__ == cls
    assert get_model(name)(**model.hparams).hparams == model.hparams


@pytest.mark.parametrize(
    ("name", "cls", "said"),
    [
        ("PIWAE", PIWAE, ""), ("partially-iwae", PIWAE, ""), ("ciwae", CIWAE, ""), ("combination_iwae", CIWAE, ""),
        ("Hamiltonian-VAE", HamiltonianVAE, ""), ("HVAE", HamiltonianVAE, "a hierarchical one.*is top_down_vae"),
        ("MIWAE", MissingDataIWAE, "multiply importance-weighted .*MIWAEObjective"),
    ],
)  # fmt: skip
def test_names_that_two_methods_have_say_which(
    name: str, cls: type[VAE], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        assert get_model(name) is cls
    messages = [message for message in caplog.messages if " here; " in message]
    assert len(messages) == bool(said)
    assert all(re.search(said, message) for message in messages)
