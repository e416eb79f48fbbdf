"""Quantiles by bisection: draws that follow from uniform ones, the same on any number of ranks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_ae.parts.likelihoods import float64


@torch.no_grad()
def log_gamma_quantile(u: Tensor, shape: Tensor) -> Tensor:
    """The logarithm of the u-quantile of the gamma distribution of scale 1: the shape of both, in float64.

    In logarithms, since those of small shapes are smaller than any number.

    Args:
        u: probabilities in [0, 1).
        shape: positive.
    """
    u, shape = float64(u).clamp(1e-9, 1 - 1e-9), float64(shape)
    # the distribution function is at most y^a / Gamma(a + 1)
    low = (u.log() + torch.lgamma(shape + 1)) / shape
    high = torch.maximum((shape + 12 * shape.sqrt() + 40).log(), low)
    for _ in range(64):
        middle = (low + high) / 2
        below = torch.special.gammainc(shape, middle.exp()) < u
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


@torch.no_grad()
def poisson_quantile(u: Tensor, rate: Tensor) -> Tensor:
    """The u-quantile of the Poisson distribution, the least count with a probability of u or more up to it.

    Args:
        u: probabilities in [0, 1).
        rate: the means, of u's shape.
    """
    u, rate = float64(u), float64(rate)
    low, high = torch.full_like(rate, -1.0), (rate + 12 * rate.sqrt() + 40).ceil()
    for _ in range(math.ceil(math.log2(float(high.max()) + 2)) if u.numel() else 0):
        middle = ((low + high) / 2).floor()
        below = torch.special.gammaincc(middle.clamp(min=0) + 1, rate) < u
        below = below | (middle < 0)
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high
