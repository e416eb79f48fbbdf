"""From an artefact to a model: strictly, without running anything that a file says."""

from __future__ import annotations

import json
import os
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.config import class_path, from_earlier
from lightning_ae.errors import InputError, unknown
from lightning_ae.registry import get_model
from lightning_ae.registry import list_models as variants
from lightning_ae.thresholds import Threshold
from lightning_ae.training.checkpoint import load_model
from lightning_ae.training.rebuild import rebuild
from lightning_ae.training.versions import written_by
from lightning_ae.zoo import index
from lightning_ae.zoo.fetch import fetch, hub_file, plain_file
from lightning_ae.zoo.places import CONFIG, LARGEST_CONFIG, unique
from lightning_ae.zoo.schema import LARGEST_FILE, Config, Entry, parse, parse_hf

LARGEST_HEADER = 4 << 20  # bytes
MOST_TENSORS, MOST_DIMENSIONS = 10_000, 16
WEIGHTS = "model.safetensors"


def load(name: str | os.PathLike[str]) -> Autoencoder:
    """A pretrained model, in evaluation mode, with its preprocessing.

    Args:
        name: of an entry; or an artefact's folder; or hf://organisation/name@commit.

    Raises:
        InputError: for an unknown name, or when an artefact is not exactly what it says: a tensor too many, too few, of
            another shape or type, an argument that the model does not have.
        IntegrityError: when a file has another hash than the entry says.
    """
    return load_with_config(name)[0]


def load_with_config(name: str | os.PathLike[str]) -> tuple[Autoencoder, Config]:
    """A pretrained model and what is known of it; see `load`."""
    config, weights = read(name)
    model = build(config, weights, str(name))
    if isinstance(config, Entry) and config.data.id is not None:
        init_args = {"path": config.data.id, **config.data.options}
        model.data_config = {"class_path": "lightning_ae.data.HFDataModule", "init_args": init_args}
    return model, config


def is_entry(source: str | os.PathLike[str]) -> bool:
    """Whether it names an entry, and no file or folder that is there."""
    return not os.path.exists(source) and os.fspath(source) in index.names()


def load_trained(source: str | os.PathLike[str]) -> Autoencoder:
    """A trained model by the path of its checkpoint or of its folder, or else by its name in the zoo.

    Raises:
        InputError: when there is neither, or the checkpoint holds something else than an autoencoder.
    """
    if is_entry(source):
        return load(source)
    if Path(source).is_dir():
        from lightning_ae.zoo.pretrained import load as load_folder  # which knows artefacts, too

        found: Autoencoder = load_folder(source)
        return found
    model = load_model(source)
    if not isinstance(model, Autoencoder):
        raise InputError(
            f"{os.fspath(source)!r} holds a {type(model).__name__}, not an autoencoder",
            "give the checkpoint of the autoencoder that it was made from",
        )
    return model


def read(name: str | os.PathLike[str]) -> tuple[Config, dict[str, Tensor]]:
    """What is known of a model, an `Entry` where it is one, and its weights; see `load`."""
    text = os.fspath(name)
    if text in index.names():
        entry = index.info(text)
        if entry.deprecated:
            warnings.warn(f"the zoo entry {text} is deprecated: {entry.deprecated}", FutureWarning, stacklevel=4)
        files = {file.name: fetch(entry, file) for file in entry.files if file.name in (WEIGHTS, CONFIG)}
        return entry, parse_weights(files[WEIGHTS], text)
    if text.startswith("hf://"):
        hub = parse_hf(text)
        folder = hub_file(hub.repo, hub.revision, CONFIG, most=LARGEST_CONFIG).parent
        hub_file(hub.repo, hub.revision, WEIGHTS)
    elif Path(text).is_dir():
        folder = Path(text)
    elif Path(text).is_file():
        raise InputError(
            f"{text!r} is a file, not an artefact",
            "give the folder with model.safetensors and config.json; a checkpoint is loaded by lightning_ae.load_model",
        )
    else:
        raise unknown("zoo entry", text, index.names())
    return _read_config(folder / CONFIG), parse_weights(_read(folder / WEIGHTS, LARGEST_FILE), str(folder / WEIGHTS))


def build(config: Config, weights: dict[str, Tensor], where: str) -> Autoencoder:
    """The model that `config` describes, with these weights.

    It is first built without memory, and compared with the weights, so that no file makes it allocate more than its own
    size.

    Raises:
        InputError: when the config does not suit the model, or the weights do not suit the config.
    """
    _check_package(config)
    with written_by(_version(config)):
        return _built(config, weights, where)


def _built(config: Config, weights: dict[str, Tensor], where: str) -> Autoencoder:
    cls = get_model(config.model)
    weights = _widened(weights, config.stored, where)
    init_args = from_earlier({"class_path": class_path(cls), "init_args": config.config})["init_args"]

    def make() -> Autoencoder:
        made = cls.from_init_args(init_args)
        made.take_sampler(from_earlier(config.sampler))
        return made

    try:
        model = rebuild(
            make,
            lambda module: complete(module.state_dict(keep_vars=True), weights),
            len(weights),
            own=True,
            same_types=True,
        )
        model.signature = config.read_signature()
        if config.threshold is not None:
            model.threshold = Threshold(**config.threshold.model_dump())
    except InputError as error:
        raise InputError(f"{where} cannot be built: {error.message}", error.hint) from error
    return model.eval()


