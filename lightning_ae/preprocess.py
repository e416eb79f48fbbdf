"""From data in natural units to what a model takes: plain data that checkpoints carry, vectorised on any device."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
from PIL.Image import Image as PILImage
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.nn import functional as F

from lightning_ae.config import Configurable
from lightning_ae.errors import InputError, unknown
from lightning_ae.natural import (
    batch_of,
    column_keys,
    image_batch,
    image_of,
    image_units,
    is_array,
    sequences,
    taken,
    vectors,
    warn_if_dark,
    warn_if_grey,
)

Fit = Literal["stretch", "crop"]
_NAMES = {1: "grey", 3: "colour"}
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

    def natural(
        self,
        data: Any,
        names: Sequence[str] = (),
        *,
        read: tuple[int, ...] = (),
        mask: Tensor | None = None,
        check: bool = True,
        classes: Mapping[str, Sequence[str]] = MappingProxyType({}),
        masked: bool = False,
        dates: Collection[str] = (),
    ) -> Tensor:
        """Data of any form as a tensor in natural units, which this map takes, on the data's device.

        Args:
            data: a tensor, or what makes one.
            names: the columns that make the input, in order, where they are known.
            read: the shape of images in training, before they were brought to the model's, where it is known.
            mask: true where a value is known, of the data's shape; the others become zero.
            check: whether floats are looked at, which waits for the device.
            classes: of each column of categories, by name.
            masked: whether values may be missing, and are NaN then.
            dates: columns of dates, times or durations, which are seconds.

        Raises:
            InputError: naming the row, and the column, of what cannot be used.
        """
        return batch_of(data, mask, check)


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
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    binarize: Literal["threshold", "static", "dynamic"] | None = None
    fit: Fit = "stretch"
    range: tuple[float, float] | None = None
    layout: Literal["CHW", "HWC"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and not (
            isinstance(self.size, tuple)
            and len(self.size) == 2
            and all(isinstance(n, int) and n > 0 for n in self.size)
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
        _check_moments(self.mean, self.std)
        if self.binarize not in (None, "threshold", "static", "dynamic"):
            raise InputError(f"binarize must be 'threshold', 'static', 'dynamic' or none, got {self.binarize!r}")
        if self.binarize is not None and (self.mean is not None or self.std is not None):
            raise InputError("binarize makes values of 0 and 1, which mean and std would move", "leave one of them out")
        if self.fit not in get_args(Fit):
            raise unknown("fit of images", str(self.fit), get_args(Fit))
        if self.fit == "crop" and self.size is None:
            raise InputError("fit='crop' cuts images to a size, which is not given", "give size=(height, width)")

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
            return _standardize((self.resize(x.float()) - low) / (high - low), self.mean, self.std, "channels")
        x = self.resize(x)
        x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        if self.binarize == "threshold":
            x = (x >= 0.5).to(x.dtype)
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
            whole = self._whole(tuple(x.shape[2:]))
            x = self._cut(F.interpolate(x.float(), whole, mode="bilinear", antialias=True, align_corners=False))
        return x.round().clamp(0, 255).to(given) if given == torch.uint8 and x.dtype != given else x

    def resize_mask(self, mask: Tensor) -> Tensor:
        """What marks pixels of images, (B, H, W) bool, brought to where `resize` brings them: each is the nearest's."""
        if self.size is None or self.size == tuple(mask.shape[1:]):
            return mask
        whole = self._whole(tuple(mask.shape[1:]))
        return self._cut(F.interpolate(mask.unsqueeze(1).float(), whole, mode="nearest-exact")).squeeze(1) > 0

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

    def natural(
        self,
        data: Any,
        names: Sequence[str] = (),
        *,
        read: tuple[int, ...] = (),
        mask: Tensor | None = None,
        check: bool = True,
        classes: Mapping[str, Sequence[str]] = MappingProxyType({}),
        masked: bool = False,
        dates: Collection[str] = (),
    ) -> Tensor:
        """Images of any form as bytes, or as floats in [0, 1], (B, C, H, W).

        Those of a sequence are each brought to `size` and `channels`, as in training; those of an array `__call__`
        brings to them. Where that loses something, one warning says what.

        Args:
            data: a PIL image, or a sequence of such and of arrays (H, W), (C, H, W) and (H, W, C), of any sizes; or
                one array or tensor (H, W), (H, W, 3), (B, H, W), (B, C, H, W) or (B, H, W, C). Integers in 0..255 are
                bytes, booleans black and white. Of a dict or a frame, the column of images. Where `layout` is given,
                arrays have it, as in training, and three dimensions are those of one image.
            names: of the column of images, where it is known.
            read: see `Preprocess.natural`, as are the others.
            mask: true where a value is known.
            check: whether floats are looked at.

        Raises:
            InputError: naming row, place and value of what cannot be used.
        """
        if (keys := column_keys(data)) is not None:
            if not names and len(keys) != 1:
                raise InputError(
                    f"the data have {len(keys)} columns, and the model does not know which holds its images",
                    "give the images alone: a sequence of PIL images, or an array (B, C, H, W)",
                )
            (name,) = taken(keys, names or list(keys))
            data = list(data[keys[name]])
        if isinstance(data, PILImage):
            data = [data]
        if isinstance(data, str | bytes) or not hasattr(data, "__iter__"):
            raise InputError(f"images must be PIL images or arrays, got {data!r:.80}", "PIL.Image.open(file) reads one")
        if is_array(data):
            x = image_batch(data, self.size, self.channels, self.layout)
            x, shapes = image_units(x, 0, mask, check, self.range), [tuple(x.shape[1:])]
        else:
            images = [image_of(item, row, self.range, self.layout) for row, item in enumerate(data)]
            masks = [None] * len(images) if mask is None else [each[None] for each in mask]
            images = [image_units(each[None], row, masks[row], check, self.range) for row, each in enumerate(images)]
            shapes = [tuple(each.shape[1:]) for each in images]
            x = _joined([self.resize(each) for each in images])
        said = [lost for shape in dict.fromkeys(shapes) if (lost := self.lost(shape, read))]
        if said:
            rank_zero_warn(said[0] + (f"; {len(said) - 1} other shapes likewise" if len(said) > 1 else ""))
        if check and self.range is None:
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
        return _unstandardize(x, self.mean, self.std)


