"""Kinds of data: how the columns of a data set become one array, and the array's rows what a model takes."""

from __future__ import annotations

import io
import struct
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from lightning_ae.config import Configurable, class_path
from lightning_ae.data.columns import check_columns, choose, image_columns, reasons, scalar_columns, vector_columns
from lightning_ae.data.signature import Column, Signature, listed
from lightning_ae.errors import InputError
from lightning_ae.exact import Noise
from lightning_ae.natural import pixels
from lightning_ae.preprocess import ImagePreprocess, Preprocess, TabularPreprocess

if TYPE_CHECKING:
    from datasets import Features
    from PIL.Image import Image as PILImage

COMPACT = {np.dtype(name) for name in ("uint8", "int8", "float16", "float32")}
LARGEST = 2**28  # pixels of an image: 805 MB in colour
PILLOWS, NO_LIMIT = 2**30 // 4 // 3, 2**62  # Pillow's own limit, and one that no image has
WHOLE = 2**53  # from here on float64 does not hold every integer


class Kind(Configurable):
    """Plain data that says how samples are read."""

    @property
    def fitted(self) -> bool:
        """Whether `preprocess` learns from the training split; otherwise samples of any split tell it enough."""
        return False

    @abstractmethod
    def input_columns(self, features: Features, label: str | None) -> list[str]:
        """The columns that make the model's input."""

    @property
    def decoding(self) -> dict[str, Any]:
        """The options that tell one decoding of the same rows from another."""
        return {"class_path": class_path(type(self))}

    @abstractmethod
    def decode(self, rows: pa.Table, columns: list[str], split: str, first: int) -> np.ndarray:
        """The samples of some rows as one array (N, ...), in the source's own type where that is compact.

        Args:
            rows: as the data set has them.
            columns: those that make the input.
            split: its name, for errors.
            first: the number of the first row in it, for errors.
        """

    @abstractmethod
    def preprocess(self, chunks: Callable[[], Iterable[Tensor]]) -> Preprocess:
        """From decoded samples to the model's input; `chunks()` passes over a split, the training one where `fitted`"""

    def described(self, columns: list[Column], first: pa.Table) -> list[Column]:
        """The input's columns, with what the first row of the training split tells of them."""
        return columns

    def unlike(self, rows: pa.Table, columns: list[str]) -> list[str]:
        """The columns of which the model's type cannot tell values apart that differ in these rows."""
        return []

    def of_features(self, features: Features) -> Kind:
        """This kind with what the data set says of itself."""
        return self

    def of_signature(self, signature: Signature) -> Kind:
        """This kind as a trained model asks for its input.

        Raises:
            InputError: when it reads another kind of input than the model's, or in another way.
        """
        return self

    @property
    def frozen(self) -> str | None:
        """The name of what `freeze` does, or None where it does nothing."""
        return None

    @property
    def trains_frozen(self) -> bool:
        """Whether training, too, takes the samples as `freeze` gives them."""
        return True

    def freeze(self, samples: Tensor, generator: torch.Generator) -> Tensor:
        """The samples as evaluation sees them: any random choice is made once, from `generator`."""
        return samples

    def augment(self, x: Tensor, noise: Noise) -> Tensor:
        """What happens to a training batch (B, ...) on the device each time it is used."""
        return x


