"""Architectures: plain data that builds a matched encoder and decoder, and critics."""

from lightning_ae.architectures.base import Architecture
from lightning_ae.architectures.conv import ConvNet
from lightning_ae.architectures.critic import Critic, PatchCritic, detached
from lightning_ae.architectures.latent_diffusion import LatentDiffusionNet
from lightning_ae.architectures.mlp import MLP
from lightning_ae.architectures.resnet import ResNet
from lightning_ae.architectures.sequence import SequenceNet
from lightning_ae.architectures.tiny import TinyNet

__all__ = [
    "MLP",
    "Architecture",
    "ConvNet",
    "Critic",
    "LatentDiffusionNet",
    "PatchCritic",
    "ResNet",
    "SequenceNet",
    "TinyNet",
    "detached",
]
