"""Objectives of variational autoencoders: what is minimised, given q(z | x)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from lightning_ae.config import Configurable
from lightning_ae.parts.posteriors import Distribution

if TYPE_CHECKING:
    from lightning_ae.models.vae import VAE


class Objective(Configurable):
    """The terms of a batch, plain data."""

    needs_data_size: ClassVar[bool] = False
    """Whether it asks how many samples the training data have."""

    def check(self, model: VAE) -> None:
        """Raises InputError where it cannot work with the model's other parts."""

    @abstractmethod
    def __call__(self, model: VAE, q: Distribution, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """Named scalars, in nats per sample, of which "loss" is minimised.

        Args:
            model: whose prior, likelihood and draws it takes.
            q: q(z | x) of the batch.
            target: (B, *input_shape).
            given: what else the model takes of the batch.
        """

    def bound(self, terms: dict[str, Tensor]) -> Tensor:
        """The bound on -log p(x) that the terms hold."""
        return terms["reconstruction"] + terms["kl"]


@dataclass(frozen=True)
class ELBO(Objective):
    r"""The negative evidence lower bound from one draw, its divergence weighted by the model's beta.

    .. math:: -\mathbb E_{q(z \mid x)} [\log p(x \mid z)] + \beta\, KL(q(z \mid x) \,\|\, p(z))
    """

    def __call__(self, model: VAE, q: Distribution, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The "loss" and its terms "reconstruction" and "kl"."""
        z = q.draw(model.noise("posterior"))
        reconstruction = model.reconstruction_loss(z, target, **given)
        kl = model.prior.kl(model, q, z).mean()
        return {"loss": reconstruction + model.kl_weight * kl, "reconstruction": reconstruction, "kl": kl}
