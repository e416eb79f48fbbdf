"""Callbacks that measure and picture a model while it trains."""

from lightning_ae.callbacks.codebooks import CodebookMetrics
from lightning_ae.callbacks.measures import DenoisingMetrics, LatentProbe, ReconstructionMetrics, SparsityMetrics
from lightning_ae.callbacks.pictures import (
    JacobianSpectrum,
    LatentProjection,
    LatentTraversal,
    ReconstructionGrid,
    SampleGrid,
)
from lightning_ae.callbacks.scores import ScoreMetrics

__all__ = [
    "CodebookMetrics",
    "DenoisingMetrics",
    "JacobianSpectrum",
    "LatentProbe",
    "LatentProjection",
    "LatentTraversal",
    "ReconstructionGrid",
    "ReconstructionMetrics",
    "SampleGrid",
    "ScoreMetrics",
    "SparsityMetrics",
]
