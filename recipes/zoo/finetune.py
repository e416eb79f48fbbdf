"""A pretrained encoder inside a LightningModule of one's own: first the new layer, then all of it.

python recipes/zoo/finetune.py
python recipes/zoo/finetune.py --encoder denoising_conv.mnist_v1 --data ylecun/mnist --epochs 5
"""

from __future__ import annotations

import argparse
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_ae import HFDataModule, zoo


class Classifier(pl.LightningModule):
    """A linear layer on the features; the encoder joins in after the first epochs."""

    def __init__(self, encoder: str, classes: int = 10, lr: float = 1e-3, frozen_epochs: int = 1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.encoder = zoo.load_encoder(encoder)
        self.head = nn.Linear(self.encoder.feature_dim, classes)
        self.accuracy = MulticlassAccuracy(classes, average="micro")

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == self.hparams["frozen_epochs"]:
            self.encoder.unfreeze().train()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.head(self.encoder(batch["image"])), batch["label"])

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.accuracy(self.head(self.encoder(batch["image"])), batch["label"])
        self.log("test/accuracy", self.accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), self.hparams["lr"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="denoising_mlp.digits_v1", help="an entry: lightning-ae zoo list")
    parser.add_argument("--data", default="digits", help="a hub id, a local folder, digits or fashion")
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()

    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(max_epochs=args.epochs, logger=False, enable_checkpointing=False, enable_model_summary=False)
    data = HFDataModule(args.data, val_fraction=0)
    model = Classifier(args.encoder)
    trainer.fit(model, data)
    (result,) = trainer.test(model, data, verbose=False)
    print(f"{args.encoder}: test error {100 * (1 - result['test/accuracy']):.2f} %")


if __name__ == "__main__":
    main()
