"""Fully connected networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
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

    Of a table, `categories` says which columns hold categories, by their numbers 0, ..., K - 1. The encoder sees the
    numbers as they are, and of each category a learned vector; the decoder gives what the likelihood asks for. Other
    values are refused by name: in a fit on an accelerator, which would have to wait, at the next logged step. What a
    mask calls unknown is 0 in the input, which reads as the category 0: keep a category for what is missing.

    Args:
        hidden: the widths of the encoder's hidden layers; none makes it a single linear map.
        activation: the function after each hidden layer; the code and the output are linear.
        norm: the normalisation before each activation.
        dropout: the probability with which a hidden unit is dropped in training, in [0, 1).
        tied: each layer of the decoder uses the transposed weight of the encoder's, with a bias of its own.
        init: how the weights are drawn; "default" is torch's own.
        tokens: how many vectors a code has, (features, tokens); by default it is one, (features,).
        categories: for each column of a table how many categories it has, 0 for a number; none are numbers all.
        embedding_dim: of the vector of a category; by default min(50, (K + 1) // 2) of K, as fast.ai has it (Howard &
            Gugger 2020, https://arxiv.org/abs/2002.04688). Vectors start as draws from N(0, I).
        log1p: whether the encoder sees log(1 + x) of a number x, for counts: none may be negative (as in Lopez et al.
            2018, https://doi.org/10.1038/s41592-018-0229-2).
    """

    flattens: ClassVar[bool] = True

    hidden: tuple[int, ...] = (512,)
    activation: Activation = "relu"
    norm: Norm = "none"
    dropout: float = 0.0
    tied: bool = False
    init: Init = "default"
    tokens: int | None = None
    categories: tuple[int, ...] | None = None
    embedding_dim: int | None = None
    log1p: bool = False

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
        self._check_table()

    def encoder(self, input_shape: Shape, features: int) -> nn.Module:
        """A network from (B, *input_shape) to (B, features), or to (B, features, tokens)."""
        check_features(self, features)
        if self.categories is not None and tuple(input_shape) != (len(self.categories),):
            raise InputError(
                f"MLP cannot serve input_shape {tuple(input_shape)}: it has categories of {len(self.categories)}",
                "categories has a number for each column, 0 where it holds numbers",
            )
        code = self._code(features)
        columns = None if self._sees_all else Columns(math.prod(input_shape), self)
        width = math.prod(input_shape) if columns is None else columns.width
        return initialise(Layers((width, *self.hidden, math.prod(code)), code, self, columns), self.init)

    def decoder(self, features: int, output_shape: Shape) -> nn.Module:
        """A network from (B, features), or (B, features, tokens), to (B, *output_shape)."""
        check_features(self, features)
        widths = (math.prod(self._code(features)), *reversed(self.hidden), math.prod(output_shape))
        return initialise(Layers(widths, output_shape, self), self.init)

    @property
    def is_linear(self) -> bool:
        """Whether the encoder is a linear map of its input."""
        return not self.hidden and self._sees_all

    @property
    def _sees_all(self) -> bool:
        """Whether the encoder sees its input as it is."""
        return not self.log1p and not any(self.categories or ())

    def _check_table(self) -> None:
        known = self.categories
        if known is not None:
            numbers = isinstance(known, tuple) and all(type(n) is int and n >= 0 for n in known)
            if not numbers or not known:
                raise InputError(
                    f"categories of MLP must be a list of a number for each column, got {known!r}",
                    "0 for a column of numbers, K for one of the categories 0, ..., K - 1: [0, 0, 5]",
                )
        if self.embedding_dim is not None:
            if not isinstance(self.embedding_dim, int) or self.embedding_dim < 1:
                raise InputError(
                    f"embedding_dim of MLP must be a positive integer, or None, got {self.embedding_dim!r}"
                )
            if not any(known or ()):
                raise InputError("embedding_dim of MLP is that of categories, of which there are none", "leave it out")
        if self.tied and not self._sees_all:
            what = "log1p" if self.log1p else "categories"
            raise InputError(
                f"tied weights of MLP cannot go with {what}: the decoder gives no such values as its encoder sees",
                "use tied=False",
            )

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
    """Linear layers with everything between them, from (B, ...) to (B, *output_shape).

    Args:
        widths: of the input, between the layers, and of the output.
        output_shape: which the output has.
        options: what lies between.
        columns: what comes before the first layer, of a table.
    """

    def __init__(
        self, widths: tuple[int, ...], output_shape: Shape, options: MLP, columns: Columns | None = None
    ) -> None:
        super().__init__()
        self.output_shape = output_shape
        self.columns = columns
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.between = nn.ModuleList(
            nn.Sequential(norm(options.norm, width, spatial=False), activation(options.activation),
                          Dropout(options.dropout) if options.dropout else nn.Identity())
            for width in widths[1:-1]
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) to (B, *output_shape)."""
        x = x.flatten(1) if self.columns is None else self.columns(x.flatten(1))
        for linear, between in zip(self.linears, self.between, strict=False):
            x = between(linear(x))
        x = self.linears[-1](x)
        return x.unflatten(1, self.output_shape)


class Columns(nn.Module):
    """What an encoder sees of a table: its numbers, or log(1 + x) of them, and a vector of each category.

    Args:
        count: of the columns.
        options: which of them are categories.
    """

    levels: Tensor
    numbers: Tensor

    def __init__(self, count: int, options: MLP) -> None:
        super().__init__()
        categories = options.categories or (0,) * count
        dims = [options.embedding_dim or min(50, (k + 1) // 2) for k in categories if k]
        self.log1p = options.log1p
        self.places = [place for place, k in enumerate(categories) if k]
        self.most = max(categories)
        self.embeddings = nn.ModuleList(
            nn.Embedding(categories[place], dim) for place, dim in zip(self.places, dims, strict=True)
        )
        self.width = count - len(dims) + sum(dims)
        numbers = [place for place, k in enumerate(categories) if not k]
        self.register_buffer("levels", torch.tensor(categories), persistent=False)
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.long), persistent=False)
        self._refused: Tensor | None = None  # row, column and value of the first that may not be, on an accelerator

    def forward(self, x: Tensor) -> Tensor:
        """(B, columns) to (B, width): numbers first."""
        if self.most - 1 > 2 / torch.finfo(x.dtype).eps:
            raise InputError(f"{x.dtype} cannot tell {self.most} categories apart", 'use precision="32-true"')
        allowed = self._allowed(x)
        if torch.compiler.is_exporting():
            pass  # a graph has no place for looking at values: the code of such a sample is NaN
        elif not self._waits_to_tell(x):
            if not bool(allowed.all()):
                row, column = torch.nonzero(~allowed)[0].tolist()
                raise self._error(row, column, float(x[row, column]))
        else:
            self._keep(x, allowed)
        numbers = x.index_select(1, self.numbers)
        seen = [numbers.log1p() if self.log1p else numbers]
        for place, embedding in zip(self.places, self.embeddings, strict=True):
            # where it is refused later, no other category stands for it: NaN makes the loss of the step NaN
            chosen = torch.where(allowed[:, place], x[:, place], 0).long()
            seen.append(torch.where(allowed[:, place, None], embedding(chosen), math.nan))
        return torch.cat(seen, dim=1)

    def refused(self) -> InputError | None:
        """Why a step's values may not be, where it did not wait for the device to say it; waits for it."""
        if self._refused is None:
            return None
        row, column, value = self._refused.tolist()
        self._refused = None
        return None if row < 0 else self._error(int(row), int(column), value)

    def _waits_to_tell(self, x: Tensor) -> bool:
        """Whether reading a value back would make a step wait for the device."""
        return x.device.type != "cpu" and self.training

    def _allowed(self, x: Tensor) -> Tensor:
        """Where a column's values are what it may hold; numbers that are no numbers are left to the loss."""
        x = x.detach()
        category = (x >= 0) & (x <= self.levels - 1) & (x == x.floor())
        number = self.levels == 0  # no torch.where of booleans, which onnxruntime lacks
        return category | (number & ~(x < 0) if self.log1p else number)

    def _keep(self, x: Tensor, allowed: Tensor) -> None:
        first = (~allowed).flatten().to(torch.int32).argmax()
        row = torch.where(allowed.all(), -1, first // x.shape[1])
        now = torch.stack([each.double() for each in (row, first % x.shape[1], x.detach().flatten()[first])])
        self._refused = now if self._refused is None else torch.where(self._refused[0] >= 0, self._refused, now)

    def _error(self, row: int, column: int, value: float) -> InputError:
        levels = int(self.levels[column])
        takes = f"one of {levels} categories, 0 to {levels - 1}" if levels else "a count, of which log(1 + x) is taken"
        return InputError(
            f"row {row} of a batch, column {column}: {value:g}, where MLP takes {takes}",
            "number categories from 0, and leave them as they are (no scaling, no noise)"
            if levels
            else "use log1p=False for numbers that may be negative",
        )


class TiedLinear(nn.Module):
    """A linear layer whose weight is another layer's, transposed. The parameter is shared, not copied."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, weight.shape[0]) to (B, weight.shape[1])."""
        return F.linear(x, self.weight.t(), self.bias)
