"""Samplers that are Gaussians, one or a mixture of them."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_ae.errors import InputError
from lightning_ae.exact import Noise
from lightning_ae.parts.flows import check_sizes
from lightning_ae.parts.sampling import Density, Sampler, Space
from lightning_ae.samplers.scaling import standardised

REGULARISATION = 1e-6
"""What is added to the variances of standardised codes, so that each covariance has a Cholesky factor."""


class Gaussians(Density):
    r"""A mixture of K Gaussians with full covariances, :math:`p(z) = \sum_k w_k N(z; m_k, L_k L_k^T)`, in float64.

    Args:
        config: the sampler that fits it.
        space: where the codes lie.
        components: K.
    """

    tempered: ClassVar[bool] = True  # each covariance is multiplied by T^2
    weights: Tensor
    """w, (K,)."""
    means: Tensor
    """m, (K, units)."""
    factors: Tensor
    """L, lower triangular, (K, units, units)."""

    def __init__(self, config: Sampler, space: Space, components: int = 1) -> None:
        super().__init__(config, space)
        k, units = components, space.units
        self.register_buffer("weights", torch.full((k,), 1 / k, dtype=torch.float64))
        self.register_buffer("means", torch.zeros(k, units, dtype=torch.float64))
        self.register_buffer("factors", torch.eye(units, dtype=torch.float64).repeat(k, 1, 1))

    def log_prob(self, values: Tensor) -> Tensor:
        """log p(z) in nats: (..., units) to (...)."""
        z = values.reshape(-1, values.shape[-1]).to(self.means.dtype)
        each = []
        for log_weight, mean, factor in zip(self.weights.log(), self.means, self.factors, strict=True):
            away = torch.linalg.solve_triangular(factor, (z - mean).T, upper=False)
            constant = factor.diagonal().log().sum() + 0.5 * len(mean) * math.log(2 * math.pi)
            each.append(log_weight - constant - 0.5 * away.square().sum(dim=0))
        return torch.stack(each).logsumexp(dim=0).view(values.shape[:-1])

    def sample(self, n: int, noise: Noise) -> Tensor:
        """`n` draws, (n, units), each of a component that is drawn first: by the inverse of its distribution."""
        edges = self.weights.cumsum(dim=0)
        edges = edges[:-1] / edges[-1]
        chosen = torch.zeros(n, dtype=torch.long, device=edges.device)
        if len(edges):
            chosen = torch.searchsorted(edges, noise.rand_like(edges.new_zeros(n)), right=True)
        z = noise.randn_like(self.means.new_zeros(n, self.space.units))
        for k in chosen.unique().tolist():
            own = chosen == k
            z[own] = self.means[k] + z[own] @ self.factors[k].T
        return z

    def set(self, weights: Tensor, means: Tensor, covariances: Tensor, shift: Tensor, scale: Tensor) -> None:
        """Takes over the mixture of codes that were standardised by shift and scale, (units,)."""
        self.weights.copy_(weights)
        self.means.copy_(shift + scale * means)
        self.factors.copy_(scale[:, None] * torch.linalg.cholesky(covariances))


@dataclass(frozen=True)
class GaussianSampler(Sampler):
    r"""A Gaussian with a full covariance (Ghosh et al. 2020, section 4).

    .. math:: p(z) = N(z; m, S), \qquad m = \frac1N \sum_i z_i, \qquad
        S = \frac1N \sum_i (z_i - m)(z_i - m)^T + 10^{-6}\, \mathrm{diag}\, s^2

    s are the codes' standard deviations, by which a value that does not vary has its floor; see
    `lightning_ae.samplers.scaling`. All is computed and kept in float64.
    """

    def build(self, space: Space) -> Gaussians:
        """One component."""
        self.check(space)
        return Gaussians(self, space)

    def estimate(self, density: Density, codes: Tensor, seed: int) -> None:
        """The moments."""
        assert isinstance(density, Gaussians)
        x, shift, scale = standardised(codes)
        covariance = x.T @ x / len(x) + REGULARISATION * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        density.set(x.new_ones(1), torch.zeros_like(shift)[None], covariance[None], shift, scale)


@dataclass(frozen=True)
class MixtureSampler(Sampler):
    r"""A mixture of Gaussians with full covariances (Ghosh et al. 2020, section 4, which has 10).

    .. math:: p(z) = \sum_{k=1}^K w_k\, N(z; m_k, S_k)

    scikit-learn's `GaussianMixture` fits it by expectation maximisation to the standardised codes, from the clusters
    of k-means, with 1e-6 added to each variance there; draws and densities are computed here, in float64, in which it
    is kept.

    Args:
        components: K.
        iterations: of expectation maximisation at most; where they do not suffice, a warning says so.
    """

    components: int = 10
    iterations: int = 200

    def __post_init__(self) -> None:
        check_sizes(self, "components", "iterations")

    @property
    def fewest(self) -> int:
        """A code for each component, and two at least."""
        return max(2, self.components)

    def build(self, space: Space) -> Gaussians:
        """So many components."""
        self.check(space)
        return Gaussians(self, space, self.components)

    def estimate(self, density: Density, codes: Tensor, seed: int) -> None:
        """Expectation maximisation."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        assert isinstance(density, Gaussians)
        x, shift, scale = standardised(codes)
        found = GaussianMixture(
            self.components, reg_covar=REGULARISATION, max_iter=self.iterations, random_state=seed % 2**32
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            try:
                found.fit(x.cpu().numpy())
            except ValueError as error:
                raise InputError(
                    f"no mixture of {self.components} Gaussians can be fitted to {len(x)} codes: {error}",
                    "give fewer components, or GaussianSampler()",
                ) from error
        if not found.converged_:
            rank_zero_warn(f"MixtureSampler has not settled after {self.iterations} iterations: give it more")
        weights, means, covariances = (
            torch.from_numpy(each).to(x) for each in (found.weights_, found.means_, found.covariances_)
        )
        density.set(weights, means, covariances, shift, scale)
