"""Data modules over Hugging Face data sets."""

from lightning_ae.data.kinds import Image, Kind, Tabular
from lightning_ae.data.module import HFDataModule

__all__ = ["HFDataModule", "Image", "Kind", "Tabular"]
