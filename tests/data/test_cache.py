"""The cache of decoded samples: made once, found again, and whole or not at all."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
from datasets import Dataset

from lightning_ae import VAE, InputError
from lightning_ae.cli import main
from lightning_ae.data import HFDataModule, Image, Tabular
from lightning_ae.data.cache import cached, clear, entries
from lightning_ae.data.decoding import decode_chunks

FORK = multiprocessing.get_context("fork")
ROWS = 3000
WHOLE = np.random.default_rng(0).integers(0, 255, (ROWS, 1000), dtype=np.uint8)  # some blocks of 1 MiB


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIGHTNING_AE_CACHE", str(tmp_path))
    return tmp_path / "decoded"


def parts(made: list[int] | None = None, pause: float = 0.0) -> Iterator[np.ndarray]:
    for at in range(0, ROWS, 500):
        if made is not None:
            made.append(at)
        time.sleep(pause)
        yield WHOLE[at : at + 500]


def get(made: list[int] | None = None, **about: Any) -> np.ndarray:
    return cached("a name", {"x": 1} | about, ROWS, parts(made))


def no_parts() -> Iterator[np.ndarray]:
    raise AssertionError("decoded again")
    yield


def test_made_once_and_found_again(folder: Path) -> None:
    made: list[int] = []
    first = get(made)
    assert len(made) == 6
    again = cached("another name", {"x": 1}, ROWS, no_parts())
    assert np.array_equal(first, WHOLE)
    assert np.array_equal(again, WHOLE)
    get(made, x=2)
    assert len(made) == 12
    [entry, _] = entries()
    assert entry.about["name"] == "a name"
    assert entry.size > WHOLE.nbytes
    again[0] = 0  # a process's own copy
    assert np.array_equal(cached("", {"x": 1}, ROWS, no_parts()), WHOLE)
    assert clear() > 2 * WHOLE.nbytes
    assert entries() == []
    assert not folder.exists()


def flip(file: Path, at: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([byte ^ 1]))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "a flipped bit": lambda e: flip(e / "samples.npy", 2_500_000),
    "the last byte": lambda e: flip(e / "samples.npy", (e / "samples.npy").stat().st_size - 1),
    "truncated": lambda e: os.truncate(e / "samples.npy", 1_500_000),
    "emptied": lambda e: os.truncate(e / "samples.npy", 0),
    "no samples": lambda e: (e / "samples.npy").unlink(),
    "no description": lambda e: (e / "entry.json").unlink(),
    "half a description": lambda e: os.truncate(e / "entry.json", 30),
    "another shape": lambda e: (e / "entry.json").write_text(
        json.dumps(json.loads((e / "entry.json").read_text()) | {"shape": [ROWS, 10]})
    ),
    "a list for a description": lambda e: (e / "entry.json").write_text("[1, 2]"),
    "a number for a shape": lambda e: describe(e, shape=ROWS),
    "numbers for checksums": lambda e: describe(e, checksums=3),
    "a deep description": lambda e: (e / "entry.json").write_text("[" * 100_000),
    "a description of bytes": lambda e: (e / "entry.json").write_bytes(b"\xff\x00"),
    "a description without an end": lambda e: os.truncate(e / "entry.json", 200 << 30),
    "a pipe for a description": lambda e: pipe(e / "entry.json"),
    "a pipe for samples": lambda e: pipe(e / "samples.npy"),
    "a folder for samples": lambda e: [(e / "samples.npy").unlink(), (e / "samples.npy").mkdir()],
    "a pickle for samples": lambda e: np.save(e / "samples.npy", np.array([Acts(e)] * ROWS, object), allow_pickle=True),
    "a pickle that is described": lambda e: [
        describe(e, shape=[ROWS], dtype="|O"),
        np.save(e / "samples.npy", np.array([Acts(e)] * ROWS, object), allow_pickle=True),
    ],
    "more samples than the file has": lambda e: header(e, (ROWS, 10**9)),
    "more samples than there are numbers": lambda e: header(e, (ROWS, 2**40, 2**40)),
    "less than no samples": lambda e: header(e, (ROWS, -1000)),
    "a number of samples in words": lambda e: header(e, ("many", 1)),
    "fewer samples, and described so": lambda e: header(e, (ROWS // 2, 2000)),
    "a type of no size": lambda e: header(e, (ROWS, 1000), "|V0"),
    "a deep header": lambda e: raw_header(e, "(" * 4000 + ")" * 4000),
    "a header of a megabyte": lambda e: raw_header(e, "(" * 500_000 + ")" * 500_000),
    "a header that computes": lambda e: raw_header(e, "__import__('os').system('touch ran')"),
    "a file for an entry": lambda e: [shutil.rmtree(e), e.write_text("")],
    "a pipe for an entry": lambda e: [shutil.rmtree(e), os.mkfifo(e)],
    "a link to itself": lambda e: [shutil.rmtree(e), e.symlink_to(e)],
    "a link to nothing": lambda e: [shutil.rmtree(e), e.symlink_to(e.parent / "nothing")],
}


class Acts:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.folder.parent}/ran",)


def describe(entry: Path, **changes: Any) -> None:
    file = entry / "entry.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def header(entry: Path, shape: tuple[Any, ...], dtype: str = "|u1") -> None:
    """Other words at the beginning of the file, and the same ones beside it."""
    describe(entry, shape=list(shape), dtype=dtype)
    raw_header(entry, repr({"descr": dtype, "fortran_order": False, "shape": shape}))


def raw_header(entry: Path, words: str) -> None:
    text = words.encode() + b" " * (-(len(words) + 13) % 64) + b"\n"
    head = b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text
    (entry / "samples.npy").write_bytes(head + WHOLE.tobytes())


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed_and_repaired(folder: Path, damage: str) -> None:
    get()
    [entry] = entries()
    DAMAGES[damage](entry.folder)
    for listed in entries():  # what the command shows
        assert isinstance(listed.about["shape"], list)
    made: list[int] = []
    with pytest.warns() as said:
        assert np.array_equal(get(made), WHOLE)
    assert re.fullmatch("the cached samples .* are damaged .*: decoding again", str(said.pop().message))
    assert not list(said)
    assert made
    assert not (folder / "ran").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(cached("", {"x": 1}, ROWS, no_parts()), WHOLE)


def decode_slowly(log: Path) -> None:
    def noted() -> Iterator[np.ndarray]:
        with log.open("a") as file:
            file.write("decoded\n")
        yield from parts(pause=0.05)

    assert np.array_equal(cached("", {"x": 1}, ROWS, noted()), WHOLE)


def test_processes_at_once_decode_once(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = [FORK.Process(target=decode_slowly, args=(log,)) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 6
    assert log.read_text() == "decoded\n"


def test_a_killed_decode_leaves_nothing_half_made(folder: Path) -> None:
    process = FORK.Process(target=lambda: cached("", {"x": 1}, ROWS, parts(pause=0.2)))
    process.start()
    deadline = time.monotonic() + 20
    while not list(folder.glob("*.part/samples.npy")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join(20)
    assert list(folder.glob("*.part"))
    assert entries() == []
    assert np.array_equal(get(), WHOLE)
    assert not list(folder.glob("*.part"))
    assert len(entries()) == 1


def test_who_waits_goes_on_for_who_was_killed(folder: Path, tmp_path: Path) -> None:
    """Of three that want one entry, as the ranks of a node do, the one that makes it is killed."""
    log = tmp_path / "log"
    slowly = {"target": decode_slowly, "args": (log,)}
    first, *others = [FORK.Process(**slowly) for _ in range(3)]  # type: ignore[arg-type]
    first.start()
    deadline = time.monotonic() + 20
    while not list(folder.glob("*.part/samples.npy")) and time.monotonic() < deadline:
        time.sleep(0.01)
    for other in others:
        other.start()
    os.kill(first.pid or 0, signal.SIGKILL)
    for process in (first, *others):
        process.join(30)
    assert [process.exitcode for process in (first, *others)] == [-signal.SIGKILL, 0, 0]
    assert log.read_text() == "decoded\ndecoded\n"  # once by each that was the first to try
    assert len(entries()) == 1
    assert not list(folder.glob("*.part"))


class Dies(Image):
    """Ends the worker that decodes the last rows, as a machine without memory does."""

    def decode(self, rows: Any, columns: list[str], split: str, first: int) -> np.ndarray:
        if first > 1000 and multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().decode(rows, columns, split, first)


def test_a_worker_that_is_killed_leaves_nothing_half_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_ae.data.decoding.CHUNK_BYTES", 6400)
    monkeypatch.setattr("lightning_ae.data.decoding.WORTH_WORKERS", 0.0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    with pytest.raises(InputError, match=r"(?s)process that decodes split 'train' ended.*memory"):
        HFDataModule("digits", kind=Dies()).setup("fit")
    assert entries() == []
    assert not list(folder.glob("*.part"))


class RankDies(Dies):
    """Ends the first of the ranks, which decodes while the others wait."""

    def decode(self, rows: Any, columns: list[str], split: str, first: int) -> np.ndarray:
        return super().decode(rows, columns, split, first + 2000)


def test_a_rank_that_is_killed_while_it_decodes(folder: Path) -> None:
    """The run ends, and the next one decodes again."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    ranks = {"strategy": "ddp_fork", "devices": 2, "max_epochs": 1, "enable_checkpointing": False}
    with pytest.raises(Exception, match="SIGKILL"):
        pl.Trainer(**quiet | ranks).fit(VAE((1, 8, 8), 2), HFDataModule("digits", kind=RankDies()))
    assert entries() == []
    pl.Trainer(**quiet | ranks).fit(VAE((1, 8, 8), 2), HFDataModule("digits"))
    assert len(entries()) == 1


