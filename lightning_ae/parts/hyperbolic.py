"""Codes in the Poincare ball: the wrapped normal posterior and prior (Mathieu et al. 2019).

All is computed in float64, whatever the type of the output: in float32 the ball's boundary begins at a distance of 17.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from lightning_ae.errors import InputError
from lightning_ae.exact import Noise
from lightning_ae.parts.likelihoods import at_least_float32
from lightning_ae.parts.moves import Geometry, Way, add, along, each_by_itself
from lightning_ae.parts.posteriors import Distribution, Posterior, bounded
from lightning_ae.parts.priors import Prior, VampPrior, posterior_for

if TYPE_CHECKING:
    from lightning_ae.autoencoder import Autoencoder
    from lightning_ae.models.vae import VAE

FARTHEST = 30.0
"""Distances from the origin beyond that, in units of 1 / sqrt(c), are taken for it: there float64 ends."""
MEANS = 10.0
"""Posteriors' means are no farther, in the same units; the gradient passes."""
WIDEST = 5.0
"""No scale is larger, in the same units; the gradient passes."""
LARGEST = 100.0
"""The most that c times the dimensions may be: draws of a standard wrapped normal lie at about sqrt(d)."""
SMALL = 1e-16
"""Squares below have no gradient, of functions whose slope there is their own size."""


def origin_exp(u: Tensor, c: float) -> Tensor:
    r"""The point of the ball at the distance |u| from the origin in the direction of u: (..., d) to (..., d).

    .. math:: \tanh(\sqrt c\, |u| / 2)\, \frac{u}{\sqrt c\, |u|}

    It is the exponential map at the origin of u / 2, of the length |u| under the metric there.
    """
    r = _length(u)
    return u * (math.sqrt(c) * r / 2).tanh() / (math.sqrt(c) * r)


def origin_log(z: Tensor, c: float) -> Tensor:
    """Its inverse, of lengths that are distances from the origin, at most `FARTHEST` / sqrt(c)."""
    r = _length(z)
    return z * 2 * _artanh(math.sqrt(c) * r) / (math.sqrt(c) * r)


def exp_at(mean: Tensor, v: Tensor, c: float) -> Tensor:
    r"""The exponential map at `mean` of v / lambda: the point at the distance |v| in that direction.

    .. math:: \exp_\mu(v / \lambda_\mu) = \mu \oplus \tanh(\sqrt c\, |v| / 2)\, \frac{v}{\sqrt c\, |v|}, \qquad
        \lambda_\mu = \frac{2}{1 - c |\mu|^2}

    The Moebius sum is written with :math:`s = \mu + y`, :math:`A = 1 - c |\mu|^2` and :math:`B = 1 - c |y|^2` as
    :math:`(c |s|^2 \mu + A s) / (c |s|^2 + A B)`, in which only positive terms are added up.
    """
    y = origin_exp(v, c)
    a = _gap(mean, c)
    t = (-math.sqrt(c) * _length(v)).exp()
    b = 4 * t / (1 + t).square()  # 1 / cosh^2 of half of that length
    s = mean + y
    squared = c * s.square().sum(dim=-1, keepdim=True)
    return (squared * mean + a * s) / (squared + a * b)


def log_at(mean: Tensor, z: Tensor, c: float) -> Tensor:
    r"""The inverse, :math:`\lambda_\mu \log_\mu(z)`, whose length is the distance of the two: (..., d).

    With :math:`D = c |z - \mu|^2 + A B`, :math:`w = -\mu \oplus z` has :math:`c |w|^2 = c |z - \mu|^2 / D` and
    :math:`1 - c |w|^2 = A B / D`, where A and B are :math:`1 - c |\mu|^2` and :math:`1 - c |z|^2`.
    """
    a, b = _gap(mean, c), _gap(z, c)
    step = z - mean
    squared = c * step.square().sum(dim=-1, keepdim=True)
    below = squared + a * b
    w = (a * step - squared * mean) / below
    length = math.sqrt(c) * _length(w)
    distance = (1 + length).log() * 2 - (a * b / below).log()  # 2 artanh, by what is left to the boundary
    near = torch.where(length < 0.5, 2 * _artanh(length.clamp(max=0.5)), distance)
    return w * near / length


def log_sinhc(x: Tensor) -> Tensor:
    """log(sinh(x) / x) of x >= 0, by its series where x is small."""
    small = x.square() * (1 / 6 - x.square() * (1 / 180 - x.square() / 2835))
    large = x.clamp(min=0.05)
    return torch.where(x < 0.05, small, large + (-(-2 * large).expm1()).log() - (2 * large).log())


