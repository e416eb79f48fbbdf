"""The cost of each way to the Jacobian's norm, as a ratio to the same training step without it.

    python benchmarks/contraction.py

Steps alternate in one process; the figures are medians over rounds, with the 10 % and 90 % quantiles. Writes
benchmarks/contraction.md.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

import lightning_ae as ae
from lightning_ae.architectures import MLP

ROUNDS = 25
CASES = {
    "one layer, 784-256": {"latent_dim": 256, "architecture": MLP(hidden=())},
    "two layers, 784-512-32": {"latent_dim": 32, "architecture": MLP(hidden=(512,), activation="sigmoid")},
    "two layers, 784-512-256": {"latent_dim": 256, "architecture": MLP(hidden=(512,), activation="sigmoid")},
}


def step(model: ae.Autoencoder, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> float:
    start = time.perf_counter()
    optimizer.zero_grad()
    model.loss(x, x)["loss"].backward()
    optimizer.step()
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    x = torch.rand(64, 784)
    console = Console(highlight=False, soft_wrap=True)
    lines = [
        "# The cost of contraction",
        "",
        "Made by `python benchmarks/contraction.py`: a training step on 64 samples, one CPU thread, as a ratio to the "
        f"same step without the penalty; medians of {ROUNDS} alternating rounds (10 % to 90 %), "
        f"torch {torch.__version__}.",
        "",
        "| encoder | closed form | exact | Hutchinson, one draw |",
        "|---|---|---|---|",
    ]
    for name, options in CASES.items():
        torch.manual_seed(0)
        one_layer = not options["architecture"].hidden
        methods = (["closed_form"] if one_layer else []) + ["exact", "hutchinson"]
        models = {"plain": ae.Autoencoder((784,), **options)}
        models |= {m: ae.ContractiveAutoencoder((784,), method=m, **options) for m in methods}
        optimizers = {m: torch.optim.Adam(model.parameters(), 1e-4) for m, model in models.items()}
        times: dict[str, list[float]] = {m: [] for m in models}
        for round_ in range(ROUNDS + 2):
            for method, model in models.items():
                taken = step(model, optimizers[method], x)
                if round_ >= 2:  # the first rounds warm up
                    times[method].append(taken)
        cells = []
        for method in ("closed_form", "exact", "hutchinson"):
            if method not in times:
                cells.append("does not apply")
                continue
            ratio = np.array(times[method]) / np.array(times["plain"])
            low, middle, high = np.quantile(ratio, [0.1, 0.5, 0.9])
            cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
        console.print(lines[-1])
    file = Path(__file__).parent / "contraction.md"
    file.write_text("\n".join(lines) + "\n")
    console.print(f"\nWritten\n  {file}")


if __name__ == "__main__":
    main()
