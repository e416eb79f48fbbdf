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
from lightning_ae.data.columns import check_columns, image_columns, scalar_columns, vector_columns
from lightning_ae.data.signature import Column, Signature, listed
from lightning_ae.errors import InputError
from lightning_ae.exact import Noise
from lightning_ae.natural import pixels
from lightning_ae.preprocess import ImagePreprocess, Preprocess, TabularPreprocess

if TYPE_CHECKING:
    from datasets import Features
    from PIL.Image import Image as PILImage

COMPACT = {np.dtype(name) for name in ("uint8", "int8", "float16", "float32")}


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
        ImagePreprocess(self.size, self.channels, self.mean, self.std)  # names what it cannot use
        if self.binarize not in (None, "threshold", "static", "dynamic"):
            raise InputError(f"binarize must be 'threshold', 'static', 'dynamic' or none, got {self.binarize!r}")
        if self.binarize is not None and (self.mean is not None or self.std is not None):
            raise InputError("binarize makes values of 0 and 1, which mean and std would move", "leave one of them out")

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
                f"the data set has {len(images)} image columns among {list(features)}",
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
        return ImagePreprocess((shape[2], shape[3]), shape[1], self.mean, self.std)

    def described(self, columns: list[Column], first: pa.Table) -> list[Column]:
        """The column of images, with the shape that the first one has before it is resized."""
        plain = replace(self, size=None, channels=None)
        return [replace(columns[0], shape=plain.decode(first, [columns[0].name], "train", 0).shape[1:])]

    def of_signature(self, signature: Signature) -> Image:
        """Images in the model's size, channels and normalisation.

        Raises:
            InputError: when the model takes no images, or this kind states another size or another normalisation.
        """
        wanted = signature.preprocess
        if not isinstance(wanted, ImagePreprocess):
            raise InputError("the data hold images, where the model takes vectors", "give kind=Tabular(...)")
        for name in ("size", "channels", "mean", "std"):
            own, of_model = getattr(self, name), getattr(wanted, name)
            if own is not None and own != of_model:
                raise InputError(
                    f"kind=Image({name}={own}) reads images otherwise than the model was trained with, {of_model}",
                    f"leave {name} out: the model says it",
                )
        column = signature.names[0] if signature.columns else self.column
        options = {name: getattr(wanted, name) for name in ("size", "channels", "mean", "std")}
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

    Args:
        columns: their names: one column of vectors, or any number of scalar ones; by default the only column of
            vectors, else all scalar numbers but the label.
        standardize: subtract each dimension's mean over the training split and divide by its standard deviation
            (constant dimensions are only centred).
    """

    columns: tuple[str, ...] | None = None
    standardize: bool = False

    def input_columns(self, features: Features, label: str | None) -> list[str]:
        """The columns that make the vectors."""
        vectors, scalars = vector_columns(features), [c for c in scalar_columns(features) if c != label]
        if self.columns is not None:
            columns = list(self.columns)
            check_columns(columns, features)
            for column in columns:
                if column not in (vectors if len(columns) == 1 else []) + scalars + [label]:
                    raise InputError(
                        f"column {column!r} holds {features[column]}; columns takes one column of vectors or any "
                        "number of scalar ones",
                        f"vectors: {vectors}; scalars: {scalars}",
                    )
            return columns
        if len(vectors) == 1:
            return vectors
        if vectors or not scalars:
            raise InputError(
                f"the data set has {len(vectors)} columns of vectors and {len(scalars)} of numbers among "
                f"{list(features)}",
                "name those to use: kind=Tabular(columns=[...])",
            )
        return scalars

    def decode(self, rows: pa.Table, columns: list[str], split: str, first: int) -> np.ndarray:
        """(N, dimensions), in the columns' own type where they share one that is compact, else float32."""
        arrays = []
        for column in columns:
            values = _numbers(rows[column])
            if values is None:
                raise InputError(f"the vectors in column {column!r} of split {split!r} differ in length")
            bad = ~np.isfinite(values).all(axis=1)
            if bad.any():
                raise InputError(
                    f"column {column!r} of split {split!r} holds NaN or infinite values, first in row "
                    f"{first + int(bad.argmax())}",
                    "drop or fill them first",
                )
            arrays.append(values)
        own = {values.dtype for values in arrays}
        dtype = own.pop() if len(own) == 1 and own <= COMPACT else np.dtype(np.float32)
        return np.concatenate(arrays, axis=1, dtype=dtype, casting="unsafe")

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
        # sums of float32 are exact in float64, so that the standard deviation of a constant is exactly zero
        n = sum(len(chunk) for chunk in chunks())
        mean = torch.stack([chunk.double().sum(dim=0) for chunk in chunks()]).sum(dim=0) / n
        squares = torch.stack([(chunk.double() - mean).square().sum(dim=0) for chunk in chunks()]).sum(dim=0)
        std = (squares / n).sqrt()
        return TabularPreprocess(tuple(mean.tolist()), tuple(torch.where(std > 0, std, 1.0).tolist()))


def kind_of(features: Features) -> Kind:
    """Images where there is a column of them, else a table."""
    return Image() if image_columns(features) else Tabular()


def _numbers(column: pa.ChunkedArray) -> np.ndarray | None:
    """A column of numbers (N, 1), or of vectors (N, dimensions); None where vectors differ in length.

    Missing values become NaN.
    """
    array = column.combine_chunks()
    if not (
        pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type)
    ):
        return np.asarray(array.to_numpy(zero_copy_only=False))[:, None]
    if array.null_count:
        return None
    values = np.asarray(array.flatten().to_numpy(zero_copy_only=False))
    lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
    return values.reshape(len(array), -1) if (lengths == lengths[0]).all() else None


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
        opened = PIL.Image.open(io.BytesIO(item["bytes"]) if item["bytes"] is not None else item["path"])
        opened.load()
    # PIL raises a family for damaged files
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, PIL.Image.DecompressionBombError) as error:
        raise InputError(f"row {row} of split {split!r} is not a readable image: {error}") from error
    with opened:
        yield opened


def _pixels(item: dict[str, Any] | None, split: str, row: int) -> np.ndarray:
    """One encoded image as uint8 (C, H, W)."""
    with open_image(item, split, row) as opened:
        try:
            return pixels(opened)
        except InputError as error:
            raise InputError(f"row {row} of split {split!r}: {error.message}", error.hint) from None
