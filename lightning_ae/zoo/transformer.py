"""Pretrained encoders in scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Image as PILImage
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from lightning_ae.errors import InputError
from lightning_ae.natural import listed, taken
from lightning_ae.shapes import one_size
from lightning_ae.zoo.encoder import Latent, Pool, load_encoder


class EncoderTransformer(TransformerMixin, BaseEstimator):
    """A pretrained encoder as a step of a scikit-learn Pipeline: images or tables to features, frozen.

    Fitted, it has what scikit-learn's own transformers have: `n_features_in_`, of images the values of one, and, of a
    data frame, `feature_names_in_`, which the frames that follow must have, too. Columns of a frame are brought into
    the model's order by their names; further ones are left out, which is said once.

    Args:
        name: of an entry; or an artefact's folder; or hf://organisation/name@commit.
        latent: see `lightning_ae.zoo.load_encoder`, as are the next three.
        layer: the name of an intermediate layer; or several, with `pool`, beside each other.
        pool: over the layers' maps.
        normalize: whether to standardise the code.
        batch_size: how many samples to encode at a time.
        device: where.
    """

    def __init__(
        self,
        name: str,
        latent: Latent = "mean",
        layer: str | Sequence[str] | None = None,
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
        """Loads the encoder; nothing is learned from X but the names and the number of its columns.

        Raises:
            InputError: when the encoder cannot be loaded, or X does not suit it.
        """
        if self.layer is not None and not isinstance(self.layer, str) and self.pool is None:
            raise InputError(f"layer={self.layer!r} gives several maps, where a Pipeline takes one vector", "set pool")
        self.encoder_ = load_encoder(self.name, self.latent, self.layer, self.pool, self.normalize)
        one_size(self.encoder_.model, type(self).__name__)
        self._natural(X, fitting=True)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Features (n, feature_dim), float32.

        Args:
            X: images as PIL images, or as bytes (integers in 0..255) or floats in [0, 1], (n, H, W), (n, C, H, W), (n,
                H, W, C) or flat, (n, C * H * W) of the size that the model takes, channel by channel and row by row;
                vectors (n, dimensions) of any number type. Tables may be frames or sparse. They are computed in
                float32.

        Raises:
            InputError: on another shape or type, another range of images, NaN; naming row, place or column, and value.
        """
        check_is_fitted(self)
        encoder = self.encoder_.to(self.device)
        with torch.no_grad():
            parts = [encoder.encode(part.to(self.device)) for part in self._natural(X).split(self.batch_size)]
            found = torch.cat([part for part in parts if isinstance(part, torch.Tensor)])  # one, each time
            encoder.looked_at(found)
        return found.cpu().numpy()

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The names of the features: code0, code1 and so on."""
        check_is_fitted(self)
        named = "code" if self.layer is None else self.layer
        prefix = (named if isinstance(named, str) else "_".join(named)).replace(".", "_")
        return np.array([f"{prefix}{i}" for i in range(self.encoder_.feature_dim)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.three_d_array = hasattr(self, "encoder_") and len(self.encoder_.config.input_shape) == 3
        tags.transformer_tags.preserves_dtype = ["float32"]
        tags.non_deterministic = self.latent == "sample"
        return tags

    def _natural(self, X: Any, fitting: bool = False) -> torch.Tensor:
        """All of X in natural units."""
        signature, shape = self.encoder_.signature, self.encoder_.config.input_shape
        size = math.prod(shape)
        if not _is_table(X):
            if fitting:
                self.n_features_in_, self._places = size, None
                if hasattr(self, "feature_names_in_"):  # of an earlier fit
                    del self.feature_names_in_
            return signature.natural(X)
        if isinstance(X, Mapping):
            raise InputError(
                f"X is a dict of {listed(list(X))}, which scikit-learn takes none of",
                "give an array of images, or columns as pandas.DataFrame(X)",
            )
        try:
            table = validate_data(self, X, reset=fitting, accept_sparse="csr", ensure_all_finite=False)
        except ValueError as error:
            raise InputError(f"X: {error}") from error
        if fitting:
            self._places = self._places_of(signature.names)
            width = table.shape[1] if self._places is None else len(self._places)
            if width != size:
                what = f"flat images of {self.name} have" if len(shape) == 3 else f"{self.name} takes"
                hint = f"give images as (n, H, W) or (n, C, H, W), which are resized to {shape[1:]}"
                raise InputError(
                    f"X has {width} columns, but {what} {size}", hint if len(shape) == 3 else "choose those it takes"
                )
        if self._places is not None:
            table = table[:, self._places]
        if hasattr(table, "toarray"):
            table = table.toarray()
        return signature.natural(table.reshape(-1, *shape) if len(shape) == 3 else table)

    def _places_of(self, names: list[str]) -> list[int] | None:
        """Where the model's columns stand in a frame; None where one side has no names, and their order counts."""
        found = getattr(self, "feature_names_in_", None)
        if found is None or len(names) != math.prod(self.encoder_.config.input_shape):
            return None
        places = {str(name): place for place, name in enumerate(found)}
        return [places[name] for name in taken(places, names)]


def _is_table(X: Any) -> bool:
    """Whether X is a matrix to scikit-learn, rather than images."""
    if isinstance(X, PILImage):
        return False
    if hasattr(X, "shape") and len(X.shape) != 1:
        return len(X.shape) == 2
    first: Any = next(iter(X), None) if hasattr(X, "__iter__") and hasattr(X, "__len__") else None
    return not (isinstance(first, PILImage) or np.ndim(first) > 1)
