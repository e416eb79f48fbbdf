"""Shards: every row once, whatever dies, whoever shares, and whatever is in the way."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from sharded import MODEL, PROCESS, arguments, check_same, files, times, write_whole

from lightning_ae import shards
from lightning_ae.cli import written
from lightning_ae.cli.app import main
from lightning_ae.errors import InputError
from lightning_ae.shards import plan, share_of_work

EACH = 100


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whole(tmp_path_factory.mktemp("whole"))


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROCESS:
        monkeypatch.delenv(name, raising=False)


def features(folder: Path, *more: str, model: str = MODEL, each: int = EACH) -> None:
    main([*arguments(folder, each, model), *more])


@pytest.mark.parametrize(("rows", "each"), [(1, 1), (1, 100), (100, 100), (101, 100), (1797, 64)])
def test_a_plan_has_every_row_once(rows: int, each: int) -> None:
    made = plan({"train": rows, "test": 7}, each)
    assert [i for s in made if s.split == "train" for i in range(s.first, s.last)] == list(range(rows))
    assert sum(len(s) for s in made) == rows + 7
    assert len({s.name for s in made}) == len(made)
    assert all(0 < len(s) <= each for s in made)


def test_who_a_process_is() -> None:
    assert share_of_work({}) == (0, 1)
    assert share_of_work({"RANK": "1", "WORLD_SIZE": "4", "SLURM_PROCID": "3", "SLURM_NTASKS": "8"}) == (1, 4)
    assert share_of_work({"SLURM_PROCID": "3", "SLURM_NTASKS": "8"}) == (3, 8)
    array = {"SLURM_ARRAY_TASK_MIN": "2", "SLURM_ARRAY_TASK_STEP": "3", "SLURM_ARRAY_TASK_COUNT": "2"}
    tasks = [
        array | {"SLURM_ARRAY_TASK_ID": task, "SLURM_PROCID": rank, "SLURM_NTASKS": "2"}
        for task in ("2", "5")
        for rank in ("0", "1")
    ]
    assert [share_of_work(each) for each in tasks] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    with pytest.raises(InputError, match="process 4 of 4"):
        share_of_work({"RANK": "4", "WORLD_SIZE": "4"})
    with pytest.raises(InputError, match="WORLD_SIZE is 'two'"):
        share_of_work({"RANK": "0", "WORLD_SIZE": "two"})


def test_shards_are_the_rows_of_one_file(tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features(tmp_path)
    assert "4 shards made" in capsys.readouterr().out.replace("(", "")
    check_same(tmp_path, whole)
    assert [file.name for file in files(tmp_path)] == [f"{i:05d}-of-00004.parquet" for i in range(4)]
    before = times(tmp_path)
    features(tmp_path)
    assert "0 shards made, 4 there already" in capsys.readouterr().out
    assert times(tmp_path) == before


def test_a_full_disk_leaves_whole_shards_to_go_on_with(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, room = pq.ParquetWriter.write_table, [2]

    def full(*args: Any, **kwargs: Any) -> None:
        write(*args, **kwargs)
        if not room[0]:
            assert len(files(tmp_path)) == 2  # who reads the folder meanwhile sees whole shards alone
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room[0] -= 1

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(SystemExit):
        features(tmp_path)
    assert "No space left" in capsys.readouterr().err
    assert len(files(tmp_path)) == 2
    assert not list((tmp_path / "test").glob(".part-*"))
    monkeypatch.undo()
    features(tmp_path)
    assert "2 shards made, 2 there already" in capsys.readouterr().out
    check_same(tmp_path, whole)


def test_a_truncated_shard_is_made_anew(tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features(tmp_path)
    cut = files(tmp_path)[1]
    cut.write_bytes(cut.read_bytes()[:-100])
    features(tmp_path)
    assert "1 shards made, 3 there already" in capsys.readouterr().out
    check_same(tmp_path, whole)


def test_other_work_on_the_same_output_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features(tmp_path)
    for changed, named in (
        ({"model": "vae_mlp.digits_v1"}, "model differ"),
        ({"each": 50}, "shard_rows differ"),
    ):
        with pytest.raises(SystemExit):
            features(tmp_path, **changed)  # type: ignore[arg-type]
        assert named in capsys.readouterr().err
    foreign = files(tmp_path)[2]
    table = pq.read_table(foreign)
    pq.write_table(table.replace_schema_metadata({"lightning_ae.manifest": "of another"}), foreign)
    with pytest.raises(SystemExit):
        features(tmp_path)
    assert "not made under the manifest" in capsys.readouterr().err
    features(tmp_path, "--overwrite", "true")
    assert "1 shards made, 3 there already" in capsys.readouterr().out


def test_two_jobs_share_and_never_make_a_shard_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test").mkdir()
    made: list[str] = []
    write = written.write_parquet
    monkeypatch.setattr(written, "write_parquet", lambda *a, **k: (made.append(a[3].name), write(*a, **k))[1])
    with FileLock(tmp_path / "test" / ".00002-of-00004.lock"):  # another job is at it
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        features(tmp_path)
    assert [name[:5] for name in made] == ["00001", "00003", "00000"]  # its own first
    assert "others are at 1 more" in capsys.readouterr().out
    features(tmp_path)
    assert [name[:5] for name in made[3:]] == ["00002"]


def test_changed_data_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from datasets import Dataset

    rows = Dataset.from_dict({"a": [1.0, 2.0, 3.0]})
    wanted = {"data": shards._digest(rows), "shard_rows": 1}
    shards.begin(tmp_path, wanted)
    assert shards.begin(tmp_path, json.loads(json.dumps(wanted))) == shards.hash_of(wanted)
    with pytest.raises(InputError, match="data differ"):
        shards.begin(tmp_path, wanted | {"data": shards._digest(Dataset.from_dict({"a": [1.0, 2.0, 4.0]}))})
    file = tmp_path / "rows" / "a.csv"
    file.parent.mkdir()
    file.write_text("a\n1\n2\n")
    files = shards._files(file.parent, file.parent / "codes")
    (file.parent / "codes").mkdir()
    (file.parent / "codes" / "train.parquet").touch()
    assert shards._files(file.parent, file.parent / "codes") == files  # the output may lie there
    file.write_text("a\n1\n3\n")
    assert shards._files(file.parent, file.parent / "codes") != files
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="is no manifest"):
        shards.begin(tmp_path, wanted)


def test_a_job_that_is_begun_anew_ends_the_one_before(tmp_path: Path) -> None:
    todo, made = plan({"test": 30}, 10), []

    def write(shard: shards.Shard, file: Path) -> None:
        made.append(shard.number)
        shards.begin(tmp_path, {"shard_rows": 10, "options": "others"}, overwrite=True)

    made_under = shards.begin(tmp_path, {"shard_rows": 10})
    with pytest.raises(InputError, match="another job has begun"):
        shards.work(todo, tmp_path, made_under, write)
    assert made == [0]


def test_ray_actors_share_and_one_that_dies_starts_again(tmp_path: Path, whole: Path) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    features(tmp_path / "codes", "--actors", "2")
    check_same(tmp_path / "codes", whole)
    folder = tmp_path / "dies"
    made_under = shards.begin(folder, {"shard_rows": 10})

    def write(shard: shards.Shard, file: Path) -> None:
        died = folder / "died"
        if shard.number == 3 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        table = pa.table({"row": range(shard.first, shard.last)})
        pq.write_table(table.replace_schema_metadata({"lightning_ae.manifest": made_under}), file)

    todo = plan({"test": 60}, 10)
    shards.run_ray(lambda rank, world: shards.work(todo, folder, made_under, write, rank=rank, world=world), 2)
    assert (folder / "died").exists()
    assert [row for file in files(folder) for row in pq.read_table(file)["row"].to_pylist()] == list(range(60))
