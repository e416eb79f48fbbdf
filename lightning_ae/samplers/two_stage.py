"""The sampler that is a second variational autoencoder, of the codes of the first (Dai & Wipf 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_ae.architectures import MLP
from lightning_ae.exact import Noise
from lightning_ae.parts.posteriors import DiagonalGaussian
from lightning_ae.parts.priors import StandardNormal
from lightning_ae.parts.sampling import Density, Sampler, Space
from lightning_ae.samplers.flow import check_training
from lightning_ae.samplers.scaling import Standardised
from lightning_ae.samplers.training import train

RATE, LEAST = 0.05, 1e-6
"""How fast the running variance follows a batch's, and how small it may get, of standardised codes."""


class TwoStageDensity(Standardised):
    """Codes that a second decoder makes of draws from N(0, I), with noise.

    Args:
        config: the sampler that fits it.
        space: where the codes lie.
    """

    tempered: ClassVar[bool] = True  # of u, and of what is added to what the second decoder makes of it
    variance: Tensor
    """gamma: of what the second decoder leaves of standardised codes."""

    def __init__(self, config: TwoStageSampler, space: Space) -> None:
        super().__init__(config, space)
        self.latent_dim = config.latent_dim or space.units
        network = MLP(hidden=config.hidden)
        self.encoder = network.encoder((space.units,), 2 * self.latent_dim)
        self.decoder = network.decoder(self.latent_dim, (space.units,))
        self.register_buffer("variance", torch.ones(()))

    def bound(self, x: Tensor, draws: torch.Generator) -> Tensor:
        """The bound on -log p of codes (B, units) in nats, by one draw of each, of their standardised form: (B,)."""
        q = DiagonalGaussian()(self.encoder(x))
        epsilon = torch.randn(q.mean.shape, generator=draws, device=x.device)
        u = q.mean + (q.log_variance / 2).exp() * epsilon
        squared = (x - self.decoder(u)).square().sum(dim=1)
        variance = self.variance
        if self.training:
            # the best for the batch, to which the gradient of a variance that is learned would lead
            variance = (squared.detach().mean() / x.shape[1]).clamp(min=LEAST)
            self.variance.lerp_(variance, RATE)
        constant = x.shape[1] * (math.log(2 * math.pi) + variance.log())
        kl = StandardNormal().kl_by_unit(q)
        assert kl is not None  # of a Gaussian
        return 0.5 * (squared / variance + constant) + kl.sum(dim=1) + self.log_scale

    @torch.no_grad()
    def sample(self, n: int, noise: Noise) -> Tensor:
        """`n` draws, (n, units)."""
        u = noise.randn_like(torch.zeros(n, self.latent_dim, device=self.variance.device))
        x = self.decoder(u)
        return self.outward(x + self.variance.sqrt() * noise.randn_like(x))


@dataclass(frozen=True)
class TwoStageSampler(Sampler):
    r"""A second variational autoencoder, of codes z that draws u from N(0, I) generate (Dai & Wipf 2019, section 4).

    .. math:: -\log p(z) \le \mathbb E_{q(u \mid z)} [-\log N(z; \mu(u), \gamma I)] + KL(q(u \mid z) \,\|\, N(0, I))

    The first stage finds the manifold of the data, whose codes need not be distributed as its prior; the second, whose
    data fill their space, learns how they are. u has as many values as z, as in the paper. gamma, which the paper
    learns by its gradient, is the one that is best for each batch of training, and then the running mean of those.
    Codes are standardised; the networks are trained as `lightning_ae.samplers.training` says, by one draw of each
    code, and compute in float32. It has no density that can be computed, and `held_out` is a bound.

    Args:
        latent_dim: of u; by default as z.
        hidden: the widths of the encoder's hidden layers, which the decoder mirrors.
        updates: steps of training.
        batch_size: codes in each.
        lr: the learning rate at first.
    """

    latent_dim: int | None = None
    hidden: tuple[int, ...] = (128, 128)
    updates: int = 3000
    batch_size: int = 256
    lr: float = 2e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_training(self, *(["latent_dim"] if self.latent_dim is not None else []))
        MLP(hidden=self.hidden)  # refuses what it cannot take

    def build(self, space: Space) -> TwoStageDensity:
        """Both networks, untrained."""
        self.check(space)
        return TwoStageDensity(self, space)

    def estimate(self, density: Density, codes: Tensor, seed: int) -> None:
        """Minimises the bound."""
        assert isinstance(density, TwoStageDensity)
        x = density.learn(codes)
        train(density, x, density.bound, updates=self.updates, batch_size=self.batch_size, lr=self.lr, seed=seed)
