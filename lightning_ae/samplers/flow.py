"""Samplers that are normalizing flows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from lightning_ae.errors import InputError, unknown
from lightning_ae.exact import Noise
from lightning_ae.parts.flows import Flows, GatedAutoregressive, MaskedAutoregressive, check_sizes
from lightning_ae.parts.sampling import Density, Sampler, Space
from lightning_ae.samplers.scaling import Standardised
from lightning_ae.samplers.training import train

Kind = Literal["maf", "iaf"]


class FlowDensity(Standardised):
    """Codes that a flow makes of draws from N(0, I).

    Args:
        config: the sampler that fits it.
        space: where the codes lie.
    """

    tempered: ClassVar[bool] = True  # before the flow

    def __init__(self, config: FlowSampler, space: Space) -> None:
        super().__init__(config, space)
        step = MaskedAutoregressive if config.kind == "maf" else GatedAutoregressive
        steps = [step(space.units, config.hidden, backwards=i % 2 == 1) for i in range(config.steps)]
        self.flows = Flows(space.units, steps)

    def log_prob(self, values: Tensor) -> Tensor:
        """log p(z) in nats: (..., units) to (...)."""
        return self.log_prob_inside(self.inward(values)) - self.log_scale

    def log_prob_inside(self, x: Tensor) -> Tensor:
        """The same of standardised codes, without the logarithm of the scale."""
        noise, log_det = self.flows(x, inverse=True)
        return -0.5 * (noise.square() + math.log(2 * math.pi)).sum(dim=-1) - log_det

    @torch.no_grad()
    def sample(self, n: int, noise: Noise) -> Tensor:
        """`n` draws, (n, units)."""
        x = self.flows(noise.randn_like(torch.zeros(n, self.space.units, device=self.shift.device)))[0]
        return self.outward(x)


@dataclass(frozen=True)
class FlowSampler(Sampler):
    r"""A normalizing flow from N(0, I) to the standardised codes.

    .. math:: \log p(z) = \log N(f^{-1}(z); 0, I) - \log \left| \det \frac{\partial f}{\partial x} \right|

    - "maf" (Papamakarios et al. 2017, equations 3 to 5): :math:`y_i = m_i(y_{<i}) + e^{a_i(y_{<i})} x_i` in each step.
      The density, and so the fit, takes one pass a step, a draw as many as a code has values.
    - "iaf" (Kingma et al. 2016, equations 13 and 14): :math:`y_i = \sigma_i x_i + (1 - \sigma_i) m_i` of what is before
      :math:`x_i`. A draw takes one pass a step, the density, and so the fit, as many as a code has values.

    Each step takes the values in the reverse order of the one before. The networks are trained as
    `lightning_ae.samplers.training` says, and compute in float32.

    Args:
        kind: "maf" or "iaf".
        steps: how many.
        hidden: the units of each of a step's two hidden layers.
        updates: steps of training.
        batch_size: codes in each.
        lr: the learning rate at first.
    """

    kind: Kind = "maf"
    steps: int = 4
    hidden: int = 128
    updates: int = 2000
    batch_size: int = 256
    lr: float = 2e-3

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise unknown("kind of FlowSampler", str(self.kind), get_args(Kind))
        check_training(self, "steps", "hidden")

    def build(self, space: Space) -> FlowDensity:
        """The steps' weights, which leave N(0, I) as it is, or nearly.

        Raises:
            InputError: when a code is a single value.
        """
        self.check(space)
        if space.units < 2:
            raise InputError(
                "FlowSampler lets some values of a code depend on others, and there is one",
                "take MixtureSampler() or GaussianSampler()",
            )
        return FlowDensity(self, space)

    def estimate(self, density: Density, codes: Tensor, seed: int) -> None:
        """Maximum likelihood."""
        assert isinstance(density, FlowDensity)
        x = density.learn(codes)

        def loss(x: Tensor, draws: torch.Generator) -> Tensor:
            return density.log_scale - density.log_prob_inside(x)

        train(density, x, loss, updates=self.updates, batch_size=self.batch_size, lr=self.lr, seed=seed)


def check_training(sampler: FlowSampler | Sampler, *sizes: str) -> None:
    """Raises InputError where one of its sizes, or what its training takes, cannot work."""
    check_sizes(sampler, *sizes, "updates", "batch_size")
    lr = getattr(sampler, "lr")  # noqa: B009  of those with a training
    if not 0 < lr < math.inf:
        raise InputError(f"lr of {type(sampler).__name__} must be positive, got {lr}")
