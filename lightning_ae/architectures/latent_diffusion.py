"""The networks of latent diffusion's autoencoders: residual blocks, and attention over positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_ae.architectures.base import Architecture, Shape
from lightning_ae.architectures.layers import (
    Activation,
    GroupNorm,
    Init,
    activation,
    check_features,
    check_option,
    check_sizes,
    initialise,
)
from lightning_ae.errors import InputError
from lightning_ae.shapes import is_any

EPSILON = 1e-6
"""Of the group normalisations, as in the published weights."""


@dataclass(frozen=True)
class LatentDiffusionNet(Architecture):
    """Residual blocks with attention, from an image to a map (Esser et al. 2021, Rombach et al. 2022), and back.

    The encoder has a stage of residual blocks for each number of channels, and halves height and width after each but
    the last: by a convolution of stride 2 that sees zeros to the right and below, and none to the left and above. Then
    come a residual block, attention over all positions, and another one. The decoder mirrors it, with a block more in
    each stage, and enlarges by nearest neighbours and a convolution. So height and width must be multiples of
    2 ** (stages - 1). The parts have the names of diffusers' `AutoencoderKL` and `VQModel`, whose weights fit:
    https://arxiv.org/abs/2112.10752, https://arxiv.org/abs/2012.09841. Of Stable Diffusion 1 and 2 it is channels
    (128, 256, 512, 512), blocks 2 and groups 32.

    Attention compares each position with all others: what it holds grows with the fourth power of an image's side.

    Args:
        channels: of each stage; `block_out_channels` there.
        blocks: how many residual blocks a stage of the encoder has; `layers_per_block` there.
        groups: of the group normalisations, a divisor of all channels; `norm_num_groups` there.
        middle_attention: whether there is attention between the two blocks in the middle; `mid_block_add_attention`.
        attention: the stages, counted from 0 at the image's size, that have attention after each of their blocks; there
            the blocks of type AttnDownEncoderBlock2D and AttnUpDecoderBlock2D.
        activation: inside the blocks; before the code and the output it is silu.
        code_channels: what the encoder's last 3 x 3 convolution gives, and the decoder's first takes, where a
            convolution over single positions stands between that and the code; None for as many as the code has.
            Of `VQModel` it is `latent_channels`, and `vq_embed_dim` the code's.
        quant_conv: whether the encoder has that convolution; `use_quant_conv` there.
        post_quant_conv: whether the decoder has it.
        init: how the weights are drawn; "default" is torch's own.
    """

    channels: tuple[int, ...] = (16, 32)
    blocks: int = 1
    groups: int = 8
    middle_attention: bool = True
    attention: tuple[int, ...] = ()
    activation: Activation = "silu"
    code_channels: int | None = None
    quant_conv: bool = True
    post_quant_conv: bool = True
    init: Init = "default"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "channels")
        check_option(self, "activation", Activation)
        check_option(self, "init", Init)
        for name in ("blocks", "groups"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise InputError(f"{name} of LatentDiffusionNet must be a positive integer, got {getattr(self, name)}")
        if any(n % self.groups for n in self.channels):
            raise InputError(
                f"groups of LatentDiffusionNet must divide all its channels, got {self.groups} and {self.channels}",
                "give a divisor of all, 8 for (16, 32) say",
            )
        stages = range(len(self.channels))
        if any(stage not in stages for stage in self.attention):
            raise InputError(
                f"attention of LatentDiffusionNet names stages from 0 to {len(stages) - 1}, got {self.attention}"
            )
        if self.code_channels is not None and not (isinstance(self.code_channels, int) and self.code_channels > 0):
            raise InputError(
                f"code_channels of LatentDiffusionNet must be a positive integer, got {self.code_channels!r}"
            )
        if self.code_channels is not None and not (self.quant_conv and self.post_quant_conv):
            raise InputError(
                "code_channels of LatentDiffusionNet differ from the code's only where quant_conv and post_quant_conv "
                "stand between them",
                "leave them at True, or code_channels at None",
            )

    @property
    def multiple(self) -> int:
        """2 to the number of stages but the last."""
        return int(2 ** (len(self.channels) - 1))

    def encoder(self, input_shape: Shape, features: int) -> nn.Module:
        """A network from (B, C, H, W) to (B, features, H / multiple, W / multiple)."""
        self._check(input_shape, "input_shape")
        check_features(self, features)
        return initialise(LatentEncoder(input_shape[0], features, self), self.init)

    def decoder(self, features: int, output_shape: Shape) -> nn.Module:
        """A network from (B, features, H / multiple, W / multiple) to (B, C, H, W)."""
        self._check(output_shape, "output_shape")
        check_features(self, features)
        return initialise(LatentDecoder(features, output_shape[0], self), self.init)

    def _check(self, shape: Shape, argument: str) -> None:
        if len(shape) != 3:
            raise InputError(
                f"LatentDiffusionNet cannot serve {argument} {shape}: it takes images (channels, height, width)",
                "use MLP",
            )
        if not is_any(shape) and any(n % self.multiple for n in shape[1:]):
            raise InputError(
                f"LatentDiffusionNet with {len(self.channels)} stages cannot serve {argument} {shape}: height and "
                f"width must be multiples of {self.multiple}",
                "give fewer channels, or resize the images",
            )


class ResidualBlock(nn.Module):
    """x + f(x), where f is two rounds of group normalisation, activation and a convolution."""

    def __init__(self, a: int, b: int, options: LatentDiffusionNet) -> None:
        super().__init__()
        self.norm1 = GroupNorm(options.groups, a, eps=EPSILON)
        self.conv1 = nn.Conv2d(a, b, 3, padding=1)
        self.norm2 = GroupNorm(options.groups, b, eps=EPSILON)
        self.conv2 = nn.Conv2d(b, b, 3, padding=1)
        self.nonlinearity = activation(options.activation)
        if a != b:
            self.conv_shortcut = nn.Conv2d(a, b, 1)
        self.changes = a != b

    def forward(self, x: Tensor) -> Tensor:
        """(B, a, h, w) to (B, b, h, w)."""
        h = self.conv1(self.nonlinearity(self.norm1(x)))
        h = self.conv2(self.nonlinearity(self.norm2(h)))
        shortcut: Tensor = self.conv_shortcut(x) if self.changes else x
        return shortcut + h


class Attention(nn.Module):
    """x + f(x), where f is attention of one head over all positions of the normalised map."""

    def __init__(self, channels: int, options: LatentDiffusionNet) -> None:
        super().__init__()
        self.group_norm = GroupNorm(options.groups, channels, eps=EPSILON)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) to the same shape."""
        rows = self.group_norm(x).flatten(2).transpose(1, 2)
        # a batch of heads, one of each sample
        q, k, v = (layer(rows).unsqueeze(1) for layer in (self.to_q, self.to_k, self.to_v))
        found = self.to_out[0](F.scaled_dot_product_attention(q, k, v).squeeze(1))
        return x + found.transpose(1, 2).unflatten(2, x.shape[2:])


