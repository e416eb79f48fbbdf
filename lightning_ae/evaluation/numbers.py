"""What a trained model is worth, in numbers: each function measures one side of it, on rows of a test split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.batches import rows_of
from lightning_ae.errors import InputError
from lightning_ae.evaluation.samples import BATCH, Samples, components
from lightning_ae.evidence import Evidence
from lightning_ae.metrics import (
    ActiveUnits,
    EffectiveRank,
    RSquared,
    SquaredErrorPerSample,
    cluster_scores,
    disentanglement,
    two_nn_dimension,
)

if TYPE_CHECKING:
    from lightning_ae.data import HFDataModule

SEEDS = (0, 1, 2)
EVIDENCE_BATCH = 250


@dataclass(frozen=True)
class Number:
    """A measured number.

    Args:
        name: what was measured.
        value: in the unit that the name says.
        error: its standard error, where it is an estimate.
        better: which way is better, where one is.
    """

    name: str
    value: float
    error: float | None = None
    better: Literal["lower", "higher"] | None = None


def moved(part: tuple[Tensor, dict[str, Tensor]], model: Autoencoder) -> tuple[Tensor, dict[str, Tensor]]:
    """A batch where the model is."""
    x, given = part
    return x.to(model.device), {role: value.to(model.device) for role, value in given.items()}


@torch.no_grad()
def codes_of(model: Autoencoder, samples: Samples, split: str) -> Tensor:
    """The codes of a split as vectors, (N, feature_dim), float32 on the CPU."""
    parts = (moved(part, model) for part in samples.parts(split, what="encoding"))
    return torch.cat([model.pool(model.encode(x, **given)).float().cpu() for x, given in parts])


@torch.no_grad()
def reconstruction(model: Autoencoder, samples: Samples) -> list[Number]:
    """How near reconstructions of the test rows are: the squared error summed over a sample's dimensions, R squared."""
    error = SquaredErrorPerSample().to(model.device)
    share = RSquared(samples.inputs["test"][0].numel()).to(model.device)
    for part in samples.parts("test", what="reconstructing"):
        x, given = moved(part, model)
        made = model(x, **given)
        error.update(made, x)
        share.update(made, x)
    return [
        Number("squared_error", float(error.compute()), better="lower"),
        Number("r_squared", float(share.compute()), better="higher"),
    ]


@torch.no_grad()
def objective(model: Autoencoder, samples: Samples) -> tuple[str, list[float]] | None:
    """The objective on the test rows for each of three seeds, where chance is a part of it, and its name."""
    if model.drawn_objective is None:
        return None
    values = []
    for seed in SEEDS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            total = 0.0
            for part in samples.parts("test"):
                x, given = moved(part, model)
                total += float(model.loss(model.corrupt(x), x, **given)["loss"]) * len(x)
        values.append(total / len(samples.inputs["test"]))
    return model.drawn_objective, values


@torch.no_grad()
def likelihood(model: Autoencoder, samples: Samples, draws: int | None = 100, seed: int = 0) -> list[Number]:
    """How likely the test rows are to the model, in nats a row, and what their codes cost.

    The score, -log p(x) or a bound on it; of a model that draws codes log p(x) itself by importance sampling, unless
    draws is None; and where the divergence is a sum over the code's values how many of them carry more than .01 nats.
    """
    scores, found, divergences = [], [], []
    drawn = "sample" in model.latents
    first = 0
    for part in samples.parts("test", EVIDENCE_BATCH if drawn else BATCH, "scoring"):
        x, given = moved(part, model)
        scores.append(model.score_batch(x, x, False, draws=1, seed=seed, first=first, **given).score.double().cpu())
        if drawn:
            if draws is not None:
                found.append(model.evidence_batch(x, x, draws, seed=seed, first=first, **given))
            each = model.kl_by_unit(x, **given)
            divergences += [] if each is None else [each.double().sum(dim=0).cpu()]
        first += len(x)
    score = torch.cat(scores)
    bounds = model.rate(x[:1], **rows_of(given, slice(1))) is not None  # else it is no bound, and compares with none
    error = float(score.std()) / len(score) ** 0.5
    numbers = [Number("score", float(score.mean()), error, "lower" if bounds else None)]
    if found:
        evidence = Evidence.joined(found)
        numbers.append(Number("log_evidence", evidence.mean, evidence.mean_error, "higher"))
        if evidence.bits_per_dimension is not None:
            numbers.append(Number("bits_per_dimension", evidence.bits_per_dimension, better="lower"))
    if divergences:
        kl = torch.stack(divergences).sum(dim=0) / len(score)
        numbers += [Number("kl", float(kl.sum())), Number("informed_units", float((kl > 0.01).sum()))]
    return numbers


@torch.no_grad()
def code(model: Autoencoder, samples: Samples) -> list[Number]:
    """What the codes of the test rows are like: how many values they have, how many of these vary (Burda et al. 2016),
    in how many directions (Roy & Vetterli 2007), and of which dimension what they lie on is (Facco et al. 2017)."""
    size = model.units(model.zeros(1)).shape[1]
    active, rank, found = ActiveUnits(size).to(model.device), EffectiveRank(size).to(model.device), []
    for part in samples.parts("test"):
        x, given = moved(part, model)
        found.append(model.units(model.encode(x, **given)))
        active.update(found[-1])
        rank.update(found[-1])
    numbers = [Number("units", float(size)), Number("active_units", float(active.compute()))]
    numbers.append(Number("effective_rank", float(rank.compute())))
    if len(apart := torch.cat(found).double().unique(dim=0)) > 2:
        numbers.append(Number("intrinsic_dimension", two_nn_dimension(apart)))
    return numbers


def factors(model: Autoencoder, data: HFDataModule, seed: int = 0) -> list[Number]:
    """How well the codes of the test rows tell the factors apart that these were made of, where they are known.

    Raises:
        InputError: where none are, and as `disentanglement`.
    """
    if not data.factor_names:
        raise InputError("the data have no known factors")
    found = disentanglement(model, data, seed=seed)
    return [
        Number(name, value, better=None if "shuffled" in name or name == "total_correlation" else "higher")
        for name, value in found.items()
    ]


def classes(samples: Samples, codes: dict[str, Tensor]) -> list[Number]:
    """How well classes are told apart in codes.

    Raises:
        InputError: where the rows have no classes, or one only.
    """
    if samples.labels is None:
        raise InputError("the data have no label that names classes")
    for split, labels in samples.labels.items():
        if len(labels[labels >= 0].unique()) < 2:
            raise InputError(f"the rows of the {split} split have one class, or none")
    known = samples.labels["test"] >= 0
    clusters = cluster_scores(codes["test"][known], samples.labels["test"][known])
    return [
        *classifiers(samples, codes),
        *(Number(f"cluster_{name}", value, better="higher") for name, value in clusters.items()),
    ]


def classifiers(samples: Samples, codes: dict[str, Tensor]) -> list[Number]:
    """The errors of a linear probe and of 5 nearest neighbours on codes, on raw inputs and on principal components."""
    pca = components(samples.inputs["test"][0].numel(), codes["test"].shape[1])
    found = []
    for prefix, errors in {
        "": samples.errors(codes), "raw_": samples.baseline(0), "pca_": samples.baseline(pca)
    }.items():  # fmt: skip
        for name, value in zip(("probe_error", "knn_error"), errors, strict=True):
            if value is not None:
                found.append(Number(f"{prefix}{name}", value, better="lower"))
    return found
