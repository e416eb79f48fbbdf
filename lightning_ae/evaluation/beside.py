"""A model's numbers beside those of what costs no training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.evaluation import numbers
from lightning_ae.evaluation.numbers import Number
from lightning_ae.evaluation.samples import Samples, components
from lightning_ae.metrics import untrained

BASELINES = {
    "mean": "the mean of the training rows, for every row",
    "pca": "principal components of the training rows",
    "raw": "the inputs as they are",
    "untrained": "the same model before training",
}


@dataclass(frozen=True)
class Beside:
    """A number of the model, of which lower is better, and the same of the baselines that have it.

    Args:
        name: as an evaluation calls it.
        value: the model's.
        others: by the name of the baseline, of `BASELINES`.
        components: how many principal components "pca" takes.
    """

    name: str
    value: float
    others: dict[str, float] = field(default_factory=dict)
    components: int | None = None

    @property
    def best(self) -> str:
        """The name of the best, "" where it is the model."""
        all_of_them = {"": self.value, **self.others}
        return min(all_of_them, key=lambda name: all_of_them[name])


@torch.no_grad()
def beside(model: Autoencoder, samples: Samples, found: Mapping[str, Sequence[Number]], seed: int = 0) -> list[Beside]:
    """The squared error, and the errors of classifiers on codes, beside the baselines that have such a number.

    Principal components are as many as the code has values for the squared error, where inputs have more, and as an
    evaluation takes them for classifiers.

    Args:
        model: a trained one.
        samples: the rows that it was evaluated on.
        found: the numbers of that evaluation.
        seed: of the untrained model's weights.
    """
    of_model = {each.name: each.value for side in ("reconstruction", "classes") for each in found.get(side, ())}
    fresh = untrained(model, seed).eval()
    rows = []
    if "squared_error" in of_model:
        others = {}
        x, given = numbers.moved(next(samples.parts("test", 1)), model)
        units = model.units(model.encode(x, **given)).shape[1]
        if "mask" not in model.given:
            others = _errors(samples, units)
        others["untrained"] = numbers.reconstruction(fresh, samples)[0].value
        rows.append(Beside("squared_error", of_model["squared_error"], others, units if "pca" in others else None))
    names = [name for name in ("probe_error", "knn_error") if name in of_model]
    if names:
        codes = {split: numbers.codes_of(fresh, samples, split) for split in samples.inputs}
        errors = dict(zip(("probe_error", "knn_error"), samples.errors(codes), strict=True))
        count = components(samples.inputs["test"][0].numel(), codes["test"].shape[1])
        for name in names:
            others = {kind: of_model[f"{kind}_{name}"] for kind in ("pca", "raw") if f"{kind}_{name}" in of_model}
            if (value := errors[name]) is not None:
                others["untrained"] = value
            rows.append(Beside(name, of_model[name], others, count if "pca" in others else None))
    return rows


def _errors(samples: Samples, units: int) -> dict[str, float]:
    """The squared error a row of the mean, and of principal components where inputs have more values than codes."""
    train, test = (samples.inputs[split].flatten(1).double() for split in ("train", "test"))
    mean = train.mean(dim=0)
    found = {"mean": _error(test - mean)}
    if units < min(train.shape):
        centred = train - mean
        if centred.shape[1] <= len(centred):
            kept = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -units:]
        else:  # by the rows' products, of which there are fewer
            values, vectors = torch.linalg.eigh(centred @ centred.T)
            kept = centred.T @ vectors[:, -units:] / values[-units:].clamp_min(1e-12).sqrt()
        found["pca"] = _error(test - mean - (test - mean) @ kept @ kept.T)
    return found


def _error(rest: Tensor) -> float:
    return float(rest.square().sum(dim=1).mean())
