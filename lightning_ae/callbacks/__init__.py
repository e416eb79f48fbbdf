"""Callbacks that measure and picture a model while it trains."""

from lightning_ae.callbacks.measures import LatentProbe, ReconstructionMetrics, SparsityMetrics
from lightning_ae.callbacks.pictures import (
    JacobianSpectrum,
    LatentProjection,
    LatentTraversal,
    ReconstructionGrid,
    SampleGrid,
)

__all__ = [
    "JacobianSpectrum",
    "LatentProbe",
    "LatentProjection",
    "LatentTraversal",
    "ReconstructionGrid",
    "ReconstructionMetrics",
    "SampleGrid",
    "SparsityMetrics",
]
