"""Residual networks, of images and of sequences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from lightning_ae.architectures.base import Architecture, Shape
from lightning_ae.architectures.layers import (
    Activation,
    Code,
    Init,
    Norm,
    Padding,
    activation,
    check_features,
    check_image,
    check_option,
    check_sizes,
    convolution,
    enlarging,
    initialise,
    norm,
    stage_sizes,
)
from lightning_ae.errors import InputError
from lightning_ae.exact import Dropout


@dataclass(frozen=True)
class ResNet(Architecture):
    """Residual blocks with pre-activation (He et al. 2016, https://arxiv.org/abs/1603.05027), for images of any size.

    Each stage halves height and width, rounding up; the decoder enlarges by nearest neighbours to the same sizes, so
    that a constant map becomes a constant image.

    Args:
        channels: the number of channels in each stage.
        blocks: how many residual blocks a stage has.
        activation: the function inside the blocks; the code and the output are linear.
        norm: the normalisation before each activation.
        init: how the weights are drawn; "default" is torch's own.
        code: "vector", by a linear layer over the whole last map; or "map", its channels at each position, of the size
            that the stages leave.
        padding: what lies beyond the border: "replicate", the nearest value, so that a border looks like the inside;
            or "zeros", as it was in earlier versions.
    """

    earlier: ClassVar[dict[str, Any]] = {"padding": "zeros"}

    channels: tuple[int, ...] = (32, 64)
    blocks: int = 1
    activation: Activation = "silu"
    norm: Norm = "group"
    init: Init = "default"
    code: Code = "vector"
    padding: Padding = "replicate"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "channels")
        check_option(self, "activation", Activation)
        check_option(self, "norm", Norm)
        check_option(self, "init", Init)
        check_option(self, "code", Code)
        check_option(self, "padding", Padding)
        if not isinstance(self.blocks, int) or self.blocks < 1:
            raise InputError(f"blocks of ResNet must be a positive integer, got {self.blocks!r}")

    @property
    def multiple(self) -> int | None:
        """2 to the number of stages, of a map; a vector is of one size."""
        return 2 ** len(self.channels) if self.code == "map" else None

    def encoder(self, input_shape: Shape, features: int) -> nn.Module:
        """A network from (B, C, H, W) to (B, features), or to (B, features, h, w) of a map."""
        check_image(self, "input_shape", input_shape, len(self.channels))
        check_features(self, features)
        return initialise(ResidualEncoder(input_shape, features, self), self.init)

    def decoder(self, features: int, output_shape: Shape) -> nn.Module:
        """A network from (B, features), or (B, features, h, w) of a map, to (B, C, H, W)."""
        check_image(self, "output_shape", output_shape, len(self.channels))
        check_features(self, features)
        return initialise(ResidualDecoder(features, output_shape, self), self.init)

    @property
    def kernel_size(self) -> int:
        """Of every convolution but those over single positions."""
        return 3

    @property
    def stride(self) -> int:
        """What each stage divides height and width by."""
        return 2

    @property
    def dilations(self) -> tuple[int, ...]:
        """Of a stage's blocks."""
        return (1,) * self.blocks

    @property
    def dropout(self) -> float:
        """Blocks drop nothing."""
        return 0.0


class Residual(Protocol):
    """What residual networks are built by."""

    @property
    def channels(self) -> tuple[int, ...]:
        """After each stage."""

    @property
    def kernel_size(self) -> int:
        """Of every convolution but those over single positions."""

    @property
    def stride(self) -> int:
        """What each stage divides sizes by."""

    @property
    def dilations(self) -> tuple[int, ...]:
        """Of a stage's blocks."""

    @property
    def activation(self) -> Activation:
        """Inside the blocks."""

    @property
    def norm(self) -> Norm:
        """Before each activation."""

    @property
    def dropout(self) -> float:
        """The probability with which a hidden value is dropped."""

    @property
    def code(self) -> Code:
        """A vector or a map."""

    @property
    def padding(self) -> Padding:
        """What lies beyond the border."""


def _convolution(dims: int, a: int, b: int, options: Residual, stride: int = 1, dilation: int = 1) -> nn.Module:
    """One that keeps the size, up to the stride."""
    return convolution(dims, a, b, options.kernel_size, options.padding, stride, dilation)


def _pointwise(dims: int, a: int, b: int) -> nn.Module:
    """A linear map at each position."""
    return (nn.Conv1d, nn.Conv2d)[dims - 1](a, b, 1)


class ResidualBlock(nn.Module):
    """x + f(x), where f is two rounds of normalisation, activation, dropout and a convolution."""

    def __init__(self, dims: int, channels: int, dilation: int, options: Residual) -> None:
        super().__init__()
        self.body = nn.Sequential()
        for _ in range(2):
            self.body.extend(_before(dims, channels, options))
            if options.dropout:
                self.body.append(Dropout(options.dropout))
            self.body.append(_convolution(dims, channels, channels, options, dilation=dilation))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *size) to the same shape."""
        residual: Tensor = self.body(x)
        return x + residual


def _before(dims: int, channels: int, options: Residual) -> list[nn.Module]:
    """What comes before a convolution: normalisation and activation."""
    return [norm(options.norm, channels, spatial=dims == 2), activation(options.activation)]


class ResidualEncoder(nn.Module):
    """Stages of a strided convolution and residual blocks, then a linear layer."""

    def __init__(self, input_shape: Shape, features: int, options: Residual) -> None:
        super().__init__()
        dims = len(input_shape) - 1
        channels = (input_shape[0], *options.channels)
        self.stages = nn.ModuleList(
            nn.Sequential(
                _convolution(dims, a, b, options, options.stride),
                *(ResidualBlock(dims, b, dilation, options) for dilation in options.dilations),
            )
            for a, b in zip(channels, options.channels, strict=False)
        )
        if options.code == "map":
            head = [_pointwise(dims, channels[-1], features)]
        else:
            last = stage_sizes(input_shape[1:], len(options.channels), options.stride)[-1]
            head = [nn.Flatten(), nn.Linear(channels[-1] * math.prod(last), features)]
        self.head = nn.Sequential(*_before(dims, channels[-1], options), *head)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *size) to (B, features), or to (B, features, *code_size) of a map."""
        for stage in self.stages:
            x = stage(x)
        features: Tensor = self.head(x)
        return features


class ResidualDecoder(nn.Module):
    """A linear layer, then stages of residual blocks, enlargement and a convolution."""

    def __init__(self, features: int, output_shape: Shape, options: Residual) -> None:
        super().__init__()
        dims = len(output_shape) - 1
        sizes = stage_sizes(output_shape[1:], len(options.channels), options.stride)[::-1]
        channels = (*reversed(options.channels), output_shape[0])
        self.start = (channels[0], *sizes[0])
        of_map = options.code == "map"
        self.stem = _pointwise(dims, features, channels[0]) if of_map else nn.Linear(features, math.prod(self.start))
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(ResidualBlock(dims, a, dilation, options) for dilation in reversed(options.dilations)),
                *_before(dims, a, options),
            )
            for a in channels[:-1]
        )
        self.convolutions = nn.ModuleList(
            enlarging(a, b, options.kernel_size, size, options.padding, options.stride)
            for a, b, size in zip(channels, channels[1:], sizes[1:], strict=False)
        )

    def forward(self, z: Tensor) -> Tensor:
        """(B, features), or (B, features, *code_size) of a map, to (B, C, *size)."""
        x = self.stem(z)
        x = x.unflatten(1, self.start) if x.ndim == 2 else x
        for stage, enlarge in zip(self.stages, self.convolutions, strict=True):
            x = enlarge(stage(x))
        return x
