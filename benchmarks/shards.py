"""Codes at scale: `python benchmarks/shards.py --write benchmarks/shards.md`.

Two processes that share shards beside two bare loops over half of the rows each, by turns, on the same model, the same
batch size and the same columns of one parquet file; and the peak memory of one process over more and more rows.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS, BATCH = 32, 1024


def make_rows(file: Path, rows: int) -> None:
    """A table of normal numbers, written in row groups."""
    generator = np.random.default_rng(0)
    schema = pa.schema([(f"x{i}", pa.float32()) for i in range(COLUMNS)])
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, rows, 65_536):
            values = generator.standard_normal((min(65_536, rows - start), COLUMNS), dtype=np.float32)
            writer.write_table(pa.table(list(values.T), schema=schema))


def make_model(folder: Path) -> Path:
    """A small variational autoencoder, fitted for a few steps on such rows."""
    import pytorch_lightning as pl

    from lightning_ae import VAE
    from lightning_ae.data import HFDataModule

    make_rows(folder / "fitted.parquet", 4096)
    data = HFDataModule(str(folder / "fitted.parquet"), batch_size=BATCH, val_fraction=0.1)
    data.prepare_data()
    model = VAE(data.input_shape, latent_dim=8)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(model, data)
    trainer.save_checkpoint(folder / "model.ckpt")
    return folder / "model.ckpt"


def bare(checkpoint: str, path: str, half: int, output: str) -> None:
    """What one would write by hand: read batches of arrow, encode, write; seconds without the start."""
    import torch

    from lightning_ae import load_model

    model = load_model(checkpoint)
    started = time.perf_counter()
    file = pq.ParquetFile(path)
    groups = [i for i in range(file.num_row_groups) if i % 2 == half]
    schema = pa.schema([("code", pa.list_(pa.float32(), model.feature_dim))])
    with pq.ParquetWriter(output, schema) as writer, torch.no_grad():
        for batch in file.iter_batches(BATCH, row_groups=groups):
            x = torch.from_numpy(np.stack([column.to_numpy() for column in batch.columns], 1))
            codes = model.pool(model.encode(model.signature.preprocess(x))).numpy()
            writer.write_table(
                pa.table([pa.FixedSizeListArray.from_arrays(codes.ravel(), codes.shape[1])], schema=schema)
            )
    print(time.perf_counter() - started)


def sharded(checkpoint: str, path: str, rank: int, output: str) -> None:
    """`lightning-ae features` as one of two processes; seconds without the start."""
    from lightning_ae.cli import codes, trained

    model = trained.load(checkpoint, "cpu")
    data = trained.data_of(model, checkpoint, path)
    data.val_fraction = 0.0
    _ = data.splits  # the data library's own reading of parquet, once for all
    started = time.perf_counter()
    codes.features(model, data, checkpoint, ["train"], Path(output), BATCH, 65_536, False, rank, 2)
    print(time.perf_counter() - started)


def pair(kind: str, checkpoint: Path, path: Path, output: Path) -> float:
    """The seconds of the slower of two processes."""
    outputs = [output, output] if kind == "sharded" else [output.with_suffix(f".{i}") for i in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--part", kind, str(checkpoint), str(path), str(rank), str(outputs[rank])],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate()[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    return max(float(text.strip().splitlines()[-1]) for text in said)


def memory(checkpoint: Path, path: Path, output: Path) -> tuple[float, float]:
    """Peak resident MiB of one process over all rows, and the anonymous part at its end: not mapped files."""
    command = [sys.executable, __file__, "--part", "memory", str(checkpoint), str(path), "0", str(output)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    peak, anonymous = said.strip().splitlines()[-1].split()
    return float(peak), float(anonymous)


def part(kind: str, checkpoint: str, path: str, rank: int, output: str) -> None:
    """One process."""
    import torch

    torch.set_num_threads(1)
    if kind == "bare":
        return bare(checkpoint, path, rank, output)
    sharded(checkpoint, path, rank, output)
    if kind == "memory":
        status = Path("/proc/self/status").read_text().splitlines()
        anonymous = next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, anonymous / 1024)
    return None


def main() -> None:
    """Prints the page, or writes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--rows", type=int, default=500_000, help="of the comparison")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--part", nargs=5)
    args = parser.parse_args()
    if args.part:
        kind, checkpoint, path, rank, output = args.part
        return part(kind, checkpoint, path, int(rank), output)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = make_model(folder)
        path = folder / "rows.parquet"
        make_rows(path, args.rows)
        pair("sharded", checkpoint, path, folder / "warm")
        ratios, rates = [], []
        for i in range(args.rounds):
            loop = pair("bare", checkpoint, path, folder / f"bare-{i}")
            ours = pair("sharded", checkpoint, path, folder / f"sharded-{i}")
            ratios.append(loop / ours)
            rates.append((args.rows / loop, args.rows / ours))
        lines = [
            "# Codes at scale",
            "",
            f"`python benchmarks/shards.py --rows {args.rows} --rounds {args.rounds} --sizes "
            f"{' '.join(map(str, args.sizes))} --write benchmarks/shards.md`",
            "",
            f"{args.rows} rows of {COLUMNS} numbers, two processes of one thread each, batches of {BATCH}; without the "
            "start of Python and the data library's first reading of the file.",
            "",
            "| round | bare loops, rows/s | shards, rows/s | ratio |",
            "|---|---|---|---|",
            *(
                f"| {i + 1} | {b:.0f} | {s:.0f} | {r:.2f} |"
                for i, ((b, s), r) in enumerate(zip(rates, ratios, strict=True))
            ),
            f"| median | | | {statistics.median(ratios):.2f} |",
            "",
            "| rows | peak memory, MiB | of it not mapped files at the end, MiB |",
            "|---|---|---|",
        ]
        for size in args.sizes:
            make_rows(path, size)
            lines.append("| {} | {:.0f} | {:.0f} |".format(size, *memory(checkpoint, path, folder / f"size-{size}")))
        page = "\n".join(lines) + "\n"
        print(page) if args.write is None else args.write.write_text(page)
    return None


if __name__ == "__main__":
    main()
