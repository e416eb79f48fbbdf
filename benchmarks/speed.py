"""Feeding and training beside a hand-written loop and the peers.

    python benchmarks/speed.py                      # everything, some minutes
    python benchmarks/speed.py --only training      # one part: feeding, decoding, training, enlarging, growth, ...
    python benchmarks/speed.py --only compiling     # a part that is made only when it is named: some minutes more
    pip install -r benchmarks/requirements.txt      # for the rows of pythae

Contestants alternate in one process; figures are medians over rounds, ratios are made round by round. Writes
benchmarks/speed.md, of which each part is replaced when it is run again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytorch_lightning as pl
import scipy.sparse
import torch
from contest import CLOCK, Tick, contest, ratio
from datasets import ClassLabel, Dataset, Features, Image
from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from lightning_ae import VAE, Autoencoder, HFDataModule, get_model
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.cli.training import ProgressBar
from lightning_ae.data.loader import BatchLoader, Columns, Order
from lightning_ae.parts.likelihoods import Bernoulli, Gaussian

FILE = Path(__file__).parent / "speed.md"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Contestant = Callable[[Tick], None]
ROUNDS = 15


# ---- data ---------------------------------------------------------------------------------------------------------


def pictures(n: int, channels: int, side: int) -> Dataset:
    """PNG images, smooth as photographs are, with labels."""
    generator = np.random.default_rng(0)
    coarse = generator.random((n, channels, 7, 7), dtype=np.float32)
    fine = F.interpolate(torch.from_numpy(coarse), (side, side), mode="bilinear").mul(255).byte().numpy()
    encoded = []
    for image in fine:
        buffer = io.BytesIO()
        PIL.Image.fromarray(image[0] if channels == 1 else image.transpose(1, 2, 0)).save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    features = Features({"image": Image(), "label": ClassLabel(num_classes=10)})
    return Dataset.from_dict({"image": encoded, "label": generator.integers(0, 10, n)}, features)


def forever(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def fed() -> Iterator[tuple[str, Any, Dataset]]:
    """What is fed, by its name; and the same for the peers, of which none has sparse rows."""
    for n, channels, side in ((20_000, 1, 28), (6_000, 3, 64)):
        rows = pictures(n, channels, side)
        yield f"{side}x{side}x{channels}", rows, rows
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, 20_000)
    numbers = {f"column {i}": generator.standard_normal(20_000) for i in range(20)}
    rows = Dataset.from_dict({**numbers, "label": labels})
    yield "a table of 20 columns", rows, rows
    counts = generator.poisson(0.05, (5_000, 2_000))
    rows = Dataset.from_dict({"x": counts.astype(np.float32), "label": labels[:5_000]})
    yield "counts, 2,000 with 5 % entries, made dense", (scipy.sparse.csr_array(counts), labels[:5_000]), rows


def feeding() -> list[str]:
    lines = [
        "Batches of 128 in shuffled order with their labels, one thread; samples per second, and how many times the "
        "peer's rate ours is.",
        "",
        "| samples | ours | HF torch format | ratio | TensorDataset | ratio | bare gather | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, given, rows in fed():
        data = HFDataModule(given, val_fraction=0, batch_size=128)
        samples, labels = data._array("train", False), torch.tensor(rows["label"][:])
        sparse = data._kind().padded
        samples = data.preprocess(samples) if sparse else samples
        hf = DataLoader(rows.with_format("torch"), 128, shuffle=True)  # type: ignore[arg-type]
        tensors = DataLoader(TensorDataset(samples, labels), 128, shuffle=True)

        def ours(tick: Tick, data: HFDataModule = data, sparse: bool = sparse) -> None:
            for batch in forever(data.train_dataloader()):
                if sparse:
                    data.preprocess(batch["x"])
                tick()

        def gather(tick: Tick, samples: Tensor = samples, labels: Tensor = labels) -> None:
            while True:
                for part in torch.randperm(len(samples)).split(128):
                    samples.index_select(0, part), labels.index_select(0, part)
                    tick()

        def loop(loader: Any) -> Contestant:
            def run(tick: Tick) -> None:
                for _ in forever(loader):
                    tick()

            return run

        quick = contest({"ours": ours, "gather": gather}, 300, 25)
        slow = contest({"ours": ours, "hf": loop(hf), "tensors": loop(tensors)}, 20, 10)
        times = {"ours": quick["ours"], "gather": quick["gather"], "hf": slow["hf"], "tensors": slow["tensors"]}
        rate = {each: f"{128 / np.median(values):,.0f}" for each, values in times.items()}
        lines.append(
            f"| {name} | {rate['ours']} | {rate['hf']} | {ratio(slow, 'ours', 'hf')} "
            f"| {rate['tensors']} | {ratio(slow, 'ours', 'tensors')} | {rate['gather']} "
            f"| {ratio(quick, 'ours', 'gather')} |"
        )
    return lines


def decoding() -> list[str]:
    lines = [
        f"A first run decodes all samples, here with {len(os.sched_getaffinity(0))} processors; the peer is one pass "
        "over HF's torch format in this process. A later run opens the file. Seconds, medians of 3.",
        "",
        "| images | first run | HF torch format, one pass | ratio | later runs |",
        "|---|---|---|---|---|",
    ]
    for n, channels, side in ((60_000, 1, 28), (20_000, 3, 64)):
        rows = pictures(n, channels, side)
        hf = DataLoader(rows.with_format("torch"), 128)  # type: ignore[arg-type]
        taken: dict[str, list[float]] = {"first": [], "hf": [], "later": []}
        for _ in range(3):
            with tempfile.TemporaryDirectory() as folder, cache_in(folder):
                for name in ("first", "later"):
                    started = time.perf_counter()
                    HFDataModule(rows, val_fraction=0)._array("train", False)
                    taken[name].append(time.perf_counter() - started)
            started = time.perf_counter()
            for _ in hf:
                pass
            taken["hf"].append(time.perf_counter() - started)
        first, other, later = (float(np.median(taken[name])) for name in ("first", "hf", "later"))
        lines.append(
            f"| {n:,} of {side}x{side}x{channels} | {first:.2f} | {other:.2f} | {other / first:.1f} | {later:.3f} |"
        )
    return lines


@contextlib.contextmanager
def cache_in(folder: str) -> Iterator[None]:
    before = os.environ.get("LIGHTNING_AE_CACHE")
    os.environ["LIGHTNING_AE_CACHE"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["LIGHTNING_AE_CACHE"]
        else:
            os.environ["LIGHTNING_AE_CACHE"] = before


# ---- training -----------------------------------------------------------------------------------------------------


def elbo(model: VAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """The loss's two terms as one writes them by hand."""
    mean, log_variance = model.encoder(x).chunk(2, dim=1)
    z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
    output = model.decoder(z).view_as(x)
    if isinstance(model.likelihood, Bernoulli):
        reconstruction = F.binary_cross_entropy_with_logits(output, x, reduction="sum") / len(x)
    else:  # a Gaussian with a scale that is learned once
        log_scale = model.head.shared.squeeze()
        squared = F.mse_loss(output, x, reduction="sum") / len(x)
        reconstruction = 0.5 * (-2 * log_scale).exp() * squared + x[0].numel() * (log_scale + 0.9189385)
    kl = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum() / len(x)
    return reconstruction, kl


