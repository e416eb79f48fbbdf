"""Sharding a module's weights over the ranks (FSDP2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn


def shard(module: nn.Module, mesh: Any, methods: Iterable[str]) -> None:
    """Shards weights, gradients and the optimizer's state as one group, in place; once.

    Args:
        module: what is sharded.
        mesh: over which ranks.
        methods: those of its methods that run networks, for which the weights must be whole.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    if isinstance(module, FSDPModule):
        return
    cls = type(module)
    # one group, whole from the forward to the backward pass: weights may be tied, or used outside of a layer
    fully_shard(module, mesh=mesh, reshard_after_forward=False)
    outermost = _Outermost()
    for name in methods:
        if hasattr(module, name):
            plain = getattr(module, name)
            register_fsdp_forward_method(module, name)
            setattr(module, name, outermost(plain, getattr(module, name)))
    type(module).__name__ = cls.__name__  # FSDP2 gives it a class of its own


class _Outermost:
    """Gathers weights for the outermost call of a module's methods: they must stay until that one's backward pass.

    FSDP2 takes the gradient of a call's input for the end of the backward pass.
    """

    def __init__(self) -> None:
        self.inside = False

    def __call__(self, plain: Callable[..., Any], gathering: Callable[..., Any]) -> Callable[..., Any]:
        """`gathering`, but `plain` inside of another such call."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.inside:
                return plain(*args, **kwargs)
            self.inside = True
            try:
                return gathering(*args, **kwargs)
            finally:
                self.inside = False

        return call
