"""log p(x) of a model with a distribution over codes, by importance sampling."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

FEW = 10
"""With fewer effective draws, of at least twice as many, an estimate says no more than a bound."""


@dataclass(frozen=True)
class Evidence:
    r"""Estimates of :math:`\log p(x)` of N samples, each from K draws :math:`z_k \sim q(z \mid x)`.

    .. math:: \log \hat p(x) = \log \frac1K \sum_k w_k, \quad w_k = p(x \mid z_k)\, p(z_k) / q(z_k \mid x)

    (Burda, Grosse & Salakhutdinov 2016). Its expectation is a lower bound of :math:`\log p(x)`, below it by about half
    of the squared standard error.

    Args:
        log_p: the estimates, in nats, (N,), float64.
        error: the standard error of each by the draws, :math:`\sqrt{Var(w) / K} / \bar w` (the delta method), (N,).
        effective: how many draws carry the estimate, :math:`(\sum_k w_k)^2 / \sum_k w_k^2`, from 1 to K, (N,). With few
            of them the true error is larger than `error` says.
        variance: of the sum of all estimates by the draws, which those of a batch share.
        draws: K.
        dimensions: the number of values in a sample, where the likelihood gives data like these a probability, and not
            a density.
    """

    log_p: Tensor
    error: Tensor
    effective: Tensor
    variance: float
    draws: int
    dimensions: int | None = None

    @classmethod
    def of(cls, log_weights: Tensor, dimensions: int | None = None) -> Evidence:
        """Of :math:`\\log w_k` of a batch, (B, K), whose samples have draws in common."""
        log_weights = log_weights.double()
        k = log_weights.shape[1]
        total = log_weights.logsumexp(dim=1, keepdim=True)
        relative = (log_weights - total).exp() * k  # w_k over their mean
        error = ((relative - 1).square().sum(dim=1) / (k * (k - 1))).sqrt()
        variance = float((relative - 1).sum(dim=0).square().sum() / (k * (k - 1)))
        effective = k**2 / relative.square().sum(dim=1)
        return cls(total[:, 0] - math.log(k), error, effective, variance, k, dimensions)

    @classmethod
    def joined(cls, parts: Iterable[Evidence]) -> Evidence:
        """Of batches after each other, each with draws of its own; says once where the draws are too few."""
        found: Sequence[Evidence] = list(parts)
        log_p, error, effective = (
            torch.cat([getattr(each, name).cpu() for each in found]) for name in ("log_p", "error", "effective")
        )
        dimensions = {each.dimensions for each in found}
        sizes = dimensions.pop() if len(dimensions) == 1 else None
        if few := int((effective < min(FEW, found[0].draws / 2)).sum()):
            rank_zero_warn(
                f"of {few} of {len(log_p)} samples few of the {found[0].draws} draws carry the evidence ({FEW}, or "
                "half, would do): there it is a bound, and its standard error is too small; take more samples"
            )
        return cls(log_p, error, effective, sum(each.variance for each in found), found[0].draws, sizes)

    @property
    def mean(self) -> float:
        """The mean of the estimates, in nats."""
        return float(self.log_p.mean())

    @property
    def mean_error(self) -> float:
        """Its standard error by the draws: how far other draws would move it."""
        return math.sqrt(self.variance) / len(self.log_p)

    @property
    def data_error(self) -> float:
        """Its standard error by the data: how far other samples of the same distribution would move it."""
        return float(self.log_p.std()) / math.sqrt(len(self.log_p))

    @property
    def bits_per_dimension(self) -> float | None:
        """The mean of -log p(x) in bits for each value; None where p(x) is a density, which depends on the units."""
        return None if self.dimensions is None else -self.mean / (self.dimensions * math.log(2))
