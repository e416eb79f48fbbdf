"""A count matrix to a latent space: cells by genes, documents by words, customers by products.

    python recipes/uses/counts.py
    python recipes/uses/counts.py --path cells.h5ad --label cell_type     # pip install "lightning_ae[counts]"

Without --path it draws counts of 3000 cells of six types over 500 genes, of depths that differ tenfold, and compares
the codes with principal components of log(1 + 10^4 count / depth), as is usual, by their nearest neighbours.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from scipy import sparse
from sklearn.decomposition import PCA

from lightning_ae import VAE, HFDataModule
from lightning_ae.data import Counts
from lightning_ae.metrics import knn_error

FOLDER = Path("uses")


def cells(rows: int = 3000, genes: int = 500, types: int = 6) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Counts (rows, genes) and the type of each row."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, types, rows)
    share = rng.dirichlet(np.full(genes, 0.3))
    shares = share * np.exp(rng.normal(0, 0.5, (types, genes)) * (rng.random((types, genes)) < 0.2))
    depth = np.exp(rng.uniform(np.log(200), np.log(2000), rows))
    mean = depth[:, None] * (shares / shares.sum(axis=1, keepdims=True))[kind]
    return sparse.csr_matrix(rng.poisson(rng.gamma(2.0, mean / 2.0))), kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", help="an .h5ad file, or a table of whole numbers, of your own")
    parser.add_argument("--label", help="its column of types, where it has one")
    parser.add_argument("--layer", help='of an .h5ad file, or "raw"; by default X')
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args()

    pl.seed_everything(0, verbose=False)
    path = cells() if args.path is None else args.path
    data = HFDataModule(path, name=args.layer, kind=Counts(), label=args.label, test_fraction=0.2, cache="memory")
    model = VAE(**data.suits, latent_dim=8, lr=3e-3)
    trainer = pl.Trainer(max_epochs=args.epochs, logger=False, enable_checkpointing=False, enable_model_summary=False)
    trainer.fit(model, data)

    model = model.cpu().eval()
    codes, inputs = {}, {}
    with torch.no_grad():
        for split in ("train", "test"):
            read = [model.read(batch) for batch in data.batches(split, 1000)]
            codes[split] = torch.cat([model.encode(x, **given) for x, _, given in read])
            inputs[split] = torch.cat([x for x, _, _ in read])
    FOLDER.mkdir(exist_ok=True)
    np.savez(FOLDER / "codes.npz", **{split: each.numpy() for split, each in codes.items()})
    if data.has_classes:
        usual = {split: (1e4 * x / x.sum(dim=1, keepdim=True).clamp(min=1)).log1p() for split, x in inputs.items()}
        pca = PCA(model.feature_dim, svd_solver="full").fit(usual["train"].numpy())
        projected = {split: torch.from_numpy(pca.transform(x.numpy())) for split, x in usual.items()}
        labels = {split: data.labels(split) for split in ("train", "test")}
        print("5-nearest-neighbour error of the test rows' types:")
        for name, each in {"the codes": codes, f"{model.feature_dim} principal components": projected}.items():
            print(f"  {name:<24} {100 * knn_error(each['train'], labels['train'], each['test'], labels['test']):.1f} %")
    print(f"written: {FOLDER / 'codes.npz'}")


if __name__ == "__main__":
    main()