def test_an_error_leaves_nothing_half_made(folder: Path) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield WHOLE[:500]
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        cached("", {"x": 1}, ROWS, broken())
    assert [path.suffix for path in folder.iterdir()] == [".lock"]


Usage = namedtuple("Usage", "total used free")


def test_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10, 9, WHOLE.nbytes - 1))
    with pytest.raises(InputError, match=r"(?s)take 3 MiB.*full.*cache --clear true.*cache='memory'"):
        get(made)
    assert made == [0]  # noticed before the work
    assert entries() == []


def write_too_much(answers: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    try:
        get()
    except InputError as error:
        answers.put(str(error))


def test_a_disk_that_fills_up(folder: Path) -> None:
    get(x=2)  # an earlier entry stays
    answers = FORK.Queue()
    process = FORK.Process(target=write_too_much, args=(answers,))
    process.start()
    assert "is full" in answers.get(timeout=20)
    process.join(20)
    assert [entry.about["x"] for entry in entries()] == [2]
    assert not list(folder.glob("*.part"))


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIGHTNING_AE_CACHE", str(tmp_path / "file"))
    data = HFDataModule("digits")
    with pytest.warns(UserWarning, match=r"cannot be written .*kept in memory"):
        data.setup("test")
    assert len(list(data.batches("test"))) > 0


def test_links_are_removed_and_not_what_they_lead_to(folder: Path, tmp_path: Path) -> None:
    get()
    [entry] = entries()
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "entry.json").write_text("{}")
    (theirs / "file").write_text("precious")
    shutil.rmtree(entry.folder)
    entry.folder.symlink_to(theirs)
    entry.folder.with_suffix(".part").symlink_to(theirs)
    with pytest.warns(UserWarning, match="damaged"):
        assert np.array_equal(get(), WHOLE)
    assert not entry.folder.is_symlink()
    (folder / "other").symlink_to(theirs)
    clear()
    assert {file.name: file.read_text() for file in theirs.iterdir()} == {"entry.json": "{}", "file": "precious"}
    assert not folder.exists()


