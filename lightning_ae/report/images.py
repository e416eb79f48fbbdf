"""Images inside a page: as data that an <img> takes, alone or many in one."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.callbacks.measures import to_unit_interval, visible

QUALITY = 88
"""Of what is stored with losses: pictures in colour. Grey ones are stored as they are."""


@dataclass(frozen=True)
class Sprite:
    """Many images of one size in one, row by row.

    Args:
        uri: its data.
        count: how many there are.
        columns: how many stand in a row.
        width: of one, in pixels.
        height: of one.
    """

    uri: str
    count: int
    columns: int
    width: int
    height: int

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return -(-self.count // self.columns)


def pixels(model: Autoencoder, images: Tensor, side: int) -> np.ndarray:
    """Images in the model's units (B, C, H, W) as bytes (B, H, W, C), of one or three channels, no larger than `side`.

    Of other numbers of channels as many are shown as `visible` says.
    """
    shown = visible(to_unit_interval(model, images.detach().float()))[0].cpu()
    longest = max(shown.shape[2:])
    if longest > side:
        size = [max(1, round(n * side / longest)) for n in shown.shape[2:]]
        shown = F.interpolate(shown, size=size, mode="area")
    return (255 * shown).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def data_uri(image: np.ndarray) -> str:
    """An image (H, W, C) in bytes as a data URI: grey ones and small ones as PNG, others as JPEG."""
    grey = image.shape[2] == 1
    picture = Image.fromarray(image[..., 0] if grey else image)
    buffer = io.BytesIO()
    if grey or image.shape[0] * image.shape[1] <= 64 * 64:
        picture.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        picture.save(buffer, "JPEG", quality=QUALITY)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def sprite(images: np.ndarray, columns: int | None = None) -> Sprite:
    """One image of many (B, H, W, C); by default about square."""
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    whole = np.zeros((rows * columns, height, width, channels), np.uint8)
    whole[:count] = images
    tiled = whole.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return Sprite(data_uri(tiled.reshape(rows * height, columns * width, channels)), count, columns, width, height)
