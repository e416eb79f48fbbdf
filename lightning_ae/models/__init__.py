"""The registry: every variant by its name."""

from __future__ import annotations

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.errors import unknown
from lightning_ae.models.denoising import DenoisingAutoencoder
from lightning_ae.models.vae import VAE

MODELS: dict[str, type[Autoencoder]] = {
    "ae": Autoencoder,
    "denoising": DenoisingAutoencoder,
    "vae": VAE,
}


def list_models() -> list[str]:
    """The names of all variants."""
    return list(MODELS)


def get_model(name: str) -> type[Autoencoder]:
    """The class of the variant `name`.

    Raises:
        InputError: for an unknown name, with the nearest one suggested.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    return MODELS[name]


__all__ = ["Autoencoder", "DenoisingAutoencoder", "VAE", "get_model", "list_models"]
