"""How well inputs are reconstructed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_ae.errors import InputError
from lightning_ae.metrics.base import SampleMetric, pair_doubles, positive


class SquaredErrorPerSample(SampleMetric):
    """The squared error summed over the dimensions of a sample, averaged over samples.

    It is what principal component analysis minimises, in squared data units.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import SquaredErrorPerSample
        >>> metric = SquaredErrorPerSample()
        >>> metric(torch.tensor([[0.0, 1.0], [1.0, 3.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
        tensor(2.5000)
    """

    is_differentiable = True
    higher_is_better = False
    plot_lower_bound = 0.0
    total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_sum("total")

    def update(self, reconstruction: Tensor, target: Tensor) -> None:
        """Adds a batch: (B, ...) and (B, ...).

        Raises:
            InputError: when the shapes differ or have no batch, or when values are not finite.
        """
        reconstruction, target = pair_doubles(reconstruction, target)
        self.total += (reconstruction - target).square().sum()
        self.samples += len(target)

    def compute(self) -> Tensor:
        """The mean over samples, a scalar."""
        return (self.total / self.samples).float()


class RSquared(SampleMetric):
    r"""The coefficient of determination, over all dimensions together.

    .. math:: R^2 = 1 - \frac{\sum_n \|x_n - \hat x_n\|^2}{\sum_n \|x_n - \bar x\|^2}

    Reconstructing every sample by the mean gives 0. It is 1 minus the fraction of variance unexplained (FVU) and, where
    every dimension varies, scikit-learn's `r2_score` with `multioutput="variance_weighted"`, which leaves the errors of
    those out that do not. Where no dimension varies it is NaN for a perfect reconstruction and minus infinity for any
    other, as there with `force_finite=False`.

    Many call it explained variance; `ExplainedVariance` differs, in that it forgives a constant offset.

    Args:
        dimensions: the number of values in a sample.

    Raises:
        InputError: when `dimensions` is not positive.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import RSquared
        >>> metric = RSquared(dimensions=2)
        >>> target = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
        >>> metric(target + torch.tensor([1.0, 0.0]), target)
        tensor(0.6250)
    """

    is_differentiable = True
    higher_is_better = True
    plot_upper_bound = 1.0
    error: Tensor
    total: Tensor
    squares: Tensor

    def __init__(self, dimensions: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        positive(self, dimensions=dimensions)
        self.dimensions = dimensions
        self.add_sum("error")
        self.add_sum("total", dimensions)
        self.add_sum("squares")

    def update(self, reconstruction: Tensor, target: Tensor) -> None:
        """Adds a batch: (B, ...) and (B, ...), of `dimensions` values a sample.

        Raises:
            InputError: when the shapes differ or have no batch, when a sample has another number of values, or when
                values are not finite.
        """
        self._add(*pair_doubles(reconstruction, target))

    def _add(self, reconstruction: Tensor, target: Tensor) -> None:
        x = target.flatten(1)
        if x.shape[1] != self.dimensions:
            raise InputError(
                f"dimensions of {type(self).__name__} is {self.dimensions}, but a sample of the batch "
                f"{tuple(target.shape)} has {x.shape[1]} values",
                "one sample is a batch of one: x.unsqueeze(0)",
            )
        self.error += (x - reconstruction.flatten(1)).square().sum()
        self.total += x.sum(dim=0)
        self.squares += x.square().sum()
        self.samples += len(x)

    def compute(self) -> Tensor:
        """The share, a scalar, at most 1."""
        return (1 - self.error / _spread(self.squares, self.total, self.samples)).float()


class ExplainedVariance(RSquared):
    r"""The share of the data's variance, over all dimensions together, that is not in the residuals.

    .. math:: 1 - \frac{\sum_n \|(x_n - \hat x_n) - \overline{(x - \hat x)}\|^2}{\sum_n \|x_n - \bar x\|^2}

    It is scikit-learn's `explained_variance_score` with `multioutput="variance_weighted"`. A reconstruction that is off
    by a constant explains everything: to count that as an error take `RSquared`, which is never greater.

    Args:
        dimensions: the number of values in a sample.

    Raises:
        InputError: when `dimensions` is not positive.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import ExplainedVariance
        >>> metric = ExplainedVariance(dimensions=2)
        >>> target = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
        >>> metric(target + torch.tensor([1.0, 0.0]), target)
        tensor(1.)
    """

    residual: Tensor

    def __init__(self, dimensions: int, **kwargs: Any) -> None:
        super().__init__(dimensions, **kwargs)
        self.add_sum("residual", dimensions)

    def _add(self, reconstruction: Tensor, target: Tensor) -> None:
        super()._add(reconstruction, target)
        self.residual += (target - reconstruction).flatten(1).sum(dim=0)

    def compute(self) -> Tensor:
        """The share, a scalar, at most 1."""
        left = _spread(self.error, self.residual, self.samples)
        return (1 - left / _spread(self.squares, self.total, self.samples)).float()


class PSNRPerImage(SampleMetric):
    r"""The peak signal-to-noise ratio of each image, in dB, averaged over images.

    .. math:: \frac{1}{N} \sum_n 10 \log_{10} \frac{r^2}{MSE_n}

    with the data's range r. This mean is what tables of denoised images state; the ratio of the error of all images
    together is lower, by the more the more the images' errors differ.

    An image that is reconstructed exactly has an infinite ratio, and would hide all others. So each image counts at
    most `ceiling`: 100 dB are an error of r / 100 000, far below the steps of 8-bit images.

    Args:
        data_range: the difference between the greatest and the least value that an image may have.
        ceiling: the most that an image counts, in dB.

    Raises:
        InputError: when an argument is not positive.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import PSNRPerImage
        >>> metric = PSNRPerImage()
        >>> target = torch.zeros(2, 1, 8, 8)
        >>> metric(target + torch.tensor([0.1, 0.01]).reshape(2, 1, 1, 1), target)
        tensor(30.)
    """

    is_differentiable = True
    higher_is_better = True
    total: Tensor

    def __init__(self, data_range: float = 1.0, ceiling: float = 100.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        positive(self, data_range=data_range, ceiling=ceiling)
        self.data_range, self.ceiling = data_range, ceiling
        self.add_sum("total")

    def update(self, reconstruction: Tensor, target: Tensor) -> None:
        """Adds a batch of images (B, C, H, W), or of volumes.

        Raises:
            InputError: when the shapes differ or are not those of a batch of images, or when values are not finite.
        """
        reconstruction, target = pair_doubles(reconstruction, target, "C, H, W")
        errors = (reconstruction - target).square().flatten(1).mean(dim=1) / self.data_range**2
        self.total += -10 * errors.clamp(min=10 ** (-self.ceiling / 10)).log10().sum()
        self.samples += len(target)

    def compute(self) -> Tensor:
        """The mean over images, a scalar."""
        return (self.total / self.samples).float()


def _spread(squares: Tensor, total: Tensor, samples: Tensor) -> Tensor:
    """The sum of squared distances from the mean, of the sums of squares () and of values (D,)."""
    spread = squares - total.square().sum() / samples
    # what is left of values that are all alike is rounding
    return torch.where(spread < 1e-13 * squares, 0.0, spread)
