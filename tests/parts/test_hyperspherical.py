"""Codes on the sphere against scipy, closed forms and numerical derivatives."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate, special

from lightning_ae import VAE, HypersphericalVAE, InputError
from lightning_ae.architectures import ConvNet
from lightning_ae.exact import Noise
from lightning_ae.parts import MixturePrior, StandardNormal, UniformOnSphere, VonMisesFisher
from lightning_ae.parts.hyperspherical import OnSphere, bessel, draw_angle, log_sphere

DIMENSIONS = (2, 3, 4, 10, 33, 128, 512)
KAPPAS = (1e-3, 0.1, 1.0, 7.0, 50.0, 1e3, 1e4, 1e5)


def tensor(*values: float, grad: bool = False) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def oracle(m: int, kappa: float) -> tuple[float, float, float]:
    """A, its derivative and log F in sixty digits; scipy's scaled functions underflow in many dimensions."""
    with mpmath.workdps(60):
        order, k = mpmath.mpf(m) / 2 - 1, mpmath.mpf(kappa)
        below = mpmath.besseli(order, k)
        ratio = mpmath.besseli(order + 1, k) / below
        log = mpmath.log(below) + mpmath.loggamma(order + 1) - order * mpmath.log(k / 2)
        return float(ratio), float(1 - ratio**2 - (m - 1) / k * ratio), float(log)


@pytest.mark.parametrize("m", DIMENSIONS)
def test_bessel_functions_and_the_divergence(m: int) -> None:
    kappa = tensor(*KAPPAS, grad=True)
    ratio, log = bessel(m, kappa)
    (slope,) = torch.autograd.grad(ratio.sum(), kappa, retain_graph=True)
    kl = OnSphere(torch.eye(m).double()[:1].expand(len(kappa), m), kappa).kl()
    (gradient,) = torch.autograd.grad(kl.sum(), kappa)
    expected = np.array([oracle(m, value) for value in KAPPAS]).T
    np.testing.assert_allclose(ratio.detach(), expected[0], rtol=1e-14)
    np.testing.assert_allclose(slope, expected[1], rtol=1e-9)  # near 1e-10 of size at the largest kappa
    np.testing.assert_allclose(log.detach(), expected[2], rtol=1e-12, atol=1e-15)
    # a difference of numbers of the size of kappa: the rounding of 1e5 is 1.5e-11
    np.testing.assert_allclose(kl.detach(), KAPPAS * expected[0] - expected[2], rtol=1e-11, atol=1e-15)
    np.testing.assert_allclose(gradient, KAPPAS * expected[1], rtol=1e-9)


def test_ratio_is_that_of_scipy() -> None:
    for m in (2, 3, 10, 33):
        for kappa in (1.0, 50.0, 1e5):
            expected = special.ive(m / 2, kappa) / special.ive(m / 2 - 1, kappa)
            assert bessel(m, tensor(kappa))[0].item() == pytest.approx(expected, rel=1e-11)


def test_divergence_is_the_integral_over_the_angle() -> None:
    for m, kappa in ((2, 3.0), (3, 0.5), (8, 40.0)):

        def density(theta: float, m: int = m, kappa: float = kappa) -> float:
            log = kappa * math.cos(theta) - bessel(m, tensor(kappa))[1].item() - log_sphere(m) + log_sphere(m - 1)
            return math.exp(log) * math.sin(theta) ** (m - 2)

        def gain(theta: float, m: int = m, kappa: float = kappa) -> float:
            return kappa * math.cos(theta) - bessel(m, tensor(kappa))[1].item()

        assert integrate.quad(density, 0, math.pi)[0] == pytest.approx(1, rel=1e-8)
        expected = integrate.quad(lambda t, f=density, g=gain: f(t) * g(t), 0, math.pi)[0]
        q = OnSphere(torch.eye(m).double()[:1], tensor(kappa))
        assert q.kl().item() == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("m", [2, 3, 20, 512])
