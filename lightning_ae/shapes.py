"""Shapes of samples, of which height and width may be any: None, in multiples that an architecture states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_ae.errors import InputError


def is_any(shape: Sequence[Any]) -> bool:
    """Whether sizes of a sample's shape may be any."""
    return None in shape


def fits(shape: Sequence[int], wanted: Sequence[Any], multiple: int | None = None) -> bool:
    """Whether a sample of `shape` is what a model of the input_shape `wanted` takes."""
    if len(shape) != len(wanted):
        return False
    m = multiple or 1
    return all(n % m == 0 < n if own is None else n == own for n, own in zip(shape, wanted, strict=True))


def least(wanted: Sequence[Any], multiple: int | None = None) -> tuple[int, ...]:
    """The smallest shape that fits with a code of more than one position, which some normalisations need."""
    return tuple(2 * (multiple or 1) if own is None else own for own in wanted)


def words(shape: Sequence[Any], multiple: int | None = None) -> str:
    """A shape in words: 3 x any x any, in multiples of 8."""
    text = " x ".join("any" if n is None else str(n) for n in shape)
    return f"{text}, in multiples of {multiple}" if is_any(shape) and multiple not in (None, 1) else text


def check_multiple(size: Sequence[int], multiple: int) -> None:
    """Refuses a height and width, or a length, that a network's stages do not divide: it would give another size back.

    Raises:
        InputError: naming the sizes, and the nearest ones.
    """
    if all(n % multiple == 0 < n for n in size):
        return
    larger = " x ".join(str(max(1, -(-n // multiple)) * multiple) for n in size)
    smaller = " x ".join(str(n // multiple * multiple) for n in size)
    cut = f"crop to {smaller}, or " if all(n >= multiple for n in size) else ""
    raise InputError(
        f"images of {' x '.join(map(str, size))} pixels, where the model takes any height and width in multiples of "
        f"{multiple}",
        f"{cut}pad to {larger}",
    )


def one_size(model: Any, who: str) -> tuple[int, ...]:
    """The shape of a model's samples, for what cannot work without.

    Raises:
        InputError: where sizes may be any, naming who asks.
    """
    shape: tuple[int, ...] = model.input_shape
    if is_any(shape):
        raise InputError(
            f"{who} needs inputs of one size, and this {type(model).__name__} takes {words(shape, model.multiple)}",
            f"construct it with input_shape=({shape[0]}, 64, 64), say: its weights are the same",
        )
    return shape
