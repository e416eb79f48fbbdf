"""What an architecture is."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from torch import nn

from lightning_ae.config import Configurable

Shape = tuple[Any, ...]
"""Of a sample, in integers; height and width are None where they may be any."""


class Architecture(Configurable):
    """Plain data that builds a matched encoder and decoder.

    A network of your own is a frozen dataclass that inherits this and builds two `torch.nn.Module`s.
    """

    flattens: ClassVar[bool] = False
    """Whether its encoder takes an input of any shape as one vector."""

    @property
    def multiple(self) -> int | None:
        """What height and width must be multiples of, where its networks take images of any size; else None.

        Then they are built for None in their place, and their codes are maps whose height and width are in proportion
        to the image's.
        """
        return None

    @abstractmethod
    def encoder(self, input_shape: Shape, features: int) -> nn.Module:
        """A network from `(B, *input_shape)` to `(B, features)`."""

    @abstractmethod
    def decoder(self, features: int, output_shape: Shape) -> nn.Module:
        """A network from `(B, features)` to `(B, *output_shape)`."""

    def tie(self, encoder: nn.Module, decoder: nn.Module) -> None:
        """Make the decoder share the encoder's weights, where the architecture has that option."""
