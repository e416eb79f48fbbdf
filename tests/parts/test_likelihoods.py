"""Likelihoods against torch.distributions and numerical integration."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import ContinuousBernoulli as TorchContinuousBernoulli
from torch.distributions import Laplace as TorchLaplace
from torch.distributions import Normal

from lightning_ae.config import from_plain, to_plain
from lightning_ae.errors import InputError
from lightning_ae.exact import Noise
from lightning_ae.parts import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
    Likelihood,
    NegativeBinomial,
    Poisson,
    StudentT,
    ZeroInflatedNegativeBinomial,
)
from lightning_ae.parts.head import LikelihoodHead

ALL = [
    Gaussian(), Laplace(), DiscretizedLogistic(), Bernoulli(), ContinuousBernoulli(), StudentT(), Poisson(),
    NegativeBinomial(), ZeroInflatedNegativeBinomial(), Categorical(3),
]  # fmt: skip
by_name = pytest.mark.parametrize("likelihood", ALL, ids=lambda x: type(x).__name__)


def params_and_data(likelihood: Likelihood, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    params = torch.randn(6, likelihood.num_parameters, 2, 5, generator=g, dtype=torch.float64)
    x = torch.rand(6, 2, 5, generator=g, dtype=torch.float64)
    if isinstance(likelihood, DiscretizedLogistic):
        x = (x * 255).round() / 255
    if likelihood.whole:
        x = (x * min(9, likelihood.support[1])).round()
    return params, x


def test_log_prob_against_torch_distributions() -> None:
    params, x = params_and_data(Gaussian("per_pixel"))
    location, scale = params[:, 0], params[:, 1].exp()
    shared = torch.linspace(-2, 2, 6, dtype=torch.float64).view(6, 1, 1)  # by the values of a sample, not by samples
    with_shared = torch.stack([location, shared.expand_as(location)], dim=1)
    cases: list[tuple[Likelihood, Tensor, Any]] = [
        (Gaussian(0.7), params[:, :1], Normal(location, 0.7)),
        (Gaussian("per_pixel"), params, Normal(location, scale)),
        (Laplace(0.7), params[:, :1], TorchLaplace(location, 0.7)),
        (Laplace("per_pixel"), params, TorchLaplace(location, scale)),
        (Gaussian("learned"), with_shared, Normal(location, shared.exp())),
        (Laplace("learned"), with_shared, TorchLaplace(location, shared.exp())),
        (ContinuousBernoulli(), params[:, :1], TorchContinuousBernoulli(logits=location)),
    ]
    for likelihood, given, reference in cases:
        torch.testing.assert_close(likelihood.log_prob(given, x), reference.log_prob(x).sum(dim=(1, 2)))
        torch.testing.assert_close(likelihood.mean(given), reference.mean)
    bits = x.round()
    reference = TorchBernoulli(logits=location)
    torch.testing.assert_close(Bernoulli().log_prob(params[:, :1], bits), reference.log_prob(bits).sum(dim=(1, 2)))
    torch.testing.assert_close(Bernoulli().mean(params[:, :1]), reference.mean)


def by_value(family: Any, scale: Any, params: Tensor, x: Tensor) -> Tensor:
    """The log-probability as a sum of each value's own, with nothing taken out of the sum."""
    log_scale = params[:, 1].clamp(-7, 7) if isinstance(scale, str) else params.new_tensor(math.log(scale))
    if isinstance(scale, str):  # clamped, and the gradient passes
        log_scale = params[:, 1] + (log_scale - params[:, 1]).detach()
    error = (x - params[:, 0]) * (-log_scale).exp()
    if family is Gaussian:
        return (-0.5 * error.square() - log_scale - 0.5 * math.log(2 * math.pi)).flatten(1).sum(dim=1)
    return (-error.abs() - log_scale - math.log(2)).flatten(1).sum(dim=1)


