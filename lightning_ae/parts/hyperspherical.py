"""Codes on the unit sphere: the von Mises-Fisher posterior and the uniform prior (Davidson et al. 2018).

Bessel functions are computed in float64, whatever the type of the output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_ae.errors import InputError
from lightning_ae.exact import Noise
from lightning_ae.parts.likelihoods import at_least_float32
from lightning_ae.parts.moves import Geometry, slerp
from lightning_ae.parts.posteriors import Distribution, Posterior
from lightning_ae.parts.priors import Prior, VampPrior, posterior_for

if TYPE_CHECKING:
    from lightning_ae.autoencoder import Autoencoder
    from lightning_ae.models.vae import VAE

TERMS = 12
"""Of the uniform expansions of Bessel functions."""
LOWEST_ORDER = 30.0
"""From which order on those expansions have the precision of float64; below, the recurrence leads down from there."""
PANELS, NODES = 32, 4
"""Of the quadrature by which a draw's angle is found."""
HALF_WINDOW = 14.0
"""How many widths around the angle's mode the quadrature covers: beyond lies less than the rounding of float64."""
NEWTON = 10
"""Steps of Newton's method, each within the panel that holds the angle."""
MAX_KAPPA = 1e5
"""The largest concentration; the gradient passes where it is cut."""


def bessel(dimensions: int, kappa: Tensor) -> tuple[Tensor, Tensor]:
    r"""The mean resultant length and the logarithm of the normaliser of a von Mises-Fisher distribution.

    With :math:`\nu = m / 2 - 1`,

    .. math:: A(\kappa) = \frac{I_{\nu + 1}(\kappa)}{I_\nu(\kappa)}, \qquad
        \log F(\kappa) = \log \frac{\Gamma(\nu + 1)\, I_\nu(\kappa)}{(\kappa / 2)^\nu} = \int_0^\kappa A(t)\, dt,

    F being :math:`\mathbb E\, e^{\kappa w}` of one coordinate w of a uniform draw from the sphere. At the order
    :math:`\mu = \nu + N \ge 30` both follow from Debye's expansions in :math:`p = \mu / t`,
    :math:`t = \sqrt{\mu^2 + \kappa^2}` (DLMF 10.41.3 and 10.41.5), which hold uniformly for all kappa > 0; from there
    down :math:`A_{j} = \kappa / (2 (j + 1) + \kappa A_{j+1})` and
    :math:`F_j / F_{j+1} = 1 + \kappa A_{j+1} / (2 (j + 1))`, sums of positive terms, in which nothing cancels.
    Gradients of any order are those of these operations.

    Args:
        dimensions: m, of the space around the sphere.
        kappa: concentrations > 0, of any shape.

    Returns:
        A and log F in float64, in the shape of kappa.
    """
    kappa = kappa.double()
    order = dimensions / 2 - 1
    steps = max(0, math.ceil(LOWEST_ORDER - order))
    top = order + steps
    u, w = _debye(top)
    t = (kappa.square() + top**2).sqrt()
    p, beyond = top / t, kappa.square() / (t + top)  # beyond is t - top, without its cancellation
    series = _polynomial(u, p)
    ratio = kappa * (1 / (t + top) - _polynomial(w, p) / (series * t.square()))
    log = beyond - top * (beyond / (2 * top)).log1p() - 0.5 * (beyond / top).log1p()
    log = log + (series / sum(u)).log()
    for step in reversed(range(steps)):
        twice = 2 * (order + step + 1)
        log = log + (kappa * ratio / twice).log1p()
        ratio = kappa / (twice + kappa * ratio)
    return ratio, log


@cache
def _debye(order: float) -> tuple[list[float], list[float]]:
    r"""The sums over k of :math:`u_k(p) / \mu^k` and :math:`(u_k(p) / 2 + p u_k'(p)) / \mu^k`, as polynomials in p.

    The second is what the ratio takes: since :math:`v_{k+1} = u_{k+1} - p (1 - p^2) (u_k / 2 + p u_k')`, the difference
    of the two expansions has the factor :math:`1 - p^2 = \kappa^2 / t^2`.
    """
    polynomials = [[Fraction(1)]]
    for _ in range(TERMS):
        last = polynomials[-1]
        following = [Fraction(0)] * (len(last) + 3)
        for power, value in enumerate(last):  # DLMF 10.41.9
            following[power + 1] += value * (Fraction(power, 2) + Fraction(1, 8 * (power + 1)))
            following[power + 3] -= value * (Fraction(power, 2) + Fraction(5, 8 * (power + 3)))
        polynomials.append(following)
    u, w = ([0.0] * len(polynomials[-1]) for _ in range(2))
    for k, polynomial in enumerate(polynomials):
        for power, value in enumerate(polynomial):
            u[power] += float(value) / order**k
            w[power] += float(value * (Fraction(1, 2) + power)) / order**k
    return u, w


