"""Kinds of data: how the columns of a data set become one array, and the array's rows what a model takes."""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lightning_ae.config import Configurable
from lightning_ae.distributed import Noise
from lightning_ae.errors import InputError
from lightning_ae.preprocess import ImagePreprocess, Preprocess, TabularPreprocess, image_array

if TYPE_CHECKING:
    from datasets import Dataset, Features


class Kind(Configurable):
    """Plain data that says how samples are read."""

    @property
    def fitted(self) -> bool:
        """Whether `preprocess` learns from the training split; otherwise samples of any split tell it enough."""
        return False

    @abstractmethod
    def input_columns(self, features: Features, label: str | None) -> list[str]:
        """The columns that make the model's input."""

    @abstractmethod
    def decode(self, rows: Dataset, columns: list[str], split: str) -> Tensor:
        """The samples of a split as one tensor (N, ...), in the source's own type where that is compact."""

    @abstractmethod
    def preprocess(self, samples: Tensor) -> Preprocess:
        """From decoded samples to the model's input, given a split's samples: the training one's where `fitted`."""

    def freeze(self, samples: Tensor, seed: int) -> Tensor:
        """The samples as evaluation sees them: any random choice is made once, from `seed`."""
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

    def decode(self, rows: Dataset, columns: list[str], split: str) -> Tensor:
        """uint8 (N, C, H, W)."""
        fit = ImagePreprocess(self.size, self.channels).resize
        encoded = rows.with_format("arrow")[:][columns[0]].to_pylist()
        samples: np.ndarray | None = None
        # a bar appears where this takes more than two seconds
        for i, item in enumerate(tqdm(encoded, desc=f"decoding {split}", delay=2, leave=False)):
            image = _pixels(item, split, i)
            if self.size is not None or self.channels is not None:
                image = fit(torch.from_numpy(image).unsqueeze(0))[0].numpy()
            if samples is None:
                samples = np.empty((len(encoded), *image.shape), np.uint8)
            if image.shape != samples.shape[1:]:
                raise InputError(
                    f"images differ: the first of split {split!r} has (channels, height, width) {samples.shape[1:]}, "
                    f"row {i} has {image.shape}",
                    "give kind=Image(size=(height, width), channels=1 or 3)",
                )
            samples[i] = image
        assert samples is not None  # empty splits are refused before
        return torch.from_numpy(samples)

    def preprocess(self, samples: Tensor) -> ImagePreprocess:
        """Scaling to [0, 1] and normalisation; encoders use it on images of any size."""
        return ImagePreprocess((samples.shape[2], samples.shape[3]), samples.shape[1], self.mean, self.std)

    def freeze(self, samples: Tensor, seed: int) -> Tensor:
        """Binarised images, where `binarize` says so."""
        if self.binarize is None:
            return samples
        if self.binarize == "threshold":
            return (samples >= 128).to(torch.uint8) * 255
        generator = torch.Generator().manual_seed(seed)
        drawn = [torch.rand(part.shape, generator=generator) * 255 < part for part in samples.split(4096)]
        return torch.cat(drawn).to(torch.uint8) * 255

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

    def decode(self, rows: Dataset, columns: list[str], split: str) -> Tensor:
        """Float32 (N, dimensions)."""
        table = rows.with_format("numpy")[:]
        arrays = []
        for column in columns:
            values = np.asarray(table[column])
            if values.dtype == object or values.ndim > 2:
                raise InputError(f"the vectors in column {column!r} of split {split!r} differ in length")
            values = values.astype(np.float32, copy=False)
            bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
            if bad.any():
                raise InputError(
                    f"column {column!r} of split {split!r} holds NaN or infinite values: {int(bad.sum())} rows, the "
                    f"first is row {int(bad.argmax())}",
                    "drop or fill them first",
                )
            arrays.append(values if values.ndim == 2 else values[:, None])
        return torch.from_numpy(np.ascontiguousarray(np.concatenate(arrays, axis=1)))

    @property
    def fitted(self) -> bool:
        """Whether the samples are standardised."""
        return self.standardize

    def preprocess(self, samples: Tensor) -> TabularPreprocess:
        """Standardisation by the training split, where asked for."""
        if not self.standardize:
            return TabularPreprocess()
        # sums of float32 are exact in float64, so that the standard deviation of a constant is exactly zero
        samples = samples.double()
        mean, std = samples.mean(dim=0), samples.std(dim=0, correction=0)
        return TabularPreprocess(tuple(mean.tolist()), tuple(torch.where(std > 0, std, 1.0).tolist()))


def kind_of(features: Features) -> Kind:
    """Images where there is a column of them, else a table."""
    return Image() if image_columns(features) else Tabular()


def image_columns(features: Features) -> list[str]:
    """The columns that hold images."""
    return [name for name, feature in features.items() if type(feature).__name__ == "Image"]


def scalar_columns(features: Features) -> list[str]:
    """The columns that hold a number or a class each."""
    return [name for name, feature in features.items() if _is_number(feature)]


def vector_columns(features: Features) -> list[str]:
    """The columns that hold a list of numbers each."""
    return [
        name for name, feature in features.items()
        if type(feature).__name__ in ("List", "LargeList", "Sequence") and _is_number(feature.feature)
    ]  # fmt: skip


def check_columns(names: Iterable[str], features: Features) -> None:
    """Raises InputError for a column that is not there, listing those that are."""
    for name in names:
        if name not in features:
            raise InputError(f"the data set has no column {name!r}", f"it has {list(features)}")


def _is_number(feature: Any) -> bool:
    # arrays of two and more dimensions have a dtype as well
    return type(feature).__name__ in ("Value", "ClassLabel") and feature.dtype.startswith(
        ("int", "uint", "float", "bool")
    )


def _pixels(item: dict[str, Any], split: str, row: int) -> np.ndarray:
    """One encoded image as uint8 (C, H, W)."""
    import PIL.Image
    import PIL.ImageOps

    if item is None:
        raise InputError(f"row {row} of split {split!r} has no image")
    try:
        with PIL.Image.open(io.BytesIO(item["bytes"]) if item["bytes"] is not None else item["path"]) as opened:
            # photographs may lie on their side, as `datasets` knows too
            return image_array(PIL.ImageOps.exif_transpose(opened))
    except InputError as error:
        raise InputError(f"row {row} of split {split!r}: {error.message}", error.hint) from None
    except OSError as error:
        raise InputError(f"row {row} of split {split!r} is not a readable image: {error}") from error
