"""Objectives of variational autoencoders: what is minimised, given q(z | x)."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from lightning_ae.config import Configurable
from lightning_ae.errors import InputError, unknown
from lightning_ae.exact import rank, world_size
from lightning_ae.parts.posteriors import Distribution, Independent
from lightning_ae.parts.schedules import Schedule, read_schedules

if TYPE_CHECKING:
    from lightning_ae.models.vae import VAE


class Objective(Configurable):
    """The terms of a batch, plain data."""

    needs_data_size: ClassVar[bool] = False
    """Whether it asks how many samples the training data have."""

    def name(self, model: VAE) -> str:
        """What an evaluation calls the loss."""
        return "loss"

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

    Args:
        divergence: "best", in closed form where prior and posterior have one, else from the draw; "closed_form", which
            refuses a prior or posterior without; or "drawn", log q(z | x) - log p(z) of the draw.
    """

    divergence: Literal["best", "closed_form", "drawn"] = "best"

    def __post_init__(self) -> None:
        if self.divergence not in ("best", "closed_form", "drawn"):
            raise unknown("divergence of ELBO", str(self.divergence), ("best", "closed_form", "drawn"))

    def name(self, model: VAE) -> str:
        """What an evaluation calls the loss: with another beta than 1 it is no bound."""
        return "negative_elbo" if model.beta == 1 else "beta_vae_loss"

    def check(self, model: VAE) -> None:
        """Raises InputError where it is to take a closed form that there is not."""
        if self.divergence == "closed_form" and not model.prior.closed_form(model.posterior):
            raise InputError(
                f"the divergence of a {type(model.posterior).__name__} from a {type(model.prior).__name__} has no "
                "closed form",
                "use ELBO(divergence='best') or 'drawn', or the prior StandardNormal()",
            )

    def __call__(self, model: VAE, q: Distribution, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The "loss" and its terms "reconstruction" and "kl"."""
        noise, prior = model.noise("posterior"), model.prior
        drawn = self.divergence == "drawn"
        z, log_q = q.draw_with_log_prob(noise) if drawn else prior.draw_for_kl(model.posterior, q, noise)
        reconstruction = model.reconstruction_loss(z, target, **given)
        each = log_q - prior.log_prob(model, z) if drawn and log_q is not None else prior.kl(model, q, z, log_q)
        kl = each.mean()
        return {"loss": reconstruction + model.kl_weight * kl, "reconstruction": reconstruction, "kl": kl}


@dataclass(frozen=True)
class TotalCorrelation(Objective):
    r"""The evidence lower bound's divergence in three parts, each with a weight (Chen et al. 2018, equations 2 and 4).

    .. math:: -\mathbb E [\log p(x \mid z)] + \alpha\, I(z; x) + \beta\, KL(q(z) \,\|\, \prod_j q(z_j))
        + \gamma \sum_j KL(q(z_j) \,\|\, p(z_j))

    The mutual information of code and sample, the total correlation, weighted by the model's beta, and the divergence
    of each unit j of the code. :math:`q(z)` is the mixture of the posteriors of all N training samples, estimated from
    the M samples that all ranks have of the batch, both for the joint density and for each unit's:

    - "weighted" (minibatch weighted sampling, equation 5): :math:`\log \sum_j q(z_i \mid x_j) - \log N M`;
    - "stratified" (minibatch stratified sampling, appendix C.2): :math:`\log \sum_j W_{ij}\, q(z_i \mid x_j)`, with
      1 / N for the sample itself, (N - M + 1) / (N (M - 1)) for one other, and 1 / (M - 1) for the rest. A single
      sample counts 1; among more than N + 1 that one other counts 0.

    Whatever the batch, the parts sum up to log q(z | x) - log p(z) of the draw, so with all weights one this is the
    bound. Each alone is biased, the more the smaller the batch: they can be compared between runs of the same batch and
    data size only. Besides, "weighted" densities are 1 / N of the plain mean over the batch, the joint one as each
    unit's: of D units the mutual information is log N too large, the total correlation (D - 1) log N too large, and the
    divergence of the units D log N too small. These constants have no gradient. In evaluation N stays the number of
    training samples. With gradient accumulation M is one batch's.

    Args:
        alpha: the weight of the mutual information.
        gamma: the weight of the divergence of each unit.
        estimator: "weighted" or "stratified".
        alpha_schedule: what alpha is multiplied with at each step of a fit.
        gamma_schedule: what gamma is.
    """

    needs_data_size: ClassVar[bool] = True

    alpha: float = 1.0
    gamma: float = 1.0
    estimator: Literal["weighted", "stratified"] = "weighted"
    alpha_schedule: Schedule | None = None
    gamma_schedule: Schedule | None = None

    def __post_init__(self) -> None:
        read_schedules(self, "alpha_schedule", "gamma_schedule")
        for name in ("alpha", "gamma"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} of TotalCorrelation must not be negative, got {getattr(self, name)}")
        if self.estimator not in ("weighted", "stratified"):
            raise unknown("estimator of TotalCorrelation", str(self.estimator), ("weighted", "stratified"))

    def name(self, model: VAE) -> str:
        """What an evaluation calls the loss: a bound where all weights are one."""
        return "negative_elbo" if self.alpha == model.beta == self.gamma == 1 else "beta_tc_loss"

    def check(self, model: VAE) -> None:
        """Raises InputError where prior or posterior has no density for each unit of the code."""
        for part in (model.prior, model.posterior):
            if not part.independent:
                raise InputError(
                    f"TotalCorrelation takes the code's units apart, which are not independent under {part}",
                    "use the prior StandardNormal() and the posterior DiagonalGaussian()",
                )

    def __call__(self, model: VAE, q: Distribution, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The "loss" and its terms "reconstruction", "mutual_information", "total_correlation", "dimension_wise_kl"."""
        assert isinstance(q, Independent)
        z = q.draw(model.noise("posterior"))
        reconstruction = model.reconstruction_loss(z, target, **given)
        joint, units = self.aggregate(model, q, z)
        mutual_information = (q.log_prob(z) - joint).mean()
        total_correlation = (joint - units).mean()
        dimension_wise = (units - model.prior.log_prob(model, z)).mean()
        alpha = self.alpha * model.scheduled(self.alpha_schedule)
        gamma = self.gamma * model.scheduled(self.gamma_schedule)
        divergence = alpha * mutual_information + gamma * dimension_wise
        return {
            "loss": reconstruction + divergence + model.kl_weight * total_correlation,
            "reconstruction": reconstruction,
            "mutual_information": mutual_information,
            "total_correlation": total_correlation,
            "dimension_wise_kl": dimension_wise,
        }

    def aggregate(self, model: VAE, q: Independent, z: Tensor) -> tuple[Tensor, Tensor]:
        """log q(z) of each draw, and the sum over the units of log q(z_j), (B,) each.

        Args:
            model: which knows the size of the data.
            q: q(z | x) of this rank's samples.
            z: a draw for each, (B, *code_shape).

        Raises:
            InputError: when the size of the data is not known.
        """
        everyone = q.gather()
        each = everyone.log_prob_by_unit(z.unsqueeze(0).expand(len(everyone.mean), *z.shape)).flatten(
            2
        )  # (M, B, units)
        weights = self._log_weights(model, each)
        joint = (each.sum(dim=2, keepdim=True) + weights).logsumexp(dim=0)
        return joint.squeeze(1), (each + weights).logsumexp(dim=0).sum(dim=1)

    def _log_weights(self, model: VAE, each: Tensor) -> Tensor:
        """What the density at each draw (B) under each sample's posterior (M) counts, (M, B, 1) or (1, 1, 1)."""
        m, own = each.shape[:2]
        n = model.training_samples().to(each.dtype)
        if self.estimator == "weighted":
            return -(n.log() + math.log(m)).view(1, 1, 1)
        if m == 1:
            return n.new_zeros(1, 1, 1)
        weights = each.new_full((m, own), 1 / (m - 1))
        mine = torch.arange(own, device=each.device)
        place = rank() + world_size() * mine  # under strided shares
        weights[place, mine] = 1 / n
        weights[(place + 1) % m, mine] = ((n - m + 1) / (n * (m - 1))).clamp(min=0)
        return weights.log().unsqueeze(2)

    def bound(self, terms: dict[str, Tensor]) -> Tensor:
        """The bound on -log p(x): the parts without their weights."""
        parts = ("reconstruction", "mutual_information", "total_correlation", "dimension_wise_kl")
        return torch.stack([terms[name] for name in parts]).sum()
