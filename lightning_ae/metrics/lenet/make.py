"""Trains the LeNet and writes its weights: `python -m lightning_ae.metrics.lenet.make [--data FOLDER]`.

FOLDER has copies of the data sets, mnist/ and fashion_mnist/; by default they come from the hub. One core takes some
minutes. Sums of floats have another order on another machine, so that its weights differ in their last digits, and so
does the hash that it prints: therefore the file is kept, and not made anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_ae.files import whole_file
from lightning_ae.metrics.lenet import SHA256, WEIGHTS, LeNet

DATA = {"mnist": "ylecun/mnist", "fashion_mnist": "zalando-datasets/fashion_mnist"}
EPOCHS, BATCH, PEAK = 12, 256, 4e-3


def main() -> None:
    """Trains with the seed 0, measures on both test splits, and writes the file with what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with copies of the data sets")
    folder = parser.parse_args().data
    paths = {name: str((folder / name).resolve()) if folder else hub for name, hub in DATA.items()}

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)
    model = train(*joined([read(path, "train", 10 * i) for i, path in enumerate(paths.values())]))
    accuracies = {}
    for i, (name, path) in enumerate(paths.items()):
        accuracies[name] = accuracy(model, *read(path, "test", 10 * i))
        print(f"{name}: {accuracies[name]:.4f} of the test images", flush=True)

    from safetensors.torch import save

    about = {"seed": 0, "epochs": EPOCHS, "accuracy": {name: round(share, 4) for name, share in accuracies.items()}}
    weights = {name: value.float().contiguous() for name, value in model.state_dict().items()}
    with whole_file(WEIGHTS) as part:
        # under one key, since of several the order is another each time
        part.write_bytes(save(weights, {"about": json.dumps(about)}))
    digest = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    print(f"sha256 {digest}" + ("" if digest == SHA256 else ": write it into lenet/__init__.py"))


def read(path: str, split: str, first: int) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) in [0, 1] and classes (N,), numbered from `first`."""
    import numpy as np
    from datasets import load_dataset

    data: Any = load_dataset(path, split=split)
    images = torch.from_numpy(np.stack([np.asarray(image) for image in data["image"]]))
    return images.unsqueeze(1).float() / 255, torch.tensor(data["label"]) + first


def joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Sets one after the other."""
    images, labels = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(labels)


def train(images: Tensor, labels: Tensor) -> LeNet:
    """A network that tells the classes (N,) of images (N, 1, 28, 28) apart: AdamW, whose rate rises once and falls."""
    fast: Any = LeNet().float()
    optimizer = torch.optim.AdamW(fast.parameters(), lr=PEAK, weight_decay=0.05)
    steps = EPOCHS * math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=steps)
    for epoch in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(BATCH):
            loss = F.cross_entropy(fast.output(fast.hidden(images[rows])), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {float(loss.detach()):.3f}", flush=True)
    # as it will be loaded: weights in float32, computed with in float64
    trained: LeNet = fast.double()
    return trained.eval()


@torch.no_grad()
def accuracy(model: LeNet, images: Tensor, labels: Tensor) -> float:
    """The share of images (N, 1, 28, 28) whose class (N,) gets the greatest logit of all 20."""
    right = [model.logits(x).argmax(1) == y for x, y in zip(images.split(1000), labels.split(1000), strict=True)]
    return float(torch.cat(right).double().mean())


if __name__ == "__main__":
    main()
