"""How well four variational autoencoders tell the factors of sprites apart: beta-VAE, FactorVAE, beta-TCVAE and VAE.

    python benchmarks/disentanglement.py [--write benchmarks/disentanglement.md]
    python benchmarks/disentanglement.py --sprites 1500 --epochs 1 --seeds 0     # a trial

All of `HFDataModule("sprites")`, 16 000 images to train and 4 000 that are measured, 32 x 32 pixels, 15 epochs, three
seeds; of each model every metric of `lightning_ae.metrics.disentanglement`, beside that of shuffled codes. What was
measured, with all settings, goes to a JSON file beside the page, after each model; what stands there is not measured
again, unless the settings have changed.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import platform
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lightning_ae import HFDataModule, get_model
from lightning_ae.architectures import ConvNet
from lightning_ae.config import to_plain
from lightning_ae.data import draw_sprites
from lightning_ae.metrics import disentanglement
from lightning_ae.parts.likelihoods import Bernoulli

SEEDS, EPOCHS, SPRITES, BATCH = (0, 1, 2), 15, 20_000, 64
COMMON: dict[str, Any] = {"latent_dim": 10, "architecture": ConvNet(channels=(32, 64, 64)), "likelihood": Bernoulli(),
                          "lr": 1e-3}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "vae": {},
    "beta_vae": {"beta": 4.0},
    "factor_vae": {"gamma": 10.0, "critic_lr": 1e-4},
    "beta_tc_vae": {"beta": 6.0},
}
"""Weights as in the papers, and as in the recipes of these models."""
SHOWN = ("mig", "factor_vae_score")


def settings(sprites: int, epochs: int) -> dict[str, Any]:
    """All that decides what a seed measures, but versions and hardware."""
    options = {
        name: {key: to_plain(value, key) for key, value in (COMMON | own).items()} for name, own in VARIANTS.items()
    }
    return {"sprites": sprites, "size": 32, "test": _test(sprites), "epochs": epochs, "batch_size": BATCH,
            "optimizer": "Adam", "models": options}  # fmt: skip


def measured(variant: str, seed: int, sprites: int, epochs: int, group: int) -> dict[str, float]:
    """The metrics of a model that is trained by a seed, and how long that took, in seconds."""
    data = HFDataModule(
        draw_sprites(sprites - _test(sprites), _test(sprites)), val_fraction=0, batch_size=BATCH, cache="memory"
    )
    pl.seed_everything(seed, verbose=False)
    model = get_model(variant)(data.input_shape, **COMMON, **VARIANTS[variant])
    trainer = pl.Trainer(
        max_epochs=epochs, logger=False, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
    )  # fmt: skip
    started = time.monotonic()
    trainer.fit(model, data)
    trained = time.monotonic()
    found = disentanglement(model, data, seed=0, group=group)
    seconds = {"seconds_training": trained - started, "seconds_measuring": time.monotonic() - trained}
    return found | {name: round(value, 1) for name, value in seconds.items()}


def _test(sprites: int) -> int:
    return sprites // 5


def told(runs: list[dict[str, float]], key: str) -> str:
    values = [run[key] for run in runs]
    spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
    return f"{math.fsum(values) / len(values):.3f}{spread}"


def page(content: dict[str, Any]) -> str:
    """The tables of what was measured."""
    how, found = content["settings"], content["found"]
    names = [name for name in VARIANTS if name in found]
    seeds = sorted({int(seed) for runs in found.values() for seed in runs})
    runs = {name: list(found[name].values()) for name in names}
    keys = [key for key in runs[names[0]][0] if not key.startswith("seconds") and not key.endswith("_shuffled")]

    def both(name: str, key: str) -> str:
        return f"{told(runs[name], key)} | {told(runs[name], f'{key}_shuffled')}"

    lines = [
        "# Disentanglement of sprites",
        "",
        f"{how['sprites']:,} sprites of {how['size']} x {how['size']} pixels, drawn by this package in dSprites' "
        f"design; {how['test']:,} of them are measured, the others train. {how['epochs']} epochs, batches of "
        f"{how['batch_size']}, Adam with a rate of {COMMON['lr']:g}, {COMMON['latent_dim']} units, "
        f"ConvNet{COMMON['architecture'].channels}, Bernoulli likelihood; seeds {', '.join(map(str, seeds))}. The mean "
        "of the seeds (least to largest), and that of shuffled codes, which is what chance has in this sample. Made by "
        "`python benchmarks/disentanglement.py --write benchmarks/disentanglement.md`; settings, versions and every "
        "number are in `disentanglement.json`.",
        "",
        "So few steps leave no model where the papers', of hundreds of thousands, end: compare the rows with each "
        "other, and with shuffled codes.",
        "",
        "| model | MIG | of shuffled codes | FactorVAE score | of shuffled codes |",
        "|---|---|---|---|---|",
        *(f"| `{name}`{_options(name)} | {' | '.join(both(name, key) for key in SHOWN)} |" for name in names),
        "",
        "All metrics of `lightning_ae.metrics.disentanglement`:",
        "",
        f"| metric | {' | '.join(f'`{name}` | shuffled' for name in names)} |",
        "|---|" + "---|---|" * len(names),
        *(f"| {key} | {' | '.join(both(name, key) for name in names)} |" for key in keys),
    ]
    return "\n".join(lines) + "\n"


def _options(name: str) -> str:
    return "".join(f", {key} {value:g}" for key, value in VARIANTS[name].items() if key != "critic_lr")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--sprites", type=int, default=SPRITES, help="of which a fifth is measured")
    parser.add_argument("--group", type=int, help="rows of a group (64, or what a small trial allows)")
    parser.add_argument("--write", type=Path, help="the page; what was measured goes to a .json beside it")
    args = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    group = args.group or max(2, min(64, _test(args.sprites) // 60))  # 40 orientations share the rows
    how = settings(args.sprites, args.epochs) | {"group": group}
    file = args.write and args.write.with_suffix(".json")
    content: dict[str, Any] = {"settings": how, "found": {}}
    if file and file.exists() and (old := json.loads(file.read_text()))["settings"] == json.loads(json.dumps(how)):
        content = old
    content["versions"] = {"python": platform.python_version(), "torch": torch.__version__, "lightning": pl.__version__,
                           "threads": torch.get_num_threads()}  # fmt: skip
    for name in args.only:
        for seed in args.seeds:
            runs = content["found"].setdefault(name, {})
            if str(seed) not in runs:
                runs[str(seed)] = measured(name, seed, args.sprites, args.epochs, group)
                if file:
                    file.write_text(json.dumps(content, indent=1) + "\n")
            shown = {key: round(runs[str(seed)][key], 3) for key in (*SHOWN, *(f"{each}_shuffled" for each in SHOWN))}
            print(f"{name}, seed {seed}: {shown}, {runs[str(seed)]['seconds_training']:.0f} s", flush=True)
    if args.write:
        args.write.write_text(page(content))
    else:
        print(page(content))


if __name__ == "__main__":
    main()
