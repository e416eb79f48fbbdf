"""A machine's sensors: which stretches of time are strange.

    python recipes/uses/sensors.py
    python recipes/uses/sensors.py --path log.csv --time t --group machine --length 64

Without --path it makes logs of two machines with three sensors each, normal ones to learn from and one with faults, and
says how well the faults stand out: AUROC .5 is chance, 1 is perfect. The score is the negative evidence lower bound in
nats, the mean of 8 draws.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from sklearn.metrics import roc_auc_score

from lightning_ae import VAE, HFDataModule
from lightning_ae.data import Sequence

FOLDER = Path("uses")


def log(steps: int, seed: int, faults: int = 0) -> pd.DataFrame:
    """Two machines whose sensors swing together; in a fault one of them goes its own way for 40 steps."""
    rng = np.random.default_rng(seed)
    parts = []
    for machine in ("press", "saw"):
        t = np.arange(steps)
        phase = 2 * np.pi * np.cumsum(rng.normal(1 / 25, 1 / 250, steps))
        values = np.stack([np.sin(phase), np.cos(phase), np.sin(2 * phase)], axis=1) + rng.normal(0, 0.1, (steps, 3))
        fault = np.zeros(steps, bool)
        for start in rng.choice(steps // 100, faults, replace=False) * 100 + 30:
            sensor = rng.integers(3)
            values[start : start + 40, sensor] = values[start, sensor] + rng.normal(0, 0.1, 40)  # it sticks
            fault[start : start + 40] = True
        columns = {"machine": machine, "t": t, "load": values[:, 0], "speed": values[:, 1], "hum": values[:, 2]}
        parts.append(pd.DataFrame({**columns, "fault": fault}))
    return pd.concat(parts, ignore_index=True)


@torch.no_grad()
def scores(model: VAE, data: HFDataModule, split: str) -> np.ndarray:
    """How strange each window is, in nats."""
    found = []
    for batch in data.batches(split, 512):
        x, target, given = model.read(batch)
        fit = torch.stack([model.log_likelihood(model.draw(x, **given), target, **given) for _ in range(8)]).mean(dim=0)
        found.append(model.rate(x, **given) * math.log(2) - fit)
    return torch.cat(found).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", help="a table of your own, a row for each step")
    parser.add_argument("--time", default="t", help="the column of times")
    parser.add_argument("--group", default="machine", help="the column of machines")
    parser.add_argument("--length", type=int, default=32, help="steps in a window")
    parser.add_argument("--epochs", type=int, default=30)
    args = parser.parse_args()

    pl.seed_everything(0, verbose=False)
    FOLDER.mkdir(exist_ok=True)
    own = args.path is not None
    rows = args.path if own else {"train": log(4000, seed=0), "test": log(2000, seed=1, faults=6)}
    columns = None if own else ("load", "speed", "hum")
    kind = Sequence(length=args.length, columns=columns, group=args.group, time=args.time)
    data = HFDataModule(rows, kind=kind, label=None if own else "fault", cache="memory")
    model = VAE(**data.suits, latent_dim=8)
    trainer = pl.Trainer(max_epochs=args.epochs, logger=False, enable_checkpointing=False, enable_model_summary=False)
    trainer.fit(model, data)

    model = model.cpu().eval()
    split = "test" if data.has("test") else "val"
    found, keys = scores(model, data, split), data.keys(split)
    pd.DataFrame({**keys, "score": found}).sort_values("score", ascending=False).to_csv(
        FOLDER / "windows.csv", index=False
    )
    figure, axes = plt.subplots(figsize=(10, 3), layout="constrained")
    axes.plot(keys["row"], found, ".-", lw=0.5)
    axes.set(xlabel="first row of the window", ylabel="score (nats)", title="higher is stranger")
    if not own:
        fault = data.labels(split).numpy().astype(bool)
        axes.plot(keys["row"][fault], found[fault], "r.", label="ends in a fault")
        axes.legend()
        print(f"AUROC of windows that end in a fault: {roc_auc_score(fault, found):.3f}")
    figure.savefig(FOLDER / "windows.png", dpi=120)
    print(f"written: {FOLDER / 'windows.csv'} (the strangest windows first) and {FOLDER / 'windows.png'}")


if __name__ == "__main__":
    main()