def parse_weights(data: bytes, where: str) -> dict[str, Tensor]:
    """The tensors in the bytes of a safetensors file, which holds nothing else.

    Raises:
        InputError: when it is something else, such as a pickle, or holds far more tensors than a model has.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as parse_safetensors

    try:
        _check_header(data)
        found: dict[str, Tensor] = parse_safetensors(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError, RecursionError, OverflowError) as error:
        raise InputError(
            f"{where} holds no safetensors file ({error})", "other formats are refused, since reading them may run code"
        ) from error
    return found


def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    """A model's tensors for a safetensors file: each once, where several names share one."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            found[name] = tensor.detach().cpu().contiguous()
        seen.add(id(tensor))
    return found


@torch.no_grad()
def round_weights(model: nn.Module, stored: str) -> None:
    """Rounds a model's float32 weights to what a file holds that stores them in that type.

    Raises:
        InputError: naming the first that would overflow.
    """
    for name, tensor in model.state_dict().items():
        if tensor.dtype == torch.float32 and stored != "float32":
            rounded = tensor.to(getattr(torch, stored)).float()
            if not torch.equal(rounded.isfinite(), tensor.isfinite()):
                raise InputError(f"{name} holds values too large for {stored}", "store the weights in float32")
            tensor.copy_(rounded)


def narrowed(weights: dict[str, Tensor], stored: str) -> dict[str, Tensor]:
    """The weights as a file holds them that stores those of float32 in that type.

    Raises:
        InputError: naming the first that would lose digits.
    """
    found = {}
    for name, tensor in weights.items():
        found[name] = tensor.to(getattr(torch, stored)) if tensor.dtype == torch.float32 else tensor
        if found[name].dtype != tensor.dtype and not torch.equal(found[name].float(), tensor):
            raise InputError(f"{name} would lose digits in {stored}", "store the weights in float32")
    return found


def _widened(weights: dict[str, Tensor], stored: str, where: str) -> dict[str, Tensor]:
    """The weights in float32, of a file that holds them in half of its digits, as its config says."""
    if stored == "float32":
        return weights
    for name, tensor in weights.items():
        if tensor.dtype == torch.float32:
            raise InputError(f"{where} holds {name} in {tensor.dtype}, where its config says {stored}")
    return {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in weights.items()}


def _check_header(data: bytes) -> None:
    """Refuses a safetensors file whose header takes much to read, whatever its tensors are; the rest its reader checks.

    It is 8 bytes that say how long it is, and a JSON object: https://github.com/huggingface/safetensors#format.
    """
    size = int.from_bytes(data[:8], "little")
    if size > LARGEST_HEADER:
        raise InputError(f"its header has {size} bytes; at most {LARGEST_HEADER} make sense")
    header: Any = json.loads(data[8 : 8 + size], object_pairs_hook=unique)
    if not isinstance(header, dict) or len(header) > MOST_TENSORS:
        raise InputError(f"its header lists {len(header)} tensors; at most {MOST_TENSORS} make sense")
    for name, tensor in header.items():
        shape = tensor.get("shape") if isinstance(tensor, dict) and name != "__metadata__" else []
        if not isinstance(shape, list) or len(shape) > MOST_DIMENSIONS:
            raise InputError(f"the shape of {name} is no list of at most {MOST_DIMENSIONS} numbers")


def complete(expected: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under all names, where several share a tensor."""
    complete = dict(weights)
    first: dict[int, str] = {}
    for name, tensor in expected.items():
        source = first.setdefault(id(tensor), name)
        if source != name and source in weights:
            complete.setdefault(name, weights[source])
    return complete


def _version(config: Config) -> str | None:
    """The version of this package that trained an entry, where it says so: what config.json says does not."""
    recipe = config.recipe if isinstance(config, Entry) else None
    return None if recipe is None else recipe.versions.get("lightning_ae")


def _check_package(config: Config) -> None:
    """Refuses a model of another package that is not there, or there in a version without that model."""
    package = config.requires
    if not package or config.model in variants():
        return
    what = f"{config.name} is a {config.model!r} model of the package {package!r}"
    try:
        installed = version(package)
    except (PackageNotFoundError, ValueError):
        raise InputError(f"{what}, which is not installed", f"pip install {package}") from None
    raise InputError(
        f"{what}, of which {installed} is installed and registers no such model", f"pip install --upgrade {package}"
    )


def _read(file: Path, limit: int) -> bytes:
    try:
        with plain_file(file) as (opened, size):
            if size > limit:
                raise InputError(f"{str(file)!r} has {size} bytes; at most {limit} make sense")
            return opened.read(size)
    except OSError as error:
        raise InputError(
            f"{str(file)!r} cannot be read: {error.strerror or error}", f"an artefact has {WEIGHTS} and {CONFIG}"
        ) from error


def _read_config(file: Path) -> Config:
    try:
        data: Any = json.loads(_read(file, LARGEST_CONFIG), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(file)!r} is no JSON: {error}") from error
    return parse_config(data, str(file))


def parse_config(data: Any, where: str) -> Config:
    """What config.json of an artefact says, checked."""
    config: Config = parse(Config, data, where)
    return config
