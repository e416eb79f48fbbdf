"""How well inputs are reconstructed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_ae.errors import InputError


class SquaredErrorPerSample(Metric):
    """The squared error summed over the dimensions of a sample, averaged over samples.

    It is what principal component analysis minimises, in squared data units.
    """

    is_differentiable = True
    higher_is_better = False
    full_state_update = False
    total: Tensor
    samples: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, reconstruction: Tensor, target: Tensor) -> None:
        """Adds a batch: (B, ...) and (B, ...).

        Raises:
            InputError: when the shapes differ.
        """
        if reconstruction.shape != target.shape:
            raise InputError(
                f"reconstruction has the shape {tuple(reconstruction.shape)}, target {tuple(target.shape)}"
            )
        self.total += (reconstruction.float() - target.float()).square().sum().double()
        self.samples += len(target)

    def compute(self) -> Tensor:
        """The mean over samples, a scalar."""
        return (self.total / self.samples).float()


class ExplainedVariance(Metric):
    r"""The share of the data's variance, over all dimensions together, that the reconstruction explains.

    .. math:: 1 - \frac{\sum_n \|x_n - \hat x_n\|^2}{\sum_n \|x_n - \bar x\|^2}

    Reconstructing every sample by the mean gives 0.

    Args:
        dimensions: the number of values in a sample.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    error: Tensor
    total: Tensor
    squares: Tensor
    samples: Tensor

    def __init__(self, dimensions: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # sums in float64, of which two ranks' add up
        self.add_state("error", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(dimensions, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("squares", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, reconstruction: Tensor, target: Tensor) -> None:
        """Adds a batch: (B, ...) and (B, ...)."""
        x = target.flatten(1).double()
        self.error += (reconstruction.flatten(1).double() - x).square().sum()
        self.total += x.sum(dim=0)
        self.squares += x.square().sum()
        self.samples += len(x)

    def compute(self) -> Tensor:
        """The share, a scalar, at most 1."""
        return (1 - self.error / (self.squares - self.total.square().sum() / self.samples)).float()
