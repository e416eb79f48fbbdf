"""The variational autoencoder whose critic measures the total correlation of its code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Unpack

from lightning_ae.architectures.critic import Critic, detached, groups_of
from lightning_ae.config import from_plain
from lightning_ae.errors import InputError
from lightning_ae.exact import gather_batch
from lightning_ae.models.vae import VAE
from lightning_ae.models.vae_variants import ObjectiveSettled
from lightning_ae.parts.likelihoods import at_least_float32
from lightning_ae.parts.schedules import Schedule


class FactorVAE(VAE):
    r"""A variational autoencoder whose code's units are independent by a critic's judgement (Kim & Mnih 2018).

    It minimises the negative evidence lower bound and the total correlation of the code,

    .. math:: \gamma\, KL(q(z) \,\|\, \prod_j q(z_j)) \approx \gamma\, \mathbb E_{q(z)} [c(z)],

    where the critic c gives the log-odds that a code is one, and not a shuffled one. It learns them, at the same time,
    from the codes of the first half of the batch of all ranks, and from those of the second half, of which each unit is
    shuffled over the samples by itself. The critic sees codes as constants, and the encoder the critic's weights as
    such: the gradients are those of two optimizers; see `lightning_ae.architectures.detached`. "loss" is the sum of
    both sides, so watch its terms; "total_correlation" is the critic's estimate, no bound in either direction.

    Args:
        gamma: the weight of the total correlation.
        gamma_schedule: what gamma is multiplied with at each step of a fit, a schedule of `lightning_ae.parts`.
        critic: tells codes from shuffled ones, a `Critic`; the paper's has six layers of 1000.
        critic_lr: the learning rate of the critic; by default lr.
    """

    reference: ClassVar[str] = "Kim & Mnih 2018, https://arxiv.org/abs/1802.05983"

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int = 16,
        *,
        gamma: float = 10.0,
        gamma_schedule: Schedule | None = None,
        critic: Critic = Critic(hidden=(256, 256)),
        critic_lr: float | None = None,
        **options: Unpack[ObjectiveSettled],
    ) -> None:
        super().__init__(input_shape, latent_dim, **options)
        if not gamma >= 0:
            raise InputError(f"gamma must not be negative, got {gamma}")
        if critic_lr is not None and not critic_lr > 0:
            raise InputError(f"critic_lr must be positive, got {critic_lr}")
        self.gamma, self.critic_lr = gamma, critic_lr
        self.gamma_schedule = None if gamma_schedule is None else from_plain(Schedule, gamma_schedule, "gamma_schedule")
        self.critic = from_plain(Critic, critic, "critic").build(self.code_shape)

    @property
    def drawn_objective(self) -> str:
        """The bound, the total correlation and the critic's side, from draws."""
        return "factor_vae_loss"

    def loss(self, x: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The terms "reconstruction", "kl", "total_correlation" (without its weight) and "critic", and "loss".

        In nats; "critic", a sum over both halves, is 2 log 2 where it can tell nothing.
        """
        if self.training:
            self.prior.observe(self, target)
        q = self.infer(x, **given)
        z, log_q = self.prior.draw_for_kl(self.posterior, q, self.noise("posterior"))
        reconstruction = self.reconstruction_loss(z, target, **given)
        kl = self.prior.kl(self, q, z, log_q).mean()
        total_correlation = at_least_float32(detached(self.critic, z.to(self.dtype))).mean()
        critic = self._critic_loss(z.detach())
        weight = self.gamma * self.scheduled(self.gamma_schedule)
        loss = reconstruction + self.kl_weight * kl + weight * total_correlation + critic
        terms = {"loss": loss, "reconstruction": reconstruction, "kl": kl}
        terms |= {"total_correlation": total_correlation, "critic": critic}
        if self.training:
            return terms
        return terms | self.bits_per_dimension(reconstruction + kl, target, **given)

    def _critic_loss(self, z: Tensor) -> Tensor:
        """Of the codes (B, *code_shape) of all ranks, the same on each."""
        codes = gather_batch(z).to(self.dtype)
        half = max(1, len(codes) // 2)
        real, other = codes[:half], codes[-half:].flatten(1)
        noise = self.noise("permutation")
        shuffled = torch.stack([column[noise.permutation(half)] for column in other.unbind(dim=1)], dim=1)
        told = (self.critic(real), -self.critic(shuffled.view_as(real)))
        return torch.stack([F.softplus(-at_least_float32(logits)).mean() for logits in told]).sum()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The critic's weights, with its learning rate, and all others."""
        return groups_of(self, self.critic, self.critic_lr)
