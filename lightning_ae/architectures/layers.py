"""What the architectures share: activation, normalisation, initialisation, padding; the sizes of their stages."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_ae.errors import InputError, unknown
from lightning_ae.shapes import is_any

Activation = Literal[
    "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "tanh", "sigmoid", "softplus", "identity"
]  # fmt: skip
Norm = Literal["none", "batch", "layer", "group"]
Init = Literal["default", "kaiming", "xavier", "orthogonal"]
Code = Literal["vector", "map"]
Padding = Literal["replicate", "zeros"]

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
        spatial: whether height and width follow; of a sequence, whose length does, it is false.
    """
    if name == "batch":
        return nn.BatchNorm2d(channels) if spatial else nn.BatchNorm1d(channels)
    if name == "layer":
        return GroupNorm(1, channels)
    if name == "group":
        return GroupNorm(max(g for g in range(1, 9) if channels % g == 0), channels)
    return nn.Identity()


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm`, but for groups of a single value, of which nothing is left but the bias.

    torch refuses such of one sample and normalises those of several.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, ...) to the same shape.

        Raises:
            InputError: where a sample has no more values than there are groups.
        """
        if math.prod(x.shape[1:]) == self.num_groups:
            raise InputError(
                f"group normalisation has {self.num_groups} groups of {tuple(x.shape[1:])} values, one each, of which "
                "it would leave nothing",
                "give more channels or wider layers, fewer groups, larger inputs, or another norm",
            )
        return super().forward(x)


def initialise(module: nn.Module, name: Init) -> nn.Module:
    """Draws the weights of all linear and convolutional layers in place, with biases at zero; returns the module."""
    if name != "default":
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d):
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


def check_image(owner: object, argument: str, shape: tuple[Any, ...], stages: int) -> None:
    """Raises InputError unless `shape` is that of images that can be halved `stages` times."""
    name = type(owner).__name__
    if len(shape) != 3:
        raise InputError(
            f"{name} cannot serve {argument} {shape}: it takes images (channels, height, width)", "use MLP"
        )
    if not is_any(shape) and min(shape[1:]) < 2**stages:
        raise InputError(
            f"{name} with {stages} stages cannot serve {argument} {shape}: it halves the image {stages} times, so "
            f"height and width must be at least {2**stages}",
            "give fewer channels, or use MLP",
        )


def check_kernel(owner: object) -> None:
    """Raises InputError unless `kernel_size` of `owner` is odd, so that a convolution has a middle, and 3 or more."""
    size = getattr(owner, "kernel_size")  # noqa: B009  an object may have it
    if not isinstance(size, int) or size < 3 or size % 2 == 0:
        raise InputError(f"kernel_size of {type(owner).__name__} must be odd and at least 3, got {size}")


def stage_sizes(size: tuple[Any, ...], stages: int, stride: int = 2) -> list[tuple[Any, ...]]:
    """Height and width, or the length, before and after each stage that divides them by `stride`, rounding up.

    Those that may be any stay None: they are multiples, which nothing rounds.
    """
    sizes = [size]
    for _ in range(stages):
        sizes.append(tuple(None if n is None else -(-n // stride) for n in sizes[-1]))
    return sizes


def _quick(x: Tensor) -> Tensor:
    """The same map, on a CPU with a position's channels side by side, as its convolutions and padding are quickest."""
    if x.ndim != 4 or x.device.type != "cpu":
        return x
    # not `contiguous`, for which a single channel lies either way
    return x.permute(0, 2, 3, 1).flatten(2).unflatten(2, (x.shape[3], x.shape[1])).permute(0, 3, 1, 2)


class _Replicating:
    """A convolution beyond whose border lies the nearest value, of which it makes no more than it reads."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *size) to (B, C, *size / stride), rounded up."""
        layer: Any = self
        pads: list[int] = []
        for dim, n in enumerate(x.shape[2:]):
            before, stride = layer.padding[dim], layer.stride[dim]
            read = (-(-n // stride) - 1) * stride + 2 * before + 1
            pads = [before, max(0, read - before - n), *pads]
        x = F.pad(_quick(x), pads, mode="replicate")
        found: Tensor = _CONVOLUTION[len(pads) // 2 - 1](x, layer.weight, layer.bias, layer.stride, 0, layer.dilation)
        return found


class _Replicating1d(_Replicating, nn.Conv1d):
    pass


class _Replicating2d(_Replicating, nn.Conv2d):
    pass


def convolution(
    dims: int, a: int, b: int, kernel_size: int, padding: Padding, stride: int = 1, dilation: int = 1
) -> nn.Module:
    """One that keeps the sizes, or divides them by `stride`, rounding up.

    Args:
        dims: 2 of images, 1 of sequences.
        a: channels before.
        b: channels after.
        kernel_size: odd.
        padding: what lies beyond the border.
        stride: what it divides the sizes by.
        dilation: how far apart the values are that it reads.
    """
    kinds = (_Replicating1d, _Replicating2d) if padding == "replicate" else (nn.Conv1d, nn.Conv2d)
    around = dilation * (kernel_size // 2)
    found: nn.Module = kinds[dims - 1](a, b, kernel_size, stride, around, dilation, padding_mode=padding)
    return found


class _Enlarging:
    """Each value `stride` times in each direction, what is beyond `size` left out, and then the convolution.

    A constant map stays constant, also at its border where the padding is "replicate", whatever the weights; transposed
    convolutions as such leave the pattern of their overlap (Odena et al. 2016, https://doi.org/10.23915/distill.00003).
    Both steps are convolutions of the values with zeros between them, and those can change places: a transposed
    convolution, with as many products as one that leaves the pattern, and then sums over `factor` values in each
    direction, which take it away.
    """

    size: tuple[Any, ...]
    factor: int
    margin: int | None
    kept: int

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *size / factor) to (B, C, *size), with the margins of each."""
        layer: Any = self
        dims, half, factor, margin = len(self.size), layer.padding[0], self.factor, self.margin
        size = self.size
        if is_any(size):
            size = tuple(factor * (n - 2 * (margin or 0)) for n in x.shape[2:])
        if margin is None and (layer.padding_mode == "zeros" or factor == 1):
            found: Tensor = layer._conv_forward(F.interpolate(x, size), layer.weight, layer.bias)
            return found
        x = _quick(x)
        if margin is None:
            margin = -(-half // factor)
            x = F.pad(x, (margin,) * 2 * dims, mode="replicate")
        weight = layer.weight.transpose(0, 1).flip([2, 3][:dims])
        bias = None if layer.bias is None else layer.bias / factor**dims
        cut = factor * margin + half - factor + 1 - self.kept
        x = _TRANSPOSED[dims - 1](x, weight, bias, stride=factor, padding=cut)
        sizes = [n + 2 * self.kept for n in size]
        if layer.out_channels < _WIDE:
            for dim, n in enumerate(sizes, start=2):
                x = functools.reduce(torch.add, [x.narrow(dim, i, n) for i in range(factor)])
            return x
        x = _CONVOLUTION[dims - 1](x, x.new_ones(layer.out_channels, 1, *[factor] * dims), groups=layer.out_channels)
        for dim, n in enumerate(sizes, start=2):
            x = x.narrow(dim, 0, n) if n < x.shape[dim] else x  # the whole would be copied on the way back
        return x


_WIDE = 8
"""From so many channels on sums are made quickest by a convolution of each."""
_CONVOLUTION: Any = (F.conv1d, F.conv2d)
_TRANSPOSED: Any = (F.conv_transpose1d, F.conv_transpose2d)


class _Enlarging1d(_Enlarging, nn.Conv1d):
    pass


class _Enlarging2d(_Enlarging, nn.Conv2d):
    pass


def enlarging(
    a: int,
    b: int,
    kernel_size: int,
    size: tuple[Any, ...],
    padding: Padding = "replicate",
    factor: int = 2,
    margin: int | None = None,
    kept: int = 0,
) -> nn.Module:
    """What takes back a stage that divided the sizes by `factor`: nearest neighbours, then a convolution.

    Args:
        a: channels before.
        b: channels after.
        kernel_size: odd.
        size: the height and width, or the length, that it gives; None where they are `factor` times what it is given.
        padding: what lies beyond the border.
        factor: how many of each value, in each direction.
        margin: how many values beyond the border, on each side, the map brings itself, so that nothing is made up;
            None for none, and `padding`. At least (kernel_size // 2 + kept) / factor.
        kept: how many of them what it gives shall have.
    """
    layer = (_Enlarging1d, _Enlarging2d)[len(size) - 1](a, b, kernel_size, 1, kernel_size // 2, padding_mode=padding)
    layer.size, layer.factor, layer.margin, layer.kept = size, factor, margin, kept
    return layer
