"""What tests ask a model, whatever it takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch

from lightning_ae import InputError, get_model, list_models


def variants(names: Iterable[str] | None = None, of: Callable[[str], str] = str) -> list[Any]:
    """The registry's names, for tests that take a second of each: slow where a class only settles another's parts.

    Args:
        names: others, such as those of recipes.
        of: the variant that each is of.
    """
    found = []
    for name in list_models() if names is None else names:
        own = {
            key for key, value in vars(get_model(of(name))).items() if callable(value) or isinstance(value, property)
        }
        found.append(pytest.param(name, marks=[] if own - {"__init__"} else pytest.mark.slow))
    return found


def given_of(model: Any, n: int) -> dict[str, torch.Tensor]:
    """What a model takes besides `n` inputs, by role and in its order: any labels that it knows, any mask."""
    generator = torch.Generator().manual_seed(2)
    classes = torch.tensor(getattr(model, "classes", ()) or range(10))
    makes = {
        "label": lambda: classes.repeat(n)[:n],
        "mask": lambda: torch.rand(n, *model.input_shape, generator=generator) < 0.8,
    }
    return {role: makes[role]() if role in makes else model.stand_ins(n)[role] for role in model.given}


def shape_of(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape, or that of small images where a variant's default serves images alone."""
    try:
        get_model(name)(shape, 4)
    except InputError as error:
        assert "cannot serve" in str(error)  # noqa: PT017  whatever else it refuses is a fault
        return (1, 4, 6)
    return shape


def told(model: Any, samples: int = 100) -> Any:
    """The model, which knows how many training samples there are, as a trainer would tell it."""
    if model.needs_data_size:
        model.data_size.fill_(samples)
    return model


def batch_of(model: Any, x: torch.Tensor) -> Any:
    """Inputs as the batch that the model takes: alone, or a tuple with what it is given besides."""
    return (x, *given_of(model, len(x)).values()) if model.given else x
