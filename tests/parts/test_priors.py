"""Priors against torch.distributions, and their divergences against closed forms and integrals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, distributions

from lightning_ae import VAE, InputError
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.exact import Noise
from lightning_ae.parts import Bernoulli, Gaussian, MixturePrior, Prior, StandardNormal, VampPrior
from lightning_ae.parts.posteriors import DiagonalNormal
from lightning_ae.parts.priors import PseudoInputs

MAP: dict[str, Any] = {"input_shape": (1, 8, 8), "architecture": ConvNet((4, 8), code="map")}
VECTOR: dict[str, Any] = {"input_shape": (6,), "architecture": MLP((8,))}


def build(prior: Prior, latent_dim: int = 3, **options: Any) -> VAE:
    torch.manual_seed(0)
    model = VAE(latent_dim=latent_dim, prior=prior, **VECTOR | options).double().eval()
    weights: Any = model.prior_weights
    if isinstance(prior, MixturePrior):  # components of every size
        torch.nn.init.normal_(weights.values)
        torch.nn.init.normal_(weights.logits)
    return model


def mixture(model: VAE) -> distributions.Distribution:
    """The prior by torch, from the weights themselves."""
    weights: Any = model.prior_weights
    dims = len(model.code_shape)
    if isinstance(model.prior, MixturePrior):
        values, logits = weights.values.detach(), weights.logits.detach()
    else:
        low, high = model.likelihood.support
        free = weights.values.detach()
        with torch.no_grad():
            values = model.encoder(free if math.isinf(low) else low + (high - low) / (1 + (-free).exp()))
        logits = torch.zeros(len(values), dtype=torch.float64)
    mean, log_variance = values[:, : model.latent_dim], values[:, model.latent_dim :]
    each = distributions.Independent(distributions.Normal(mean, (log_variance / 2).exp()), dims)
    return distributions.MixtureSameFamily(distributions.Categorical(logits=logits), each)


@pytest.mark.parametrize(
    "options", [VECTOR, MAP, MAP | {"likelihood": Bernoulli()}], ids=["vector", "map", "in [0, 1]"]
)
@pytest.mark.parametrize("prior", [MixturePrior(4), MixturePrior(1), VampPrior(5), VampPrior(1)], ids=str)
def test_densities_are_those_of_torch(prior: Prior, options: dict[str, Any]) -> None:
    model = build(prior, **options)
    expected = mixture(model)
    for batch in ((), (7,), (7, 2)):
        z = 2 * torch.randn(*batch, *model.code_shape, dtype=torch.float64)
        with torch.no_grad():
            found = model.prior.log_prob(model, z)
        assert found.shape == batch
        torch.testing.assert_close(found, expected.log_prob(z))


@pytest.mark.parametrize("options", [VECTOR, MAP], ids=["vector", "map"])
def test_the_standard_normal_is_torchs(options: dict[str, Any]) -> None:
    model = build(StandardNormal(), **options)
    shape = model.code_shape
    z, log_variance = torch.randn(2, 7, *shape, dtype=torch.float64)
    standard = distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(model.prior.log_prob(model, z), standard.log_prob(z).flatten(1).sum(dim=1))
    kl = distributions.kl_divergence(distributions.Normal(z, (log_variance / 2).exp()), standard).flatten(1).sum(dim=1)
    torch.testing.assert_close(model.prior.kl(model, DiagonalNormal(z, log_variance), z), kl)
    assert model.prior.closed_form(model.posterior)
    assert model.prior.sample(model, 5, Noise()).shape == (5, *shape)


def within(found: Tensor, expected: float) -> bool:
    """Whether the mean of draws is as expected, to five standard errors."""
    return abs(float(found.mean()) - expected) < 5 * float(found.std()) / math.sqrt(len(found))


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("prior", [MixturePrior(3), VampPrior(4)], ids=str)
@torch.no_grad()
def test_the_divergence_is_the_integral(prior: Prior, dims: int) -> None:
    model = build(prior, latent_dim=dims)
    mean, log_variance = torch.tensor([0.4, -0.3])[:dims].double(), torch.tensor([-1.0, 0.5])[:dims].double()
    axis = torch.linspace(-9, 9, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * dims).view(-1, dims)
    q = distributions.Independent(distributions.Normal(mean, (log_variance / 2).exp()), 1)
    log_q = q.log_prob(grid)
    expected = float((log_q.exp() * (log_q - mixture(model).log_prob(grid))).sum() * (axis[1] - axis[0]) ** dims)
    many = DiagonalNormal(mean.expand(100_000, -1), log_variance.expand(100_000, -1))
    drawn = model.prior.kl(model, many, many.draw(Noise(0, "a")))
    assert within(drawn, expected)
    assert not within(drawn, expected + 0.1)
    assert not model.prior.closed_form(model.posterior)


@torch.no_grad()
def test_a_vampprior_of_one_point_is_that_posterior() -> None:
    model = build(VampPrior(3), latent_dim=2)
    weights: Any = model.prior_weights
    weights.values.copy_(weights.values[:1].expand_as(weights.values))
    p = model.infer(weights.values[:1])
    assert isinstance(p, DiagonalNormal)
    q = DiagonalNormal(*torch.randn(2, 1, 2, dtype=torch.float64))
    expected = distributions.kl_divergence(
        *(distributions.Normal(d.mean, (d.log_variance / 2).exp()) for d in (q, p))
    ).sum()
    many = DiagonalNormal(q.mean.expand(50_000, -1), q.log_variance.expand(50_000, -1))
    assert within(model.prior.kl(model, many, many.draw(Noise(0, "a"))), float(expected))


@pytest.mark.parametrize("prior", [MixturePrior(3), VampPrior(4), StandardNormal()], ids=str)
@torch.no_grad()
def test_draws_have_the_density(prior: Prior) -> None:
    model = build(prior, latent_dim=1)
    torch.manual_seed(0)
    draws = model.prior.sample(model, 20_000, Noise()).flatten().double()
    axis = torch.linspace(-15, 15, 20_001, dtype=torch.float64)
    density = model.prior.log_prob(model, axis.unsqueeze(1)).exp()
    below = (density.cumsum(0) * (axis[1] - axis[0])).numpy()
    assert below[-1] == pytest.approx(1, abs=1e-4)
    for shift in (0.0, 0.1):
        fits = stats.kstest(draws.numpy() + shift, lambda z: np.interp(z, axis.numpy(), below))
        assert (fits.pvalue > 1e-3) == (shift == 0), (shift, fits)


def test_draws_repeat_with_their_noise() -> None:
    model = build(MixturePrior(3))
    one, again, other = (model.prior.sample(model, 8, Noise(key, "a")) for key in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("support", [(0.0, 1.0), (-2.0, 3.0), (0.0, math.inf), (-math.inf, 5.0), (-math.inf, math.inf)])
def test_pseudo_inputs_stay_in_the_support(support: tuple[float, float]) -> None:
    torch.manual_seed(0)
    inputs = PseudoInputs(500, (7,), support)
    assert stats.kstest(inputs.values.detach().flatten().numpy(), "norm").pvalue > 1e-3
    u = inputs()
    if support == (0.0, math.inf):
        torch.testing.assert_close(u, (1 + inputs.values.exp()).log())
    u.sum().backward()
    assert inputs.values.grad is not None
    assert (inputs.values.grad != 0).all()
    with torch.no_grad():
        inputs.values.mul_(1e4)
    assert inputs().min() >= support[0]
    assert inputs().max() <= support[1]
    assert inputs().isfinite().all()


def test_a_fresh_mixture() -> None:
    torch.manual_seed(0)
    model = VAE((6,), 40, prior=MixturePrior(50))
    each, weights = MixturePrior(50).distributions(model), MixturePrior(50).log_weights(model)
    assert isinstance(each, DiagonalNormal)
    assert float(each.mean.detach().std()) == pytest.approx(1, abs=0.1)
    assert each.log_variance.abs().max() == 0
    torch.testing.assert_close(weights.exp(), torch.full((50,), 0.02))


def test_weights_are_trained_and_saved(digits: Tensor, fit: Any, tmp_path: Any) -> None:
    for prior in (MixturePrior(3), VampPrior(3)):
        torch.manual_seed(0)
        model = VAE((1, 8, 8), 4, prior=prior, architecture=MLP((8,)))
        before = {name: value.clone() for name, value in model.state_dict().items() if "prior" in name}
        trainer = fit(model, digits[:256])
        assert all(not torch.equal(model.state_dict()[name], value) for name, value in before.items())
        trainer.save_checkpoint(tmp_path / "model.ckpt")
        loaded = VAE.load_from_checkpoint(tmp_path / "model.ckpt").eval()
        z = torch.randn(5, 4)
        assert torch.equal(loaded.prior.log_prob(loaded, z), model.eval().prior.log_prob(model, z))


def test_the_encoders_dropout_is_off_in_evaluation_only() -> None:
    model = build(VampPrior(4), architecture=MLP((8,), dropout=0.5))
    z = torch.randn(5, 3, dtype=torch.float64)
    assert torch.equal(model.prior.log_prob(model, z), model.prior.log_prob(model, z))
    model.train()
    assert not torch.equal(model.prior.log_prob(model, z), model.prior.log_prob(model, z))


def test_bad_input() -> None:
    with pytest.raises(InputError, match="components of MixturePrior must be a positive integer, got 0"):
        MixturePrior(0)
    with pytest.raises(InputError, match=r"pseudo_inputs of VampPrior must be a positive integer, got 2\.5"):
        VampPrior(2.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="batch normalisation"):
        VAE((6,), prior=VampPrior(), architecture=MLP((8,), norm="batch"))

    class Labelled(VAE):
        given = ("label",)

    with pytest.raises(InputError, match="without label, but Labelled takes that"):
        Labelled((6,), prior=VampPrior())
    Labelled((6,), prior=MixturePrior())


def test_only_one_component_is_independent() -> None:
    assert StandardNormal().independent
    assert MixturePrior(1).independent
    assert not MixturePrior(2).independent
    assert not VampPrior(1).independent
    assert Gaussian().support == (-math.inf, math.inf)
