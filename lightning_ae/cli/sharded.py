"""What features and score share where they work in shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lightning_ae import shards
from lightning_ae.autoencoder import Autoencoder
from lightning_ae.cli import written
from lightning_ae.data.module import HFDataModule
from lightning_ae.errors import InputError
from lightning_ae.shards import Shard


def place_of(actors: int | None) -> tuple[int, int]:
    """Which process this is, and of how many.

    Raises:
        InputError: when one of several is to start actors.
    """
    rank, world = shards.share_of_work()
    if actors is not None and world > 1:
        raise InputError(f"actors are started by one process, and this is one of {world}", "leave actors out")
    return rank, world


def by_actors(job: Callable[[str, str | None, int, int], Any], checkpoint: str, path: str | None, actors: int) -> None:
    """Calls job(checkpoint, path, rank, actors) in Ray actors; paths must mean the same on all machines."""
    checkpoint = str(Path(checkpoint).absolute()) if Path(checkpoint).exists() else checkpoint
    path = str(Path(path).absolute()) if path and Path(path).exists() else path
    shards.run_ray(lambda rank, world: job(checkpoint, path, rank, world), actors)


def open_data(data: HFDataModule, splits: Sequence[str], folder: Path) -> None:
    """Makes the data ready to be read in slices: each row is decoded once, by whoever has its shard.

    Raises:
        InputError: of a stream, whose rows have no numbers; where the folder has files of a job without shards.
    """
    if data.streaming:
        raise InputError("shards are slices of rows by number, which a stream has not", "set streaming=False")
    if taken := [file for file in (folder / f"{split}.parquet" for split in splits) if file.exists()]:
        raise InputError(f"{taken[0]} is there, of a job without shards", "give another output, or remove it")
    if (data.kind is None or data.kind.steps is None) and getattr(data.kind, "binarize", None) != "static":
        data.cache = "none"
    data.prepare_data()


def run(
    model: Autoencoder,
    data: HFDataModule,
    splits: Sequence[str],
    folder: Path,
    shard_rows: int | None,
    overwrite: bool,
    rank: int,
    world: int,
    write: Callable[[Shard, Any, str, Path], Any],
    **options: Any,
) -> tuple[list[Shard], str, bool]:
    """Makes the shards that are not there, and says so.

    Args:
        model: in the manifest.
        data: see `open_data`.
        splits: any of train, val and test.
        folder: the output's.
        shard_rows: of each.
        overwrite: replace what other jobs left.
        rank: which process this is.
        world: of how many.
        write: write(shard, its rows without the input, the manifest's hash, file) makes one.
        options: what else decides the contents, in the manifest.

    Returns:
        All shards, the manifest's hash, and whether all are there.

    Raises:
        InputError: as `shards.begin` and `shards.work`.
    """
    each = shard_rows or shards.ROWS
    rows = {split: data.dataset(split) for split in splits}
    all_shards = shards.plan({split: len(found) for split, found in rows.items()}, each)
    made_under = shards.begin(folder, shards.manifest(model, data.path, rows, each, folder, **options), overwrite)
    # a data set costs less to slice without the columns of the input
    others = {split: written.without_input(data, found) for split, found in rows.items()}

    def make(shard: Shard, file: Path) -> None:
        beside = others[shard.split]
        if beside.column_names:
            beside = beside.select(range(shard.first, shard.last))
        write(shard, beside, made_under, file)

    made, left = shards.work(all_shards, folder, made_under, make, overwrite, rank, world)
    console = Console(highlight=False, soft_wrap=True)
    there = len(all_shards) - len(made) - len(left)
    console.print(f"[bold]Written[/]\n  {folder}  ({len(made)} shards made, {there} there already or made by others)")
    if left:
        console.print(f"  others are at {len(left)} more; once they end, the same command says whether all are there")
    else:
        console.print(f"  all {len(all_shards)} shards are there: {sum(map(len, all_shards))} rows")
    return all_shards, made_under, not left
