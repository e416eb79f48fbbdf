"""Networks of sequences."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lightning_ae.architectures.base import Architecture, Shape
from lightning_ae.architectures.layers import (
    Activation,
    Code,
    Init,
    Norm,
    Padding,
    check_features,
    check_kernel,
    check_option,
    check_sizes,
    initialise,
)
from lightning_ae.architectures.resnet import ResidualDecoder, ResidualEncoder
from lightning_ae.errors import InputError


@dataclass(frozen=True)
class SequenceNet(Architecture):
    """Dilated convolutions with residuals, for sequences (channels, length) of any length.

    A temporal convolutional network (Bai, Kolter & Koltun 2018, https://arxiv.org/abs/1803.01271) that sees both
    sides, since a code is made of a whole sequence. Each stage shortens it by `stride`, rounding up, then has a
    residual block of two convolutions for each dilation: with 1, 2, 4, 8 and kernels of 3 it sees 30 steps to either
    side. The decoder mirrors it, and enlarges by nearest neighbours to the same lengths. Beyond the ends lies the
    nearest value, so that the ends look like the inside, and a constant map becomes a constant sequence.

    Args:
        channels: the number of channels in each stage.
        kernel_size: of every convolution; odd.
        dilations: of the residual blocks in each stage.
        stride: what each stage divides the length by; 1 keeps it.
        activation: the function inside the blocks; the code and the output are linear.
        norm: the normalisation before each activation.
        dropout: the probability with which a hidden value is dropped in training, in [0, 1).
        init: how the weights are drawn; "default" is torch's own.
        code: "vector", by a linear layer over the whole last stage; or "map", its channels at each step, of the length
            that the stages leave.
    """

    channels: tuple[int, ...] = (32, 64)
    kernel_size: int = 3
    dilations: tuple[int, ...] = (1, 2, 4, 8)
    stride: int = 2
    activation: Activation = "silu"
    norm: Norm = "group"
    dropout: float = 0.0
    init: Init = "default"
    code: Code = "vector"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "channels")
        check_sizes(self, "dilations")
        check_kernel(self)
        check_option(self, "activation", Activation)
        check_option(self, "norm", Norm)
        check_option(self, "init", Init)
        check_option(self, "code", Code)
        if not isinstance(self.stride, int) or self.stride < 1:
            raise InputError(f"stride of SequenceNet must be a positive integer, got {self.stride!r}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout of SequenceNet must lie in [0, 1), got {self.dropout}")

    def encoder(self, input_shape: Shape, features: int) -> nn.Module:
        """A network from (B, C, L) to (B, features), or to (B, features, l) of a map."""
        self._check("input_shape", input_shape, features)
        return initialise(ResidualEncoder(input_shape, features, self), self.init)

    def decoder(self, features: int, output_shape: Shape) -> nn.Module:
        """A network from (B, features), or (B, features, l) of a map, to (B, C, L)."""
        self._check("output_shape", output_shape, features)
        return initialise(ResidualDecoder(features, output_shape, self), self.init)

    @property
    def padding(self) -> Padding:
        """The nearest value lies beyond the ends."""
        return "replicate"

    def _check(self, argument: str, shape: Shape, features: int) -> None:
        if len(shape) != 2:
            raise InputError(
                f"SequenceNet cannot serve {argument} {shape}: it takes sequences (channels, length)",
                "use MLP, or ConvNet for images",
            )
        check_features(self, features)
