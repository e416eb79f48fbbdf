"""Codes in the plane, with thumbnails: what a viewer of many embeddings takes."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import torch

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.callbacks.measures import read_input
from lightning_ae.callbacks.projections import plane_of
from lightning_ae.data.module import HFDataModule

SIDE = 64
"""The longest side of a thumbnail, in pixels."""


def columns(model: Autoencoder, data: HFDataModule, codes: Mapping[str, torch.Tensor], size: int) -> dict[str, Any]:
    """The columns "x" and "y" of each split, and of images "thumbnail", in the order of the codes.

    Codes of two features are as they are, others on their first two principal components, which are those of all splits
    together. A thumbnail is a PNG or JPEG as `datasets` keeps images, {"bytes": ..., "path": None}.

    Args:
        model: whose codes they are.
        data: whose rows.
        codes: (N, feature_dim) of each split.
        size: how many rows are read at a time.
    """
    points = plane_of(torch.cat(list(codes.values())))[0].float()
    found: dict[str, Any] = {}
    for split, part in zip(codes, points.split([len(each) for each in codes.values()]), strict=True):
        found[split] = {"x": part[:, 0].numpy(), "y": part[:, 1].numpy()}
        if len(model.input_shape) == 3:
            found[split]["thumbnail"] = _thumbnails(model, data, split, size)
    return found


def _thumbnails(model: Autoencoder, data: HFDataModule, split: str, size: int) -> Any:
    import pyarrow as pa
    from datasets import Image

    from lightning_ae.report.images import data_uri, pixels

    made = []
    for batch in data.batches(split, size):
        for image in pixels(model, read_input(model, batch)[0], SIDE):
            made.append({"bytes": base64.b64decode(data_uri(image).partition(",")[2]), "path": None})
    return pa.array(made, type=Image().pa_type)