@dataclass(frozen=True)
class Image(Kind):
    """A column of images, as floats in [0, 1] of shape (channels, height, width).

    Args:
        column: the column's name; by default the only one that holds images.
        size: (height, width) to resize to; needed where sizes differ.
        channels: 1 for grey, 3 for colour; by default as the images are.
        binarize: "threshold" makes values of 0.5 and more one and the rest zero; "static" draws zeros and ones once,
            with the grey values as probabilities; "dynamic" draws anew each time a training batch is used, and takes
            the static draw in evaluation.
        mean: subtracted from each channel in [0, 1].
        std: divides each channel after that.
    """

    column: str | None = None
    size: tuple[int, int] | None = None
    channels: Literal[1, 3] | None = None
    binarize: Literal["threshold", "static", "dynamic"] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        ImagePreprocess(self.size, self.channels, self.mean, self.std, self.binarize)  # names what it cannot use

    def input_columns(self, features: Features, label: str | None) -> list[str]:
        """The column of images."""
        images = image_columns(features)
        if self.column is not None:
            check_columns([self.column], features)
            if self.column not in images:
                raise InputError(
                    f"column {self.column!r} holds {features[self.column]}, not images", f"image columns: {images}"
                )
            return [self.column]
        if len(images) != 1:
            raise InputError(
                f"the data set has {len(images)} image columns among {listed(list(features))}",
                "name one: kind=Image(column=...)" if images else "use kind=Tabular(...)",
            )
        return images

    @property
    def decoding(self) -> dict[str, Any]:
        """Size and channels; the rest happens later."""
        return super().decoding | {"size": self.size, "channels": self.channels}

    def decode(self, rows: pa.Table, columns: list[str], split: str, first: int) -> np.ndarray:
        """uint8 (N, C, H, W)."""
        fit = ImagePreprocess(self.size, self.channels).resize
        images: list[np.ndarray] = []
        for row, item in enumerate(rows[columns[0]].to_pylist(), start=first):
            image = _pixels(item, split, row)
            if self.size is not None or self.channels is not None:
                image = fit(torch.from_numpy(image).unsqueeze(0))[0].numpy()
            if images and image.shape != images[0].shape:
                raise InputError(
                    f"images of split {split!r} differ: row {first} has (channels, height, width) {images[0].shape}, "
                    f"row {row} has {image.shape}",
                    "give kind=Image(size=(height, width), channels=1 or 3)",
                )
            images.append(image)
        return np.stack(images)

    def preprocess(self, chunks: Callable[[], Iterable[Tensor]]) -> ImagePreprocess:
        """Scaling to [0, 1] and normalisation; encoders use it on images of any size."""
        shape = next(iter(chunks())).shape
        return ImagePreprocess((shape[2], shape[3]), shape[1], self.mean, self.std, self.binarize)

    def described(self, columns: list[Column], first: pa.Table) -> list[Column]:
        """The column of images, with the shape that the first one has before it is resized."""
        plain = replace(self, size=None, channels=None)
        return [replace(columns[0], shape=plain.decode(first, [columns[0].name], "train", 0).shape[1:])]

    def of_features(self, features: Features) -> Image:
        """Grey or colour as `datasets.Image(mode=...)` says.

        Raises:
            InputError: when that is another mode, or this kind says otherwise.
        """
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
        for name in said:
            own, of_model = getattr(self, name), getattr(wanted, name)
            if own is not None and own != of_model:
                raise InputError(
                    f"kind=Image({name}={own!r}) reads images otherwise than the model was trained with, {of_model!r}",
                    f"leave {name} out: the model says it",
                )
        column = signature.names[0] if signature.columns else self.column
        options = {name: getattr(wanted, name) for name in said}
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
        """A fresh draw of zeros and ones, where `binarize` is "dynamic"."""
        return (noise.rand_like(x) < x).to(x.dtype) if self.binarize == "dynamic" else x