@pytest.mark.parametrize("log_scale", [-9.0, -3.0, 0.3, 8.0])
@pytest.mark.parametrize("shape", [(1,), (7,), (2, 5), (3, 4, 5), (1, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("scale", [0.3, "learned", "per_pixel"])
@pytest.mark.parametrize("family", [Gaussian, Laplace])
def test_a_scale_taken_out_of_the_sum_changes_no_value_and_no_gradient(
    family: Any, scale: Any, shape: tuple[int, ...], log_scale: float
) -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        g = torch.Generator().manual_seed(0)
        head = LikelihoodHead(family(scale), shape).to(dtype)
        output = torch.randn(6, *family(scale).output_shape(shape), generator=g, dtype=dtype)
        x = torch.randn(6, *shape, generator=g, dtype=dtype)
        inputs = [output.requires_grad_(), x.requires_grad_()]
        if head.shared is not None:
            torch.nn.init.constant_(head.shared, log_scale)
            inputs.append(head.shared)
        weights = torch.rand(6, generator=g, dtype=dtype)  # another for each sample: which gradient goes where counts
        ours, expected = family(scale).log_prob(head(output), x), by_value(family, scale, head(output), x)
        close = {"rtol": tolerance, "atol": tolerance * float(expected.detach().abs().max())}
        torch.testing.assert_close(ours, expected, **close)
        found = torch.autograd.grad(ours @ weights, inputs)
        for mine, its in zip(found, torch.autograd.grad(expected @ weights, inputs), strict=True):
            torch.testing.assert_close(mine, its, rtol=tolerance, atol=tolerance * float(its.abs().max()))


@pytest.mark.parametrize("logit", [-40.0, -3.0, -0.06, -0.049, -1e-4, 0.0, 1e-4, 0.049, 0.06, 3.0, 40.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_continuous_bernoulli_by_integration(logit: float, dtype: torch.dtype) -> None:
    # Gauss-Legendre quadrature on pieces that crowd at both ends, where large logits put all their mass
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(50)
    edges = np.concatenate([[0], np.geomspace(1e-4, 0.5, 12), 1 - np.geomspace(1e-4, 0.5, 12)[-2::-1], [1]])
    half = np.diff(edges) / 2
    points = torch.tensor((edges[:-1] + half)[:, None] + half[:, None] * nodes).flatten()
    mass = torch.tensor(half[:, None] * weights).flatten()
    likelihood = ContinuousBernoulli()
    params = torch.full((len(points), 1, 1), logit, dtype=dtype)
    density = likelihood.log_prob(params, points.to(dtype).unsqueeze(1)).double().exp()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-9
    assert float(density @ mass) == pytest.approx(1, abs=tolerance)
    assert float(density @ (mass * points)) == pytest.approx(float(likelihood.mean(params[:1])), abs=tolerance)


def test_continuous_bernoulli_gradient_is_smooth() -> None:
    logits = torch.tensor([-1e6, -100.0, -0.05, -1e-9, 0.0, 1e-9, 0.05, 100.0, 1e6], requires_grad=True)
    x = torch.full((9, 1), 0.3)
    ContinuousBernoulli().log_prob(logits.view(-1, 1, 1), x).sum().backward()
    assert logits.grad is not None
    # d log p / d logit = x - mean
    expected = 0.3 - ContinuousBernoulli().mean(logits.detach().view(-1, 1, 1)).flatten()
    torch.testing.assert_close(logits.grad, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("location", [-3.0, 0.0, 0.5, 0.9, 4.0])
@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 5.0])
def test_discretized_logistic_masses_sum_to_one(location: float, log_scale: float) -> None:
    likelihood = DiscretizedLogistic("per_pixel", levels=64)
    params = torch.tensor([location, log_scale], dtype=torch.float64).view(1, 2, 1).repeat(64, 1, 1).requires_grad_()
    grid = torch.linspace(0, 1, 64, dtype=torch.float64).unsqueeze(1)
    log_mass = likelihood.log_prob(params, grid)
    assert float(log_mass.exp().sum()) == pytest.approx(1, abs=1e-9)
    log_mass.sum().backward()
    assert params.grad is not None
    assert torch.isfinite(params.grad).all()


def test_discretized_logistic_is_the_difference_of_the_distribution_function() -> None:
    likelihood = DiscretizedLogistic(0.1, levels=11)
    location = torch.tensor([0.33], dtype=torch.float64)
    cdf = lambda v: torch.sigmoid((v - location) / 0.1)  # noqa: E731
    for k in range(1, 10):
        x = torch.tensor([[k / 10]], dtype=torch.float64)
        expected = (cdf(x + 0.05) - cdf(x - 0.05)).log().sum(dim=1)
        torch.testing.assert_close(likelihood.log_prob(location.view(1, 1, 1), x), expected)


def test_squared_error_has_the_gradient_of_the_gaussian() -> None:
    params, x = params_and_data(Gaussian())
    params.requires_grad_()
    for scale in (0.3, 1.0, 2.5):
        (ours,) = torch.autograd.grad(-Gaussian(scale).log_prob(params, x).sum(), params)
        (squared,) = torch.autograd.grad((params[:, 0] - x).square().sum(), params)
        torch.testing.assert_close(ours, squared / (2 * scale**2))


@pytest.mark.parametrize("family", [Gaussian, Laplace, DiscretizedLogistic])
def test_scale_options_agree_and_all_learn(family: Any) -> None:
    torch.manual_seed(0)
    x = (torch.rand(5, 7) * 255).round() / 255
    output = torch.randn(5, 7)
    log_scale = math.log(0.2)
    fixed = LikelihoodHead(family(0.2), (7,))(output)
    learned_head = LikelihoodHead(family("learned"), (7,))
    assert learned_head.shared is not None
    torch.nn.init.constant_(learned_head.shared, log_scale)
    per_pixel = LikelihoodHead(family("per_pixel"), (7,))(torch.cat([output, torch.full((5, 7), log_scale)], dim=1))
    expected = family(0.2).log_prob(fixed, x)
    torch.testing.assert_close(family("learned").log_prob(learned_head(output), x), expected)
    torch.testing.assert_close(family("per_pixel").log_prob(per_pixel, x), expected)
    family("learned").log_prob(learned_head(output), x).sum().backward()
    assert learned_head.shared.grad is not None
    assert learned_head.shared.grad.abs() > 0
    assert family("per_pixel").output_shape((3, 4, 5)) == (6, 4, 5)


def test_learned_scale_finds_the_standard_deviation() -> None:
    torch.manual_seed(0)
    x = 0.37 * torch.randn(4000, 3)
    head = LikelihoodHead(Gaussian("learned"), (3,))
    optimizer = torch.optim.LBFGS(head.parameters(), line_search_fn="strong_wolfe", max_iter=50)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -Gaussian("learned").log_prob(head(torch.zeros_like(x)), x).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert head.shared is not None
    assert float(head.shared.exp()) == pytest.approx(float(x.square().mean().sqrt()), rel=1e-4)


@by_name
def test_samples_have_the_mean(likelihood: Likelihood) -> None:
    n = 40_000
    if isinstance(likelihood, Categorical):  # whose classes have no mean
        return
    params = torch.tensor([0.6, -1.0, 0.3])[: likelihood.num_parameters].view(1, -1, 1).repeat(n, 1, 1)
    draws = likelihood.sample(params, Noise("test")).double()
    again = likelihood.sample(params, Noise("test")).double()
    assert torch.equal(draws, again)
    expected = likelihood.mean(params[:1]).double()
    if isinstance(likelihood, DiscretizedLogistic):  # `mean` is the location there; the masses tell the mean itself
        grid = torch.linspace(0, 1, 256).view(-1, 1)
        expected = (likelihood.log_prob(params[:256], grid).double().exp() * grid.flatten()).sum().view(1, 1)
    assert abs(draws.mean() - expected) < 5 * draws.std() / n**0.5
    low, high = likelihood.support
    assert low <= float(draws.min()) <= float(draws.max()) <= high


@pytest.mark.parametrize("family", [Gaussian, Laplace, DiscretizedLogistic])
@pytest.mark.parametrize("scale", ["per_pixel", "learned"])
def test_bounded_scales_keep_their_gradient(family: Any, scale: Any) -> None:
    params = torch.tensor([0.0, 50.0]).view(1, 2, 1).requires_grad_()
    log_prob = family(scale).log_prob(params, torch.zeros(1, 1))
    assert torch.isfinite(log_prob)
    log_prob.backward()
    assert params.grad is not None
    assert params.grad[0, 1].abs() > 0


@by_name
def test_log_prob_is_an_island_of_float32(likelihood: Likelihood) -> None:
    params, x = params_and_data(likelihood)
    log_prob = likelihood.log_prob(params.bfloat16(), x.float())
    assert log_prob.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert likelihood.log_prob(params.bfloat16(), x.bfloat16()).dtype == torch.float32
    assert likelihood.log_prob(params, x).dtype == torch.float64


@by_name
def test_plain_form(likelihood: Likelihood) -> None:
    assert from_plain(Likelihood, to_plain(likelihood, "likelihood"), "likelihood") == likelihood


def test_where_bits_per_dimension_mean_something() -> None:
    grey, bits = torch.tensor([0.0, 0.3]), torch.tensor([0.0, 1.0])
    assert Bernoulli().is_mass_at(bits)
    assert not Bernoulli().is_mass_at(grey)
    assert DiscretizedLogistic(levels=11).is_mass_at(grey)
    assert not DiscretizedLogistic(levels=11).is_mass_at(grey + 0.05)
    assert not Gaussian().is_mass_at(bits)


@pytest.mark.parametrize("scale", [0.0, -1.0, "leraned", float("inf")])
def test_bad_scales_are_refused(scale: Any) -> None:
    with pytest.raises(InputError, match="scale of Gaussian"):
        Gaussian(scale)
