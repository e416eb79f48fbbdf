"""The codes of many rows: features, in shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.cli import sharded, trained, written
from lightning_ae.data.module import HFDataModule
from lightning_ae.shards import Shard
from lightning_ae.zoo.unusual import say_of_entry


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

    said = False

    def write(shard: Shard, rows: Any, made_under: str, file: Path) -> None:
        nonlocal said
        codes = write_shard(model, data, checkpoint, shard, rows, batch_size, made_under, file)
        said = said or say_of_entry(codes, checkpoint)

    sharded.open_data(data, splits, folder)
    sharded.run(model, data, splits, folder, shard_rows, overwrite, rank, world, write, what="features")
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
    folder = folder.absolute()

    def job(checkpoint: str, path: str | None, rank: int, world: int) -> None:
        model = trained.load(checkpoint, device)
        data = trained.data_of(model, checkpoint, path)
        features(model, data, checkpoint, splits, folder, batch_size, shard_rows, overwrite, rank, world)

    sharded.by_actors(job, checkpoint, path, actors)


def write_shard(
    model: Autoencoder,
    data: HFDataModule,
    checkpoint: str,
    shard: Shard,
    rows: Any,
    batch_size: int,
    made_under: str,
    file: Path,
) -> Tensor:
    """Writes the codes of a shard's rows beside `rows`, their other columns, whole or not at all, and returns them.

    Raises:
        InputError: when a row cannot be read, or the file cannot be written.
    """
    codes = trained.encode(model, data, shard.split, batch_size, shard.first, shard.last)
    signature = "" if model.signature is None else model.signature.hash
    about = {"model": checkpoint, "signature": signature, "manifest": made_under}
    made = {"code": written.vectors(codes), **data.keys(shard.split, shard.first, shard.last)}
    written.write_parquet(rows, made, about, file, overwrite=True)
    return codes
