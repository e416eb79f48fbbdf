"""Writes the embedded part of Fashion-MNIST from a local copy: `python -m lightning_ae.data.fashion.make FOLDER`."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from datasets import Dataset, load_dataset

EACH = {"train": 600, "test": 100}  # of each class


def main(folder: str) -> None:
    """Writes train.parquet (6000 rows) and test.parquet (1000 rows), as many of each class, drawn with a fixed seed."""
    generator = np.random.default_rng(0)
    for split, rows in load_dataset(str(Path(folder).absolute())).items():
        labels = np.array(rows["label"])
        of_each = [np.flatnonzero(labels == number) for number in range(10)]
        chosen = np.sort(np.concatenate([generator.choice(of_it, EACH[split], replace=False) for of_it in of_each]))
        columns = {"image": [_smallest(image) for image in rows.select(chosen)["image"]], "label": labels[chosen]}
        Dataset.from_dict(columns, rows.features).to_parquet(Path(__file__).parent / f"{split}.parquet")


def _smallest(image: object) -> dict[str, bytes | None]:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)  # type: ignore[attr-defined]
    return {"bytes": file.getvalue(), "path": None}


if __name__ == "__main__":
    main(sys.argv[1])
