"""Pretrained encoders in scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from lightning_ae.errors import InputError
from lightning_ae.zoo.encoder import Latent, Pool, load_encoder


class EncoderTransformer(TransformerMixin, BaseEstimator):
    """A pretrained encoder as a step of a scikit-learn Pipeline: images to features, frozen.

    Args:
        name: of an entry; or an artefact's folder; or hf://organisation/name@commit.
        latent: see `lightning_ae.zoo.load_encoder`, as are the next three.
        layer: the name of an intermediate layer.
        pool: over the layer's map.
        normalize: whether to standardise the code.
        batch_size: how many samples to encode at a time.
        device: where.
    """

    def __init__(
        self,
        name: str,
        latent: Latent = "mean",
        layer: str | None = None,
        pool: Pool | None = None,
        normalize: bool = False,
        batch_size: int = 1024,
        device: str = "cpu",
    ) -> None:
        self.name = name
        self.latent = latent
        self.layer = layer
        self.pool = pool
        self.normalize = normalize
        self.batch_size = batch_size
        self.device = device

    def fit(self, X: Any, y: Any = None) -> EncoderTransformer:
        """Loads the encoder; nothing is learned from X.

        Raises:
            InputError: when the encoder cannot be loaded, or X does not suit it.
        """
        self.encoder_ = load_encoder(self.name, self.latent, self.layer, self.pool, self.normalize)
        self._images(X[:1])
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Features (n, feature_dim), float32.

        Args:
            X: images as uint8 or as floats in [0, 1], (n, H, W), (n, C, H, W) or flat, (n, C * H * W) of the size that
                the model takes; vectors (n, dimensions) of any number type. They are computed in float32.

        Raises:
            InputError: on another shape or type; of integers images are bytes, since others have no known range.
        """
        check_is_fitted(self)
        encoder = self.encoder_.to(self.device)
        with torch.no_grad():
            parts = [encoder(part.to(self.device)).cpu() for part in self._images(X).split(self.batch_size)]
        return torch.cat(parts).numpy()

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The names of the features: code0, code1 and so on."""
        check_is_fitted(self)
        prefix = "code" if self.layer is None else self.layer.replace(".", "_")
        return np.array([f"{prefix}{i}" for i in range(self.encoder_.feature_dim)], dtype=object)

    def _images(self, data: Any) -> torch.Tensor:
        array = np.asarray(data)
        if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
            raise InputError(f"X must hold numbers, got {array.dtype}", "give an array of integers or floats")
        x = torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
        shape = self.encoder_.config.input_shape
        if len(shape) == 3 and x.ndim == 2:
            if x.shape[1] != np.prod(shape):
                raise InputError(
                    f"X has {x.shape[1]} columns, but flat images of {self.name} have {np.prod(shape)}",
                    f"give images as (n, H, W) or (n, C, H, W), which are resized to {shape[1]}x{shape[2]}",
                )
            x = x.view(-1, *shape)
        return x