@dataclass(frozen=True)
class Tabular(Kind):
    """Columns of numbers, as float vectors.

    Where `columns` does not say it, the only column of vectors is the input, else all numbers (integers, floats,
    decimals, booleans) but the label. What is left out is said, with the reason: text, dates, classes and whatever else
    is no number; and by their names, in any case,

    - what looks like a target: label, target, class, y (unless a number x stands beside it), outcome, response,
      diagnosis, fraud, anomaly, outlier, churn, default, their plurals and is_... forms, and names that end in _label,
      _target, _class or _outcome;
    - of integers and texts what is an index (__index_level_0__, Unnamed: 0, level_0, index) or an identifier: id, uuid,
      guid, key, pk, idx, rowid, by itself or at the end after a separator (user_id) or a small letter (userId).

    Name such a column in `columns` to take it all the same.

    A model sees float32. Where columns are standardised they stay in float64 until they are centred, so that a large
    offset costs no digits; integers of 2^53 and more, which float64 cannot tell apart, are refused.

    Args:
        columns: their names: one column of vectors, or any number of scalar ones.
        standardize: subtract each dimension's mean over the training split and divide by its standard deviation
            (constant dimensions are only centred).
    """

    columns: tuple[str, ...] | None = None
    standardize: bool = False

    def input_columns(self, features: Features, label: str | None) -> list[str]:
        """The columns that make the vectors."""
        if self.columns is not None:
            columns = list(self.columns)
            check_columns(columns, features)
            vectors, scalars = vector_columns(features), scalar_columns(features)
            if repeated := [column for column in columns if columns.count(column) > 1]:
                raise InputError(f"columns names {repeated[0]!r} more than once", "name each column once")
            for column in columns:
                if column not in scalars and not (column in vectors and len(columns) == 1):
                    raise InputError(
                        f"column {column!r} holds {features[column]}; columns takes one column of vectors or any "
                        "number of scalar ones",
                        f"vectors: {listed(vectors)}; scalars: {listed(scalars)}",
                    )
            return columns
        choice = choose(features, label)
        if not choice.input:
            there = f"the label {label!r}" + (" and " if choice.left_out else "") if label is not None else ""
            raise InputError(
                f"no column of the data set makes an input by itself; it has {there}{reasons(choice.left_out)}"
                if features else "the data set has no columns",
                "name columns of numbers to use all the same: kind=Tabular(columns=[...]); or convert others first "
                "(Dataset.cast_column, Dataset.map)",
            )  # fmt: skip
        if len(choice.input) > 1 and choice.input[0] in vector_columns(features):
            raise InputError(
                f"the data set has {len(choice.input)} columns of vectors, {listed(choice.input)}",
                "name the one to use: kind=Tabular(columns=[...])",
            )
        return list(choice.input)

    @property
    def decoding(self) -> dict[str, Any]:
        """In which precision values are kept."""
        return super().decoding | {"precision": "double" if self.standardize else "single"}

    def decode(self, rows: pa.Table, columns: list[str], split: str, first: int) -> np.ndarray:
        """(N, dimensions), in the columns' own type where they share one that is compact; else float64 where they are
        standardised, and float32 where not."""
        wide = np.dtype(np.float64 if self.standardize else np.float32)
        arrays = [_numbers(rows[column], wide, f"column {column!r} of split {split!r}", first) for column in columns]
        own = {values.dtype for values in arrays}
        dtype = own.pop() if len(own) == 1 and own <= COMPACT else wide
        return np.concatenate(arrays, axis=1, dtype=dtype, casting="unsafe")

    def unlike(self, rows: pa.Table, columns: list[str]) -> list[str]:
        """The columns of which float32 cannot tell values apart that differ: some integers, or 1 % of the floats."""
        if self.standardize:
            return []
        found = []
        for column in columns:
            values = _values(rows[column])
            if values.dtype in COMPACT or values.dtype == bool:
                continue
            distinct = np.unique(values[np.isfinite(values)])
            if not len(distinct):  # whoever reads it says so
                continue
            merged = 1 - len(np.unique(distinct.astype(np.float32))) / max(1, len(distinct))
            if merged > (0.01 if values.dtype.kind == "f" else 0):
                found.append(column)
        return found

    def of_signature(self, signature: Signature) -> Tabular:
        """The model's columns, standardised where the model's input is.

        Raises:
            InputError: when the model takes images, or other columns than this kind names.
        """
        wanted = signature.preprocess
        if not isinstance(wanted, TabularPreprocess):
            raise InputError("the data hold no column of images, where the model takes images", "give kind=Image(...)")
        names = tuple(signature.names)
        if names and self.columns is not None and set(self.columns) != set(names):
            raise InputError(
                f"kind=Tabular(columns=...) names {listed(self.columns)}, where the model was trained on "
                f"{listed(names)}",
                "leave columns out: the model says them",
            )
        return replace(self, columns=names or self.columns, standardize=wanted.mean is not None)

    @property
    def fitted(self) -> bool:
        """Whether the samples are standardised."""
        return self.standardize

    def preprocess(self, chunks: Callable[[], Iterable[Tensor]]) -> TabularPreprocess:
        """Standardisation by the training split, where asked for."""
        if not self.standardize:
            return TabularPreprocess()
        n = sum(len(chunk) for chunk in chunks())
        found = [torch.stack([chunk.double().amin(dim=0), chunk.double().amax(dim=0)]) for chunk in chunks()]
        low, high = torch.stack(found).amin(dim=0)[0], torch.stack(found).amax(dim=0)[1]
        # sums of float32 are exact in float64; of float64 what lies above the least value is summed
        offset = low if next(iter(chunks())).dtype == torch.float64 else torch.zeros_like(low)
        total = torch.stack([(chunk.double() - offset).sum(dim=0) for chunk in chunks()]).sum(dim=0)
        # a spread of the last digit is that of rounding: such a column is constant
        constant = high - low <= torch.finfo(torch.float64).eps * torch.maximum(high.abs(), low.abs())
        mean = torch.where(constant, low, offset + total / n)
        squares = torch.stack([(chunk.double() - mean).square().sum(dim=0) for chunk in chunks()]).sum(dim=0)
        std = torch.where(constant, 1.0, (squares / n).sqrt())
        if not (mean.isfinite() & std.isfinite()).all():
            dimension = int((~(mean.isfinite() & std.isfinite())).int().argmax())
            raise InputError(
                f"dimension {dimension} of the input spreads from {low[dimension]:g} to {high[dimension]:g}, too far "
                "for a standard deviation in float64",
                "rescale it, or take its logarithm (Dataset.map)",
            )
        return TabularPreprocess(tuple(mean.tolist()), tuple(torch.where(std > 0, std, 1.0).tolist()))


