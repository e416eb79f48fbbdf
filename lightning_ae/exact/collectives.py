"""Ranks, and sums and gathers over them with the right gradient.

The process group is asked for at call time: Lightning builds a module before the group exists. Ranks that share a
model's tensors (tensor parallelism) see the same samples; here only those count that have samples of their own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

GLOBAL_BATCH_SIZE = "global_batch_size"
"""The entry of a batch that says how many samples all ranks have of it."""

_group: dist.ProcessGroup | None = None


def use_group(group: dist.ProcessGroup | None) -> None:
    """Makes these ranks those that count; None for all of them."""
    global _group
    _group = group


def group() -> dist.ProcessGroup | None:
    """The ranks that count; None for all of them."""
    return _group


def world_size() -> int:
    """The number of ranks that have samples of their own, 1 without a process group."""
    return dist.get_world_size(_group) if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them, 0 without a process group."""
    return dist.get_rank(_group) if dist.is_available() and dist.is_initialized() else 0


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


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all ranks, one rank's after another's, of which each may have any number: (B_r, ...) to (B, ...)."""
    if world_size() == 1:
        return x
    counts = gather(torch.tensor(len(x), device=x.device)).tolist()
    padded = torch.cat([x, x.new_zeros(max(counts) - len(x), *x.shape[1:])])
    return torch.cat([rows[:count] for rows, count in zip(gather(padded), counts, strict=True)])


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
