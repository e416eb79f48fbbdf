"""Images."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.nn import functional as F

from lightning_ae.data.columns import array_columns, arrays_as, check_columns, image_columns, vector_columns
from lightning_ae.data.kinds.base import Kind
from lightning_ae.data.kinds.tabular import numbers
from lightning_ae.data.signature import Column, Signature, listed
from lightning_ae.errors import InputError, unknown
from lightning_ae.exact import Noise
from lightning_ae.natural import pixels
from lightning_ae.preprocess import Fit, ImagePreprocess

if TYPE_CHECKING:
    from datasets import Features
    from PIL.Image import Image as PILImage

LARGEST = 2**28  # pixels of an image: 805 MB in colour
PILLOWS, NO_LIMIT = 2**30 // 4 // 3, 2**62  # Pillow's own limit, and one that no image has


@dataclass(frozen=True)
class Image(Kind):
    """A column of images, as floats in [0, 1] of shape (channels, height, width).

    Args:
        column: the column's name; by default the only one that holds images or, where `range` says their values,
            arrays.
        size: (height, width) to resize to; needed where sizes differ.
        channels: 1 for grey, 3 for colour; by default as the images are. Arrays keep the channels that they have.
        binarize: "threshold" makes values of 0.5 and more one and the rest zero; "static" draws zeros and ones once,
            with the grey values as probabilities; "dynamic" draws anew each time a training batch is used, and takes
            the static draw in evaluation.
        mean: subtracted from each channel in [0, 1].
        std: divides each channel after that.
        fit: how images of other proportions are brought to `size`: "stretch" changes their proportions; "crop" keeps
            them, and cuts off what the centre does not hold.
        flip: mirror half of the images of a training batch, left to right, drawn anew each time.
        crop: the smallest and the largest share of an image's area that a training batch sees, in (0, 1]: (0.5, 1),
            say. A window of the image's proportions is drawn anew each time, and enlarged to its size. Evaluation sees
            whole images.
        range: the values that become 0 and 1, of images of more than 8 bits and of arrays: (0, 65535) of 16 bits, (0,
            4095) of 12, (0, 1) of floats. A value outside is refused. They are kept in float32.
        layout: of arrays of three dimensions, "CHW" or "HWC"; those of two are grey. Where it is given, bytes are
            arrays, too, of any number of channels; else they are images of one channel or three.
    """

    column: str | None = None
    size: tuple[int, int] | None = None
    channels: Literal[1, 3] | None = None
    binarize: Literal["threshold", "static", "dynamic"] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    fit: Fit = "stretch"
    flip: bool = False
    crop: tuple[float, float] | None = None
    range: tuple[float, float] | None = None
    layout: Literal["CHW", "HWC"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        # names what it cannot use
        ImagePreprocess(self.size, self.channels, self.mean, self.std, self.binarize, self.fit, self.range)
        if self.layout not in (None, "CHW", "HWC"):
            raise unknown("layout of Image", str(self.layout), ("CHW", "HWC"))
        if self.layout is not None and self.range is None:
            raise InputError("layout is of arrays, which need a range", "give range=(low, high), the values of 0 and 1")
        crop: Any = self.crop
        numbers_of = isinstance(crop, tuple) and len(crop) == 2 and all(type(each) in (int, float) for each in crop)
        if crop is not None and not (numbers_of and 0 < crop[0] <= crop[1] <= 1):
            raise InputError(
                f"crop must be the smallest and the largest share of an image, in (0, 1], got {crop!r}",
                "crop=(0.5, 1), say; a size in pixels is size=(height, width) with fit='crop'",
            )
        if crop is not None and self.binarize in ("threshold", "static"):
            raise InputError(
                f"crop makes greys of the zeros and ones of binarize={self.binarize!r}",
                "draw them after it, binarize='dynamic', or leave one of them out",
            )
        if not isinstance(self.flip, bool):
            raise InputError(f"flip must be true or false, got {self.flip!r}")

    def input_columns(self, features: Features, label: str | None) -> list[str]:
        """The column of images."""
        images = image_columns(features)
        arrays = array_columns(features)
        if self.range is not None:
            images = images or arrays if self.column is None else images + arrays
        if self.column is not None:
            check_columns([self.column], features)
            if self.column not in images:
                raise InputError(
                    f"column {self.column!r} holds {features[self.column]}, not images",
                    arrays_as(self.column, features[self.column], images=True) if self.column in arrays else
                    f"image columns: {listed(images)}",
                )  # fmt: skip
            return [self.column]
        if len(images) != 1:
            flat = vector_columns(features)
            raise InputError(
                f"the data set has {len(images)} image columns among {listed(list(features))}",
                "name one: kind=Image(column=...)" if images else
                arrays_as(arrays[0], features[arrays[0]], images=True) if arrays else
                f"images that lie flat in {flat[0]!r} want their shape: x.reshape(len(x), height, width)" if flat else
                "use kind=Tabular(...)",
            )  # fmt: skip
        return images

    @property
    def takes_arrays(self) -> bool:
        """Where it says which of their dimensions is which."""
        return self.layout is not None

    @property
    def decoding(self) -> dict[str, Any]:
        """Size and channels; the rest happens later."""
        about = {"size": self.size, "channels": self.channels}
        later = {"fit": (self.fit, "stretch"), "range": (self.range, None), "layout": (self.layout, None)}
        return super().decoding | about | {name: own for name, (own, plainly) in later.items() if own != plainly}

    def decode(self, rows: pa.Table, columns: list[str], split: str, first: int) -> np.ndarray:
        """uint8 (N, C, H, W), or float32 where `range` says their values."""
        resized = ImagePreprocess(self.size, self.channels, fit=self.fit, range=self.range).resize
        fits = self.size is None and self.channels is None
        images: list[np.ndarray] = []
        for row, image in enumerate(self._read(rows[columns[0]], columns[0], split, first), start=first):
            if not fits:
                image = resized(torch.from_numpy(image).unsqueeze(0))[0].numpy()
            if images and image.shape != images[0].shape:
                raise InputError(
                    f"images of split {split!r} differ: row {first} has (channels, height, width) {images[0].shape}, "
                    f"row {row} has {image.shape}",
                    "give kind=Image(size=(height, width), channels=1 or 3), with fit='crop' where proportions shall "
                    "stay",
                )
            images.append(image)
        return np.stack(images)

    def _read(self, column: pa.ChunkedArray, name: str, split: str, first: int) -> Iterator[np.ndarray]:
        """Each image as it is, (C, H, W)."""
        if pa.types.is_struct(column.type):  # encoded
            for row, item in enumerate(column.to_pylist(), start=first):
                image = _pixels(item, split, row, self.range)
                self._check(image, split, row)
                yield image
            return
        if _uneven(column):  # so that a size may bring them to one
            for place in range(len(column)):
                yield from self._read(column.slice(place, 1), name, split, first + place)
            return
        arrays = numbers(column, np.dtype(np.float32), f"column {name!r} of split {split!r}", first)
        if arrays.ndim == 4 and self.layout is None:
            raise InputError(
                f"the arrays in column {name!r} of split {split!r} have the shape {arrays.shape[1:]}, and do not say "
                "which dimension their channels are",
                "give kind=Image(layout='CHW') or 'HWC'",
            )
        if arrays.ndim not in (3, 4):
            raise InputError(
                f"the arrays in column {name!r} of split {split!r} have the shape {arrays.shape[1:]}, where images "
                "have two dimensions or three",
                f"kind=Tabular(columns=[{name!r}]) reads arrays of any shape",
            )
        if arrays.ndim == 3:
            arrays = arrays[:, None]
        elif self.layout == "HWC":
            arrays = arrays.transpose(0, 3, 1, 2)
        for row, image in enumerate(arrays, start=first):
            self._check(image, split, row)
            yield np.array(image, np.float32, order="C")  # torch gathers rows of no uint16

    def _check(self, image: np.ndarray, split: str, row: int) -> None:
        if self.range is None:
            return
        low, high = (np.float32(each) for each in self.range)
        if not (low <= image.min() and image.max() <= high):
            raise InputError(
                f"row {row} of split {split!r} holds values in [{image.min():g}, {image.max():g}], where range says "
                f"{self.range}",
                "give the range of the data: kind=Image(range=(low, high))",
            )

    def preprocess(self, chunks: Callable[[], Iterable[Tensor]], columns: Sequence[str] = ()) -> ImagePreprocess:
        """Scaling to [0, 1] and normalisation; encoders use it on images of any size."""
        shape = next(iter(chunks())).shape
        size = (shape[2], shape[3])
        return ImagePreprocess(size, shape[1], self.mean, self.std, self.binarize, self.fit, self.range, self.layout)

    def described(self, columns: list[Column], first: pa.Table) -> list[Column]:
        """The column of images, with the shape that the first one has before it is resized."""
        plain = replace(self, size=None, channels=None, fit="stretch")
        shape = plain.decode(first, [columns[0].name], "train", 0).shape[1:]
        channels, height, width = shape
        meant = {"CHW": ("HWC", width), "HWC": ("CHW", height)}.get(str(self.layout), ("", channels))
        if meant[1] in (1, 3, 4) and channels not in (1, 3, 4):
            rank_zero_warn(
                f"layout={self.layout!r} makes the arrays in {columns[0].name!r} images of {channels} channels, "
                f"{height} x {width}: is layout={meant[0]!r} meant?"
            )
        return [replace(columns[0], shape=shape, range=self.range or columns[0].range)]

    def of_rows(self, rows: Any, label: str | None, streaming: bool) -> Image:
        """Grey or colour as `datasets.Image(mode=...)` says.

        Raises:
            InputError: when that is another mode, or this kind says otherwise.
        """
        features = rows.features
        columns = [self.column] if self.column is not None else image_columns(features)
        modes = {getattr(features.get(column), "mode", None) for column in columns} - {None}
        if not modes:
            return self
        channels: Any = {"L": 1, "RGB": 3}.get(str(modes.pop()))
        if channels is None or modes or self.channels not in (None, channels):
            raise InputError(
                f"the data set's column {columns[0]!r} is {features[columns[0]]}, where the kind reads "
                f"{self.channels or 'one or three'} channels",
                "cast it to Image(mode='L') or Image(mode='RGB') (Dataset.cast_column)",
            )
        return replace(self, channels=channels)

    def of_signature(self, signature: Signature) -> Image:
        """Images in the model's size, channels and normalisation, binarised as the model's are.

        A signature of before it said so leaves the last to this kind.

        Raises:
            InputError: when the model takes no images, or this kind states another way of reading them.
        """
        wanted = signature.preprocess
        if not isinstance(wanted, ImagePreprocess):
            raise InputError("the data hold images, where the model takes vectors", "give kind=Tabular(...)")
        said = ("size", "channels", "mean", "std", "binarize")[: 5 if signature.version > 1 else 4]
        any_size = wanted.multiple is not None
        said = said[1:] if any_size else said  # such a model leaves the size to this kind
        for name in said:
            own, of_model = getattr(self, name), getattr(wanted, name)
            if own is not None and own != of_model:
                raise InputError(
                    f"kind=Image({name}={own!r}) reads images otherwise than the model was trained with, {of_model!r}",
                    f"leave {name} out: the model says it",
                )
        if not any_size and self.fit not in ("stretch", wanted.fit):
            raise InputError(
                f"kind=Image(fit={self.fit!r}) reads images otherwise than the model was trained with, {wanted.fit!r}",
                "leave fit out: the model says it",
            )
        column = signature.names[0] if signature.columns else self.column
        for name in ("range", "layout"):
            own, of_model = getattr(self, name), getattr(wanted, name)
            if own is not None and own != of_model and (name == "range" or of_model is not None):
                raise InputError(
                    f"kind=Image({name}={own!r}) reads images otherwise than the model was trained with, {of_model!r}",
                    f"leave {name} out: the model says it",
                )
        options = {name: getattr(wanted, name) for name in (*said, *(() if any_size else ("fit",)), "range")}
        options["layout"] = wanted.layout or self.layout
        return replace(self, column=column, **options)

    @property
    def frozen(self) -> str | None:
        """How images are binarised for evaluation."""
        return "static" if self.binarize == "dynamic" else self.binarize

    @property
    def trains_frozen(self) -> bool:
        """Whether training takes the same zeros and ones in every epoch."""
        return self.binarize != "dynamic"

    def freeze(self, samples: Tensor, generator: torch.Generator) -> Tensor:
        """Binarised images, where `binarize` says so."""
        if self.binarize is None:
            return samples
        if self.binarize == "threshold":
            return (samples >= 128).to(torch.uint8) * 255
        return (torch.rand(samples.shape, generator=generator) * 255 < samples).to(torch.uint8) * 255

    def augment(self, x: Tensor, noise: Noise) -> Tensor:
        """Images mirrored, cut and enlarged, and a fresh draw of zeros and ones, as far as they are asked for."""
        if self.flip:
            mirrored = noise.rand_like(x.new_empty(len(x))) < 0.5
            x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x)
        if self.crop is not None:
            x = _windows(x, self.crop, noise)
        return (noise.rand_like(x) < x).to(x.dtype) if self.binarize == "dynamic" else x


def _windows(x: Tensor, shares: tuple[float, float], noise: Noise) -> Tensor:
    """Of each image (B, C, H, W) a window, of a drawn share of its area at a drawn place, enlarged to its size."""
    share, down, right = noise.rand_like(x.new_empty(len(x), 3)).unbind(1)
    side = (shares[0] + (shares[1] - shares[0]) * share).sqrt()
    free = 1 - side  # how far the window's centre may lie from the image's, of half its size
    theta = x.new_zeros(len(x), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, 0, 2], theta[:, 1, 2] = free * (2 * right - 1), free * (2 * down - 1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    found = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    # means lie beyond the values by rounding alone, which a likelihood of [0, 1] would refuse
    return found.clamp(x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True))


def _uneven(column: pa.ChunkedArray) -> bool:
    """Whether nested lists differ in length."""
    array = column.combine_chunks()
    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        if len(pc.unique(pc.list_value_length(array).drop_null())) > 1:
            return True
        array = array.flatten()
    return False


@contextmanager
def open_image(item: dict[str, Any] | None, split: str, row: int) -> Iterator[PILImage]:
    """One encoded image, read whole; errors name its row.

    Raises:
        InputError: when there is none, or it cannot be read.
    """
    import PIL.Image

    if item is None:
        raise InputError(f"row {row} of split {split!r} has no image")
    try:
        opened = _opened(io.BytesIO(item["bytes"]) if item["bytes"] is not None else item["path"])
        opened.load()
    # PIL raises a family for damaged files
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, PIL.Image.DecompressionBombError) as error:
        raise InputError(f"row {row} of split {split!r} is not a readable image: {error}") from error
    with opened:
        yield opened


def _opened(file: Any) -> PILImage:
    """An image whose pixels are not read yet, of up to 268 million of them.

    Pillow by itself warns from 89 million on, where telephones take 108 and 200, and refuses from 179 million on.
    Another limit, which the user has set, stays.
    """
    import PIL.Image

    if PIL.Image.MAX_IMAGE_PIXELS not in (PILLOWS, NO_LIMIT):
        return PIL.Image.open(file)
    PIL.Image.MAX_IMAGE_PIXELS = NO_LIMIT  # in other threads, too, which then look themselves
    try:
        opened = PIL.Image.open(file)
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = PILLOWS
    if opened.width * opened.height > LARGEST:
        raise PIL.Image.DecompressionBombError(
            f"it has {opened.width} x {opened.height} pixels, more than {LARGEST}: it may be a decompression bomb "
            "(PIL.Image.MAX_IMAGE_PIXELS sets another limit)"
        )
    return opened


def _pixels(item: dict[str, Any] | None, split: str, row: int, limits: tuple[float, float] | None) -> np.ndarray:
    """One encoded image as uint8 (C, H, W), or as float32; see `pixels`."""
    with open_image(item, split, row) as opened:
        try:
            return pixels(opened, limits)
        except InputError as error:
            raise InputError(f"row {row} of split {split!r}: {error.message}", error.hint) from None
