"""What codes are good for besides features, in six pictures of the digits that come with scikit-learn.

    python recipes/uses/latents.py
    python recipes/uses/latents.py --epochs 100 --sampler maf

- interpolation.png: from one digit to another, on a line and on a great circle;
- attribute.png: what a 3 has and an 8 has not, added to digits in steps;
- arithmetic.png: sums of codes;
- imputation.png: pixels of which a half is missing, by the others;
- classes.png: the same codes as each class, of a model that is given the class;
- samples.png: what a plain autoencoder generates when a density is fitted to its codes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_ae import Autoencoder, HFDataModule, get_model
from lightning_ae.architectures import MLP
from lightning_ae.callbacks.pictures import sample_figure
from lightning_ae.cli.sampling import KINDS, sampler_of
from lightning_ae.samplers import fit_sampler
from lightning_ae.uses import (
    arithmetic_figure,
    attribute_figure,
    attribute_vector,
    class_figure,
    imputation_figure,
    impute,
    interpolation_figure,
)

FOLDER = Path("uses")


def train(name: str, data: HFDataModule, epochs: int, **options: Any) -> Autoencoder:
    """A variant with a code of 8 units."""
    pl.seed_everything(0, verbose=False)
    model = get_model(name)((1, 8, 8), 8, architecture=MLP(hidden=(256,)), lr=2e-3, **options)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    return model.eval()


def digits(data: HFDataModule, split: str) -> tuple[Tensor, Tensor]:
    """The images of a split in [0, 1], (N, 1, 8, 8), and their classes."""
    batches = list(data.batches(split, 1024))
    return torch.cat([data.preprocess.inverse(batch["image"]) for batch in batches]), data.labels(split)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30, help="of each model")
    parser.add_argument("--sampler", default="mixture", choices=list(KINDS), help="what is fitted to the codes")
    args = parser.parse_args()

    began = time.monotonic()
    data = HFDataModule("digits", batch_size=128, num_workers=0)
    vae = train("vae", data, args.epochs)
    x, labels = digits(data, "test")
    of = {c: x[labels == c] for c in range(10)}

    pictures = {"interpolation": interpolation_figure(vae, x[:3], x[3:6], 9, ("linear", "spherical"))}

    train_x, train_labels = digits(data, "train")
    both = (train_labels == 3) | (train_labels == 8)
    less = attribute_vector(vae, train_x[both], train_labels[both] == 3)
    pictures["attribute"] = attribute_figure(vae, torch.cat([of[8][:3], of[0][:2]]), less, name="a 3, less an 8")
    pictures["arithmetic"] = arithmetic_figure(vae, of[9][:6], of[1][:6], of[8][:6])

    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    found = impute(vae, x, mask)
    mean = train_x.mean(dim=0, keepdim=True).expand_as(x)
    errors = [float((each - x)[~mask].square().mean()) for each in (found, mean)]
    pictures["imputation"] = imputation_figure(vae, x[:12], mask[:12], x[:12])

    given = train("conditional_vae", data, args.epochs, num_classes=10)
    pictures["classes"] = class_figure(given, 6)

    plain = train("ae", data, args.epochs)
    fit_sampler(plain, data, sampler_of(args.sampler))
    pictures["samples"] = sample_figure(plain, 64, 0, f"an autoencoder, and {type(plain.sampler.config).__name__}")

    FOLDER.mkdir(exist_ok=True)
    for name, figure in pictures.items():
        figure.savefig(FOLDER / f"{name}.png")
    print(f"a half of the pixels by the others: {100 * errors[0] / errors[1]:.0f} % of the mean digit's squared error")
    print(f"{len(pictures)} pictures in {time.monotonic() - began:.0f} s: {', '.join(pictures)}, in {FOLDER}/")


if __name__ == "__main__":
    main()
