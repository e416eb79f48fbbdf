"""Callbacks that measure and picture a model while it trains."""

from lightning_ae.callbacks.measures import LatentProbe, ReconstructionMetrics
from lightning_ae.callbacks.pictures import LatentProjection, LatentTraversal, ReconstructionGrid, SampleGrid

__all__ = [
    "LatentProbe",
    "LatentProjection",
    "LatentTraversal",
    "ReconstructionGrid",
    "ReconstructionMetrics",
    "SampleGrid",
]
