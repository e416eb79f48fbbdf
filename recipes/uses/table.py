"""A CSV with categories and gaps: codes of its rows, and its missing values filled in.

    python recipes/uses/table.py
    python recipes/uses/table.py --path my.csv --categories city product

Without --path it writes a CSV of 3000 orders to ./uses, of which it hides 10 % of the values, and compares what is
filled in with what was hidden.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch

from lightning_ae import VAE, HFDataModule
from lightning_ae.data import Tabular

FOLDER = Path("uses")


def orders(rows: int = 3000) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Orders of which all columns hang together; what they hold; and where a number is hidden."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 4, rows)
    size = rng.normal(0, 1, rows)
    numbers = np.stack(
        [
            np.exp(3 + 0.8 * kind + 0.5 * size + rng.normal(0, 0.1, rows)),  # a price
            2 + kind + size + rng.normal(0, 0.3, rows),  # a weight
            30 - 5 * kind + 3 * size + rng.normal(0, 1, rows),  # days
        ],
        axis=1,
    )
    hidden = rng.random(numbers.shape) < 0.1
    frame = pd.DataFrame(np.where(hidden, np.nan, numbers), columns=["price", "weight", "days"])
    frame["product"] = np.array(["lamp", "chair", "table", "sofa"])[kind]
    frame["city"] = rng.choice(["Aachen", "Bonn", "Celle"], rows)
    return frame, numbers, hidden


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", help="a CSV of your own")
    parser.add_argument("--categories", nargs="*", default=["product", "city"], help="its columns of categories")
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args()

    FOLDER.mkdir(exist_ok=True)
    path, known = args.path, None
    if path is None:
        frame, *known = orders()
        path = str(FOLDER / "orders.csv")
        frame.to_csv(path, index=False)
    frame = pd.read_csv(path)

    pl.seed_everything(0, verbose=False)
    # quantiles bring prices, which spread over decades, to the scale of the others
    kind = Tabular(categories=tuple(args.categories), missing="masked", scaling="quantile")
    data = HFDataModule(path, kind=kind)
    model = VAE(**data.suits, latent_dim=4, lr=3e-3)
    trainer = pl.Trainer(max_epochs=args.epochs, logger=False, enable_checkpointing=False, enable_model_summary=False)
    trainer.fit(model, data)

    model = model.cpu().eval()
    codes = model.features(frame)
    pd.DataFrame(codes.numpy()).add_prefix("code").to_csv(FOLDER / "codes.csv", index=False)
    names = [name for name in data.input_columns if name not in args.categories]
    places = [data.input_columns.index(name) for name in names]
    with torch.no_grad():
        filled = frame.copy()
        expected = pd.DataFrame(data.preprocess.inverse(model.decode(codes)).numpy()[:, places], columns=names)
        filled[names] = filled[names].fillna(expected)
    filled.to_csv(FOLDER / "filled.csv", index=False)
    if known is not None:
        numbers, hidden = known
        print("error of what was hidden, as a share of the column's variance (1 is the mean's):")
        for i, name in enumerate(names):
            wrong = expected[name].to_numpy()[hidden[:, i]] - numbers[hidden[:, i], i]
            print(f"  {name:<8} {(wrong**2).mean() / numbers[:, i].var():.2f}")
    print(f"written: {FOLDER / 'codes.csv'} (a row's code) and {FOLDER / 'filled.csv'} (its gaps filled in)")


if __name__ == "__main__":
    main()
