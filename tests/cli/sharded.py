"""What the tests of sharded jobs share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from lightning_ae.cli.app import main

MODEL = "ae_mlp.digits_v1"
PROCESS = ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_ARRAY_TASK_ID")
"""The variables that say which process one is."""


def arguments(folder: Path, each: int, model: str = MODEL) -> list[str]:
    """Of `lightning-ae`, for the codes of the 360 digits of the test split."""
    return [
        *("features", model, "--path", "digits", "--splits", "[test]"),
        *("--output", str(folder), "--shard_rows", str(each), "--batch_size", "16"),
    ]


def write_whole(folder: Path) -> Path:
    """The codes of digits by a job without shards."""
    main(["features", MODEL, "--path", "digits", "--splits", "[test]", "--output", str(folder)])
    return folder / "test.parquet"


def files(folder: Path) -> list[Path]:
    """The shards of digits that are there, in order."""
    return sorted((folder / "test").glob("*.parquet"))


def times(folder: Path) -> dict[Path, int]:
    """When each was written."""
    return {file: file.stat().st_mtime_ns for file in files(folder)}


def check_same(folder: Path, whole: Path) -> None:
    """Every row is there once, in order, with the codes and columns of a job without shards, and nothing else."""
    expected, rows = pq.read_table(whole).to_pydict(), {}
    for file in files(folder):
        for name, values in pq.read_table(file).to_pydict().items():
            rows.setdefault(name, []).extend(values)
    assert rows.keys() == expected.keys()
    for name in rows.keys() - {"code"}:
        assert rows[name] == expected[name], name
    np.testing.assert_allclose(rows["code"], expected["code"], rtol=1e-4, atol=1e-5)
    assert sorted((folder / "test").iterdir()) == files(folder)
