"""Layers whose random or batch-wide part is the same on any number of ranks: dropout and batch normalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_ae.exact.collectives import gather, world_size
from lightning_ae.exact.noise import dropout_noise


class Dropout(nn.Module):
    """Dropout whose masks, in a trainer's step, are the same on any number of ranks and in a resumed run.

    The masks are keyed by the step and by how many were drawn in it before. So do not recompute it in the backward pass
    (activation checkpointing), where there is no step and another mask would be drawn.

    Args:
        probability: that a value is dropped, in [0, 1).
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) to the same shape; `rows` says what the first dimension is where it is not the batch."""
        noise = dropout_noise() if self.training else None
        if noise is None:
            return F.dropout(x, self.probability, self.training)
        keep = noise.rand_like(x) >= self.probability
        return x * keep / (1 - self.probability)

    def extra_repr(self) -> str:
        """The probability."""
        return f"{self.probability}"


class _GlobalBatchNorm(_BatchNorm):
    """Batch normalisation by the statistics of all ranks' samples together, in training, on any device.

    They are the same to rounding as those of one process with the whole batch, ranks with unequal numbers of samples
    included. torch's own `SyncBatchNorm` runs on accelerators only.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) to the same shape."""
        if not self.training or world_size() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        dims = [0, *range(2, x.ndim)]
        shape = (1, -1, *[1] * (x.ndim - 2))
        values = x if x.dtype == torch.float64 else x.float()
        variance, mean = torch.var_mean(values, dims, correction=0)
        count = values.new_full((1,), x.numel() / x.shape[1])
        # each rank's mean and variance, put together without the cancellation that sums of squares suffer
        counts, means, variances = gather(torch.cat([count, mean, variance])).split([1, len(mean), len(mean)], dim=1)
        share = counts / counts.sum()
        mean = (share * means).sum(dim=0)
        variance = (share * (variances + (means - mean).square())).sum(dim=0)
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self._track(mean.detach(), variance.detach(), counts.sum())
        normal = (values - mean.view(shape)) * torch.rsqrt(variance.view(shape) + self.eps)
        if self.weight is not None:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, samples: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        self.running_var.lerp_((variance * samples / (samples - 1).clamp(min=1)).to(self.running_var.dtype), rate)


class GlobalBatchNorm1d(_GlobalBatchNorm, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` over the samples of all ranks."""


class GlobalBatchNorm2d(_GlobalBatchNorm, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` over the samples of all ranks."""


class GlobalBatchNorm3d(_GlobalBatchNorm, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` over the samples of all ranks."""


_GLOBAL: dict[type, type] = {
    nn.BatchNorm1d: GlobalBatchNorm1d,
    nn.BatchNorm2d: GlobalBatchNorm2d,
    nn.BatchNorm3d: GlobalBatchNorm3d,
}


def synchronise_batch_norm(module: nn.Module) -> None:
    """Makes every batch normalisation in a module take the statistics of all ranks; weights and keys stay."""
    for layer in module.modules():
        if type(layer) in _GLOBAL:
            layer.__class__ = _GLOBAL[type(layer)]
