"""Residual networks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_ae.architectures.base import Architecture, Shape
from lightning_ae.architectures.layers import (
    Activation,
    Code,
    Init,
    Norm,
    activation,
    check_features,
    check_image,
    check_option,
    check_sizes,
    halvings,
    initialise,
    norm,
)
from lightning_ae.errors import InputError


@dataclass(frozen=True)
class ResNet(Architecture):
    """Residual blocks with pre-activation (He et al. 2016, https://arxiv.org/abs/1603.05027), for images of any size.

    Each stage halves height and width, rounding up; the decoder enlarges by nearest neighbours to the same sizes.

    Args:
        channels: the number of channels in each stage.
        blocks: how many residual blocks a stage has.
        activation: the function inside the blocks; the code and the output are linear.
        norm: the normalisation before each activation.
        init: how the weights are drawn; "default" is torch's own.
        code: "vector", by a linear layer over the whole last map; or "map", its channels at each position, of the size
            that the stages leave.
    """

    channels: tuple[int, ...] = (32, 64)
    blocks: int = 1
    activation: Activation = "silu"
    norm: Norm = "group"
    init: Init = "default"
    code: Code = "vector"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "channels")
        check_option(self, "activation", Activation)
        check_option(self, "norm", Norm)
        check_option(self, "init", Init)
        check_option(self, "code", Code)
        if not isinstance(self.blocks, int) or self.blocks < 1:
            raise InputError(f"blocks of ResNet must be a positive integer, got {self.blocks!r}")

    def encoder(self, input_shape: Shape, features: int) -> nn.Module:
        """A network from (B, C, H, W) to (B, features), or to (B, features, h, w) of a map."""
        check_image(self, "input_shape", input_shape, len(self.channels))
        check_features(self, features)
        return initialise(ResNetEncoder(input_shape, features, self), self.init)

    def decoder(self, features: int, output_shape: Shape) -> nn.Module:
        """A network from (B, features), or (B, features, h, w) of a map, to (B, C, H, W)."""
        check_image(self, "output_shape", output_shape, len(self.channels))
        check_features(self, features)
        return initialise(ResNetDecoder(features, output_shape, self), self.init)


class ResidualBlock(nn.Module):
    """x + f(x), where f is two rounds of normalisation, activation and a 3x3 convolution."""

    def __init__(self, channels: int, options: ResNet) -> None:
        super().__init__()
        self.body = nn.Sequential(
            norm(options.norm, channels, spatial=True),
            activation(options.activation),
            nn.Conv2d(channels, channels, 3, padding=1),
            norm(options.norm, channels, spatial=True),
            activation(options.activation),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to the same shape."""
        residual: Tensor = self.body(x)
        return x + residual


class ResNetEncoder(nn.Module):
    """Stages of a strided convolution and residual blocks, then a linear layer."""

    def __init__(self, input_shape: Shape, features: int, options: ResNet) -> None:
        super().__init__()
        channels = (input_shape[0], *options.channels)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, stride=2, padding=1), *(ResidualBlock(b, options) for _ in range(options.blocks))
            )
            for a, b in zip(channels, options.channels, strict=False)
        )
        last = halvings((input_shape[1], input_shape[2]), len(options.channels))[-1]
        self.head = nn.Sequential(
            norm(options.norm, channels[-1], spatial=True),
            activation(options.activation),
            *(
                [nn.Conv2d(channels[-1], features, 1)]
                if options.code == "map"
                else [nn.Flatten(), nn.Linear(channels[-1] * math.prod(last), features)]
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, features)."""
        for stage in self.stages:
            x = stage(x)
        features: Tensor = self.head(x)
        return features


class ResNetDecoder(nn.Module):
    """A linear layer, then stages of residual blocks, enlargement and a convolution."""

    def __init__(self, features: int, output_shape: Shape, options: ResNet) -> None:
        super().__init__()
        self.sizes = halvings((output_shape[1], output_shape[2]), len(options.channels))[::-1]
        channels = (*reversed(options.channels), output_shape[0])
        self.start = (channels[0], *self.sizes[0])
        of_map = options.code == "map"
        self.stem = nn.Conv2d(features, channels[0], 1) if of_map else nn.Linear(features, math.prod(self.start))
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(ResidualBlock(a, options) for _ in range(options.blocks)),
                norm(options.norm, a, spatial=True),
                activation(options.activation),
            )
            for a in channels[:-1]
        )
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in zip(channels, channels[1:], strict=False)
        )

    def forward(self, z: Tensor) -> Tensor:
        """(B, features) to (B, C, H, W)."""
        x = self.stem(z)
        x = x if x.ndim == 4 else x.unflatten(1, self.start)
        for stage, convolution, size in zip(self.stages, self.convolutions, self.sizes[1:], strict=True):
            x = convolution(F.interpolate(stage(x), size=size, mode="nearest"))
        return x
