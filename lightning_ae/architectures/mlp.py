"""Fully connected networks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_ae.architectures.base import Architecture, Shape
from lightning_ae.architectures.layers import (
    Activation,
    Init,
    Norm,
    activation,
    check_features,
    check_option,
    check_sizes,
    initialise,
    norm,
)
from lightning_ae.errors import InputError
from lightning_ae.exact import Dropout


@dataclass(frozen=True)
class MLP(Architecture):
    """Fully connected layers, for samples of any shape; the decoder mirrors the encoder.

    Args:
        hidden: the widths of the encoder's hidden layers; none makes it a single linear map.
        activation: the function after each hidden layer; the code and the output are linear.
        norm: the normalisation before each activation.
        dropout: the probability with which a hidden unit is dropped in training, in [0, 1).
        tied: each layer of the decoder uses the transposed weight of the encoder's, with a bias of its own.
        init: how the weights are drawn; "default" is torch's own.
        tokens: how many vectors a code has, (features, tokens); by default it is one, (features,).
    """

    hidden: tuple[int, ...] = (512,)
    activation: Activation = "relu"
    norm: Norm = "none"
    dropout: float = 0.0
    tied: bool = False
    init: Init = "default"
    tokens: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "hidden", minimum=0)
        check_option(self, "activation", Activation)
        check_option(self, "norm", Norm)
        check_option(self, "init", Init)
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout of MLP must lie in [0, 1), got {self.dropout}")
        if self.tokens is not None and (not isinstance(self.tokens, int) or self.tokens < 1):
            raise InputError(f"tokens of MLP must be a positive integer, or None, got {self.tokens!r}")

    def encoder(self, input_shape: Shape, features: int) -> nn.Module:
        """A network from (B, *input_shape) to (B, features), or to (B, features, tokens)."""
        check_features(self, features)
        code = self._code(features)
        return initialise(Layers((math.prod(input_shape), *self.hidden, math.prod(code)), code, self), self.init)

    def decoder(self, features: int, output_shape: Shape) -> nn.Module:
        """A network from (B, features), or (B, features, tokens), to (B, *output_shape)."""
        check_features(self, features)
        widths = (math.prod(self._code(features)), *reversed(self.hidden), math.prod(output_shape))
        return initialise(Layers(widths, output_shape, self), self.init)

    def _code(self, features: int) -> Shape:
        return (features,) if self.tokens is None else (features, self.tokens)

    def tie(self, encoder: nn.Module, decoder: nn.Module) -> None:
        """Makes the decoder use the encoder's weights, where `tied` says so.

        Raises:
            InputError: when a layer of the decoder has another shape than the encoder's layer transposed.
        """
        if not self.tied:
            return
        if not isinstance(encoder, Layers) or not isinstance(decoder, Layers):
            raise InputError("tied needs the encoder and the decoder that MLP builds", "use tied=False")
        pairs = [
            (layer, mirrored)
            for layer, mirrored in zip(reversed(encoder.linears), decoder.linears, strict=True)
            if isinstance(layer, nn.Linear) and isinstance(mirrored, nn.Linear)
        ]
        for layer, mirrored in pairs:
            if layer.weight.shape != mirrored.weight.shape[::-1]:
                raise InputError(
                    f"tied needs mirrored layers, but the encoder maps {layer.in_features} to {layer.out_features} "
                    f"values where the decoder maps {mirrored.in_features} to {mirrored.out_features}",
                    "use tied=False; a model that encodes two values for each latent, or a likelihood that takes two "
                    "for each output, cannot be tied",
                )
        decoder.linears = nn.ModuleList(TiedLinear(layer.weight, mirrored.bias) for layer, mirrored in pairs)


class Layers(nn.Module):
    """Linear layers with everything between them, from (B, ...) to (B, *output_shape)."""

    def __init__(self, widths: tuple[int, ...], output_shape: Shape, options: MLP) -> None:
        super().__init__()
        self.output_shape = output_shape
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.between = nn.ModuleList(
            nn.Sequential(norm(options.norm, width, spatial=False), activation(options.activation),
                          Dropout(options.dropout) if options.dropout else nn.Identity())
            for width in widths[1:-1]
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) to (B, *output_shape)."""
        x = x.flatten(1)
        for linear, between in zip(self.linears, self.between, strict=False):
            x = between(linear(x))
        x = self.linears[-1](x)
        return x.unflatten(1, self.output_shape)


class TiedLinear(nn.Module):
    """A linear layer whose weight is another layer's, transposed. The parameter is shared, not copied."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, weight.shape[0]) to (B, weight.shape[1])."""
        return F.linear(x, self.weight.t(), self.bias)
