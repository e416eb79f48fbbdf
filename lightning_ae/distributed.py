"""Ranks: sums and gathers with the right gradient, and noise that does not depend on how many ranks there are.

The process group is asked for at call time: Lightning builds a module before the group exists. Ranks that share a
model's tensors (tensor parallelism) see the same samples; here only those count that have samples of their own.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from pytorch_lightning.utilities.rank_zero import rank_zero_info
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


Rows = Literal["by_sample", "by_draw", "shared"]

_rows: ContextVar[Rows | None] = ContextVar("rows", default=None)


@contextmanager
def rows(order: Rows) -> Iterator[None]:
    """Inside, says what the rows are for which noise and the masks of dropout are drawn, where they are not the batch.

    Left unsaid, as many rows as this rank has samples, B, are the samples. k times as many are taken as k for each
    sample, "by_sample", and any other number as "shared"; both guesses are told once. So say it where the number of
    rows that are no samples may be a multiple of B, and where the draws come first. On one process all are the same.

    Args:
        order: one of

            - "by_sample": (B * k, ...), the k rows of a sample beside each other, as `repeat_interleave(k, dim=0)` or
              `flatten(0, 1)` of (B, k, ...) puts them: draws of a posterior, tokens, patches;
            - "by_draw": (k * B, ...), the batch k times over, as `flatten(0, 1)` of (k, B, ...) puts it;
            - "shared": rows that all ranks have and that are the same on each, such as pseudo-inputs.

    Raises:
        InputError: when it is none of these.
    """
    if order not in get_args(Rows):
        raise InputError(f"rows must be one of {list(get_args(Rows))}, got {order!r}")
    token = _rows.set(order)
    try:
        yield
    finally:
        _rows.reset(token)


class Noise:
    """A stream of random draws for one step and one purpose.

    With a key, the draws are those of the whole batch, of which each rank takes its own rows: under strided sharding
    (rank r holds rows r, r + W, ... of the batch) the same key gives the same noise on any number of ranks; `rows`
    says how, where the rows are not the batch's. With more than 64 ranks, where that would cost more than it is worth,
    each rank has a stream of its own instead, but for what all ranks share. Without a key, the draws come from torch's
    global generator.

    Args:
        key: what identifies the stream, such as `(seed, "train", epoch, batch, "posterior")`; every rank must give
            the same one.
        samples: the size of the whole batch, over all ranks; by default the rows asked for are this rank's samples, of
            which each rank has as many.
    """

    def __init__(self, *key: Any, samples: int | None = None) -> None:
        self._key, self._samples = key, samples
        self._generators: dict[tuple[str, bool], torch.Generator] = {}

    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal draws in the shape of `x`, whose first dimension is the batch, or what `rows` says."""
        return self._draw(torch.randn, x)

    def rand_like(self, x: Tensor) -> Tensor:
        """Uniform draws from [0, 1) in the shape of `x`, whose first dimension is the batch, or what `rows` says."""
        return self._draw(torch.rand, x)

    def choice(self, n: int, size: int, device: torch.device | str = "cpu") -> Tensor:
        """`size` numbers drawn from 0, ..., n - 1 with replacement, (size,), the same on all ranks."""
        return torch.randint(n, (size,), device=device, **self._shared(device))

    def permutation(self, n: int, device: torch.device | str = "cpu") -> Tensor:
        """The numbers 0, ..., n - 1 in random order, (n,), the same on all ranks."""
        return torch.randperm(n, device=device, **self._shared(device))

    def _draw(self, draw: Any, x: Tensor) -> Tensor:
        options: dict[str, Any] = {"dtype": x.dtype, "device": x.device}
        world = world_size()
        if not self._key or world == 1:
            generator = self._generator(x.device) if self._key else None
            alone: Tensor = draw(x.shape, generator=generator, **options)
            return alone
        order, k, samples = _places(len(x), self._samples)
        apart = world > EXACT_NOISE_RANKS and order != "shared"
        options["generator"] = self._generator(x.device, apart)
        if apart or order == "shared":
            whole: Tensor = draw(x.shape, **options)
        elif order == "by_sample":
            whole = draw((samples, k, *x.shape[1:]), **options)[rank() :: world]
        else:
            whole = draw((k, samples, *x.shape[1:]), **options)[:, rank() :: world]
        return whole.reshape(x.shape)

    def _shared(self, device: torch.device | str) -> dict[str, Any]:
        if self._key:
            return {"generator": self._generator(device)}
        if world_size() > 1:
            raise InputError(
                "a draw that is the same on all ranks needs a key, which only a step has",
                "draw in a step, or inside of the model's at_step()",
            )
        return {}

    def _generator(self, device: torch.device | str, apart: bool = False) -> torch.Generator:
        """The stream on a device, the same on all ranks or, `apart`, this rank's own."""
        place = (str(device), apart)
        if place not in self._generators:
            text = repr((*self._key, rank()) if apart else self._key)
            digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
            seed = int.from_bytes(digest, "big") >> 1  # torch takes signed 64-bit seeds
            self._generators[place] = torch.Generator(device).manual_seed(seed)
        return self._generators[place]


