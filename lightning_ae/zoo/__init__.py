"""Pretrained models: find them, load them as feature extractors, check every number that is stated of them.

For scikit-learn there is `lightning_ae.zoo.transformer.EncoderTransformer`.
"""

from lightning_ae.zoo.artefact import load
from lightning_ae.zoo.encoder import Encoder, load_encoder
from lightning_ae.zoo.evaluate import reproduce, verify
from lightning_ae.zoo.fetch import IntegrityError, download
from lightning_ae.zoo.index import info, list_models
from lightning_ae.zoo.publishing import publish

__all__ = [
    "Encoder",
    "IntegrityError",
    "download",
    "info",
    "list_models",
    "load",
    "load_encoder",
    "publish",
    "reproduce",
    "verify",
]
