"""Trains the entries of the zoo that are not there yet, by their recipes, and publishes them.

    python zoo/train.py                                   # all that are missing, from the hub's data
    python zoo/train.py --only 'vae_*' --data FOLDER      # some of them; FOLDER has mnist/ and fashion_mnist/

Runs are kept in runs/zoo: one that is finished is not trained again.
"""

from __future__ import annotations

import argparse
import fnmatch
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_ae import zoo
from lightning_ae.cli.app import main as command_line

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Plan:
    """An entry to be: its recipe, and what differs from it."""

    name: str
    recipe: str
    overrides: dict[str, Any] = field(default_factory=dict)


VARIANTS = ("ae", "linear", "sparse", "k_sparse", "denoising", "contractive", "stacked", "score_matching", "vae")
PLANS = [Plan(f"{name}_mlp.digits_v1", f"recipes/digits/{name}.yaml") for name in VARIANTS]
for data in ("mnist", "fashion_mnist"):
    PLANS += [
        Plan(f"linear_mlp.{data}_v1", f"recipes/{data}/linear.yaml"),
        Plan(f"k_sparse_mlp.{data}_v1", f"recipes/{data}/k_sparse.yaml", {"trainer.max_epochs": 30}),
        Plan(f"denoising_conv.{data}_v1", f"recipes/{data}/denoising_conv.yaml"),
        Plan(f"contractive_mlp.{data}_v1", f"recipes/{data}/contractive.yaml"),
        Plan(f"vae_conv.{data}_v1", f"recipes/{data}/vae_conv.yaml"),
    ]
PLANS.append(
    Plan(
        "stacked_mlp.fashion_mnist_v1",
        "recipes/fashion_mnist/stacked.yaml",
        {"model.hidden": [500], "model.latent_dim": 500},
    )
)
CHECKPOINT = "[{class_path: ModelCheckpoint, init_args: {monitor: val/loss, filename: best}}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="a pattern of names")
    parser.add_argument("--data", type=Path, help="a folder with copies of the data sets")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "zoo", help="where runs are kept")
    args = parser.parse_args()
    for plan in PLANS:
        if not fnmatch.fnmatchcase(plan.name, args.only) or plan.name in zoo.list_models():
            continue
        dataset = plan.name.partition(".")[2].rpartition("_v")[0]
        path = str((args.data / dataset).resolve()) if args.data and dataset != "digits" else None
        run, done = args.runs / plan.name, args.runs / plan.name / "done"
        if not done.is_file():
            start = time.perf_counter()
            words = ["fit", "-c", str(ROOT / plan.recipe), "--run_dir", str(run), "--trainer.callbacks", CHECKPOINT]
            words += [word for key, value in plan.overrides.items() for word in (f"--{key}", str(value))]
            command_line(words + (["--data.path", path] if path else []))
            done.write_text(str(round(time.perf_counter() - start)))
        zoo.publish(
            run / "checkpoints" / "best.ckpt",
            plan.name,
            to=str(ROOT / "zoo"),
            path=path,
            recipe=plan.recipe,
            overrides=plan.overrides,
            minutes=round(int(done.read_text()) / 60, 1),
            dry_run=False,
        )
        print(f"published {plan.name}")


if __name__ == "__main__":
    main()
