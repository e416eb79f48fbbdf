"""How alike the codes of two models are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_ae.errors import InputError
from lightning_ae.metrics.base import SampleMetric, code_doubles, positive


class LinearCKA(SampleMetric):
    r"""How alike two models' codes of the same samples are: linear centred kernel alignment (Kornblith et al. 2019).

    .. math:: CKA = \frac{\|Y^T X\|_F^2}{\|X^T X\|_F \|Y^T Y\|_F}

    of centred codes X and Y (https://arxiv.org/abs/1905.00414, section 3). It lies in [0, 1]; rotations, reflections
    and scales of either leave it as it is, and 1 says that one is such of the other. It is computed of sums over
    samples, never of a matrix of all pairs of them.

    Codes that have nothing to do with each other do not reach 0 where samples are not many times the units: about
    :math:`d / (d + n)` for n samples and d units of equal spread. `unbiased` takes the unbiased estimates of the three
    terms instead (Song et al. 2012, https://jmlr.org/papers/v13/song12a.html; Nguyen et al. 2021,
    https://arxiv.org/abs/2010.15327), whose ratio is about 0 there, and may lie below it. These have fourth
    powers among their sums: subtract a constant from codes whose mean is more than a hundred times their spread.

    Where the codes of one do not vary the value is NaN; so it is of fewer than two samples, unbiased of fewer than
    four.

    Args:
        latent_dim: the number of units of the first model's codes.
        other_dim: that of the second's.
        unbiased: whether the terms' estimates are.

    Raises:
        InputError: when a number is not positive.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import LinearCKA
        >>> codes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
        >>> metric = LinearCKA(latent_dim=2, other_dim=2)
        >>> metric(codes, 5 * codes.flip(1) + 7)
        tensor(1.)
    """

    is_differentiable = False
    higher_is_better = None
    plot_upper_bound = 1.0

    def __init__(self, latent_dim: int, other_dim: int, unbiased: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        positive(self, latent_dim=latent_dim, other_dim=other_dim)
        self.dims, self.unbiased = (latent_dim, other_dim), unbiased
        for i, dim in enumerate(self.dims):
            self.add_sum(f"total_{i}", dim)
        for i, j in PAIRS:
            self.add_sum(f"products_{i}{j}", self.dims[i], self.dims[j])
            if unbiased:
                # |x_i|^2 |y_i|^2, and x_i |y_i|^2 of either
                self.add_sum(f"sizes_{i}{j}")
                self.add_sum(f"first_{i}{j}", self.dims[i])
                self.add_sum(f"second_{i}{j}", self.dims[j])

    def update(self, codes: Tensor, others: Tensor) -> None:
        """Adds a batch of codes (B, latent_dim) and the other model's of the same samples, (B, other_dim).

        Raises:
            InputError: when either have another shape, are not of as many samples, or are not finite.
        """
        rows = (
            code_doubles(codes.detach(), self.dims[0]),
            code_doubles(others.detach(), self.dims[1], "others"),
        )
        if len(rows[0]) != len(rows[1]):
            raise InputError(f"codes are of {len(codes)} samples, others of {len(others)}: they must be of the same")
        squares = [part.square().sum(dim=1) for part in rows]
        for i, part in enumerate(rows):
            self._add(f"total_{i}", part.sum(dim=0))
        for i, j in PAIRS:
            self._add(f"products_{i}{j}", rows[i].T @ rows[j])
            if self.unbiased:
                self._add(f"sizes_{i}{j}", squares[i] @ squares[j])
                self._add(f"first_{i}{j}", squares[j] @ rows[i])
                self._add(f"second_{i}{j}", squares[i] @ rows[j])
        self.samples += len(codes)

    def compute(self) -> Tensor:
        """The alignment, a scalar."""
        if self.samples < (4 if self.unbiased else 2):
            return torch.tensor(float("nan"), device=self.device)
        term = self._unbiased if self.unbiased else self._biased
        between, one, other = (term(i, j) for i, j in PAIRS)
        return (between / (one * other).sqrt()).float()

    def _add(self, name: str, value: Tensor) -> None:
        setattr(self, name, getattr(self, name) + value)

    def _biased(self, i: int, j: int) -> Tensor:
        """The squared norm of the centred products; 0 where what is left of them is rounding."""
        total, other = getattr(self, f"total_{i}"), getattr(self, f"total_{j}")
        products: Tensor = getattr(self, f"products_{i}{j}")
        centred = products - total.outer(other) / self.samples
        return _unless_rounding(centred.square().sum(), products.square().sum(), 1e-26)

    def _unbiased(self, i: int, j: int) -> Tensor:
        """The estimate of HSIC, but for a factor that all terms have, of kernel matrices K and L without diagonals."""
        n = self.samples.double()
        total, other = getattr(self, f"total_{i}"), getattr(self, f"total_{j}")
        products, sizes = getattr(self, f"products_{i}{j}"), getattr(self, f"sizes_{i}{j}")
        trace = products.square().sum() - sizes
        sums = [getattr(self, f"total_{e}").square().sum() - getattr(self, f"products_{e}{e}").trace() for e in (i, j)]
        rows = (
            total @ products @ other
            - total @ getattr(self, f"first_{i}{j}")
            - other @ getattr(self, f"second_{i}{j}")
            + sizes
        )
        found = trace + sums[0] * sums[1] / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)
        return _unless_rounding(found, products.square().sum(), 1e-13)


PAIRS = ((0, 1), (0, 0), (1, 1))
"""Of which codes the three terms are."""


def _unless_rounding(value: Tensor, size: Tensor, share: float) -> Tensor:
    return torch.where(value.abs() <= share * size, 0.0, value)
