"""The options that the architectures share: activation, normalisation, initialisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

from torch import nn

from lightning_ae.errors import InputError, unknown

Activation = Literal[
    "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "tanh", "sigmoid", "softplus", "identity"
]  # fmt: skip
Norm = Literal["none", "batch", "layer", "group"]
Init = Literal["default", "kaiming", "xavier", "orthogonal"]
Code = Literal["vector", "map"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "identity": nn.Identity,
}
_INITS: dict[str, Callable[..., Any]] = {
    "kaiming": nn.init.kaiming_normal_,
    "xavier": nn.init.xavier_uniform_,
    "orthogonal": nn.init.orthogonal_,
}


def activation(name: Activation) -> nn.Module:
    """A new module of the activation function `name`."""
    return _ACTIVATIONS[name]()


def norm(name: Norm, channels: int, spatial: bool) -> nn.Module:
    """A new normalisation layer.

    "batch" takes its statistics from the batch, so results depend on how a batch is split over devices; "layer" and
    "group" take them from each sample.

    Args:
        name: which one.
        channels: the size of the second dimension.
        spatial: whether height and width follow.
    """
    if name == "batch":
        return nn.BatchNorm2d(channels) if spatial else nn.BatchNorm1d(channels)
    if name == "layer":
        return nn.GroupNorm(1, channels)
    if name == "group":
        return nn.GroupNorm(max(g for g in range(1, 9) if channels % g == 0), channels)
    return nn.Identity()


def initialise(module: nn.Module, name: Init) -> nn.Module:
    """Draws the weights of all linear and convolutional layers in place, with biases at zero; returns the module."""
    if name != "default":
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                _INITS[name](layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
    return module


def check_option(owner: object, argument: str, choices: Any) -> None:
    """Raises InputError unless the field `argument` of `owner` is one of the Literal `choices`."""
    value = getattr(owner, argument)
    if value not in get_args(choices):
        raise unknown(f"{argument} of {type(owner).__name__}", str(value), get_args(choices))


def check_sizes(owner: object, argument: str, minimum: int = 1) -> None:
    """Raises InputError unless the field `argument` of `owner` holds positive integers, `minimum` of them or more."""
    value = getattr(owner, argument)
    if not isinstance(value, tuple) or len(value) < minimum or any(not isinstance(n, int) or n < 1 for n in value):
        raise InputError(
            f"{argument} of {type(owner).__name__} must be a list of positive integers, got {value!r}",
            f"give at least {minimum}, for example [32, 64]",
        )


def check_features(owner: object, features: int) -> None:
    """Raises InputError unless `features` is a positive integer."""
    if not isinstance(features, int) or features < 1:
        raise InputError(f"{type(owner).__name__} cannot give {features!r} features", "give a positive integer")


def check_image(owner: object, argument: str, shape: tuple[int, ...], stages: int) -> None:
    """Raises InputError unless `shape` is that of images that can be halved `stages` times."""
    name = type(owner).__name__
    if len(shape) != 3:
        raise InputError(
            f"{name} cannot serve {argument} {shape}: it takes images (channels, height, width)", "use MLP"
        )
    if min(shape[1:]) < 2**stages:
        raise InputError(
            f"{name} with {stages} stages cannot serve {argument} {shape}: it halves the image {stages} times, so "
            f"height and width must be at least {2**stages}",
            "give fewer channels, or use MLP",
        )


def halvings(size: tuple[int, int], stages: int) -> list[tuple[int, int]]:
    """Height and width before and after each stage that halves them, rounding up."""
    sizes = [size]
    for _ in range(stages):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes
