"""Whether a generator copies its training data: the nearest training rows of samples, and a test of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lightning_ae.errors import InputError
from lightning_ae.metrics.neighbours import BLOCK, check_neighbours, check_rows, nearest
from lightning_ae.metrics.samples import GENERATED, HELD_OUT, REAL, Features, RowsMetric, features_of

if TYPE_CHECKING:
    from lightning_ae.figures import Figure


class Nearest(NamedTuple):
    """The nearest training rows of samples."""

    indices: Tensor
    """Which training row it is, (N,)."""
    distances: Tensor
    """How far it is, (N,), in float64."""


def nearest_training(
    samples: Tensor, training: Tensor, features: Features | None = None, block: int = BLOCK
) -> Nearest:
    """The nearest training row of each sample, by the Euclidean distance of pixels or of features.

    Args:
        samples: (N, ...), on the device of the training rows.
        training: (M, ...), of the same shape.
        features: a module or a function that makes features (B, F) of rows (B, ...), in evaluation mode; none for the
            distance of the values themselves, as one vector of each row.
        block: how many samples are compared with all training rows at a time, and how many rows `features` is given.

    Returns:
        Which row it is, and how far.

    Raises:
        InputError: when shapes differ, a set is empty, or values are not finite.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import nearest_training
        >>> training = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
        >>> nearest_training(torch.tensor([[3.0, 3.0], [0.0, 0.5]]), training)
        Nearest(indices=tensor([1, 0]), distances=tensor([1.0000, 0.5000], dtype=torch.float64))
    """
    check_neighbours(1, block)
    if samples.shape[1:] != training.shape[1:]:
        raise InputError(
            f"a sample has the shape {tuple(samples.shape[1:])}, a training row {tuple(training.shape[1:])}"
        )
    rows = []
    for name, part in (("samples", samples), ("training", training)):
        vectors = torch.cat([features_of(features, each) for each in part.split(block)]) if features else part
        rows.append(check_rows(name, vectors if features else vectors.flatten(1)))
    distances, indices = nearest(rows[0], rows[1], block=block)
    return Nearest(indices[:, 0], distances[:, 0])


def nearest_figure(
    samples: Tensor, training: Tensor, features: Features | None = None, columns: int = 12, title: str = ""
) -> Figure:
    """Samples in rows, and below each its nearest training image; see `nearest_training`.

    Args:
        samples: images (N, C, H, W) in [0, 1].
        training: images (M, C, H, W) in [0, 1].
        features: as `nearest_training` takes them.
        columns: how many samples stand beside each other.
        title: above all.

    Raises:
        InputError: for what are no images, and as `nearest_training`.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import nearest_figure
        >>> figure = nearest_figure(torch.rand(4, 1, 8, 8), torch.rand(9, 1, 8, 8), columns=2)
        >>> len(figure.axes)
        8
    """
    from lightning_ae.callbacks.pictures import unit_figure

    if samples.ndim != 4:
        raise InputError(f"samples must be images (N, C, H, W), got {tuple(samples.shape)}")
    if columns < 1:
        raise InputError(f"columns must be positive, got {columns}")
    beside = training[nearest_training(samples, training, features).indices]
    rows = []
    for upper, lower in zip(samples.split(columns), beside.split(columns), strict=True):
        rows += [upper.float().cpu(), lower.float().cpu()]
    return unit_figure(rows, ["sample", "nearest"] * (len(rows) // 2), title)


class DataCopying(RowsMetric):
    r"""Whether generated samples lie nearer to the training data than held-out ones do (Meehan et al. 2020).

    Let :math:`L` be a row's distance from the nearest real, that is training, row, P the held-out rows and Q the
    generated ones. "nearer" is the share of pairs in which the generated row is the nearer one,
    :math:`Pr(L(Q) < L(P))`, of equal ones a half: 1/2 where nothing is copied, 1 where everything is, less than 1/2
    where samples are worse than real rows. "c_t" says how sure that is. It is the z-score of the Mann-Whitney statistic
    U, the number of pairs in which the generated row is the farther one,

    .. math:: Z_U = \frac{U - n m / 2}{\sqrt{n m (n + m + 1) / 12}}, \quad
        C_T = \frac{\sum_\pi P_n(\pi) Z_U(\pi)}{\sum_\pi P_n(\pi)}

    in each cell of a partition of the space, weighted with the share of held-out rows in it (AISTATS 2020,
    https://arxiv.org/abs/2004.05675): far below zero where the generator copies, far above where it
    underfits. A generator that copies in one place and underfits in another shows it in cells only. Cells are those of
    k-means of the training rows, with the seed 0; distances are those from the training rows of the same cell; cells
    with fewer than 20 held-out or generated rows, of which Z is not normal, are left out. Ties shorten the root, as
    usual.

    Args:
        feature_dim: the number of features, F.
        features: a module or a function that makes features (B, F) of samples (B, ...); none where `update` is given
            features.
        cells: into how many the space is partitioned.
        block: how many samples are compared with all training rows at a time.

    Raises:
        InputError: when an argument is not positive.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import DataCopying
        >>> draw = torch.Generator().manual_seed(0)
        >>> real, held_out = torch.randn(2, 200, 4, generator=draw)
        >>> metric = DataCopying(feature_dim=4)
        >>> metric.update(real, "real")
        >>> metric.update(held_out, "held_out")
        >>> metric.update(real + 0.01 * torch.randn(200, 4, generator=draw), "generated")
        >>> metric.compute()
        {'nearer': tensor(1.), 'c_t': tensor(-17.2989)}
    """

    higher_is_better = None
    LEAST: int = 20

    def __init__(
        self, feature_dim: int, features: Features | None = None, cells: int = 1, block: int = BLOCK, **kwargs: Any
    ) -> None:
        super().__init__(feature_dim, features, **kwargs)
        check_neighbours(1, block)
        if cells < 1:
            raise InputError(f"cells of {type(self).__name__} must be positive, got {cells}")
        self.cells, self.block = cells, block

    def compute(self) -> dict[str, Tensor]:
        """How often generated rows are the "nearer" ones, and "c_t"; NaN where a set is empty.

        Raises:
            InputError: when there are fewer training rows than cells, or no cell has enough rows.
        """
        real, *others = (self.rows(kind) for kind in (REAL, HELD_OUT, GENERATED))
        nearer = c_t = float("nan")
        if len(real) and all(map(len, others)):
            held_out, generated = (nearest(part, real, block=self.block)[0][:, 0] for part in others)
            nearer = 1 - _farther(held_out, generated) / (len(held_out) * len(generated))
            c_t = self._in_cells(real, *others) if self.cells > 1 else self._weighted([(held_out, generated)])
        return {"nearer": torch.tensor(nearer, device=self.device), "c_t": torch.tensor(c_t, device=self.device)}

    def _in_cells(self, real: Tensor, held_out: Tensor, generated: Tensor) -> float:
        from sklearn.cluster import KMeans

        if len(real) < self.cells:
            raise InputError(f"cells of {type(self).__name__} are {self.cells}, but there are {len(real)} real rows")
        # k-means draws rows by their place: they are put in an order that no number of ranks changes
        weights = torch.linspace(1, 2, self.feature_dim, dtype=real.dtype, device=real.device).cos()
        real = real[(real * weights).sum(dim=1).argsort()]
        means = KMeans(self.cells, n_init=1, random_state=0).fit(real.cpu().numpy())
        centres = torch.from_numpy(means.cluster_centers_).to(real)
        cells = [nearest(part, centres, block=self.block)[1][:, 0] for part in (real, held_out, generated)]
        pairs = []
        for cell in range(self.cells):
            here, *of_cell = (part[c == cell] for part, c in zip((real, held_out, generated), cells, strict=True))
            if len(here) and all(map(len, of_cell)):
                near = [nearest(part, here, block=self.block)[0][:, 0] for part in of_cell]
                pairs.append((near[0], near[1]))
        return self._weighted(pairs)

    def _weighted(self, pairs: list[tuple[Tensor, Tensor]]) -> float:
        """The mean of the cells' z-scores, of the distances of held-out and of generated rows in each."""
        enough = [pair for pair in pairs if min(map(len, pair)) >= self.LEAST]
        if not enough:
            raise InputError(
                f"no cell of {type(self).__name__} has {self.LEAST} held-out and {self.LEAST} generated rows",
                "give more rows, all of them before you compute, or take fewer cells",
            )
        rows = sum(len(held_out) for held_out, _ in enough)
        return sum(len(held_out) * _z_score(held_out, generated) for held_out, generated in enough) / rows


def _farther(one: Tensor, other: Tensor) -> float:
    """The number of pairs in which the other (M,) is greater than the one (N,), of equal ones a half."""
    ordered = one.sort().values
    below, at_most = torch.searchsorted(ordered, other), torch.searchsorted(ordered, other, right=True)
    return float(below.sum() + at_most.sum()) / 2


def _z_score(one: Tensor, other: Tensor) -> float:
    """That of the number of pairs in which the other is greater; 0 where all are equal."""
    n, m = len(one), len(other)
    ties = torch.cat([one, other]).unique(return_counts=True)[1].double()
    total = n + m
    variance = n * m / 12 * (total + 1 - float((ties**3 - ties).sum()) / (total * (total - 1)))
    return (_farther(one, other) - n * m / 2) / math.sqrt(variance) if variance > 0 else 0.0
