"""From data in natural units to what a model takes: plain data that checkpoints carry, vectorised on any device."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL.Image import Image as PILImage
from torch import Tensor
from torch.nn import functional as F

from lightning_ae.config import Configurable
from lightning_ae.errors import InputError

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_WIDE = (torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64)  # hold more than float32 does


class Preprocess(Configurable):
    """A fixed map from natural units to a model's input."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Natural units to the model's, on whole batches; always float32, which the model converts to its own type."""

    @abstractmethod
    def inverse(self, x: Tensor) -> Tensor:
        """The model's units to natural ones; what was resized or converted stays so."""

    def natural(self, data: Any, names: Sequence[str] = ()) -> Tensor:
        """Data of any form as a tensor in natural units, which this map takes.

        Args:
            data: a tensor, or what makes one.
            names: the columns that make the input, in order, where they are known.

        Raises:
            InputError: naming the row, and the column, of what cannot be used.
        """
        return data if isinstance(data, Tensor) else stack(data)


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
        if self.size is not None and not (
            isinstance(self.size, tuple)
            and len(self.size) == 2
            and all(isinstance(n, int) and n > 0 for n in self.size)
        ):
            raise InputError(f"size must be (height, width) in positive integers, got {self.size!r}")
        if self.channels not in (None, 1, 3):
            raise InputError(f"channels must be 1 or 3, got {self.channels!r}")
        _check_moments(self.mean, self.std)

    def __call__(self, x: Tensor) -> Tensor:
        """uint8, or floats in [0, 1], of shape (B, H, W) or (B, C, H, W), to float32 (B, C, H, W).

        Raises:
            InputError: on another shape or type, or a number of channels that does not fit.
        """
        if x.ndim == 3:
            x = x.unsqueeze(1)
        if x.ndim != 4 or not (x.dtype == torch.uint8 or x.is_floating_point()):
            raise InputError(
                f"images must be uint8 or floats of shape (B, H, W) or (B, C, H, W), got {x.dtype} {tuple(x.shape)}"
            )
        x = self.resize(x)
        x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        return _standardize(x, self.mean, self.std, "channels")

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

    def lost(self, shape: tuple[int, ...]) -> str | None:
        """What becomes of images (channels, height, width) of another kind than the model's, in words; None of its own.

        The words say what was given, what the model takes, and what is lost.
        """
        channels, size = self.channels or shape[0], self.size or shape[1:]
        if (channels, *size) == tuple(shape):
            return None
        done = [] if size == tuple(shape[1:]) else ["they are resized"]
        if channels != shape[0]:
            done.append("their colour is lost" if channels == 1 else "grey becomes colour")
        given, taken = (
            f"{'grey' if c == 1 else 'colour'} {h} x {w}" for c, (h, w) in ((shape[0], shape[1:]), (channels, size))
        )
        return f"images in {given} for a model that takes {taken}: {' and '.join(done)}"

    def inverse(self, x: Tensor) -> Tensor:
        """The model's units to images in [0, 1], of shape (B, C, H, W)."""
        return _unstandardize(x, self.mean, self.std)


@dataclass(frozen=True)
class TabularPreprocess(Preprocess):
    """Vectors (B, dimensions), standardised column by column.

    Args:
        mean: subtracted from each column, or none.
        std: divides each column after that, or none.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_moments(self.mean, self.std)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, dimensions) of any number type to float32 of the same shape.

        Raises:
            InputError: on another number of dimensions than `mean` and `std` have.
        """
        # what float32 cannot hold stays in float64 until it is centred, so that a large offset costs no digits
        x = x.double() if x.dtype in _WIDE else x.float()
        return _standardize(x, self.mean, self.std, "dimensions").float()

    def inverse(self, x: Tensor) -> Tensor:
        """The model's units to natural ones."""
        return _unstandardize(x, self.mean, self.std)


def image_array(image: PILImage) -> np.ndarray:
    """A PIL image as uint8 (C, H, W), of one channel or three: palettes become colours, transparency is dropped.

    Raises:
        InputError: when the image has more than 8 bits a channel.
    """
    if image.mode.startswith(("I", "F")):
        raise InputError(
            f"an image of mode {image.mode!r} has more than 8 bits", "scale it to 8 bits first (Dataset.map)"
        )
    if image.mode in ("1", "LA"):
        image = image.convert("L")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    pixels = np.array(image)  # a copy: torch warns of PIL's read-only memory
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def stack(items: Sequence[Any]) -> Tensor:
    """PIL images, arrays, tensors or lists of numbers, of one shape, as one tensor; PIL images as (B, C, H, W).

    Raises:
        InputError: when the shapes differ.
    """
    arrays = [image_array(item) if isinstance(item, PILImage) else np.asarray(item) for item in items]
    if len({a.shape for a in arrays}) != 1:
        raise InputError(
            f"the samples must have one shape, got {sorted({a.shape for a in arrays})}", "resize images first"
        )
    return torch.from_numpy(np.stack(arrays))


def _check_moments(mean: Any, std: Any) -> None:
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and not (isinstance(values, tuple) and all(isinstance(v, int | float) for v in values)):
            raise InputError(f"{name} must be a list of numbers, one for each channel or dimension, got {values!r}")
    if std is not None and not all(s > 0 for s in std):
        raise InputError(f"std must hold positive numbers, got {std}")


def _standardize(x: Tensor, mean: tuple[float, ...] | None, std: tuple[float, ...] | None, what: str) -> Tensor:
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) != x.shape[1]:
            raise InputError(f"{name} has {len(values)} values, but the data have {x.shape[1]} {what}")
    if mean is not None:
        x = x - _along_dim_1(mean, x)
    return x if std is None else x / _along_dim_1(std, x)


def _unstandardize(x: Tensor, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> Tensor:
    if std is not None:
        x = x * _along_dim_1(std, x)
    return x if mean is None else x + _along_dim_1(mean, x)


def _along_dim_1(values: tuple[float, ...], x: Tensor) -> Tensor:
    return torch.tensor(values, dtype=x.dtype, device=x.device).view(-1, *[1] * (x.ndim - 2))
