"""Autoencoders in PyTorch Lightning."""

import warnings

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.checkpoint import load_model
from lightning_ae.data import HFDataModule
from lightning_ae.errors import InputError
from lightning_ae.finetune import FineTuneClassifier
from lightning_ae.models import (
    VAE,
    ContractiveAutoencoder,
    DenoisingAutoencoder,
    KSparseAutoencoder,
    LinearAutoencoder,
    ScoreMatchingAutoencoder,
    SparseAutoencoder,
    StackedAutoencoder,
    get_model,
    list_models,
)

__version__ = "0.1.0"

__all__ = [
    "Autoencoder",
    "ContractiveAutoencoder",
    "DenoisingAutoencoder",
    "FineTuneClassifier",
    "HFDataModule",
    "InputError",
    "KSparseAutoencoder",
    "LinearAutoencoder",
    "ScoreMatchingAutoencoder",
    "SparseAutoencoder",
    "StackedAutoencoder",
    "VAE",
    "get_model",
    "list_models",
    "load_model",
]

# inside Lightning 2.6, with every batch that it moves; nothing that a user could change
warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
