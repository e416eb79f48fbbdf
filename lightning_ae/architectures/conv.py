"""Convolutional networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

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
    check_kernel,
    check_option,
    check_sizes,
    convolution,
    enlarging,
    initialise,
    norm,
    stage_sizes,
)

Upsampling = Literal["nearest", "transposed"]


@dataclass(frozen=True)
class ConvNet(Architecture):
    """Strided convolutions, for images of any size; the decoder mirrors them with enlargements.

    Each stage halves height and width, rounding up, and the decoder restores odd sizes exactly. A constant map becomes
    a constant image, whatever the weights: no checkerboards, and borders like the inside.

    Args:
        channels: the number of channels after each stage.
        kernel_size: of every convolution; odd.
        activation: the function after each convolution; the code and the output are linear.
        norm: the normalisation before each activation.
        init: how the weights are drawn; "default" is torch's own.
        code: "vector", by a linear layer over the whole last map; or "map", its channels at each position, of the size
            that the stages leave.
        upsampling: how the decoder enlarges: "nearest", by nearest neighbours and a convolution; or "transposed", by
            transposed convolutions, whose overlap shows as checkerboards, as it was in earlier versions.
        padding: what lies beyond the border of the encoder's maps: "replicate", the nearest value, where the decoder's
            maps reach beyond the image as far as its kernels do, so that nothing has to be made up there; or "zeros",
            of both, as it was in earlier versions. Transposed convolutions take zeros, always.
    """

    earlier: ClassVar[dict[str, Any]] = {"upsampling": "transposed", "padding": "zeros"}

    channels: tuple[int, ...] = (32, 64)
    kernel_size: int = 3
    activation: Activation = "relu"
    norm: Norm = "none"
    init: Init = "default"
    code: Code = "vector"
    upsampling: Upsampling = "nearest"
    padding: Padding = "replicate"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "channels")
        check_option(self, "activation", Activation)
        check_option(self, "norm", Norm)
        check_option(self, "init", Init)
        check_option(self, "code", Code)
        check_option(self, "upsampling", Upsampling)
        check_option(self, "padding", Padding)
        check_kernel(self)

    @property
    def multiple(self) -> int | None:
        """2 to the number of stages, of a map; a vector is of one size."""
        return 2 ** len(self.channels) if self.code == "map" else None

    def encoder(self, input_shape: Shape, features: int) -> nn.Module:
        """A network from (B, C, H, W) to (B, features), or to (B, features, h, w) of a map."""
        check_image(self, "input_shape", input_shape, len(self.channels))
        check_features(self, features)
        return initialise(ConvEncoder(input_shape, features, self), self.init)

    def decoder(self, features: int, output_shape: Shape) -> nn.Module:
        """A network from (B, features), or (B, features, h, w) of a map, to (B, C, H, W)."""
        check_image(self, "output_shape", output_shape, len(self.channels))
        check_features(self, features)
        return initialise(ConvDecoder(features, output_shape, self), self.init)


class ConvEncoder(nn.Module):
    """Stages of a strided convolution each, then a linear layer, or one over each position."""

    def __init__(self, input_shape: Shape, features: int, options: ConvNet) -> None:
        super().__init__()
        channels = (input_shape[0], *options.channels)
        self.stages = nn.ModuleList(
            nn.Sequential(
                convolution(2, a, b, options.kernel_size, options.padding, 2),
                norm(options.norm, b, spatial=True),
                activation(options.activation),
            )
            for a, b in zip(channels, options.channels, strict=False)
        )
        if options.code == "map":
            self.head: nn.Module = nn.Conv2d(channels[-1], features, 1)
        else:
            last = stage_sizes(input_shape[1:], len(options.channels))[-1]
            self.head = nn.Linear(channels[-1] * math.prod(last), features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, features)."""
        for stage in self.stages:
            x = stage(x)
        features: Tensor = self.head(x.flatten(1) if isinstance(self.head, nn.Linear) else x)
        return features


class ConvDecoder(nn.Module):
    """A linear layer, or one over each position, then stages of an enlargement each."""

    def __init__(self, features: int, output_shape: Shape, options: ConvNet) -> None:
        super().__init__()
        sizes = stage_sizes(output_shape[1:], len(options.channels))[::-1]
        channels = (*reversed(options.channels), output_shape[0])
        # values beyond the border, which are computed like those inside of it: what the kernels read there is never
        # made up, and nothing is padded between stages
        bordered = options.upsampling == "nearest" and options.padding == "replicate"
        margin = options.kernel_size // 2 if bordered else 0
        of_map = options.code == "map"
        self.margin = margin if of_map else 0
        self.start = () if of_map else (channels[0], *(n + 2 * margin for n in sizes[0]))
        stem = nn.Conv2d(features, channels[0], 1) if of_map else nn.Linear(features, math.prod(self.start))
        self.stem = nn.Sequential(stem, activation(options.activation))
        self.stages = nn.ModuleList()
        for i, (a, b) in enumerate(zip(channels, channels[1:], strict=False)):
            kept = margin if i < len(channels) - 2 else 0
            stage = nn.Sequential(
                _nearest(a, b, options.kernel_size, sizes[i + 1], options.padding, margin, kept)
                if options.upsampling == "nearest"
                else _transposed(a, b, options.kernel_size, sizes[i], sizes[i + 1])
            )
            if i < len(channels) - 2:
                stage.extend([norm(options.norm, b, spatial=True), activation(options.activation)])
            self.stages.append(stage)

    def forward(self, z: Tensor) -> Tensor:
        """(B, features) to (B, C, H, W)."""
        x = self.stem(z)
        x = x if x.ndim == 4 else x.unflatten(1, self.start)
        if self.margin:
            x = F.pad(x, (self.margin,) * 4, mode="replicate")
        for stage in self.stages:
            x = stage(x)
        return x


def _nearest(a: int, b: int, kernel_size: int, after: Shape, padding: Padding, margin: int, kept: int) -> nn.Module:
    layer: Any = enlarging(a, b, kernel_size, after, padding, margin=margin or None, kept=kept)
    # by its channels after, as torch draws a transposed convolution's: by those before, the last layer starts so small
    # that what lies below it learns slowly
    nn.init.kaiming_uniform_(layer.weight.transpose(0, 1), math.sqrt(5))
    made: nn.Module = layer
    return made


def _transposed(a: int, b: int, kernel_size: int, before: Shape, after: Shape) -> nn.Module:
    # it gives 2n - 1 values, one short where the larger size is even, as it is where sizes may be any
    extra: Any = tuple(1 if m is None else m - (2 * n - 1) for n, m in zip(before, after, strict=True))
    return nn.ConvTranspose2d(a, b, kernel_size, 2, kernel_size // 2, output_padding=extra)
