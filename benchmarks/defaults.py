"""What the plain call learns: `VAE(data.input_shape)`, no other option, ten epochs, on data of each kind.

    python benchmarks/defaults.py [--write benchmarks/defaults.md]

The 5-nearest-neighbour error of the test split on the codes (the posterior's mean), beside as many principal
components, the inputs as the model takes them and the untrained encoder; and the units that are in use (Burda et al.
2016).
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from datasets import ClassLabel, Dataset, DatasetDict
from sklearn.datasets import load_breast_cancer

from lightning_ae import VAE, HFDataModule
from lightning_ae.architectures import ConvNet
from lightning_ae.metrics import ActiveUnits, compare_codes

DATA = Path(__file__).parents[2] / "shared" / "data"
EPOCHS, SEEDS = 10, (0, 1, 2)


def digits() -> HFDataModule:
    return HFDataModule("digits")


def fashion() -> HFDataModule:
    return HFDataModule("fashion")


def table() -> HFDataModule:
    found = load_breast_cancer()
    rows = Dataset.from_dict(
        {**{str(n): found.data[:, i] for i, n in enumerate(found.feature_names)}, "label": found.target}
    )
    rows = rows.cast_column("label", ClassLabel(names=list(found.target_names)))
    return HFDataModule(DatasetDict(rows.train_test_split(0.3, seed=0)), cache="memory")


def cifar10() -> HFDataModule:
    path = DATA / "cifar10"
    return HFDataModule(str(path) if path.is_dir() else "uoft-cs/cifar10")


ROWS: dict[str, tuple[Callable[[], HFDataModule], dict[str, Any], str]] = {
    "digits": (digits, {}, "embedded, 8 x 8"),
    "fashion": (fashion, {}, "embedded part of Fashion-MNIST, 28 x 28"),
    "table": (table, {}, "breast cancer of scikit-learn, 30 columns"),
    "cifar10": (cifar10, {}, "CIFAR-10, 32 x 32, re-encoded as JPEG"),
    "cifar10, ConvNet": (cifar10, {"architecture": ConvNet()}, "the same"),
}


def trained(make: Callable[[], HFDataModule], options: dict[str, Any], seed: int) -> tuple[VAE, HFDataModule]:
    pl.seed_everything(seed, verbose=False)
    data = make()
    model = VAE(data.input_shape, **options)
    trainer = pl.Trainer(
        max_epochs=EPOCHS, logger=False, enable_checkpointing=False, enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data)
    return model, data


def row(name: str, seed: int) -> dict[str, float]:
    make, options, _ = ROWS[name]
    model, data = trained(make, options, seed)
    errors = compare_codes(model, data)
    units = ActiveUnits(model.feature_dim)
    kl = []
    with torch.no_grad():
        for batch in data.batches("test", 1024):
            x, target, given = model.read(batch)
            units.update(model.units(model.encode(x, **given)))
            kl.append(model.loss(x, target, **given)["kl"] * len(x))
    return {**errors, "active": float(units.compute()), "units": model.feature_dim,
            "kl": float(sum(kl)) / len(data.dataset("test"))}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    lines = [
        "| data | codes | PCA | inputs | untrained | units in use | KL (nats) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in args.only:
        found = [row(name, seed) for seed in args.seeds]

        def told(key: str, scale: float = 100.0, digits: int = 2, found: list[dict[str, float]] = found) -> str:
            values = [scale * each[key] for each in found]
            mean = sum(values) / len(values)
            spread = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if max(values) > min(values) else ""
            return f"{mean:.{digits}f}{spread}"

        lines.append(
            f"| {name} ({ROWS[name][2]}) | {told('codes')} | {told('pca')} | {told('inputs')} | {told('untrained')} | "
            f"{told('active', 1, 0)} of {found[0]['units']:.0f} | {told('kl', 1, 1)} |"
        )
        print(lines[-1], flush=True)
    if args.write:
        args.write.write_text(
            "# What the plain call learns\n\n"
            f"`VAE(data.input_shape)` and no other option, {EPOCHS} epochs, batches of 128; 5-nearest-neighbour error "
            f"of the test split in %, mean of seeds {', '.join(map(str, args.seeds))} (least to largest). Made by "
            "`python benchmarks/defaults.py --write benchmarks/defaults.md`.\n\n" + "\n".join(lines) + "\n"
        )


if __name__ == "__main__":
    main()
