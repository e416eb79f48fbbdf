"""Every number that an entry states, measured again."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.batches import rows_of
from lightning_ae.data import HFDataModule
from lightning_ae.errors import InputError
from lightning_ae.metrics import RSquared, SquaredErrorPerSample, knn_error, linear_probe_error
from lightning_ae.zoo import index
from lightning_ae.zoo.artefact import load_with_config
from lightning_ae.zoo.checks import Check
from lightning_ae.zoo.schema import Data, Entry, Metric

PROBED = 10_000  # training samples that classifiers learn from
SEEDS = (0, 1, 2)
BATCH = 1000
Errors = tuple[float | None, float | None]


class Samples:
    """A data set as a model takes it.

    Args:
        inputs: (N, *input_shape) for "train" and "test".
        labels: classes (N,) for both, -1 where a row has none; or nothing.
        given: what else the model takes, by role, for both.
    """

    def __init__(
        self,
        inputs: dict[str, Tensor],
        labels: dict[str, Tensor] | None,
        given: dict[str, dict[str, Tensor]] | None = None,
    ) -> None:
        self.inputs, self.labels = inputs, labels
        self.given = given or {split: {} for split in inputs}
        self._baselines: dict[int, Errors] = {}

    def errors(self, features: dict[str, Tensor]) -> Errors:
        """The errors of logistic regression and of 5 nearest neighbours on features (N, D) of both splits, of the rows
        that have a label."""
        if self.labels is None:
            return None, None
        known = {split: (features[split][labels >= 0], labels[labels >= 0]) for split, labels in self.labels.items()}
        (x, y), (test, truth) = known["train"], known["test"]
        kept = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:PROBED]
        arguments = x[kept], y[kept], test, truth
        return linear_probe_error(*arguments), knn_error(*arguments)

    def baseline(self, components: int) -> Errors:
        """The errors on principal components; with 0 components, on the raw inputs."""
        if components not in self._baselines:
            flat = {split: x.flatten(1) for split, x in self.inputs.items()}
            if components:
                from sklearn.decomposition import PCA

                pca = PCA(components, svd_solver="covariance_eigh").fit(flat["train"].double().numpy())
                flat = {s: torch.from_numpy(pca.transform(x.double().numpy())).float() for s, x in flat.items()}
            self._baselines[components] = self.errors(flat)
        return self._baselines[components]


def reproduce(name: str, path: str | None = None, train: bool = False) -> list[Check]:
    """Measures every number that an entry states again.

    Args:
        name: of the entry.
        path: a local copy of the data set, instead of the hub's.
        train: whether to train the model again by its recipe first, in a folder for it alone. The numbers then may be
            off by 10 % or three standard deviations, since other hardware and versions round in other ways.

    Returns:
        A check for each metric that has a value.

    Raises:
        InputError: for an unknown name, or when the data cannot be read.
    """
    entry = index.info(name)
    model = _retrained(entry, path) if train else load_with_config(name)[0]
    data = read_data(entry.data, model, path)
    measured = {metric.name: metric.value for metric in measure(model, data, entry.dataset)}
    checks = []
    for metric in entry.metrics:
        if metric.value is None:
            continue
        value, atol = measured.get(metric.name), metric.atol or 0.0
        if train and not metric.name.startswith(("raw_", "pca_")):
            atol = max(atol, 0.1 * abs(metric.value), 3 * (metric.std or 0.0))
        checks.append(Check(metric.name, metric.value, math.nan if value is None else value, atol))
    return checks


def _retrained(entry: Entry, path: str | None) -> Autoencoder:
    from lightning_ae.cli.training import TrainingCLI
    from lightning_ae.training.checkpoint import load_model

    recipe = entry.recipe
    if not recipe.paths:
        raise InputError(f"{entry.name} names no recipe, so it cannot be trained again")
    with tempfile.TemporaryDirectory() as folder:
        words = [word for path in recipe.paths for word in ("-c", path)]
        words += ["--run_dir", f"{folder}/run", "--seed_everything", str(recipe.seed)]
        for key, value in recipe.overrides.items():
            words += [f"--{key}", str(value)]
        TrainingCLI("fit", words + (["--data.path", os.path.abspath(path)] if path else []), "train again").run()
        model: Autoencoder = load_model(Path(folder, "run", "checkpoints", f"{recipe.checkpoint}.ckpt"))
    model.signature = entry.read_signature()
    return model


# ---- measuring -------------------------------------------------------------------------------------------------------


def read_data(data: Data, model: Autoencoder, path: str | None = None) -> Samples:
    """The whole training and the test split of a data set, as the model takes them; the last one read is kept."""
    assert model.signature is not None
    place = os.path.abspath(path) if path else data.id
    key = repr((place, sorted(data.options.items()), model.signature.hash, model.given))
    if key not in _KEPT:
        module = HFDataModule(place, val_fraction=0, **data.options)
        module.use_signature(model.signature)
        inputs: dict[str, Tensor] = {}
        labels: dict[str, Tensor] = {}
        given: dict[str, dict[str, Tensor]] = {}
        model.use_columns_of(module)
        for split in ("train", "test"):
            batches = list(module.batches(split, BATCH))
            found = [model.read(batch) for batch in batches]
            inputs[split] = torch.cat([x for x, _, _ in found])
            given[split] = {role: torch.cat([each[role] for _, _, each in found]) for role in found[0][2]}
            if module.label is not None and module.has_classes:
                labels[split] = torch.cat([batch[module.label] for batch in batches])
        _KEPT.clear()
        _KEPT[key] = Samples(inputs, labels or None, given)
    return _KEPT[key]


_KEPT: dict[str, Samples] = {}


@torch.no_grad()
def measure(model: Autoencoder, data: Samples, dataset: str) -> list[Metric]:
    """What an entry states of a model.

    Reconstruction: the squared error summed over a sample's dimensions, and R squared. The objective, where chance is
    a part of it, as the mean over three seeds. Features: the errors of logistic regression and of a 5-nearest-neighbour
    classifier that learn from (at most 10 000) training codes, beside those on raw inputs and on principal components.
    """
    model.eval()
    test = data.inputs["test"]
    codes = {split: codes_of(model, x, data.given[split]) for split, x in data.inputs.items()}
    error, variance = SquaredErrorPerSample(), RSquared(test[0].numel())
    for part in _parts(test):
        target = test[part]
        reconstruction = model(target, **rows_of(data.given["test"], part))
        error.update(reconstruction, target)
        variance.update(reconstruction, target)

    def metric(name: str, value: float | None, atol: float, n: int | None = len(test), **more: Any) -> Metric:
        rounded = None if value is None else float(f"{value:.6g}")
        return Metric(name=name, value=rounded, atol=atol, dataset=dataset, split="test", n=n, **more)

    found = [
        metric("squared_error", float(error.compute()), _relative(float(error.compute()))),
        # R squared; entries never change, so it keeps the name that they have for it
        metric("explained_variance", float(variance.compute()), 1e-3),
    ]
    objective = _objective(model, test, data.given["test"])
    if objective is not None:
        name, values = objective
        mean, std = float(torch.tensor(values).mean()), float(torch.tensor(values).std())
        atol = max(_relative(mean), float(f"{4 * std:.2g}"))
        found.append(metric(name, mean, atol, seeds=list(SEEDS), std=float(f"{std:.3g}")))
    pca = data.baseline(components(test[0].numel(), codes["test"].shape[1]))
    for prefix, (probe, knn) in {"": data.errors(codes), "raw_": data.baseline(0), "pca_": pca}.items():
        found.append(metric(f"{prefix}probe_error", probe, 0.003))
        found.append(metric(f"{prefix}knn_error", knn, 0.002))
    return found


@torch.no_grad()
def codes_of(model: Autoencoder, x: Tensor, given: Mapping[str, Tensor]) -> Tensor:
    """The codes of inputs (N, *input_shape) as vectors, (N, feature_dim)."""
    parts = tqdm(_parts(x), "encoding", delay=2, leave=False)
    return torch.cat([model.pool(model.encode(x[part], **rows_of(given, part))).float() for part in parts])


def _parts(x: Tensor) -> list[slice]:
    return [slice(start, start + BATCH) for start in range(0, len(x), BATCH)]


def components(inputs: int, features: int) -> int:
    """How many principal components to compare features with: as many, but at most 50 and half of the inputs."""
    return max(1, min(features, 50, inputs // 2))


def _objective(model: Autoencoder, x: Tensor, given: Mapping[str, Tensor]) -> tuple[str, list[float]] | None:
    """The objective on `x` for each seed, where chance is a part of it, and its name."""
    if model.drawn_objective is None:
        return None

    def total(part: slice) -> float:
        target = x[part]
        return float(model.loss(model.corrupt(target), target, **rows_of(given, part))["loss"]) * len(target)

    values = []
    with torch.random.fork_rng(devices=[]):
        for seed in SEEDS:
            torch.manual_seed(seed)
            values.append(sum(total(part) for part in _parts(x)) / len(x))
    return model.drawn_objective, values


def _relative(value: float) -> float:
    return float(f"{max(1e-3 * abs(value), 1e-4):.2g}")
