"""The registry: every variant by its name, and those that other packages register.

A package registers classes of its own by an entry point: `[project.entry-points."lightning_ae.models"]` in its
pyproject.toml, with lines such as `my_vae = "my_package:MyVAE"`.
"""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from lightning_ae.errors import InputError, unknown

if TYPE_CHECKING:
    from lightning_ae.autoencoder import Autoencoder

MODELS: dict[str, str] = {
    "ae": "lightning_ae.autoencoder:Autoencoder",
    "linear": "lightning_ae.models.linear:LinearAutoencoder",
    "sparse": "lightning_ae.models.sparse:SparseAutoencoder",
    "k_sparse": "lightning_ae.models.sparse:KSparseAutoencoder",
    "topk_dictionary": "lightning_ae.models.dictionary:TopKDictionary",
    "denoising": "lightning_ae.models.denoising:DenoisingAutoencoder",
    "contractive": "lightning_ae.models.contractive:ContractiveAutoencoder",
    "stacked": "lightning_ae.models.stacked:StackedAutoencoder",
    "score_matching": "lightning_ae.models.score_matching:ScoreMatchingAutoencoder",
    "vae": "lightning_ae.models.vae:VAE",
    "conditional_vae": "lightning_ae.models.conditional:ConditionalVAE",
    "adversarial": "lightning_ae.models.adversarial:AdversarialAutoencoder",
    "ladder_vae": "lightning_ae.models.hierarchical:LadderVAE",
    "vq_vae": "lightning_ae.models.vq:VQVAE",
    "vampprior_vae": "lightning_ae.models.vae_variants:VampPriorVAE",
    "iwae": "lightning_ae.models.vae_variants:IWAE",
    "beta_tc_vae": "lightning_ae.models.vae_variants:BetaTCVAE",
}
CLASSES: dict[str, str] = {name: module for module, _, name in (place.partition(":") for place in MODELS.values())}
"""The module of each class."""


def list_models() -> list[str]:
    """The names of all variants: this package's, then those of installed packages."""
    return [*MODELS, *(name for name in sorted(_registered()) if name not in MODELS)]


def get_model(name: str) -> type[Autoencoder]:
    """The class of the variant `name`.

    Raises:
        InputError: for an unknown name, with the nearest one suggested; for a registered one that is no autoencoder.
    """
    from lightning_ae.autoencoder import Autoencoder

    if name in MODELS:
        module, _, cls_name = MODELS[name].partition(":")
        own: type[Autoencoder] = getattr(importlib.import_module(module), cls_name)
        return own
    found = _registered().get(name)
    if found is None:
        raise unknown("model", name, list_models())
    cls: Any = found.load()
    if not (isinstance(cls, type) and issubclass(cls, Autoencoder)):
        raise InputError(f"the model {name!r} is registered as {found.value!r}, which is no subclass of Autoencoder")
    return cls


def model_name(cls: type[Autoencoder]) -> tuple[str, str | None]:
    """The name of a class in the registry, and the package that registers it, where it is not this one.

    Raises:
        InputError: when nobody registers it.
    """
    place = f"{cls.__module__}:{cls.__qualname__}"
    for name, known in MODELS.items():
        if known == place:
            return name, None
    for name, point in _registered().items():
        if point.value == place:
            return name, None if point.dist is None else point.dist.name
    raise InputError(
        f"{cls.__name__} is not in the registry",
        f"""register it in its package's pyproject.toml, [project.entry-points."lightning_ae.models"], """
        f'my_name = "{place}", and install the package',
    )


def _registered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group="lightning_ae.models")}