def adam(parameters: Any) -> torch.optim.Optimizer:
    """As tutorials take it."""
    return torch.optim.Adam(parameters, lr=1e-3)


def fused_adamw(parameters: Any) -> torch.optim.Optimizer:
    """The fastest there is, and what ours takes."""
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, fused=True)


def bare(make: Callable[[], VAE], samples: Tensor, batch_size: int, optimizer_of: Any) -> Contestant:
    """The loop a careful person writes: a gather, the loss, one optimizer; the loss is read every 50 steps."""

    def run(tick: Tick) -> None:
        model = make().to(DEVICE)
        optimizer = optimizer_of(model.parameters())
        resident = samples.to(DEVICE)
        step = 0
        while True:
            for part in torch.randperm(len(resident), device=DEVICE).split(batch_size):
                x = resident.index_select(0, part).float() / 255
                reconstruction, kl = elbo(model, x)
                loss = reconstruction + kl
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                if step % 50 == 0:
                    loss.item()
                tick()

    return run


class Ticks(pl.Callback):
    def __init__(self, tick: Tick) -> None:
        self.tick = tick

    def on_train_batch_end(self, *args: Any) -> None:
        self.tick()


def trainer(tick: Tick, bar: pl.Callback, folder: str) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=-1,
        accelerator=DEVICE.type,
        devices=1,
        logger=pl.loggers.CSVLogger(folder),
        callbacks=[bar, Ticks(tick)],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=not isinstance(bar, NoBar),
    )


