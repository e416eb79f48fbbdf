"""Every number that an entry states, measured again."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import xxhash
from tqdm.auto import tqdm

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.callbacks.measures import to_unit_interval
from lightning_ae.data import HFDataModule
from lightning_ae.errors import InputError
from lightning_ae.evaluation import Samples, numbers
from lightning_ae.zoo import index
from lightning_ae.zoo.artefact import load_with_config
from lightning_ae.zoo.checks import Check, Reproduction
from lightning_ae.zoo.schema import Data, Entry, Metric


def reproduce(name: str, path: str | None = None, train: bool = False) -> Reproduction:
    """Measures every number that an entry states again.

    Of imported weights that is their PSNR on photographs, of which `path` names a copy.

    Args:
        name: of the entry.
        path: a local copy of the data set, instead of the hub's.
        train: whether to train the model again by its recipe first, in a folder for it alone. The numbers then may be
            off by 10 % or three standard deviations, since other hardware and versions round in other ways.

    Returns:
        A check for each metric that has a value, and which copy of the data it was measured on.

    Raises:
        InputError: for an unknown name, or when the data cannot be read.
    """
    entry = index.info(name)
    model = _retrained(entry, path) if train else load_with_config(name)[0]
    if entry.imported is None:
        data = read_data(entry.data, model, path)
        found, digest = measure(model, data, entry.dataset), data.digests["test"]
    else:
        found, digest = _measured_again(entry, model, path)
    measured = {metric.name: metric.value for metric in found}
    checks = []
    for metric in entry.metrics:
        if metric.value is None:
            continue
        value, atol = measured.get(metric.name), metric.atol or 0.0
        if train and not metric.name.startswith(("raw_", "pca_")):
            atol = max(atol, 0.1 * abs(metric.value), 3 * (metric.std or 0.0))
        checks.append(Check(metric.name, metric.value, math.nan if value is None else value, atol))
    return Reproduction(checks, entry.data.digest, digest)


def _retrained(entry: Entry, path: str | None) -> Autoencoder:
    from lightning_ae.cli.training import TrainingCLI
    from lightning_ae.training.checkpoint import load_model

    recipe = entry.recipe
    if recipe is None or not recipe.paths:
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
    assert data.id is not None
    place = os.path.abspath(path) if path else data.id
    key = repr((place, sorted(data.options.items()), model.signature.hash, model.given))
    if key not in _KEPT:
        module = HFDataModule(place, val_fraction=0, **data.options)
        module.use_signature(model.signature)
        model.use_columns_of(module)
        _KEPT.clear()
        _KEPT[key] = Samples.read(model, module, ("train", "test"))
    return _KEPT[key]


_KEPT: dict[str, Samples] = {}


def measure(model: Autoencoder, data: Samples, dataset: str) -> list[Metric]:
    """What an entry states of a model, of the numbers of `lightning_ae.evaluation`.

    Reconstruction: the squared error summed over a sample's dimensions, and R squared. The objective, where chance is
    a part of it, as the mean over three seeds. Features: the errors of logistic regression and of a 5-nearest-neighbour
    classifier that learn from (at most 10 000) training codes, beside those on raw inputs and on principal components.
    """
    model.eval()
    n = len(data.inputs["test"])

    def metric(name: str, value: float | None, atol: float, **more: Any) -> Metric:
        rounded = None if value is None else float(f"{value:.6g}")
        return Metric(name=name, value=rounded, atol=atol, dataset=dataset, split="test", n=n, **more)

    error, share = (number.value for number in numbers.reconstruction(model, data))
    # entries never change, so R squared keeps the name that they have for it
    found = [metric("squared_error", error, _relative(error)), metric("explained_variance", share, 1e-3)]
    if (drawn := numbers.objective(model, data)) is not None:
        name, values = drawn
        mean, std = float(torch.tensor(values).mean()), float(torch.tensor(values).std())
        atol = max(_relative(mean), float(f"{4 * std:.2g}"))
        found.append(metric(name, mean, atol, seeds=list(numbers.SEEDS), std=float(f"{std:.3g}")))
    codes = {split: numbers.codes_of(model, data, split) for split in data.inputs}
    of_codes = {number.name: number.value for number in numbers.classifiers(data, codes)}
    for prefix in ("", "raw_", "pca_"):
        found.append(metric(f"{prefix}probe_error", of_codes.get(f"{prefix}probe_error"), 0.003))
        found.append(metric(f"{prefix}knn_error", of_codes.get(f"{prefix}knn_error"), 0.002))
    return found


def measure_photographs(model: Autoencoder, images: Sequence[Any], dataset: str) -> list[Metric]:
    """What an entry states of a model of images of any size: the mean over images of the PSNR of its reconstructions.

    They are clamped to [0, 1], and not rounded to bytes.
    """
    found = []
    for image in tqdm(images, "photographs", delay=2, leave=False):
        x, _, given = model.read_natural([image], {})
        with torch.no_grad():
            made = model(x, **given)
        error = (to_unit_interval(model, made) - to_unit_interval(model, x)).double().square().mean()
        found.append(-10 * math.log10(float(error)))
    value = float(f"{math.fsum(found) / len(found):.6g}")
    return [Metric(name="psnr", value=value, atol=0.005, dataset=dataset, split="test", n=len(found), std=None)]


def photographs(path: str) -> Sequence[Any]:
    """The images of a data set's test split, of any sizes."""
    from datasets import load_dataset

    images: Sequence[Any] = load_dataset(os.path.abspath(path), split="test")["image"]
    return images


def digest_of(images: Sequence[Any]) -> str:
    """XXH3 of the images' bytes, in colour, row by row."""
    digest = xxhash.xxh3_128()
    for image in images:
        digest.update(image.convert("RGB").tobytes())
    return digest.hexdigest()


def _measured_again(entry: Entry, model: Autoencoder, path: str | None) -> tuple[list[Metric], str]:
    dataset = entry.metrics[0].dataset
    if path is None:
        raise InputError(
            f"the numbers of {entry.name} are of the data set {dataset}, which no hub id names",
            f"give a copy of it: --path {dataset}/",
        )
    images = photographs(path)
    return measure_photographs(model, images, dataset), digest_of(images)


def _relative(value: float) -> float:
    return float(f"{max(1e-3 * abs(value), 1e-4):.2g}")
