"""From what a file holds, plain data and weights, to a module: nothing that the file says is run or imported, nor
allocated beyond the size of its weights.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from lightning_ae.errors import InputError

M = TypeVar("M", bound=nn.Module)

DEEPEST, LARGEST = 32, 1_000_000
SMALL = 65_536  # numbers that are not worth a refusal
DAMAGED = "the file is of another version, or damaged"
_WRONG_VALUES = (TypeError, ValueError, RuntimeError, AttributeError, LookupError, ArithmeticError, RecursionError)


def rebuild(
    make: Callable[[], M],
    weights_for: Callable[[M], Mapping[str, Tensor]],
    tensors: int,
    own: bool,
    same_types: bool = False,
    strict: bool | None = None,
) -> M:
    """The module that `make` makes, with the weights of a file.

    It is first made without memory, and compared with the weights, so that no file makes it allocate more than its own
    size. The global random state stays as it is: to load a model is no draw.

    Args:
        make: constructs the module from plain data, or raises InputError.
        weights_for: the weights under all names that such a module has for them.
        tensors: how many the file holds.
        own: whether the class is of this package. A user's constructor may be one that cannot run without memory; then
            the module is made at once.
        same_types: whether the weights must have the module's types of numbers.
        strict: whether all names must be there, and no others; by default as the module's `strict_loading` says.

    Raises:
        InputError: when it cannot be made, or the weights are another module's.
    """
    state = torch.random.get_rng_state()
    try:
        bare = skeleton(make, tensors, own)
        if bare is not None:
            expected, found = bare.state_dict(keep_vars=True), as_now(bare, weights_for(bare))
            check_weights(expected, found, same_types, _is_strict(bare, strict))
            _check_size(expected, found)
        module = make()
        differing = module.load_state_dict(as_now(module, weights_for(module)), strict=_is_strict(module, strict))
        for what, names in (("lack", differing.missing_keys), ("add", differing.unexpected_keys)):
            if names:
                warnings.warn(f"the weights {what} {_first(names)}", stacklevel=2)
        return module
    except InputError:
        raise
    except _WRONG_VALUES as error:
        text = " ".join(str(error).split())
        raise InputError(
            f"its values are not what the class takes ({type(error).__name__}: {text})", DAMAGED
        ) from error
    finally:
        torch.random.set_rng_state(state)


def as_now(module: nn.Module, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Weights as the module takes them, where they are those of an earlier version: by what it says, and numbers that
    were scalars, which FSDP does not shard, as vectors of one."""
    convert = getattr(module, "weights_of_earlier", None)
    weights = weights if convert is None else convert(weights)
    ones = {name for name, value in module.state_dict(keep_vars=True).items() if _is_one(value)}
    return {
        name: value.view(1) if name in ones and not is_lazy(value) and value.ndim == 0 else value
        for name, value in weights.items()
    }


def _is_one(value: Tensor) -> bool:
    return not is_lazy(value) and value.shape == (1,)


def skeleton(make: Callable[[], M], tensors: int, own: bool) -> M | None:
    """The module that `make` makes, without memory; None for a user's class that cannot be made so. See `rebuild`."""
    state = torch.random.get_rng_state()
    try:
        with torch.device("meta"), _at_most(4 * tensors + 64):
            return make()
    except InputError:
        raise
    except _WRONG_VALUES:
        if own:
            raise
        return None
    finally:
        torch.random.set_rng_state(state)


def check_weights(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], same_types: bool = False, strict: bool = True
) -> None:
    """Refuses weights that are not a module's own, name by name.

    Args:
        expected: the module's state_dict with `keep_vars=True`, which tells shared tensors from others.
        found: the weights.
        same_types: whether they must have the same types of numbers, too.
        strict: whether all names must be there, and no others.

    Raises:
        InputError: naming the first that are missing, too many, or of another shape.
    """
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if strict and (missing or extra):
        parts = [f"{what} {_first(names)}" for what, names in (("lack", missing), ("add", extra)) if names]
        raise InputError(f"its weights {' and '.join(parts)}", DAMAGED)
    common = {name: tensor for name, tensor in expected.items() if name in found and not is_lazy(tensor)}
    for name, tensor in common.items():
        if tensor.shape != found[name].shape:
            shapes = tuple(found[name].shape), tuple(tensor.shape)
            raise InputError(f"the tensor {name} has the shape {shapes[0]}, but its config asks for {shapes[1]}")
        if same_types and tensor.dtype != found[name].dtype:
            raise InputError(
                f"the tensor {name} has the dtype {found[name].dtype}, but its config asks for {tensor.dtype}"
            )


def check_sizes(weights: Mapping[str, Tensor]) -> None:
    """Refuses a few numbers in a file that claim to be a large tensor, by strides of zero.

    Raises:
        InputError: naming the tensor.
    """
    for name, tensor in weights.items():
        if tensor.numel() > max(_held(tensor), SMALL):
            raise InputError(f"the tensor {name} claims {tensor.numel()} numbers, of {_held(tensor)} there", DAMAGED)


def check_finite(weights: Mapping[str, Tensor], parameters: Collection[str]) -> None:
    """Refuses parameters that are NaN or infinite; buffers may be.

    Raises:
        InputError: naming them.
    """
    broken = [name for name in weights if name in parameters and not torch.isfinite(weights[name]).all()]
    if broken:
        raise InputError(f"its weights are not finite: {_first(broken)}", "use an earlier checkpoint of the run")


def check_plain(value: Any, what: str) -> None:
    """Refuses what is no plain data: numbers, texts, lists and dicts, nested no deeper than 32, a million in all.

    Raises:
        InputError: naming the place.
    """
    waiting, seen = [(value, what, 0)], 0
    while waiting:
        item, place, depth = waiting.pop()
        seen += 1  # what a file shares among its lists is counted each time, since it is read each time
        if depth > DEEPEST or seen > LARGEST:
            raise InputError(f"{what} nests deeper than {DEEPEST} levels, or holds more than {LARGEST} values", DAMAGED)
        if isinstance(item, Mapping):
            for key, inner in item.items():
                if not isinstance(key, str):
                    raise InputError(f"{place} has the key {key!r}, which is no text", DAMAGED)
                waiting.append((inner, f"{place}.{key}", depth + 1))
        elif isinstance(item, list | tuple):
            waiting += [(inner, place, depth + 1) for inner in item]
        elif item is not None and not isinstance(item, bool | int | float | str):
            raise InputError(f"{place} is a {type(item).__name__}, no plain data", DAMAGED)


def _first(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _is_strict(module: nn.Module, strict: bool | None) -> bool:
    return bool(getattr(module, "strict_loading", True) if strict is None else strict)


def _check_size(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Refuses numbers in a file that claim to be those of several tensors."""
    needed = {id(tensor): tensor.numel() for name, tensor in expected.items() if name in found and not is_lazy(tensor)}
    held = {tensor.untyped_storage().data_ptr(): max(_held(tensor), SMALL) for tensor in found.values()}
    if sum(needed.values()) > sum(held.values()):
        raise InputError(f"it asks for {sum(needed.values())} numbers, but its weights are fewer", DAMAGED)


def _held(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes() // tensor.itemsize


@contextlib.contextmanager
def _at_most(tensors: int) -> Iterator[None]:
    """Stops the building of a module with far more parameters than its file holds, before it takes memory or time."""
    count, thread = 0, threading.get_ident()

    def registered(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal count
        if threading.get_ident() == thread:
            count += 1
            if count > tensors:
                raise InputError("its config asks for more layers than its weights have")

    handle = register_module_parameter_registration_hook(registered)
    try:
        yield
    finally:
        handle.remove()
