"""Ranks: sums and gathers with the right gradient, and noise that does not depend on how many ranks there are.

The process group is asked for at call time: Lightning builds a module before the group exists. Ranks that share a
model's tensors (tensor parallelism) see the same samples; here only those count that have samples of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_ae.errors import InputError
from lightning_ae.private import BatchNorm

EXACT_NOISE_RANKS = 64
"""With more ranks than this, each draws its own part of the noise only, from a stream of its own."""

GLOBAL_BATCH_SIZE = "global_batch_size"
"""The entry of a batch that says how many samples all ranks have of it."""

_group: dist.ProcessGroup | None = None


def use_group(group: dist.ProcessGroup | None) -> None:
    """Makes these ranks those that count; None for all of them."""
    global _group
    _group = group


def world_size() -> int:
    """The number of ranks that have samples of their own, 1 without a process group."""
    return dist.get_world_size(_group) if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them, 0 without a process group."""
    return dist.get_rank(_group) if dist.is_available() and dist.is_initialized() else 0


# ---- sums and gathers ---------------------------------------------------------------------------------------------


def sum_over_ranks(*values: Tensor) -> tuple[Tensor, ...]:
    """Each tensor summed over the ranks, in one exchange; gradients flow back to every rank's own part.

    The backward pass sums over ranks too. Together with the mean over ranks that DistributedDataParallel takes, the
    gradient of a function of the sums is that of a single process with the whole batch.

    Args:
        values: of one type, and on every rank of the same shapes.
    """
    if world_size() == 1:
        return values
    packed: Tensor = _Sum.apply(torch.cat([value.reshape(-1) for value in values]))
    parts = packed.split([value.numel() for value in values])
    return tuple(part.view_as(value) for part, value in zip(parts, values, strict=True))


def gather(value: Tensor) -> Tensor:
    """A tensor of each rank, of the same shape on all: (...) to (world, ...). The backward pass sums over ranks."""
    if world_size() == 1:
        return value.unsqueeze(0)
    gathered: Tensor = _Gather.apply(value)
    return gathered


def gather_batch(x: Tensor) -> Tensor:
    """The samples of all ranks in the order of the whole batch: (B_r, ...) to (B, ...).

    Rank r has positions r, r + W, ... of it; so ranks may have one sample more or less than others. The backward pass
    sums over ranks.
    """
    if world_size() == 1:
        return x
    counts = gather(torch.tensor(len(x), device=x.device)).tolist()
    longest = max(counts)
    padded = torch.cat([x, x.new_zeros(longest - len(x), *x.shape[1:])])
    whole = gather(padded).transpose(0, 1).flatten(0, 1)
    return whole[: sum(counts)]  # under strided shares all padding comes last


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.contiguous().clone()
        dist.all_reduce(total, group=_group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(gradient)
        return total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        parts = [torch.empty_like(value, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, value.contiguous(), group=_group)
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)[rank()]


# ---- noise --------------------------------------------------------------------------------------------------------


class Noise:
    """A stream of random draws for one step and one purpose.

    With a key, the draws are those of the whole batch, of which each rank takes its own rows: under strided sharding
    (rank r holds rows r, r + W, ... of the batch) the same key gives the same noise on any number of ranks. With more
    than 64 ranks, where that would cost more than it is worth, each rank has a stream of its own instead. Without a
    key, the draws come from torch's global generator.

    Args:
        key: what identifies the stream, such as `(seed, "train", epoch, batch, "posterior")`; every rank must give
            the same one.
        samples: the size of the whole batch, over all ranks; by default the same number on each.
    """

    def __init__(self, *key: Any, samples: int | None = None) -> None:
        self._seed = None
        self._samples = samples
        if key:
            self._apart = world_size() > EXACT_NOISE_RANKS
            text = repr((*key, rank()) if self._apart else key)
            digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
            self._seed = int.from_bytes(digest, "big") >> 1  # torch takes signed 64-bit seeds
        self._generator: torch.Generator | None = None

    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal draws in the shape of `x`, whose first dimension is the batch."""
        return self._draw(torch.randn, x)

    def rand_like(self, x: Tensor) -> Tensor:
        """Uniform draws from [0, 1) in the shape of `x`, whose first dimension is the batch."""
        return self._draw(torch.rand, x)

    def _draw(self, draw: Any, x: Tensor) -> Tensor:
        options: dict[str, Any] = {"dtype": x.dtype, "device": x.device}
        if self._seed is None:
            result: Tensor = draw(x.shape, **options)
            return result
        if self._generator is None:
            self._generator = torch.Generator(x.device).manual_seed(self._seed)
        options["generator"] = self._generator
        world = 1 if self._apart else world_size()
        if world == 1:
            return draw(x.shape, **options)
        samples = len(x) * world if self._samples is None else self._samples
        whole: Tensor = draw((samples, *x.shape[1:]), **options)[rank() :: world]
        if len(whole) != len(x):
            raise InputError(
                f"noise for {len(x)} rows, in a batch of which this rank has {len(whole)} of {samples} samples",
                "draw noise in the shape of something whose first dimension is the batch",
            )
        return whole


@dataclass
class _Step:
    key: tuple[Any, ...]
    samples: int | None
    drawn: int = field(default=0)


_step: ContextVar[_Step | None] = ContextVar("step", default=None)


@contextmanager
def keyed(*key: Any, samples: int | None = None) -> Iterator[None]:
    """Inside, `noise_of_step` is keyed by this, and by its purpose.

    Args:
        key: of the step; every rank must give the same one.
        samples: the size of the whole batch, over all ranks; by default the same number on each.
    """
    token = _step.set(_Step(key, samples))
    try:
        yield
    finally:
        _step.reset(token)


def noise_of_step(purpose: str) -> Noise:
    """The noise of the step at hand for a purpose; outside of a step, of torch's global generator."""
    step = _step.get()
    return Noise() if step is None else Noise(*step.key, purpose, samples=step.samples)


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
        """(B, ...) to the same shape."""
        step = _step.get()
        if not self.training or step is None:
            return F.dropout(x, self.probability, self.training)
        step.drawn += 1
        keep = noise_of_step(f"dropout {step.drawn}").rand_like(x) >= self.probability
        return x * keep / (1 - self.probability)

    def extra_repr(self) -> str:
        """The probability."""
        return f"{self.probability}"


# ---- batch normalisation ------------------------------------------------------------------------------------------


class _GlobalBatchNorm(BatchNorm):
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
