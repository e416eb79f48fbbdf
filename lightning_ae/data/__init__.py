"""Data modules over Hugging Face data sets."""

from typing import TYPE_CHECKING

from lightning_ae.lazy import lazily

if TYPE_CHECKING:
    from lightning_ae.data.kinds import Counts, Image, Kind, Sequence, Tabular
    from lightning_ae.data.module import HFDataModule
    from lightning_ae.data.sprites import draw_sprites

__all__ = ["Counts", "HFDataModule", "Image", "Kind", "Sequence", "Tabular", "draw_sprites"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "Counts": "lightning_ae.data.kinds",
        "HFDataModule": "lightning_ae.data.module",
        "Image": "lightning_ae.data.kinds",
        "Kind": "lightning_ae.data.kinds",
        "Sequence": "lightning_ae.data.kinds",
        "Tabular": "lightning_ae.data.kinds",
        "draw_sprites": "lightning_ae.data.sprites",
    },
)
