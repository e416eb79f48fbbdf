"""The networks of tiny autoencoders of photographs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_ae.architectures.base import Architecture, Shape
from lightning_ae.architectures.layers import GroupNorm, check_features, check_image, check_sizes
from lightning_ae.errors import InputError
from lightning_ae.shapes import check_multiple, is_any

BOUND, GROUPS, WIDER = 3.0, 4, 4


@dataclass(frozen=True)
class TinyNet(Architecture):
    """Narrow residual networks of 3x3 convolutions and ReLU, for images of any size; their codes are maps.

    Those of TAESD (Ollin Boer Bohan 2023, https://github.com/madebyollin/taesd), which stand in for the large
    autoencoders of latent diffusion. The encoder is a convolution and stages of blocks, of which each but the first
    begins by halving height and width; the decoder mirrors it with nearest neighbours, and takes codes as
    3 tanh(z / 3), so that no value of a code is too large for it. A block is relu(x + f(x)), where f is three
    convolutions with a ReLU between two. Code and output are linear.

    Args:
        channels: of every map; a multiple of 4.
        blocks: how many blocks each stage has, from the image's size down.
        pooled: whether the blocks of the smallest maps first add two linear maps of each position, with a group
            normalisation between them, whose statistics are those of the whole image.
    """

    channels: int = 64
    blocks: tuple[int, ...] = (1, 3, 3, 3)
    pooled: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "blocks")
        if not isinstance(self.channels, int) or self.channels < GROUPS or self.channels % GROUPS:
            raise InputError(f"channels of TinyNet must be a positive multiple of {GROUPS}, got {self.channels!r}")
        if not isinstance(self.pooled, bool):
            raise InputError(f"pooled of TinyNet must be true or false, got {self.pooled!r}")

    @property
    def multiple(self) -> int:
        """2 to the number of halvings."""
        return int(2 ** (len(self.blocks) - 1))

    def encoder(self, input_shape: Shape, features: int) -> nn.Module:
        """A network from (B, C, H, W) to (B, features, H / multiple, W / multiple)."""
        self._check("input_shape", input_shape, features)
        return TinyEncoder(input_shape[0], features, self)

    def decoder(self, features: int, output_shape: Shape) -> nn.Module:
        """A network from (B, features, H / multiple, W / multiple) to (B, C, H, W)."""
        self._check("output_shape", output_shape, features)
        return TinyDecoder(features, output_shape[0], self)

    def _check(self, argument: str, shape: Shape, features: int) -> None:
        check_image(self, argument, shape, len(self.blocks) - 1)
        check_features(self, features)
        if not is_any(shape):
            check_multiple(shape[1:], self.multiple)


class TinyBlock(nn.Module):
    """relu(x + f(x)), of maps (B, channels, h, w), with what is pooled added to x before."""

    def __init__(self, channels: int, pooled: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(channels, channels),
            nn.ReLU(),
            _convolution(channels, channels),
            nn.ReLU(),
            _convolution(channels, channels),
        )
        wide = WIDER * channels
        self.pool = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            GroupNorm(GROUPS, wide),
            nn.ReLU(),
            nn.Conv2d(wide, channels, 1, bias=False),
        ) if pooled else None  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """To the same shape."""
        if self.pool is not None:
            x = x + self.pool(x)
        return F.relu(x + self.body(x))


class TinyEncoder(nn.Module):
    """A convolution, stages of blocks that halve the map, and a convolution."""

    def __init__(self, channels: int, features: int, options: TinyNet) -> None:
        super().__init__()
        width, last = options.channels, len(options.blocks) - 1
        self.stages = nn.ModuleList(
            nn.Sequential(
                _convolution(width, width, stride=2) if i else _convolution(channels, width),
                *(TinyBlock(width, options.pooled and i == last) for _ in range(n)),
            )
            for i, n in enumerate(options.blocks)
        )
        self.head = _convolution(width, features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, features, H / multiple, W / multiple)."""
        for stage in self.stages:
            x = stage(x)
        code: Tensor = self.head(x)
        return code


class TinyDecoder(nn.Module):
    """A convolution of bounded codes, stages of blocks that are enlarged and convolved between, and a convolution."""

    def __init__(self, features: int, channels: int, options: TinyNet) -> None:
        super().__init__()
        width, last = options.channels, len(options.blocks) - 1
        self.stem = _convolution(features, width)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(TinyBlock(width, options.pooled and i == last) for _ in range(options.blocks[i])),
                *((nn.Upsample(scale_factor=2), _convolution(width, width, bias=False)) if i else ()),
            )
            for i in range(last, -1, -1)
        )
        self.head = _convolution(width, channels)

    def forward(self, z: Tensor) -> Tensor:
        """(B, features, H / multiple, W / multiple) to (B, C, H, W)."""
        x = F.relu(self.stem(BOUND * torch.tanh(z / BOUND)))
        for stage in self.stages:
            x = stage(x)
        image: Tensor = self.head(x)
        return image


def _convolution(a: int, b: int, stride: int = 1, bias: bool = True) -> nn.Module:
    """Over 3x3 values, zeros beyond the border; one that halves the map has no bias."""
    return nn.Conv2d(a, b, 3, stride, 1, bias=bias and stride == 1)
