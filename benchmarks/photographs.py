"""What codes say of small photographs: the zoo's entries on CIFAR-10 beside pixels, principal components, mean colour.

    python benchmarks/photographs.py [--data FOLDER] [--write benchmarks/photographs.md]

The errors of logistic regression (probe) and of 5 nearest neighbours, which learn from 10 000 training images, on the
test split. Mean colour is three numbers an image: what any code of photographs has to be better than.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lightning_ae import zoo
from lightning_ae.evaluation.numbers import codes_of
from lightning_ae.evaluation.samples import PROBED, Errors, components
from lightning_ae.zoo.artefact import load_with_config
from lightning_ae.zoo.publishing.evaluate import read_data

HERE = Path(__file__).parent
DATASET = "cifar10"


def told(name: str, features: int, errors: Errors) -> str:
    """A row of the table."""
    return f"| {name} | {features} | " + " | ".join("" if e is None else f"{100 * e:.2f}" for e in errors) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a copy of CIFAR-10, instead of the hub's")
    parser.add_argument("--write", type=Path, help="the page")
    args = parser.parse_args()
    rows, digest, pca = [], "", set[int]()
    for name in zoo.list_models(dataset=DATASET):
        model, _ = load_with_config(name)
        samples = read_data(zoo.info(name).data, model, args.data)
        codes = {split: codes_of(model, samples, split) for split in samples.inputs}
        count = components(samples.inputs["test"][0].numel(), codes["test"].shape[1])
        if not rows:
            digest = samples.digests["test"]
            pixels = samples.inputs["test"][0].numel()
            rows += [told("raw pixels", pixels, samples.baseline(0))]
            rows += [told("mean colour", 3, samples.errors({s: x.mean((2, 3)) for s, x in samples.inputs.items()}))]
        if count not in pca:
            pca.add(count)
            rows.append(told(f"{count} principal components", count, samples.baseline(count)))
        rows.append(told(f"`{name}`", codes["test"].shape[1], samples.errors(codes)))
        print(*rows, "", sep="\n", flush=True)
    page = [
        "# What codes say of small photographs",
        "",
        f"Errors in %, on the test split of CIFAR-10, of classifiers that learn from {PROBED} training images: "
        "logistic regression (probe) and 5 nearest neighbours. The test images have the digest "
        f"`{digest}`, as the entries say. Made by "
        "`python benchmarks/photographs.py --write benchmarks/photographs.md`.",
        "",
        "| features | how many | probe | k-NN |",
        "|---|---|---|---|",
        *rows,
    ]
    if args.write:
        args.write.write_text("\n".join(page) + "\n")


if __name__ == "__main__":
    main()
