"""What the zoo's encoders cost beside their bare networks: loading, and the features of 10 000 images.

    python benchmarks/zoo.py --data FOLDER      # a local copy of MNIST, instead of the hub's

Writes benchmarks/zoo.md. In turns, medians of 9, one thread.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import numpy as np
import torch

from lightning_ae import HFDataModule, zoo

FILE = Path(__file__).parent / "zoo.md"
ROUNDS, BATCH = 9, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="ylecun/mnist", help="MNIST: a hub id or a local folder")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = HFDataModule(args.data, val_fraction=0)
    data.prepare_data()
    x = torch.cat([batch["image"] for batch in data.batches("test", BATCH)])
    images = (255 * x).round().to(torch.uint8)
    assert len(images) == 10_000

    rows = [
        "| entry | load_encoder, s | features of 10 000 images, s | bare forward pass, s | ratio |",
        "|---|---|---|---|---|",
    ]
    for name in zoo.list_models(dataset="mnist"):
        start = time.perf_counter()
        encoder = zoo.load_encoder(name)
        loading = time.perf_counter() - start
        model = zoo.load(name)

        def seconds(function: torch.nn.Module, inputs: torch.Tensor) -> float:
            start = time.perf_counter()
            with torch.no_grad():
                for part in inputs.split(BATCH):
                    function(part)
            return time.perf_counter() - start

        times = np.array([(seconds(encoder, images), seconds(model.encode, x)) for _ in range(ROUNDS + 1)])[1:]
        ours, bare = np.median(times, axis=0)
        ratio = np.median(times[:, 0] / times[:, 1])
        rows.append(f"| `{name}` | {loading:.3f} | {ours:.3f} | {bare:.3f} | {ratio:.2f} |")
        print(rows[-1])
    FILE.write_text(
        "# What the zoo's encoders cost\n\nMade by `python benchmarks/zoo.py`: MNIST's test images as bytes through "
        "`zoo.load_encoder`, preprocessing and all, beside `encode` on inputs that are ready; batches of "
        f"{BATCH}, in turns, medians of {ROUNDS}. One thread of a CPU ({platform.machine()}), torch "
        f"{torch.__version__}. Loading: after imports, the first time.\n\n" + "\n".join(rows) + "\n"
    )
    print(f"\nWritten\n  {FILE}")


if __name__ == "__main__":
    main()
