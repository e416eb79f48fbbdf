"""The codes of many rows: features, in shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lightning_ae import shards
from lightning_ae.autoencoder import Autoencoder
from lightning_ae.cli import trained, written
from lightning_ae.data.module import HFDataModule
from lightning_ae.errors import InputError
from lightning_ae.shards import Shard


def features(
    model: Autoencoder,
    data: HFDataModule,
    checkpoint: str,
    splits: Sequence[str],
    folder: Path,
    batch_size: int,
    shard_rows: int | None,
    overwrite: bool,
    rank: int = 0,
    world: int = 1,
) -> dict[str, Path]:
    """Writes the shards that are not there, this rank's first; see `lightning_ae.cli.tools.features`.

    Raises:
        InputError: of a stream, whose rows have no numbers; when the folder has the shards of another job.
    """
    if data.streaming:
        raise InputError("shards are slices of rows by number, which a stream has not", "set streaming=False")
    single = [folder / f"{split}.parquet" for split in splits]
    if taken := [file for file in single if file.exists()]:
        raise InputError(f"{taken[0]} is there, of a job without shards", "give another output, or remove it")
    if (data.kind is None or data.kind.steps is None) and getattr(data.kind, "binarize", None) != "static":
        data.cache = "none"  # each row is decoded once, by whoever has its shard
    data.prepare_data()
    each = shard_rows or shards.ROWS
    rows = {split: data.dataset(split) for split in splits}
    all_shards = shards.plan({split: len(found) for split, found in rows.items()}, each)
    made_under = shards.begin(folder, shards.manifest(model, data, splits, each, what="features"), overwrite)

    def write(shard: Shard, file: Path) -> None:
        write_shard(model, data, checkpoint, shard, batch_size, made_under, file)

    made, left = shards.work(all_shards, folder, made_under, write, overwrite, rank, world)
    console = Console(highlight=False, soft_wrap=True)
    there = len(all_shards) - len(made) - len(left)
    console.print(f"[bold]Written[/]\n  {folder}  ({len(made)} shards made, {there} there already or made by others)")
    if left:
        console.print(f"  others are at {len(left)} more; once they end, the same command says whether all are there")
    else:
        console.print(f"  all {len(all_shards)} shards are there: {sum(map(len, all_shards))} rows")
    return {split: folder / split for split in splits}


def features_by_actors(
    checkpoint: str,
    path: str | None,
    splits: Sequence[str],
    folder: Path,
    batch_size: int,
    shard_rows: int | None,
    device: str,
    overwrite: bool,
    actors: int,
) -> None:
    """The same by Ray actors, each with a model and data of its own; paths must mean the same on all machines."""
    checkpoint = str(Path(checkpoint).absolute()) if Path(checkpoint).exists() else checkpoint
    path = str(Path(path).absolute()) if path and Path(path).exists() else path
    folder = folder.absolute()

    def job(rank: int, world: int) -> None:
        model = trained.load(checkpoint, device)
        data = trained.data_of(model, checkpoint, path)
        features(model, data, checkpoint, splits, folder, batch_size, shard_rows, overwrite, rank, world)

    shards.run_ray(job, actors)


def write_shard(
    model: Autoencoder,
    data: HFDataModule,
    checkpoint: str,
    shard: Shard,
    batch_size: int,
    made_under: str,
    file: Path,
) -> None:
    """Writes the codes of a shard's rows beside their other columns, whole or not at all.

    Raises:
        InputError: when a row cannot be read, or the file cannot be written.
    """
    codes = trained.encode(model, data, shard.split, batch_size, shard.first, shard.last)
    rows = data.dataset(shard.split, shard.first, shard.last)
    rows = rows.remove_columns([name for name in data.input_columns if name in rows.column_names])
    signature = "" if model.signature is None else model.signature.hash
    about = {"model": checkpoint, "signature": signature, "manifest": made_under}
    made = {"code": written.vectors(codes), **data.keys(shard.split, shard.first, shard.last)}
    written.write_parquet(rows, made, about, file, overwrite=True)
