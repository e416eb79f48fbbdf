"""The registry: every variant by its name."""

from __future__ import annotations

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.errors import unknown
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
]
