"""What the plain call learns: `VAE(data.input_shape)`, no other option, ten epochs, on data of each kind.

And, on the digits, what that of every variant that generates does.

    python benchmarks/defaults.py [--write benchmarks/defaults.md]

The 5-nearest-neighbour error of the test split on the codes (the posterior's mean), beside as many principal
components, the inputs as the model takes them and the untrained encoder; and the units that are in use (Burda et al.
2016).
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from datasets import ClassLabel, Dataset, DatasetDict
from scipy.linalg import subspace_angles
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA

from lightning_ae import Autoencoder, HFDataModule, LinearAutoencoder, get_model, list_models
from lightning_ae.architectures import ConvNet
from lightning_ae.metrics import ActiveUnits, compare_codes

DATA = Path(__file__).parents[2] / "shared" / "data"
EPOCHS, SEEDS = 10, (0, 1, 2)
LINEAR_EPOCHS, LINEAR_BATCHES = 20, (128, 512)


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


Row = tuple[Callable[[], HFDataModule], dict[str, Any], str, tuple[int, ...]]
ROWS: dict[str, Row] = {
    "digits": (digits, {}, "embedded, 8 x 8", SEEDS),
    "fashion": (fashion, {}, "embedded part of Fashion-MNIST, 28 x 28", SEEDS),
    "fashion, ConvNet": (fashion, {"architecture": ConvNet()}, "the same", SEEDS),
    "table": (table, {}, "breast cancer of scikit-learn, 30 columns", SEEDS),
    "cifar10": (cifar10, {}, "CIFAR-10, 32 x 32, re-encoded as JPEG", SEEDS),
    "cifar10, ConvNet": (cifar10, {"architecture": ConvNet()}, "the same", SEEDS[:1]),  # which takes the longest
}


VARIANTS = [name for name in list_models() if get_model(name).generates]
"""Which have a row of their own on the digits."""
VARIANT_EPOCHS = 60


def trained(
    make: Callable[[], HFDataModule], options: dict[str, Any], seed: int, variant: str = ""
) -> tuple[Autoencoder, HFDataModule]:
    pl.seed_everything(seed, verbose=False)
    data = make()
    model = get_model(variant or "vae")(data.input_shape, **options)
    trainer = pl.Trainer(
        max_epochs=VARIANT_EPOCHS if variant else EPOCHS, logger=False, enable_checkpointing=False,
        enable_progress_bar=sys.stderr.isatty(), enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data)
    return model, data


def row(name: str, seed: int) -> dict[str, float]:
    make, options = (digits, {}) if name in VARIANTS else ROWS[name][:2]
    model, data = trained(make, options, seed, name if name in VARIANTS else "")
    errors = compare_codes(model, data)
    rate = []
    units: ActiveUnits | None = None
    with torch.no_grad():
        for batch in data.batches("test", 1024):
            x, _, given = model.read(batch)
            values = model.units(model.encode(x, **given))
            units = ActiveUnits(values.shape[1]) if units is None else units
            units.update(values)
            bits = model.rate(x, **given)
            rate.append(torch.full((len(x),), float("nan")) if bits is None else bits)
    assert units is not None
    return {**errors, "active": float(units.compute()), "units": values.shape[1],
            "kl": math.log(2) * float(torch.cat(rate).mean())}  # fmt: skip


def mnist(batch_size: int) -> HFDataModule:
    path = DATA / "mnist"
    return HFDataModule(str(path) if path.is_dir() else "ylecun/mnist", batch_size=batch_size)


def linear(batch_size: int) -> float:
    """The largest angle between what `LinearAutoencoder` finds of MNIST and scikit-learn's PCA, in degrees."""
    pl.seed_everything(0, verbose=False)
    data = mnist(batch_size)
    model = LinearAutoencoder(data.input_shape)
    trainer = pl.Trainer(
        max_epochs=LINEAR_EPOCHS, logger=False, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
    )  # fmt: skip
    trainer.fit(model, data)
    x = torch.cat([batch[data.input_columns[0]] for batch in data.batches("train", 4096)])
    reference = PCA(model.latent_dim).fit(x.flatten(1).numpy())
    found = model.principal_components().flatten(1).cpu().numpy()
    return float(np.degrees(subspace_angles(found.T, reference.components_.T).max()))


