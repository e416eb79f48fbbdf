"""What an architecture is."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import nn

from lightning_ae.config import Configurable

Shape = tuple[int, ...]


class Architecture(Configurable):
    """Plain data that builds a matched encoder and decoder.

    A network of your own is a frozen dataclass that inherits this and builds two `torch.nn.Module`s.
    """

    flattens: ClassVar[bool] = False
    """Whether its encoder takes an input of any shape as one vector."""

    @abstractmethod
    def encoder(self, input_shape: Shape, features: int) -> nn.Module:
        """A network from `(B, *input_shape)` to `(B, features)`."""

    @abstractmethod
    def decoder(self, features: int, output_shape: Shape) -> nn.Module:
        """A network from `(B, features)` to `(B, *output_shape)`."""

    def tie(self, encoder: nn.Module, decoder: nn.Module) -> None:
        """Make the decoder share the encoder's weights, where the architecture has that option."""
