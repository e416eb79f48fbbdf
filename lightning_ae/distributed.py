"""Ranks, and noise that does not depend on how many there are.

The process group is asked for at call time: Lightning builds a module before the group exists.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """The number of ranks, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's rank, 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class Noise:
    """A stream of random draws for one step and one purpose.

    With a key, the draws are those of the global batch, of which each rank takes its own rows: under strided sharding
    (rank r holds rows r, r + W, ... of the global batch) the same key gives the same noise on any number of ranks.
    Without one, the draws come from torch's global generator.

    Args:
        key: what identifies the stream, such as `(seed, "train", epoch, batch, "posterior")`; every rank must give
            the same one.
    """

    def __init__(self, *key: Any) -> None:
        self._seed = None
        if key:
            digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
            self._seed = int.from_bytes(digest, "big") >> 1  # torch takes signed 64-bit seeds
        self._generator: torch.Generator | None = None

    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal draws in the shape of `x`, whose first dimension is the batch."""
        return self._draw(torch.randn, x)

    def rand_like(self, x: Tensor) -> Tensor:
        """Uniform draws from [0, 1) in the shape of `x`, whose first dimension is the batch."""
        return self._draw(torch.rand, x)

    def _draw(self, draw: Any, x: Tensor) -> Tensor:
        if self._seed is None:
            result: Tensor = draw(x.shape, dtype=x.dtype, device=x.device)
            return result
        if self._generator is None:
            self._generator = torch.Generator(x.device).manual_seed(self._seed)
        world = world_size()
        whole: Tensor = draw(
            (x.shape[0] * world, *x.shape[1:]), generator=self._generator, dtype=x.dtype, device=x.device
        )
        return whole[rank() :: world]


def sum_over_ranks(*values: Tensor) -> tuple[Tensor, ...]:
    """Each tensor summed over the ranks, in one exchange; gradients flow back to every rank's own part.

    The backward pass sums over ranks too. Together with the mean over ranks that DistributedDataParallel takes, the
    gradient of a function of the sums is that of a single process with the whole batch.
    """
    if world_size() == 1:
        return values
    from torch.distributed.nn.functional import all_reduce

    packed = all_reduce(torch.cat([value.reshape(-1) for value in values]))
    parts = packed.split([value.numel() for value in values])
    return tuple(part.view_as(value) for part, value in zip(parts, values, strict=True))
