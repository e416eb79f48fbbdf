"""Photographs to embeddings, nearest neighbours and a map.

    python recipes/uses/photographs.py
    python recipes/uses/photographs.py --path photos/     # a folder of images, or a zip of them

Without --path it cuts 600 pieces of 64 x 64 pixels out of the two photographs that come with scikit-learn.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image as PILImage
from sklearn.datasets import load_sample_images
from sklearn.decomposition import PCA

from lightning_ae import VAE, HFDataModule
from lightning_ae.architectures import ConvNet
from lightning_ae.data import Image
from lightning_ae.parts import CosineDecay

FOLDER = Path("uses")


def pieces(folder: Path, pieces: int = 300, side: int = 64) -> str:
    """A folder of pieces of photographs, a folder within for each photograph."""
    rng = np.random.default_rng(0)
    for name, photograph in zip(("china", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(pieces):
            y, x = rng.integers(0, np.array(photograph.shape[:2]) - side)
            PILImage.fromarray(photograph[y : y + side, x : x + side]).save(folder / name / f"{i:03}.png")
    return str(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", help="a folder, or a zip, of photographs of your own")
    parser.add_argument("--size", type=int, default=64, help="height and width that they are brought to")
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()

    pl.seed_everything(0, verbose=False)
    path = args.path or pieces(FOLDER / "pieces")
    data = HFDataModule(path, kind=Image(size=(args.size, args.size), channels=3), batch_size=32)
    network = ConvNet(channels=(16, 32, 64), norm="group", activation="silu")
    model = VAE(data.input_shape, latent_dim=32, architecture=network, lr=2e-3, lr_schedule=CosineDecay())
    trainer = pl.Trainer(max_epochs=args.epochs, logger=False, enable_checkpointing=False, enable_model_summary=False)
    trainer.fit(model, data)

    model = model.cpu().eval()
    images, codes = [], []
    with torch.no_grad():
        for batch in data.batches("train", 128):
            x, _, given = model.read(batch)
            images.append(x)
            codes.append(model.pool(model.encode(x, **given)))
    image, code = torch.cat(images), torch.cat(codes)
    np.savez(FOLDER / "embeddings.npz", code=code.numpy(), **data.keys("train"))

    asked = torch.randperm(len(code), generator=torch.Generator().manual_seed(0))[:6]
    nearest = torch.cdist(code[asked], code).topk(7, largest=False).indices
    figure, axes = plt.subplots(len(asked), 7, figsize=(9, 8), layout="constrained")
    for row, indices in zip(axes, nearest, strict=True):
        for axis, index in zip(row, indices, strict=True):
            axis.imshow(image[index].permute(1, 2, 0).clamp(0, 1))
            axis.set_axis_off()
    figure.suptitle("left: a photograph; right of it its nearest neighbours by their codes")
    figure.savefig(FOLDER / "neighbours.png", dpi=110)

    figure, axis = plt.subplots(figsize=(9, 9), layout="constrained")
    where = PCA(2).fit_transform(code.numpy())
    half = 0.02 * np.ptp(where, axis=0).max()
    for (x, y), each in zip(where, image, strict=True):
        axis.imshow(each.permute(1, 2, 0).clamp(0, 1), extent=(x - half, x + half, y - half, y + half))
    (left, bottom), (right, top) = where.min(axis=0) - half, where.max(axis=0) + half
    axis.set(xlim=(left, right), ylim=(bottom, top), title="the codes' first two components")
    figure.savefig(FOLDER / "map.png", dpi=110)
    print(f"written to {FOLDER}: embeddings.npz ({tuple(code.shape)}, with files), neighbours.png, map.png")


if __name__ == "__main__":
    main()
