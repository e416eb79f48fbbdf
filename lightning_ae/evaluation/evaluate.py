"""All that can be said of a trained model by one data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.callbacks.measures import to_unit_interval, visible
from lightning_ae.callbacks.pictures import plane_of
from lightning_ae.errors import InputError
from lightning_ae.evaluation import numbers
from lightning_ae.evaluation.generation import generated, generation
from lightning_ae.evaluation.numbers import Number
from lightning_ae.evaluation.picture import Seen
from lightning_ae.evaluation.report import Evaluation
from lightning_ae.evaluation.samples import Samples
from lightning_ae.metrics import nearest_training
from lightning_ae.scores import asked

if TYPE_CHECKING:
    from lightning_ae.data import HFDataModule

DRAWN = 30
"""How many images of each kind are drawn."""
POINTS = 2000
"""How many codes are drawn at most."""


def evaluate(
    model: Autoencoder, data: HFDataModule, name: str = "", *, rows: int = 10_000, draws: int = 100, seed: int = 0
) -> tuple[Evaluation, Seen]:
    """Every number that applies to a model and its data, and what a picture shows of it.

    Sides of a model that it does not have, or of which the data say nothing, are left out, with the reason.

    Args:
        model: a trained one, which the data feed.
        data: its data module, or one over other data of the same kind; with a training and a test split.
        name: what the model is called; by default its class.
        rows: how many rows of each split are looked at, at most; they are drawn by seed.
        draws: how many importance samples of each code the evidence takes.
        seed: of all draws.

    Raises:
        InputError: for numbers that cannot be; where the data lack a split, or cannot be read; where codes
            are not finite.
    """
    for argument, value, least in (("rows", rows, 1), ("draws", draws, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{argument} must be a whole number from {least} on, got {value!r}")
    if lacking := [split for split in ("train", "test") if not data.has(split)]:
        raise InputError(
            f"the data have no {' and no '.join(lacking)} split, and an evaluation compares both",
            "make one: HFDataModule(..., test_fraction=0.2)",
        )
    samples = Samples.read(model, data, ("train", "test"), rows, seed)
    found: dict[str, Sequence[Number]] = {}
    left_out: dict[str, str] = {}

    def measure(side: str, numbers_of: Callable[[], list[Number]]) -> None:
        try:
            if measured := numbers_of():
                found[side] = measured
        except InputError as reason:
            left_out[side] = reason.message

    with asked(model), torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        codes = {split: numbers.codes_of(model, samples, split) for split in samples.inputs}
        for split, each in codes.items():
            if not (finite := each.isfinite().all(dim=1)).all():
                raise InputError(
                    f"{int((~finite).sum())} of the {len(each)} codes of the {split} split are NaN or infinite, the "
                    f"first of row {int((~finite).int().argmax())} of those looked at",
                    "the model's weights, or the data's values, are not what they should be",
                )
        measure("reconstruction", lambda: numbers.reconstruction(model, samples))
        measure("likelihood", lambda: numbers.likelihood(model, samples, draws, seed))
        measure("code", lambda: numbers.code(model, samples))
        measure("classes", lambda: numbers.classes(samples, codes))
        measure("factors", lambda: numbers.factors(model, data, seed))
        made: list[Tensor] = []

        def generate() -> list[Number]:
            made.append(generated(model, samples))
            return generation(model, samples, made[0])

        measure("samples", generate)
        seen = _seen(model, data, samples, codes["test"], made, name or type(model).__name__)
    settings = {"seed": seed} | ({"draws": draws} if "sample" in model.latents else {})
    evaluation = Evaluation(
        name or type(model).__name__,
        str(data.path) if isinstance(data.path, str) else type(data.path).__name__,
        {split: len(x) for split, x in samples.inputs.items()},
        settings,
        found,
        left_out,
    )
    return evaluation, seen


def _seen(
    model: Autoencoder, data: HFDataModule, samples: Samples, codes: Tensor, made: list[Tensor], name: str
) -> Seen:
    """What the picture shows."""
    part = slice(POINTS)
    x = samples.inputs["test"][part].to(model.device)
    given = {role: value[part].to(model.device) for role, value in samples.given["test"].items()}
    carried, what = model.kl_by_unit(x, **given), "KL from the prior, nats"
    if carried is None:
        units = model.units(model.encode(x, **given)).double()
        carried, what = (units - units.mean(dim=0)).square(), "variance"
    pairs = None
    if len(model.input_shape) == 3:
        few = {role: value[:DRAWN] for role, value in given.items()}
        pairs = (_shown(model, x[:DRAWN]), _shown(model, model(x[:DRAWN], **few)))
    beside = None
    if made and len(model.input_shape) == 3:
        drawn, training = made[0][:DRAWN], samples.inputs["train"]
        beside = (_shown(model, drawn), _shown(model, training[nearest_training(drawn, training).indices]))
    return Seen(
        name,
        pairs,
        beside,
        plane=plane_of(codes[part]) if codes.shape[1] > 1 else None,
        labels=None if samples.labels is None else samples.labels["test"][part],
        classes=data.class_names,
        units=(carried.double().mean(dim=0).cpu(), what),
    )


def _shown(model: Autoencoder, images: Tensor) -> Tensor:
    return visible(to_unit_interval(model, images.float()))[0].cpu()