def line(name: str, seeds: list[int] | None) -> str:
    """A row of the first table."""
    seeds = seeds or list(SEEDS if name in VARIANTS else ROWS[name][3])
    found = [row(name, seed) for seed in seeds]

    def told(key: str, scale: float = 100.0, digits: int = 2) -> str:
        values = [scale * each[key] for each in found]
        if any(map(math.isnan, values)):
            return ""
        mean = sum(values) / len(values)
        spread = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if max(values) > min(values) else ""
        return f"{mean:.{digits}f}{spread}"

    about = f"`{name}`" if name in VARIANTS else f"{name} ({ROWS[name][2]})"
    return (
        f"| {about} | {', '.join(map(str, seeds))} | {told('codes')} | {told('pca')} | "
        f"{told('inputs')} | {told('untrained')} | {told('active', 1, 0)} of {found[0]['units']:.0f} | "
        f"{told('kl', 1, 1)} |"
    )


def page(rows: dict[str, str], angles: dict[str, str]) -> str:
    unmeasured = [name for name in (*ROWS, *VARIANTS) if name not in rows]
    lines = [
        "# What the plain call learns",
        "",
        f"`VAE(data.input_shape)` and no other option, {EPOCHS} epochs, batches of 128; 5-nearest-neighbour error of "
        "the test split in %, the mean of the seeds (least to largest). `LinearAutoencoder(data.input_shape)`, "
        f"{LINEAR_EPOCHS} epochs, seed 0, beside scikit-learn's PCA of as many components. Made by "
        "`python benchmarks/defaults.py --write benchmarks/defaults.md`.",
        "",
        "| data | seeds | codes | PCA | inputs | untrained | units in use | KL (nats) |",
        "|---|---|---|---|---|---|---|---|",
        *(rows[name] for name in ROWS if name in rows),
        "",
        "| LinearAutoencoder on MNIST, batches of | largest angle to PCA (degrees) |",
        "|---|---|",
        *(angles[size] for size in map(str, LINEAR_BATCHES) if size in angles),
        "",
        f"Every variant that generates, by its defaults, on the digits, in the same way, but for {VARIANT_EPOCHS} "
        "epochs; of models that have no divergence, none is said.",
        "",
        "| variant | seeds | codes | PCA | inputs | untrained | units in use | KL (nats) |",
        "|---|---|---|---|---|---|---|---|",
        *(rows[name] for name in VARIANTS if name in rows),
        *(["", f"Not measured here: {'; '.join(unmeasured)}."] if unmeasured else []),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[*ROWS, "linear", *VARIANTS], choices=[*ROWS, "linear", *VARIANTS])
    parser.add_argument("--seeds", nargs="*", type=int, help="of all rows")
    parser.add_argument("--write", type=Path, help="the page, of which each row is replaced when it is measured again")
    args = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    old = args.write.read_text().splitlines() if args.write and args.write.exists() else []
    rows = {name: text for text in old for name in ROWS if text.startswith(f"| {name} (")}
    rows |= {name: text for text in old for name in VARIANTS if text.startswith(f"| `{name}` |")}
    angles = {size: text for text in old for size in map(str, LINEAR_BATCHES) if text.startswith(f"| {size} |")}
    for name in args.only:
        if name == "linear":
            angles = {str(size): f"| {size} | {linear(size):.2f} |" for size in LINEAR_BATCHES}
        else:
            rows[name] = line(name, args.seeds)
            print(rows[name], flush=True)
        if args.write:
            args.write.write_text(page(rows, angles))


if __name__ == "__main__":
    main()
