"""Sprites whose factors are known, drawn when they are asked for: the data set "sprites"."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_ae.data.memory import rows_of
from lightning_ae.errors import InputError

if TYPE_CHECKING:
    from datasets import DatasetDict

SHAPES = ("square", "ellipse", "heart")
VALUES = {"shape": len(SHAPES), "scale": 6, "orientation": 40, "x": 32, "y": 32}
"""The factors, and how many values each has: 737 280 combinations."""
ALL = int(np.prod(list(VALUES.values())))
DEFAULT_SIZE = 32  # pixels
RADIUS = 0.25  # of the circle around a sprite of scale 1, in widths of the image
FINE = 4  # points in a row or a column of a pixel that are looked at
HEART = 1.4246  # the farthest point of (x^2 + y^2 - 1)^3 = x^2 y^3
AT_ONCE = 2048


def draw_sprites(train: int = 16_000, test: int = 4_000, size: int = DEFAULT_SIZE, seed: int = 0) -> DatasetDict:
    """White sprites on black in the design of dSprites (Matthey et al. 2017), anti-aliased: `HFDataModule("sprites")`.

    A square, an ellipse (twice as long as wide) or a heart, inside a circle whose radius is a quarter of the image's
    width times the scale: 6 of them, from 0.5 to 1. It is turned counter-clockwise by one of 40 angles, 9 degrees
    apart, and its centre lies in one of 32 columns x and 32 rows y, counted from the left and from the top, so that all
    of every sprite is in the image. As in dSprites, angles of a square and of an ellipse repeat, by their symmetry.

    Columns are "image" (grey), "shape" (classes), "scale", "orientation", "x" and "y" (numbers of their values). Which
    of the 737 280 combinations there are is drawn by seed, none twice, in either split. 20 000 of 32 x 32 pixels take a
    second or two.

    Args:
        train: how many are drawn to train.
        test: how many others.
        size: of the images, in pixels.
        seed: of what is drawn.

    Returns:
        The splits "train" and "test", to be given to `HFDataModule` as its path.

    Raises:
        InputError: when there are not as many, none are asked for, or the size is below 8.

    Example:
        >>> from lightning_ae import HFDataModule
        >>> from lightning_ae.data import draw_sprites
        >>> data = HFDataModule(draw_sprites(train=100, test=20, size=64))
        >>> data.input_shape, data.factor_names
        ((1, 64, 64), ['shape', 'scale', 'orientation', 'x', 'y'])
    """
    import pandas as pd  # type: ignore[import-untyped]
    from datasets import DatasetDict

    for name, count in {"train": train, "test": test}.items():
        if count < 1:
            raise InputError(f"{name} must be positive, got {count}")
    if train + test > ALL:
        raise InputError(f"train {train} and test {test} are more sprites than there are, {ALL}")
    # RandomState's draws stay what they are in every version of numpy, those of its successor do not
    chosen = np.random.RandomState(seed).permutation(ALL)[: train + test]
    factors = np.stack(np.unravel_index(chosen, tuple(VALUES.values())), axis=1)
    splits = {}
    for split, numbers in {"train": factors[:train], "test": factors[train:]}.items():
        columns: dict[str, Any] = {"image": draw(numbers, size)[:, None]}
        columns |= zip(VALUES, numbers.T.copy(), strict=True)
        columns["shape"] = pd.Categorical.from_codes(numbers[:, 0], list(SHAPES))  # which is read as classes
        splits[split] = rows_of(columns, "sprites")
    return DatasetDict(splits)


def draw(factors: np.ndarray, size: int) -> np.ndarray:
    """The images of factors.

    A pixel is as bright as the share of it that the sprite covers, judged at 16 points.

    Args:
        factors: numbers of the values of shape, scale, orientation, x and y, (N, 5).
        size: of the images, in pixels.

    Returns:
        uint8, (N, size, size).

    Raises:
        InputError: when the size is below 8, of which a sprite would be a dot.
    """
    if size < 8:
        raise InputError(f"size of sprites must be 8 or more, got {size}")
    images = np.zeros((len(factors), size, size), np.uint8)
    for number, inside in enumerate((_square, _ellipse, _heart)):
        rows = np.flatnonzero(factors[:, 0] == number)
        for first in range(0, len(rows), AT_ONCE):
            part = rows[first : first + AT_ONCE]
            corner, covered = _covered(factors[part, 1:], size, inside)
            down, right = (corner[:, axis, None] + np.arange(covered.shape[1]) for axis in (0, 1))
            images[part[:, None, None], down[:, :, None], right[:, None, :]] = covered
    return images


def centres(numbers: np.ndarray) -> np.ndarray:
    """Where the centre of a sprite lies whose x, or y, is the number of a value, in widths of the image."""
    found: np.ndarray = RADIUS + (1 - 2 * RADIUS) * numbers / (VALUES["x"] - 1)
    return found


def _covered(
    factors: np.ndarray, size: int, inside: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Windows around sprites of one shape: their upper left pixels (N, 2), down and right, and uint8 (N, w, w)."""
    scale, angle = 0.5 + factors[:, 0] / 10, 2 * np.pi * factors[:, 1] / VALUES["orientation"]
    centre = centres(factors[:, [3, 2]]) * size  # down, right
    width = min(size, int(np.ceil(2 * RADIUS * size)) + 1)
    corner = np.minimum(np.floor(centre - RADIUS * size).astype(int), size - width)
    # from the sprite's centre to the pixels' upper left corners, in its radius: down and right, each (N, w)
    radius = RADIUS * size * scale[:, None]
    down, right = ((corner[:, axis, None] + np.arange(width) - centre[:, axis, None]) / radius for axis in (0, 1))
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    count = np.zeros((len(factors), width, width), np.uint8)
    for point in range(FINE * FINE):
        up = -(down + (point // FINE + 0.5) / FINE / radius)
        along = right + (point % FINE + 0.5) / FINE / radius
        # turned back: what a sprite that is not turned has there
        own_x = (cos * along).astype(np.float32)[:, None, :] + (sin * up).astype(np.float32)[:, :, None]
        own_y = (-sin * along).astype(np.float32)[:, None, :] + (cos * up).astype(np.float32)[:, :, None]
        count += inside(own_x, own_y)
    return corner, np.rint(count * np.float32(255 / FINE**2)).astype(np.uint8)


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.maximum(np.abs(x), np.abs(y)) <= np.sqrt(0.5)
    return found


def _ellipse(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    found: np.ndarray = x * x + 4 * y * y <= 1
    return found


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x * np.float32(HEART), y * np.float32(HEART)
    beyond = x * x + y * y - 1
    found: np.ndarray = beyond * beyond * beyond <= x * x * y * y * y
    return found
