"""How good a model's samples are, beside held-out rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.callbacks.measures import to_unit_interval
from lightning_ae.errors import InputError
from lightning_ae.evaluation.numbers import Number
from lightning_ae.evaluation.samples import BATCH, Samples
from lightning_ae.metrics import DataCopying, DensityCoverage, FrechetDistance, PrecisionRecall, load_lenet
from lightning_ae.metrics.samples import features_of

SAMPLED = ("label", "condition")
"""What `sample` may be given, of the roles that a model takes."""
MOST_VALUES = 1024
"""Rows of more values, which are no images, are too far apart for neighbours to say anything."""


@torch.no_grad()
def generated(model: Autoencoder, samples: Samples) -> Tensor:
    """As many samples as there are test rows, (N, *input_shape) in the model's units, on the CPU.

    A model that takes labels or conditions gets those of the test rows, so that both are of the same mixture.

    Raises:
        InputError: where the model has no distribution to sample from.
    """
    if not model.generates:
        raise InputError(f"{type(model).__name__} has no distribution over codes to sample from")
    given = {role: value for role, value in samples.given["test"].items() if role in SAMPLED}
    count, found = len(samples.inputs["test"]), []
    for first in tqdm(range(0, count, BATCH), "sampling", delay=2, leave=False):
        part = slice(first, min(first + BATCH, count))
        options: dict[str, Any] = {role: value[part].to(model.device) for role, value in given.items()}
        found.append(model.sample(part.stop - part.start, **options).float().cpu())
    return torch.cat(found)


@torch.no_grad()
def generation(model: Autoencoder, samples: Samples, made: Tensor) -> list[Number]:
    """Samples beside training rows, and beside each number that of the test rows, "_held_out", which a perfect model
    would have.

    Of images the Frechet LeNet distance, and the others on the LeNet's features; of other rows on their values.

    Args:
        model: whose samples they are.
        samples: the rows; "train" are the real ones, "test" those held out.
        made: samples (N, *input_shape), in the model's units.

    Raises:
        InputError: of rows that are no images, and have very many values.
    """
    sets = {"real": samples.inputs["train"], "generated": made, "held_out": samples.inputs["test"]}
    of_images = made.ndim == 4 and made.shape[1] in (1, 3)
    if not of_images and made[0].numel() > MOST_VALUES:
        raise InputError(
            f"rows of shape {tuple(made.shape[1:])} are no images in grey or colour, and {made[0].numel()} values are "
            "too many for neighbours to say anything"
        )
    lenet = load_lenet()

    def features_in(x: Tensor) -> Tensor:
        if not of_images:
            return x.flatten(1).double()
        return torch.cat([features_of(lenet, to_unit_interval(model, part.float())) for part in x.split(BATCH)])

    features = {kind: features_in(x) for kind, x in sets.items()}
    size = features["real"].shape[1]
    found: dict[str, float] = {}
    for metric in [
        *([FrechetDistance(size)] if of_images else []), PrecisionRecall(size), DensityCoverage(size), DataCopying(size)
    ]:  # fmt: skip
        for kind, rows in features.items():
            metric.update(rows, kind)
        found |= {name: float(value) for name, value in metric.compute().items()}
    better = {"distance": "lower", "precision": "higher", "recall": "higher", "density": "higher", "coverage": "higher"}
    names = {"distance": "frechet_lenet", "floor": "frechet_lenet_held_out"}
    return [Number(names.get(name, name), value, better=better.get(name)) for name, value in found.items()]  # type: ignore[arg-type]
