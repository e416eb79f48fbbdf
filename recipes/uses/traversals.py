"""What the units of a code do, in one picture: a row of traversals for each of several variational autoencoders.

    python recipes/uses/traversals.py
    python recipes/uses/traversals.py --models vae,joint_vae,poincare_vae --epochs 100 --ways 4

Each is trained on the digits that come with scikit-learn. From the code of one test image its widest ways lead three
standard deviations to either side, as `LatentTraversal` draws them: codes on a sphere turn, those in a ball stay in it,
and categories, which come first, go class by class.
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
from lightning_ae.callbacks.measures import to_unit_interval
from lightning_ae.callbacks.pictures import traversals, unit_figure
from lightning_ae.parts import LinearDecay

FOLDER = Path("uses")
TITLE = "left: a test image; right of it the {} widest ways of its code, from -3 to +3 std or through all classes"
SETTINGS: dict[str, dict[str, Any]] = {
    "vae": {},
    "beta_vae": {"beta": 2.0},
    "beta_tc_vae": {"beta": 2.0},
    "vampprior_vae": {"pseudo_inputs": 50, "start": "data"},
    "ladder_vae": {"upper_dims": (4,)},
    "hyperspherical_vae": {},
    "poincare_vae": {},
    "categorical_vae": {"temperature_schedule": LinearDecay(last=0.5)},
    "joint_vae": {"capacity": 15.0},
}
"""The variants, and what they have otherwise than their defaults."""


def train(name: str, data: HFDataModule, epochs: int) -> Autoencoder:
    """A variant with a code of 8 units."""
    pl.seed_everything(0, verbose=False)
    shared: dict[str, Any] = {"architecture": MLP(hidden=(256,)), "lr": 2e-3}
    model = get_model(name)((1, 8, 8), 8, **shared, **SETTINGS.get(name, {}))
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    return model.eval()


@torch.no_grad()
def row(model: Autoencoder, x: Tensor, ways: int, steps: int) -> tuple[Tensor, str]:
    """The input, and its ways one after the other with a gap between; and what the ways are."""
    rows, names = traversals(model, x, steps, 3.0, ways)
    gap, longest = torch.ones(1, *x.shape[1:]), max(steps, 10)  # ten classes are more than nine steps
    parts = [to_unit_interval(model, x[:1])]
    for images in rows:
        parts += [gap, to_unit_interval(model, images), *[gap] * (longest - len(images))]
    return torch.cat(parts), ", ".join(name.split("  ")[0] for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(SETTINGS), help="names of the registry, with commas between")
    parser.add_argument("--epochs", type=int, default=30, help="of each")
    parser.add_argument("--ways", type=int, default=2, help="how many units to show of each, the widest first")
    parser.add_argument("--steps", type=int, default=9, help="images of each way")
    parser.add_argument("--image", type=int, default=3, help="the number of the test image to start from")
    args = parser.parse_args()

    data = HFDataModule("digits", batch_size=128, num_workers=0)
    rows, texts, began = [], [], time.monotonic()
    for name in args.models.split(","):
        model = train(name, data, args.epochs)
        x = torch.cat([model.read(batch)[0] for batch in data.batches("test", 256)])
        images, what = row(model, x.roll(-args.image, dims=0), args.ways, args.steps)
        rows.append(images)
        texts.append(f"{name}\n{what}")
    took = time.monotonic() - began
    figure = unit_figure(rows, texts, TITLE.format(args.ways))
    FOLDER.mkdir(exist_ok=True)
    figure.savefig(FOLDER / "traversals.png")
    print(f"{len(rows)} variants in {took:.0f} s; written to {FOLDER / 'traversals.png'}")


if __name__ == "__main__":
    main()
