"""Trains the entries of the zoo that are not there yet, by their recipes, and publishes them.

    python zoo/train.py                                   # all that are missing, from the hub's data
    python zoo/train.py --only 'vae_*' --data FOLDER      # some of them; FOLDER has mnist/, fashion_mnist/ and cifar10/
    python zoo/train.py --only '*.cifar10_*' --data FOLDER --copy "re-encoded as JPEG"

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
from lightning_ae.zoo.publishing.entry import DATASETS
from lightning_ae.zoo.schema import Stored

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Plan:
    """An entry to be: the recipe of its model, and what differs from it; that of its data is in the name."""

    name: str
    model: str
    overrides: dict[str, Any] = field(default_factory=dict)
    monitor: str = "val/loss"
    stored: Stored = "float32"

    @property
    def data(self) -> str:
        """The data set in the name."""
        return self.name.partition(".")[2].rpartition("_v")[0]


VARIANTS = ("ae", "linear", "sparse", "k_sparse", "denoising", "contractive", "stacked", "score_matching", "vae")
PLANS = [Plan(f"{name}_mlp.digits_v1", name) for name in VARIANTS]
for data in ("mnist", "fashion_mnist"):
    PLANS += [
        Plan(f"linear_mlp.{data}_v1", "linear"),
        Plan(f"k_sparse_mlp.{data}_v1", "k_sparse", {"trainer.max_epochs": 30}),
        Plan(f"denoising_conv.{data}_v1", "denoising_conv", {"data.val_fraction": 0.02}),
        Plan(f"contractive_mlp.{data}_v1", "contractive"),
        Plan(f"vae_conv.{data}_v1", "vae_conv", {"data.val_fraction": 0.02}),
    ]
PLANS.append(
    Plan("stacked_mlp.fashion_mnist_v1", "stacked", {"model.hidden": [500], "model.latent_dim": 500}),
)
# one of each family on data that the package brings
PLANS += [
    Plan("conditional_vae_mlp.digits_v1", "conditional_vae"),
    Plan("semi_supervised_vae_mlp.digits_v1", "semi_supervised_vae"),
    Plan("factor_vae_mlp.digits_v1", "factor_vae"),
    Plan("ladder_vae_mlp.digits_v1", "ladder_vae", {"trainer.max_epochs": 100}),
    Plan("adversarial_mlp.digits_v1", "adversarial", monitor="val/reconstruction"),
    Plan("vq_vae_conv.digits_v1", "vq_vae", {"trainer.max_epochs": 100}),
    Plan("topk_dictionary_mlp.digits_v1", "topk_dictionary"),
    Plan("autoencoder_kl_latent.digits_v1", "autoencoder_kl"),
]
# colours, 32 x 32
PLANS += [
    Plan(f"{name}_conv.cifar10_v1", model, {"data.val_fraction": 0.02})
    for name, model in (("vae", "vae_conv"), ("vq_vae", "vq_vae"), ("fsq_vae", "fsq_vae"))
]
PLANS.append(Plan("sparse_conv.cifar10_v1", "sparse_conv", {"data.val_fraction": 0.02}, stored="float16"))
CHECKPOINT = "[{{class_path: ModelCheckpoint, init_args: {{monitor: {}, filename: best}}}}]"


def about(data: str, copy: str | None) -> dict[str, str] | None:
    """What an entry says of its data, where that is another copy than the hub's."""
    if copy is None:
        return None
    known = DATASETS[data]
    return {**known, "provenance": f"{known['provenance']}, in a copy {copy}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="a pattern of names")
    parser.add_argument("--data", type=Path, help="a folder with copies of the data sets")
    parser.add_argument("--copy", help="what the copies of the data in that folder are, otherwise than the hub's")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "zoo", help="where runs are kept")
    args = parser.parse_args()
    for plan in PLANS:
        if not fnmatch.fnmatchcase(plan.name, args.only) or plan.name in zoo.list_models():
            continue
        path = str((args.data / plan.data).resolve()) if args.data and plan.data != "digits" else None
        run, done = args.runs / plan.name, args.runs / plan.name / "done"
        if not done.is_file():
            start = time.perf_counter()
            words = ["fit", "-c", plan.model, "-c", plan.data, "--run_dir", str(run), "--trainer.callbacks"]
            words.append(CHECKPOINT.format(plan.monitor))
            words += [word for key, value in plan.overrides.items() for word in (f"--{key}", str(value))]
            command_line(words + (["--data.path", path] if path else []))
            done.write_text(str(round(time.perf_counter() - start)))
        zoo.publish(
            run / "checkpoints" / "best.ckpt",
            plan.name,
            to=str(ROOT / "zoo"),
            path=path,
            data=about(plan.data, args.copy if path else None),
            recipe=[plan.model, plan.data],
            overrides=plan.overrides,
            minutes=round(int(done.read_text()) / 60, 1),
            stored=plan.stored,
            dry_run=False,
        )
        print(f"published {plan.name}")


if __name__ == "__main__":
    main()
