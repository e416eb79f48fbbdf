"""Quantizers: distortion against bits on Fashion-MNIST, use of codebooks, and vector-quantize-pytorch beside them.

    python benchmarks/quantizers.py [--write benchmarks/quantizers.md]      # two hours; the first time, downloads
    python benchmarks/quantizers.py --only rates --steps 300                # one part, of rates, peers

All models have the encoder and the decoder of `VQVAE`, a map of 7 x 7 vectors, and differ in the quantizer alone. Both
packages' quantizers train in an environment that this makes (requirements_quantizers.txt), by one loop, in processes
that take turns.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_ae import VQVAE, VQVAE2
from lightning_ae.colours import PALETTE
from lightning_ae.figures import Figure
from lightning_ae.files import whole_file
from lightning_ae.parts import (
    FiniteScalarQuantizer,
    Gaussian,
    GumbelQuantizer,
    LookupFreeQuantizer,
    ResidualQuantizer,
    SimVectorQuantizer,
    VectorQuantizer,
)

HERE = Path(__file__).parent
ROOT = HERE.parent
PARTS = ("rates", "peers")
SHAPE, BATCH, POSITIONS, DIM = (1, 28, 28), 128, 49, 16
REVIVE = 2 / (BATCH * POSITIONS / 512)
"""Dead below two vectors of a batch, as vector-quantize-pytorch advises, here as a part of an even share of 512."""


def means(codes: int) -> VectorQuantizer:
    """The running means of both parts: what its peer calls threshold_ema_dead_code=2."""
    return VectorQuantizer(codes, revive=min(REVIVE * codes / 512, 0.5))


def residual(layers: int, codes: int) -> ResidualQuantizer:
    """Whose commitments are 0.25 together."""
    return ResidualQuantizer(layers, replace(means(codes), commitment=0.25 / layers))


RATES: dict[str, Callable[[], VQVAE]] = {
    "VQ, 64 codes": lambda: VQVAE(SHAPE, DIM, quantizer=means(64)),
    "VQ, 512 codes": lambda: VQVAE(SHAPE, DIM, quantizer=means(512)),
    "VQ, 512 codes, cosine, rotation": lambda: VQVAE(
        SHAPE, DIM, quantizer=VectorQuantizer(512, revive=REVIVE, distance="cosine", gradient="rotation")
    ),
    "VQ, 4096 codes": lambda: VQVAE(SHAPE, DIM, quantizer=means(4096)),
    "residual VQ, 2 x 64 codes": lambda: VQVAE(SHAPE, DIM, quantizer=residual(2, 64)),
    "residual VQ, 2 x 512 codes": lambda: VQVAE(SHAPE, DIM, quantizer=residual(2, 512)),
    "residual VQ, 4 x 512 codes": lambda: VQVAE(SHAPE, DIM, quantizer=residual(4, 512)),
    "FSQ, 8 x 6 x 5": lambda: VQVAE(SHAPE, 3, quantizer=FiniteScalarQuantizer((8, 6, 5), gain=4.0)),
    "FSQ, 8 x 8 x 8": lambda: VQVAE(SHAPE, 3, quantizer=FiniteScalarQuantizer((8, 8, 8), gain=4.0)),
    "FSQ, 8 x 5 x 5 x 5": lambda: VQVAE(SHAPE, 4, quantizer=FiniteScalarQuantizer((8, 5, 5, 5), gain=4.0)),
    "LFQ, 9 bits": lambda: VQVAE(SHAPE, 9, quantizer=LookupFreeQuantizer(9)),
    "SimVQ, 512 codes": lambda: VQVAE(SHAPE, DIM, quantizer=SimVectorQuantizer(512)),
    "Gumbel, 512 codes": lambda: VQVAE(
        SHAPE, DIM, quantizer=GumbelQuantizer(512), likelihood=Gaussian(scale="optimal")
    ),
    "VQ-VAE-2, 512 codes": lambda: VQVAE2(SHAPE, DIM, quantizer=means(512)),
}
PEERS = ("VQ, 512 codes", "residual VQ, 4 x 512 codes", "FSQ, 8 x 8 x 8")
OURS, THEIRS = "lightning_ae", "vector-quantize-pytorch"


# ---- one training, in the environment of the peer -------------------------------------------------------------------


class Peer(nn.Module):
    """The networks of a model of ours around a quantizer of vector-quantize-pytorch."""

    def __init__(self, name: str) -> None:
        import vector_quantize_pytorch as peer

        super().__init__()
        self.model = RATES[name]()
        self.model.codebook = nn.Identity()
        options = {"decay": 0.99, "commitment_weight": 0.25, "threshold_ema_dead_code": 2, "rotation_trick": False}
        self.weight, self.name = DIM * POSITIONS, name  # a mean over values there, a sum over a sample's here
        if name.startswith("FSQ"):
            self.quantizer: nn.Module = peer.FSQ([8, 8, 8], channel_first=True)
        elif name.startswith("residual"):
            self.quantizer = peer.ResidualVQ(dim=DIM, num_quantizers=4, codebook_size=512, **options)
        else:
            self.quantizer = peer.VectorQuantize(DIM, 512, accept_image_fmap=True, **options)

    def quantised(self, x: Tensor) -> tuple[Tensor, Tensor, Any]:
        h = self.model.encoder(x)
        if self.name.startswith("residual"):  # which takes vectors, (B, n, channels)
            z, indices, commitment = self.quantizer(h.flatten(2).transpose(1, 2))
            return z.transpose(1, 2).unflatten(2, h.shape[2:]), indices, commitment
        found = self.quantizer(h)
        return found[0], found[1], found[2] if len(found) > 2 else torch.zeros(())

    def loss(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        z, _, commitment = self.quantised(x)
        return {"loss": self.model.reconstruction_loss(z, target) + self.weight * commitment.sum()}

    def seen(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructions and indices, (N, depth)."""
        z, indices, _ = self.quantised(x)
        return self.model.decode(z), indices.reshape(len(x) * POSITIONS, -1)