def test_a_lock_that_is_a_link_leaves_the_file_alone(folder: Path, tmp_path: Path) -> None:
    get()
    [entry] = entries()
    (tmp_path / "file").write_text("precious")
    shutil.rmtree(entry.folder)
    lock = Path(f"{entry.folder}.lock")
    lock.unlink(missing_ok=True)
    lock.symlink_to(tmp_path / "file")
    with pytest.warns(UserWarning, match="cannot be written"):
        assert np.array_equal(get(), WHOLE)
    assert (tmp_path / "file").read_text() == "precious"


def test_samples_that_are_a_link_are_read_and_never_written(folder: Path, tmp_path: Path) -> None:
    """As where a cache was moved to another disk file by file."""
    get()
    [entry] = entries()
    shutil.move(entry.folder / "samples.npy", tmp_path / "samples.npy")
    (entry.folder / "samples.npy").symlink_to(tmp_path / "samples.npy")
    before = (tmp_path / "samples.npy").read_bytes()
    again = cached("", {"x": 1}, ROWS, no_parts())
    again[:] = 0
    assert (tmp_path / "samples.npy").read_bytes() == before


def test_a_cache_folder_that_is_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    folder.symlink_to(tmp_path / "disk")
    get()
    assert len(list((tmp_path / "disk").glob("*/entry.json"))) == 1
    assert clear() > WHOLE.nbytes
    assert list((tmp_path / "disk").iterdir()) == []
    assert np.array_equal(get(), WHOLE)


