"""From weights that others made to an artefact: converted, compared with what they gave there, and then written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.errors import InputError
from lightning_ae.zoo.artefact import CONFIG, WEIGHTS, narrowed, plain_weights
from lightning_ae.zoo.publishing.entry import (
    PREVIEW,
    as_json,
    as_safetensors,
    check_new,
    config_of,
    made,
    preview,
    write,
)
from lightning_ae.zoo.schema import Entry, Metric, parse

LICENCE = "LICENSE.txt"
SHOWN, SIZE = 5, 80
"""How many photographs a preview shows, and their height in pixels, or nearly: so that its file stays below 200 kB."""


def read_state_dict(file: str | Path) -> dict[str, Tensor]:
    """The tensors of a file of torch's, which runs nothing.

    Raises:
        InputError: when it holds something else.
    """
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises of every kind for what is no such file
        raise InputError(f"{str(file)!r} holds no weights: {type(error).__name__}: {error}") from error
    if not isinstance(found, Mapping) or not all(isinstance(each, Tensor) for each in found.values()):
        raise InputError(f"{str(file)!r} holds a {type(found).__name__}, not tensors by their names")
    return dict(found)


def take_in_order(network: nn.Module, theirs: Mapping[str, Tensor], where: str) -> None:
    """Takes the tensors of another package's network, whose layers stand in the same order under other names.

    Raises:
        InputError: at the first that has another shape, or where one network has more.
    """
    own = network.state_dict()
    if len(own) != len(theirs):
        raise InputError(f"{where} has {len(theirs)} tensors, the network {len(own)}")
    taken = {}
    for (name, tensor), (other, value) in zip(own.items(), theirs.items(), strict=True):
        if tensor.shape != value.shape:
            raise InputError(
                f"{other} of {where} has the shape {tuple(value.shape)}, where {name} has {tuple(tensor.shape)}"
            )
        taken[name] = value.to(tensor.dtype)
    network.load_state_dict(taken)


def check_given(what: str, found: Tensor, wanted: Tensor, atol: float) -> None:
    """Refuses a conversion that does not give what the weights gave where they come from.

    Raises:
        InputError: naming the largest difference.
    """
    apart = float((found.double() - wanted.double()).abs().max()) if found.shape == wanted.shape else float("inf")
    if not apart <= atol:
        raise InputError(f"the {what} differs from the authors' by up to {apart:.2g}; at most {atol:g} is rounding")


def publish_imported(
    model: Autoencoder,
    name: str,
    *,
    originals: Mapping[str, str | Path],
    metrics: list[Metric],
    licence_text: str,
    images: Sequence[Any] = (),
    to: str | Path = "zoo",
    stored: str = "float32",
    **about: Any,
) -> Entry:
    """Writes the entry of a model whose weights come from elsewhere.

    Args:
        model: with its weights, and its signature.
        name: <variant>_<architecture>.<weights>_v<N>, new.
        originals: the files as they came, by their names, of which the entry states the hashes.
        metrics: what was measured.
        licence_text: goes along with the weights, as licences ask.
        images: PIL images of a test split, of which the preview shows some; without any there is none.
        to: a folder, as `publish` takes it.
        stored: "float16" for weights that came so: the file holds them so, and the loaded model is in float32.
        about: "authors", "source", "command" and "stated", see `Imported`; "licence", "data" and "paper" as the entry
            says them.

    Raises:
        InputError: when the name is taken, or the weights are not exactly those of `stored`.
    """
    check_new(name, str(to))
    own = {key: about.pop(key) for key in ("authors", "source", "command", "stated")}
    own["files"] = {each: hashlib.sha256(Path(file).read_bytes()).hexdigest() for each, file in originals.items()}
    config = config_of(name, model)
    config = parse(type(config), config.model_dump(by_alias=True) | {"stored": stored}, name)
    weights = narrowed(plain_weights(model), stored)
    files = {WEIGHTS: as_safetensors(weights), CONFIG: as_json(config), LICENCE: licence_text.encode()}
    if len(images):
        files[PREVIEW] = preview(model, _shown(model, images), {}, SHOWN)
    entry = made(model, config, files, metrics=[each.model_dump() for each in metrics], imported=own, **about)
    return write(entry, files, Path(to))


def _shown(model: Autoencoder, images: Sequence[Any]) -> Tensor:
    """Some of the images, evenly spaced, three wide to two high, as the model takes them: (B, *input_shape).

    Scaled down, so that the whole of a photograph is seen; one of another shape is cut around its centre.
    """
    from PIL import ImageOps

    multiple = model.multiple or 1
    height, width = (max(1, round(each / multiple)) * multiple for each in (SIZE, 1.5 * SIZE))
    chosen = [images[i * len(images) // SHOWN] for i in range(SHOWN)] if len(images) > SHOWN else images
    fitted = [ImageOps.fit(each.convert("RGB"), (width, height)) for each in chosen]
    x: Tensor = model.read_natural(fitted, {})[0]
    return x
