"""Images as a model takes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from PIL.Image import Image as PILImage
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.nn import functional as F

from lightning_ae.errors import InputError, unknown
from lightning_ae.natural import (
    Reading,
    column_keys,
    image_batch,
    image_of,
    image_units,
    is_array,
    taken,
    warn_if_dark,
    warn_if_grey,
)
from lightning_ae.preprocess.base import Preprocess, check_moments, standardize, unstandardize
from lightning_ae.shapes import check_multiple

Fit = Literal["stretch", "crop"]
_NAMES = {1: "grey", 3: "colour"}
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class ImagePreprocess(Preprocess):
    """Images to floats (B, C, H, W): resized, converted, scaled to [0, 1], binarised or normalised.

    Args:
        size: height and width, or none to leave them.
        channels: 1 or 3, or none to leave them. Grey is the luma of ITU-R BT.601.
        mean: subtracted from each channel in [0, 1], or none.
        std: divides each channel after that, or none.
        binarize: "threshold" makes values of 0.5 and more one and the rest zero. "static" and "dynamic" say that the
            model takes zeros and ones drawn with the grey values as probabilities: a data module draws them, and here
            values stay as they are.
        fit: how images of other proportions are brought to `size`: "stretch" changes them; "crop" keeps them, and cuts
            off what the centre does not hold.
        range: the values that become 0 and 1, of images that are not bytes: (0, 4095) of 12 bits, say. None of bytes
            (0..255) and of floats in [0, 1]. Such images may have any number of channels.
        layout: of arrays of three dimensions in natural units, where `range` is given, "CHW" or "HWC".
        multiple: given, images go in as they are: of any height and width that are multiples of it, and of `channels`.
            Others are refused rather than brought to it.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    binarize: Literal["threshold", "static", "dynamic"] | None = None
    fit: Fit = "stretch"
    range: tuple[float, float] | None = None
    layout: Literal["CHW", "HWC"] | None = None
    multiple: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and not (
            isinstance(self.size, tuple) and len(self.size) == 2 and all(_is_count(n) for n in self.size)
        ):
            raise InputError(f"size must be (height, width) in positive integers, got {self.size!r}")
        if self.range is not None:
            check_range(self.range)
            if self.binarize is not None:
                raise InputError("binarize is of bytes, and range of other images", "leave one of them out")
        most = f"1 or 3{'' if self.range is None else ', or what images of a stated range have'}"
        known = self.channels in (None, 1, 3) and not isinstance(self.channels, bool)
        if not (known or (self.range is not None and _is_count(self.channels))):
            raise InputError(f"channels must be {most}, got {self.channels!r}")
        check_moments(self.mean, self.std)
        if self.binarize not in (None, "threshold", "static", "dynamic"):
            raise InputError(f"binarize must be 'threshold', 'static', 'dynamic' or none, got {self.binarize!r}")
        if self.binarize is not None and (self.mean is not None or self.std is not None):
            raise InputError("binarize makes values of 0 and 1, which mean and std would move", "leave one of them out")
        if self.fit not in get_args(Fit):
            raise unknown("fit of images", str(self.fit), get_args(Fit))
        if self.fit == "crop" and self.size is None:
            raise InputError("fit='crop' cuts images to a size, which is not given", "give size=(height, width)")
        if self.multiple is not None and not (_is_count(self.multiple) and self.size is None):
            raise InputError(
                f"multiple must be a positive integer, of images that keep their sizes; got {self.multiple!r}",
                "leave size out" if self.size is not None else "8, say",
            )

    def __call__(self, x: Tensor) -> Tensor:
        """uint8, floats in [0, 1] or, where `range` says their values, any numbers, to float32 (B, C, H, W).

        Args:
            x: (B, H, W) or (B, C, H, W).

        Raises:
            InputError: on another shape or type, or a number of channels that does not fit.
        """
        if x.ndim == 3:
            x = x.unsqueeze(1)
        if x.ndim != 4 or not (self.range is not None or x.dtype == torch.uint8 or x.is_floating_point()):
            raise InputError(
                f"images must be uint8 or floats of shape (B, H, W) or (B, C, H, W), got {x.dtype} {tuple(x.shape)}"
            )
        if self.range is not None:
            low, high = self.range
            return standardize((self.resize(x.float()) - low) / (high - low), self.mean, self.std, "channels")
        x = self.resize(x)
        x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        if self.binarize == "threshold":
            x = (x >= 0.5).to(x.dtype)
        return standardize(x, self.mean, self.std, "channels")

    def resize(self, x: Tensor) -> Tensor:
        """The images (B, C, H, W) in `size` and `channels`, in their own type: bytes are rounded to bytes.

        Raises:
            InputError: where they cannot be brought to it, or `multiple` says that they go in as they are, and they
                have other channels or sizes.
        """
        if self.multiple is not None:
            self._check_as_it_is(x)
            return x
        given = x
        if self.channels not in (None, x.shape[1]):
            if self.channels == 3 and x.shape[1] == 1:
                x = x.expand(-1, 3, -1, -1)
            elif self.channels == 1 and x.shape[1] == 3:
                x = (x.float() * torch.tensor(LUMA, device=x.device).view(3, 1, 1)).sum(dim=1, keepdim=True)
            else:
                raise InputError(
                    f"images of {x.shape[1]} channels cannot be given {self.channels}",
                    "leave channels out, or make them grey or colour first"
                    if self.layout is None
                    else f"arrays are read in the layout {self.layout!r}",
                )
        if self.size is not None and self.size != tuple(x.shape[2:]):
            whole = self._whole(tuple(x.shape[2:]))
            x = self._cut(F.interpolate(x.float(), whole, mode="bilinear", antialias=True, align_corners=False))
        if x is given or x.dtype == torch.uint8:
            return x
        if given.dtype == torch.uint8:
            return x.round().clamp(0, 255).to(torch.uint8)
        # means of floats lie beyond them by rounding alone
        return x.clamp(given.amin((1, 2, 3), keepdim=True), given.amax((1, 2, 3), keepdim=True))

    def resize_mask(self, mask: Tensor) -> Tensor:
        """What marks pixels of images, (B, H, W) bool, brought to where `resize` brings them: each is the nearest's."""
        if self.size is None or self.size == tuple(mask.shape[1:]):
            return mask
        whole = self._whole(tuple(mask.shape[1:]))
        return self._cut(F.interpolate(mask.unsqueeze(1).float(), whole, mode="nearest-exact")).squeeze(1) > 0

    def _check_as_it_is(self, x: Tensor) -> None:
        """Refuses images (B, C, H, W) that would have to be changed."""
        assert self.multiple is not None
        if self.channels not in (None, x.shape[1]):
            given, takes = (_NAMES.get(c, f"{c} channels") for c in (x.shape[1], self.channels))
            raise InputError(
                f"images in {given}, where the model takes {takes} as it is",
                "grey becomes colour by three equal channels: x.expand(-1, 3, -1, -1), or image.convert('RGB')"
                if x.shape[1] == 1
                else "convert them first",
            )
        check_multiple(x.shape[2:], self.multiple)

    def _cut(self, x: Tensor) -> Tensor:
        """The centre of images (B, C, H, W) that is `size`."""
        assert self.size is not None
        for dim, wanted in enumerate(self.size, start=2):
            x = x.narrow(dim, (x.shape[dim] - wanted) // 2, wanted)
        return x

    def _whole(self, given: tuple[int, ...]) -> tuple[int, int]:
        """To what height and width an image (height, width) is resized, of which the centre is `size`."""
        assert self.size is not None
        if self.fit == "stretch":
            return self.size
        (height, width), (h, w) = self.size, given
        if height * w > width * h:  # the width has more than is wanted
            return height, max(width, round(w * height / h))
        return max(height, round(h * width / w)), width

    def natural(self, data: Any, how: Reading = Reading()) -> Tensor:
        """Images of any form as bytes, or as floats in [0, 1], (B, C, H, W).

        Those of a sequence are each brought to `size` and `channels`, as in training; those of an array `__call__`
        brings to them. Where that loses something, one warning says what.

        Args:
            data: a PIL image, or a sequence of such and of arrays (H, W), (C, H, W) and (H, W, C), of any sizes; or
                one array or tensor (H, W), (H, W, 3), (B, H, W), (B, C, H, W) or (B, H, W, C). Integers in 0..255 are
                bytes, booleans black and white. Of a dict or a frame, the column of images. Where `layout` is given,
                arrays have it, as in training, and three dimensions are those of one image.
            how: its name is that of the column of images.

        Raises:
            InputError: naming row, place and value of what cannot be used.
        """
        if (keys := column_keys(data)) is not None:
            if not how.names and len(keys) != 1:
                raise InputError(
                    f"the data have {len(keys)} columns, and the model does not know which holds its images",
                    "give the images alone: a sequence of PIL images, or an array (B, C, H, W)",
                )
            (name,) = taken(keys, how.names or list(keys))
            data = list(data[keys[name]])
        if isinstance(data, PILImage):
            data = [data]
        if isinstance(data, str | bytes) or not hasattr(data, "__iter__"):
            raise InputError(f"images must be PIL images or arrays, got {data!r:.80}", "PIL.Image.open(file) reads one")
        if is_array(data):
            x = image_batch(data, self.size, self.channels, self.layout)
            if self.multiple is not None:
                self._check_as_it_is(x)
            x, shapes = image_units(x, 0, how.mask, how.check, self.range), [tuple(x.shape[1:])]
        else:
            images = [image_of(item, row, self.range, self.layout) for row, item in enumerate(data)]
            for row, each in enumerate(images if self.multiple is not None else ()):
                try:
                    self._check_as_it_is(each[None])
                except InputError as error:
                    raise InputError(f"row {row}: {error.message}", error.hint) from error
            masks = [None] * len(images) if how.mask is None else [each[None] for each in how.mask]
            images = [
                image_units(each[None], row, masks[row], how.check, self.range) for row, each in enumerate(images)
            ]
            shapes = [tuple(each.shape[1:]) for each in images]
            x = _joined([self.resize(each) for each in images])
        said = [lost for shape in dict.fromkeys(shapes) if (lost := self.lost(shape, how.shape))]
        if said:
            rank_zero_warn(said[0] + (f"; {len(said) - 1} other shapes likewise" if len(said) > 1 else ""))
        if how.check and self.range is None:
            warn_if_dark(x)
            if self.binarize in ("static", "dynamic"):
                warn_if_grey(x)
        return x

    def lost(self, shape: tuple[int, ...], read: tuple[int, ...] = ()) -> str | None:
        """What becomes of images (channels, height, width) of another kind than the model's, in words; None of its own.

        The words say what was given, what the model takes, and what is lost.

        Args:
            shape: of what is given.
            read: of what the model was trained on, where it is known: what was done in training surprises nobody.
        """
        channels, size = self.channels or shape[0], self.size or shape[1:]
        done = []
        if size != tuple(shape[1:]) and (not read or size == tuple(read[1:])):
            cut = self.size is not None and self._whole(tuple(shape[1:])) != self.size
            done.append("they are resized" + (", and their borders cut off" if cut else ""))
        if channels != shape[0] and (not read or channels == read[0]):
            done.append("their colour is lost" if channels == 1 else "grey becomes colour")
        given, takes = (
            f"{_NAMES.get(c, f'{c} channels')} {h} x {w}" for c, (h, w) in ((shape[0], shape[1:]), (channels, size))
        )
        return f"images in {given} for a model that takes {takes}: {' and '.join(done)}" if done else None

    def inverse(self, x: Tensor) -> Tensor:
        """The model's units to images in [0, 1], of shape (B, C, H, W)."""
        return unstandardize(x, self.mean, self.std)


def check_range(given: Any) -> None:
    """Raises InputError for what is no (low, high) of finite numbers."""
    known = isinstance(given, tuple) and len(given) == 2 and all(type(v) in (int, float) for v in given)
    if not known or not -math.inf < given[0] < given[1] < math.inf:
        raise InputError(f"range must be (low, high), the values that become 0 and 1, got {given!r}")


def _joined(images: Sequence[Tensor]) -> Tensor:
    """Images (1, C, H, W), bytes or floats, as one tensor; bytes among floats as floats."""
    shapes = [tuple(each.shape[1:]) for each in images]
    if not images:
        raise InputError("the data hold no image")
    if len(set(shapes)) > 1:
        other = next(row for row, shape in enumerate(shapes) if shape != shapes[0])
        raise InputError(
            f"the samples must have one shape, but row 0 has {shapes[0]}, row {other} {shapes[other]}",
            "give those of one shape together, or resize images first",
        )
    if len({each.dtype for each in images}) > 1:
        images = [each.float() / 255 if each.dtype == torch.uint8 else each.float() for each in images]
    return torch.cat([each.to(images[0].device) for each in images])


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
