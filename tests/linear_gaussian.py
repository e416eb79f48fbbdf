"""A linear Gaussian model, whose posterior and evidence are known: what bounds and gradients are compared with."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightning_ae import VAE


class Linear(nn.Module):
    """A map that is set."""

    def __init__(self, weight: list[list[float]], bias: list[float]) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.tensor(weight)), nn.Parameter(torch.tensor(bias))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class FactorAnalysis(VAE):
    """x = 1.5 z + 0.3 + noise of scale 0.5, and its true posterior, which `off` spoils."""

    off = 0.0

    def build_decoder(self) -> nn.Module:
        return Linear([[1.5]], [0.3])

    def build_encoder(self) -> nn.Module:
        variance = 1 / (1 + 1.5**2 / 0.25)
        slope = variance * 1.5 / 0.25
        return Linear([[slope], [0.0]], [-0.3 * slope + self.off, math.log(variance) + self.off])


class Off(FactorAnalysis):
    """The same with a posterior that is off."""

    off = 0.4
