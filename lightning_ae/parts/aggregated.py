"""Objectives that weigh what a whole batch's codes say, of all ranks: the bound, and a term that is no mean over
samples."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from lightning_ae.config import Configurable
from lightning_ae.errors import InputError, unknown
from lightning_ae.exact import gather_batch, sum_over_ranks
from lightning_ae.parts.likelihoods import at_least_float32
from lightning_ae.parts.objectives import Objective
from lightning_ae.parts.posteriors import DiagonalGaussian, DiagonalNormal, Distribution
from lightning_ae.parts.priors import StandardNormal
from lightning_ae.parts.schedules import Schedule, read_schedules

if TYPE_CHECKING:
    from lightning_ae.models.vae import VAE

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""What the width of the kernel of `MaximumMeanDiscrepancy` is multiplied with; the kernels are summed."""


@dataclass(frozen=True)
class FreeBits(Objective):
    r"""The negative evidence lower bound, without a price on the first nats of each unit (Kingma et al. 2016).

    A unit is one of the code, with all positions of a map together. With :math:`K_{ij}` the divergence of sample i and
    unit j, it minimises the reconstruction and, weighted by the model's beta, one of two objectives that are not the
    same:

    - "batch_mean", :math:`\sum_j \max(\lambda, \tfrac1N \sum_i K_{ij})`, the paper's: over the batch of all ranks;
    - "per_sample", :math:`\tfrac1N \sum_{ij} \max(\lambda, K_{ij})`, which leaves each sample its nats.

    With gradient accumulation the mean is over one batch.

    Args:
        threshold: lambda, the free nats of each unit.
        form: which of the two.
        schedule: what lambda is multiplied with at each step of a fit.
    """

    threshold: float = 0.1
    form: Literal["batch_mean", "per_sample"] = "batch_mean"
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        _check_weights(self, "threshold")
        read_schedules(self, "schedule")
        if self.form not in ("batch_mean", "per_sample"):
            raise unknown("form of FreeBits", str(self.form), ("batch_mean", "per_sample"))

    def name(self, model: VAE) -> str:
        """What an evaluation calls the loss: a bound only where nothing is free."""
        return "negative_elbo" if self.threshold == 0 and model.beta == 1 else "free_bits_loss"

    def check(self, model: VAE) -> None:
        """Raises InputError where the divergence is not a sum over units in closed form."""
        _check_closed_form(self, model)

    def __call__(self, model: VAE, q: Distribution, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The "loss" and its terms "reconstruction", "kl" and "free_kl", what of "kl" is paid for and what is free."""
        terms = model.prior.kl_by_unit(q)
        assert terms is not None
        reconstruction = model.reconstruction_loss(q.draw(model.noise("posterior")), target, **given)
        each = terms.unsqueeze(-1).flatten(2).sum(dim=2)
        kl = each.sum(dim=1).mean()
        free = self.threshold * model.scheduled(self.schedule)
        if self.form == "per_sample":
            paid = each.clamp(min=free).sum(dim=1).mean()
        else:
            paid = mean_of_all(each).clamp(min=free).sum()
        return {
            "loss": reconstruction + model.kl_weight * paid,
            "reconstruction": reconstruction,
            "kl": kl,
            "free_kl": paid,
        }


@dataclass(frozen=True)
class Capacity(Objective):
    r"""The reconstruction, and how far the divergence is from what a code may hold (Burgess et al. 2018).

    .. math:: -\mathbb E_{q(z \mid x)} [\log p(x \mid z)] + \gamma\, |KL(q(z \mid x) \,\|\, p(z)) - C|

    The divergence is the mean over the batch of all ranks, gamma the model's beta. C, in nats, rises over the fit, so
    that a code takes up one factor after another.

    Args:
        capacity: C, at the end.
        schedule: what C is multiplied with at each step of a fit, `Warmup(25000)` say; None leaves it as it is.
    """

    capacity: float = 25.0
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        _check_weights(self, "capacity")
        read_schedules(self, "schedule")

    def name(self, model: VAE) -> str:
        """What an evaluation calls the loss."""
        return "capacity_loss"

    def __call__(self, model: VAE, q: Distribution, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The "loss" and its terms "reconstruction", "kl" and "excess", |KL - C|."""
        z, log_q = model.prior.draw_for_kl(model.posterior, q, model.noise("posterior"))
        reconstruction = model.reconstruction_loss(z, target, **given)
        kl = mean_of_all(model.prior.kl(model, q, z, log_q))
        excess = (kl - self.capacity * model.scheduled(self.schedule)).abs()
        loss = reconstruction + model.kl_weight * excess
        return {"loss": loss, "reconstruction": reconstruction, "kl": kl, "excess": excess}


class Regularised(Objective):
    """The negative evidence lower bound, and a further term with a weight."""

    term: ClassVar[str]
    """What the term is called."""

    def __call__(self, model: VAE, q: Distribution, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The "loss" and its terms "reconstruction", "kl", and the further one without its weight."""
        z, log_q = model.prior.draw_for_kl(model.posterior, q, model.noise("posterior"))
        given = model.completed(target, given)
        parameters = model.decoder_parameters(z, **given)
        reconstruction = -model.log_prob(parameters, target, **given).mean()
        kl = model.prior.kl(model, q, z, log_q).mean()
        weight, term = self.weighted(model, q, z, model.likelihood.mean(parameters), target)
        loss = reconstruction + model.kl_weight * kl + weight * term
        return {"loss": loss, "reconstruction": reconstruction, "kl": kl, self.term: term}

    @abstractmethod
    def weighted(self, model: VAE, q: Distribution, z: Tensor, made: Tensor, target: Tensor) -> tuple[float, Tensor]:
        """The weight at this step, and the term: of the samples of all ranks, or a mean over this rank's.

        Args:
            model: whose parts it is of.
            q: q(z | x).
            z: a draw for each sample, (B, *code_shape).
            made: the means of p(x | z), (B, *input_shape).
            target: what they are compared with.
        """


@dataclass(frozen=True)
class DisentangledPrior(Regularised):
    r"""The bound, and how far the aggregated posterior's covariance is from the identity (Kumar et al. 2018).

    .. math:: \lambda_{od} \sum_{i \ne j} C_{ij}^2 + \lambda_d \sum_i (C_{ii} - 1)^2

    C is the covariance over the batch of all N samples (divided by N): of the posteriors' means in DIP-VAE-I
    and of the draws in DIP-VAE-II, which is that and the mean of the variances.

    Args:
        kind: "I" or "II".
        off_diagonal: lambda_od.
        diagonal: lambda_d; None is ten times off_diagonal in I, and the same in II, as in the paper.
        schedule: what both are multiplied with at each step of a fit.
    """

    term: ClassVar[str] = "covariance"

    kind: Literal["I", "II"] = "I"
    off_diagonal: float = 10.0
    diagonal: float | None = None
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        _check_weights(self, "off_diagonal", "diagonal")
        read_schedules(self, "schedule")
        if self.kind not in ("I", "II"):
            raise unknown("kind of DisentangledPrior", str(self.kind), ("I", "II"))

    def name(self, model: VAE) -> str:
        """What an evaluation calls the loss."""
        return "dip_vae_loss"

    def check(self, model: VAE) -> None:
        """Raises InputError where the posterior has no variances."""
        if not isinstance(model.posterior, DiagonalGaussian):
            raise InputError(
                f"DisentangledPrior takes means and variances, which {model.posterior} does not have",
                "use the posterior DiagonalGaussian()",
            )

    def weighted(self, model: VAE, q: Distribution, z: Tensor, made: Tensor, target: Tensor) -> tuple[float, Tensor]:
        """The schedule's factor, and the penalty with both weights."""
        assert isinstance(q, DiagonalNormal)
        mean, variance = q.mean.flatten(1), q.log_variance.exp().flatten(1)
        centred = mean - mean_of_all(mean)
        product, total, count = sum_over_ranks(
            centred.T @ centred, variance.sum(dim=0), mean.new_tensor(float(len(mean)))
        )
        covariance = (product + torch.diag(total) if self.kind == "II" else product) / count
        diagonal = covariance.diagonal()
        on = self.diagonal if self.diagonal is not None else self.off_diagonal * (10 if self.kind == "I" else 1)
        off = covariance.square().sum() - diagonal.square().sum()
        return model.scheduled(self.schedule), self.off_diagonal * off + on * (diagonal - 1).square().sum()


@dataclass(frozen=True)
class MaximumMeanDiscrepancy(Regularised):
    r"""The bound, and the distance of the aggregated posterior from the prior (Zhao, Song & Ermon 2019).

    .. math:: MMD = \frac{1}{n (n - 1)} \sum_{i \ne j} k(z_i, z_j) + k(z'_i, z'_j)
        - \frac{2}{n^2} \sum_{ij} k(z_i, z'_j)

    Over the n draws z of the posteriors of all ranks' samples and as many z' of the prior, without bias. The kernel is
    the sum of inverse multiquadrics :math:`C / (C + \|z - z'\|^2)` with :math:`C = 2 d s`, d the dimensions of the code
    and s in .1, .2, .5, 1, 2, 5 and 10. With the paper's weights, the model's beta is :math:`1 - \alpha` and `weight`
    :math:`\alpha + \lambda - 1`.

    Args:
        weight: of the distance.
        schedule: what it is multiplied with at each step of a fit.
    """

    term: ClassVar[str] = "mmd"

    weight: float = 100.0
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        _check_weights(self, "weight")
        read_schedules(self, "schedule")

    def name(self, model: VAE) -> str:
        """What an evaluation calls the loss."""
        return "mmd_vae_loss"

    def weighted(self, model: VAE, q: Distribution, z: Tensor, made: Tensor, target: Tensor) -> tuple[float, Tensor]:
        """The weight at this step, and the squared distance."""
        drawn = model.prior.sample(model, len(z), model.noise("prior"))
        a, b = (at_least_float32(gather_batch(each.flatten(1))) for each in (z, drawn))
        return self.weight * model.scheduled(self.schedule), mmd(a, b)


def mmd(a: Tensor, b: Tensor) -> Tensor:
    """The squared maximum mean discrepancy of two samples of one size, (n, d) each, without bias; of one row, 0."""
    n, width = len(a), 2 * a.shape[1]

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        squared = (x.unsqueeze(1) - y).square().sum(dim=2)
        return torch.stack([width * s / (width * s + squared) for s in SCALES]).sum(dim=0)

    within = sum(kernel(x, x).sum() - n * len(SCALES) for x in (a, b)) / max(n * (n - 1), 1)
    return within - 2 * kernel(a, b).mean() if n > 1 else 0 * (a.sum() + b.sum())


def mean_of_all(each: Tensor) -> Tensor:
    """The mean over the samples (dimension 0) of all ranks."""
    total, count = sum_over_ranks(each.sum(dim=0), each.new_tensor(float(len(each))))
    return total / count


def _check_closed_form(objective: Objective, model: VAE) -> None:
    if not (isinstance(model.prior, StandardNormal) and isinstance(model.posterior, DiagonalGaussian)):
        raise InputError(
            f"{type(objective).__name__} takes the divergence of each unit of the code, which {model.posterior} and "
            f"{model.prior} do not have",
            "use the prior StandardNormal() and the posterior DiagonalGaussian()",
        )


def _check_weights(part: Configurable, *names: str) -> None:
    for name in names:
        value = getattr(part, name)
        if value is not None and not 0 <= value < math.inf:
            raise InputError(f"{name} of {type(part).__name__} must not be negative, got {value}")