class NoBar(pl.Callback):
    """None, in the place of one."""

    def __init__(self, **options: Any) -> None: ...


def hidden() -> dict[str, Any]:
    return {"console_kwargs": {"file": Path(os.devnull).open("w"), "force_terminal": True}}


def ours(
    make: Callable[[], VAE], rows: Dataset, batch_size: int, compiled: bool = False, bar: Any = ProgressBar
) -> Contestant:
    """This package, by default as its command line runs it: logging, and a progress bar on a terminal."""

    def run(tick: Tick) -> None:
        data = HFDataModule(rows, val_fraction=0, batch_size=batch_size, on_device=DEVICE.type != "cpu")
        model = make()
        if compiled:
            model.compile()
        with tempfile.TemporaryDirectory() as folder:
            trainer(tick, bar(**hidden()), folder).fit(model, datamodule=data)

    return run


class Plain(pl.LightningModule):
    """A LightningModule as tutorials write it."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0]
        reconstruction, kl = elbo(self.model, x)
        loss = reconstruction + kl
        terms = {"loss": loss, "reconstruction": reconstruction, "kl": kl}
        self.log_dict({f"train/{name}": value for name, value in terms.items()}, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def plain_lightning(make: Callable[[], VAE], samples: Tensor, batch_size: int) -> Contestant:
    def run(tick: Tick) -> None:
        loader = DataLoader(TensorDataset(samples.float() / 255), batch_size, shuffle=True)
        with tempfile.TemporaryDirectory() as folder:
            bar = pl.callbacks.RichProgressBar(**hidden())
            trainer(tick, bar, folder).fit(Plain(make()), loader)

    return run


def pythae(samples: Tensor, batch_size: int) -> Contestant:
    """Its VAE with its default network, 784-512-16, and its trainer."""

    def run(tick: Tick) -> None:
        from pythae.data.datasets import BaseDataset
        from pythae.models import VAE as Peer
        from pythae.models import VAEConfig
        from pythae.trainers import BaseTrainer, BaseTrainerConfig
        from pythae.trainers.training_callbacks import TrainingCallback

        class Turn(TrainingCallback):
            def on_train_step_end(self, *args: Any, **kwargs: Any) -> None:
                tick()

        logging.getLogger("pythae").setLevel(logging.ERROR)
        x = samples.float() / 255
        with tempfile.TemporaryDirectory() as folder:
            config = BaseTrainerConfig(
                output_dir=folder,
                num_epochs=10**6,
                per_device_train_batch_size=batch_size,
                learning_rate=1e-3,
                no_cuda=DEVICE.type == "cpu",
            )
            model = Peer(VAEConfig(input_dim=tuple(x.shape[1:]), latent_dim=16, reconstruction_loss="bce"))
            with contextlib.redirect_stderr(io.StringIO()):
                BaseTrainer(
                    model, BaseDataset(x, torch.zeros(len(x))), training_config=config, callbacks=[Turn()]
                ).train()

    return run


CASES: dict[str, tuple[dict[str, Any], int]] = {
    "MLP 784-512-16": ({"architecture": MLP(hidden=(512,)), "likelihood": Bernoulli()}, 128),
    "MLP 784-512-16, Gaussian": ({"architecture": MLP(hidden=(512,)), "likelihood": Gaussian("learned")}, 128),
    "ConvNet 32-64, 28x28": ({"architecture": ConvNet(channels=(32, 64)), "likelihood": Bernoulli()}, 128),
    "MLP 784-512-16, large batch": ({"architecture": MLP(hidden=(512,)), "likelihood": Bernoulli()}, 2048),
}


def maker(options: dict[str, Any]) -> Callable[[], VAE]:
    def make() -> VAE:
        torch.manual_seed(0)
        return VAE((1, 28, 28), 16, **options)

    return make


def steps_of(name: str, batch_size: int) -> int:
    """How many make a turn."""
    return max(4, 40 * 128 // batch_size // (3 if "Conv" in name else 1))


def training() -> list[str]:
    lines = [
        f"A VAE with Bernoulli likelihood, or a Gaussian of learned scale, on {device_name()}, torch "
        f"{torch.__version__}; logging and progress bars on. How many times as fast as each peer ours trains.",
        "",
        "| network | batch | ours, steps/s | bare loop, Adam | bare loop, fused AdamW | plain Lightning | pythae 0.1.2 "
        "| ours without a bar | ours with Lightning's bar | share of peak FLOP/s | waits for data |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = pictures(20_000, 1, 28)
    samples = HFDataModule(rows, val_fraction=0)._array("train", False)
    for name, (options, batch_size) in CASES.items():
        make = maker(options)
        contestants = {
            "ours": ours(make, rows, batch_size),
            "adam": bare(make, samples, batch_size, adam),
            "fused": bare(make, samples, batch_size, fused_adamw),
            "lightning": plain_lightning(make, samples, batch_size),
            "no bar": ours(make, rows, batch_size, bar=NoBar),
            "its bar": ours(make, rows, batch_size, bar=RichProgressBar),
            "one batch": one_batch(make, samples, batch_size),
        }
        if find_spec("pythae") and name.startswith("MLP") and isinstance(options["likelihood"], Bernoulli):
            contestants["pythae"] = pythae(samples, batch_size)
        times = contest(contestants, steps_of(name, batch_size), ROUNDS)
        cells = [f"{1 / np.median(times['ours']):.0f}"]
        cells += [ratio(times, "ours", peer) for peer in ("adam", "fused", "lightning")]
        cells.append(ratio(times, "ours", "pythae") if "pythae" in times else "not run")
        cells += [ratio(times, "ours", other) for other in ("no bar", "its bar")]
        share = flops(make(), samples[:batch_size]) / float(np.median(times["ours"])) / peak_flops()
        cells.append(f"{100 * share:.0f} %")
        cells.append(f"{100 * float(np.median(1 - times['one batch'] / times['ours'])):.0f} %")
        lines.append(f"| {name} | {batch_size} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "The peak is what a float32 product of two 2048x2048 matrices reaches here. The last column is what a bare "
        "loop over one batch that never changes saves of our step: data, and all of the trainer's own work. Ours has "
        "the command line's bar; the same model without one, and under a trainer of one's own with Lightning's.",
    ]
    return lines


FAMILIES: dict[str, dict[str, Any]] = {
    "vae": {},
    "iwae": {},
    "beta_tc_vae": {},
    "factor_vae": {},
    "info_vae": {},
    "vampprior_vae": {},
    "hyperspherical_vae": {},
    "categorical_vae": {},
    "ladder_vae": {},
    "conditional_vae": {},
}
"""A variational variant a family, and its options besides the network."""


def by_hand(model: VAE, x: Tensor, samples: int) -> Tensor:
    """The importance-weighted bound as one writes it."""
    mean, log_variance = model.encoder(x).unsqueeze(1).chunk(2, dim=2)
    noise = torch.randn(len(x), samples, mean.shape[2], device=x.device)
    z = mean + (0.5 * log_variance).exp() * noise
    output = model.decoder(z.flatten(0, 1)).view(len(x), samples, -1)
    target = x.flatten(1).unsqueeze(1).expand_as(output)
    log_p = -F.binary_cross_entropy_with_logits(output, target, reduction="none").sum(dim=2)
    log_ratio = 0.5 * (noise.square() + log_variance - z.square()).sum(dim=2)
    return math.log(samples) - (log_p + log_ratio).logsumexp(dim=1).mean()


def bare_family(make: Callable[[], Any], name: str, samples: Tensor, labels: Tensor, batch_size: int) -> Contestant:
    """A loop without a trainer: a gather, the loss, fused AdamW; of "iwae" a loss by hand, else the model's own."""

    def run(tick: Tick) -> None:
        model = make().to(DEVICE)
        model.train()
        if model.needs_data_size:
            model.data_size.fill_(len(samples))
        optimizer = torch.optim.AdamW(model.parameter_groups(), lr=1e-3, weight_decay=0.0, fused=True)
        resident, classes = samples.to(DEVICE), labels.to(DEVICE)
        while True:
            for part in torch.randperm(len(resident), device=DEVICE).split(batch_size):
                x = resident.index_select(0, part).float() / 255
                given = {"label": classes[part]} if model.given else {}
                loss = by_hand(model, x, 5) if name == "iwae" else model.loss(x, x, **given)["loss"]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                tick()

    return run


