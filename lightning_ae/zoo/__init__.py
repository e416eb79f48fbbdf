"""Pretrained models: find them, load them as feature extractors, check every number that is stated of them.

For scikit-learn there is `lightning_ae.zoo.transformer.EncoderTransformer`.
"""

from typing import TYPE_CHECKING

from lightning_ae.lazy import lazily

if TYPE_CHECKING:
    from lightning_ae.zoo.artefact import load
    from lightning_ae.zoo.checks import verify
    from lightning_ae.zoo.encoder import Encoder, load_encoder
    from lightning_ae.zoo.fetch import IntegrityError, download
    from lightning_ae.zoo.index import info, list_models
    from lightning_ae.zoo.publishing.entry import publish
    from lightning_ae.zoo.publishing.evaluate import reproduce

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

__getattr__, __dir__ = lazily(
    __name__,
    {
        "Encoder": "lightning_ae.zoo.encoder",
        "IntegrityError": "lightning_ae.zoo.fetch",
        "download": "lightning_ae.zoo.fetch",
        "info": "lightning_ae.zoo.index",
        "list_models": "lightning_ae.zoo.index",
        "load": "lightning_ae.zoo.artefact",
        "load_encoder": "lightning_ae.zoo.encoder",
        "publish": "lightning_ae.zoo.publishing.entry",
        "reproduce": "lightning_ae.zoo.publishing.evaluate",
        "verify": "lightning_ae.zoo.checks",
    },
)
