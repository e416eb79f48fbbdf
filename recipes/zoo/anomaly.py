"""Anomaly detection: a VAE learns all classes but one, and then has to tell that one from the others.

    python recipes/zoo/anomaly.py
    python recipes/zoo/anomaly.py --data zalando-datasets/fashion_mnist --entry vae_conv.fashion_mnist_v1 --epochs 5

The networks and the preprocessing are those of an entry of the zoo; the weights are trained anew, since the entry has
seen all classes. Scores of the test split: the reconstruction's squared error, and the negative evidence lower bound
of the log-likelihood (the mean of 8 draws). AUROC 0.5 is chance, 1 is perfect.
"""

from __future__ import annotations

import argparse
import math

import pytorch_lightning as pl
import torch
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader, TensorDataset

from lightning_ae import VAE, HFDataModule, zoo


@torch.no_grad()
def scores(model: VAE, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """How odd each sample of `x` (N, *input_shape) is, by two measures: (N,) each."""
    error = (model(x) - x).square().flatten(1).sum(dim=1)
    fit = torch.stack([model.log_likelihood(model.draw(x), x) for _ in range(8)]).mean(dim=0)
    return {"squared error": error, "negative ELBO": model.rate(x) * math.log(2) - fit}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entry", default="vae_mlp.digits_v1", help="a VAE of the zoo, for its networks")
    parser.add_argument("--data", default="digits", help="a hub id, a local folder, digits or fashion")
    parser.add_argument("--held_out", type=int, default=8, help="the class that is not seen in training")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    pl.seed_everything(args.seed, verbose=False)
    model = VAE(**zoo.info(args.entry).config)
    data = HFDataModule(args.data, val_fraction=0)
    data.prepare_data()
    x, y = {}, {}
    for split in ("train", "test"):
        batches = list(data.batches(split, 1000))
        x[split], y[split] = (torch.cat([batch[key] for batch in batches]) for key in ("image", "label"))

    seen = x["train"][y["train"] != args.held_out]
    trainer = pl.Trainer(max_epochs=args.epochs, logger=False, enable_checkpointing=False, enable_model_summary=False)
    trainer.fit(model, DataLoader(TensorDataset(seen), batch_size=128, shuffle=True, drop_last=True))

    model = model.cpu().eval()
    found = [scores(model, part) for part in x["test"].split(1000)]
    odd = (y["test"] == args.held_out).numpy()
    print(f"class {args.held_out} held out: {odd.sum()} of {len(odd)} test samples, {args.epochs} epochs")
    for name in found[0]:
        print(f"  {name:<14} AUROC {roc_auc_score(odd, torch.cat([part[name] for part in found]).numpy()):.3f}")


if __name__ == "__main__":
    main()