def kind_of(features: Features) -> Kind:
    """Images where there is a column of them, else a table."""
    return Image() if image_columns(features) else Tabular()


def _values(column: pa.ChunkedArray) -> np.ndarray:
    """All numbers of a column, in one dimension; missing ones are NaN, and decimals float64."""
    array = column.combine_chunks()
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    if pa.types.is_decimal(array.type):
        array = pc.cast(array, pa.float64())
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _numbers(column: pa.ChunkedArray, wide: np.dtype[Any], where: str, first: int) -> np.ndarray:
    """A column of numbers (N, 1), or of vectors (N, dimensions), of which each can be told in the type `wide`.

    Args:
        column: of rows as the data set has them.
        wide: float32 or float64.
        where: the column in words, for errors.
        first: the number of the first row, for errors.

    Raises:
        InputError: naming the row, for what is missing, not finite, too large, or of another length.
    """
    drop = "drop such rows, or fill them first"
    array = column.combine_chunks()
    if column.null_count:
        row = first + int(pc.index(pc.is_null(array), pa.scalar(True)).as_py())
        raise InputError(f"{where} holds missing values (None, NaN), first in row {row}", drop)
    width = 1
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
        width = int(lengths[0])
        if (lengths != width).any():
            row = int((lengths != width).argmax())
            raise InputError(
                f"the vectors in {where} differ in length: row {first} has {width} values, row {first + row} has "
                f"{lengths[row]}",
                "bring them to one length first (Dataset.map)",
            )
        if width == 0:
            raise InputError(f"{where} holds empty vectors, first in row {first}")
    values = _values(column).reshape(-1, width)
    whole = values.dtype.kind in "iu"
    if values.dtype.itemsize < 4 and values.dtype.kind != "f" or values.dtype == bool:
        return values
    if whole:
        bad = (values >= WHOLE) | (values <= -WHOLE) if values.dtype.itemsize == 8 else np.zeros_like(values, bool)
    else:
        bad = ~np.isfinite(values)
        if not bad.any() and values.dtype.itemsize > wide.itemsize:
            bad = np.abs(values) > np.finfo(wide).max
    if not bad.any():
        return values
    row, place = divmod(int(bad.argmax()), width)
    at = f"row {first + row}" + (f" at {place}" if width > 1 else "")
    value = values[row, place]
    if whole:
        raise InputError(
            f"{where} holds {value} in {at}: integers of 2^53 and more cannot be told apart in float64",
            "where they are identifiers, leave the column out: kind=Tabular(columns=[...]); else subtract an offset "
            "first (Dataset.map)",
        )
    if np.isfinite(value):
        raise InputError(
            f"{where} holds {value:g}, which float32 cannot hold, first in {at}",
            "give kind=Tabular(standardize=True), which scales it first, or take the logarithm (Dataset.map)",
        )
    raise InputError(f"{where} holds NaN or infinite values, first in {at}", drop)


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


def _pixels(item: dict[str, Any] | None, split: str, row: int) -> np.ndarray:
    """One encoded image as uint8 (C, H, W)."""
    with open_image(item, split, row) as opened:
        try:
            return pixels(opened)
        except InputError as error:
            raise InputError(f"row {row} of split {split!r}: {error.message}", error.hint) from None