def _places(count: int, samples: int | None) -> tuple[Rows, int, int]:
    """What so many rows of this rank are, how many a sample has, and how many samples all ranks have of the batch."""
    said, world = _rows.get(), world_size()
    if samples is None and said in ("by_sample", "by_draw"):
        raise InputError(
            f"rows({said!r}) needs to know how many samples the batch has", "give samples, or at_step() the batch"
        )
    samples = count * world if samples is None else samples
    own = len(range(rank(), samples, world))
    if said == "shared" or count == own:
        return said or "by_sample", 1, samples
    fits = own > 0 and count % own == 0
    # with unequal shares it may be a multiple of another rank's: the ranks would take the rows for different things
    doubtful = not fits and any(n and count % n == 0 for n in (samples // world, -(-samples // world)))
    if doubtful or (said is not None and not fits):
        what = "is no multiple of that" if said else "does not tell what they are"
        raise InputError(
            f"noise for {count} rows, in a batch of which this rank has {own} of {samples} samples: the number {what}",
            "draw for the batch's own rows; or say what the rows are, around the draw or the network that drops out: "
            f"`with lightning_ae.distributed.rows(...)`, one of {list(get_args(Rows))}",
        )
    if said is None:
        _tell(count // own if fits else None)
    return said or ("by_sample" if fits else "shared"), count // own if fits else 1, samples


@cache
def _tell(k: int | None) -> None:
    """Says once what was taken for granted."""
    guess = "rows that all ranks share" if k is None else f"{k} rows for each sample, one sample's after the other's"
    rank_zero_info(f"noise for rows that are not the batch's: taken as {guess}; lightning_ae.distributed.rows says it")


@dataclass
class _Step:
    key: tuple[Any, ...]
    samples: int | None
    asked: Counter[str] = field(default_factory=Counter)
    dropped: int = 0


_step: ContextVar[_Step | None] = ContextVar("step", default=None)


@contextmanager
def keyed(*key: Any, samples: int | None = None) -> Iterator[None]:
    """Inside, `noise_of_step` is keyed by this, by its purpose, and by how often it was asked for that purpose before.

    Args:
        key: of the step; every rank must give the same one.
        samples: the size of the whole batch, over all ranks; see `Noise`.
    """
    token = _step.set(_Step(key, samples))
    try:
        yield
    finally:
        _step.reset(token)


def noise_of_step(purpose: str) -> Noise:
    """The noise of the step at hand for a purpose, another each time; outside of a step, of torch's global generator.

    Every rank must ask as often, in the same order.
    """
    step = _step.get()
    if step is None:
        return Noise()
    again = step.asked[purpose]
    step.asked[purpose] += 1
    # the first has the plain key, as it was before there were others
    return Noise(*step.key, purpose, *([again] if again else []), samples=step.samples)


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
        step = _step.get()
        if not self.training or step is None:
            return F.dropout(x, self.probability, self.training)
        step.dropped += 1
        keep = noise_of_step(f"dropout {step.dropped}").rand_like(x) >= self.probability
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
