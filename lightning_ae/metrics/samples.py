"""How near generated samples come to real ones: sets of rows, and the Frechet distance between them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_ae.errors import InputError, unknown
from lightning_ae.metrics.base import SampleMetric, check_finite, positive
from lightning_ae.metrics.lenet import LeNet, load_lenet

Features = Callable[[Tensor], Tensor]
"""Of rows (B, ...), such as images (B, C, H, W), their features (B, F)."""

REAL, GENERATED, HELD_OUT = "real", "generated", "held_out"


class SetMetric(SampleMetric):
    """Base of the metrics that compare sets of samples by their features.

    There are three sets: "real" samples, as a rule those that a model was trained on; those that it "generated"; and
    real ones that were "held_out", such as the test split. What the metric says of these is what a perfect model would
    reach, and it is said beside what it says of the generated ones.

    Features are computed without gradients and in evaluation mode. Weights of a module that computes them are not
    among those of the metric, nor of a model that holds it; it is brought to the device of the samples.

    Args:
        feature_dim: the number of features, F.
        features: a module or a function that makes features (B, F) of samples (B, ...); none where `update` is given
            features.

    Raises:
        InputError: when `feature_dim` is not positive.
    """

    is_differentiable = False
    sets: ClassVar[tuple[str, ...]] = (REAL, GENERATED, HELD_OUT)

    def __init__(self, feature_dim: int, features: Features | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        positive(self, feature_dim=feature_dim)
        self.feature_dim = feature_dim
        self._features = (features,)  # in a tuple: no part of this module

    def update(self, x: Tensor, kind: str) -> None:
        """Adds samples to a set.

        Args:
            x: samples (B, ...) as `features` takes them, or features (B, F).
            kind: of which set, "real", "generated" or "held_out".

        Raises:
            InputError: for another set, or features of another shape or that are not finite.
        """
        if kind not in self.sets:
            raise unknown(f"kind of samples of {type(self).__name__}", str(kind), self.sets)
        rows = self._rows(x.detach())
        self.add_rows(rows, kind)
        self.samples += len(rows)

    @abstractmethod
    def add_rows(self, rows: Tensor, kind: str) -> None:
        """Adds features (B, F), which are in float64 and finite, to a set."""

    def _rows(self, x: Tensor) -> Tensor:
        (features,) = self._features
        x = x if features is None else features_of(features, x)
        if x.ndim != 2 or x.shape[1] != self.feature_dim:
            raise InputError(
                f"features of {type(self).__name__} must have the shape (B, {self.feature_dim}), got {tuple(x.shape)}",
                "give feature_dim as it is; features of another shape are made vectors by flatten(1)"
                if features is not None
                else "images need a module that makes features of them: features=load_lenet()",
            )
        check_finite("features", x)
        return x.to(torch.float64, copy=True)  # one that is kept must not change with the one given


@torch.no_grad()
def features_of(features: Features, x: Tensor) -> Tensor:
    """What `features` makes of samples (B, ...): a module in evaluation mode, where the samples are."""
    if not isinstance(features, nn.Module):
        return features(x)
    training = features.training
    try:
        found: Tensor = features.to(x.device).eval()(x)
    finally:
        if training:
            features.train()
    return found


class RowsMetric(SetMetric):
    """Base of those that need all rows of the sets: they are kept, in float64, (N, F) of each."""

    def __init__(self, feature_dim: int, features: Features | None = None, **kwargs: Any) -> None:
        super().__init__(feature_dim, features, **kwargs)
        for kind in self.sets:
            self.add_state(kind, [], dist_reduce_fx="cat")

    def add_rows(self, rows: Tensor, kind: str) -> None:
        """Keeps features (B, F)."""
        getattr(self, kind).append(rows)

    def rows(self, kind: str) -> Tensor:
        """All rows of a set, (N, F); those of all ranks where they are gathered."""
        kept: Tensor | list[Tensor] = getattr(self, kind)
        if isinstance(kept, Tensor):
            return kept
        return torch.cat([torch.zeros(0, self.feature_dim, dtype=torch.float64, device=self.device), *kept])

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gathers the rows of all ranks, of which some may have none of a set."""
        for kind in self.sets:
            setattr(self, kind, [self.rows(kind)])
        super().sync(*args, **kwargs)