@dataclass(frozen=True)
class TabularPreprocess(Preprocess):
    """Vectors (B, dimensions), or arrays (B, channels, ...), scaled column by column; NaN stays NaN.

    Args:
        mean: subtracted from each column, or none.
        std: divides each column after that, or none.
        knots: of each column the values at equally spaced probabilities from 0 to 1, which are mapped to those of a
            standard normal distribution, within 5.2 standard deviations; () for one that stays as it is.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    knots: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_moments(self.mean, self.std)
        if self.knots is not None:
            object.__setattr__(self, "knots", tuple(tuple(each) for each in self.knots))

    @property
    def scales(self) -> bool:
        """Whether it changes anything."""
        return self.mean is not None or self.std is not None or self.knots is not None

    def __call__(self, x: Tensor) -> Tensor:
        """(B, dimensions) of any number type to float32 of the same shape.

        Raises:
            InputError: on another number of dimensions than `mean` and `std` have.
        """
        # what float32 cannot hold stays in float64 until it is centred, so that a large offset costs no digits
        x = x.double() if x.dtype in _WIDE else x.float()
        x = _standardize(x, self.mean, self.std, "dimensions")
        return (x if self.knots is None else _normal(x, self.knots)).float()

    def natural(
        self,
        data: Any,
        names: Sequence[str] = (),
        *,
        read: tuple[int, ...] = (),
        mask: Tensor | None = None,
        check: bool = True,
        classes: Mapping[str, Sequence[str]] = MappingProxyType({}),
        masked: bool = False,
        dates: Collection[str] = (),
    ) -> Tensor:
        """Vectors of any form as a tensor (B, dimensions).

        Args:
            data: an array, a sparse one too, nested lists or a tensor (B, dimensions), in the model's order; or a data
                frame or a dict of columns, which are found by their names.
            names: of the columns, in the model's order, where they are known.
            read: see `Preprocess.natural`, as are the others.
            mask: true where a value is known.
            check: whether floats are looked at.

        Raises:
            InputError: naming the column that is missing, or row and column of what is no finite number.
        """
        return vectors(data, names, mask, check, classes, masked, dates)

    def inverse(self, x: Tensor) -> Tensor:
        """The model's units to natural ones; by `knots`, values beyond the ends are the ends."""
        return _unstandardize(x if self.knots is None else _natural(x, self.knots), self.mean, self.std)


