"""What codes tell of disentanglement where no factors are known: UDR, and a Gaussian's total correlation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_ae.errors import InputError
from lightning_ae.metrics.base import MomentsMetric, check_finite
from lightning_ae.metrics.factors import RowsMetric


class UDR(RowsMetric):
    r"""Unsupervised disentanglement ranking: how well the units of each model are those of the others, up to their
    order and sign.

    For two models and the similarity R of their units a and b, the size of Spearman's correlation,

    .. math:: \mathrm{UDR}_{ij} = \frac{1}{d_a + d_b} \Big[ \sum_b \frac{r_b^2}{\sum_a R_{ab}} +
        \sum_a \frac{r_a^2}{\sum_b R_{ab}} \Big], \quad r_a = \max_b R_{ab}, \; r_b = \max_a R_{ab}

    and of model i the median over the others (Duan et al. 2020, https://arxiv.org/abs/1905.12614, equation 2; theirs is
    for models trained alike from several seeds). Only units that say something count, d_a and d_b of them: those whose
    variance over the data exceeds a threshold (see `ActiveUnits`), where the paper takes their divergence. A pair of
    which one has none is 0.

    Args:
        models: how many there are, two or more.
        threshold: on the variance of a unit.

    Raises:
        InputError: when there are fewer models, or the threshold is negative.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import UDR
        >>> codes = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
        >>> turned = (codes[:, :1] + codes[:, 1:], codes[:, :1] - codes[:, 1:])
        >>> [f"{value:.2f}" for value in UDR(3)([codes, -codes.flip(1), torch.cat(turned, dim=1)]).tolist()]
        ['0.68', '0.68', '0.36']
    """

    higher_is_better = True
    plot_upper_bound = 1.0
    units: Tensor

    def __init__(self, models: int, threshold: float = 0.01, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if models < 2:
            raise InputError(f"models of UDR must be 2 or more, which are compared; got {models}")
        if not threshold >= 0:
            raise InputError(f"threshold of UDR must not be negative, got {threshold}")
        self.models, self.threshold = models, threshold
        # a rank without any sample takes them from the others
        self.add_state("units", torch.zeros(models, dtype=torch.long), dist_reduce_fx="max")

    def update(self, codes: Sequence[Tensor]) -> None:
        """Adds a batch: of each model the codes without randomness, (N, D) of its own D, of the same samples.

        Raises:
            InputError: when there are other than `models`, shapes are others, or codes are not finite.
        """
        if len(codes) != self.models:
            raise InputError(f"codes must be those of {self.models} models, got {len(codes)}", "UDR(models=...)")
        for number, each in enumerate(codes):
            if each.ndim != 2 or len(each) != len(codes[0]) or not each.shape[1]:
                raise InputError(
                    f"codes of model {number} must have the shape ({len(codes[0])}, D), a row for each sample, got "
                    f"{tuple(each.shape)}"
                )
            check_finite(f"codes of model {number}", each)
        units = torch.tensor([each.shape[1] for each in codes], device=self.device)
        if self.samples and not units.equal(self.units):
            raise InputError(
                f"codes have {units.tolist()} units, those of earlier batches {self.units.tolist()}",
                "reset() starts anew",
            )
        self.units = units
        self.add(torch.cat([each.detach().to(self.device, torch.float64) for each in codes], dim=1))

    def compute(self) -> Tensor:
        """Of each model, (models,); NaN before the first sample.

        Raises:
            InputError: with fewer than three samples.
        """
        found: Tensor = super().compute()
        return found if found.ndim else found.expand(self.models)

    def measure(self, rows: list[np.ndarray]) -> np.ndarray:  # noqa: D102
        from scipy.stats import rankdata

        (codes,) = rows
        if len(codes) < 3:
            raise InputError(f"UDR needs three samples at least, got {len(codes)}")
        model = np.repeat(np.arange(self.models), self.units.tolist())
        taken = codes.var(axis=0) > self.threshold
        ranks, model = rankdata(codes[:, taken], axis=0), model[taken]
        ranks = (ranks - ranks.mean(axis=0)) / np.where(ranks.std(axis=0) > 0, ranks.std(axis=0), 1)
        alike = np.abs(ranks.T @ ranks) / len(ranks)
        pairs = np.full((self.models, self.models), np.nan)
        for i in range(self.models):
            for j in range(self.models):
                if i != j:
                    pairs[i, j] = _agreement(alike[model == i][:, model == j])
        found: np.ndarray = np.nanmedian(pairs, axis=1)
        return found


class GaussianTotalCorrelation(MomentsMetric):
    r"""The total correlation of a Gaussian of the codes' covariance S, in nats: 0 where no unit is correlated with
    another.

    .. math:: \tfrac{1}{2} \Big( \sum_i \log S_{ii} - \log \det S \Big)

    Of codes that are no Gaussian's it sees linear dependence alone. Units that do not vary depend on nothing; units of
    which one is a sum of others make it infinite.

    Args:
        latent_dim: the number of units.

    Raises:
        InputError: when `latent_dim` is not positive.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import GaussianTotalCorrelation
        >>> codes = torch.tensor([[2.0, 1.0], [1.0, 2.0], [-2.0, -1.0], [-1.0, -2.0]])
        >>> GaussianTotalCorrelation(latent_dim=2)(codes)  # a correlation of 0.8
        tensor(0.5108)
    """

    is_differentiable = False
    higher_is_better = False
    plot_lower_bound = 0.0

    def compute(self) -> Tensor:
        """The total correlation, a scalar.

        Raises:
            InputError: with no more samples than units, of which the covariance has no inverse.
        """
        if not self.samples:
            return torch.full((), torch.nan, device=self.samples.device)
        if self.samples <= self.latent_dim:
            raise InputError(
                f"the covariance of {self.latent_dim} units needs more samples than that, got {int(self.samples)}"
            )
        mean = self.total / self.samples
        covariance = self.products / self.samples - mean[:, None] * mean
        # what is left of a unit that does not vary is rounding
        some = covariance.diagonal() > 1e-13 * self.products.diagonal() / self.samples
        scale = covariance.diagonal()[some].sqrt()
        sign, logarithm = torch.linalg.slogdet(covariance[some][:, some] / (scale[:, None] * scale))
        return torch.where(sign > 0, (-logarithm / 2).clamp(min=0), torch.inf).float()


def _agreement(alike: np.ndarray) -> float:
    """UDR of a pair of models, by the similarity of their units (units of one, units of the other)."""
    if not alike.size:
        return 0.0
    found = 0.0
    for each in (alike, alike.T):
        total, best = each.sum(axis=1), each.max(axis=1)
        found += (best[total > 0] ** 2 / total[total > 0]).sum()
    return float(found / sum(alike.shape))
