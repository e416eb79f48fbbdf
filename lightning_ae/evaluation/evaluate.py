"""All that can be said of a trained model by one data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.callbacks.measures import to_unit_interval, visible
from lightning_ae.callbacks.projections import plane_of
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
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 2:
        raise InputError(f"draws must be a whole number from 2 on, got {draws!r}")
    looked = look(model, data, name, rows=rows, draws=draws, seed=seed)
    with asked(model):
        seen = _seen(model, data, looked, name or type(model).__name__)
    return looked.evaluation, seen


@dataclass(frozen=True)
class Look:
    """An evaluation, and what it was made from.

    Args:
        evaluation: the numbers.
        samples: the rows that were looked at; those held out are called "test", whatever split they are of.
        codes: of each split as vectors, (N, feature_dim), on the CPU.
        made: samples of the model, (N, *input_shape), where they were measured.
    """

    evaluation: Evaluation
    samples: Samples
    codes: dict[str, Tensor]
    made: Tensor | None


def look(
    model: Autoencoder,
    data: HFDataModule,
    name: str = "",
    *,
    rows: int = 10_000,
    draws: int | None = 100,
    seed: int = 0,
    held_out: str = "test",
) -> Look:
    """`evaluate`, with what its numbers were made from.

    Args:
        model: a trained one, which the data feed.
        data: its data module, or one over other data of the same kind.
        name: what the model is called; by default its class.
        rows: how many rows of each split are looked at, at most; they are drawn by seed.
        draws: how many importance samples of each code the evidence takes; with None what takes longer is left out,
            and why is said: the evidence, the factors, and how good samples are.
        seed: of all draws.
        held_out: the split that is compared with "train".

    Raises:
        InputError: as `evaluate`.
    """
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise InputError(f"rows must be a whole number from 1 on, got {rows!r}")
    if lacking := [split for split in ("train", held_out) if not data.has(split)]:
        raise InputError(
            f"the data have no {' and no '.join(lacking)} split, and an evaluation compares both",
            "make one: HFDataModule(..., test_fraction=0.2)",
        )
    samples = Samples.read(model, data, ("train", held_out), rows, seed).held_out_as_test(held_out)
    found: dict[str, Sequence[Number]] = {}
    left_out: dict[str, str] = {}

    def measure(side: str, numbers_of: Callable[[], list[Number]]) -> None:
        try:
            if measured := numbers_of():
                found[side] = measured
        except InputError as reason:
            left_out[side] = reason.message
        except NotImplementedError:
            left_out[side] = f"{type(model).__name__} does not implement it"

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
        made: list[Tensor] = []

        def generate() -> list[Number]:
            made.append(generated(model, samples))
            return generation(model, samples, made[0])

        if draws is None:
            left_out |= dict.fromkeys(("factors", "samples"), "it takes longer")
        else:
            measure("factors", lambda: numbers.factors(model, data, seed))
            measure("samples", generate)
    settings: dict[str, Any] = {"seed": seed}
    if draws is not None and "sample" in model.latents:
        settings["draws"] = draws
    evaluation = Evaluation(
        name or type(model).__name__,
        str(data.path) if isinstance(data.path, str) else type(data.path).__name__,
        {held_out if split == "test" else split: len(x) for split, x in samples.inputs.items()},
        settings,
        found,
        left_out,
    )
    return Look(evaluation, samples, codes, made[0] if made else None)


def _seen(model: Autoencoder, data: HFDataModule, looked: Look, name: str) -> Seen:
    """What the picture shows."""
    samples, codes = looked.samples, looked.codes["test"]
    part = slice(POINTS)
    x = samples.inputs["test"][part].to(model.device)
    given = {role: value[part].to(model.device) for role, value in samples.given["test"].items()}
    pairs = None
    if len(model.input_shape) == 3:
        few = {role: value[:DRAWN] for role, value in given.items()}
        pairs = (_shown(model, x[:DRAWN]), _shown(model, model(x[:DRAWN], **few)))
    beside = None
    if looked.made is not None and len(model.input_shape) == 3:
        drawn, training = looked.made[:DRAWN], samples.inputs["train"]
        beside = (_shown(model, drawn), _shown(model, training[nearest_training(drawn, training).indices]))
    return Seen(
        name,
        pairs,
        beside,
        plane=plane_of(codes[part]) if codes.shape[1] > 1 else None,
        labels=None if samples.labels is None else samples.labels["test"][part],
        classes=data.class_names,
        units=carried(model, x, given),
    )


def carried(model: Autoencoder, x: Tensor, given: dict[str, Tensor]) -> tuple[Tensor, str]:
    """What each value of a code carries on the mean over inputs (B, *input_shape), (values,), and in words what that
    is: its divergence from the prior, or its variance."""
    each, what = model.kl_by_unit(x, **given), "KL from the prior, nats"
    if each is None:
        units = model.units(model.encode(x, **given)).double()
        each, what = (units - units.mean(dim=0)).square(), "variance"
    return each.double().mean(dim=0).cpu(), what


def _shown(model: Autoencoder, images: Tensor) -> Tensor:
    return visible(to_unit_interval(model, images.float()))[0].cpu()
