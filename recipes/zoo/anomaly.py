"""Anomaly detection: a VAE learns all classes but one, and then has to tell that one from the others.

    python recipes/zoo/anomaly.py
    python recipes/zoo/anomaly.py --data zalando-datasets/fashion_mnist --entry vae_conv.fashion_mnist_v1 --epochs 5

The networks and the preprocessing are those of an entry of the zoo; the weights are trained anew, since the entry has
seen all classes. Scores of the test split: the negative evidence lower bound, by one draw and by several, which make
it tighter, and need not tell classes apart any better. AUROC 0.5 is chance, 1 is perfect. Of a checkpoint of your own,
`lightning-ae score CHECKPOINT --anomaly 8` does the same.
"""

from __future__ import annotations

import argparse

import pytorch_lightning as pl
import torch
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader, TensorDataset

from lightning_ae import VAE, HFDataModule, zoo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entry", default="vae_mlp.digits_v1", help="a VAE of the zoo, for its networks")
    parser.add_argument("--data", default="digits", help="a hub id, a local folder, digits or fashion")
    parser.add_argument("--held_out", type=int, default=8, help="the class that is not seen in training")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--draws", type=int, default=16, help="of the tighter bound")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    pl.seed_everything(args.seed, verbose=False)
    model = VAE(**zoo.info(args.entry).config)
    data = HFDataModule(args.data, val_fraction=0)
    data.prepare_data()
    train = list(data.batches("train", 1000))
    x, y = (torch.cat([batch[key] for batch in train]) for key in ("image", "label"))
    trainer = pl.Trainer(max_epochs=args.epochs, logger=False, enable_checkpointing=False, enable_model_summary=False)
    trainer.fit(model, DataLoader(TensorDataset(x[y != args.held_out]), batch_size=128, shuffle=True, drop_last=True))

    odd = data.labels("test") == args.held_out
    print(f"class {args.held_out} held out: {int(odd.sum())} of {len(odd)} test samples, {args.epochs} epochs")
    for draws in (1, args.draws):
        scores = torch.cat([found.score for found in model.score_rows(data, "test", draws=draws)])
        by = "1 draw" if draws == 1 else f"{draws} draws"
        print(f"  {by:<10} AUROC {roc_auc_score(odd, scores.cpu()):.3f}")


if __name__ == "__main__":
    main()