def seen(model: VQVAE, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Reconstructions, and of each level indices (N, depth)."""
    found = model.encode_indices(x)
    levels = found if isinstance(found, tuple) else (found,)
    rows = [
        part.movedim(1, -1).reshape(-1, book.depth) if book.depth > 1 else part.reshape(-1, 1)
        for part, book in zip(levels, model.codebooks, strict=True)
    ]
    return model.decode_indices(found), rows


def images(path: str, split: str) -> Tensor:
    """All images of a split, (N, 1, 28, 28) in [0, 1]."""
    from lightning_ae import HFDataModule

    data = HFDataModule(path, val_fraction=0.0, batch_size=1000)
    return torch.cat([batch["image"] for batch in data.batches(split, 1000)])


def work(name: str, who: str, seed: int, steps: int, path: str) -> None:
    """Trains one, and prints what was measured as JSON."""
    torch.set_num_threads(1)
    train, test = images(path, "train"), images(path, "test")
    torch.manual_seed(seed)
    model: Any = RATES[name]() if who == OURS else Peer(name)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    order = torch.Generator().manual_seed(seed)
    seconds = []
    model.train()
    for _ in range(steps):
        x = train[torch.randint(len(train), (BATCH,), generator=order)]
        start = time.process_time()
        loss = model.loss(x, x)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.process_time() - start)
    model.eval()
    error, rows = 0.0, []
    with torch.no_grad():
        for x in test.split(500):
            if who == OURS:
                y, indices = seen(model, x)
            else:
                y, one = model.seen(x)
                indices = [one]
            error += float((y - x).square().sum())
            rows.append(indices)
    use, perplexity = [], []
    codes = RATES[name]().codebook.codes
    for level in range(len(rows[0])):
        for column in torch.cat([each[level] for each in rows]).unbind(1):
            p = column.long().bincount(minlength=codes).double()
            p = p / p.sum()
            use.append(float((p > 0).double().mean()))
            perplexity.append(float(torch.special.entr(p).sum().exp()))
    bits = float(RATES[name]().rate(test[:1]))
    measured = {
        "error": error / len(test),
        "bits": bits,
        "use": statistics.mean(use),
        "perplexity": statistics.mean(perplexity),
        "codes": codes,
        "ms": 1000 * statistics.median(seconds[10:]),
    }
    print(json.dumps(measured))


# ---- the tables -----------------------------------------------------------------------------------------------------


def run(python: str, name: str, who: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """What `work` says, in a process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [python, str(Path(__file__).resolve()), "work", name, who, str(seed), str(args.steps), args.data]
    out = subprocess.run(words, check=True, env=env, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(out.splitlines()[-1])
    print(f"{name}, {who}, seed {seed}: {json.dumps(found)}", flush=True)
    return found


def plot(found: dict[str, dict[str, float]]) -> Figure:
    """Distortion against rate, quantizers of a family by one line, all named."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, family in enumerate(dict.fromkeys(name.split(",")[0] for name in found)):
        rows = sorted((row["bits"], row["error"], name) for name, row in found.items() if name.startswith(f"{family},"))
        label = family if len(rows) > 1 else rows[0][2]
        style = {"color": PALETTE[number], "marker": "osD^vPX*"[number % 8], "label": label}
        axes.plot([row[0] for row in rows], [row[1] for row in rows], linestyle=":", **style)
        for bits, error, name in rows if len(rows) > 1 else ():
            short = name.partition(", ")[2].removesuffix(" codes").replace("codes, cosine, rotation", "cosine")
            axes.annotate(short, (bits, error), (5, 4), textcoords="offset points", fontsize=7)
    axes.set(xlabel="bits an image", ylabel="squared error of a test image", xscale="log", yscale="log")
    axes.margins(x=0.15, y=0.1)
    axes.legend(fontsize=8)
    return figure


def rates(args: argparse.Namespace) -> str:
    """A table of distortions and rates, and their picture beside the page."""
    found = {name: run(sys.executable, name, OURS, 0, args) for name in RATES}
    shown = ""
    if args.write:
        picture = args.write.with_suffix(".png")
        with whole_file(picture) as part:
            plot(found).savefig(part, format="png", dpi=150)
        shown = f"![Squared error against bits of an image, each quantizer a point]({picture.name})\n\n"
    lines = [
        "| quantizer | bits a position | bits an image | squared error | PSNR, dB | codes in use, % | perplexity |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in sorted(found.items(), key=lambda each: each[1]["bits"]):
        psnr = 10 * math.log10(784 / row["error"])
        lines.append(
            f"| {name} | {row['bits'] / POSITIONS:.1f} | {row['bits']:.0f} | {row['error']:.2f} | {psnr:.2f} | "
            f"{100 * row['use']:.1f} | {row['perplexity']:.0f} of {row['codes']:.0f} |"
        )
    fsq = {name.partition(", ")[2]: row["use"] for name, row in found.items() if name.startswith("FSQ")}
    vq, two = found["VQ, 4096 codes"], found["residual VQ, 2 x 64 codes"]
    goals = [
        f"- FSQ uses all of its codes: "
        f"{', '.join(f'{name} {said(use == 1)}, {100 * use:.1f} %' for name, use in fsq.items())}.",
        f"- VQ whose dead codes start again uses at least 95 % of 512: "
        f"{said(found['VQ, 512 codes']['use'] >= 0.95)}, {100 * found['VQ, 512 codes']['use']:.1f} %.",
        f"- Residual VQ has less distortion than VQ at the same bits, 12 a position: "
        f"{said(two['error'] < vq['error'])}, {two['error']:.2f} (2 x 64) against {vq['error']:.2f} (4096).",
    ]
    return (
        "## Rates\n\n"
        f"Adam 1e-3, batches of {BATCH}, {args.steps} steps, seed 0, one run each; squared error of the test images, "
        "summed over the 784 pixels, which lie in [0, 1]. Bits are those of the indices, all as likely as each other. "
        "Use is of the indices of the test images; of several indices and levels the mean. A code of the running means "
        "is dead below two vectors of a batch; the commitment is 0.25, of residual VQ that of all layers together."
        f"\n\n{shown}" + "\n".join(lines) + "\n\n" + "\n".join(goals) + "\n"
    )


def peers(args: argparse.Namespace) -> str:
    """A table of both packages."""
    python = args.python
    if python is None:
        from environments import environment  # beside this file, which is not always run as a script

        python = environment(args.environment, "requirements_quantizers.txt", "-e", str(ROOT))
    rows = {(name, who): [] for name in PEERS for who in (OURS, THEIRS)}
    for seed in args.seeds:
        for name in PEERS:
            for who in (OURS, THEIRS) if seed % 2 == 0 else (THEIRS, OURS):
                rows[name, who].append(run(python, name, who, seed, args))
    lines = [
        "| quantizer | package | squared error | least to most | codes in use, % | perplexity | ms a step | "
        "ours takes, times theirs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    goals = []
    for name in PEERS:
        ours, theirs = rows[name, OURS], rows[name, THEIRS]
        ratio = statistics.median(a["ms"] / b["ms"] for a, b in zip(ours, theirs, strict=True))
        for who, each in ((OURS, ours), (THEIRS, theirs)):
            told = {key: statistics.median(row[key] for row in each) for key in ("error", "use", "perplexity", "ms")}
            lines.append(
                f"| {name} | {who} | {told['error']:.2f} | {min(row['error'] for row in each):.2f} to "
                f"{max(row['error'] for row in each):.2f} | {100 * told['use']:.1f} | {told['perplexity']:.0f} | "
                f"{told['ms']:.1f} | {f'{ratio:.2f}' if who == OURS else ''} |"
            )
        error = [statistics.median(row["error"] for row in each) for each in (ours, theirs)]
        use = [statistics.median(row["use"] for row in each) for each in (ours, theirs)]
        goals.append(
            f"- {name}: distortion not worse: {said(error[0] <= error[1])}; use not lower: {said(use[0] >= use[1])}; "
            f"a step not slower: {said(ratio <= 1)}."
        )
    return (
        "## Peers\n\n"
        "The same networks, data, order and loss, around the quantizer of either package: vector-quantize-pytorch "
        "1.32.0, decay 0.99, commitment 0.25 (in the same units), dead below two vectors of a batch, straight through; "
        "its FSQ as it comes, ours with gain 4. Of residual VQ a layer of ours has the commitment 0.25 / layers, which "
        "weighs the same: there the decoder's gradient reaches the encoder once from each layer. "
        f"{args.steps} steps, seeds {', '.join(map(str, args.seeds))}, "
        "processes that take turns, one thread each; medians over seeds, of a step the median of its processor time, "
        "of the ratio the median of those of one seed.\n\n" + "\n".join(lines) + "\n\n" + "\n".join(goals) + "\n"
    )


def said(holds: bool) -> str:
    """In a word."""
    return "yes" if holds else "no"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--data", default="zalando-datasets/fashion_mnist", help="a copy of the data")
    parser.add_argument("--environment", type=Path, default=ROOT / ".venv" / "quantizers", help="where the peer lies")
    parser.add_argument("--python", help="the Python of an environment that has both packages")
    parser.add_argument("--write", type=Path, help="the page, of which each part is replaced when it is run again")
    args = parser.parse_args()
    old = args.write.read_text().split("\n## ")[1:] if args.write and args.write.exists() else []
    texts = {text.split("\n")[0].lower(): f"## {text.rstrip()}\n" for text in old}
    for part in PARTS if args.only is None else (args.only,):
        texts[part] = {"rates": rates, "peers": peers}[part](args)
        print(texts[part], flush=True)
        if args.write:
            head = "# Quantizers\n\nMade by `python benchmarks/quantizers.py --write benchmarks/quantizers.md`.\n\n"
            args.write.write_text(head + "\n".join(texts[each] for each in PARTS if each in texts))


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:  # in the environment of the peer
        work(*sys.argv[2:4], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
    else:
        main()