@pytest.mark.parametrize("kappa", [1e-3, 1.0, 30.0, 1e5])
def test_angles_follow_their_distribution_function(m: int, kappa: float) -> None:
    levels = tensor(1e-6, 0.01, 0.3, 0.5, 0.9, 0.999)
    concentration = torch.full_like(levels, kappa, requires_grad=True)
    theta = draw_angle(m, concentration, levels.unsqueeze(1)).squeeze(1)
    (slope,) = torch.autograd.grad(theta.sum(), concentration)
    mode = math.acos(2 * kappa / (m - 2 + math.hypot(m - 2, 2 * kappa))) if m > 2 else 0.0

    def density(t: float) -> float:
        sine = (m - 2) * math.log(math.sin(t) / math.sin(mode)) if m > 2 else 0.0
        return math.exp(-2 * kappa * math.sin((t + mode) / 2) * math.sin((t - mode) / 2) + sine)

    width = 1 / math.sqrt(kappa * math.cos(mode) + ((m - 2) / math.sin(mode) ** 2 if m > 2 else 0.0))
    low, high = max(1e-12, mode - 12 * width), min(math.pi - 1e-12, mode + 12 * width)
    total = sum(
        integrate.quad(density, *ends, epsabs=0)[0]
        for ends in ((low, max(low, mode + width)), (max(low, mode + width), high))
    )
    for level, angle in zip(levels.tolist(), theta.tolist(), strict=True):
        below = integrate.quad(density, low, angle, epsabs=0, limit=200)[0] / total
        assert below == pytest.approx(level, abs=1e-8)  # the resolution of a float32 is 6e-8
    step = 1e-4 * kappa
    with torch.no_grad():
        ends = [draw_angle(m, concentration + by, levels.unsqueeze(1)).squeeze(1) for by in (step, -step)]
    numerical = (ends[0] - ends[1]) / (2 * step)
    torch.testing.assert_close(slope, numerical, rtol=1e-5, atol=1e-4 * float(numerical.abs().max()))


@pytest.mark.parametrize("m", [2, 3, 12])
def test_draws_lie_on_the_sphere_around_the_mean(m: int) -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.nn.functional.normalize(torch.randn(4, m, generator=generator, dtype=torch.float64), dim=1)
    kappa, n = tensor(0.5, 4.0, 60.0, 2e3), 20_000
    z = OnSphere(mean, kappa).draw(Noise(1, "a"), n)
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(4, n).double())
    expected = bessel(m, kappa)[0].unsqueeze(1) * mean
    assert (z.mean(dim=1) - expected).abs().max() < 5 / math.sqrt(n)  # five standard errors, at most one each
    along = (z * mean.unsqueeze(1)).sum(dim=-1)
    error = 5 * along.std(dim=1) / math.sqrt(n)
    assert ((along.mean(dim=1) - bessel(m, kappa)[0]).abs() < error).all()


def test_gradient_of_an_expectation() -> None:
    """E z = A(kappa) mu, so the gradient of a . E z with respect to both is known."""
    mean, kappa = tensor(0.6, -0.8, 0.0, grad=True), tensor(3.0, grad=True)
    n, along = 40_000, tensor(0.3, 1.0, -0.5)
    z = OnSphere(mean.unsqueeze(0), kappa).draw(Noise(2, "a"), n)
    by_mean, by_kappa = torch.autograd.grad((z @ along).mean(), (mean, kappa))
    tangent = torch.eye(3).double() - torch.outer(mean.detach(), mean.detach())  # the mean stays on the sphere
    length, step = bessel(3, kappa.detach())[0], 1e-4
    slope = (oracle(3, 3 + step)[0] - oracle(3, 3 - step)[0]) / (2 * step)
    torch.testing.assert_close(tangent @ by_mean, tangent @ along * length, atol=0.02, rtol=0)
    torch.testing.assert_close(by_kappa, slope * (along @ mean.detach()).unsqueeze(0), atol=0.005, rtol=0)


def test_density_is_none_of_a_pole() -> None:
    """The reflection is exact where the mean is a pole, on either side."""
    for pole in (1.0, -1.0):
        z = OnSphere(tensor(pole, 0.0, 0.0).unsqueeze(0), tensor(1e5)).draw(Noise(1, "a"), 50)
        assert (z[..., 0] * pole > 0.999).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 1}, "latent_dim=1"),
        ({"floor": 0.0}, "floor"),
        ({"floor": -1.0}, "floor"),
        ({"floor": math.nan}, "floor"),
        ({"architecture": ConvNet(channels=(4, 8), code="map")}, "maps or tokens"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        HypersphericalVAE((1, 8, 8), **options)


def test_pairs_that_cannot_work_are_refused() -> None:
    for prior in (StandardNormal(), MixturePrior()):
        with pytest.raises(InputError, match="UniformOnSphere"):
            VAE((4,), posterior=VonMisesFisher(), prior=prior)
    with pytest.raises(InputError, match="VonMisesFisher"):
        VAE((4,), prior=UniformOnSphere())


def test_extreme_outputs_stay_finite() -> None:
    output = torch.tensor([[1.0, 2.0, 1e8], [3.0, -1.0, -1e8]]).requires_grad_()
    q = VonMisesFisher()(output)
    assert q.kappa.tolist() == [1e5, 1.0]
    (q.kl().sum() + q.draw(Noise(1, "a")).sum()).backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()
