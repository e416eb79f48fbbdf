"""The adversarial autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from lightning_ae.architectures.critic import Critic, detached, groups_of
from lightning_ae.autoencoder import Autoencoder, Options
from lightning_ae.config import from_plain
from lightning_ae.errors import InputError
from lightning_ae.exact import Noise
from lightning_ae.parts.likelihoods import at_least_float32
from lightning_ae.parts.priors import Prior, StandardNormal


class AdversarialAutoencoder(Autoencoder):
    r"""Codes that a critic cannot tell from draws of a prior (Makhzani et al. 2015).

    The critic :math:`c` gives the log-odds that a code was drawn from the prior :math:`p(z)`. Encoder :math:`\phi` and
    decoder :math:`\psi` minimise

    .. math:: \mathbb E \left[ -\log p(x \mid \psi(\phi(x))) - \lambda \log s(c(\phi(x))) \right],

    with s the logistic function, and the critic, at the same time,

    .. math:: -\mathbb E_{p(z)} [\log s(c(z))] - \mathbb E [\log (1 - s(c(\phi(x))))].

    At the optimum the codes of the data are distributed as the prior, so that its draws decode to samples of the data.
    The encoder is deterministic: what varies are the data. Where the paper steps in turn, here one backward pass serves
    both sides, with the gradients that two optimizers would see on the same codes; see
    `lightning_ae.architectures.detached`. "loss" is the sum of both, so watch its terms.

    Args:
        critic: tells codes from draws, a `Critic`.
        prior: p(z), a prior of `lightning_ae.parts`.
        adversarial_weight: lambda.
        critic_lr: the learning rate of the critic; by default lr.
    """

    reference: ClassVar[str] = "Makhzani et al. 2015, https://arxiv.org/abs/1511.05644"
    generates: ClassVar[bool] = True

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int = 16,
        *,
        critic: Critic = Critic(),
        prior: Prior = StandardNormal(),
        adversarial_weight: float = 1.0,
        critic_lr: float | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(input_shape, latent_dim, **options)
        if not adversarial_weight >= 0:
            raise InputError(f"adversarial_weight must not be negative, got {adversarial_weight}")
        if critic_lr is not None and not critic_lr > 0:
            raise InputError(f"critic_lr must be positive, got {critic_lr}")
        self.adversarial_weight, self.critic_lr = adversarial_weight, critic_lr
        self.prior = from_plain(Prior, prior, "prior")
        self.prior_weights: nn.Module | None = self.prior.build(self)
        if self.prior_weights is not None and any(p.requires_grad for p in self.prior_weights.parameters()):
            raise InputError(
                f"prior {type(self.prior).__name__} has weights, which a critic teaches nothing",
                "use one without, such as StandardNormal",
            )
        self.prior.check(self)
        self.critic = from_plain(Critic, critic, "critic").build(self.code_shape)

    @property
    def drawn_objective(self) -> str:
        """The reconstruction and both sides of the game, from draws of the prior."""
        return "adversarial_loss"

    def loss(self, x: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The terms "reconstruction", "adversarial" (without its weight) and "critic", and the total "loss".

        In nats: at the optimum "adversarial" is log 2, "critic" 2 log 2.
        """
        z = self.encode(x, **given)
        drawn = self.prior.sample(self, len(z), self.noise("prior")).detach()
        reconstruction = self.reconstruction_loss(z, target, **given)
        adversarial = _surprise(detached(self.critic, z))
        critic = _surprise(self.critic(drawn)) + _surprise(-self.critic(z.detach()))
        loss = reconstruction + self.adversarial_weight * adversarial + critic
        return {"loss": loss, "reconstruction": reconstruction, "adversarial": adversarial, "critic": critic}

    def prior_codes(self, n: int, temperature: float = 1.0) -> Tensor:
        """`n` draws from the prior, (n, *code_shape), in the weights' type."""
        return self.prior.sample(self, n, Noise(temperature=temperature)).to(self.dtype)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The critic's weights, with its learning rate, and all others."""
        return groups_of(self, self.critic, self.critic_lr)


def _surprise(logits: Tensor) -> Tensor:
    """The mean of -log s(logits), in float32 at least."""
    return F.softplus(-at_least_float32(logits)).mean()
