"""What the tests of the codecs work on: a picture, a folder of two, checkpoints of models as they begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image


def picture(height: int = 21, width: int = 34, channels: int = 3) -> Image.Image:
    y, x = np.mgrid[:height, :width] / 9
    found = np.stack([127 + 120 * np.sin(x + c) * np.cos(y - 2 * c) for c in range(channels)], axis=2).astype(np.uint8)
    return Image.fromarray(found if channels == 3 else found[:, :, 0])


def photos(folder: Path) -> Path:
    """The folder, in which "photos" has one in colour, and one in grey in a folder of its own."""
    (folder / "photos" / "sub").mkdir(parents=True)
    picture().save(folder / "photos" / "a.png")
    picture(8, 9, 1).save(folder / "photos" / "sub" / "grey.png")
    return folder


def checkpoint(model: Any, file: Path) -> str:
    """That of a model without any step of training."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=0, accelerator="cpu", **quiet)
    trainer.fit(model, torch.utils.data.DataLoader(torch.zeros(1, 3, 8, 8)))
    trainer.save_checkpoint(file)
    return str(file)