def _polynomial(coefficients: Sequence[float], p: Tensor) -> Tensor:
    value = torch.full_like(p, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * p + coefficient
    return value


def log_sphere(dimensions: int) -> float:
    """The logarithm of the surface of the unit sphere in so many dimensions."""
    return math.log(2) + dimensions / 2 * math.log(math.pi) - math.lgamma(dimensions / 2)


def draw_angle(dimensions: int, kappa: Tensor, uniform: Tensor) -> Tensor:
    r"""The angle between a draw and the mean direction, by inverting its distribution function.

    .. math:: f(\theta) \propto e^{\kappa \cos \theta} \sin^{m-2} \theta, \qquad \theta \in [0, \pi]

    The function F is integrated by Gauss-Legendre quadrature, its inverse found by Newton's method. The gradient is
    that of the implicit function, :math:`d\theta / d\kappa = -\partial_\kappa F / f`, with
    :math:`\partial_\kappa F = \int_0^\theta (\cos s - \mathbb E \cos)\, f(s)\, ds`. It takes one uniform number for a
    draw, where rejection takes an unknown number, and its gradient needs no score function to correct it.

    Args:
        dimensions: m.
        kappa: concentrations, (B,).
        uniform: in [0, 1), (B, n).

    Returns:
        (B, n), in float64.
    """
    m, x, weights = dimensions, *_gauss(uniform.device)
    with torch.no_grad():
        k = kappa.double().unsqueeze(-1)
        cos = 2 * k / (m - 2 + (float(m - 2) ** 2 + 4 * k.square()).sqrt())  # of the mode
        mode = torch.atan2((1 - cos.square()).sqrt(), cos) if m > 2 else torch.zeros_like(k)
        curvature = k * cos + ((m - 2) / mode.sin().square() if m > 2 else 0.0)
        half = HALF_WINDOW * curvature.rsqrt()
        low, high = (mode - half).clamp(min=0), (mode + half).clamp(max=math.pi)
        height = (high - low) / PANELS

        def at(theta: Tensor) -> tuple[Tensor, Tensor]:
            """The density, 1 at the mode, and cos(theta) less that of the mode; (B, ...)."""
            shape = (-1, *[1] * (theta.ndim - 1))
            middle = mode.view(shape)
            # as a product, which keeps its digits where kappa is large
            deviation = -2 * ((theta + middle) / 2).sin() * ((theta - middle) / 2).sin()
            exponent = k.view(shape) * deviation
            if m > 2:
                exponent = exponent + (m - 2) * (theta.sin() / middle.sin()).log()
            return exponent.exp(), deviation

        edges = low + height * torch.arange(PANELS, device=k.device)
        density, deviation = at(edges.unsqueeze(-1) + height.unsqueeze(-1) * x)  # (B, panels, nodes)
        values = density * height.unsqueeze(-1) * weights
        panels, total = values.sum(dim=-1), values.sum(dim=(1, 2)).unsqueeze(-1)
        mean = (values * deviation).sum(dim=(1, 2)).unsqueeze(-1) / total
        moments = (values * (deviation - mean.unsqueeze(-1))).sum(dim=-1)
        below, before = (each.cumsum(dim=-1) - each for each in (panels, moments))  # of the panels to the left
        wanted = uniform.double() * total
        # the last panel that begins no later: a comparison, which graphs have, of few panels
        place = (below.unsqueeze(1) <= wanted.unsqueeze(2)).sum(dim=2).sub(1).clamp(min=0)
        start, rest = edges.gather(-1, place), wanted - below.gather(-1, place)
        part = (rest / panels.gather(-1, place)).clamp(0, 1)
        # near the pole the function is a power of the angle
        theta = start + height * torch.where((place == 0) & (low == 0), part ** (1 / (m - 1)), part)
        for _ in range(NEWTON):
            width = (theta - start).unsqueeze(-1)
            inside = (at(start.unsqueeze(-1) + width * x)[0] * width * weights).sum(dim=-1)
            step = (inside - rest) / at(theta)[0].clamp(min=torch.finfo(torch.float64).tiny)
            theta = torch.minimum(torch.maximum(theta - step, start), start + height)
        width = (theta - start).unsqueeze(-1)
        density, deviation = at(start.unsqueeze(-1) + width * x)
        within = (density * width * weights * (deviation - mean.unsqueeze(-1))).sum(dim=-1)
        moment = before.gather(-1, place) + within
        slope = -moment / at(theta)[0].clamp(min=torch.finfo(torch.float64).tiny)
        # at the pole itself, where there is no density, the angle does not move
        slope = torch.where(theta > 0, slope, 0.0)
    return theta + slope * (kappa.double() - kappa.double().detach()).unsqueeze(-1)


def _gauss(device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss-Legendre quadrature over [0, 1]."""
    x, weights = np.polynomial.legendre.leggauss(NODES)
    return torch.from_numpy((x + 1) / 2).to(device), torch.from_numpy(weights / 2).to(device)


class OnSphere(Distribution):
    r"""Von Mises-Fisher distributions, :math:`q(z) \propto e^{\kappa \mu \cdot z}` over the sphere's surface.

    Args:
        mean: the mean directions, of length 1, (B, m).
        kappa: the concentrations > 0, (B,).
    """

    def __init__(self, mean: Tensor, kappa: Tensor) -> None:
        self.mean, self.kappa = mean, kappa

    def draw(self, noise: Noise, n: int | None = None) -> Tensor:
        """cos(theta) mu + sin(theta) v, v uniform at right angles to mu, by a Householder reflection."""
        mean, uniform = self.mean, self.kappa.detach().double()
        if n is not None:
            mean, uniform = mean.unsqueeze(1).expand(-1, n, -1), uniform.unsqueeze(1).expand(-1, n)
        uniform = noise.rand_like(uniform)
        theta = draw_angle(mean.shape[-1], self.kappa, uniform.reshape(mean.shape[0], -1))
        theta = theta.view(uniform.shape).to(mean.dtype)
        around = F.normalize(noise.randn_like(mean[..., 1:]), dim=-1)
        pole = torch.cat([theta.cos().unsqueeze(-1), theta.sin().unsqueeze(-1) * around], dim=-1)
        # the reflection that takes the pole to -mu or mu, whichever is farther, so that its axis is never short
        sign = torch.where(mean[..., :1] < 0, -1.0, 1.0).to(mean.dtype)
        axis = torch.cat([mean[..., :1] + sign, mean[..., 1:]], dim=-1)
        along = (axis * pole).sum(dim=-1, keepdim=True) / axis.square().sum(dim=-1, keepdim=True)
        return -sign * (pole - 2 * along * axis)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z | x) in nats, of codes on the sphere: (B, m) to (B,), (B, n, m) to (B, n)."""
        mean, kappa, m = self.mean, self.kappa, self.mean.shape[-1]
        log = bessel(m, kappa)[1]
        if z.ndim > mean.ndim:
            mean, kappa, log = mean.unsqueeze(1), kappa.unsqueeze(1), log.unsqueeze(1)
        along = (z.double() * mean.double()).sum(dim=-1)
        return (kappa * along - log - log_sphere(m)).to(mean.dtype)

    def kl(self) -> Tensor:
        r"""The divergence from the uniform distribution in nats, :math:`\kappa A(\kappa) - \log F(\kappa)`: (B,)."""
        ratio, log = bessel(self.mean.shape[-1], self.kappa)
        return (self.kappa * ratio - log).to(self.mean.dtype)

    def detach(self) -> OnSphere:
        """The same, without gradients to direction and concentration."""
        return OnSphere(self.mean.detach(), self.kappa.detach())


@dataclass(frozen=True)
class VonMisesFisher(Posterior):
    r"""q(z | x) on the unit sphere in `latent_dim` dimensions, m (Davidson et al. 2018, equation 2).

    .. math:: q(z \mid x) = \frac{\kappa^\nu}{(2\pi)^{m/2} I_\nu(\kappa)}\, e^{\kappa\, \mu(x) \cdot z},
        \qquad \nu = \frac m2 - 1

    The encoder gives a direction, which is brought to length 1, and one number v more, of which the concentration is
    :math:`\kappa(x) = \kappa_0 + \mathrm{softplus}(v)`, at most 1e5; the gradient passes. Densities are with respect to
    the sphere's surface. What stands for the mean, and is what `encode` gives, is the mean direction: the decoder knows
    no codes but those on the sphere. Codes are vectors of two values or more.

    Args:
        floor: kappa_0 > 0, the least concentration; the paper's code has 1.
    """

    geometry: ClassVar[Geometry] = "curved"

    floor: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.floor < MAX_KAPPA:
            raise InputError(
                f"floor of VonMisesFisher, a concentration, must lie in (0, {MAX_KAPPA:g}), got {self.floor}"
            )

    def values(self, units: int) -> int:
        """The direction and the concentration."""
        return units + 1

    def check(self, model: VAE) -> None:
        """Raises InputError for a code that is no vector of two values or more, and for a prior off the sphere."""
        shape = model.code_shape
        if len(shape) != 1:
            raise InputError(
                f"VonMisesFisher takes codes that are vectors, got maps or tokens of shape {shape}",
                "use an architecture that gives vectors, or the posterior DiagonalGaussian()",
            )
        if shape[0] < 2:
            raise InputError(
                "VonMisesFisher takes codes of two values or more, got latent_dim=1, whose sphere is two points",
                "give latent_dim=2 or more",
            )
        if not isinstance(model.prior, UniformOnSphere | VampPrior):
            raise InputError(
                f"VonMisesFisher is a distribution on the sphere, {type(model.prior).__name__} one around it",
                "use the prior UniformOnSphere() or VampPrior()",
            )

    def __call__(self, output: Tensor, weights: nn.Module | None = None) -> OnSphere:
        """(B, m + 1) to the distributions."""
        values = at_least_float32(output)
        direction, concentration = values[:, :-1], F.softplus(values[:, -1]) + self.floor
        bounded = concentration + (concentration.clamp(max=MAX_KAPPA) - concentration).detach()
        return OnSphere(F.normalize(direction, dim=1), bounded)

    def from_coordinates(self, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Vectors (B, m) brought to length 1: a density is fitted to codes as points of the space around the sphere."""
        return F.normalize(values, dim=1)

    def between(self, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        """Codes (B, m) on the great circle from a to b, at the places t in [0, 1], (B,)."""
        return slerp(a, b, t)

    def move(self, z: Tensor, feature: int, by: Tensor) -> Tensor:
        """Codes (B, m) turned by the angle `by` (B,) along the great circle to the pole of a feature."""
        wide, m = at_least_float32(z), z.shape[1]
        poles = torch.eye(m, dtype=wide.dtype, device=z.device)
        pole, other = poles[feature], poles[(feature + 1) % m]
        there = wide[:, feature : feature + 1].abs() > 1 - 1e-6  # at a pole all circles lead to the other
        along = torch.where(there, other, pole)
        tangent = F.normalize(along - (along * wide).sum(dim=1, keepdim=True) * wide, dim=1)
        angle = by.to(wide).unsqueeze(1)
        return F.normalize(angle.cos() * wide + angle.sin() * tangent, dim=1).to(z.dtype)


@dataclass(frozen=True)
class UniformOnSphere(Prior):
    """The uniform distribution on the unit sphere, of density one over its surface."""

    def check(self, model: Autoencoder) -> None:
        """Raises InputError where the posterior is none on the sphere."""
        if hasattr(model, "posterior"):  # a critic leads any code there
            posterior_for(self, model, VonMisesFisher, "on the sphere")

    def closed_form(self, posterior: Posterior) -> bool:
        """Of a von Mises-Fisher distribution."""
        return isinstance(posterior, VonMisesFisher)

    def log_prob(self, model: Autoencoder, z: Tensor) -> Tensor:
        """log p(z) in nats, of codes on the sphere: (..., m) to (...)."""
        return torch.full_like(z[..., 0], -log_sphere(z.shape[-1]))

    def kl(self, model: Autoencoder, q: Distribution, z: Tensor, log_q: Tensor | None = None) -> Tensor:
        """In closed form: (B,)."""
        return q.kl() if isinstance(q, OnSphere) else super().kl(model, q, z, log_q)

    def sample(self, model: Autoencoder, n: int, noise: Noise) -> Tensor:
        """`n` draws, (n, m)."""
        return F.normalize(noise.randn_like(at_least_float32(model.zeros(n))), dim=1)
