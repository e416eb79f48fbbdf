"""Codes at scale: `python benchmarks/shards.py --write benchmarks/shards.md`.

Two processes that share shards beside two bare loops over half of the rows each, by turns, on the same model, the same
batch size and the same columns; and the peak memory of one process over more and more rows.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS, NARROW, BATCH, GROUP = 32, 8, 1024, 65_536


def make_rows(file: Path, rows: int, columns: int) -> None:
    """A table of normal numbers, written in row groups."""
    generator = np.random.default_rng(0)
    schema = pa.schema([(f"x{i}", pa.float32()) for i in range(columns)])
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, rows, GROUP):
            values = generator.standard_normal((min(GROUP, rows - start), columns), dtype=np.float32)
            writer.write_table(pa.table([pa.array(column) for column in values.T.copy()], schema=schema))


def make_model(file: Path, columns: int) -> None:
    """A small variational autoencoder, fitted for a few steps on such rows."""
    import pytorch_lightning as pl

    from lightning_ae import VAE
    from lightning_ae.data import HFDataModule

    make_rows(file.with_suffix(".parquet"), 4096, columns)
    data = HFDataModule(str(file.with_suffix(".parquet")), batch_size=BATCH, val_fraction=0.0)
    data.prepare_data()
    model = VAE(data.input_shape, latent_dim=8)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", enable_model_summary=False, **options)
    trainer.fit(model, data)
    trainer.save_checkpoint(file)


def bare(checkpoint: str, path: str, half: int, output: str) -> float:
    """What one would write by hand: read half of the file's row groups, encode, write; seconds without the start."""
    import torch

    from lightning_ae import load_model

    model = load_model(checkpoint)
    started = time.perf_counter()
    file = pq.ParquetFile(path)
    middle = -(-file.num_row_groups // 2)
    groups = range(middle) if half == 0 else range(middle, file.num_row_groups)
    schema = pa.schema([("code", pa.list_(pa.float32(), model.feature_dim)), ("row", pa.int64())])
    with pq.ParquetWriter(output, schema) as writer, torch.no_grad():
        for number in groups:
            table = file.read_row_group(number)
            x = torch.from_numpy(np.stack([column.to_numpy() for column in table.columns], 1))
            codes = [model.pool(model.encode(model.signature.preprocess(batch))) for batch in x.split(BATCH)]
            values = torch.cat(codes).numpy()
            rows = np.arange(number * GROUP, number * GROUP + len(x))
            column = pa.FixedSizeListArray.from_arrays(values.ravel(), values.shape[1])
            writer.write_table(pa.table([column, rows], schema=schema))
    return time.perf_counter() - started


def sharded(checkpoint: str, path: str, rank: int, output: str, world: int = 2) -> float:
    """`lightning-ae features` as one of several processes; seconds without the start."""
    from lightning_ae.cli import codes, trained

    model = trained.load(checkpoint, "cpu")
    data = trained.data_of(model, checkpoint, path)
    _ = data.splits  # the data library's own reading of parquet, once for all
    started = time.perf_counter()
    codes.features(model, data, checkpoint, ["train"], Path(output), BATCH, GROUP, False, rank, world)
    return time.perf_counter() - started


class Memory(threading.Thread):
    """Notes the most memory that this process holds, looked at every 5 ms: all, and what is no mapped file."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = {"VmRSS": 0, "RssAnon": 0}  # KiB

    def run(self) -> None:
        """Until the process ends."""
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in self.most:
                    self.most[name] = max(self.most[name], int(value.split()[0]))
            time.sleep(0.005)


def turns(rank: int, checkpoint: str, path: str, folder: Path, rounds: int, together: Any, found: Any) -> None:
    """One of two processes, which begin each turn together; notes the seconds of each."""
    import torch

    torch.set_num_threads(1)
    sharded(checkpoint, path, rank, str(folder / "first"))  # with the first reading
    for i in range(rounds):
        for kind in ("bare", "sharded") if i % 2 == 0 else ("sharded", "bare"):
            together.wait()
            if kind == "bare":
                seconds = bare(checkpoint, path, rank, str(folder / f"bare-{i}-{rank}"))
            else:
                seconds = sharded(checkpoint, path, rank, str(folder / f"sharded-{i}"))
            found.put((i, kind, seconds))


def compare(folder: Path, rows: int, rounds: int) -> list[str]:
    """The table of rates; a pair of processes takes as long as its slower one."""
    checkpoint, path = folder / "wide.ckpt", folder / "rows.parquet"
    make_model(checkpoint, COLUMNS)
    make_rows(path, rows, COLUMNS)
    context = multiprocessing.get_context("spawn")
    together, found = context.Barrier(2), context.Queue()
    pair = [
        context.Process(target=turns, args=(rank, str(checkpoint), str(path), folder, rounds, together, found))
        for rank in range(2)
    ]
    for process in pair:
        process.start()
    took: dict[tuple[int, str], float] = {}
    for _ in range(4 * rounds):
        i, kind, seconds = found.get(timeout=900)
        took[i, kind] = max(seconds, took.get((i, kind), 0.0))
    for process in pair:
        process.join()
    ratios = [took[i, "bare"] / took[i, "sharded"] for i in range(rounds)]
    return [
        "| round | bare loops, rows/s | shards, rows/s | ratio |",
        "|---|---|---|---|",
        *(
            f"| {i + 1} | {rows / took[i, 'bare']:.0f} | {rows / took[i, 'sharded']:.0f} | {ratio:.2f} |"
            for i, ratio in enumerate(ratios)
        ),
        f"| median | | | {statistics.median(ratios):.2f} |",
    ]


def alone(checkpoint: str, path: str, output: str, found: Any) -> None:
    """One process over all rows; its seconds, and its peaks of memory in MiB."""
    import torch

    torch.set_num_threads(1)
    memory = Memory()
    memory.start()
    started = time.perf_counter()
    sharded(checkpoint, path, 0, output, world=1)
    found.put((time.perf_counter() - started, *(kib / 1024 for kib in memory.most.values())))


def sizes(folder: Path, each: list[int]) -> list[str]:
    """The table of memory."""
    checkpoint, lines = folder / "narrow.ckpt", []
    make_model(checkpoint, NARROW)
    context = multiprocessing.get_context("spawn")
    for rows in each:
        path, found = folder / f"{rows}.parquet", context.Queue()
        make_rows(path, rows, NARROW)
        args = (str(checkpoint), str(path), str(folder / f"size-{rows}"), found)
        process = context.Process(target=alone, args=args)
        process.start()
        lines.append("| {} | {:.0f} | {:.0f} | {:.0f} |".format(rows, *found.get(timeout=3600)))
        process.join()
    return ["| rows | seconds | peak memory, MiB | peak without mapped files, MiB |", "|---|---|---|---|", *lines]


def main() -> None:
    """Prints the page, or writes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--rows", type=int, default=1_048_576, help="of the comparison")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", type=int, nargs="*", default=[100_000, 1_000_000, 10_000_000])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "cache")}  # of the processes, too
        lines = [
            "# Codes at scale",
            "",
            f"`python benchmarks/shards.py --rows {args.rows} --rounds {args.rounds} --sizes "
            f"{' '.join(map(str, args.sizes))} --write benchmarks/shards.md`",
            "",
            f"{args.rows} rows of {COLUMNS} float32 numbers, a VAE of the default size, batches of {BATCH}, shards and "
            f"row groups of {GROUP}; two processes of one thread each on {os.cpu_count()} {platform.machine()} cores. "
            "Both write the codes and the rows' numbers to parquet, the loops with pyarrow's defaults. Seconds without "
            "the start of Python and, of shards, without the data library's first reading of the file, once for all "
            "jobs. The order changes from round to round, and a ratio is of one round. A model this small is the "
            "hardest case: a larger one spends its time in itself.",
            "",
            *compare(folder, args.rows, args.rounds),
            "",
            f"One process, rows of {NARROW} numbers, from the first reading to the last shard, memory looked at every "
            "5 ms. What is mapped from files is the operating system's to take back at any time. (Where the data are "
            "divided by chance into rows to train and to validate, their numbers take some bytes a row besides.)",
            "",
            *sizes(folder, args.sizes),
        ]
        page = "\n".join(lines) + "\n"
        print(page) if args.write is None else args.write.write_text(page)


if __name__ == "__main__":
    main()