def families() -> list[str]:
    lines = [
        f"Variational variants, 784-512-16 with a Bernoulli likelihood and batches of 128, on {device_name()}, torch "
        f"{torch.__version__}: how many times as fast as a loop without a trainer that does the same arithmetic, fused "
        "AdamW. The loop has the importance-weighted bound written by hand, and the others' losses from the model.",
        "",
        "| variant | ours, ms a step | to the bare loop |",
        "|---|---|---|",
    ]
    rows = pictures(20_000, 1, 28)
    data = HFDataModule(rows, val_fraction=0)
    samples, labels = data._array("train", False), data.labels("train")
    for name, options in FAMILIES.items():

        def make(name: str = name, options: dict[str, Any] = options) -> Any:
            torch.manual_seed(0)
            return get_model(name)((1, 28, 28), 16, architecture=MLP(hidden=(512,)), likelihood=Bernoulli(), **options)

        contestants = {"ours": ours(make, rows, 128), "bare": bare_family(make, name, samples, labels, 128)}
        times = contest(contestants, 20, ROUNDS)
        lines.append(f"| `{name}` | {1e3 * np.median(times['ours']):.1f} | {ratio(times, 'ours', 'bare')} |")
    return lines


def compiling() -> list[str]:
    lines = [
        f"How many times as fast as without it ours trains after `model.compile()`, on {device_name()}.",
        "",
        "| network | likelihood | batch | compiled to plain |",
        "|---|---|---|---|",
    ]
    rows = pictures(20_000, 1, 28)
    for name, (options, batch_size) in CASES.items():
        make = maker(options)
        contestants = {"plain": ours(make, rows, batch_size), "compiled": ours(make, rows, batch_size, compiled=True)}
        times = contest(contestants, steps_of(name, batch_size), ROUNDS)
        likelihood = type(options["likelihood"]).__name__
        lines.append(
            f"| {name.removesuffix(', Gaussian')} | {likelihood} | {batch_size} | {ratio(times, 'compiled', 'plain')} |"
        )
    lines += [
        "",
        "Each compiled network costs a step some tenths of a millisecond, for the guards of its graph and what wraps "
        "its two passes; what it saves are passes over activations. Products of matrices and convolutions, which take "
        "most of the time here, are the same kernels, or slower ones.",
    ]
    return lines


