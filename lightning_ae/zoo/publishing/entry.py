"""From a checkpoint to an artefact: evaluated, described, and only then written."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import io
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
import yaml
from torch import Tensor, nn

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.batches import rows_of
from lightning_ae.config import to_plain
from lightning_ae.counts import CountPreprocess
from lightning_ae.data import HFDataModule
from lightning_ae.data.signature import Signature
from lightning_ae.errors import InputError, unknown
from lightning_ae.evaluation.numbers import codes_of
from lightning_ae.files import whole_file
from lightning_ae.preprocess import ImagePreprocess, SequencePreprocess, TabularPreprocess
from lightning_ae.recipes import find
from lightning_ae.registry import model_name
from lightning_ae.shapes import is_any
from lightning_ae.strict_yaml import load_yaml
from lightning_ae.zoo import index
from lightning_ae.zoo.artefact import (
    CONFIG,
    WEIGHTS,
    build,
    load_trained,
    narrowed,
    parse_weights,
    plain_weights,
    round_weights,
)
from lightning_ae.zoo.checks import golden
from lightning_ae.zoo.fetch import hub_file
from lightning_ae.zoo.publishing.evaluate import measure, read_data
from lightning_ae.zoo.schema import NAME, Config, Data, Entry, Layer, Stored, golden_input, parse, parse_hf

PREVIEW = "preview.png"
SPLITTING = ("name", "revision", "kind", "label", "condition", "train_split", "test_split")
"""Arguments of HFDataModule that say which samples there are."""
DATASETS: dict[str, dict[str, str]] = {
    "digits": {
        "id": "digits",
        "licence": "CC-BY-4.0",
        "provenance": "Optical Recognition of Handwritten Digits (Alpaydin & Kaynak 1998), UCI Machine Learning "
        "Repository, as embedded in this package",
    },
    "fashion": {
        "id": "fashion",
        "licence": "MIT",
        "provenance": "7000 images of Fashion-MNIST (Xiao, Rasul & Vollgraf 2017), as embedded in this package",
    },
    "sprites": {
        "id": "sprites",
        "licence": "Apache-2.0",
        "provenance": "20 000 sprites in the design of dSprites (Matthey, Higgins, Hassabis & Lerchner 2017), drawn by "
        "this package",
    },
    "mnist": {
        "id": "ylecun/mnist",
        "licence": "CC-BY-SA-3.0",
        "provenance": "MNIST (LeCun, Cortes & Burges 1998), from the Hugging Face hub",
    },
    "fashion_mnist": {
        "id": "zalando-datasets/fashion_mnist",
        "licence": "MIT",
        "provenance": "Fashion-MNIST (Xiao, Rasul & Vollgraf 2017), from the Hugging Face hub",
    },
    "cifar10": {
        "id": "uoft-cs/cifar10",
        "licence": "NOASSERTION",  # the source states none
        "provenance": "CIFAR-10 (Krizhevsky 2009), from the Hugging Face hub",
    },
}


def publish(
    checkpoint: str | os.PathLike[str],
    name: str,
    to: str = "zoo",
    path: str | None = None,
    recipe: str | Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    licence: str = "Apache-2.0",
    minutes: float | None = None,
    stored: Stored = "float32",
    dry_run: bool = True,
) -> Entry:
    """Evaluates a checkpoint and makes an entry of it: weights, config, card, preview, and what the index says.

    The hardware and the versions that it states are those of this process: publish where you train.

    Args:
        checkpoint: of a model in the registry; another package's class is there by its entry point.
        name: <variant>_<architecture>.<dataset>_v<N>, new.
        to: a folder, which gets entries/<name>.yaml and weights/<name>/; or hf://organisation/name, which gets the
            artefact, and whose entry is written beside the checkpoint.
        path: a local copy of the data set, instead of the hub's.
        recipe: the recipes that it was trained by, as `-c` takes them: names, such as ["vae", "digits"], or files.
        overrides: options that were changed, such as {"trainer.max_epochs": 30}.
        data: of a data set other than digits, fashion, sprites, mnist, fashion_mnist and cifar10: its "id" for
            HFDataModule, its "licence" (SPDX) and "provenance".
        licence: of the weights, an SPDX identifier.
        minutes: how long the training took.
        stored: the type of the weights in the file; of "float16" it is half as large, and the weights are rounded
            before anything is measured. They are loaded in float32. A threshold stays the one that the checkpoint has.
        dry_run: do everything but write.

    Returns:
        The entry.

    Raises:
        InputError: when the name is taken or no name, a recipe is not there, the model is not in the registry, the
            data cannot be read, or weights are too large for float16.
    """
    check_new(name, to)
    paths = [recipe] if isinstance(recipe, str) else list(recipe)
    for path_of_recipe in paths:
        find(path_of_recipe)
    if stored not in get_args(Stored):
        raise unknown("stored", str(stored), get_args(Stored))
    model = load_trained(checkpoint)
    round_weights(model, stored)
    config = config_of(name, model)
    about = _about_data(config.dataset, data, model)
    samples = read_data(about[0], model, path)
    codes = codes_of(model, samples, "train")
    std, mean = torch.std_mean(codes.double(), dim=0)
    plain = config.model_dump(by_alias=True) | {"stored": stored}
    plain["features"] |= {"mean": _digits(mean), "std": _digits(std.clamp(min=1e-6))}
    config = parse(Config, plain, name)
    files = {WEIGHTS: as_safetensors(narrowed(plain_weights(model), stored)), CONFIG: as_json(config)}
    if len(config.input_shape) == 3:
        files[PREVIEW] = preview(model, samples.inputs["test"], samples.given["test"])
    title, _, url = model.reference.partition(", http")
    entry = made(
        model,
        config,
        files,
        metrics=[metric.model_dump() for metric in measure(model, samples, config.dataset)],
        recipe=_recipe(checkpoint, paths, dict(overrides or {}), minutes),
        licence={"weights": licence, "data": about[1]},
        data={**about[0].model_dump(), "digest": samples.digests["test"]},
        paper={"title": title, "url": f"http{url}"},
    )
    if not dry_run:
        entry = _upload(entry, files, to, checkpoint) if to.startswith("hf://") else write(entry, files, Path(to))
    return entry


def made(model: Autoencoder, config: Config, files: Mapping[str, bytes], **about: Any) -> Entry:
    """The entry of these files, with what `about` says by the names of its fields; what the weights hold loads."""
    entry: Entry = parse(
        Entry,
        config.model_dump(by_alias=True)
        | {
            "files": [
                {"name": file, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
                for file, data in files.items()
            ],
            "golden": golden(model, config).model_dump(),
        }
        | about,
        config.name,
    )
    build(entry, parse_weights(files[WEIGHTS], config.name), config.name)
    return entry


def dump(entry: Entry) -> str:
    """An entry as YAML."""
    text: str = yaml.safe_dump(
        entry.model_dump(by_alias=True, mode="json"), sort_keys=False, default_flow_style=None, width=120
    )
    return text


# ---- what is written -------------------------------------------------------------------------------------------------


def check_new(name: str, to: str) -> None:
    """Refuses what is no name of an entry, or the name of one that is there.

    Raises:
        InputError: naming it.
    """
    if not re.fullmatch(NAME, name):
        raise InputError(
            f"{name!r} is no name for an entry", "<variant>_<architecture>.<dataset>_v<N>, such as vae_mlp.digits_v1"
        )
    taken = name in index.names()
    if to.startswith("hf://"):
        if "@" in to:
            raise InputError(f"{to!r} is pinned to a commit", "publish to hf://organisation/name; the commit is new")
    else:
        taken = taken or (Path(to) / "entries" / f"{name}.yaml").exists() or (Path(to) / "weights" / name).exists()
    if taken:
        raise InputError(f"the name {name!r} is taken; entries never change", "count its version up")


def _about_data(dataset: str, given: Mapping[str, Any] | None, model: Autoencoder) -> tuple[Data, str]:
    about = dict(given or DATASETS.get(dataset, {}))
    lacking = {"id", "licence", "provenance"} - about.keys()
    if lacking or about.keys() - {"id", "licence", "provenance"}:
        raise InputError(
            f"data must say id, licence and provenance of {dataset!r}; got {sorted(about)}",
            f"known by their names: {', '.join(DATASETS)}",
        )
    options = dict((model.data_config or {}).get("init_args", {}))
    usual = inspect.signature(HFDataModule.__init__).parameters
    kept = {k: options[k] for k in SPLITTING if k in options and options[k] != usual[k].default}
    return Data(id=about["id"], provenance=about["provenance"], options=kept), about["licence"]


def _signature(model: Autoencoder, config: Config) -> Signature:
    """That of the checkpoint, with the preprocessing that the entry says."""
    known = model.signature
    preprocess = config.preprocess.build()
    return Signature(preprocess) if known is None else replace(known, preprocess=preprocess)


def config_of(name: str, model: Autoencoder) -> Config:
    """What config.json says of a model, whose signature from now on has the preprocessing that it says.

    Raises:
        InputError: for a model that entries cannot describe.
    """
    registered, package = model_name(type(model))
    preprocess = model.preprocess
    plain: dict[str, Any]
    if len(model.input_shape) == 3:
        if preprocess is not None and not isinstance(preprocess, ImagePreprocess):
            raise InputError(f"the checkpoint's preprocessing is a {type(preprocess).__name__}, but it takes images")
        moments = {"mean": preprocess.mean, "std": preprocess.std} if preprocess else {}
        size = None if is_any(model.input_shape) else list(model.input_shape[1:])
        binarize = preprocess.binarize if preprocess else None
        plain = {"kind": "image", "size": size, "channels": model.input_shape[0], "binarize": binarize}
        plain |= (
            {"multiple": model.multiple}
            | _lists(moments)
            | ({"fit": preprocess.fit, "values": preprocess.range, "layout": preprocess.layout} if preprocess else {})
        )
    else:
        if isinstance(preprocess, CountPreprocess):
            raise InputError("the checkpoint's model takes counts, which entries of the zoo cannot describe yet")
        kept = to_plain(preprocess, "preprocess")["init_args"] if isinstance(preprocess, TabularPreprocess) else {}
        plain = {"kind": "sequence" if isinstance(preprocess, SequencePreprocess) else "tabular"} | kept
    config: Config = parse(
        Config,
        {
            "schema": 1,
            "name": name,
            "model": registered,
            "requires": package,
            "config": model.init_args,
            "preprocess": plain,
            "threshold": None if model.threshold is None else model.threshold.plain(),
            "sampler": model.sampler_plain,
            "features": {
                "latents": list(model.latents),
                "dim": model.feature_dim,
                "layers": [],
            },
        },
        name,
    )
    model.signature = signature = _signature(model, config)
    if signature.columns:
        said = {"signature": signature.plain(), "signature_hash": signature.hash}
        config = config.model_copy(update=said)
    layers = _layers(model, signature.preprocess(golden_input(config)))
    features = config.features.model_copy(update={"layers": layers})
    return config.model_copy(update={"features": features})


@torch.no_grad()
def _layers(model: Autoencoder, x: Tensor) -> list[Layer]:
    """The parts of the encoder that give a tensor, in the order in which they run."""
    found: dict[str, Layer] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim in (2, 4):
                stride = _stride(x.shape[2], output.shape[2]) if output.ndim == 4 else None
                found[name] = Layer(name=name, channels=output.shape[1], stride=stride)

        return hook

    handles = [m.register_forward_hook(note(name)) for name, m in model.encoder.named_modules() if name.count(".") == 1]
    try:
        model.encode(x, **model.stand_ins(len(x)))
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())


def _stride(size: int, steps: int) -> int:
    """The stride that makes `steps` of `size` pixels, rounding up; a power of two where one does."""
    fitting = [stride for stride in range(1, size + 1) if -(-size // stride) == steps] or [round(size / steps)]
    return next((stride for stride in fitting if stride & (stride - 1) == 0), fitting[0])


def _recipe(
    checkpoint: str | os.PathLike[str], paths: list[str], overrides: dict[str, Any], minutes: float | None
) -> dict[str, Any]:
    from lightning_ae import __version__

    seed = None
    written = Path(checkpoint).parent.parent / "config.yaml"
    if written.is_file():
        seed = (load_yaml(written.read_text()) or {}).get("seed_everything")
    stem = Path(checkpoint).stem
    if torch.cuda.is_available():
        hardware = torch.cuda.get_device_name()
    else:
        hardware = f"{torch.get_num_threads()} CPU thread{'s' if torch.get_num_threads() > 1 else ''}"
    versions = {name: importlib.metadata.version(name) for name in ("torch", "pytorch-lightning")}
    return {
        "paths": paths,
        "overrides": overrides,
        "seed": seed if isinstance(seed, int) else None,
        "checkpoint": stem if stem in ("best", "last") else None,
        "hardware": hardware,
        "minutes": minutes,
        "versions": {"lightning_ae": __version__, "python": platform.python_version(), **versions},
    }


def write(entry: Entry, files: dict[str, bytes], to: Path) -> Entry:
    """Writes the artefact into a folder beside its place, and moves it there; the entry comes last."""
    from lightning_ae.zoo.publishing.cards import card

    weights, entries = to / "weights", to / "entries"
    try:
        weights.mkdir(parents=True, exist_ok=True)
        entries.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=weights, prefix=".part-"))
    except OSError as error:
        raise InputError(f"to={str(to)!r} cannot be written: {error.strerror}", "name another folder") from error
    place = folder
    try:
        for name, data in files.items():
            (folder / name).write_bytes(data)
        (folder / "README.md").write_text(card(entry))
        os.chmod(folder, 0o755)
        os.rename(folder, weights / entry.name)
        place = weights / entry.name
        with whole_file(entries / f"{entry.name}.yaml") as part:
            part.write_text(dump(entry))
    except (OSError, InputError) as error:
        shutil.rmtree(place, ignore_errors=True)
        reason = error.message if isinstance(error, InputError) else f"cannot be written: {error.strerror}"
        raise InputError(f"to={str(to)!r}: {reason}", "nothing was published") from error
    return entry


def _upload(entry: Entry, files: dict[str, bytes], to: str, checkpoint: str | os.PathLike[str]) -> Entry:
    """Uploads the artefact in one commit; the entry names that commit."""
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    from lightning_ae.zoo.publishing.cards import card

    repo = to.removeprefix("hf://")
    api = HfApi()
    content = files | {"README.md": card(entry).encode()}
    adds = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=io.BytesIO(data)) for name, data in content.items()]
    try:
        api.create_repo(repo, exist_ok=True)
        taken = api.file_exists(repo, CONFIG)
        commit = None if taken else api.create_commit(repo, adds, commit_message=f"Publish {entry.name}")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InputError(
            f"to={to!r} cannot be published to: {type(error).__name__}: {error}", "log in with `hf auth login`"
        ) from error
    if commit is None:
        raise InputError(f"{to!r} holds an artefact already; entries never change", "publish to a new repository")
    pinned = f"hf://{repo}@{commit.oid}"
    parse_hf(pinned)
    urls = [file.model_copy(update={"urls": [f"{pinned}/{file.name}"]}) for file in entry.files]
    entry = entry.model_copy(update={"files": urls})
    hub_file(repo, commit.oid, CONFIG)
    Path(checkpoint).with_name(f"{entry.name}.yaml").write_text(dump(entry))
    return entry


# ---- bytes -----------------------------------------------------------------------------------------------------------


def as_safetensors(weights: dict[str, Tensor]) -> bytes:
    """A safetensors file of these tensors."""
    from safetensors.torch import save

    data: bytes = save(weights, metadata={"format": "pt"})
    return data


def as_json(config: Config) -> bytes:
    """config.json."""
    return (json.dumps(config.model_dump(by_alias=True, mode="json"), indent=1) + "\n").encode()


@torch.no_grad()
def preview(model: Autoencoder, x: Tensor, given: Mapping[str, Tensor], n: int = 12) -> bytes:
    """A PNG of inputs (B, *input_shape) above their reconstructions, and samples of generative models below."""
    from PIL import Image

    from lightning_ae.callbacks.measures import to_unit_interval, visible

    first: dict[str, Any] = rows_of(given, slice(n))
    rows = [x[:n], model(x[:n], **first)]
    if model.generates:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            rows.append(model.sample(len(x[:n]), **first))
    pictures = [(255 * visible(to_unit_interval(model, row))[0]).round().to(torch.uint8).cpu() for row in rows]
    padded = [nn.functional.pad(row, (1, 1, 1, 1), value=255) for row in pictures]
    grid = torch.cat([row.permute(1, 2, 0, 3).flatten(2) for row in padded], dim=1)
    image = Image.fromarray((grid[0] if len(grid) == 1 else grid.permute(1, 2, 0)).numpy())
    zoom = -(-600 // image.width)
    image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    output = io.BytesIO()
    image.save(output, "PNG", optimize=True)
    return output.getvalue()


def _digits(values: Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]


def _lists(moments: Mapping[str, Any]) -> dict[str, Any]:
    return {key: None if value is None else list(value) for key, value in moments.items()}
