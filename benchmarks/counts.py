"""Counts: the plain call beside scvi-tools' SCVI and principal components; and the memory that a large matrix takes.

    python benchmarks/counts.py [--write benchmarks/counts.md]      # a quarter of an hour; the first time, downloads
    python benchmarks/counts.py --only memory                       # one part, of cells, memory

The cells are scanpy's bundled PBMC set, 700 cells of 765 genes, whose counts are recovered from what it holds,
round(expm1(raw.X) * n_counts / 10^4). Each seed has a split of its own (70 % train, 10 % validation, 20 % test). Both
networks train in an environment that this makes (requirements_counts.txt), in processes that take turns.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from environments import environment
from torch import Tensor

from lightning_ae.metrics import knn_error

HERE = Path(__file__).parent
ROOT = HERE.parent
PARTS = ("cells", "memory")
SEEDS, LATENT, BATCH, DRAWS = (0, 1, 2), 10, 128, 200
EPOCHS = (100, 200, 400)  # 400 is what SCVI takes for so few cells
CONTESTANTS = ("ours, NB", "SCVI, NB")  # and, of either, ZINB
QUIET: dict[str, Any] = {"max_epochs": EPOCHS[-1], "enable_progress_bar": False, "enable_model_summary": False}
Parameters = tuple[Tensor, Tensor, "Tensor | None"]  # log-mean, log-dispersion, and the logit of the share of zeros
Code = Callable[[Tensor], tuple[Tensor, Tensor]]  # counts to mean and standard deviation of q(z | x)
Decode = Callable[[Tensor, Tensor], Parameters]  # of z and x
Watched = Callable[..., Any]  # makes a callback


# ---- what both are measured by ------------------------------------------------------------------------------------


def log_mass(x: Tensor, log_mean: Tensor, log_theta: Tensor, logit: Tensor | None) -> Tensor:
    """log p(x) of the (zero-inflated) negative binomial, in nats, summed over genes."""
    theta = log_theta.exp()
    log_total = torch.logaddexp(log_theta, log_mean)
    found = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    found = found + theta * (log_theta - log_total) + x * (log_mean - log_total)
    if logit is not None:
        share = torch.nn.functional.logsigmoid
        kept = share(-logit) + found
        found = torch.where(x == 0, torch.logaddexp(share(logit), kept), kept)
    return found.sum(dim=-1)


def log_likelihood(x: Tensor, code: Code, decode: Decode, draws: int = DRAWS) -> float:
    """log p(x) given the library, in nats for a cell: importance-sampled from q(z | x), all in float64 but the nets."""
    generator = torch.Generator().manual_seed(0)
    mean, deviation = code(x)
    weights = []
    for _ in range(draws):
        noise = torch.randn(mean.shape, generator=generator)
        z = mean + deviation * noise
        parameters = [None if each is None else each.double() for each in decode(z, x)]
        log_ratio = (0.5 * (noise.square() - z.square()) + deviation.log()).double().sum(dim=-1)
        weights.append(log_mass(x.double(), *parameters) + log_ratio)  # type: ignore[arg-type]
    return float((torch.stack(weights).logsumexp(dim=0) - math.log(draws)).mean())


def split(cells: int, seed: int) -> dict[str, np.ndarray]:
    order = np.random.default_rng(seed).permutation(cells)
    return dict(zip(("train", "val", "test"), np.split(order, [cells * 7 // 10, cells * 8 // 10]), strict=True))


# ---- one training, in the environment of the peers ----------------------------------------------------------------


def recover(file: str) -> None:
    """Writes the counts of scanpy's bundled cells."""
    import scanpy

    found = scanpy.datasets.pbmc68k_reduced()
    exact = np.expm1(found.raw.X.toarray()) * found.obs["n_counts"].to_numpy()[:, None] / 1e4
    counts = scipy.sparse.csr_matrix(np.round(exact).astype(np.float32))
    np.savez(file, data=counts.data, indices=counts.indices, indptr=counts.indptr, shape=counts.shape,
             labels=found.obs["bulk_labels"].astype(str).to_numpy().astype(str),
             genes=np.array(found.raw.var_names, dtype=str))  # fmt: skip


