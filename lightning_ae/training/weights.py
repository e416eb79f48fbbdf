"""Which type a module's weights have, and where they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]  # its stub lacks it


def weights_type(*modules: nn.Module) -> torch.dtype:
    """The type of the first parameter that holds floats, or else buffer, of the first module that has one."""
    for module in modules:
        if (first := first_tensor(module, _holds_floats)) is not None:
            return first.dtype
    return torch.get_default_dtype()


def _holds_floats(tensor: Tensor) -> bool:
    # asked of classes, which torch.compile follows where is_lazy() and is_floating_point() would break its graph
    return not isinstance(tensor, UninitializedTensorMixin) and tensor.dtype.is_floating_point


def first_tensor(
    module: nn.Module, fits: Callable[[Tensor], bool], kinds: Sequence[str] = ("_parameters", "_buffers")
) -> Any:
    """The first parameter that fits, else the first buffer; steps ask, and `parameters()` takes five times as long."""
    for kind in kinds:
        for tensor in getattr(module, kind).values():
            if tensor is not None and fits(tensor):
                return tensor
        for child in module._modules.values():
            if child is not None and (found := first_tensor(child, fits, (kind,))) is not None:
                return found
    return None
