"""Corruptions of the input for denoising (Vincent et al. 2010, section 3.3), vectorised on the input's device."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_ae.config import Configurable
from lightning_ae.errors import InputError
from lightning_ae.exact import Noise


class Corruption(Configurable):
    """Plain data that describes a random corruption."""

    @abstractmethod
    def __call__(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """A corrupted copy of `x` (B, ...), drawn from `noise` (torch's global generator by default)."""


@dataclass(frozen=True)
class Masking(Corruption):
    """Each value is set to zero with a fixed probability.

    Args:
        probability: the probability that a value is set to zero, in [0, 1].
    """

    probability: float = 0.3

    def __post_init__(self) -> None:
        _check_probability(self)

    def __call__(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """A corrupted copy of `x`, (B, ...)."""
        keep = (noise or Noise()).rand_like(x) >= self.probability
        return x * keep


@dataclass(frozen=True)
class GaussianNoise(Corruption):
    """Isotropic Gaussian noise is added.

    Args:
        scale: the noise's standard deviation, in data units.
    """

    scale: float = 0.3

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise InputError(f"scale of GaussianNoise must be positive, got {self.scale}")

    def __call__(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """A corrupted copy of `x`, (B, ...)."""
        return x + self.scale * (noise or Noise()).randn_like(x)


@dataclass(frozen=True)
class SaltAndPepper(Corruption):
    """Each value is set, with a fixed probability, to the lowest or the highest value, by the toss of a fair coin.

    Args:
        probability: the probability that a value is changed, in [0, 1].
        low: the lowest value ("pepper"), in data units.
        high: the highest value ("salt"), in data units.
    """

    probability: float = 0.3
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        _check_probability(self)
        if not self.low < self.high:
            raise InputError(f"low of SaltAndPepper must be below high, got low={self.low}, high={self.high}")

    def __call__(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """A corrupted copy of `x`, (B, ...)."""
        # one uniform draw serves both the choice of a value and the coin: [0, p/2) is pepper, [p/2, p) is salt
        draw = (noise or Noise()).rand_like(x)
        salted = torch.where(draw < self.probability, x.new_tensor(self.high), x)
        return torch.where(draw < self.probability / 2, x.new_tensor(self.low), salted)


def _check_probability(corruption: Masking | SaltAndPepper) -> None:
    if not 0 <= corruption.probability <= 1:
        name = type(corruption).__name__
        raise InputError(f"probability of {name} must lie in [0, 1], got {corruption.probability}")
