"""Samples of an autoencoder and of a VAE: decoded draws of N(0, I), and of densities that were fitted to their codes.

    python benchmarks/samplers.py [--data FOLDER] [--write benchmarks/samplers.md]

On MNIST, 16 latent units, the default ConvNet; as many samples as there are test images. The Frechet LeNet distance is
the one of `lightning_ae.metrics.FrechetLeNetDistance`, from the training images, which compares with no other network's
(no FID); its floor is that of the test images. Ghosh et al. (2020, https://arxiv.org/abs/1903.12436, table 1) report
FIDs of 58.7 (N(0, I)) and 10.7 (mixture of 10 Gaussians) for an autoencoder, 19.2 and 17.7 for a VAE: what compares is
the ordering. What was measured, with all settings, goes to a JSON file beside the page, after each model.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_ae import Autoencoder, HFDataModule, get_model
from lightning_ae.architectures import ConvNet
from lightning_ae.data.source import load_splits
from lightning_ae.exact import Noise
from lightning_ae.metrics import FrechetDistance, load_lenet
from lightning_ae.metrics.samples import features_of
from lightning_ae.parts import Bernoulli, StandardNormal
from lightning_ae.samplers import GaussianSampler, MixtureSampler, TwoStageSampler, fit_sampler

HERE = Path(__file__).parent
MODELS = {"ae": "autoencoder", "vae": "VAE, Bernoulli", "calibrated": "VAE, the default"}
"""What Ghosh et al. call VAE has a likelihood that makes the divergence count; the default, a Gaussian with the scale
of its errors, reconstructs closely instead, and its draws of N(0, I) are the worse for it."""
VAES: dict[str, dict[str, Any]] = {"vae": {"likelihood": Bernoulli()}, "calibrated": {}}
SAMPLERS: dict[str, Any] = {
    "N(0, I)": None,
    "Gaussian": GaussianSampler(),
    "mixture of 10": MixtureSampler(10),
    "two-stage": TwoStageSampler(),
}
PUBLISHED = {
    ("ae", "N(0, I)"): 58.7,
    ("ae", "mixture of 10"): 10.7,
    ("vae", "N(0, I)"): 19.2,
    ("vae", "mixture of 10"): 17.7,
}


@torch.no_grad()
def drawn(model: Autoencoder, n: int, seed: int) -> Tensor:
    """Samples in [0, 1]; of a model without a sampler those of codes from N(0, I)."""
    torch.manual_seed(seed)
    found = []
    for count in [1000] * (n // 1000):
        codes = StandardNormal().sample(model, count, Noise()) if model.sampler is None else model.draw_codes(count)
        found.append(model.decode(codes).clamp(0, 1))
    return torch.cat(found)


def measure(name: str, seed: int, data: HFDataModule, epochs: int, real: FrechetDistance) -> dict[str, float]:
    """The distance of each sampler's draws."""
    pl.seed_everything(seed, verbose=False)
    model = get_model("vae" if name in VAES else name)((1, 28, 28), 16, architecture=ConvNet(), **VAES.get(name, {}))
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=epochs, enable_progress_bar=False, **options)
    trainer.fit(model, datamodule=data)
    model.eval()
    found, lenet = {}, load_lenet()
    for title, sampler in SAMPLERS.items():
        model.sampler = None
        if sampler is not None:
            fit_sampler(model, data, sampler, seed)
        metric = real.clone()
        metric.update(features_of(lenet, drawn(model, 10_000, seed)), "generated")
        found[title] = float(metric.compute()["distance"])
        floor = float(metric.compute()["floor"])
    return found | {"floor": floor}


def page(rows: dict[str, dict[str, float]], settings: dict[str, Any]) -> str:
    """The table, and what the ordering is."""
    lines = [
        "# Samplers", "", "Made by `python benchmarks/samplers.py --write benchmarks/samplers.md`.", "",
        *(line for line in (__doc__ or "").split("\n\n")[2].splitlines()), "",
        f"Settings: {settings['epochs']} epochs of batches of 128, the models' defaults otherwise; torch "
        f"{torch.__version__}. Mean over seeds, lowest to highest in brackets.", "",
        "| model | codes | Frechet LeNet distance | FID published | seeds |", "|---|---|---|---|---|",
    ]  # fmt: skip
    means: dict[tuple[str, str], float] = {}
    for name, label in MODELS.items():
        found = {key.split()[1]: row for key, row in rows.items() if key.split()[0] == name}
        for title in [*SAMPLERS, "floor"] if found else []:
            values = [row[title] for row in found.values()]
            means[name, title] = sum(values) / len(values)
            shown = f"{means[name, title]:.1f}" + (
                f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
            )
            published = PUBLISHED.get((name, title), "")
            title = "test images, the floor" if title == "floor" else title
            lines.append(f"| {label} | {title} | {shown} | {published} | {', '.join(sorted(found))} |")
    if len({name for name, _ in means}) == len(MODELS):
        gains = {name: means[name, "N(0, I)"] / means[name, "mixture of 10"] for name in MODELS}
        orders = [
            (f"a mixture is nearer than N(0, I), of the autoencoder ({gains['ae']:.1f} times)", gains["ae"] > 1),
            (f"a mixture is nearer than N(0, I), of the VAE ({gains['vae']:.1f} times)", gains["vae"] > 1),
            ("of N(0, I) the VAE is nearer", means["vae", "N(0, I)"] < means["ae", "N(0, I)"]),
            ("of the mixture the autoencoder is nearer", means["ae", "mixture of 10"] < means["vae", "mixture of 10"]),
        ]
        lines += [
            "",
            "The published ordering:",
            "",
            *(f"- {'' if held else 'NOT '}found: {what}" for what, held in orders),
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="ylecun/mnist", help="the hub's id of MNIST, or a folder")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--write", type=Path, default=HERE / "samplers.md", help="the page; a .json lies beside it")
    args = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    settings = {"epochs": args.epochs}
    file = args.write.with_suffix(".json")
    kept = json.loads(file.read_text()) if file.exists() else {}
    rows = kept["rows"] if kept.get("settings") == settings else {}
    data = HFDataModule(load_splits(args.data), batch_size=128, val_fraction=0)
    lenet, real = load_lenet(), FrechetDistance(84)
    for split, kind in (("train", "real"), ("test", "held_out")):
        for batch in data.batches(split, 1000):
            real.update(features_of(lenet, batch["image"]), kind)
    for seed in args.seeds:
        for name in MODELS:
            if f"{name} {seed}" in rows:
                continue
            start = time.perf_counter()
            rows[f"{name} {seed}"] = measure(name, seed, data, args.epochs, real)
            took = time.perf_counter() - start
            print(f"{MODELS[name]}, seed {seed}: {rows[f'{name} {seed}']}, {took:.0f} s", flush=True)
            file.write_text(json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n")
            args.write.write_text(page(rows, settings))


if __name__ == "__main__":
    main()