def cells_of(file: str) -> Any:
    """The cells as an AnnData."""
    import anndata
    import pandas as pd

    found = np.load(file)
    matrix = scipy.sparse.csr_matrix((found["data"], found["indices"], found["indptr"]), tuple(found["shape"]))
    obs = pd.DataFrame({"type": pd.Categorical(found["labels"])}, index=[f"cell {i}" for i in range(matrix.shape[0])])
    return anndata.AnnData(matrix, obs=obs, var=pd.DataFrame(index=found["genes"].astype(object)))


def ours(cells: Any, parts: dict[str, np.ndarray], zero_inflated: bool, watched: Watched) -> None:
    import pytorch_lightning as pl

    from lightning_ae import VAE, HFDataModule
    from lightning_ae.parts import ZeroInflatedNegativeBinomial

    data = HFDataModule({s: cells[parts[s]] for s in ("train", "val")}, label="type", cache="memory", batch_size=BATCH)
    options = data.suits | ({"likelihood": ZeroInflatedNegativeBinomial(library=True)} if zero_inflated else {})
    model = VAE(**options, latent_dim=LATENT)

    def code(x: Tensor) -> tuple[Tensor, Tensor]:
        q: Any = model.infer(x)
        return q.mean, (0.5 * q.log_variance).exp()

    def decode(z: Tensor, x: Tensor) -> Parameters:
        p = model.decoder_parameters(z, **model.implies(x, {}))
        return p[:, 0], p[:, -1], p[:, 1] if zero_inflated else None

    trainer = pl.Trainer(callbacks=[watched(pl.Callback, model, code, decode)], num_sanity_val_steps=0,
                         limit_val_batches=0, logger=False, enable_checkpointing=False, **QUIET)  # fmt: skip
    trainer.fit(model, data)


def scvi(cells: Any, parts: dict[str, np.ndarray], zero_inflated: bool, watched: Watched) -> None:
    from lightning.pytorch import Callback
    from scvi.model import SCVI

    train = cells[parts["train"]].copy()
    SCVI.setup_anndata(train)
    model = SCVI(train, n_latent=LATENT, gene_likelihood="zinb" if zero_inflated else "nb")
    module = model.module

    def batch(x: Tensor) -> Tensor:
        return torch.zeros(len(x), 1)

    def code(x: Tensor) -> tuple[Tensor, Tensor]:
        q = module.inference(x, batch(x))["qz"]
        return q.loc, q.scale

    def decode(z: Tensor, x: Tensor) -> Parameters:
        p = module.generative(z, x.sum(dim=1, keepdim=True).log(), batch(x))["px"]
        return p.mu.log(), p.theta.log().expand_as(p.mu), p.zi_logits if zero_inflated else None

    model.train(callbacks=[watched(Callback, module, code, decode)], train_size=1.0, batch_size=BATCH,
                accelerator="cpu", logger=False, enable_checkpointing=False, **QUIET)  # fmt: skip


def work(file: str, name: str, seed: int, out: str) -> None:
    """Trains one contestant, and writes what it found after each of `EPOCHS`."""
    import pytorch_lightning as pl

    torch.set_num_threads(1)
    for each in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(each).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    pl.seed_everything(seed, verbose=False)
    cells = cells_of(file)
    parts = split(cells.n_obs, seed)
    x = {s: torch.from_numpy(cells.X[rows].toarray()) for s, rows in parts.items()}
    found: dict[str, dict[str, float]] = {}
    codes: dict[str, np.ndarray] = {}

    def watched(base: type, model: torch.nn.Module, code: Code, decode: Decode) -> Any:
        class Watch(base):  # type: ignore[misc, valid-type]
            taken = since = 0.0

            def on_train_start(self, trainer: Any, module: Any) -> None:
                self.since = time.perf_counter()

            def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
                if (epochs := trainer.current_epoch + 1) not in EPOCHS:
                    return
                self.taken += time.perf_counter() - self.since
                model.eval()
                with torch.no_grad(), torch.random.fork_rng():
                    likelihoods = {s: log_likelihood(x[s], code, decode) for s in ("val", "test")}
                    found[str(epochs)] = {"seconds": self.taken, **likelihoods}
                    codes.update({f"{epochs} {s}": code(each)[0].numpy() for s, each in x.items()})
                model.train()
                self.since = time.perf_counter()

        return Watch()

    (ours if name.startswith("ours") else scvi)(cells, parts, "ZINB" in name, watched)
    np.savez(out, found=json.dumps(found), **codes)  # type: ignore[arg-type]


