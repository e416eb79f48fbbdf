"""The variational autoencoder with its default parts against its formula written out, to the last bit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_ae import VAE
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.parts import Bernoulli, Gaussian, Warmup


def written_out(model: VAE, x: Tensor, beta: float) -> dict[str, Tensor]:
    mean, log_variance = model.encoder(x).chunk(2, dim=1)
    bounded = log_variance + (log_variance.clamp(-30.0, 20.0) - log_variance).detach()
    z = mean + (0.5 * bounded).exp() * torch.randn_like(mean)
    reconstruction = -model.likelihood.log_prob(model.head(model.decoder(z)), x).mean()
    kl = 0.5 * (mean.square() + bounded.exp() - bounded - 1).sum(dim=1).mean()
    terms = {"loss": reconstruction + beta * kl, "reconstruction": reconstruction, "kl": kl}
    if not model.training:
        terms["bits_per_dimension"] = (reconstruction + kl) / (math.prod(model.input_shape) * math.log(2))
    return terms


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"likelihood": Bernoulli()},
        {"likelihood": Bernoulli(), "beta": 2.5, "beta_schedule": Warmup()},  # of a fit only
        {"likelihood": Bernoulli(), "architecture": MLP((8,), dropout=0.5)},
        {"likelihood": Bernoulli(), "architecture": ConvNet((4, 8))},
    ],
    ids=["default", "beta", "dropout", "convolutions"],
)
def test_the_default_is_the_formula_to_the_last_bit(options: dict[str, Any], training: bool, digits: Tensor) -> None:
    torch.manual_seed(0)
    model, x = VAE((1, 8, 8), 5, **options).train(training), digits[:20].round()
    torch.manual_seed(1)
    found = model.loss(x, x)
    torch.manual_seed(1)
    expected = written_out(model, x, options.get("beta", 1.0))
    assert {name: float(value.detach()) for name, value in found.items()} == {
        name: float(value.detach()) for name, value in expected.items()
    }
    parameters = list(model.parameters())
    for ours, plain in zip(
        torch.autograd.grad(found["loss"], parameters),
        torch.autograd.grad(expected["loss"], parameters),
        strict=True,
    ):
        assert torch.equal(ours, plain)


def test_its_weights_and_samples_are_what_they_were() -> None:
    torch.manual_seed(0)
    model = VAE((6,), 3, architecture=MLP((8,)), likelihood=Gaussian("learned"))
    torch.manual_seed(0)
    networks = [nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(3, 8), nn.Linear(8, 6)]
    expected = [value for layer in networks for value in layer.parameters()]
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), [*expected, torch.zeros(1)], strict=True))
    torch.manual_seed(0)
    found = model.sample(4)
    torch.manual_seed(0)
    assert torch.equal(found, model.decode(torch.randn(4, 3)))


@pytest.mark.parametrize("shape", [(3,), (3, 2, 2)], ids=str)
def test_the_rate_is_the_divergence_in_bits(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = MLP((8,)) if len(shape) == 1 else ConvNet((4, 8), code="map")
    model, x = VAE((1, 8, 8), 3, architecture=network).eval(), torch.rand(7, 1, 8, 8)
    assert model.code_shape == shape
    with torch.no_grad():
        mean, log_variance = model.encoder(x).chunk(2, dim=1)
        q = torch.distributions.Normal(mean, (log_variance / 2).exp())
        kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).flatten(1).sum(dim=1)
        torch.testing.assert_close(model.rate(x), kl / math.log(2))
        assert float(model.loss(x, x)["kl"]) == pytest.approx(float(kl.mean()), rel=1e-5)
