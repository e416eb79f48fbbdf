"""A local page to play with a model: its latent space, neighbours, scores, an image of one's own."""

from lightning_ae.explore.page import page, serve
from lightning_ae.explore.state import Explorer

__all__ = ["Explorer", "page", "serve"]
