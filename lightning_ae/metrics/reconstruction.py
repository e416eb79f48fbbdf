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
