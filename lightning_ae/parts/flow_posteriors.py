"""Posteriors that a flow makes of a diagonal Gaussian: planar, inverse autoregressive, rational-quadratic splines."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from lightning_ae.errors import InputError
from lightning_ae.exact import Noise
from lightning_ae.parts.flows import Flow, Flows, GatedAutoregressive, Planar, SplineCoupling, check_sizes, check_units
from lightning_ae.parts.likelihoods import at_least_float32
from lightning_ae.parts.posteriors import DiagonalGaussian, DiagonalNormal, Distribution, Posterior

if TYPE_CHECKING:
    from lightning_ae.autoencoder import Autoencoder


class Flowed(Distribution):
    r"""What a flow f makes of :math:`N(\mu, \mathrm{diag}\, \sigma^2)`, at each position for itself.

    .. math:: z = f(\mu + \sigma \epsilon) \quad \text{or} \quad z = \mu + \sigma f(\epsilon)

    Args:
        base: the Gaussian.
        flow: f; its units are the channels of a code at a position.
        context: what it takes besides, (B, values, *positions).
        bends_noise: whether it acts before the Gaussian's mean and scale, and not after.
        detached: whether the flow's weights get no gradient.
    """

    def __init__(
        self, base: DiagonalNormal, flow: nn.Module, context: Tensor, *, bends_noise: bool, detached: bool = False
    ) -> None:
        self.base, self.flow, self.context = base, flow, context
        self.bends_noise, self.detached = bends_noise, detached

    @cached_property
    def mean(self) -> Tensor:  # type: ignore[override]
        """What becomes of noise of zero, (B, *code_shape): no expectation, but a code amid the distribution."""
        return self._flow(torch.zeros_like(self.base.mean))[0]

    def draw(self, noise: Noise, n: int | None = None) -> Tensor:
        """What becomes of standard normal noise, (B, *code_shape) or (B, n, *code_shape)."""
        return self.draw_with_log_prob(noise, n)[0]

    def draw_with_log_prob(self, noise: Noise, n: int | None = None) -> tuple[Tensor, Tensor]:
        """A draw, and its log q(z | x), (B,) or (B, n), of the same pass."""
        shape = self.base.mean
        epsilon = noise.randn_like(shape if n is None else shape.unsqueeze(1).expand(-1, n, *shape.shape[1:]))
        z, log_det = self._flow(epsilon)
        return z, self._density(epsilon) - log_det

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z | x) in nats: (B, *code_shape) to (B,), (B, n, *code_shape) to (B, n), by the flow's inverse.

        Raises:
            InputError: when it has none.
        """
        mean, scale = self._gaussian(z)
        if self.bends_noise:
            epsilon, log_det = self._apply((z - mean) / scale, inverse=True)
        else:
            x, log_det = self._apply(z, inverse=True)
            epsilon = (x - mean) / scale
        return self._density(epsilon) - log_det - self._log_scale(z)

    def detach(self) -> Flowed:
        """The same, without gradients to mean, variance, context and the flow's weights."""
        base = self.base.detach()
        return Flowed(base, self.flow, self.context.detach(), bends_noise=self.bends_noise, detached=True)

    def _flow(self, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        """z, in the shape of epsilon, and log |det dz/d epsilon|."""
        mean, scale = self._gaussian(epsilon)
        if self.bends_noise:
            bent, log_det = self._apply(epsilon)
            return mean + scale * bent, log_det + self._log_scale(epsilon)
        z, log_det = self._apply(mean + scale * epsilon)
        return z, log_det + self._log_scale(epsilon)

    def _apply(self, x: Tensor, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """The flow, of (B, *code_shape) or (B, n, *code_shape); the logarithms are summed over the positions."""
        units = x.ndim - self.base.mean.ndim + 1
        context = self.context.movedim(1, -1)
        context = context.unsqueeze(1) if units == 2 else context
        context = context.expand(*x.shape[:units], *x.shape[units + 1 :], -1)
        y, log_det = self._call(x.movedim(units, -1), context, inverse)
        return y.movedim(-1, units), log_det.flatten(units).sum(dim=-1) if log_det.ndim > units else log_det

    def _call(self, x: Tensor, context: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor]
        if not self.detached:
            found = self.flow(x, context, inverse)
            return found
        weights = {name: value.detach() for name, value in self.flow.named_parameters()}
        found = torch.func.functional_call(self.flow, weights, (x, context, inverse))
        return found

    def _gaussian(self, z: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = self.base.mean, (0.5 * self.base.log_variance).exp()
        return (mean.unsqueeze(1), scale.unsqueeze(1)) if z.ndim > mean.ndim else (mean, scale)

    def _log_scale(self, z: Tensor) -> Tensor:
        """log |det d(mu + sigma epsilon)/d epsilon|, (B,) or (B, 1)."""
        total = 0.5 * self.base.log_variance.flatten(1).sum(dim=1)
        return total.unsqueeze(1) if z.ndim > self.base.mean.ndim else total

    def _density(self, epsilon: Tensor) -> Tensor:
        each = -0.5 * (epsilon.square() + math.log(2 * math.pi))
        return each.flatten(1 + epsilon.ndim - self.base.mean.ndim).sum(dim=-1)


class FlowPosterior(Posterior):
    """Base of the posteriors that a flow makes of a `DiagonalGaussian`.

    The encoder gives that one's values, and beside them those of the context that the flow takes. Of a map the flow
    acts on the units of each position, with the same weights at all. `encode` gives what becomes of the noise zero,
    which is no expectation.
    """

    bends_noise: ClassVar[bool] = False
    """Whether the flow acts on the noise, before mean and scale, and not on what they make of it."""

    @abstractmethod
    def context(self, units: int) -> int:
        """How many values the flow takes besides, at each position."""

    @abstractmethod
    def flows(self, units: int) -> list[Flow]:
        """The steps for codes of so many units at a position."""

    def values(self, units: int) -> int:
        """Means, log-variances and the context."""
        return 2 * units + self.context(units)

    def build(self, model: Autoencoder) -> nn.Module:
        """The steps' weights."""
        return Flows(model.latent_dim, self.flows(model.latent_dim))

    def __call__(self, output: Tensor, weights: nn.Module | None = None) -> Flowed:
        """(B, values(units), ...) to the distributions."""
        output = at_least_float32(output)
        assert isinstance(weights, Flows)
        units = weights.units
        base = DiagonalGaussian()(output[:, : 2 * units])
        return Flowed(base, weights, output[:, 2 * units :], bends_noise=self.bends_noise)


@dataclass(frozen=True)
class PlanarFlow(FlowPosterior):
    r"""Planar steps (Rezende & Mohamed 2015, section 4.1), of which the encoder gives the parameters, as in the paper.

    .. math:: z = f_K(\cdots f_1(\mu + \sigma \epsilon)), \quad f_k(x) = x + \hat u_k \tanh(w_k^T x + b_k)

    So w, u and b are another for each sample, 2 D + 1 values a step; u is multiplied by a learned number that starts
    at zero, so that a fresh model's posterior is the diagonal Gaussian. :class:`lightning_ae.parts.flows.Planar` says
    how each step is kept invertible. The inverse cannot be written down: only draws have a density.

    Args:
        steps: K.
    """

    evaluates: ClassVar[bool] = False

    steps: int = 4

    def __post_init__(self) -> None:
        check_sizes(self, "steps")

    def context(self, units: int) -> int:
        """w, u and b of each step."""
        return self.steps * (2 * units + 1)

    def flows(self, units: int) -> list[Flow]:
        """The planar steps."""
        return [Planar(units, step * (2 * units + 1)) for step in range(self.steps)]


@dataclass(frozen=True)
class IAF(FlowPosterior):
    r"""Inverse autoregressive steps with gates (Kingma et al. 2016, algorithm 1).

    .. math:: z = f_K(\cdots f_1(\mu + \sigma \epsilon)), \quad f_k(x) = s_k x + (1 - s_k) m_k, \quad
        (m_k, s_k)_i = \mathrm{MADE}_k(x_1, \ldots, x_{i-1}, h(x))

    The networks' weights belong to the model; h, as many values as a hidden layer has, is the encoder's. Each step
    takes the units in the reverse order of the one before. A draw and its density take one pass a step; the density of
    another z takes as many passes as there are units. A fresh model's gates are .982: it is near the diagonal Gaussian.

    Args:
        steps: K.
        hidden: the units of each of a network's two hidden layers.
    """

    steps: int = 2
    hidden: int = 64

    def __post_init__(self) -> None:
        check_sizes(self, "steps", "hidden")

    def check(self, model: Autoencoder) -> None:
        """Raises InputError of a code of one unit, which nothing comes before."""
        check_units(self, model.latent_dim)

    def context(self, units: int) -> int:
        """h."""
        return self.hidden

    def flows(self, units: int) -> list[Flow]:
        """The autoregressive steps."""
        return [
            GatedAutoregressive(units, self.hidden, self.hidden, backwards=step % 2 == 1) for step in range(self.steps)
        ]


@dataclass(frozen=True)
class SplineFlow(FlowPosterior):
    r"""Coupling steps by monotone rational-quadratic splines (Durkan et al. 2019).

    .. math:: z = \mu + \sigma f_K(\cdots f_1(\epsilon))

    In each step half of the units bend the others, in turn; the networks see that half and h, `hidden` values of the
    encoder. The splines act on the noise, so that [-B, B], beyond which they are the identity, is in units of sigma,
    whatever the codes' scale. Both directions take one pass. A fresh model's posterior is the diagonal Gaussian.

    Args:
        steps: K; two at least let every unit be bent.
        hidden: the units of each of a network's two hidden layers.
        bins: of a spline.
        bound: B.
    """

    bends_noise: ClassVar[bool] = True

    steps: int = 2
    hidden: int = 64
    bins: int = 8
    bound: float = 5.0

    def __post_init__(self) -> None:
        check_sizes(self, "steps", "hidden", "bins")
        if self.bins < 2 or self.bins > 500:
            raise InputError(f"bins of SplineFlow must be 2 to 500, got {self.bins}")
        if not 0 < self.bound < math.inf:
            raise InputError(f"bound of SplineFlow must be positive, got {self.bound}")

    def check(self, model: Autoencoder) -> None:
        """Raises InputError of a code of one unit, which has no halves."""
        check_units(self, model.latent_dim)

    def context(self, units: int) -> int:
        """h."""
        return self.hidden

    def flows(self, units: int) -> list[Flow]:
        """The coupling steps."""
        return [
            SplineCoupling(units, self.hidden, self.hidden, bins=self.bins, bound=self.bound, backwards=step % 2 == 1)
            for step in range(self.steps)
        ]
