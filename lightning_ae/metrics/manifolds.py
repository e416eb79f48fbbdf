"""Whether generated samples lie where real ones do, and everywhere there: by the balls about their neighbours."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lightning_ae.errors import InputError
from lightning_ae.metrics.neighbours import BLOCK, check_neighbours, distances
from lightning_ae.metrics.samples import GENERATED, HELD_OUT, REAL, Features, RowsMetric


class _Inside(NamedTuple):
    """Points in balls."""

    points: Tensor
    """In how many balls each point lies, (N,)."""
    balls: Tensor
    """Whether each ball holds a point, (M,)."""


class NeighbourhoodMetric(RowsMetric):
    """Base of what counts samples in balls about others, each of which reaches as far as their k-th neighbour.

    Balls are closed: a sample on the border lies inside. Distances are Euclidean, computed in blocks, so that memory
    grows with the number of samples and not with its square, and values do not depend on the order of samples.

    Args:
        feature_dim: the number of features, F.
        features: a module or a function that makes features (B, F) of samples (B, ...); none where `update` is given
            features.
        k: the number of neighbours, of which no sample is its own.
        block: how many samples are compared with all of a set at a time.

    Raises:
        InputError: when an argument is not positive.
    """

    higher_is_better = True
    plot_lower_bound = 0.0
    names: ClassVar[tuple[str, str]]
    """Of the values."""

    def __init__(
        self, feature_dim: int, features: Features | None = None, k: int = 3, block: int = BLOCK, **kwargs: Any
    ) -> None:
        super().__init__(feature_dim, features, **kwargs)
        check_neighbours(k, block)
        self.k, self.block = k, block

    def compute(self) -> dict[str, Tensor]:
        """The values of generated samples; where some were held out, theirs, whose names end in "_held_out".

        NaN where there are no real samples, or no generated ones.

        Raises:
            InputError: when a set has some samples, and fewer than k + 1.
        """
        real = self.rows(REAL)
        found: dict[str, Tensor] = {}
        for kind in (GENERATED, HELD_OUT):
            others = self.rows(kind)
            if kind == HELD_OUT and not len(others):
                continue
            known = len(real) and len(others)
            values = self._compared(real, others, kind) if known else dict.fromkeys(self.names, float("nan"))
            end = "" if kind == GENERATED else f"_{kind}"
            found |= {f"{name}{end}": torch.tensor(value, device=self.device) for name, value in values.items()}
        return found

    @abstractmethod
    def _compared(self, real: Tensor, others: Tensor, kind: str) -> dict[str, float]:
        """Both values of others (M, F), which are of that kind, beside real samples (N, F)."""

    def _radii(self, rows: Tensor, kind: str) -> Tensor:
        """How far each sample's ball reaches, (N,)."""
        if len(rows) <= self.k:
            raise InputError(
                f"{type(self).__name__} has {len(rows)} {kind} samples, and k = {self.k} neighbours take at least "
                f"{self.k + 1}",
                "give all samples to update before you compute; forward, which computes of a batch, is not for it",
            )
        # the sample itself is the nearest, at a distance of zero
        reach = [part.kthvalue(self.k + 1, dim=1).values for part in distances(rows, rows, self.block)]
        return torch.cat(reach)

    def _inside(self, points: Tensor, centres: Tensor, radii: Tensor) -> _Inside:
        balls = torch.zeros(len(centres), dtype=torch.bool, device=centres.device)
        counts = []
        for part in distances(points, centres, self.block):
            inside = part <= radii
            counts.append(inside.sum(dim=1))
            balls |= inside.any(dim=0)
        return _Inside(torch.cat(counts), balls)