def enlarging() -> list[str]:
    lines = [
        "An autoencoder's step over one batch with the default ConvNet, and with the transposed convolutions and "
        f"zeros of earlier versions, on {device_name()}, torch {torch.__version__}.",
        "",
        "| images | batch | default, ms | earlier, ms | how many times as fast |",
        "|---|---|---|---|---|",
    ]
    for shape, batch_size in (((1, 28, 28), 128), ((3, 32, 32), 128), ((3, 64, 64), 32)):
        contestants = {
            "default": steps(ConvNet(), shape, batch_size),
            "earlier": steps(ConvNet(**ConvNet.earlier), shape, batch_size),
        }
        times = contest(contestants, 4, ROUNDS)
        default, earlier = (1e3 * np.median(times[name]) for name in contestants)
        size = f"{shape[1]}x{shape[2]}x{shape[0]}"
        lines.append(
            f"| {size} | {batch_size} | {default:.1f} | {earlier:.1f} | {ratio(times, 'default', 'earlier')} |"
        )
    return lines


def steps(architecture: ConvNet, shape: tuple[int, ...], batch_size: int) -> Contestant:
    def run(tick: Tick) -> None:
        torch.manual_seed(0)
        model = Autoencoder(shape, 16, architecture=architecture).to(DEVICE)
        optimizer = fused_adamw(model.parameters())
        x = torch.rand(batch_size, *shape, device=DEVICE)
        while True:
            optimizer.zero_grad()
            model.loss(x, x)["loss"].backward()
            optimizer.step()
            tick()

    return run


