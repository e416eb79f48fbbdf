"""Autoencoders in PyTorch Lightning."""

from typing import TYPE_CHECKING

from lightning_ae.lazy import lazily
from lightning_ae.registry import CLASSES

if TYPE_CHECKING:
    from lightning_ae.autoencoder import Autoencoder
    from lightning_ae.data.module import HFDataModule
    from lightning_ae.errors import InputError
    from lightning_ae.estimator import AutoencoderEstimator
    from lightning_ae.models.adversarial import AdversarialAutoencoder
    from lightning_ae.models.conditional import ConditionalVAE
    from lightning_ae.models.contractive import ContractiveAutoencoder
    from lightning_ae.models.denoising import DenoisingAutoencoder
    from lightning_ae.models.dictionary import TopKDictionary
    from lightning_ae.models.factor import FactorVAE
    from lightning_ae.models.finetune import FineTuneClassifier
    from lightning_ae.models.hierarchical import LadderVAE
    from lightning_ae.models.latent_diffusion import VQGAN, AutoencoderKL
    from lightning_ae.models.latent_spaces import CategoricalVAE, HypersphericalVAE, JointVAE, PoincareVAE
    from lightning_ae.models.linear import LinearAutoencoder
    from lightning_ae.models.missing import MissingDataIWAE
    from lightning_ae.models.score_matching import ScoreMatchingAutoencoder
    from lightning_ae.models.semi_supervised import SemiSupervisedVAE
    from lightning_ae.models.sparse import KSparseAutoencoder, SparseAutoencoder
    from lightning_ae.models.stacked import StackedAutoencoder
    from lightning_ae.models.top_down import TopDownVAE
    from lightning_ae.models.vae import VAE
    from lightning_ae.models.vae_variants import (
        CIWAE,
        DIPVAE,
        IWAE,
        PIWAE,
        BetaTCVAE,
        BetaVAE,
        HamiltonianVAE,
        InfoVAE,
        VampPriorVAE,
    )
    from lightning_ae.models.vq import VQVAE
    from lightning_ae.models.vq_levels import VQVAE2
    from lightning_ae.models.vq_variants import FSQVAE, LFQVAE, GumbelVQVAE, ResidualVQVAE, SimVQVAE
    from lightning_ae.registry import get_model, list_models
    from lightning_ae.training.checkpoint import load_model

__version__ = "0.2.0"

__all__ = [
    "AdversarialAutoencoder",
    "Autoencoder",
    "AutoencoderEstimator",
    "AutoencoderKL",
    "BetaTCVAE",
    "BetaVAE",
    "CIWAE",
    "CategoricalVAE",
    "ConditionalVAE",
    "ContractiveAutoencoder",
    "DenoisingAutoencoder",
    "DIPVAE",
    "FSQVAE",
    "FactorVAE",
    "FineTuneClassifier",
    "HFDataModule",
    "GumbelVQVAE",
    "IWAE",
    "InfoVAE",
    "InputError",
    "KSparseAutoencoder",
    "HamiltonianVAE",
    "HypersphericalVAE",
    "JointVAE",
    "LFQVAE",
    "LadderVAE",
    "LinearAutoencoder",
    "MissingDataIWAE",
    "PIWAE",
    "PoincareVAE",
    "ResidualVQVAE",
    "ScoreMatchingAutoencoder",
    "SemiSupervisedVAE",
    "SimVQVAE",
    "SparseAutoencoder",
    "StackedAutoencoder",
    "TopKDictionary",
    "VAE",
    "TopDownVAE",
    "VQGAN",
    "VQVAE",
    "VQVAE2",
    "VampPriorVAE",
    "get_model",
    "list_models",
    "load_model",
]

__getattr__, __dir__ = lazily(
    __name__,
    CLASSES
    | {
        "AutoencoderEstimator": "lightning_ae.estimator",
        "FineTuneClassifier": "lightning_ae.models.finetune",
        "HFDataModule": "lightning_ae.data.module",
        "InputError": "lightning_ae.errors",
        "get_model": "lightning_ae.registry",
        "list_models": "lightning_ae.registry",
        "load_model": "lightning_ae.training.checkpoint",
    },
)
