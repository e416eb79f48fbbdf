"""The registry: every variant by its name, and those that other packages register.

A package registers classes of its own by an entry point: `[project.entry-points."lightning_ae.models"]` in its
pyproject.toml, with lines such as `my_vae = "my_package:MyVAE"`.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.errors import InputError, unknown
from lightning_ae.models.contractive import ContractiveAutoencoder, jacobian_spectrum
from lightning_ae.models.denoising import DenoisingAutoencoder
from lightning_ae.models.linear import LinearAutoencoder
from lightning_ae.models.score_matching import ScoreMatchingAutoencoder
from lightning_ae.models.sparse import KSparseAutoencoder, SparseAutoencoder
from lightning_ae.models.stacked import StackedAutoencoder
from lightning_ae.models.vae import VAE

MODELS: dict[str, type[Autoencoder]] = {
    "ae": Autoencoder,
    "linear": LinearAutoencoder,
    "sparse": SparseAutoencoder,
    "k_sparse": KSparseAutoencoder,
    "denoising": DenoisingAutoencoder,
    "contractive": ContractiveAutoencoder,
    "stacked": StackedAutoencoder,
    "score_matching": ScoreMatchingAutoencoder,
    "vae": VAE,
}


def list_models() -> list[str]:
    """The names of all variants: this package's, then those of installed packages."""
    return [*MODELS, *(name for name in sorted(_registered()) if name not in MODELS)]


def get_model(name: str) -> type[Autoencoder]:
    """The class of the variant `name`.

    Raises:
        InputError: for an unknown name, with the nearest one suggested; for a registered one that is no autoencoder.
    """
    if name in MODELS:
        return MODELS[name]
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
    for name, known in MODELS.items():
        if known is cls:
            return name, None
    for name, point in _registered().items():
        if point.value == f"{cls.__module__}:{cls.__qualname__}":
            return name, None if point.dist is None else point.dist.name
    raise InputError(
        f"{cls.__name__} is not in the registry",
        f"""register it in its package's pyproject.toml, [project.entry-points."lightning_ae.models"], """
        f"""my_name = "{cls.__module__}:{cls.__qualname__}", and install the package""",
    )


def _registered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group="lightning_ae.models")}


__all__ = [
    "VAE",
    "Autoencoder",
    "ContractiveAutoencoder",
    "DenoisingAutoencoder",
    "KSparseAutoencoder",
    "LinearAutoencoder",
    "ScoreMatchingAutoencoder",
    "SparseAutoencoder",
    "StackedAutoencoder",
    "get_model",
    "jacobian_spectrum",
    "list_models",
    "model_name",
]
