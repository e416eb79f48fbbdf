"""Codes in the Poincare ball against its definitions, mpmath, quadrature and numerical derivatives."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor, distributions

from lightning_ae import VAE, ConditionalVAE, InputError, PoincareVAE
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.exact import Noise
from lightning_ae.parts import (
    Bernoulli,
    CentredWrappedNormal,
    DiagonalGaussian,
    IWAEObjective,
    JointPosterior,
    JointPrior,
    StandardNormal,
    VampPrior,
    WrappedNormal,
)
from lightning_ae.parts.hyperbolic import Wrapped, exp_at, log_at, log_sinhc, origin_exp, origin_log

CURVATURES = (1e-3, 0.3, 1.0, 4.0)


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def points(n: int, d: int, c: float, farthest: float = 8.0) -> Tensor:
    """Of the ball, at distances up to `farthest` / sqrt(c)."""
    generator = torch.Generator().manual_seed(0)
    way = torch.nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)
    reach = farthest * torch.rand(n, 1, generator=generator, dtype=torch.float64) / math.sqrt(c)
    return origin_exp(reach * way, c)


def moebius(x: Tensor, y: Tensor, c: float) -> Tensor:
    """The sum by its definition (Mathieu et al. 2019, section 2.2)."""
    xy, xx, yy = (x * y).sum(-1, keepdim=True), x.square().sum(-1, keepdim=True), y.square().sum(-1, keepdim=True)
    return ((1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y) / (1 + 2 * c * xy + c * c * xx * yy)


def distance(x: Tensor, y: Tensor, c: float) -> Tensor:
    """By its definition with the inverse of cosh."""
    gaps = (1 - c * x.square().sum(-1)) * (1 - c * y.square().sum(-1))
    return (1 + 2 * c * (x - y).square().sum(-1) / gaps).acosh() / math.sqrt(c)


@pytest.mark.parametrize("c", CURVATURES)
def test_maps_are_those_of_the_paper(c: float) -> None:
    mean, z = points(200, 3, c, 4.0), points(200, 3, c, 4.0).flip(0)
    v = log_at(mean, z, c)
    torch.testing.assert_close(v.norm(dim=1), distance(mean, z, c), rtol=1e-9, atol=1e-9)
    w = moebius(-mean, z, c)
    expected = 2 / math.sqrt(c) * (math.sqrt(c) * w.norm(dim=1)).atanh().unsqueeze(1) * w / w.norm(dim=1, keepdim=True)
    torch.testing.assert_close(v, expected, rtol=1e-7, atol=1e-9)
    y = (math.sqrt(c) * v.norm(dim=1, keepdim=True) / 2).tanh() * v / (math.sqrt(c) * v.norm(dim=1, keepdim=True))
    torch.testing.assert_close(exp_at(mean, v, c), moebius(mean, y, c), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(exp_at(torch.zeros_like(v), v, c), origin_exp(v, c))
    torch.testing.assert_close(log_at(torch.zeros_like(z), z, c), origin_log(z, c))


@pytest.mark.parametrize("c", CURVATURES)
def test_exp_and_log_are_inverse(c: float) -> None:
    """Also far out, where coordinates hardly differ."""
    mean, v = points(300, 4, c, 9.0), origin_log(points(300, 4, c, 9.0), c).flip(0)
    z = exp_at(mean, v, c)
    assert (c * z.square().sum(dim=1) < 1).all()
    torch.testing.assert_close(log_at(mean, z, c), v, rtol=1e-6, atol=1e-6 / math.sqrt(c))
    torch.testing.assert_close(origin_log(origin_exp(v, c), c), v, rtol=1e-8, atol=1e-12)
    for tiny in (0.0, 1e-12, 1e-7, 1e-3):  # near the mean itself
        step = torch.full_like(mean[:20], tiny / math.sqrt(c))
        near = points(20, 4, c, 3.0)
        torch.testing.assert_close(log_at(near, exp_at(near, step, c), c), step, rtol=1e-5, atol=1e-13 / math.sqrt(c))


def test_the_logarithm_of_sinh() -> None:
    x = tensor(0.0, 1e-9, 1e-4, 0.01, 0.0499999, 0.05, 0.3, 2.0, 40.0, 900.0)
    with mpmath.workdps(50):
        expected = [float(mpmath.log(mpmath.sinh(v) / v)) if v else 0.0 for v in map(mpmath.mpf, x.tolist())]
    torch.testing.assert_close(log_sinhc(x), tensor(*expected), rtol=1e-12, atol=1e-15)


def wrapped(c: float, scale: float = 1.0) -> Wrapped:
    return Wrapped(origin_exp(tensor([0.9, -0.4]), c), tensor([-0.6, 0.4]) + 2 * math.log(scale), c)


def grid(c: float, n: int = 900, reach: float = 16.0) -> tuple[Tensor, Tensor]:
    """Points of the disc in polar coordinates, and the volume lambda^2 dx dy of each, from its coordinates alone."""
    rho = torch.linspace(0, reach, n + 1, dtype=torch.float64)
    rho = ((rho[1:] + rho[:-1]) / 2).unsqueeze(1)
    edges = (math.sqrt(c) * torch.linspace(0, reach, n + 1, dtype=torch.float64) / 2).tanh() / math.sqrt(c)
    radius = (math.sqrt(c) * rho / 2).tanh() / math.sqrt(c)
    angle = torch.arange(n, dtype=torch.float64) * 2 * math.pi / n
    z = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
    euclidean = radius * (edges[1:] - edges[:-1]).unsqueeze(1) * 2 * math.pi / n
    return z.view(-1, 2), ((2 / (1 - c * radius.square())).square() * euclidean).expand(n, n).reshape(-1)


@pytest.mark.parametrize("c", [0.05, 1.0, 2.0])
def test_densities_integrate_to_one(c: float) -> None:
    z, volume = grid(c)
    model = PoincareVAE((4,), 2, curvature=c, prior_scale=0.8)
    for log in (wrapped(c).log_prob(z.unsqueeze(0))[0], model.prior.log_prob(model, z)):
        assert float((log.exp() * volume).sum()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("c", [0.05, 1.0, 2.0])
@torch.no_grad()
def test_the_divergence_is_the_integral(c: float) -> None:
    model, (z, volume) = PoincareVAE((4,), 2, curvature=c), grid(c)
    q = wrapped(c)
    log_q = q.log_prob(z.unsqueeze(0))[0]
    expected = float((log_q.exp() * (log_q - model.prior.log_prob(model, z)) * volume).sum())
    n = 100_000
    many = Wrapped(q.mean.expand(n, 2), q.log_variance.expand(n, 2), c)
    drawn = model.prior.kl(model, many, *model.prior.draw_for_kl(model.posterior, many, Noise(0, "a")))
    error = 5 * float(drawn.std()) / math.sqrt(n)
    assert abs(float(drawn.mean()) - expected) < error + 2e-3
    assert error < 0.05


@pytest.mark.parametrize("c", CURVATURES)
def test_a_draw_knows_its_density(c: float) -> None:
    generator = torch.Generator().manual_seed(1)
    mean = points(6, 5, c, 5.0)
    q = Wrapped(mean, torch.randn(6, 5, generator=generator, dtype=torch.float64), c)
    z, log = q.draw_with_log_prob(Noise(1, "a"), 50)
    assert (z.shape, log.shape) == ((6, 50, 5), (6, 50))
    torch.testing.assert_close(q.log_prob(z), log, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(q.log_prob(z[:, 7]), log[:, 7], rtol=1e-6, atol=1e-6)


def test_without_curvature_it_is_the_gaussian_of_twice_the_code() -> None:
    c, log_variance = 1e-10, tensor(-0.6, 0.4, 0.1)
    mean = tensor(0.3, -1.0, 2.0)
    q = WrappedNormal(c)(torch.cat([mean, log_variance]).unsqueeze(0))
    assert isinstance(q, Wrapped)
    torch.testing.assert_close(2 * q.mean[0], mean, rtol=1e-8, atol=1e-8)
    expected = distributions.Independent(distributions.Normal(mean, (log_variance / 2).exp()), 1)
    z = torch.randn(1, 40, 3, dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(z), expected.log_prob(2 * z), rtol=1e-7, atol=1e-7)
    noise = Noise(1, "a").randn_like(torch.zeros(1, 9, 3, dtype=torch.float64))
    torch.testing.assert_close(2 * q.draw(Noise(1, "a"), 9), mean + (log_variance / 2).exp() * noise, rtol=1e-7, atol=0)


@pytest.mark.parametrize("c", [0.2, 1.0])
def test_gradients_are_the_numerical_ones(c: float) -> None:
    """Of densities, draws and what the decoder sees, at the origin, the mean and far from them."""
    posterior, model = WrappedNormal(c), PoincareVAE((4,), 3, curvature=c)
    output = tensor([0.5, -0.2, 1.0, 0.3, -0.5, 0.1], [3.0, 4.0, -2.0, -1.0, 0.5, 0.2]).requires_grad_()
    z = tensor([0.1, -0.2, 0.05], [0.4, 0.5, -0.3]).requires_grad_()
    at_mean = posterior(output).mean.detach()

    def density(output: Tensor, z: Tensor) -> Tensor:
        return posterior(output).log_prob(z)

    def drawn(output: Tensor) -> Tensor:
        z, log = posterior(output).draw_with_log_prob(Noise(1, "a"))
        return log - model.prior.log_prob(model, z) + posterior.unfold(z).sum(dim=1)

    assert torch.autograd.gradcheck(density, (output, z))
    assert torch.autograd.gradcheck(drawn, (output,))
    assert torch.autograd.gradcheck(lambda z: model.prior.log_prob(model, z), (z,))
    near = (at_mean + 1e-5).requires_grad_()
    assert torch.autograd.gradcheck(density, (output, near), eps=1e-9, atol=1e-3, rtol=1e-3)
    for at in (at_mean, torch.zeros_like(z)):
        at = at.clone().requires_grad_()
        found = torch.autograd.grad(density(output, at).sum() + model.prior.log_prob(model, at).sum(), (output, at))
        assert all(value.isfinite().all() for value in found)


def test_extreme_outputs_stay_finite() -> None:
    output = torch.tensor([[1e8, 2.0, 1e8, 1e8], [3.0, -1e8, -1e8, -1e8], [0.0, 0.0, 0.0, 0.0]]).requires_grad_()
    model = PoincareVAE((4,), 2)
    q = model.posterior(output)
    z, log = q.draw_with_log_prob(Noise(1, "a"), 20)
    kl = log - model.prior.log_prob(model, z)
    (kl.sum() + q.log_prob(z.float()).sum() + model.posterior.unfold(z.flatten(0, 1)).sum()).backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()
    edge = torch.tensor([[1.0, 0.0], [0.0, -1.0]])  # what float32 makes of codes far out
    assert model.prior.log_prob(model, edge).isfinite().all()
    assert model.decode(edge).isfinite().all()


def test_a_model_in_the_ball() -> None:
    torch.manual_seed(0)
    x = torch.rand(6, 1, 8, 8).round()
    options: dict[str, Any] = {"architecture": MLP((8,)), "likelihood": Bernoulli()}
    model = PoincareVAE((1, 8, 8), 5, curvature=2.0, **options)
    for z in (model.encode(x), model.draw(x), model.prior.sample(model, 500, Noise(1, "a"))):
        assert (2.0 * z.square().sum(dim=1) < 1).all()
    torch.testing.assert_close(
        model.decoder_parameters(z := model.draw(x)),
        model.parameters_of(model.decoder(origin_log(z.double(), 2.0).float())),
    )
    pair: dict[str, Any] = {"prior": CentredWrappedNormal(), "posterior": WrappedNormal()}
    joint = JointPosterior((WrappedNormal(), DiagonalGaussian()), (2,))
    for other in (
        PoincareVAE((1, 8, 8), 5, objective=IWAEObjective(3, "dreg"), **options),
        VAE((1, 8, 8), 5, posterior=WrappedNormal(), prior=VampPrior(4), **options),
        VAE((1, 8, 8), 5, posterior=joint, prior=JointPrior((CentredWrappedNormal(), StandardNormal())), **options),
    ):
        other.loss(x, x)["loss"].backward()
        assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in other.parameters())
        assert other.sample(3).shape == (3, 1, 8, 8)
    labelled = ConditionalVAE((1, 8, 8), 5, **pair, **options)
    labels = torch.arange(6)
    code = labelled.encode(x, label=labels)
    seen = torch.cat([origin_log(code.double(), 1.0).float(), torch.eye(10)[labels]], dim=1)
    expected = labelled.parameters_of(labelled.decoder(seen))
    torch.testing.assert_close(labelled.decoder_parameters(code, label=labels), expected)


def test_low_precision(digits: Tensor, fit: Any) -> None:
    model = PoincareVAE((1, 8, 8), 4, architecture=MLP((8,))).bfloat16()
    fit(model, digits[:128].bfloat16())
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert (model.encode(digits[:9].bfloat16()).float().square().sum(dim=1) <= 1).all()
    fit(PoincareVAE((1, 8, 8), 4, architecture=MLP((8,))), digits[:128], precision="bf16-mixed")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"curvature": 0.0}, "curvature of WrappedNormal"),
        ({"curvature": -1.0}, "curvature of WrappedNormal"),
        ({"curvature": math.nan}, "curvature of WrappedNormal"),
        ({"curvature": 30.0, "latent_dim": 4}, "curvature of at most 25"),
        ({"prior_scale": 0.0}, "scale of CentredWrappedNormal"),
        ({"prior_scale": 20.0}, "scale of at most"),
        ({"architecture": ConvNet((4, 8), code="map")}, "maps or tokens"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PoincareVAE((1, 8, 8), **options)


def test_pairs_that_cannot_work_are_refused() -> None:
    with pytest.raises(InputError, match="CentredWrappedNormal"):
        VAE((4,), posterior=WrappedNormal())
    with pytest.raises(InputError, match="WrappedNormal"):
        VAE((4,), prior=CentredWrappedNormal())