def test_a_damaged_entry_of_another_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    get()
    [entry] = entries()
    os.truncate(entry.folder / "samples.npy", 0)

    def not_ours(path: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", not_ours)
    with pytest.warns(UserWarning, match="cannot be written .Permission denied.*kept in memory"):
        assert np.array_equal(get(), WHOLE)


def images(shift: int = 0) -> Dataset:
    return Dataset.from_dict({"a": (np.arange(100.0) + shift).astype(np.float32), "row": list(range(100))})


def test_what_tells_entries_apart(folder: Path) -> None:
    def open_(data: Any, **options: Any) -> int:
        HFDataModule(data, **options).setup("fit")
        return len(entries())

    table = Tabular(columns=("a",))
    assert open_(images(), kind=table) == 1
    assert open_(images(), kind=table, val_fraction=0.3, batch_size=7) == 1  # another use of the same samples
    assert open_(images(1), kind=table) == 2  # the same shape and name, but other data
    assert open_(images(), kind=Tabular(columns=("a", "row"))) == 3
    assert open_("digits") == 4
    assert open_("digits", kind=Image(size=(4, 4))) == 5
    assert open_("digits", kind=Image(binarize="static")) == 6
    assert open_("digits", kind=Image(binarize="static"), split_seed=1) == 7


SCRIPT = """
import enum, multiprocessing, re
from dataclasses import dataclass
import numpy as np, torch
from lightning_ae.data import Image
from lightning_ae.data.code_digest import Code

class Mode(enum.Enum):
    GREY, COLOUR = 1, 2

TABLE, PATTERN, WEIGHTS, NAMES = {1: [{"p", "q", "r"}]}, re.compile("a+"), torch.arange(3.0), np.array(["a", "b"])

@dataclass(frozen=True)
class Mine(Image):
    mode: Mode = Mode.GREY
    def decode(self, *of):
        assert of[2] in {"train", "validation", "test"}
        return super().decode(*of)[TABLE, PATTERN, WEIGHTS, NAMES, Mode.COLOUR]

def code(_):
    return Code().of(Mine())

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(code(0), *pool.map(code, [0]))
"""


@pytest.mark.slow
def test_code_is_the_same_in_every_process(tmp_path: Path) -> None:
    """Whatever order sets have, and whether it is a script or was spawned by one."""
    (tmp_path / "script.py").write_text(SCRIPT)
    found = set()
    for seed in "12":
        command = [sys.executable, str(tmp_path / "script.py")]
        done = subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True)
        found |= set(done.stdout.decode().split())
    assert len(found) == 1


def test_a_data_set_that_changed_under_its_name(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "set"
    for shift in (0, 1):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        images(shift).to_parquet(path / "train-0.parquet")
        data = HFDataModule(str(path), kind=Tabular(columns=("a",), scaling="none"), val_fraction=0)
        assert float(next(data.batches("train"))["a"][0]) == shift


def test_another_run_decodes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pixels(data: HFDataModule) -> np.ndarray:
        data.prepare_data()
        data.setup("fit")
        return np.concatenate([batch["image"].numpy() for batch in data.batches("train")])

    first = pixels(HFDataModule("digits"))
    monkeypatch.setattr(Image, "decode", lambda *args: pytest.fail("decoded again"))
    assert np.array_equal(pixels(HFDataModule("digits")), first)


def test_workers_decode_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = HFDataModule("digits").splits["train"]
    monkeypatch.setattr("lightning_ae.data.decoding.CHUNK_BYTES", 6400)
    alone = np.concatenate(list(decode_chunks(Image(), rows, ["image"], "train")))
    monkeypatch.setattr("lightning_ae.data.decoding.WORTH_WORKERS", 0.0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    assert np.array_equal(np.concatenate(list(decode_chunks(Image(), rows, ["image"], "train"))), alone)
    table = rows.with_format("arrow")[:].to_pydict()
    table["image"][150] = {"bytes": b"none", "path": None}
    broken = Dataset.from_dict(table, rows.features)
    with pytest.raises(InputError, match="row 150 of split 'train' is not a readable image"):
        list(decode_chunks(Image(), broken, ["image"], "train"))


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["cache"])
    assert "nothing" in capsys.readouterr().out
    get()
    main(["cache"])
    shown = capsys.readouterr().out
    assert "a name" in shown
    assert "2.9 MiB" in shown
    assert str(folder) in shown
    main(["cache", "--clear", "true"])
    assert "2.9 MiB" in capsys.readouterr().out
    assert entries() == []
