"""Evidence by importance sampling against closed forms and quadrature; its standard errors against other draws."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from asking import given_of, shape_of, told
from linear_gaussian import FactorAnalysis, Off
from torch import Tensor, distributions, nn

from lightning_ae import VAE, HFDataModule, InputError, get_model, list_models
from lightning_ae.architectures import MLP
from lightning_ae.evidence import Evidence
from lightning_ae.exact import keyed
from lightning_ae.models.hierarchical import Hierarchy
from lightning_ae.parts import Bernoulli, Gaussian

DRAWING = [name for name in list_models() if "sample" in get_model(name).latents]


def analysis(cls: type[VAE]) -> tuple[VAE, Tensor, Tensor]:
    """A model of known evidence, samples, and their evidence."""
    model = cls((1,), 1, likelihood=Gaussian(0.5)).double()
    x = 0.3 + 1.6 * torch.randn(40, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return model, x, distributions.Normal(0.3, math.sqrt(1.5**2 + 0.25)).log_prob(x).sum(dim=1)


def test_with_the_true_posterior_each_draw_is_the_evidence() -> None:
    model, x, exact = analysis(FactorAnalysis)
    found = model.log_evidence(x, samples=7)
    torch.testing.assert_close(found.log_p, exact, rtol=0, atol=1e-6)
    assert float(found.error.max()) < 1e-6
    torch.testing.assert_close(found.effective, torch.full((40,), 7.0, dtype=torch.float64))


def test_standard_errors_are_those_of_other_draws() -> None:
    """Of each sample, and of the mean, in which samples of a batch have their draws in common."""
    model, x, exact = analysis(Off)
    runs = [model.log_evidence(x, samples=400, seed=seed, batch_size=20) for seed in range(60)]
    estimates = torch.stack([run.log_p for run in runs])
    stated = torch.stack([run.error for run in runs]).square().mean(dim=0).sqrt()
    ratio = estimates.std(dim=0) / stated
    assert 0.9 < float(ratio.mean()) < 1.1
    means = torch.tensor([run.mean for run in runs])
    stated_mean = float(torch.tensor([run.mean_error for run in runs]).square().mean().sqrt())
    assert 0.75 < float(means.std()) / stated_mean < 1.3  # 60 runs: some 9 %
    off = (estimates.mean(dim=0) - exact) / (stated / math.sqrt(len(runs)))
    assert float(off.abs().max()) < 4
    alone = float(runs[0].error.square().sum().sqrt()) / len(x)
    assert abs(runs[0].mean_error / alone - 1) > 0.2  # as if each had draws of its own, it would be another


@torch.no_grad()
def test_two_latent_dimensions_by_quadrature() -> None:
    torch.manual_seed(0)
    model = VAE((6,), 2, likelihood=Bernoulli(), architecture=MLP((16,))).double()
    for layer in model.decoder.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data.mul_(3)
    x = torch.rand(12, 6, dtype=torch.float64).round()
    axis = torch.linspace(-7, 7, 281, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    density = distributions.Normal(0.0, 1.0).log_prob(z).sum(dim=1) + 2 * math.log(float(axis[1] - axis[0]))
    exact = torch.stack([(model.log_likelihood(z, row.expand(len(z), 6)) + density).logsumexp(dim=0) for row in x])
    found = model.log_evidence(x, samples=4000, batch_size=4)
    assert ((found.log_p - exact).abs() < 3 * found.error).all()
    assert abs(found.mean - float(exact.mean())) < 2 * found.mean_error
    assert found.mean_error < 0.02
    assert found.bits_per_dimension == pytest.approx(-found.mean / (6 * math.log(2)))
    assert model.log_evidence(x / 2 + 0.1, samples=2).bits_per_dimension is None  # no zeros and ones: no probability


@pytest.mark.parametrize("name", DRAWING)
def test_every_variant_that_draws(name: str) -> None:
    """It is that of the same draws by hand; samples are of their rows."""
    torch.manual_seed(0)
    shape = shape_of(name, (6,))
    model: Any = told(get_model(name)(shape, 4)).double().eval()
    x = torch.rand(5, *shape, dtype=torch.float64)
    given = given_of(model, len(x))
    found = model.log_evidence(x, samples=3, batch_size=5, **given)
    torch.testing.assert_close(found.log_p, model.log_evidence(x, samples=3, batch_size=5, **given).log_p)
    with torch.no_grad(), keyed(0, "evidence", 0, samples=5, alike=True):
        weights = [
            (c.log_likelihoods(model, x, **given) - c.log_ratio.view(5, -1)).logsumexp(dim=1)
            for c in model.coded(x, 3, **given)
        ]
    by_hand = torch.stack(weights).exp().mean(dim=0).log()
    torch.testing.assert_close(found.log_p, by_hand)
    assert (found.log_p > -model.score(x, draws=3, **given) - 60).all()


@torch.no_grad()
@pytest.mark.parametrize("name", DRAWING)
def test_divergences_of_units_are_the_rate(name: str) -> None:
    torch.manual_seed(0)
    shape = shape_of(name, (6,))
    model: Any = told(get_model(name)(shape, 4)).double().eval()
    x = torch.rand(5, *shape, dtype=torch.float64)
    given = given_of(model, len(x))
    with keyed(0, "test"):
        each = model.kl_by_unit(x, **given)
    if each is None:
        assert type(getattr(model, "prior", None)).__name__ != "StandardNormal" or name == "hamiltonian_vae"
        return
    assert each.shape == model.units(model.encode(x, **given)).shape
    with keyed(0, "test"):
        torch.testing.assert_close(each.sum(dim=1), model.rate(x, **given) * math.log(2))
    if isinstance(model, Hierarchy):  # the lowest level first, as `units` has them
        with keyed(0, "test"):
            levels = model.descend(model.evidence(x), lambda q: q.draw(model.noise("rate")))
        for of_level, level in zip(each.split(model.dims, dim=1), levels, strict=True):
            torch.testing.assert_close(of_level.sum(dim=1), level.kl)


def test_rows_of_a_split() -> None:
    data = HFDataModule("digits")
    torch.manual_seed(0)
    model = VAE(data.input_shape, 3, architecture=MLP((8,)))
    found = model.evidence_rows(data, "test", 3, batch_size=50, last=120)
    images = torch.cat([batch["image"] for batch in data.batches("test", 120, 0, 120)])
    torch.testing.assert_close(found.log_p, model.log_evidence(images, 3, batch_size=50).log_p)
    assert found.data_error == pytest.approx(float(found.log_p.std()) / math.sqrt(120))


def test_few_effective_draws_are_said() -> None:
    weights = torch.zeros(3, 100, dtype=torch.float64)
    weights[1, 0] = 50.0
    with pytest.warns(UserWarning, match="of 1 of 3 samples few of the 100 draws carry"):
        found = Evidence.joined([Evidence.of(weights)])
    torch.testing.assert_close(found.effective, torch.tensor([100.0, 1.0, 100.0], dtype=torch.float64))


@pytest.mark.parametrize("samples", [1, 0, 2.0, True, "5"])
def test_bad_samples(samples: Any) -> None:
    with pytest.raises(InputError, match="samples must be a whole number from 2 on"):
        VAE((4,), 2).log_evidence(torch.rand(3, 4), samples=samples)


def test_bad_batches() -> None:
    model = VAE((4,), 2)
    with pytest.raises(InputError, match="batch_size must be a positive integer, got 0"):
        model.log_evidence(torch.rand(3, 4), batch_size=0)
    with pytest.raises(InputError):
        model.log_evidence(torch.rand(0, 4))


def test_no_density() -> None:
    with pytest.raises(InputError, match="Autoencoder has no distribution over codes, and so no density"):
        get_model("ae")((4,), 2).log_evidence(torch.rand(3, 4))