class _Middle(nn.Module):
    """A residual block, attention where there is some, a residual block."""

    def __init__(self, channels: int, options: LatentDiffusionNet) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(channels, channels, options) for _ in range(2))
        self.attentions = nn.ModuleList([Attention(channels, options)] if options.middle_attention else [])

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        found: Tensor = self.resnets[1](x)
        return found


class _Stage(nn.Module):
    """Residual blocks, each with attention where the stage has it, then what changes height and width."""

    def __init__(self, a: int, b: int, blocks: int, attends: bool, options: LatentDiffusionNet) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(b if i else a, b, options) for i in range(blocks))
        self.attentions = nn.ModuleList(Attention(b, options) for _ in range(blocks if attends else 0))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.resnets):
            x = block(x)
            if len(self.attentions):
                x = self.attentions[i](x)
        return x


class _Down(_Stage):
    def __init__(self, last: bool, *args: Any) -> None:
        super().__init__(*args)
        self.downsamplers = nn.ModuleList([] if last else [_Halving(args[1])])

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        for layer in self.downsamplers:
            x = layer(x)
        return x


class _Up(_Stage):
    def __init__(self, last: bool, *args: Any) -> None:
        super().__init__(*args)
        self.upsamplers = nn.ModuleList([] if last else [_Doubling(args[1])])

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        for layer in self.upsamplers:
            x = layer(x)
        return x


class _Halving(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return found


class _Doubling(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return found


class LatentEncoder(nn.Module):
    """A convolution, the stages, the middle, and what makes a code of it."""

    def __init__(self, channels: int, features: int, options: LatentDiffusionNet) -> None:
        super().__init__()
        sizes, inner = options.channels, options.code_channels or features
        self.conv_in = nn.Conv2d(channels, sizes[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            _Down(i == len(sizes) - 1, a, b, options.blocks, i in options.attention, options)
            for i, (a, b) in enumerate(zip((sizes[0], *sizes), sizes, strict=False))
        )
        self.mid_block = _Middle(sizes[-1], options)
        self.conv_norm_out = GroupNorm(options.groups, sizes[-1], eps=EPSILON)
        self.conv_out = nn.Conv2d(sizes[-1], inner, 3, padding=1)
        self.quant_conv = nn.Conv2d(inner, features, 1) if options.quant_conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, features, h, w)."""
        x = self.conv_in(x)
        for stage in self.down_blocks:
            x = stage(x)
        x = self.conv_norm_out(self.mid_block(x))
        features: Tensor = self.quant_conv(self.conv_out(F.silu(x)))
        return features


class LatentDecoder(nn.Module):
    """What takes a code, the middle, the stages, and a convolution."""

    def __init__(self, features: int, channels: int, options: LatentDiffusionNet) -> None:
        super().__init__()
        sizes, inner = options.channels[::-1], options.code_channels or features
        last = len(sizes) - 1
        self.post_quant_conv = nn.Conv2d(features, inner, 1) if options.post_quant_conv else nn.Identity()
        self.conv_in = nn.Conv2d(inner, sizes[0], 3, padding=1)
        self.mid_block = _Middle(sizes[0], options)
        self.up_blocks = nn.ModuleList(
            _Up(i == last, a, b, options.blocks + 1, last - i in options.attention, options)
            for i, (a, b) in enumerate(zip((sizes[0], *sizes), sizes, strict=False))
        )
        self.conv_norm_out = GroupNorm(options.groups, sizes[-1], eps=EPSILON)
        self.conv_out = nn.Conv2d(sizes[-1], channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """(B, features, h, w) to (B, C, H, W)."""
        x = self.mid_block(self.conv_in(self.post_quant_conv(z)))
        for stage in self.up_blocks:
            x = stage(x)
        made: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return made