class FrechetDistance(SetMetric):
    r"""The squared Frechet distance between Gaussians fitted to the features of generated and of real samples.

    .. math:: d^2 = \|\mu_r - \mu_g\|^2 + tr(\Sigma_r + \Sigma_g - 2 (\Sigma_r^{1/2} \Sigma_g \Sigma_r^{1/2})^{1/2})

    (Dowson & Landau 1982, https://doi.org/10.1016/0047-259X(82)90077-X; of generated images' features Heusel et al.
    2017, https://arxiv.org/abs/1706.08500). Covariances are those with N - 1.

    The last trace is the sum of the singular values of the product of both symmetric square roots: it takes no matrix
    that is not symmetric to a root, and adds nothing to a diagonal. Where covariances are singular, as with fewer
    samples than features, the formula holds as it stands; eigenvalues below F epsilons of the largest are rounding, and
    count as zero. What does not vanish is the bias: of few samples the distance is too large, about in proportion to
    1 / N. So distances compare only between equal numbers of samples, and the floor wants as many held-out ones as were
    generated.

    Distances of one network's features compare with no others: this one is no FID, which is of a certain Inception
    network's features.

    Args:
        feature_dim: the number of features, F.
        features: a module or a function that makes features (B, F) of samples (B, ...); none where `update` is given
            features.

    Raises:
        InputError: when `feature_dim` is not positive.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import FrechetDistance
        >>> metric = FrechetDistance(feature_dim=1)
        >>> metric.update(torch.tensor([[-1.0], [0.0], [1.0]]), "real")
        >>> metric.update(torch.tensor([[1.0], [3.0], [5.0]]), "generated")  # the mean is off by 3, the spread by 1
        >>> metric.update(torch.tensor([[-1.0], [0.5], [2.0]]), "held_out")
        >>> metric.compute()
        {'distance': tensor(10.), 'floor': tensor(0.5000)}
    """

    higher_is_better = False
    plot_lower_bound = 0.0
    counts: Tensor
    total: Tensor
    products: Tensor

    def __init__(self, feature_dim: int, features: Features | None = None, **kwargs: Any) -> None:
        super().__init__(feature_dim, features, **kwargs)
        sets = len(self.sets)
        self.add_sum("counts", sets, dtype=torch.long)
        self.add_sum("total", sets, feature_dim)
        self.add_sum("products", sets, feature_dim, feature_dim)

    def add_rows(self, rows: Tensor, kind: str) -> None:
        """Adds features (B, F) to the sums of a set."""
        i = self.sets.index(kind)
        self.counts[i] += len(rows)
        self.total[i] += rows.sum(dim=0)
        self.products[i] += rows.T @ rows

    def compute(self) -> dict[str, Tensor]:
        """The "distance" of generated and real samples; where some were held out, theirs from the real ones, "floor".

        NaN where a set has fewer than two samples.
        """
        found = {"distance": self._between(REAL, GENERATED)}
        if self.counts[self.sets.index(HELD_OUT)] > 0:
            found["floor"] = self._between(REAL, HELD_OUT)
        return found

    def _between(self, *kinds: str) -> Tensor:
        if min(int(self.counts[self.sets.index(kind)]) for kind in kinds) < 2:
            return torch.tensor(float("nan"), device=self.device)
        return frechet_distance(*(moment for kind in kinds for moment in self._moments(kind))).float()

    def _moments(self, kind: str) -> tuple[Tensor, Tensor]:
        """The mean (F,) and the covariance (F, F) of a set."""
        i = self.sets.index(kind)
        mean = self.total[i] / self.counts[i]
        scatter = self.products[i] - self.counts[i] * mean.outer(mean)
        values, vectors = torch.linalg.eigh((scatter + scatter.T) / 2)
        # where samples are nearly all alike the difference of the sums is their rounding
        rounding = len(values) * torch.finfo(values.dtype).eps * self.products[i].trace()
        values = torch.where(values > rounding, values, 0.0)
        return mean, (vectors * values) @ vectors.T / (self.counts[i] - 1)


class FrechetLeNetDistance(FrechetDistance):
    """The Frechet distance on features of the LeNet that the package brings: `load_lenet`, and `FrechetDistance`.

    Images (B, C, H, W) are floats in [0, 1], grey or in colour, of any size; the network sees them grey, 28 x 28. It
    was trained on digits and clothes, so of such images it says most. It is never to be set beside a published FID.

    From the 60 000 training images of MNIST the 10 000 test images are at 0.97, the floor; with Gaussian noise of 0.1
    at 36, projected on 30 principal components at 137; the test images of Fashion-MNIST, whose own floor is 0.14, are
    at 1010 (measured).

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import FrechetLeNetDistance
        >>> images = torch.rand(100, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        >>> metric = FrechetLeNetDistance()
        >>> metric.update(images, "real")
        >>> metric.update(images.flip(0), "generated")
        >>> metric.compute()
        {'distance': tensor(0.)}
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(LeNet.feature_dim, load_lenet(), **kwargs)


def frechet_distance(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> Tensor:
    """The squared Frechet distance of two Gaussians, a scalar in float64: see `FrechetDistance`.

    Args:
        mean: (F,).
        covariance: (F, F), symmetric and positive semi-definite, of any rank.
        other_mean: (F,).
        other_covariance: (F, F), likewise.

    Raises:
        InputError: for other shapes, values that are not finite, and what is no covariance.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import frechet_distance
        >>> mean, covariance = torch.zeros(2), torch.eye(2)
        >>> frechet_distance(mean, covariance, mean + 1, 4 * covariance)
        tensor(4., dtype=torch.float64)
    """
    given = {"mean": mean, "covariance": covariance, "other_mean": other_mean, "other_covariance": other_covariance}
    for name, each in given.items():
        wanted = (len(mean),) if "mean" in name else (len(mean), len(mean))
        if each.shape != wanted:
            raise InputError(f"{name} must have the shape {wanted}, got {tuple(each.shape)}")
        check_finite(name, each)
    means = (mean.double() - other_mean.double()).square().sum()
    one, other = covariance.double(), other_covariance.double()
    roots = _root("covariance", one) @ _root("other_covariance", other)
    traces = one.trace() + other.trace()
    distance: Tensor = means + traces - 2 * torch.linalg.svdvals(roots).sum()
    rounding = len(mean) * torch.finfo(distance.dtype).eps * traces  # of a distance of zero, which has either sign
    return torch.where(distance > rounding, distance, 0.0)


def _root(name: str, covariance: Tensor) -> Tensor:
    """The symmetric square root of a covariance (F, F)."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    largest = values.abs().max()
    if (covariance - covariance.T).abs().max() > 1e-6 * largest or values.min() < -1e-6 * largest:
        raise InputError(
            f"{name} is not symmetric and positive semi-definite: its least eigenvalue is {float(values.min()):.3g}, "
            f"its largest {float(values.max()):.3g}"
        )
    # the root of what rounding leaves of zero would not be small
    rounding = len(values) * torch.finfo(values.dtype).eps * largest
    return (vectors * torch.where(values > rounding, values, 0.0).sqrt()) @ vectors.T
