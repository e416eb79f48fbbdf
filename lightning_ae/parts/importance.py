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

if TYPE_CHECKING:
    from lightning_ae.models.vae import VAE

Gradient = Literal["plain", "stl", "dreg"]
Pair = tuple[Tensor, Tensor]
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
        for name in ("samples", "chunk"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole and value >= 1) and not (name == "chunk" and value is None):
                raise InputError(f"{name} of {type(self).__name__} must be a positive integer, got {value!r}")
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
        log_p, log_prior = self._log_joint(model, z, target, given)
        log_ratio = log_q - log_prior
        log_weights = log_p - log_ratio
        if self.gradient == "dreg" and z.requires_grad:
            shares = log_weights.detach().softmax(dim=1).view(*log_weights.shape, *[1] * (z.ndim - 2))
            z.register_hook(lambda gradient: gradient * shares)  # of z alone, which has their first power already
        loss = math.log(self.samples) - log_weights.logsumexp(dim=1).mean()
        return {"loss": loss, "reconstruction": -log_p.mean(), "kl": log_ratio.mean()}

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
