"""What `save_pretrained` writes and `from_pretrained` reads: config.json, plain data, and model.safetensors."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.config import class_path, from_earlier, import_class
from lightning_ae.errors import InputError
from lightning_ae.files import whole_file
from lightning_ae.thresholds import Threshold
from lightning_ae.training.checkpoint_file import signature_of
from lightning_ae.training.rebuild import check_finite, check_plain, rebuild
from lightning_ae.training.versions import written_by
from lightning_ae.zoo import artefact, importers, index
from lightning_ae.zoo.artefact import WEIGHTS, complete, parse_weights, plain_weights
from lightning_ae.zoo.places import CONFIG, LARGEST_CONFIG, Place, place_of

FORMAT = 1
_KEYS = {
    "lightning_ae": dict, "class_path": str, "init_args": dict, "dtype": str, "signature": dict, "signature_hash": str,
    "columns": dict, "threshold": dict, "sampler": dict,
}  # fmt: skip
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float64, torch.bfloat16)}


def save(model: Autoencoder, folder: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Writes a model to a folder; see `Pretrained.save_pretrained`."""
    from safetensors.torch import save as as_bytes

    from lightning_ae import __version__

    model.check_loads()
    if any(hasattr(weight, "full_tensor") for weight in model.state_dict(keep_vars=True).values()):
        raise InputError(
            "the weights are sharded over ranks, of which each has a part",
            "save a checkpoint by the trainer, and call save_pretrained of load_model(path)",
        )
    place, weights = Path(folder), plain_weights(model)
    check_finite(weights, {name for name, _ in model.named_parameters()})
    dtype = str(model.dtype).removeprefix("torch.")
    if dtype not in _DTYPES:
        raise InputError(f"the weights are {dtype}, of which this has no form", f"convert them: {', '.join(_DTYPES)}")
    signature, threshold = model.signature, model.threshold
    config = {
        "lightning_ae": {"format": FORMAT, "version": __version__},
        "class_path": class_path(type(model)),
        "init_args": model.init_args,
        "dtype": dtype,
        "signature": None if signature is None else signature.plain(),
        "signature_hash": None if signature is None else signature.hash,
        "columns": dict(model.columns),
        "threshold": None if threshold is None else threshold.plain(),
        "sampler": model.sampler_plain,
    }
    text = json.dumps(config, indent=1) + "\n"
    if len(text) > LARGEST_CONFIG:
        raise InputError(f"its hyper-parameters and signature take {len(text)} characters; {LARGEST_CONFIG} are read")
    if place.exists() and not place.is_dir():
        raise InputError(f"{str(place)!r} is a file", "give a folder")
    there = [name for name in (CONFIG, WEIGHTS) if (place / name).exists()]
    if there and not overwrite:
        raise InputError(f"{str(place)!r} holds {' and '.join(there)} already", "give another folder, or set overwrite")
    # the weights come first: whoever finds a config finds them, too
    for name, data in ((WEIGHTS, as_bytes(weights, metadata={"format": "pt"})), (CONFIG, text.encode())):
        with whole_file(place / name) as part:
            part.write_bytes(data)
    return place


def load(
    name: str | os.PathLike[str],
    base: type = Autoencoder,
    revision: str | None = None,
    subfolder: str | None = None,
) -> Any:
    """A pretrained model, of `base` or a subclass; see `Pretrained.from_pretrained`."""
    text = os.fspath(name)
    if text in index.names() and not Path(text).is_dir():
        if revision is not None or subfolder is not None:
            raise InputError(f"{text!r} is an entry of the zoo, which has no revision and no subfolder")
        model = artefact.load(text)
    else:
        model = read(_place(text, revision, subfolder))
    if not isinstance(model, base):
        raise InputError(
            f"{text!r} holds a {type(model).__name__}, which is no {base.__name__}",
            f"{type(model).__name__}.from_pretrained takes it, or Autoencoder.from_pretrained; to start another class "
            "from its weights, use load_state_dict()",
        )
    return model


def read(place: Place) -> Autoencoder:
    """The model in a folder, by whatever config.json says that it is.

    Raises:
        InputError: when that is nothing known, or not what it should be.
    """
    config = place.config()
    if "lightning_ae" in config:
        return _build(config, parse_weights(place.weights(WEIGHTS), place.where), place.where)
    if "schema" in config:
        parsed = artefact.parse_config(config, f"{CONFIG} of {place.where}")
        return artefact.build(parsed, parse_weights(place.weights(WEIGHTS), place.where), place.where)
    return importers.read(config, place)


def _place(text: str, revision: str | None, subfolder: str | None) -> Place:
    try:
        return place_of(text, revision, subfolder)
    except InputError as error:
        hint = error.hint
        if "no name of a repository" in error.message:
            hint = f"{hint}; entries of the zoo: {', '.join(index.names()[:3])} and so on"
        raise InputError(error.message, hint) from error


def _build(config: Mapping[str, Any], weights: dict[str, Tensor], where: str) -> Autoencoder:
    about = config["lightning_ae"]
    try:
        with written_by(about.get("version") if isinstance(about, Mapping) else None):
            return _built(config, weights)
    except InputError as error:
        raise InputError(f"{where} cannot be loaded: {error.message}", error.hint) from error


def _built(config: Mapping[str, Any], weights: dict[str, Tensor]) -> Autoencoder:
    _check(config)
    cls: Any = import_class(config["class_path"], Autoencoder, CONFIG)
    init_args = from_earlier({"class_path": config["class_path"], "init_args": config["init_args"]})["init_args"]
    sampler = from_earlier(config.get("sampler"))

    def make() -> Any:
        made = cls.from_init_args(init_args).to(_DTYPES[config["dtype"]])
        made.take_sampler(sampler)
        return made

    own = cls.__module__.startswith("lightning_ae.")
    model: Autoencoder = rebuild(
        make, lambda module: complete(module.state_dict(keep_vars=True), weights), len(weights), own
    )
    check_finite(weights, {name for name, _ in model.named_parameters()})
    model.signature = signature_of(config)
    model.columns = dict(config.get("columns") or {})
    if (threshold := config.get("threshold")) is not None:
        model.threshold = Threshold.from_plain(threshold)
    return model.eval()


def _check(config: Mapping[str, Any]) -> None:
    check_plain(config, CONFIG)
    about = config["lightning_ae"]
    number = about.get("format") if isinstance(about, Mapping) else None
    if number != FORMAT:
        raise InputError(
            f"its config.json has the format {number!r}, of which this version knows {FORMAT}", "install a later one"
        )
    for key, value in config.items():
        if key not in _KEYS:
            raise InputError(f"its config.json says {key!r}, which is nothing that this version knows")
        if value is not None and not isinstance(value, _KEYS[key]):
            raise InputError(f"{key} in its config.json is a {type(value).__name__}, not a {_KEYS[key].__name__}")
    if lacking := [key for key in ("class_path", "init_args", "dtype") if config.get(key) is None]:
        raise InputError(f"its config.json lacks {', '.join(lacking)}")
    if config["dtype"] not in _DTYPES:
        raise InputError(f"its config.json asks for weights in {config['dtype']!r}", f"known: {', '.join(_DTYPES)}")
