"""Approximate posteriors q(z | x): what the encoder's output means.

A posterior is plain data; where it has weights, they are a module that it builds and the model holds as
`posterior_weights`. It makes a distribution of the encoder's output, whose dimension 1, channels, holds `values(units)`
values at each position for a code of so many units there. What ties units together ties those of one position; the
positions of a map are independent. Computed in float32 (float64 where the output is), also under autocast.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from lightning_ae.config import Configurable
from lightning_ae.exact import Noise, gather_batch
from lightning_ae.parts.likelihoods import at_least_float32
from lightning_ae.parts.moves import Geometry, Way, add, along, each_by_itself
from lightning_ae.parts.sampling import Space

if TYPE_CHECKING:
    from lightning_ae.models.vae import VAE


class Distribution(ABC):
    """A distribution over the code of each sample of a batch."""

    mean: Tensor
    """What `encode` gives, (B, *code_shape): the mean, or what the class says where that is not known or no code."""

    @abstractmethod
    def draw(self, noise: Noise, n: int | None = None) -> Tensor:
        """A draw for each sample, (B, *code_shape); or n of them, (B, n, *code_shape), by reparametrisation."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z | x) in nats: (B, *code_shape) to (B,), (B, n, *code_shape) to (B, n)."""

    def draw_with_log_prob(self, noise: Noise, n: int | None = None) -> tuple[Tensor, Tensor]:
        """A draw as of `draw`, and its log q(z | x), (B,) or (B, n), which may cost less than asking for it later."""
        z = self.draw(noise, n)
        return z, self.log_prob(z)

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
    geometry: ClassVar[Geometry] = "flat"
    """Of the space that its codes lie in."""
    evaluates: ClassVar[bool] = True
    """Whether `log_prob` takes any z, and not only draws by `draw_with_log_prob`, which bring theirs."""

    def code_features(self, units: int) -> int:
        """How many values a code of so many units has at each position, which is what the decoder takes."""
        return units

    def check(self, model: VAE) -> None:
        """Raises InputError where it cannot work with the model's other parts."""

    @abstractmethod
    def values(self, units: int) -> int:
        """How many values the encoder gives at each position, for a code that has so many units there."""

    def build(self, model: VAE) -> nn.Module | None:
        """The module that holds its weights, where it has some."""
        return None

    @abstractmethod
    def __call__(self, output: Tensor, weights: nn.Module | None = None) -> Distribution:
        """The distributions that the encoder's output (B, values(units), ...) describes, with the weights if any."""

    def infer(self, model: VAE, output: Tensor, x: Tensor, given: Mapping[str, Tensor]) -> Distribution:
        """The same, at the model's step of a fit.

        Args:
            model: whose posterior it is.
            output: what the encoder gave.
            x: the input that it saw, (B, *input_shape).
            given: what else the model takes of the batch.
        """
        return self(output, model.posterior_weights)

    def unfold(self, z: Tensor) -> Tensor:
        """What the decoder sees of codes, (B, *code_shape) to the same shape: here the codes."""
        return z

    def space(self, shape: tuple[int, ...]) -> Space:
        """Where codes (B, *shape) lie, as a density that is fitted to them sees it: `coordinates`.

        Raises:
            InputError: where no sampler is a density of such codes.
        """
        return Space(math.prod(shape))

    def coordinates(self, z: Tensor) -> Tensor:
        """Codes (B, *code_shape) as what a density is fitted to, (B, units)."""
        return z.flatten(1)

    def from_coordinates(self, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Codes (B, *shape) of what such a density draws, (B, units), where codes lie: here as they are."""
        return values.unflatten(1, shape)

    def between(self, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        """Codes on the shortest path from a to b, (B, *code_shape), at the places t in [0, 1], (B,)."""
        return torch.lerp(a, b, along(t, a))

    def ways(self, features: Tensor) -> list[Way]:
        """What `move` can do with codes, from those of data as vectors, (N, code_features)."""
        return each_by_itself(features)

    def move(self, z: Tensor, feature: int, by: Tensor) -> Tensor:
        """Codes (B, *code_shape) of which one feature goes on by `by` (B,), and which stay codes: here by addition."""
        return add(z, feature, by)


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

    def values(self, units: int) -> int:
        """Means and log-variances."""
        return 2 * units

    def __call__(self, output: Tensor, weights: nn.Module | None = None) -> DiagonalNormal:
        """(B, 2 * units, ...) to the distributions."""
        mean, log_variance = at_least_float32(output).chunk(2, dim=1)
        return DiagonalNormal(mean, bounded(log_variance, -30.0, 20.0))


class CorrelatedNormal(Distribution):
    """Normal distributions under which the units at a position depend on each other, and positions do not.

    Args:
        mean: (B, *code_shape).
        log_diagonal: of the Cholesky factor L of the covariance at each position, in the shape of the mean.
        below: the entries of L below the diagonal, (B, *positions, units, units); the others are not read.
    """

    def __init__(self, mean: Tensor, log_diagonal: Tensor, below: Tensor) -> None:
        self.mean, self.log_diagonal, self.below = mean, log_diagonal, below

    @property
    def factor(self) -> Tensor:
        """L, lower triangular, (B, *positions, units, units)."""
        return self.below.tril(-1) + torch.diag_embed(self.log_diagonal.movedim(1, -1).exp())

    def draw(self, noise: Noise, n: int | None = None) -> Tensor:
        """mean + L epsilon."""
        return self._draw(noise, n)[0]

    def draw_with_log_prob(self, noise: Noise, n: int | None = None) -> tuple[Tensor, Tensor]:
        """A draw, and its log q(z | x), which needs no solving for epsilon."""
        z, epsilon = self._draw(noise, n)
        return z, self._density(epsilon)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z | x) in nats: (B, *code_shape) to (B,), (B, n, *code_shape) to (B, n)."""
        factor, mean = self.factor, self.mean
        if z.ndim > mean.ndim:
            factor, mean = factor.unsqueeze(1), mean.unsqueeze(1)
        units = z.ndim - self.mean.ndim + 1
        away = (z - mean).movedim(units, -1).unsqueeze(-1)
        return self._density(torch.linalg.solve_triangular(factor, away, upper=False).squeeze(-1).movedim(-1, units))

    def detach(self) -> CorrelatedNormal:
        """The same, without gradients to mean and factor."""
        return CorrelatedNormal(self.mean.detach(), self.log_diagonal.detach(), self.below.detach())

    def _draw(self, noise: Noise, n: int | None) -> tuple[Tensor, Tensor]:
        """z and epsilon, both (B, *code_shape) or (B, n, *code_shape)."""
        factor, mean = self.factor, self.mean
        if n is not None:
            factor, mean = factor.unsqueeze(1), mean.unsqueeze(1).expand(-1, n, *mean.shape[1:])
        epsilon = noise.randn_like(mean)
        units = 1 if n is None else 2
        # not by a product of matrices, which autocast would round; the factors are small
        scaled = (factor * epsilon.movedim(units, -1).unsqueeze(-2)).sum(dim=-1)
        return mean + scaled.movedim(-1, units), epsilon

    def _density(self, epsilon: Tensor) -> Tensor:
        log_diagonal = self.log_diagonal.unsqueeze(1) if epsilon.ndim > self.mean.ndim else self.log_diagonal
        each = -0.5 * (epsilon.square() + math.log(2 * math.pi)) - log_diagonal
        return each.flatten(1 + epsilon.ndim - self.mean.ndim).sum(dim=-1)


@dataclass(frozen=True)
class FullCovarianceGaussian(Posterior):
    r"""q(z | x) = N(mu(x), L(x) L(x)^T): the units of a code depend on each other (Kingma & Welling 2019, 2.5.1).

    The encoder gives the mean, the logarithms of L's diagonal, doubled, and L's entries below it, row by row: of D
    units D (D + 3) / 2 values. The doubled logarithms, log-variances where nothing is below, are kept in [-30, 20]; the
    gradient passes. Of a map each position has a covariance of its own, and positions are independent.
    """

    def values(self, units: int) -> int:
        """Means, log-variances, and the entries below the diagonal."""
        return 2 * units + units * (units - 1) // 2

    def __call__(self, output: Tensor, weights: nn.Module | None = None) -> CorrelatedNormal:
        """(B, values(units), ...) to the distributions."""
        units = (math.isqrt(9 + 8 * output.shape[1]) - 3) // 2
        assert self.values(units) == output.shape[1]
        mean, log_variance, entries = at_least_float32(output).split([units, units, output.shape[1] - 2 * units], dim=1)
        row, column = torch.tril_indices(units, units, -1, device=output.device)
        below = entries.new_zeros(len(output), *output.shape[2:], units, units)
        below[..., row, column] = entries.movedim(1, -1)
        return CorrelatedNormal(mean, bounded(log_variance, -30.0, 20.0) / 2, below)


def bounded(x: Tensor, low: float, high: float) -> Tensor:
    """`x` in [low, high], so that its exponential stays finite; the gradient passes, so that it can come back."""
    return x + (x.clamp(low, high) - x).detach()
