"""The same codes as each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.errors import InputError
from lightning_ae.scores import asked
from lightning_ae.uses.units import natural


def class_samples(
    model: Autoencoder, n: int = 8, classes: Sequence[int] | None = None, seed: int = 0, **given: Any
) -> Tensor:
    """Samples of a model that is given labels: each of n codes as each class, so that a row has one code.

    What the code says shows along a row, what the class says down a column.

    Args:
        model: a trained one, which generates and takes a label.
        n: how many codes.
        classes: which labels; by default all that the model knows.
        seed: of the codes.
        given: what else `model.sample` takes.

    Returns:
        (n, classes, *shape), in natural units: of images floats in [0, 1].

    Raises:
        InputError: of a model without labels, or that knows none and is given none.
    """
    name = type(model).__name__
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise InputError(f"n must be a positive integer, got {n!r}")
    if "label" not in model.given:
        raise InputError(f"{name} is given no label", "take ConditionalVAE, say; model.sample(n) draws without")
    chosen = model.classes if classes is None else tuple(classes)
    if not chosen:
        raise InputError(f"{name} does not say which labels there are", "give classes")
    devices = [model.device] if model.device.type == "cuda" else []
    found = []
    with asked(model), torch.random.fork_rng(devices):
        for label in chosen:
            torch.manual_seed(seed)  # the same codes for each
            found.append(model.sample(n, label=torch.full((n,), label, device=model.device), **given))
    return natural(model, torch.stack(found, dim=1).flatten(0, 1)).unflatten(0, (n, len(chosen)))
