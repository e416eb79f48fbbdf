"""From data in natural units to what a model takes: plain data that checkpoints carry, vectorised on any device."""

from lightning_ae.preprocess.base import Preprocess
from lightning_ae.preprocess.images import LUMA, Fit, ImagePreprocess, check_range
from lightning_ae.preprocess.tables import FARTHEST, SequencePreprocess, TabularPreprocess

__all__ = [
    "FARTHEST",
    "LUMA",
    "Fit",
    "ImagePreprocess",
    "Preprocess",
    "SequencePreprocess",
    "TabularPreprocess",
    "check_range",
]
