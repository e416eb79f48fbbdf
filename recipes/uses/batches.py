"""Counts that were measured in several batches, to codes in which the batches mix: the count model of scVI.

    python recipes/uses/batches.py
    python recipes/uses/batches.py --path cells.h5ad --batch batch --label cell_type   # "lightning_ae[counts]"

A conditional autoencoder of counts (Lopez et al. 2018, https://doi.org/10.1038/s41592-018-0229-2): the encoder sees
log(1 + x), the decoder the code and the batch; a sample's number of counts is its library, as observed; each gene has a
dispersion of its own in each batch. What the batch explains need not be in the code, so that codes of different batches
mix. Without --path it draws 2000 cells of five types over 200 genes in two batches, which read genes differently, and
compares the model with one that is told nothing of batches: of a cell's 15 nearest neighbours, the share of its own
batch (mixed batches of equal size: 50 %), and the neighbours' error about its type.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from lightning_ae import VAE, ConditionalVAE, HFDataModule
from lightning_ae.data import Counts
from lightning_ae.metrics import knn_error
from lightning_ae.parts import ZeroInflatedNegativeBinomial

FOLDER = Path("uses")


def cells(rows: int = 2000, genes: int = 200, types: int = 5) -> pd.DataFrame:
    """Counts, in a column for each gene, with the "batch" and the "type" of each row."""
    rng = np.random.default_rng(0)
    kind, batch = rng.integers(0, types, rows), rng.integers(0, 2, rows)
    share = rng.dirichlet(np.full(genes, 0.5))
    share = share * np.exp(rng.normal(0, 0.7, (types, genes)) * (rng.random((types, genes)) < 0.2))
    reads = np.exp(rng.normal(0, 0.5, (2, genes)))  # how well a batch reads a gene
    shares = share[kind] * reads[batch]
    depth = np.exp(rng.uniform(np.log(300), np.log(1500), rows))
    mean = depth[:, None] * shares / shares.sum(axis=1, keepdims=True)
    theta = np.array([1.0, 4.0])[batch][:, None]
    frame = pd.DataFrame(rng.poisson(rng.gamma(theta, mean / theta)), columns=[f"gene {i}" for i in range(genes)])
    return frame.assign(batch=np.array(["first", "second"])[batch], type=np.array(list("vwxyz"))[kind])


def same_batch(codes: Tensor, batch: Tensor, k: int = 15) -> float:
    """The share of each row's k nearest neighbours that are of its batch."""
    near = NearestNeighbors(n_neighbors=k + 1).fit(codes.numpy()).kneighbors(return_distance=False)[:, :k]
    return float((batch[torch.from_numpy(near)] == batch[:, None]).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", help="an .h5ad file, or a table of whole numbers, of your own")
    parser.add_argument("--batch", default="batch", help="its column of batches")
    parser.add_argument("--label", default="type", help="its column of types")
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args()

    path = cells() if args.path is None else args.path
    data = HFDataModule(
        path, kind=Counts(), label=args.label, condition=[args.batch], test_fraction=0.3, cache="memory"
    )
    likelihood = ZeroInflatedNegativeBinomial(library=True, dispersion="feature_batch")
    options: dict[str, Any] = {**data.suits, "latent_dim": 10, "lr": 3e-3}
    FOLDER.mkdir(exist_ok=True)
    for name in ("told of batches", "told of none"):
        pl.seed_everything(0, verbose=False)
        model: VAE
        if name == "told of none":
            model = VAE(**{**options, "likelihood": ZeroInflatedNegativeBinomial(library=True)})
        else:
            model = ConditionalVAE(
                **{**options, "likelihood": likelihood},
                num_classes=0,
                conditions=data.conditions,
                condition_encoder=False,
            )
        trainer = pl.Trainer(
            max_epochs=args.epochs, logger=False, enable_checkpointing=False, enable_model_summary=False
        )
        trainer.fit(model, data)
        model = model.cpu().eval()
        codes: dict[str, Tensor] = {}
        batches: dict[str, Tensor] = {}
        with torch.no_grad():
            for split in ("train", "test"):
                read = list(data.batches(split, 1000))
                codes[split] = torch.cat([model.encode(x, **given) for x, _, given in map(model.read, read)])
                batches[split] = torch.cat([each[data.condition_key][:, 0] for each in read])
        labels = {split: data.labels(split) for split in ("train", "test")}
        error = knn_error(codes["train"], labels["train"], codes["test"], labels["test"])
        print(
            f"{name:<16} {100 * same_batch(codes['test'], batches['test']):.1f} % of the neighbours of the own batch, "
            f"error about the type {100 * error:.1f} %"
        )
        if name == "told of batches":
            np.savez(FOLDER / "batches.npz", **{split: each.numpy() for split, each in codes.items()})
    print(f"written: {FOLDER / 'batches.npz'}")


if __name__ == "__main__":
    main()
