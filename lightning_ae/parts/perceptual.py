"""How unlike two images look."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lightning_ae.config import Configurable
from lightning_ae.errors import InputError
from lightning_ae.parts.likelihoods import at_least_float32
from lightning_ae.parts.similarity import ms_ssim


class Perceptual(Configurable):
    """A distance between images, plain data; where it has a network, the model holds that, and never trains it."""

    def check(self, input_shape: Sequence[int | None]) -> None:
        """Raises InputError where samples are no images that it can compare."""
        if len(input_shape) != 3 or any(n is not None and n < 3 for n in input_shape[1:]):
            raise InputError(
                f"{type(self).__name__} cannot serve input_shape {tuple(input_shape)}: it compares images of at least "
                "3 x 3 pixels",
                "give perceptual=None, which leaves it out",
            )

    def build(self) -> nn.Module | None:
        """Its network, with its weights; None where it has none."""
        return None

    @abstractmethod
    def __call__(self, x: Tensor, y: Tensor, network: nn.Module | None) -> Tensor:
        """The distance of each image (B, C, H, W) from the other, (B,), in float32 at least, 0 of equal ones."""


@dataclass(frozen=True)
class StructuralDistance(Perceptual):
    """1 - MS-SSIM, which compares contrast and structure at several scales (Wang, Simoncelli & Bovik 2003).

    `StructuralSimilarity` says what small images have of it. It has no weights that somebody would have to vouch for,
    takes any number of channels, and is a number for each sample.

    Args:
        value_range: the largest value of an image less the smallest: 1 of images in [0, 1], as data modules give them.
    """

    value_range: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.value_range < math.inf:
            raise InputError(f"value_range of {type(self).__name__} must be positive, got {self.value_range}")

    def __call__(self, x: Tensor, y: Tensor, network: nn.Module | None = None) -> Tensor:
        """(B, C, H, W) both, to (B,)."""
        return 1 - ms_ssim(x, y, self.value_range)


class FeatureDistance(Perceptual):
    r"""How far apart a network's features of two images are (Zhang et al. 2018, equation 1, with equal weights).

    .. math:: \sum_l \frac{1}{H_l W_l} \sum_{hw} \left\| \hat f^l_{hw}(x) - \hat f^l_{hw}(y) \right\|^2

    The features of each layer l are of unit length at each position. The network is yours: write a frozen dataclass
    that inherits this, whose `build` gives a module with its weights, from images (B, C, H, W) in the model's units to
    maps of features, (B, C_l, H_l, W_l) each. Nothing is fetched. Checkpoints hold the network's weights, and its
    class must be imported when one is loaded::

        @dataclass(frozen=True)
        class Mine(FeatureDistance):
            file: str = "features.safetensors"

            def build(self):
                network = MyFeatures()
                network.load_state_dict(safetensors.torch.load_file(self.file))
                return network
    """

    @abstractmethod
    def build(self) -> nn.Module:
        """The network, with its weights."""

    def __call__(self, x: Tensor, y: Tensor, network: nn.Module | None) -> Tensor:
        """(B, C, H, W) both, to (B,)."""
        assert network is not None
        distances = [
            (_unit(a) - _unit(b)).square().sum(dim=1).flatten(1).mean(dim=1)
            for a, b in zip(network(x), network(y), strict=True)
        ]
        total: Tensor = sum(distances[1:], distances[0])
        return total


class Frozen(nn.Module):
    """A network that is part of a model, and stays as it is: without gradients to its weights, in evaluation mode."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Frozen:
        """Nothing changes."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, x: Tensor) -> Any:
        """As the network."""
        return self.network(x)


def _unit(features: Tensor) -> Tensor:
    features = at_least_float32(features)
    # the square of the length is kept from zero, where its root would have no gradient
    return features / (features.square().sum(dim=1, keepdim=True) + 1e-10).sqrt()
