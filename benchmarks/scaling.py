"""What distribution costs: bytes each variant sends in a step, counted; scaling over two processes, measured; and, from
both, efficiency on many GPUs, computed.

    python benchmarks/scaling.py                    # some minutes, on the CPU
    python benchmarks/scaling.py --only bytes       # one part, of bytes, measured, computed

Writes benchmarks/scaling.md, of which each part is replaced when it is run again.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import platform
import socket
import tempfile
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.multiprocessing as mp
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from lightning_ae import VAE, Autoencoder, get_model, list_models
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.data.loader import BatchLoader, Columns, Order

FILE = Path(__file__).parent / "scaling.md"
PARTS = ("bytes", "measured", "computed")
SIZES = {"float": 4, "double": 8, "long int": 8, "long": 8, "int": 4, "c10::BFloat16": 2, "unsigned char": 1, "bool": 1}
COUNTED = 10  # steps

LINK = 50e9  # bytes a second and GPU, both ways: 400 Gbit/s
LATENCY = 10e-6  # seconds a hop
FLOPS = 400e12  # reached by a GPU in bfloat16


class Data(pl.LightningDataModule):
    """Batches of random samples, shared as `HFDataModule` shares them."""

    def __init__(self, shape: tuple[int, ...], batch_size: int, samples: int) -> None:
        super().__init__()
        self.columns = Columns({"x": torch.rand(samples, *shape, generator=torch.Generator().manual_seed(0))})
        self.batch_size = batch_size

    def train_dataloader(self) -> BatchLoader:
        assert self.trainer is not None
        samples = len(self.columns.columns["x"])
        order = Order(samples, self.batch_size, True, world=self.trainer.world_size, rank=self.trainer.global_rank)
        return BatchLoader(self.columns, order)


class Counter(pl.Callback):
    """The bytes of each kind of collective in a few steps, by the profiler's record of them."""

    def __init__(self) -> None:
        self.found: dict[str, float] = defaultdict(float)

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 5:  # DDP has settled its buckets
            self.profile = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
            self.profile.start()
        elif trainer.global_step == 5 + COUNTED:
            self.profile.stop()
            self._read()

    def _read(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.profile.export_chrome_trace(f"{folder}/trace.json")
            events = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
        for event in events:
            name = event.get("name", "")
            if name.startswith("gloo:"):
                args = event["args"]
                for kind, shape in zip(args["Input type"], args["Input Dims"], strict=True):
                    self.found[name.removeprefix("gloo:")] += math.prod(shape) * SIZES[kind] / COUNTED


class Clock(pl.Callback):
    """Seconds a step, the median over stretches of ten."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step % 10 == 0:
            self.marks.append(time.perf_counter())

    @property
    def found(self) -> float:
        return float(np.median(np.diff(self.marks[1:]))) / 10


def reference(name: str) -> Autoencoder:
    """What is timed: an MLP whose step is short, a ConvNet whose step is long for its size."""
    if name == "MLP 784-512-16":
        return VAE((1, 28, 28), 16, architecture=MLP((512,)))
    return VAE((1, 28, 28), 16, architecture=ConvNet((32, 64)))


def work(index: int, world: int, port: int, what: str, name: str, batch_size: int, folder: str) -> None:
    """One process of a run; the first writes what it found."""
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    if world > 1:
        place = {"RANK": index, "LOCAL_RANK": index, "GROUP_RANK": 0, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "scaling"}  # type: ignore[dict-item]
        os.environ.update({key: str(value) for key, value in place.items()})
    pl.seed_everything(0, verbose=False)
    model = variant(name) if what == "bytes" else reference(name)
    seen = Counter() if what == "bytes" else Clock()
    steps = 5 + COUNTED + 2 if what == "bytes" else 120
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        max_steps=steps,
        log_every_n_steps=10_000,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[seen],
    )
    trainer.fit(model, datamodule=Data(model.input_shape, batch_size, batch_size * steps))
    if index == 0:
        Path(folder, "found.json").write_text(json.dumps(seen.found))


def run(what: str, name: str, world: int, batch_size: int) -> Any:
    """What the first of `world` processes found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (world, port, what, name, batch_size, folder), nprocs=world)
        return json.loads(Path(folder, "found.json").read_text())


def variant(name: str) -> Autoencoder:
    """A registered variant, or one with batch normalisation, on 28x28 images."""
    if name == "ae, batch norm":
        return Autoencoder((1, 28, 28), 16, architecture=MLP((512,), norm="batch"))
    return get_model(name)((1, 28, 28), 16)


# ---- the parts ----------------------------------------------------------------------------------------------------


def count_bytes() -> str:
    """A table of the bytes each variant sends in a step."""
    rows = [
        "| variant | gradient, KiB | sent in all_reduce | all_gather | broadcast | beyond the gradient |",
        "|---|---|---|---|---|---|",
    ]
    for name in [*list_models(), "ae, batch norm"]:
        found = run("bytes", name, 2, 64)
        model = variant(name)
        gradient = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        sent = [found.get(kind, 0.0) for kind in ("all_reduce", "all_gather", "broadcast")]
        extra = f"{sum(sent) - gradient:,.0f} B ({100 * (sum(sent) / gradient - 1):.2f} %)"
        rows.append(f"| {name} | {gradient / 1024:,.1f} | {' | '.join(f'{s / 1024:,.1f}' for s in sent)} | {extra} |")
        print(rows[-1])
    return (
        "## Bytes in a step\n\n"
        "Counted from the profiler's record of the collectives of one rank of two, over ten steps between logs, on "
        "28x28 images with 16 latents; KiB of payload. A ring sends 2 (W - 1) / W times the payload of an all_reduce. "
        "Beyond the gradient: sums of sufficient statistics and their backward pass (mean activations, running "
        "moments, batch normalisation), the buffers that DistributedDataParallel broadcasts, and 8 bytes for "
        "SIGTERM. When the trainer logs, a few more bytes bring together the means of the terms.\n\n"
        + "\n".join(rows)
        + "\n"
    )


