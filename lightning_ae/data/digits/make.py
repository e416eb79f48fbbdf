"""Writes the embedded data set from scikit-learn's copy: `python -m lightning_ae.data.digits.make`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from PIL.Image import fromarray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def main() -> None:
    """Writes train.parquet (1437 rows) and test.parquet (360 rows), stratified by class."""
    source = load_digits()
    pixels = np.round(source.images * 255 / 16).astype(np.uint8)
    parts = train_test_split(np.arange(len(pixels)), test_size=360, random_state=0, stratify=source.target)
    features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
    for split, rows in zip(("train", "test"), parts, strict=True):
        rows.sort()
        columns = {"image": [fromarray(pixels[i]) for i in rows], "label": source.target[rows]}
        Dataset.from_dict(columns, features).to_parquet(Path(__file__).parent / f"{split}.parquet")


if __name__ == "__main__":
    main()
