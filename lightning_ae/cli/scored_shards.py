"""The scores of many rows: score, in shards.

A rank needs all scores of a split, and a shard has its own: shards have no column "rank". Who ends last reads the
scores of all shards, some 40 bytes a row, and writes the ranks to a file of their own, the strangest row first.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from filelock import FileLock, Timeout
from pyarrow import parquet
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lightning_ae import shards
from lightning_ae.autoencoder import Autoencoder
from lightning_ae.cli import sharded, trained, written
from lightning_ae.cli.score import (
    about_scores,
    extremes,
    feature_names,
    label_titles,
    measured_by_labels,
    measured_scores,
    score_split,
    threshold_for,
    wanted_classes,
)
from lightning_ae.data.module import HFDataModule
from lightning_ae.files import whole_file
from lightning_ae.shards import Shard
from lightning_ae.thresholds import Threshold

if TYPE_CHECKING:
    from lightning_ae.figures import Figure


@dataclass(frozen=True)
class Options:
    """Those of `lightning_ae.cli.score.score` that are the same in each process."""

    draws: int
    seed: int
    quantile: float | None
    anomaly: Sequence[str | int] | None
    top: int
    n: int
    batch_size: int
    shard_rows: int | None
    overwrite: bool


def score(
    model: Autoencoder,
    data: HFDataModule,
    checkpoint: str,
    own: bool,
    splits: Sequence[str],
    folder: Path,
    options: Options,
    rank: int = 0,
    world: int = 1,
) -> dict[str, Path]:
    """Writes the shards that are not there, this rank's first, and the ranks where all are; see the module.

    Args:
        model: which scores.
        data: what is scored.
        checkpoint: what the model is called.
        own: whether these are the model's own data.
        splits: any of train, val and test.
        folder: the output's.
        options: how.
        rank: which process this is.
        world: of how many.

    Returns:
        The folder of each split.

    Raises:
        InputError: as `lightning_ae.cli.score.score`; when the folder has the shards of another job.
    """
    sharded.open_data(data, splits, folder)
    wanted = wanted_classes(data, splits, options.anomaly)
    console = Console(highlight=False, soft_wrap=True)

    @cache
    def threshold_under(made_under: str) -> Threshold | None:
        asked = options.quantile, options.draws, options.seed, options.batch_size
        return _agreed(
            folder, made_under, lambda: threshold_for(model, checkpoint, data if own else None, *asked, console)
        )

    def write(shard: Shard, rows: Any, made_under: str, file: Path) -> None:
        write_shard(model, data, checkpoint, shard, rows, options, threshold_under(made_under), made_under, file)

    about = {name: value for name, value in asdict(options).items() if name in ("draws", "seed", "top", "quantile")}
    about["threshold"] = None if model.threshold is None else model.threshold.plain()
    all_shards, made_under, done = sharded.run(
        model, data, splits, folder, options.shard_rows, options.overwrite, rank, world, write, what="score", **about
    )
    if done:
        lock = folder / ".ranks.lock"
        with _one(lock, console), FileLock(lock, timeout=0):
            threshold = threshold_under(made_under)
            files, results, logged, figures = finish(
                model, data, checkpoint, splits, folder, all_shards, made_under, options, threshold, wanted
            )
            log = written.log_beside(checkpoint, logged, figures) if own and logged else None
            for file in files:
                console.print(f"  {file}")
            if log is not None:
                console.print(f"  {log}  (added to what is there)")
            console.print(results)
            for each in (lock, folder / ".threshold.lock"):
                each.unlink(missing_ok=True)
    return {split: folder / split for split in splits}


def _agreed(folder: Path, made_under: str, find: Callable[[], Threshold | None]) -> Threshold | None:
    """The threshold of a job, which the first process finds and the others read: two would differ by rounding."""
    file = folder / "threshold.json"
    with FileLock(folder / ".threshold.lock"):
        known = shards.read_manifest(file) if file.exists() else {}
        if known.get("manifest") != made_under:
            found = find()
            known = {"manifest": made_under, "threshold": None if found is None else found.plain()}
            with whole_file(file) as part:
                part.write_text(json.dumps(known, indent=2))
    return None if known["threshold"] is None else Threshold.from_plain(known["threshold"])


@contextlib.contextmanager
def _one(lock: Path, console: Console) -> Iterator[None]:
    try:
        yield
    except Timeout:
        console.print(f"  another process writes the ranks ({lock} is held)")


def score_by_actors(
    checkpoint: str,
    path: str | None,
    splits: Sequence[str],
    folder: Path,
    options: Options,
    device: str,
    actors: int,
) -> None:
    """The same by Ray actors, each with a model and data of its own; paths must mean the same on all machines."""
    folder, own = folder.absolute(), path is None

    def job(checkpoint: str, path: str | None, rank: int, world: int) -> None:
        model = trained.load(checkpoint, device)
        data = trained.data_of(model, checkpoint, path, all_classes=True)
        score(model, data, checkpoint, own, splits, folder, options, rank, world)

    sharded.by_actors(job, checkpoint, path, actors)


def write_shard(
    model: Autoencoder,
    data: HFDataModule,
    checkpoint: str,
    shard: Shard,
    rows: Any,
    options: Options,
    threshold: Threshold | None,
    made_under: str,
    file: Path,
) -> None:
    """Writes the scores of a shard's rows beside `rows`, their other columns, whole or not at all.

    Raises:
        InputError: when a row cannot be read or has no score, or the file cannot be written.
    """
    split, first, last = shard.split, shard.first, shard.last
    names = feature_names(model) if options.draws == 1 else None
    asked = options.top, options.draws, options.seed, options.batch_size
    found = score_split(model, data, split, names, *asked, first=first, last=last)
    columns = found.columns(threshold)
    del columns["rank"]  # among the shard's rows
    about = {**about_scores(model, checkpoint, options.draws, options.seed, threshold), "manifest": made_under}
    made = {**columns, **data.keys(split, first, last)}
    written.write_parquet(rows, made, about, file, overwrite=True)


def finish(
    model: Autoencoder,
    data: HFDataModule,
    checkpoint: str,
    splits: Sequence[str],
    folder: Path,
    all_shards: Sequence[Shard],
    made_under: str,
    options: Options,
    threshold: Threshold | None,
    wanted: list[int] | str,
) -> tuple[list[Path], Table, dict[str, float], dict[str, Figure]]:
    """Writes the ranks of each split and, of images, the strangest, where they are not there.

    Returns:
        These files, what was found of each split, and the values and pictures of those whose ranks were not there.
    """
    results = Table("split", "rows", "median", *([] if threshold is None else ["exceed"]), *label_titles(data, wanted))
    files, logged = [], dict[str, float]()
    figures: dict[str, Figure] = {}
    about = {**about_scores(model, checkpoint, options.draws, options.seed, threshold), "manifest": made_under}
    pictures = len(model.input_shape) == 3 and options.n > 0
    for split in splits:
        each = [shard for shard in all_shards if shard.split == split]
        scores, rows = _read(data, split, [folder / shard.name for shard in each], threshold, options.draws, model)
        file = folder / f"{split}-ranks.parquet"
        files.append(file)
        parted, measured = measured_by_labels(data, split, scores, wanted)
        found = {**measured_scores(scores, threshold), **parted}
        if not shards.is_there(file, Shard(split, 0, len(scores), 0, 1), made_under, overwrite=True):
            if pictures and split == splits[-1]:  # before the ranks, which say that all is there
                figures["strangest"] = extremes(model, data, split, scores, options.n, options.seed)
                with whole_file(folder / "strangest.png") as part:
                    figures["strangest"].savefig(part)
            order = scores.argsort(descending=True, stable=True).numpy()
            ranks = {"rank": np.arange(1, len(order) + 1), "score": scores.numpy()[order], "row": rows[order]}
            written.write_parquet(Dataset(pa.table({})), ranks, about, file, overwrite=True)
            logged |= {f"{split}/score_{name}": value for name, value in found.items()}
        exceed = [] if threshold is None else [str(int((scores > threshold.value).sum()))]
        results.add_row(split, str(len(scores)), f"{found['median']:.2f}", *exceed, *measured)
    return [*files, *([folder / "strangest.png"] if pictures else [])], results, logged, figures


def _read(
    data: HFDataModule, split: str, files: Sequence[Path], threshold: Threshold | None, draws: int, model: Autoencoder
) -> tuple[Tensor, np.ndarray]:
    """The scores of all shards of a split, and the numbers of their rows, by place: their columns may be called
    otherwise, where the data have such."""
    made = ["score", *([] if threshold is None else ["exceeds"])]
    made += ["features"] if draws == 1 and feature_names(model) is not None else []
    at = [0, [*made, *data.keys(split, 0, 1)].index("row")]
    scores, rows = [], []
    for file in files:
        names = parquet.read_schema(file).names
        table = parquet.read_table(file, columns=[names[i] for i in at])
        scores.append(table[names[at[0]]].to_numpy())
        rows.append(table[names[at[1]]].to_numpy())
    return torch.from_numpy(np.concatenate(scores)), np.concatenate(rows)
