"""Objectives of variational autoencoders that weight several draws of each sample by their importance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_ae.errors import InputError, unknown
from lightning_ae.exact import Dropout, rows
from lightning_ae.parts.objectives import Objective
from lightning_ae.parts.posteriors import Distribution
from lightning_ae.parts.priors import BATCH_NORMS, VampPrior
from lightning_ae.parts.schedules import Schedule, read_schedules

if TYPE_CHECKING:
    from lightning_ae.models.vae import VAE

Gradient = Literal["plain", "stl", "dreg"]
Pair = tuple[Tensor, Tensor]
Bounds = Mapping[int, float]
"""Weights that sum to one, of means of so many bounds each: {1: 1.0} is one bound of all draws."""
LEAST_SHARE = 1e-20
"""Where the encoder's gradient is another than the decoder's, what a draw counts at least for the decoder: too little
to be seen beside the others, and enough that the gradient at the draw's code can be scaled."""
DROPOUTS = (
    Dropout,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)


@dataclass(frozen=True)
class IWAEObjective(Objective):
    r"""The importance-weighted bound from K draws of each sample (Burda et al. 2016, equation 8).

    .. math:: -\mathbb E_{z_1 \ldots z_K \sim q(z \mid x)} \log \frac1K \sum_k w_k, \quad
        w_k = \frac{p(x \mid z_k)\, p(z_k)}{q(z_k \mid x)}

    It bounds :math:`-\log p(x)` from above, the tighter the more draws; with one it is the negative evidence lower
    bound. The gradient passes through the draws, z = z(epsilon, phi), by reparametrisation. With the normalised weights
    :math:`\tilde w_k = w_k / \sum_j w_j`, that of decoder and prior is always
    :math:`-\sum_k \tilde w_k \nabla_\theta \log w_k`; that of the encoder is one of three, and the loss has the same
    value under each:

    - "plain", :math:`-\sum_k \tilde w_k \frac{d \log w_k}{d \phi}`: the loss's own. Its signal-to-noise ratio falls
      with K (Rainforth et al. 2018, "Tighter variational bounds are not necessarily better").
    - "stl" (sticking the landing, Roeder et al. 2017),
      :math:`-\sum_k \tilde w_k \frac{\partial \log w_k}{\partial z_k} \frac{\partial z_k}{\partial \phi}`: q's
      parameters are constants in log q. Where q is the posterior it is exactly zero. With K > 1 it is biased.
    - "dreg" (doubly reparametrised, Tucker et al. 2019),
      :math:`-\sum_k \tilde w_k^2 \frac{\partial \log w_k}{\partial z_k} \frac{\partial z_k}{\partial \phi}`: as that,
      and without bias. With K = 1 the two are the same.

    An encoder that is a part of the prior, as in `VampPrior`, has the prior's gradient for that part, so "dreg" is
    without bias there, too; but then only the posterior's part is zero where q is the posterior.

    `chunk` computes so many draws at a time, and in training computes each chunk again for its gradient, so that memory
    holds the networks' activations of one chunk only, with the codes of all K draws. The draws are the same whatever
    the chunk, and so are loss and gradient, to rounding. A scale that is fitted to the data's errors ("optimal") is
    that of all K draws, and costs a step one more pass of the decoder.

    Args:
        samples: K.
        gradient: "plain", "stl" or "dreg".
        chunk: how many draws of each sample are computed at a time; by default all.
    """

    samples: int = 5
    gradient: Gradient = "plain"
    chunk: int | None = None

    def __post_init__(self) -> None:
        _check_positive(self, "samples", "chunk")
        if self.gradient not in get_args(Gradient):
            raise unknown(f"gradient of {type(self).__name__}", str(self.gradient), get_args(Gradient))

    def name(self, model: VAE) -> str:
        """What an evaluation calls the loss."""
        return "negative_iwae_bound"

    def check(self, model: VAE) -> None:
        """Raises InputError where beta would make it no bound: no divergence stands apart that it could weight.

        And where a network would make another thing of a chunk than of all draws.
        """
        if model.beta != 1 or model.beta_schedule is not None:
            raise InputError(
                f"{type(self).__name__} has no divergence to weight, got beta={model.beta:g}"
                + ("" if model.beta_schedule is None else " with a beta_schedule"),
                "leave out beta and beta_schedule, or use the objective ELBO()",
            )
        if self.gradient != "plain" and not model.posterior.evaluates:
            raise InputError(
                f"gradient={self.gradient!r} of {type(self).__name__} asks for the density of draws as constants, and "
                f"{type(model.posterior).__name__} knows that of its own draws only",
                "use gradient='plain', or a posterior such as DiagonalGaussian() or SplineFlow()",
            )
        if self._whole:
            return
        networks = {"decoder": model.decoder}
        if isinstance(model.prior, VampPrior):  # encodes its pseudo-inputs for each chunk
            networks["encoder"] = model.encoder
        for role, network in networks.items():
            for layer in network.modules():
                if isinstance(layer, (*BATCH_NORMS, *DROPOUTS)):
                    raise InputError(
                        f"chunk={self.chunk} of {type(self).__name__} computes a part of the draws at a time, of which "
                        f"the {role}'s {type(layer).__name__} would make something else than of all",
                        "give the architecture norm='layer', 'group' or 'none' and no dropout, or leave out chunk",
                    )

    def __call__(self, model: VAE, q: Distribution, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """The "loss", which is the bound, and, as means over the draws, "reconstruction" and "kl"."""
        z, log_q = q.draw_with_log_prob(model.noise("posterior"), self.samples)
        if q.mean.requires_grad and not z.requires_grad:
            raise InputError(
                f"{type(self).__name__} takes its gradient through the draws, and those of {model.posterior} have none",
                "use the posterior DiagonalGaussian()",
            )
        if self.gradient != "plain":
            log_q = q.detach().log_prob(z)
        decoder, encoder = self.of_decoder(model), self.of_encoder(model)
        apart = z.requires_grad and (self.gradient == "dreg" or encoder != decoder)
        decoded = z.view_as(z) if apart else z  # the way to the codes that leads through the joint density alone
        log_p, log_prior = self._log_joint(model, decoded, target, given)
        log_ratio = log_q - log_prior
        log_weights = log_p - log_ratio
        bound = bound_of(log_weights, decoder)
        if apart:
            own = shares(log_weights.detach(), decoder).clamp(min=LEAST_SHARE)
            encoders = shares(log_weights.detach(), encoder, 2 if self.gradient == "dreg" else 1)
            ratio = (encoders / own).view(*own.shape, *[1] * (z.ndim - 2))
            decoded.register_hook(lambda gradient: gradient * ratio)
            log_joint = log_p + log_prior
            bound = bound.detach() + (own * (log_joint.detach() - log_joint)).sum(dim=1)
            bound = bound + (encoders * (log_q - log_q.detach())).sum(dim=1)
        return {"loss": bound.mean(), "reconstruction": -log_p.mean(), "kl": log_ratio.mean()}

    def of_decoder(self, model: VAE) -> Bounds:
        """The bounds that the loss is, which decoder and prior minimise."""
        return {1: 1.0}

    def of_encoder(self, model: VAE) -> Bounds:
        """Those that the encoder minimises."""
        return self.of_decoder(model)

    def bound(self, terms: dict[str, Tensor]) -> Tensor:
        """The loss."""
        return terms["loss"]

    @property
    def _whole(self) -> bool:
        return self.chunk is None or self.chunk >= self.samples

    def _log_joint(self, model: VAE, z: Tensor, target: Tensor, given: Mapping[str, Tensor]) -> Pair:
        """log p(x | z) and log p(z) of draws (B, K, *code_shape), (B, K) each."""
        if self._whole:
            return log_joint(model, z, target, given)
        parts = z.split(self.chunk or self.samples, dim=1)
        fitted = None
        if model.training and model.head.fits:
            with torch.no_grad(), model.head.summing() as found:
                for part in parts:
                    log_joint(model, part, target, given)
            (fitted,) = found

        def of_part(part: Tensor) -> Pair:
            with nullcontext() if fitted is None else model.head.taking(fitted):
                return log_joint(model, part, target, given)

        again = torch.is_grad_enabled()
        each = [
            checkpoint(of_part, part, use_reentrant=False, preserve_rng_state=False) if again else of_part(part)
            for part in parts
        ]
        log_p, log_prior = zip(*each, strict=True)
        return torch.cat(log_p, dim=1), torch.cat(log_prior, dim=1)


@dataclass(frozen=True)
class MIWAEObjective(IWAEObjective):
    r"""The mean of M importance-weighted bounds, of L = K / M draws each (Rainforth et al. 2018, section 5).

    .. math:: -\mathbb E_{z_{11} \ldots z_{ML} \sim q(z \mid x)} \frac1M \sum_m \log \frac1L \sum_l w_{ml}

    Looser than the bound of all K draws, and with an encoder's gradient of less noise. M = 1 is `IWAEObjective`, M = K
    the negative evidence lower bound from K draws. The paper calls it MIWAE, multiply importance-weighted; the method
    of Mattei & Frellsen (2019) for missing data has that name, too, and is `lightning_ae.MissingDataIWAE`.

    Args:
        samples: K, of all bounds.
        gradient: "plain", "stl" or "dreg", as of `IWAEObjective`, in each bound.
        chunk: how many draws of each sample are computed at a time; by default all.
        bounds: M, of which K is a multiple.
    """

    samples: int = 16
    bounds: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(self, "bounds")
        if self.samples % self.bounds:
            raise InputError(
                f"samples of {type(self).__name__} are shared evenly by its bounds, got samples={self.samples} and "
                f"bounds={self.bounds}",
                f"use {self.samples - self.samples % self.bounds or self.bounds} samples, say",
            )

    def name(self, model: VAE) -> str:
        """What an evaluation calls the loss."""
        return "negative_miwae_bound"

    def of_decoder(self, model: VAE) -> Bounds:
        """The mean of M bounds."""
        return {self.bounds: 1.0}


@dataclass(frozen=True)
class PIWAEObjective(MIWAEObjective):
    r"""The bound of all draws for the decoder, and the mean of M bounds for the encoder (Rainforth et al. 2018).

    The partially importance-weighted autoencoder: of the same K = M L draws, decoder and prior minimise the tight
    bound, that of `IWAEObjective`, and the encoder that of `MIWAEObjective`, whose gradient has less noise,

    .. math:: -\sum_{ml} \frac{w_{ml}}{\sum_{ij} w_{ij}} \nabla_\theta \log w_{ml}, \qquad
        -\frac1M \sum_{ml} \frac{w_{ml}}{\sum_j w_{mj}} \frac{d \log w_{ml}}{d \phi}.

    "loss" has the value of the first. Both gradients come out of one backward pass, in which that at a draw's code is
    multiplied with the ratio of its two weights. In half precision with 5 bits of exponent ("16-mixed") the gradient of
    a draw that counts for less than some 1e-10 of all is lost on the way; "bf16-mixed" keeps it.

    Args:
        samples: K, of all bounds.
        gradient: the encoder's, "plain", "stl" or "dreg", as of `IWAEObjective`, in each bound.
        chunk: how many draws of each sample are computed at a time; by default all.
        bounds: M, of which K is a multiple; 1 is `IWAEObjective`.
    """

    def name(self, model: VAE) -> str:
        """What an evaluation calls the loss."""
        return "negative_iwae_bound"

    def of_decoder(self, model: VAE) -> Bounds:
        """One bound of all draws."""
        return {1: 1.0}

    def of_encoder(self, model: VAE) -> Bounds:
        """The mean of M bounds."""
        return {self.bounds: 1.0}


@dataclass(frozen=True)
class CIWAEObjective(IWAEObjective):
    r"""A mean of the evidence lower bound and the importance-weighted one (Rainforth et al. 2018, section 5).

    The combination importance-weighted autoencoder, of the same K draws for both,

    .. math:: -\mathbb E_{z_1 \ldots z_K \sim q(z \mid x)} \Big[ \beta \frac1K \sum_k \log w_k
        + (1 - \beta) \log \frac1K \sum_k w_k \Big].

    With beta = 0 it is `IWAEObjective`, with 1 the negative evidence lower bound from K draws, whose encoder's gradient
    does not lose its signal with K. The model's own beta weights another thing, the divergence, and stays 1.

    Args:
        samples: K.
        gradient: "plain", "stl" or "dreg", as of `IWAEObjective`; the evidence lower bound has "stl" under both.
        chunk: how many draws of each sample are computed at a time; by default all.
        elbo_weight: beta, in [0, 1].
        schedule: what it is multiplied with at each step of a fit.
    """

    elbo_weight: float = 0.5
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.elbo_weight <= 1:
            raise InputError(
                f"elbo_weight of {type(self).__name__} must lie in [0, 1], got {self.elbo_weight}",
                "0 is the importance-weighted bound, 1 the evidence lower bound",
            )
        read_schedules(self, "schedule")

    def name(self, model: VAE) -> str:
        """What an evaluation calls the loss."""
        return "negative_ciwae_bound"

    def of_decoder(self, model: VAE) -> Bounds:
        """The mean of K bounds of one draw, and the bound of all."""
        weight = self.elbo_weight * model.scheduled(self.schedule)
        if not 0 <= weight <= 1:
            raise InputError(
                f"the schedule {self.schedule} makes elbo_weight={self.elbo_weight:g} a weight of {weight:g}"
            )
        if self.samples == 1 or weight == 0:
            return {1: 1.0}
        return {self.samples: 1.0} if weight == 1 else {self.samples: weight, 1: 1 - weight}


def bound_of(log_weights: Tensor, bounds: Bounds) -> Tensor:
    """The bounds on -log p(x) that log-weights (B, K) make, weighted, (B,)."""
    each = []
    for count, weight in bounds.items():
        grouped = log_weights.unflatten(1, (count, -1))
        bound = math.log(grouped.shape[2]) - grouped.logsumexp(dim=2)
        each.append(bound.mean(dim=1) if weight == 1 else weight * bound.mean(dim=1))
    return torch.stack(each).sum(dim=0)


def shares(log_weights: Tensor, bounds: Bounds, power: int = 1) -> Tensor:
    """What each draw counts in them: minus their gradient with respect to the log-weights (B, K), of that shape.

    With the power 2, what it counts for the encoder under "dreg".
    """
    each = []
    for count, weight in bounds.items():
        normalised = log_weights.unflatten(1, (count, -1)).softmax(dim=2)
        each.append(weight / count * (normalised**power).flatten(1))
    return torch.stack(each).sum(dim=0)


def log_joint(model: VAE, z: Tensor, target: Tensor, given: Mapping[str, Tensor]) -> Pair:
    """log p(x | z) and log p(z), (B, n) each.

    Args:
        model: whose likelihood and prior it takes.
        z: n draws of each sample, (B, n, *code_shape).
        target: (B, *input_shape).
        given: what else the model takes of the batch.
    """
    n = z.shape[1]
    repeated = {role: value.repeat_interleave(n, dim=0) for role, value in given.items()}
    with rows("by_sample"):
        likelihood = model.log_likelihood(z.flatten(0, 1), target.repeat_interleave(n, dim=0), **repeated)
    return likelihood.unflatten(0, (-1, n)), model.prior.log_prob(model, z)


def _check_positive(objective: IWAEObjective, *names: str) -> None:
    for name in names:
        value = getattr(objective, name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole and value >= 1) and not (name == "chunk" and value is None):
            raise InputError(f"{name} of {type(objective).__name__} must be a positive integer, got {value!r}")