class PrecisionRecall(NeighbourhoodMetric):
    r"""Improved precision and recall of generated samples (Kynkäänniemi et al. 2019).

    Precision is the share of generated samples that lie in the ball of any real one, recall the share of real samples
    that lie in the ball of any generated one; a ball reaches to the k-th nearest sample of its own set:

    .. math:: f(\phi, \Phi) = 1 \text{ if } \|\phi - \phi'\| \le \|\phi' - NN_k(\phi', \Phi)\|
        \text{ for a } \phi' \in \Phi, \text{ else } 0

    (https://arxiv.org/abs/1904.06991, equations 1 and 2; k = 3). The balls of outliers are large, and swell both: see
    `DensityCoverage`. Held-out real samples do not reach 1: what they do reach is the most to expect.

    Args:
        feature_dim: the number of features, F.
        features: a module or a function that makes features (B, F) of samples (B, ...); none where `update` is given
            features.
        k: the number of neighbours, of which no sample is its own.
        block: how many samples are compared with all of a set at a time.

    Raises:
        InputError: when an argument is not positive.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import PrecisionRecall
        >>> metric = PrecisionRecall(feature_dim=1, k=1)
        >>> metric.update(torch.tensor([[0.0], [1.0], [2.0], [8.0]]), "real")
        >>> metric.update(torch.tensor([[0.5], [0.6], [1.6], [20.0]]), "generated")
        >>> metric.compute()
        {'precision': tensor(0.7500), 'recall': tensor(0.7500)}
    """

    names = ("precision", "recall")

    def _compared(self, real: Tensor, others: Tensor, kind: str) -> dict[str, float]:
        found = self._inside(others, real, self._radii(real, REAL)).points
        covered = self._inside(real, others, self._radii(others, kind)).points
        return {"precision": float((found > 0).double().mean()), "recall": float((covered > 0).double().mean())}


class DensityCoverage(NeighbourhoodMetric):
    r"""Density and coverage of generated samples (Naeem et al. 2020).

    With the balls of the N real samples alone, each to its k-th neighbour, density says in how many of them a generated
    sample lies, and coverage in what share of them any generated sample lies:

    .. math:: density = \frac{1}{k M} \sum_{j=1}^M \sum_{i=1}^N 1_{Y_j \in B(X_i, NND_k(X_i))}, \quad
        coverage = \frac{1}{N} \sum_{i=1}^N 1_{\exists j: Y_j \in B(X_i, NND_k(X_i))}

    (https://arxiv.org/abs/2002.09797; k = 5). Density may exceed 1, where generated samples crowd;
    of samples from the distribution of the real ones its expectation is 1, and that of coverage
    :math:`1 - (N-1) \cdots (N-k) / ((M+N-1) \cdots (M+N-k))`. Generated samples that equal the real ones have a
    density of 1 + 1 / k, since a closed ball holds its centre and k neighbours.

    Args:
        feature_dim: the number of features, F.
        features: a module or a function that makes features (B, F) of samples (B, ...); none where `update` is given
            features.
        k: the number of neighbours, of which no sample is its own.
        block: how many samples are compared with all of a set at a time.

    Raises:
        InputError: when an argument is not positive.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import DensityCoverage
        >>> metric = DensityCoverage(feature_dim=1, k=1)
        >>> metric.update(torch.tensor([[0.0], [1.0], [3.0], [8.0]]), "real")
        >>> metric.update(torch.tensor([[0.5], [20.0]]), "generated")
        >>> metric.compute()
        {'density': tensor(1.), 'coverage': tensor(0.5000)}
    """

    names = ("density", "coverage")

    def __init__(
        self, feature_dim: int, features: Features | None = None, k: int = 5, block: int = BLOCK, **kwargs: Any
    ) -> None:
        super().__init__(feature_dim, features, k, block, **kwargs)

    def _compared(self, real: Tensor, others: Tensor, kind: str) -> dict[str, float]:
        found = self._inside(others, real, self._radii(real, REAL))
        density = float(found.points.sum()) / (self.k * len(others))
        return {"density": density, "coverage": float(found.balls.double().mean())}
