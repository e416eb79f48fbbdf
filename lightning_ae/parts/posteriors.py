"""Approximate posteriors q(z | x): what the encoder's output means.

A posterior is stateless plain data. It makes a distribution of the encoder's output, whose dimension 1, channels, holds
`values_per_unit` values for each unit of the code. Computed in float32 (float64 where the output is), also under
autocast.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from lightning_ae.config import Configurable
from lightning_ae.exact import Noise, gather_batch
from lightning_ae.parts.likelihoods import at_least_float32

if TYPE_CHECKING:
    from lightning_ae.models.vae import VAE


class Distribution(ABC):
    """A distribution over the code of each sample of a batch."""

    mean: Tensor
    """What `encode` gives, (B, *code_shape): the mean, or what stands for it where no code lies there."""

    @abstractmethod
    def draw(self, noise: Noise, n: int | None = None) -> Tensor:
        """A draw for each sample, (B, *code_shape); or n of them, (B, n, *code_shape), by reparametrisation."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z | x) in nats: (B, *code_shape) to (B,), (B, n, *code_shape) to (B, n)."""

    @abstractmethod
    def detach(self) -> Distribution:
        """The same, without gradients to its parameters."""


class Independent(Distribution):
    """A distribution under which the units of a code are independent of each other."""

    @abstractmethod
    def log_prob_by_unit(self, z: Tensor) -> Tensor:
        """log q of each unit in nats: (B, *code_shape) or (B, n, *code_shape) to the same shape."""

    @abstractmethod
    def gather(self) -> Independent:
        """The distributions of all ranks' samples, in the order of the whole batch; gradients flow back to each."""

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z | x) in nats, summed over the units: (B, *code_shape) to (B,), (B, n, *code_shape) to (B, n)."""
        return self.log_prob_by_unit(z).flatten(1 + z.ndim - self.mean.ndim).sum(dim=-1)


class Posterior(Configurable):
    """A family of distributions over codes."""

    independent: ClassVar[bool] = False
    """Whether its distributions are `Independent`."""

    @property
    @abstractmethod
    def values_per_unit(self) -> int:
        """How many values the encoder gives for each unit of the code."""

    def encoder_features(self, latent_dim: int) -> int:
        """How many values the encoder gives at each position."""
        return self.values_per_unit * latent_dim

    def code_features(self, latent_dim: int) -> int:
        """How many values the code has at each position, which is what the decoder takes."""
        return latent_dim

    def check(self, model: VAE) -> None:
        """Raises InputError where it cannot work with the model's other parts."""

    @abstractmethod
    def __call__(self, output: Tensor) -> Distribution:
        """The distributions that the encoder's output (B, encoder_features, ...) describes."""

    def infer(self, model: VAE, output: Tensor) -> Distribution:
        """The same, at the model's step of a fit."""
        return self(output)


class DiagonalNormal(Independent):
    """Independent normal distributions.

    Args:
        mean: (B, *code_shape).
        log_variance: of the same shape.
    """

    def __init__(self, mean: Tensor, log_variance: Tensor) -> None:
        self.mean, self.log_variance = mean, log_variance

    def draw(self, noise: Noise, n: int | None = None) -> Tensor:
        """mean + sigma * epsilon."""
        scale, mean = (0.5 * self.log_variance).exp(), self.mean
        if n is not None:
            scale, mean = scale.unsqueeze(1), mean.unsqueeze(1).expand(-1, n, *mean.shape[1:])
        return mean + scale * noise.randn_like(mean)

    def log_prob_by_unit(self, z: Tensor) -> Tensor:
        """log q of each unit in nats: (B, *code_shape) or (B, n, *code_shape) to the same shape."""
        mean, log_variance = self.mean, self.log_variance
        if z.ndim > mean.ndim:
            mean, log_variance = mean.unsqueeze(1), log_variance.unsqueeze(1)
        squared = (z - mean).square() * (-log_variance).exp()
        return -0.5 * (squared + log_variance + math.log(2 * math.pi))

    def gather(self) -> DiagonalNormal:
        """The distributions of all ranks' samples, in the order of the whole batch; gradients flow back to each."""
        return DiagonalNormal(*gather_batch(torch.stack([self.mean, self.log_variance], dim=1)).unbind(dim=1))

    def detach(self) -> DiagonalNormal:
        """The same, without gradients to mean and variance."""
        return DiagonalNormal(self.mean.detach(), self.log_variance.detach())


@dataclass(frozen=True)
class DiagonalGaussian(Posterior):
    r"""q(z | x) = N(mu(x), diag sigma^2(x)): the encoder gives mean and log-variance (Kingma & Welling 2014).

    The log-variance is kept in [-30, 20], so that `exp` stays finite; the gradient passes.
    """

    independent: ClassVar[bool] = True

    @property
    def values_per_unit(self) -> int:
        """Mean and log-variance."""
        return 2

    def __call__(self, output: Tensor) -> DiagonalNormal:
        """(B, 2 * units, ...) to the distributions."""
        mean, log_variance = at_least_float32(output).chunk(2, dim=1)
        # bounded so that exp() stays finite; the gradient passes, so that a variance can come back from beyond
        bounded = log_variance + (log_variance.clamp(-30.0, 20.0) - log_variance).detach()
        return DiagonalNormal(mean, bounded)