@dataclass(frozen=True)
class SequencePreprocess(TabularPreprocess):
    """Sequences (B, channels, length), scaled channel by channel; NaN stays NaN.

    Args:
        mean: subtracted from each channel, or none.
        std: divides each channel after that, or none.
        knots: see `TabularPreprocess`.
        length: of a sample that is so many rows of a table, whose columns are the channels; none of ready samples.
        layout: of arrays of ready samples, "NCL", (B, channels, length), or "NLC", (B, length, channels); none of
            columns that are a channel each, whose arrays are (B, channels, length).
    """

    length: int | None = None
    layout: Literal["NCL", "NLC"] | None = None

    def natural(
        self,
        data: Any,
        names: Sequence[str] = (),
        *,
        read: tuple[int, ...] = (),
        mask: Tensor | None = None,
        check: bool = True,
        classes: Mapping[str, Sequence[str]] = MappingProxyType({}),
        masked: bool = False,
        dates: Collection[str] = (),
    ) -> Tensor:
        """Sequences of any form as a tensor (B, channels, length).

        Args:
            data: an array, nested lists or a tensor, (B, channels, length) or as `layout` says, of one channel also
                (B, length); or a data frame or a dict of columns by their names, of ready samples those that hold
                them, else `length` rows that are one.
            names: of the columns, where they are known.
            read: see `Preprocess.natural`, as are the others.
            mask: true where a value is known, (B, channels, length).
            check: whether floats are looked at.

        Raises:
            InputError: on another shape, for a column that is missing, or naming row, channel and step of what is no
                finite number.
        """
        return sequences(data, names, self.length, self.layout or "NCL", mask, check, masked)


def _joined(images: Sequence[Tensor]) -> Tensor:
    """Images (1, C, H, W), bytes or floats, as one tensor; bytes among floats as floats."""
    shapes = [tuple(each.shape[1:]) for each in images]
    if not images:
        raise InputError("the data hold no image")
    if len(set(shapes)) > 1:
        other = next(row for row, shape in enumerate(shapes) if shape != shapes[0])
        raise InputError(
            f"the samples must have one shape, but row 0 has {shapes[0]}, row {other} {shapes[other]}",
            "resize images first",
        )
    if len({each.dtype for each in images}) > 1:
        images = [each.float() / 255 if each.dtype == torch.uint8 else each.float() for each in images]
    return torch.cat([each.to(images[0].device) for each in images])


def check_range(given: Any) -> None:
    """Raises InputError for what is no (low, high) of finite numbers."""
    known = isinstance(given, tuple) and len(given) == 2 and all(type(v) in (int, float) for v in given)
    if not known or not -math.inf < given[0] < given[1] < math.inf:
        raise InputError(f"range must be (low, high), the values that become 0 and 1, got {given!r}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


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


FARTHEST = 5.199337582605575  # standard deviations; the normal distribution has 1e-7 beyond


def _normal(x: Tensor, knots: Sequence[Sequence[float]]) -> Tensor:
    """Each column (dimension 1) by its quantiles to a standard normal distribution; see `TabularPreprocess`."""
    x, columns = x.double(), []
    for values, quantiles in zip(x.unbind(1), knots, strict=True):
        at = torch.tensor(quantiles or (0.0, 1.0), dtype=torch.float64, device=x.device)
        # a value that several probabilities share gets their middle: the means from either side
        columns.append((_interpolated(values, at) + 1 - _interpolated(-values, -at.flip(0))) / 2)
    mapped = torch.tensor([bool(each) for each in knots], device=x.device).view(-1, *[1] * (x.ndim - 2))
    return torch.where(mapped, torch.special.ndtri(torch.stack(columns, dim=1)).clamp(-FARTHEST, FARTHEST), x)


def _natural(x: Tensor, knots: Sequence[Sequence[float]]) -> Tensor:
    columns = []
    for values, quantiles in zip(x.double().unbind(1), knots, strict=True):
        at = torch.tensor(quantiles, dtype=torch.float64, device=x.device)
        if not quantiles:
            columns.append(values)
            continue
        place = torch.special.ndtr(values) * (len(at) - 1)
        below = place.nan_to_num().floor().long().clamp(max=len(at) - 2)
        columns.append(torch.lerp(at[below], at[below + 1], place - below))
    return torch.stack(columns, dim=1).to(x.dtype)


def _interpolated(values: Tensor, knots: Tensor) -> Tensor:
    """The probability of each value, where knots are those of equally spaced ones; NaN stays NaN."""
    above = torch.bucketize(values, knots, right=True).clamp(1, len(knots) - 1)  # which ONNX has
    low, high = knots[above - 1], knots[above]
    within = ((values - low) / (high - low)).nan_to_num(nan=1.0).clamp(0, 1)  # 0 / 0 where the last knots are equal
    return torch.where(values.isnan(), values, (above - 1 + within) / (len(knots) - 1))


def _along_dim_1(values: tuple[float, ...], x: Tensor) -> Tensor:
    return torch.tensor(values, dtype=x.dtype, device=x.device).view(-1, *[1] * (x.ndim - 2))
