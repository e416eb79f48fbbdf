"""From data in natural units to what a model takes: plain data that checkpoints carry, vectorised on any device."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_ae.config import Configurable
from lightning_ae.errors import InputError

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Preprocess(Configurable):
    """A fixed map from natural units to a model's input."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Natural units to the model's, on whole batches."""

    @abstractmethod
    def inverse(self, x: Tensor) -> Tensor:
        """The model's units to natural ones; what was resized or converted stays so."""


@dataclass(frozen=True)
class ImagePreprocess(Preprocess):
    """Images to floats (B, C, H, W): resized, converted, scaled to [0, 1], normalised.

    Args:
        size: height and width, or none to leave them.
        channels: 1 or 3, or none to leave them. Grey is the luma of ITU-R BT.601.
        mean: subtracted from each channel in [0, 1], or none.
        std: divides each channel after that, or none.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise InputError(f"size must be (height, width) in positive integers, got {self.size}")
        if self.channels not in (None, 1, 3):
            raise InputError(f"channels must be 1 or 3, got {self.channels}")
        if self.std is not None and not all(s > 0 for s in self.std):
            raise InputError(f"std must hold positive numbers, got {self.std}")

    def __call__(self, x: Tensor) -> Tensor:
        """uint8, or floats in [0, 1], of shape (B, H, W) or (B, C, H, W), to floats (B, C, H, W)."""
        if x.ndim == 3:
            x = x.unsqueeze(1)
        if x.ndim != 4:
            raise InputError(f"images must be (B, H, W) or (B, C, H, W), got {tuple(x.shape)}")
        x = self.resize(x)
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        if self.mean is not None:
            x = x - x.new_tensor(self.mean).view(-1, 1, 1)
        if self.std is not None:
            x = x / x.new_tensor(self.std).view(-1, 1, 1)
        return x

    def resize(self, x: Tensor) -> Tensor:
        """The images (B, C, H, W) in `size` and `channels`, in their own type: bytes are rounded to bytes."""
        given = x.dtype
        if self.channels not in (None, x.shape[1]):
            if self.channels == 3 and x.shape[1] == 1:
                x = x.expand(-1, 3, -1, -1)
            elif self.channels == 1 and x.shape[1] == 3:
                x = (x.float() * torch.tensor(LUMA, device=x.device).view(3, 1, 1)).sum(dim=1, keepdim=True)
            else:
                raise InputError(f"images of {x.shape[1]} channels cannot be given {self.channels}")
        if self.size is not None and self.size != tuple(x.shape[2:]):
            x = F.interpolate(x.float(), self.size, mode="bilinear", antialias=True, align_corners=False)
        return x.round().clamp(0, 255).to(given) if given == torch.uint8 and x.dtype != given else x

    def inverse(self, x: Tensor) -> Tensor:
        """The model's units to images in [0, 1], of shape (B, C, H, W)."""
        if self.std is not None:
            x = x * x.new_tensor(self.std).view(-1, 1, 1)
        if self.mean is not None:
            x = x + x.new_tensor(self.mean).view(-1, 1, 1)
        return x


@dataclass(frozen=True)
class TabularPreprocess(Preprocess):
    """Vectors (B, dimensions), standardised column by column.

    Args:
        mean: subtracted from each column, or none.
        std: divides each column after that, or none.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """(B, dimensions) of any number type to floats of the same shape."""
        x = x if x.dtype in (torch.float32, torch.float64) else x.float()
        if self.mean is not None:
            x = x - x.new_tensor(self.mean)
        if self.std is not None:
            x = x / x.new_tensor(self.std)
        return x

    def inverse(self, x: Tensor) -> Tensor:
        """The model's units to natural ones."""
        if self.std is not None:
            x = x * x.new_tensor(self.std)
        if self.mean is not None:
            x = x + x.new_tensor(self.mean)
        return x


def stack(items: Sequence[Any]) -> Tensor:
    """PIL images of one size, arrays or lists of numbers as one tensor; images with channels come channels first.

    Raises:
        InputError: when the sizes differ.
    """
    arrays = [np.asarray(item) for item in items]
    if len({a.shape for a in arrays}) != 1:
        raise InputError(
            f"the samples have different shapes: {sorted({a.shape for a in arrays})}", "resize them to one size first"
        )
    x = torch.from_numpy(np.stack(arrays))
    is_pil = not isinstance(items[0], np.ndarray | list | tuple)
    return x.permute(0, 3, 1, 2) if is_pil and x.ndim == 4 else x
