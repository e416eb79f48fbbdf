"""From data in natural units to codes, and from codes to natural units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_ae.autoencoder import Autoencoder, Code
from lightning_ae.batches import rows_of
from lightning_ae.errors import InputError

BATCH = 1024
"""How many samples are encoded or decoded at a time."""


def encoded(model: Autoencoder, data: Any, given: Mapping[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """The codes of data, as of `model.features`, without randomness; and what the decoder takes of them besides."""
    x, _, roles = model.read_natural(data, given)
    parts = [slice(start, start + BATCH) for start in range(0, len(x), BATCH)]
    codes = [model.encode(x[part], **rows_of(roles, part)) for part in parts]
    roles.pop("mask", None)  # the encoder's alone
    if isinstance(codes[0], tuple):
        return tuple(torch.cat(level) for level in zip(*codes, strict=True)), roles
    return torch.cat(codes), roles


def decoded(model: Autoencoder, code: Any, roles: Mapping[str, Tensor]) -> Tensor:
    """What codes decode to, (B, *shape), in natural units."""
    count = len(code[0] if isinstance(code, tuple) else code)
    parts = [slice(start, start + BATCH) for start in range(0, count, BATCH)]
    found = [model.decode(of(code, part), **rows_of(roles, part)) for part in parts]
    return natural(model, torch.cat(found))


def natural(model: Autoencoder, x: Tensor) -> Tensor:
    """The model's units as natural ones: of images values in [0, 1], of others those of the data."""
    return x if model.preprocess is None else model.preprocess.inverse(x)


def of(code: Code, rows: Any) -> Any:
    """These rows of codes, a slice or numbers."""
    return tuple(part[rows] for part in code) if isinstance(code, tuple) else code[rows]


def vectors(model: Autoencoder, code: Code) -> Tensor:
    """Codes as vectors that can be added, (B, units): in a ball those at its origin, on a sphere those around it.

    Raises:
        InputError: of codes that cannot.
    """
    if model.geometry == "discrete":
        raise InputError(
            f"codes of {type(model).__name__} are classes or indices, or have some beside numbers: they do not add up",
            "take a model whose codes are numbers, such as Autoencoder or VAE",
        )
    return model.units(code) if model.geometry == "flat" else model.coordinates(code)


def codes_of(model: Autoencoder, values: Tensor) -> Any:
    """The codes that such vectors are, or on a sphere those nearest to them, in the weights' type."""
    flat = model.geometry == "flat"
    code = model.from_units(values) if flat else model.from_coordinates(values)
    return tuple(part.to(model.dtype) for part in code) if isinstance(code, tuple) else code.to(model.dtype)
