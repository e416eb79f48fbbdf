"""Images larger than memory: codes made and decoded a tile at a time, by models of images of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.errors import InputError
from lightning_ae.shapes import check_multiple, is_any

TILE, MARGIN = 512, 64
"""In pixels, rounded to multiples of the model's."""


@torch.no_grad()
def encode_in_tiles(model: Autoencoder, x: Tensor, tile: int | None = None, margin: int | None = None) -> Tensor:
    """`model.encode` of images a tile at a time, joined on the images' device.

    Each tile is encoded with so much of the image around it, and its own part of the code is kept. So the code is that
    of the whole image, to rounding, where the margin is at least how far a value of the code sees, and nothing in the
    network looks at all of the image. Normalisations over groups of channels and attention do: then it is near. Of the
    zoo's autoencoder of photographs, four Kodak images in tiles of 256 and 384 pixels came out with a PSNR of at most
    0.53 dB less; decoded pixels differed by 0.01 to 0.036 on average, and by up to 0.4 where an image is flat.

    Args:
        model: of images of any size, whose codes are maps; in evaluation mode.
        x: (B, channels, height, width) as the model takes them, on any device.
        tile: height and width of a tile in pixels; by default 512, rounded to the model's multiple.
        margin: how much around it; by default 64, rounded likewise.

    Returns:
        (B, *code_shape), as `encode` gives it.

    Raises:
        InputError: for a model of one size, or a tile or margin that is no multiple of the model's.
    """
    m = _multiple(model)
    check_multiple(x.shape[2:], m)
    tile, margin = _sizes(m, tile, margin)
    return _joined(model, lambda part: model.encode(part), x, tile, margin, "encoding tiles")


@torch.no_grad()
def decode_in_tiles(model: Autoencoder, z: Tensor, tile: int | None = None, margin: int | None = None) -> Tensor:
    """`model.decode` of codes a tile at a time, joined on the codes' device; see `encode_in_tiles`.

    Args:
        model: of images of any size.
        z: (B, *code_shape).
        tile: height and width of a tile in pixels of the image.
        margin: how much around it, in pixels.

    Raises:
        InputError: as `encode_in_tiles`.
    """
    m = _multiple(model)
    tile, margin = _sizes(m, tile, margin)
    _, h, w = model.code_shape_of((model.input_shape[0], m * 2, m * 2))
    if h != w or h % 2:
        raise InputError(f"codes of {type(model).__name__} do not go with an image's size in every part")
    each = m * 2 // h  # pixels for each position of a code
    return _joined(model, lambda part: model.decode(part), z, tile // each, margin // each, "decoding tiles")


def _multiple(model: Autoencoder) -> int:
    if not is_any(model.input_shape) or model.given:
        takes = "more than its input" if model.given else f"images of {model.input_shape}"
        raise InputError(
            f"{type(model).__name__} takes {takes}, where tiles are images of any size and nothing else",
            "train a model with input_shape=(3, None, None), or take the zoo's ae_tiny.taef2_v1",
        )
    if model.training:
        raise InputError(f"{type(model).__name__} is in training mode", "call model.eval() first")
    assert model.multiple is not None
    return model.multiple


def _sizes(multiple: int, tile: int | None, margin: int | None) -> tuple[int, int]:
    tile = max(multiple, TILE // multiple * multiple) if tile is None else tile
    margin = -(-MARGIN // multiple) * multiple if margin is None else margin
    for name, value, least in (("tile", tile, multiple), ("margin", margin, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least or value % multiple:
            raise InputError(
                f"{name} must be a multiple of {multiple} pixels, as the model's images are, from {least} on; "
                f"got {value!r}"
            )
    return tile, margin


def _joined(
    model: Autoencoder, run: Callable[[Tensor], Tensor], x: Tensor, tile: int, margin: int, what: str
) -> Tensor:
    made: Tensor | None = None
    height, width = x.shape[2:]
    places = [(rows, columns) for rows in _spans(height, tile, margin) for columns in _spans(width, tile, margin)]
    for (top, bottom, above, below), (left, right, before, after) in tqdm(places, what, delay=2, leave=False):
        part = run(x[:, :, above:below, before:after].to(model.device))
        num, den = part.shape[2], below - above  # how its size goes with what it was made of
        if made is None:
            made = part.new_empty(*part.shape[:2], height * num // den, width * num // den, device=x.device)
        top, bottom, above, left, right, before = (n * num // den for n in (top, bottom, above, left, right, before))
        made[:, :, top:bottom, left:right] = part[:, :, top - above : bottom - above, left - before : right - before]
    assert made is not None
    return made


def _spans(size: int, tile: int, margin: int) -> Iterator[tuple[int, int, int, int]]:
    """Of each tile along a side its start and end, and those with its margin, which ends at the image's border."""
    for start in range(0, size, tile):
        end = min(start + tile, size)
        yield start, end, max(0, start - margin), min(size, end + margin)
