"""What beta trades: the rate-distortion curve of variational autoencoders, each trained with another beta.

    python recipes/uses/rate_distortion.py
    python recipes/uses/rate_distortion.py --betas 0.1,1,10 --epochs 100

Each is trained on the digits that come with scikit-learn, with a Gaussian of fixed scale, so that beta alone says how
many bits a code may cost (Alemi et al. 2018, https://arxiv.org/abs/1711.00464). An autoencoder's curve, whose codes are
quantised, stands beside theirs.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lightning_ae import HFDataModule, get_model
from lightning_ae.architectures import MLP
from lightning_ae.callbacks.measures import read_input
from lightning_ae.metrics.rate_distortion import rate_distortion, write_rate_distortion
from lightning_ae.parts import Gaussian

FOLDER = Path("uses")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--betas", default="0.1,0.3,1,3,10", help="with commas between")
    parser.add_argument("--epochs", type=int, default=30, help="of each")
    args = parser.parse_args()

    data = HFDataModule("digits", batch_size=128, num_workers=0)
    models: dict[str, tuple[str, dict[str, Any]]] = {
        f"beta {beta}": ("vae", {"beta": float(beta)}) for beta in args.betas.split(",")
    }
    models["autoencoder"] = ("ae", {})
    points, began = [], time.monotonic()
    for title, (name, options) in models.items():
        pl.seed_everything(0, verbose=False)
        model = get_model(name)(
            (1, 8, 8), 8, architecture=MLP(hidden=(256,)), likelihood=Gaussian(0.2), lr=2e-3, **options
        )
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=args.epochs, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(model, datamodule=data)
        model.eval()
        (train, of_train), (test, of_test) = (read_input(model, data.some_rows(s, 500)) for s in ("train", "test"))
        points += rate_distortion(model, test, "test", train, of_test, of_train, title)
    for point in points:
        print(f"{point.model:<12} {point.rate:6.1f} bits  {point.distortion:.3f}")
    FOLDER.mkdir(exist_ok=True)
    files = write_rate_distortion(points, FOLDER)
    print(f"{len(models)} models in {time.monotonic() - began:.0f} s; written to {' and '.join(map(str, files))}")


if __name__ == "__main__":
    main()