def one_batch(make: Callable[[], VAE], samples: Tensor, batch_size: int) -> Contestant:
    def run(tick: Tick) -> None:
        model = make().to(DEVICE)
        optimizer = fused_adamw(model.parameters())
        x = samples[:batch_size].to(DEVICE).float() / 255
        while True:
            optimizer.zero_grad()
            reconstruction, kl = elbo(model, x)
            (reconstruction + kl).backward()
            optimizer.step()
            tick()

    return run


def flops(model: VAE, samples: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        reconstruction, kl = elbo(model, samples.float() / 255)
        (reconstruction + kl).backward()
    return counter.get_total_flops()


def peak_flops() -> float:
    a = torch.rand(2048, 2048, device=DEVICE)
    best = 0.0
    for _ in range(5):
        started = CLOCK()
        a @ a
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * 2048**3 / (CLOCK() - started))
    return best


def device_name() -> str:
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name()
    load, processors = os.getloadavg()[0], len(os.sched_getaffinity(0))
    beside = f"{load:.1f} processes for {processors} processors at the start"
    return f"one thread of a CPU ({platform.machine()}; seconds of the process's own; {beside})"


# ---- growth, start, memory ----------------------------------------------------------------------------------------


def growth() -> list[str]:
    lines = ["Feeding 28x28 images in batches of 128, and a bare gather of the same; ns per sample.", ""]
    lines += ["| samples | ours | bare gather | ratio |", "|---|---|---|---|"]
    for n in (10**4, 10**5, 10**6):
        samples = torch.randint(0, 255, (n, 1, 28, 28), dtype=torch.uint8)

        def fed(tick: Tick, samples: Tensor = samples) -> None:
            for _ in forever(BatchLoader(Columns({"image": samples}), Order(len(samples), 128, shuffle=True))):
                tick()

        def gather(tick: Tick, samples: Tensor = samples) -> None:
            while True:
                for part in torch.randperm(len(samples)).split(128):
                    samples.index_select(0, part)
                    tick()

        times = contest({"ours": fed, "gather": gather}, max(78, n // 1280), 10)
        per_sample = {name: np.median(values) / 128 * 1e9 for name, values in times.items()}
        lines.append(
            f"| {n:,} | {per_sample['ours']:.0f} | {per_sample['gather']:.0f} | {ratio(times, 'ours', 'gather')} |"
        )
    lines += ["", "Training steps of a VAE, batch 128, ours to a bare loop with fused AdamW.", ""]
    lines += ["| width | latents | ours, ms | ratio |", "|---|---|---|---|"]
    rows = pictures(5_000, 1, 28)
    samples = HFDataModule(rows, val_fraction=0)._array("train", False)
    for width, latent in ((128, 16), (512, 2), (512, 16), (512, 256), (2048, 16)):

        def make(width: int = width, latent: int = latent) -> VAE:
            torch.manual_seed(0)
            return VAE((1, 28, 28), latent, architecture=MLP(hidden=(width,)), likelihood=Bernoulli())

        contestants = {"ours": ours(make, rows, 128), "fused": bare(make, samples, 128, fused_adamw)}
        times = contest(contestants, 20, 10)
        lines.append(f"| {width} | {latent} | {1e3 * np.median(times['ours']):.1f} | {ratio(times, 'ours', 'fused')} |")
    return lines


def start() -> list[str]:
    commands = {
        "import pytorch_lightning": [sys.executable, "-c", "import pytorch_lightning"],
        "import lightning_ae": [sys.executable, "-c", "import lightning_ae"],
        "lightning-ae --help": [sys.executable, "-m", "lightning_ae.cli", "--help"],
        "lightning-ae fit --help": [sys.executable, "-m", "lightning_ae.cli", "fit", "--help"],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(7):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            taken[name].append(time.perf_counter() - started)
    lines = ["Whole processes in turns, medians of 7; above the import of pytorch_lightning.", ""]
    lines += ["| command | seconds | above |", "|---|---|---|"]
    first = np.array(taken["import pytorch_lightning"])
    for name, values in taken.items():
        lines.append(f"| `{name}` | {np.median(values):.2f} | {np.median(np.array(values) - first):+.2f} |")
    return lines


RANK = """
import json, sys, lightning_ae as ae

def mapped():
    lines = [line.split() for line in open("/proc/self/smaps_rollup")][1:]
    sizes = {line[0].rstrip(":"): int(line[1]) / 1024 for line in lines}
    return sizes["Private_Clean"] + sizes["Private_Dirty"], sizes["Rss"]

data = ae.HFDataModule(sys.argv[1], val_fraction=0, cache=sys.argv[2])
data.prepare_data()
other = ae.HFDataModule("digits")  # what any data set takes, libraries included
other.setup("fit")
next(iter(other.train_dataloader()))
before = mapped()
data.setup("fit")
for _ in data.train_dataloader():
    pass
print(json.dumps([after - was for after, was in zip(mapped(), before)]))
"""


def memory() -> list[str]:
    lines = [
        "What a process takes for an epoch over 200,000 images of 28x28 (150 MiB) while another has them open: memory "
        "of its own, and all that it has mapped (resident), which the page cache shares. Labels and order included.",
        "",
        "| cache | own, MiB | resident, MiB |",
        "|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder, cache_in(folder):
        (Path(folder) / "set").mkdir()
        pictures(200_000, 1, 28).to_parquet(Path(folder) / "set" / "train.parquet")
        for cache in ("disk", "memory"):
            held = HFDataModule(str(Path(folder) / "set"), val_fraction=0)  # by the other process
            for batch in held.train_dataloader():
                del batch
            command = [sys.executable, "-c", RANK, str(Path(folder) / "set"), cache]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            measured = json.loads(out.splitlines()[-1])
            lines.append(f"| {cache} | {measured[0]:.0f} | {measured[1]:.0f} |")
    return lines


# ---- the report ---------------------------------------------------------------------------------------------------

PARTS = ("feeding", "decoding", "training", "families", "enlarging", "compiling", "growth", "start", "memory")


def write(part: str, lines: list[str]) -> None:
    """Replaces one part of the report."""
    sections = {}
    if FILE.exists():
        for section in FILE.read_text().split("\n## ")[1:]:
            title, _, body = section.partition("\n")
            sections[title] = body.strip()
    sections[part.capitalize()] = "\n".join(lines)
    text = (
        "# Speed\n\nMade by `python benchmarks/speed.py`. Contestants take turns in one process; medians over rounds, "
        "ratios round by round with the 10 % and 90 % quantiles in brackets. More than 1 means that ours is faster.\n"
    )
    for name in PARTS:
        if name.capitalize() in sections:
            text += f"\n## {name.capitalize()}\n\n{sections[name.capitalize()]}\n"
    FILE.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[part for part in PARTS if part != "compiling"])
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    console = Console(highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory() as folder, cache_in(folder):
        for part in options.only:
            lines = globals()[part]()
            console.print(f"[bold]{part}[/]", *lines, sep="\n")
            write(part, lines)
    console.print(f"\nWritten\n  {FILE}")


if __name__ == "__main__":
    main()
