"""Likelihoods of values in [0, 1] that are no coins: masses on a grid, and a density."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_ae.errors import InputError
from lightning_ae.exact import Noise
from lightning_ae.parts.likelihoods import (
    Likelihood,
    Scale,
    _LocationScale,
    at_least_float32,
    cross_entropy,
    known,
)


@dataclass(frozen=True)
class DiscretizedLogistic(_LocationScale):
    r"""The mass that a logistic distribution puts on each of a grid of values in [0, 1] (Salimans et al. 2017).

    The bin of the value k / (levels - 1) reaches half a step to either side; the first and the last bin take the
    tails. `mean` is the location, clipped to [0, 1]: it is the distribution's mean up to the clipping and half a step.
    Source: PixelCNN++, https://arxiv.org/abs/1701.05517, equation 2.

    Args:
        scale: of the logistic distribution, in data units: a number, "learned" (one for all values) or "per_pixel"
            (given by the decoder). Learned log-scales are kept in [-7, 7].
        levels: how many values there are, 256 for images of 8 bits.
    """

    support: ClassVar[tuple[float, float]] = (0.0, 1.0)

    scale: Scale = "learned"
    levels: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.levels, int) or self.levels < 2:
            raise InputError(f"levels of DiscretizedLogistic must be an integer of at least 2, got {self.levels!r}")

    def is_mass_at(self, x: Tensor) -> bool:
        """True on the grid."""
        steps = x.float() * (self.levels - 1)
        return bool(((steps - steps.round()).abs() < 1e-3).all())

    def log_prob_each(
        self, params: Tensor, x: Tensor, mask: Tensor | None = None, fitted: Tensor | None = None
    ) -> Tensor:
        """The log-mass of each value in nats: (B, P, *shape) and (B, *shape) to (B, *shape)."""
        x = known(x, mask)
        location, log_scale = self._location_and_log_scale(params)
        half = 0.5 / (self.levels - 1)
        inverse = (-log_scale).exp()
        upper, lower = (x - location + half) * inverse, (x - location - half) * inverse
        # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)): no difference of near-equal numbers
        width = 2 * half * inverse
        inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-width))
        log_mass = torch.where(x < half, F.logsigmoid(upper), torch.where(x > 1 - half, F.logsigmoid(-lower), inside))
        return known(log_mass, mask)

    def mean(self, params: Tensor) -> Tensor:
        """The location, clipped to [0, 1]."""
        return params[:, 0].clamp(0, 1)

    def sample(self, params: Tensor, noise: Noise | None = None) -> Tensor:
        """A draw from the grid, (B, *shape)."""
        location, log_scale = self._location_and_log_scale(params)
        u = (noise or Noise()).rand_like(location).clamp(1e-7, 1 - 1e-7)
        value = location + log_scale.exp() * torch.logit(u)
        return (value * (self.levels - 1)).round().clamp(0, self.levels - 1) / (self.levels - 1)


@dataclass(frozen=True)
class ContinuousBernoulli(Likelihood):
    r"""A density on [0, 1] (Loaiza-Ganem & Cunningham 2019, https://arxiv.org/abs/1907.06845).

    .. math:: p(x) = C(\lambda) \lambda^x (1 - \lambda)^{1 - x},\quad
        C(\lambda) = \frac{2 \tanh^{-1}(1 - 2 \lambda)}{1 - 2 \lambda}

    The decoder gives the logit of :math:`\lambda`. `mean` is the distribution's mean, which is not :math:`\lambda`.
    """

    support: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def log_prob_each(
        self, params: Tensor, x: Tensor, mask: Tensor | None = None, fitted: Tensor | None = None
    ) -> Tensor:
        """log p(x) of each value in nats: (B, 1, *shape) and (B, *shape) to (B, *shape)."""
        logits = at_least_float32(params[:, 0])
        # with t the logit, C = t / tanh(t / 2)
        small, near, far = _split(logits)
        series = math.log(2) + near.square() / 12 - 7 * near.pow(4) / 1440
        exact = far.abs().log() - torch.tanh(far.abs() / 2).log()
        return known(torch.where(small, series, exact) - cross_entropy(params, known(x, mask)), mask)

    def mean(self, params: Tensor) -> Tensor:
        """The distribution's mean, (B, *shape)."""
        logits = at_least_float32(params[:, 0])
        small, near, far = _split(logits)
        # 1 / (1 - exp(-t)) - 1 / t, and its series about t = 0
        exact = -1 / torch.expm1(-far) - 1 / far
        return torch.where(small, 0.5 + near / 12 - near.pow(3) / 720, exact)

    def sample(self, params: Tensor, noise: Noise | None = None) -> Tensor:
        """A draw from [0, 1], (B, *shape), by the inverse of the distribution function."""
        logits = at_least_float32(params[:, 0])
        u = (noise or Noise()).rand_like(logits)
        small, near, far = _split(logits)
        # log(1 + u (exp(t) - 1)) / t, turned about for t > 0 so that exp never overflows
        turned = torch.where(far > 0, 1 - u, u)
        value = torch.log1p(turned * torch.expm1(-far.abs())) / -far.abs()
        value = torch.where(far > 0, 1 - value, value)
        return torch.where(small, u + near * u * (1 - u) / 2, value).clamp(0, 1)


def _split(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where a closed form is 0 / 0; the logits there, for the series; the logits elsewhere, for the closed form.

    Each is a harmless constant where the other holds, so that no NaN gets into the gradient.
    """
    small = logits.abs() < (0.05 if logits.dtype == torch.float32 else 1e-3)
    return small, torch.where(small, logits, 0.0), torch.where(small, 1.0, logits)
