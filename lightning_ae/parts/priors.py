"""Priors p(z): what a variational autoencoder's codes are drawn from.

A prior is plain data; where it has weights, they are a module that it builds and the model holds as `prior_weights`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lightning_ae.config import Configurable
from lightning_ae.exact import Noise
from lightning_ae.parts.posteriors import DiagonalNormal, Distribution

if TYPE_CHECKING:
    from lightning_ae.models.vae import VAE


class Prior(Configurable):
    """A distribution over codes."""

    def build(self, model: VAE) -> nn.Module | None:
        """The module that holds its weights, where it has some."""
        return None

    @abstractmethod
    def log_prob(self, model: VAE, z: Tensor) -> Tensor:
        """log p(z) in nats: (..., *code_shape) to (...)."""

    def kl(self, model: VAE, q: Distribution, z: Tensor) -> Tensor:
        """KL(q(z | x) || p(z)) in nats for each sample, (B,); by default from one draw z ~ q, (B, *code_shape)."""
        return q.log_prob(z) - self.log_prob(model, z)

    @abstractmethod
    def sample(self, model: VAE, n: int, noise: Noise) -> Tensor:
        """`n` draws, (n, *code_shape)."""


@dataclass(frozen=True)
class StandardNormal(Prior):
    """N(0, I)."""

    def log_prob(self, model: VAE, z: Tensor) -> Tensor:
        """log p(z) in nats: (..., *code_shape) to (...)."""
        dims = tuple(range(z.ndim - len(model.code_shape), z.ndim))
        return -0.5 * (z.square() + math.log(2 * math.pi)).sum(dim=dims)

    def kl(self, model: VAE, q: Distribution, z: Tensor) -> Tensor:
        r"""Of a diagonal Gaussian in closed form, :math:`\tfrac12 \sum \mu^2 + \sigma^2 - \log \sigma^2 - 1`."""
        if not isinstance(q, DiagonalNormal):
            return super().kl(model, q, z)
        terms = q.mean.square() + q.log_variance.exp() - q.log_variance - 1
        return 0.5 * terms.flatten(1).sum(dim=1)

    def sample(self, model: VAE, n: int, noise: Noise) -> Tensor:
        """`n` draws, (n, *code_shape)."""
        return noise.randn_like(model.zeros(n))