# ---- the two parts ------------------------------------------------------------------------------------------------


def told(values: list[float], digits: int = 1) -> str:
    """Mean, least and largest."""
    return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def cells(python: str, seeds: list[int]) -> str:
    """A table of held-out likelihoods, accuracies and times."""
    here = [python, str(Path(__file__).resolve()), "work"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
    pca: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, "cells.npz"))
        subprocess.run([*here, file], check=True, env=env)
        held = np.load(file)
        labels = torch.from_numpy(np.unique(held["labels"], return_inverse=True)[1])
        for seed in seeds:
            parts = {s: torch.from_numpy(rows) for s, rows in split(len(labels), seed).items()}

            def accuracy(train: Tensor, test: Tensor, part: str, p: dict[str, Tensor] = parts) -> float:
                return 100 * (1 - knn_error(train, labels[p["train"]], test, labels[p[part]]))

            pca.append(accuracy(*principal_components(held, parts), "test"))
            for name in CONTESTANTS:
                out = str(Path(folder, "out.npz"))
                subprocess.run([*here, file, name, str(seed), out], check=True, env=env, capture_output=True)
                written = np.load(out)
                rows = json.loads(str(written["found"]))
                for epochs, row in rows.items():
                    codes = {s: torch.from_numpy(written[f"{epochs} {s}"]) for s in parts}
                    row["knn"] = accuracy(codes["train"], codes["test"], "test")
                    row["epochs"] = epochs
                rows["chosen"] = max(rows.values(), key=lambda row: row["val"])
                found[name].append(rows)
                print(f"seed {seed}, {name}: {json.dumps(rows['chosen'])}", flush=True)
    lines = [
        "| model | epochs | log p(x), nats a cell | 5-NN accuracy, % | seconds | ours is, times as fast |",
        "|---|---|---|---|---|---|",
    ]
    for epochs in ("chosen", str(EPOCHS[-1])):
        for name, runs in found.items():
            rows = [each[epochs] for each in runs]
            first = [each[epochs] for each in found[CONTESTANTS[0]]]
            taken = ", ".join(str(row["epochs"]) for row in rows)
            ratio = [b["seconds"] / a["seconds"] for a, b in zip(first, rows, strict=True)]
            lines.append(
                f"| {name} | {f'by validation: {taken}' if epochs == 'chosen' else epochs} | "
                f"{told([row['test'] for row in rows])} | {told([row['knn'] for row in rows])} | "
                f"{told([row['seconds'] for row in rows])} | {'' if name == CONTESTANTS[0] else told(ratio, 2)} |"
            )
    lines.append(f"| PCA of log(1 + 10^4 count / library) | | | {told(pca)} | | |")
    versions = subprocess.run([python, "-c", VERSIONS], check=True, capture_output=True, text=True).stdout.strip()
    return (
        "## Cells\n\n"
        f"scanpy's PBMC set, {len(labels)} cells of {held['shape'][1]} genes, counts recovered as round(expm1(raw.X) * "
        f"n_counts / 10^4); seeds {', '.join(map(str, seeds))}, each with a split of its own of 70, 10 and 20 %, means "
        f"(least to largest). All have {LATENT} latents and batches of {BATCH}. Ours is `VAE(**data.suits, "
        f"latent_dim={LATENT})` and nothing else, SCVI is as it comes but for the likelihood (NB; its own is "
        "ZINB). log p(x) of the test cells given their library: importance-sampled with "
        f"{DRAWS} draws from q(z | x), by one function and one density for both, which takes each model's mean, "
        f"dispersion and share of zeros. Epochs: of {', '.join(map(str, EPOCHS))} those of the best log p(x) of the "
        "validation cells; and as many as SCVI takes by itself. Accuracy of the cell type (`bulk_labels`) from the 5 "
        "nearest training cells. Processes take turns, one thread each; seconds are those of the epochs alone. "
        f"{versions}.\n\n" + "\n".join(lines) + "\n"
    )


