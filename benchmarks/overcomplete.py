"""What an overcomplete code learns without a constraint, and with each of five: one command prints the table.

    python benchmarks/overcomplete.py

On the embedded digits (64 pixels), a linear code of 256 units and a linear decoder. Without a constraint the
reconstruction's error goes to zero, by a map that comes near the identity, and the codes tell the classes apart no
better than the pixels do. Each constraint gives up some of that error. "Noise in" is the error on uniform noise instead
of digits: an identity reconstructs that as well, but for the pixels that are the same in all digits, of which training
says nothing; reconstructing it by grey would cost 5.3. Writes benchmarks/overcomplete.md.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytorch_lightning as pl
import torch
from rich.console import Console

import lightning_ae as ae
from lightning_ae.architectures import MLP
from lightning_ae.metrics import knn_error, linear_probe_error
from lightning_ae.parts.corruptions import Masking

UNITS = 256
SHAPE = (1, 8, 8)
LINEAR = MLP(hidden=())


def cases() -> dict[str, ae.Autoencoder]:
    """A model for each row; the optimizers differ by weight decay only."""
    return {
        "none": ae.Autoencoder(SHAPE, UNITS, architecture=LINEAR),
        "weight decay 3": ae.Autoencoder(SHAPE, UNITS, architecture=LINEAR, weight_decay=3.0),
        "dropout 0.5 (hidden 256)": ae.Autoencoder(SHAPE, UNITS, architecture=MLP(hidden=(256,), dropout=0.5)),
        "sparsity, KL to 0.05": ae.SparseAutoencoder(SHAPE, UNITS, sparsity_weight=0.3, architecture=LINEAR),
        "noise, masking 0.5": ae.DenoisingAutoencoder(SHAPE, UNITS, corruption=Masking(0.5), architecture=LINEAR),
        "contraction 0.3": ae.ContractiveAutoencoder(SHAPE, UNITS, contraction=0.3, architecture=LINEAR),
    }


def both_splits(data: ae.HFDataModule) -> list[tuple[torch.Tensor, torch.Tensor]]:
    batches = [next(data.batches(split, 2000)) for split in ("train", "test")]
    return [(batch["image"], batch["label"]) for batch in batches]


def measure(model: ae.Autoencoder, data: ae.HFDataModule, epochs: int) -> dict[str, float]:
    """Trains, and gives the errors on test digits and on noise, and those of two classifiers on the codes (percent)."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=epochs, logger=False, enable_checkpointing=False, enable_model_summary=False, accelerator="cpu",
            enable_progress_bar=False, default_root_dir=folder, num_sanity_val_steps=0, limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(model, data)
    model.eval()
    noise = torch.rand(1000, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (train, labels), (test, truth) = both_splits(data)

        def error(x: torch.Tensor) -> float:
            return float((model(x) - x).square().flatten(1).sum(dim=1).mean())

        codes = model.encode(train), model.encode(test)
    return {
        "error": error(test),
        "noise": error(noise),
        "knn": 100 * knn_error(codes[0], labels, codes[1], truth),
        "probe": 100 * linear_probe_error(codes[0], labels, codes[1], truth),
    }


def main() -> None:
    epochs = 100
    data = ae.HFDataModule("digits", val_fraction=0.0, batch_size=64)
    (train, labels), (test, truth) = both_splits(data)
    pixels = (train.flatten(1), labels, test.flatten(1), truth)
    lines = [
        "# Overcomplete codes: the identity, and what forbids it",
        "",
        f"Made by `python benchmarks/overcomplete.py`: the embedded digits, {UNITS} code units for 64 pixels, one "
        f"layer each way (one more with dropout), AdamW 1e-3, batch 64, {epochs} epochs, seed 0, "
        f"torch {torch.__version__}.",
        "",
        "| constraint | squared error, test digits | noise in | 5-NN error, % | logistic regression error, % |",
        "|---|---|---|---|---|",
        f"| (raw pixels) | 0 | 0 | {100 * knn_error(*pixels):.2f} | {100 * linear_probe_error(*pixels):.2f} |",
    ]
    console = Console(highlight=False, soft_wrap=True)
    for name in cases():
        pl.seed_everything(0, verbose=False)
        found = measure(cases()[name], data, epochs)
        lines.append(
            f"| {name} | {found['error']:.4f} | {found['noise']:.4f} | {found['knn']:.2f} | {found['probe']:.2f} |"
        )
        console.print(lines[-1])
    file = Path(__file__).parent / "overcomplete.md"
    file.write_text("\n".join(lines) + "\n")
    console.print(f"\nWritten\n  {file}")


if __name__ == "__main__":
    main()