def _length(x: Tensor) -> Tensor:
    """Of vectors, (..., d) to (..., 1), at least 1e-8, so that dividing by it is sound."""
    return x.square().sum(dim=-1, keepdim=True).clamp(min=SMALL).sqrt()


def _artanh(x: Tensor) -> Tensor:
    x = bounded(x, 0.0, math.tanh(FARTHEST / 2))
    return (x.log1p() - (-x).log1p()) / 2  # which graphs have, and atanh in float64 they have not


def _gap(z: Tensor, c: float) -> Tensor:
    """1 - c |z|^2, (..., 1), which is never 0."""
    x = math.sqrt(c) * _length(z)
    return bounded(1 - x, 1 - math.tanh(FARTHEST / 2), 1.0) * (1 + x)


class Wrapped(Distribution):
    r"""Wrapped normal distributions over the ball, with respect to its volume :math:`\lambda_z^d\, dz`.

    .. math:: z = \exp_\mu(v / \lambda_\mu), \quad v \sim N(0, \mathrm{diag}\, \sigma^2), \qquad
        \log q(z) = \log N(v; 0, \mathrm{diag}\, \sigma^2)
        - (d - 1) \log \frac{\sinh(\sqrt c\, |v|)}{\sqrt c\, |v|}

    Args:
        mean: in the ball, (B, d), in float64.
        log_variance: of v, of the same shape.
        c: minus the curvature.
    """

    def __init__(self, mean: Tensor, log_variance: Tensor, c: float) -> None:
        self.mean, self.log_variance, self.c = mean, log_variance, c

    def draw(self, noise: Noise, n: int | None = None) -> Tensor:
        """What the exponential map makes of sigma * epsilon."""
        return self.draw_with_log_prob(noise, n)[0]

    def draw_with_log_prob(self, noise: Noise, n: int | None = None) -> tuple[Tensor, Tensor]:
        """A draw, and its log q(z | x), of the v that it was made of."""
        mean, log_variance = self.mean, self.log_variance
        if n is not None:
            mean, log_variance = mean.unsqueeze(1).expand(-1, n, -1), log_variance.unsqueeze(1)
        v = (0.5 * log_variance).exp() * noise.randn_like(mean)
        return exp_at(mean, v, self.c), self._density(v, log_variance)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z | x) in nats: (B, d) to (B,), (B, n, d) to (B, n)."""
        mean, log_variance = self.mean, self.log_variance
        if z.ndim > mean.ndim:
            mean, log_variance = mean.unsqueeze(1), log_variance.unsqueeze(1)
        return self._density(log_at(mean, z.double(), self.c), log_variance)

    def detach(self) -> Wrapped:
        """The same, without gradients to mean and variance."""
        return Wrapped(self.mean.detach(), self.log_variance.detach(), self.c)

    def _density(self, v: Tensor, log_variance: Tensor) -> Tensor:
        each = -0.5 * (v.square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi))
        spread = log_sinhc(math.sqrt(self.c) * _length(v)).squeeze(-1)
        return each.sum(dim=-1) - (v.shape[-1] - 1) * spread


@dataclass(frozen=True)
class WrappedNormal(Posterior):
    r"""q(z | x) in the Poincare ball :math:`c |z|^2 < 1` of curvature -c (Mathieu et al. 2019, section 3.1).

    The encoder gives a vector u, of which the mean lies in the direction and at the distance |u| from the origin, and
    the logarithms of the variances in the tangent space at the mean, carried there from the origin. Distances are those
    of the ball: with c to 0 it is the Gaussian of 2 z.

    The decoder sees a code by its logarithm at the origin, direction and distance, and not by its coordinates, which
    hardly differ near the boundary. The gyroplane layer of the paper's decoder is not here. Distances of means are at
    most 10 / sqrt(c), scales e^-15 to 5 / sqrt(c); the gradient passes. Codes are vectors.

    Args:
        curvature: c > 0; c times `latent_dim` is at most 100, so that draws of the prior keep away from the boundary.
    """

    geometry: ClassVar[Geometry] = "curved"

    curvature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.curvature < math.inf:
            raise InputError(
                f"curvature of WrappedNormal, c of a curvature of -c, must be positive, got {self.curvature}",
                "for a flat space use DiagonalGaussian()",
            )

    def values(self, units: int) -> int:
        """The mean and log-variances."""
        return 2 * units

    def check(self, model: VAE) -> None:
        """Raises InputError for a code that is no vector, a curvature too large, and a prior outside of the ball."""
        shape = model.code_shape
        if len(shape) != 1:
            raise InputError(
                f"WrappedNormal takes codes that are vectors, got maps or tokens of shape {shape}",
                "use an architecture that gives vectors, or the posterior DiagonalGaussian()",
            )
        if self.curvature * shape[0] > LARGEST:
            raise InputError(
                f"curvature={self.curvature:g} of WrappedNormal puts most of a code of {shape[0]} values on the ball's "
                "boundary, to rounding",
                f"give a curvature of at most {LARGEST / shape[0]:g}, or a smaller latent_dim",
            )
        if not isinstance(model.prior, CentredWrappedNormal | VampPrior):
            raise InputError(
                f"WrappedNormal is a distribution in the ball, {type(model.prior).__name__} one outside of it",
                "use the prior CentredWrappedNormal() or VampPrior()",
            )

    def __call__(self, output: Tensor, weights: nn.Module | None = None) -> Wrapped:
        """(B, 2 d) to the distributions."""
        u, log_variance = output.double().chunk(2, dim=1)
        root = math.sqrt(self.curvature)
        length = _length(u)
        u = u * bounded(length, 0.0, MEANS / root) / length
        widest = min(20.0, 2 * math.log(WIDEST / root))
        return Wrapped(origin_exp(u, self.curvature), bounded(log_variance, -30.0, widest), self.curvature)

    def unfold(self, z: Tensor) -> Tensor:
        """Direction and distance from the origin as a vector: (B, d) to (B, d)."""
        return origin_log(z.double(), self.curvature).to(at_least_float32(z).dtype)

    def coordinates(self, z: Tensor) -> Tensor:
        """Direction and distance from the origin, as the decoder sees them: (B, d) to (B, d), in float64."""
        return origin_log(z.double(), self.curvature)

    def from_coordinates(self, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The point of the ball in that direction, at that distance: (B, d) to (B, d), in float64."""
        return origin_exp(values.double(), self.curvature)

    def between(self, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        """Codes (B, d) on the geodesic from a to b, at the places t in [0, 1], (B,)."""
        places, c = along(t, a).double(), self.curvature
        found = exp_at(a.double(), places * log_at(a.double(), b.double(), c), c).to(a.dtype)
        return torch.where(places == 0, a, torch.where(places == 1, b, found))

    def ways(self, features: Tensor) -> list[Way]:
        """A way for each axis of what the decoder sees."""
        return each_by_itself(self.unfold(features))

    def move(self, z: Tensor, feature: int, by: Tensor) -> Tensor:
        """Codes (B, d) of which what the decoder sees has a feature larger by `by` (B,): so they stay in the ball."""
        return origin_exp(add(self.unfold(z.double()), feature, by), self.curvature).to(z.dtype)


@dataclass(frozen=True)
class CentredWrappedNormal(Prior):
    """The wrapped normal distribution around the ball's origin, of the curvature that the posterior has.

    Args:
        scale: of a draw's logarithm at the origin, the same in each direction.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise InputError(f"scale of CentredWrappedNormal must be positive, got {self.scale}")

    def tempered(self, model: Autoencoder) -> bool:
        """True, of the logarithms at the origin."""
        return True

    def check(self, model: Autoencoder) -> None:
        """Raises InputError where the posterior is none in the ball, or its curvature is too large for the scale."""
        c, units = self._curvature(model), model.latent_dim
        if c * units * self.scale**2 > LARGEST:
            raise InputError(
                f"scale={self.scale:g} of CentredWrappedNormal puts most draws on the boundary of the ball of "
                f"curvature -{c:g}, to rounding",
                f"give a scale of at most {math.sqrt(LARGEST / (c * units)):.3g}",
            )

    def log_prob(self, model: Autoencoder, z: Tensor) -> Tensor:
        """log p(z) in nats, with respect to the ball's volume: (..., d) to (...)."""
        c = self._curvature(model)
        v = origin_log(z.double(), c)
        log_variance = torch.full_like(v[..., :1], 2 * math.log(self.scale)).expand_as(v)
        return Wrapped(torch.zeros_like(v), log_variance, c)._density(v, log_variance)

    def sample(self, model: Autoencoder, n: int, noise: Noise) -> Tensor:
        """`n` draws, (n, d)."""
        return origin_exp(self.scale * noise.randn_like(model.zeros(n).double()), self._curvature(model))

    def _curvature(self, model: Autoencoder) -> float:
        return posterior_for(self, model, WrappedNormal, "in a ball").curvature
