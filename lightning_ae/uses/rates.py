"""What images cost as files, and how well they come back: a codec of codes beside JPEG and WebP."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import PIL.Image
from tqdm.auto import tqdm

from lightning_ae.errors import InputError
from lightning_ae.uses.compression import Codec, psnr

if TYPE_CHECKING:
    from lightning_ae.figures import Figure

Format = Literal["JPEG", "WEBP"]
BITS = (3, 4, 6, 8)
QUALITIES = (5, 10, 20, 35, 50, 65, 80, 90, 95)


@dataclass(frozen=True)
class Rate:
    """What a codec makes of images at one setting.

    Args:
        codec: its name.
        setting: bits of each number or index, or a quality.
        bits_per_pixel: of all files, headers too, over the pixels of all images.
        psnr: of the images in bytes, in dB; the mean over images.
    """

    codec: str
    setting: int
    bits_per_pixel: float
    psnr: float


def codec_rates(codec: Codec, images: Sequence[PIL.Image.Image], bits: Sequence[int] | None = None) -> list[Rate]:
    """What a model's codes cost, at each number of bits.

    Args:
        codec: the model's.
        images: what it compresses.
        bits: of each number of a code, by default 3, 4, 6 and 8; indices cost what they cost, once.

    Raises:
        InputError: for no images, or one that the codec does not take; for bits of indices.
    """
    settings: Sequence[int | None] = bits or ([None] if codec.has_indices else BITS)
    rates: list[int] = []
    made: list[list[tuple[bytes, float]]] = []
    for image in tqdm(images, "compressing", delay=5, leave=False):
        coded = codec.compress_each(image, settings)
        rates = [code.bits for code in coded]
        made.append([(code.to_bytes(), psnr(image, codec.decompress(code))) for code in coded])
    return [_rate(codec.name, rate, images, [each[i] for each in made]) for i, rate in enumerate(rates or [0])]


def pillow_rates(images: Sequence[PIL.Image.Image], kind: Format, qualities: Iterable[int] = QUALITIES) -> list[Rate]:
    """What Pillow's JPEG or lossy WebP makes of them at each quality, with its other options as they are.

    Raises:
        InputError: for no images.
    """
    return [_rate(kind, each, images, [_by_pillow(image, kind, each) for image in images]) for each in qualities]


def rates_figure(rates: Sequence[Rate]) -> Figure:
    """PSNR over bits per pixel, a line for each codec."""
    from lightning_ae.figures import Figure

    figure = Figure((6.0, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for codec in dict.fromkeys(rate.codec for rate in rates):
        own = sorted((rate for rate in rates if rate.codec == codec), key=lambda rate: rate.bits_per_pixel)
        places = [[rate.bits_per_pixel for rate in own], [rate.psnr for rate in own]]
        axes.plot(*places, marker="o", markersize=4, linewidth=1.2, label=codec)
    axes.set_xlabel("bits per pixel", fontsize=9)
    axes.set_ylabel("PSNR, dB", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.legend(frameon=False, fontsize=9)
    return figure


def _rate(name: str, setting: int, images: Sequence[Any], made: Sequence[tuple[bytes, float]]) -> Rate:
    if not images:
        raise InputError("there are no images to compress", "give one at least")
    pixels = sum(image.width * image.height for image in images)
    size = sum(8 * len(data) for data, _ in made)
    return Rate(name, setting, size / pixels, math.fsum(value for _, value in made) / len(made))


def _by_pillow(image: PIL.Image.Image, kind: str, quality: int) -> tuple[bytes, float]:
    file = io.BytesIO()
    image.save(file, kind, quality=quality)
    data = file.getvalue()
    return data, psnr(image, np.asarray(PIL.Image.open(io.BytesIO(data)).convert(image.mode)))
