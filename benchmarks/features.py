"""How good the codes of every variant are as features, beside raw pixels and principal components.

    python benchmarks/features.py digits
    python benchmarks/features.py mnist --data FOLDER --epochs 5

Each variant is trained by its recipe through the command line (`--epochs` shortens it), and then: the error of a
5-nearest-neighbour classifier and of logistic regression on the test split's codes, learned from the training split's
(at most 10 000 of them), and the squared error of the reconstruction. Writes benchmarks/features_<data set>.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import torch
from rich.console import Console

import lightning_ae as ae
from lightning_ae.cli.app import main as command_line
from lightning_ae.metrics import knn_error, linear_probe_error

ROOT = Path(__file__).parent.parent


def errors(train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    kept = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:10_000]
    train, labels = train[kept], labels[kept]
    return 100 * knn_error(train, labels, test, truth), 100 * linear_probe_error(train, labels, test, truth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_set", choices=["digits", "mnist", "fashion_mnist"])
    parser.add_argument("--data", help="a local folder instead of the recipe's hub id")
    parser.add_argument("--epochs", type=int, help="epochs for each variant, instead of the recipe's own")
    args = parser.parse_args()
    ids = {"digits": "digits", "mnist": "ylecun/mnist", "fashion_mnist": "zalando-datasets/fashion_mnist"}
    path = str(Path(args.data).resolve()) if args.data else ids[args.data_set]
    data = ae.HFDataModule(path, val_fraction=0.1 if args.data_set == "digits" else 0.05)
    read = {s: list(data.batches(s, 1000)) for s in ("train", "test")}
    x = {s: torch.cat([batch["image"] for batch in read[s]]) for s in read}
    y = {s: torch.cat([batch["label"] for batch in read[s]]) for s in read}
    flat = {s: x[s].flatten(1) for s in x}

    raw = errors(flat["train"], y["train"], flat["test"], y["test"])
    rows: list[tuple[str, int, float, float, float]] = [("raw pixels", flat["train"].shape[1], *raw, 0.0)]
    for k in (8, 16, 32):
        pca = ae.LinearAutoencoder(tuple(x["train"].shape[1:]), latent_dim=k)
        pca.initialize_from(x["train"])
        with torch.no_grad():
            codes = [pca.encode(x[s]) for s in ("train", "test")]
            distortion = float((pca(x["test"]) - x["test"]).square().flatten(1).sum(1).mean())
        rows.append((f"PCA-{k}", k, *errors(codes[0], y["train"], codes[1], y["test"]), distortion))
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for name in ae.list_models():
                words = [
                    "fit",
                    "-c",
                    name,
                    "-c",
                    args.data_set,
                    "--data.path",
                    path,
                    "--run_dir",
                    name,
                    "--trainer.callbacks",
                    "null",
                ]
                command_line(words + (["--trainer.max_epochs", str(args.epochs)] if args.epochs else []))
                (checkpoint,) = Path(name, "checkpoints").glob("*.ckpt")
                model = ae.load_model(checkpoint)
                with torch.no_grad():
                    parts = [[model.pool(model.encode(b)) for b in x[s].split(1000)] for s in ("train", "test")]
                    codes = [torch.cat(part) for part in parts]
                    output = torch.cat([model(batch) for batch in x["test"].split(1000)])
                distortion = float((output - x["test"]).square().flatten(1).sum(1).mean())
                found = errors(codes[0], y["train"], codes[1], y["test"])
                rows.append((f"`{name}`", codes[0].shape[1], *found, distortion))
        finally:
            os.chdir(here)

    epochs = f"{args.epochs} epochs each, not the recipes' own number" if args.epochs else "the recipes' own epochs"
    option = f" --epochs {args.epochs}" if args.epochs else ""
    lines = [
        f"# Codes as features: {args.data_set}",
        "",
        f"Made by `python benchmarks/features.py {args.data_set}{option}`: {epochs}, seed 0, "
        f"torch {torch.__version__}, codes of the last epoch; classifiers learn from at most 10 000 training codes.",
        "",
        "| features | dimensions | 5-NN error, % | logistic regression error, % | squared error of reconstruction |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {n} | {d} | {a:.2f} | {b:.2f} | {c:.3f} |" for n, d, a, b, c in rows]
    file = ROOT / "benchmarks" / f"features_{args.data_set}.md"
    file.write_text("\n".join(lines) + "\n")
    console = Console(highlight=False, soft_wrap=True)
    console.print("\n".join(lines[2:]))
    console.print(f"\nWritten\n  {file}")


if __name__ == "__main__":
    main()
