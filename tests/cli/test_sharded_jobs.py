"""Real processes at work on shards: killed, started by torchrun, and of a SLURM array."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pkgutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sharded import PROCESS, arguments, check_same, files, times, write_whole

from lightning_ae import shards
from lightning_ae.cli.app import main

MOMENTS = {
    "codes are made": ("lightning_ae.cli.trained", "encode", False),
    "rows are written": ("pyarrow.parquet:ParquetWriter", "write_table", True),
    "all is written": ("lightning_ae.files:os", "fsync", False),
    "it is to be renamed": ("lightning_ae.files:os", "replace", False),
    "it was renamed": ("lightning_ae.files:os", "replace", True),
}
"""By what a job knows that it is there, and whether it gets through that before it dies."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whole(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def processes() -> Any:
    """Of a server that has all imported, so that none takes seconds to start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightning_ae.cli.app", "lightning_ae.cli.codes", "datasets"])
    return context


def die_at(moment: str, number: int, args: list[str]) -> None:
    """A job that is killed (kill -9) at such a moment of its shard `number`."""
    name, call, through = MOMENTS[moment]
    owner, count = pkgutil.resolve_name(name), 0
    original = getattr(owner, call)

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += call != "replace" or str(args[1]).endswith(".parquet")
        result = original(*args, **kwargs) if count < number or through else None
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, call, counted)
    main(args)


@pytest.mark.slow
def test_killed_at_five_moments(tmp_path: Path, whole: Path, processes: Any) -> None:
    args, made = arguments(tmp_path, 20), {}  # 18 shards
    for i, moment in enumerate(MOMENTS):
        process = processes.Process(target=die_at, args=(moment, 3, args))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, moment
        now = times(tmp_path)
        assert len(now) == 2 * (i + 1) + MOMENTS[moment][2] * (moment == "it was renamed"), moment
        assert made.items() <= now.items()  # what was there is never made again
        assert all(pq.read_table(file).num_rows == 20 for file in now)  # whole, each
        made = now
    main(args)
    assert made.items() <= times(tmp_path).items()
    check_same(tmp_path, whole)


def test_a_job_that_was_killed_goes_on(tmp_path: Path) -> None:
    folder, todo = tmp_path, shards.plan({"test": 58}, 10)
    made_under = shards.begin(folder, {"shard_rows": 10})

    def write(shard: shards.Shard, file: Path, dies: bool = False) -> None:
        table = pa.table({"row": range(shard.first, shard.last)})
        with shards.whole_file(file, suffix=".tmp") as part:
            pq.write_table(table.replace_schema_metadata({"lightning_ae.manifest": made_under}), part)
            if dies and shard.number == 2:
                os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(
        target=shards.work, args=(todo, folder, made_under, lambda *args: write(*args, dies=True))
    )
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    before = times(folder)
    assert len(before) == 2
    assert len(list((folder / "test").glob(".part-*"))) == 1
    made, left = shards.work(todo, folder, made_under, write)
    assert ([shard.number for shard in made], left) == ([2, 3, 4, 5], [])
    assert before.items() <= times(folder).items()
    assert [row for file in files(folder) for row in pq.read_table(file)["row"].to_pylist()] == list(range(58))
    assert sorted((folder / "test").iterdir()) == files(folder)


def share(env: dict[str, str], log: Path, started: Any, args: list[str]) -> None:
    """A job that says which shards it made, and waits for the others before the first."""
    from lightning_ae.cli import codes

    os.environ.update(env)
    begin, write = shards.begin, codes.write_shard

    def begun(*args: Any) -> str:
        made_under = begin(*args)
        started.wait(120)
        return made_under

    def noted(*args: Any) -> Any:
        made = write(*args)
        with log.open("a") as file:
            file.write(f"{args[3].number}\n")
        return made

    shards.begin, codes.write_shard = begun, noted
    main(args)


@pytest.mark.slow
@pytest.mark.parametrize(
    "environments",
    [
        [{"RANK": str(rank), "WORLD_SIZE": "2"} for rank in range(2)],
        [
            {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": "2"}
            | {"SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_STEP": "4"}
            for task in ("3", "7")
        ],
    ],
    ids=["ranks", "array"],
)
def test_two_processes_share_a_job(
    tmp_path: Path, whole: Path, processes: Any, environments: list[dict[str, str]]
) -> None:
    args, started = arguments(tmp_path / "codes", 10), processes.Barrier(2)
    logs = [tmp_path / f"{i}.log" for i in range(2)]
    jobs = [
        processes.Process(target=share, args=(env, log, started, args))
        for env, log in zip(environments, logs, strict=True)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(120)
    assert [job.exitcode for job in jobs] == [0, 0]
    made = [list(map(int, log.read_text().split())) for log in logs]
    assert sorted(made[0] + made[1]) == list(range(36))  # none twice
    assert [each[0] for each in made] == [0, 1]  # its own first
    check_same(tmp_path / "codes", whole)


@pytest.mark.slow
def test_torchrun_starts_a_job(tmp_path: Path, whole: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name not in PROCESS} | {"OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, "-m", "lightning_ae.cli", *arguments(tmp_path, 10)]
    with contextlib.chdir(tmp_path.parent):
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("shards made") == 2
    check_same(tmp_path, whole)