def measure() -> str:
    """A table of strong and weak scaling over two processes."""
    rows = [
        "| network | samples in a batch | 1 process, ms | 2 processes, ms | speed-up or efficiency |",
        "|---|---|---|---|---|",
    ]
    for name in ("MLP 784-512-16", "ConvNet 32-64"):
        for kind, batches in {"strong": (1024, 1024), "weak": (512, 1024)}.items():
            times = np.array(
                [[run("clock", name, w, b) for w, b in zip((1, 2), batches, strict=True)] for _ in range(3)]
            )
            one, two = np.median(times, axis=0) * 1000
            ratios = times[:, 0] / times[:, 1]
            low, middle, high = ratios.min(), np.median(ratios), ratios.max()
            what = f"strong: {middle:.2f} times as fast" if kind == "strong" else f"weak: efficiency {middle:.2f}"
            size = f"{batches[0]}" if kind == "strong" else f"{batches[0]} for each process"
            rows.append(f"| {name} | {size} | {one:.1f} | {two:.1f} | {what} ({low:.2f} to {high:.2f}) |")
            print(rows[-1])
    return (
        "## Measured\n\n"
        f"On a CPU ({platform.machine()}, {os.cpu_count()} processors) with one thread for each process, gloo over "
        "loopback, torch "
        f"{torch.__version__}; in turns, medians of 3 runs of 120 steps, with lowest and highest. Both processes share "
        "the machine's memory bandwidth. Launched anew each time, so start-up does not count.\n\n"
        + "\n".join(rows)
        + "\n"
    )


def compute() -> str:
    """A table of the efficiency on many GPUs, from counts and assumptions."""
    models = {
        "MLP 784-512-16, 128 samples for each GPU": (reference("MLP 784-512-16"), 128),
        "ConvNet 32-64, 28x28, 512": (reference("ConvNet 32-64"), 512),
        "MLP 3072-8192-8192-256, 4096": (VAE((3, 32, 32), 256, architecture=MLP((8192, 8192))), 4096),
    }
    rows = [
        "| model | GFLOP a step | gradient, MiB | computing, ms | 8 GPUs | 64 GPUs | 512 GPUs |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (model, batch) in models.items():
        flops, gradient = cost(model)
        seconds = flops * batch / FLOPS
        cells = []
        for gpus in (8, 64, 512):
            exchange = 2 * (gpus - 1) / gpus * gradient / LINK + 2 * LATENCY * math.log2(gpus)
            waited = max(0.0, exchange - 2 / 3 * seconds)  # the backward pass is two thirds of computing
            cells.append(f"{seconds / (seconds + exchange):.2f} to {seconds / (seconds + waited):.2f}")
        figures = f"{flops * batch / 1e9:,.1f} | {gradient / 2**20:,.1f} | {1000 * seconds:.3f}"
        rows.append(f"| {name} | {figures} | {' | '.join(cells)} |")
        print(rows[-1])
    return (
        "## Computed\n\n"
        "Not measured: weak-scaling efficiency on paper. A step computes its counted FLOP at "
        f"{FLOPS / 1e12:.0f} TFLOP/s for each GPU, and exchanges the gradient's bytes by a ring at {LINK / 1e9:.0f} "
        f"GB/s with {1e6 * LATENCY:.0f} us a hop of a tree. The lower figure waits for the exchange after the backward "
        "pass; the upper one hides it behind the backward pass, two thirds of computing, as far as it goes. "
        "Launching kernels, loading data and stragglers are left out: small models stay below this.\n\n"
        + "\n".join(rows)
        + "\n"
    )


def cost(model: Autoencoder) -> tuple[float, float]:
    """FLOP of a training step for one sample, and bytes of its gradient."""
    x = torch.rand(2, *model.input_shape)
    with FlopCounterMode(display=False) as counter:
        model.loss(x, x)["loss"].backward()
    return counter.get_total_flops() / 2, sum(p.numel() * 4.0 for p in model.parameters())


def main() -> None:
    """Runs the parts and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one part")
    only = parser.parse_args().only
    parts = {"bytes": count_bytes, "measured": measure, "computed": compute}
    old = FILE.read_text().split("\n## ")[1:] if FILE.exists() else []
    kept = {title: f"## {text}" for title, text in zip(PARTS, old, strict=False)}
    texts = [
        parts[name]() if only in (None, name) else kept[name] for name in PARTS if only in (None, name) or name in kept
    ]
    head = "# Scaling\n\nMade by `python benchmarks/scaling.py`.\n\n"
    FILE.write_text(head + "\n".join(text.rstrip() + "\n" for text in texts))
    print(f"\nWritten\n  {FILE}")


if __name__ == "__main__":
    main()
