"""Published weights of other libraries' layouts as models of this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.errors import InputError
from lightning_ae.zoo.importers import diffusers
from lightning_ae.zoo.places import CONFIG, Place


def read(config: Mapping[str, Any], place: Place) -> Autoencoder:
    """The model in a folder of another library's layout, in evaluation mode.

    Args:
        config: what its config.json says.
        place: the folder.

    Raises:
        InputError: when the layout is not known, saying what was found; when the config has an option that no class
            here has; when the weights are not those that the config asks for.
    """
    name = config.get("_class_name")
    if name in diffusers.CLASSES:
        return diffusers.read(config, place)
    known = f"known: what save_pretrained wrote, artefacts of the zoo, and of diffusers {', '.join(diffusers.CLASSES)}"
    if isinstance(name, str):
        inside = "; one of its folders may hold an autoencoder: subfolder='vae'" if "vae" in config else ""
        raise InputError(f"{place.where} holds a {name} of diffusers, which has no class here{inside}", known)
    if "architectures" in config or "model_type" in config:
        names = config.get("architectures") or [config.get("model_type")]
        raise InputError(f"{place.where} holds a {names[0]} of transformers, which has no class here", known)
    keys = ", ".join(map(str, list(config)[:5])) or "nothing"
    raise InputError(f"{CONFIG} of {place.where} is of no known layout: it says {keys}", known)