VERSIONS = """
from importlib.metadata import version
print(", ".join(f"{each} {version(each)}" for each in ("scvi-tools", "scanpy", "anndata", "lightning", "torch")))
"""


def principal_components(held: Any, parts: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Of the training and of the test cells, from logarithms of counts of 10^4 a cell."""
    from sklearn.decomposition import PCA

    matrix = scipy.sparse.csr_matrix((held["data"], held["indices"], held["indptr"]), tuple(held["shape"])).toarray()
    usual = np.log1p(1e4 * matrix / matrix.sum(axis=1, keepdims=True))
    pca = PCA(LATENT, svd_solver="full").fit(usual[parts["train"]])
    train, test = (torch.from_numpy(pca.transform(usual[parts[s]])).float() for s in ("train", "test"))
    return train, test


LARGE = """
import json, logging, resource, sys
import numpy as np, pytorch_lightning as pl, scipy.sparse
from lightning_ae import VAE, HFDataModule
from lightning_ae.data import Counts

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
rows, columns, each = 100_000, 2_000, 100
rng = np.random.default_rng(0)
indices = np.concatenate([np.sort(rng.choice(columns, each, replace=False)) for _ in range(rows)]).astype(np.int32)
values = rng.geometric(0.5, rows * each).astype(np.float32)
matrix = scipy.sparse.csr_matrix((values, indices, np.arange(0, rows * each + 1, each)), (rows, columns))
before = peak()
data = HFDataModule(matrix, kind=Counts(), cache=sys.argv[1])
model = VAE(**data.suits)
trainer = pl.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                     enable_model_summary=False)
trainer.fit(model, data)
print(json.dumps([before, peak(), trainer.global_step]))
"""


def memory() -> str:
    """A table of what a large matrix takes."""
    lines = ["| cache | peak before it is read, MiB | peak of the run, MiB | within 2 GiB |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "XDG_CACHE_HOME": folder, "HF_DATASETS_CACHE": folder}
        for cache in ("disk", "memory"):
            command = [sys.executable, "-W", "ignore", "-c", LARGE, cache]
            out = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout
            before, after, steps = json.loads(out.splitlines()[-1])
            lines.append(f"| {cache} | {before:.0f} | {after:.0f} | {'yes' if after < 2048 else 'no'} |")
    return (
        "## Memory\n\n"
        "Peak memory (resident) of a fresh process that makes a sparse matrix of 100,000 x 2,000 with 5 % entries (745 "
        f"MiB, were it dense float32) and trains `VAE(**data.suits)` for an epoch of {steps} steps, libraries "
        "included.\n\n" + "\n".join(lines) + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--environment", type=Path, default=ROOT / ".venv" / "counts", help="where the peers lie")
    parser.add_argument("--write", type=Path, help="the page, of which each part is replaced when it is run again")
    args = parser.parse_args()
    made = {
        "cells": lambda: cells(environment(args.environment, "requirements_counts.txt", "-e", str(ROOT)), args.seeds),
        "memory": memory,
    }
    old = args.write.read_text().split("\n## ")[1:] if args.write and args.write.exists() else []
    texts = {text.split("\n")[0].lower(): f"## {text.rstrip()}\n" for text in old}
    for part in PARTS if args.only is None else (args.only,):
        texts[part] = made[part]()
        print(texts[part], flush=True)
        if args.write:
            head = "# Counts\n\nMade by `python benchmarks/counts.py --write benchmarks/counts.md`.\n\n"
            args.write.write_text(head + "\n".join(texts[each] for each in PARTS if each in texts))


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:  # in the environment of the peers
        work(*sys.argv[2:4], int(sys.argv[4]), sys.argv[5]) if len(sys.argv) > 3 else recover(sys.argv[2])
    else:
        main()
