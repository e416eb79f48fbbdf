"""Interruptions: a run goes on as if nothing had happened, and nothing that was written is lost."""

from __future__ import annotations

import contextlib
import csv
import multiprocessing
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_ae import VAE, Autoencoder, HFDataModule, InputError
from lightning_ae.architectures import MLP
from lightning_ae.cli import main, run_folder
from lightning_ae.cli.run_folder import MetricsLogger
from lightning_ae.training.checkpoint_file import AtomicCheckpointIO

FAULTY = """
import os, signal
import pytorch_lightning as pl

class Faulty(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        step, rank, number = map(int, os.environ["FAULT"].split(":"))
        if (trainer.global_step, trainer.global_rank) == (step, rank):
            os.kill(os.getpid(), number)
"""

IMPATIENT = """
import time

once = Faulty.on_train_batch_start

def twice(self, trainer, *args):
    once(self, trainer, *args)
    if trainer.global_step == int(os.environ["FAULT"].split(":")[0]):
        time.sleep(0.6)
        once(self, trainer, *args)

Faulty.on_train_batch_start = twice
"""

RECIPE = """
model:
  class_path: VAE
  init_args:
    input_shape: [1, 8, 8]
    latent_dim: 4
    architecture: {class_path: MLP, init_args: {hidden: [32], norm: NORM, dropout: 0.2}}
data: {class_path: HFDataModule, init_args: {path: digits, batch_size: 60}}
lr_scheduler: {class_path: StepLR, init_args: {step_size: 1, gamma: 0.5}}
trainer:
  accelerator: cpu
  max_epochs: 3
  enable_progress_bar: false
  log_every_n_steps: 4
  callbacks:
    - {class_path: ModelCheckpoint, init_args: {every_n_train_steps: 7, filename: often, enable_version_counter: false}}
    - {class_path: faulty.Faulty}
"""
STEPS = 22  # in each of three epochs
KILLED_AT = 40  # in the middle of the second; checkpoints come every 7 steps, the last before it at 35


class Runs:
    """Runs of one recipe in a folder, by the command line."""

    def __init__(self, folder: Path, norm: str = "batch") -> None:
        self.folder = folder
        (folder / "faulty.py").write_text(FAULTY)
        (folder / "recipe.yaml").write_text(RECIPE.replace("NORM", norm))

    def start(
        self, name: str, ranks: int = 2, fault: str = "-1:0:0", resume: str | None = None, options: Sequence[str] = ()
    ) -> Any:
        args = ["-c", "recipe.yaml", "--run_dir", name, "--trainer.devices", str(ranks), *options]
        args += ["--trainer.strategy", "ddp"] if ranks > 1 else []
        args += ["--ckpt_path", resume] if resume else []
        return subprocess.Popen(
            [sys.executable, "-m", "lightning_ae.cli", "fit", *args],
            cwd=self.folder,
            env=os.environ | {"FAULT": fault, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, *args: Any, **options: Any) -> tuple[int, str]:
        process = self.start(*args, **options)
        text = process.communicate(timeout=240)[0]
        return process.returncode, text

    def state(self, name: str, checkpoint: str = "last") -> dict[str, Any]:
        place = self.folder / name / "checkpoints" / f"{checkpoint}.ckpt"
        found: dict[str, Any] = torch.load(place, weights_only=True)
        return found


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(torch.equal(a, b) if isinstance(a, Tensor) else a == b)


def check_bit_for_bit(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["global_step"] == expected["global_step"] == 3 * STEPS
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(found[part], expected[part]), part


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("runs"))
    status, text = runs.finish("whole")
    assert status == 0, text
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank(runs: Runs, rank: int) -> None:
    """kill -9: the others end within seconds and say what to do; the run goes on bit for bit."""
    started = time.monotonic()
    status, text = runs.finish(f"killed-{rank}", fault=f"{KILLED_AT}:{rank}:9")
    assert time.monotonic() - started < 60
    assert status != 0
    if rank:  # the first process, which others wait for, has something to say only if it lives
        assert "another process of the run has ended" in text
        assert "--ckpt_path" in text
        assert "Traceback" not in text
    assert runs.state(f"killed-{rank}")["global_step"] == STEPS
    assert runs.state(f"killed-{rank}", "often")["global_step"] == 35
    status, text = runs.finish(f"again-{rank}", resume=f"killed-{rank}/checkpoints/often.ckpt")
    assert status == 0, text
    check_bit_for_bit(runs.state(f"again-{rank}"), runs.state("whole"))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm(runs: Runs, rank: int) -> None:
    """Pre-emption of any rank: all write a checkpoint after one step, and end without a traceback."""
    status, text = runs.finish(f"preempted-{rank}", fault=f"{KILLED_AT}:{rank}:{signal.SIGTERM.value}")
    assert status == 143, text
    assert "Traceback" not in text
    (path,) = re.findall(r"goes on with ckpt_path='(.*)'", text)
    saved = torch.load(runs.folder / path, weights_only=True)
    assert saved["global_step"] in (KILLED_AT + 1, KILLED_AT + 2)
    status, text = runs.finish(f"on-{rank}", resume=path)
    assert status == 0, text
    check_bit_for_bit(runs.state(f"on-{rank}"), runs.state("whole"))


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "number", "status"), [(0, 2, 130), (1, 2, 130), (1, 15, 143)])
def test_a_signal_while_two_ranks_accumulate(rank: int, number: int, status: int, runs: Runs) -> None:
    """Each rank's gradients so far, and its part of the epoch's means, go with the checkpoint."""
    four = ["--trainer.accumulate_grad_batches", "4"]
    whole, stopped, on = (f"{name}-{rank}-{number}" for name in ("whole", "stopped", "on"))
    assert runs.finish(whole, options=four)[0] == 0
    found, text = runs.finish(stopped, fault=f"8:{rank}:{number}", options=four)
    assert found == status, text
    assert "Traceback" not in text
    command = f"lightning-ae fit -c {stopped}/config.yaml --ckpt_path {stopped}/checkpoints/preempted.ckpt"
    assert text.count(command) == 1
    saved = runs.state(stopped, "preempted")
    assert saved["global_step"] == 8
    assert len(saved["resumption"]["gradients"]) == 2
    found, text = runs.finish(on, resume=f"{stopped}/checkpoints/preempted.ckpt", options=four)
    assert found == 0, text
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert same(runs.state(on)[part], runs.state(whole)[part]), part
    tables = [csv.DictReader((runs.folder / name / "metrics.csv").read_text().splitlines()) for name in (on, whole)]
    means = [[row["train/loss_epoch"] for row in table if row["train/loss_epoch"]] for table in tables]
    assert means[0] == means[1][1:]  # the first epoch was logged by the run that stopped in the second


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 4])
def test_on_another_number_of_ranks(ranks: int, tmp_path: Path) -> None:
    """Begun on two ranks. Without batch normalisation, whose biases get gradients of rounding, which Adam blows up."""
    runs = Runs(tmp_path, norm="layer")
    assert runs.finish("whole")[0] == 0
    assert runs.finish("killed", fault=f"{KILLED_AT}:1:9")[0] != 0
    status, text = runs.finish("again", ranks=ranks, resume="killed/checkpoints/often.ckpt")
    assert status == 0, text
    found, expected = (
        torch.cat([value.flatten() for value in runs.state(name)["state_dict"].values()]) for name in ("again", "whole")
    )
    assert float((found - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_one_process(
    number: signal.Signals, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The command that is printed goes on, word for word, as a shell would run it."""
    monkeypatch.chdir(tmp_path)
    runs = Runs(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    handler = signal.getsignal(number)
    monkeypatch.setenv("FAULT", f"{KILLED_AT}:0:{number.value}")
    with pytest.raises(SystemExit) as ended:
        main(["fit", "-c", "recipe.yaml", "--run_dir", "it's stopped/1"])
    assert ended.value.code == status
    assert signal.getsignal(number) == handler
    assert runs.state("it's stopped/1", "preempted")["global_step"] == KILLED_AT + 1
    monkeypatch.setenv("FAULT", "-1:0:0")
    (command,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  lightning-ae fit")]
    main(shlex.split(command)[1:])
    on = "runs/it's stopped/fit-1"
    main(["fit", "-c", "recipe.yaml", "--run_dir", "whole"])
    check_bit_for_bit(runs.state(on), runs.state("whole"))
    # the epoch's means, too, are those of the whole epoch
    means = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in (on, "whole")]
    assert means[0][-1] == means[1][-1]


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Runs(tmp_path)
    (tmp_path / "faulty.py").write_text(FAULTY + IMPATIENT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faulty", raising=False)
    monkeypatch.setenv("FAULT", f"{KILLED_AT}:0:2")
    with pytest.raises(SystemExit) as ended:
        main(["fit", "-c", "recipe.yaml", "--run_dir", "stopped"])
    monkeypatch.delitem(sys.modules, "faulty")
    assert ended.value.code == 130
    assert sorted(path.name for path in Path("stopped/checkpoints").iterdir()) == ["last.ckpt", "often.ckpt"]
    assert (
        "lightning-ae fit -c stopped/config.yaml --ckpt_path stopped/checkpoints/last.ckpt" in capsys.readouterr().out
    )


def test_another_seed_when_it_goes_on(tmp_path: Path) -> None:
    """Noise and order follow the checkpoint, whatever the process's seed is by then."""

    def weights(seed: int, **resume: Any) -> Tensor:
        pl.seed_everything(seed, verbose=False)
        model = VAE((1, 8, 8), 4, architecture=MLP(hidden=(16,), dropout=0.2))
        saving = pl.callbacks.ModelCheckpoint(tmp_path, "at", every_n_train_steps=10, save_top_k=-1)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
        trainer = pl.Trainer(max_epochs=2, callbacks=[saving], **quiet)
        trainer.fit(model, datamodule=HFDataModule("digits", batch_size=200), **resume)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    whole = weights(1)
    assert torch.equal(weights(2, ckpt_path=tmp_path / "at.ckpt", weights_only=True), whole)
    assert not torch.equal(weights(2), whole)


# ---- what is written ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def room(size: int) -> Iterator[None]:
    """No file grows beyond this many bytes, as on a disk that is full by then."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    place = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": torch.ones(4)}, place)
    with room(100_000), pytest.raises(InputError, match=r"last.ckpt' cannot be written: File too large") as raised:
        AtomicCheckpointIO().save_checkpoint({"a": torch.ones(1_000_000)}, place)
    assert "earlier checkpoints are untouched" in str(raised.value)
    assert torch.equal(torch.load(place, weights_only=True)["a"], torch.ones(4))
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(("more", "rows"), [("loss", 1), ("another", 1), ("another", 900)])
def test_metrics_on_a_full_disk(more: str, rows: int, tmp_path: Path) -> None:
    """Neither rows appended nor a file written anew for another column leave less than there was."""
    logger = MetricsLogger(str(tmp_path), version="run")

    def log(name: str, n: int) -> None:
        for step in range(n):
            logger.experiment.log_metrics({name: 0.5}, step)

    log("loss", rows)
    logger.save()
    place = tmp_path / "run" / "metrics.csv"
    before = list(csv.DictReader(place.read_text().splitlines()))
    log(more, 900)
    with room(5000), pytest.raises(InputError, match=r"run/metrics.csv cannot be written: File too large"):
        logger.save()
    after = list(csv.DictReader(place.read_text().splitlines()))
    assert [(row["loss"], row["step"]) for row in after] == [(row["loss"], row["step"]) for row in before]
    assert {file.name for file in place.parent.iterdir()} == {"metrics.csv", "hparams.yaml"}
    logger.save()  # with room again, all of them
    saved = list(csv.DictReader(place.read_text().splitlines()))
    assert len(saved) == rows + 900
    assert sum(row[more] == "0.5" for row in saved) == 900 + (rows if more == "loss" else 0)


def test_metrics_of_another_run_are_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.csv").write_text("a,step\n1,1\n")
    with pytest.raises(InputError, match="exists already"):
        MetricsLogger(str(tmp_path), version="run").log_metrics({"loss": 0.5}, 1)
    assert (tmp_path / "run" / "metrics.csv").read_text() == "a,step\n1,1\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose model has images and samples."""
    folder = tmp_path_factory.mktemp("trained")
    options = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_steps=1, enable_checkpointing=False, **options)
    trainer.fit(VAE((1, 8, 8), 4, architecture=MLP(hidden=(16,))), datamodule=HFDataModule("digits"))
    trainer.save_checkpoint(folder / "m.ckpt")
    # the cache has the data, as a command and as a module read them, whatever the disk does later
    next(HFDataModule("digits").batches("test"))
    main(["features", str(folder / "m.ckpt"), "--output", str(folder / "codes"), "--device", "cpu"])
    return folder / "m.ckpt"


SHORT = "--data HFDataModule --data.path digits --trainer.accelerator cpu --trainer.enable_progress_bar false"
VAE_OF_DIGITS = "--model VAE --model.input_shape [1,8,8]"


@pytest.mark.parametrize(
    ("command", "size"),
    [
        ("features CKPT --output out", 5_000),
        ("reconstruct CKPT --output out/a.png", 1_000),
        ("sample CKPT --output out/a.png", 1_000),
        ("rate-distortion CKPT --samples 50 --output out", 200),
        (f"fit {VAE_OF_DIGITS} {SHORT} --trainer.max_epochs 1 --run_dir out/run", 1_000),
        (f"fit {VAE_OF_DIGITS} {SHORT} --trainer.max_epochs 40 --trainer.log_every_n_steps 1 "
         "--trainer.enable_checkpointing false --run_dir out/run", 8_000),
        (f"predict {VAE_OF_DIGITS} {SHORT} --run_dir out/run", 20_000),
    ],
)  # fmt: skip
def test_commands_on_a_full_disk(
    command: str, size: int, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """One line and a hint, and nothing half-written keeps the disk full."""
    monkeypatch.chdir(tmp_path)
    with room(size), pytest.raises(SystemExit) as ended:
        main(command.replace("CKPT", str(trained)).split())
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error:", "hint:"))]
    assert ended.value.code == 2
    assert len(said) == 2, said
    assert "File too large" in said[0]
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert not [name for name in left if "part" in name or name.endswith((".parquet", ".png", ".pt"))]


def test_a_reader_that_has_enough(tmp_path: Path) -> None:
    command = f"{sys.executable} -m lightning_ae.cli zoo list"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command} | true"], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr


# ---- whose folder it is -------------------------------------------------------------------------------------------


def race(place: str | None, number: int, together: Any) -> None:
    together.wait()
    try:
        path, status = run_folder.claim(place, "race", "fit"), 0
        assert not list(path.iterdir())
        (path / f"{number}.txt").write_text("mine")
    except InputError:
        status = 3
    together.wait()  # whoever won stays until all have tried
    os._exit(status)


@pytest.mark.parametrize("given", ["new", "empty", "numbered"])
def test_runs_that_start_at_once(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several that ask for one folder exactly one gets it; without a name each gets one of its own."""
    monkeypatch.chdir(tmp_path)
    context = multiprocessing.get_context("fork")
    for turn in range(8):
        place = None if given == "numbered" else f"{given}-{turn}"
        if given == "empty":
            Path(str(place)).mkdir()
        together = context.Barrier(3)
        racers = [context.Process(target=race, args=(place, number, together)) for number in range(3)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join(60)
        status = sorted(racer.exitcode or 0 for racer in racers)
        if place is None:
            assert status == [0, 0, 0]
            assert len(list(Path("runs/race").glob("fit-*/*.txt"))) == 3 * (turn + 1)
        else:
            assert status == [0, 3, 3]
            assert len(list(Path(place).iterdir())) == 1


def test_a_folder_whose_run_never_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is free again, whether its process was killed or ended by itself; one with files never is."""
    monkeypatch.chdir(tmp_path)
    script = "import os, lightning_ae.cli.run_folder as r; r.claim('runs/x', '', 'fit'); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    assert Path("runs/x").is_dir()
    path = run_folder.claim("runs/x", "", "fit")
    run_folder.release()
    assert not path.exists()
    Path("runs/x").write_text("a file")
    with pytest.raises(InputError, match="is a file"):
        run_folder.claim("runs/x", "", "fit")


def test_ranks_share_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variables in ({}, {"RANK": "0", "LOCAL_RANK": "0"}, {"SLURM_PROCID": "0"}):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            assert run_folder.claim("a", "", "fit") == Path("a")
            Path("a", "metrics.csv").touch()  # of the first rank, which is quicker
            for name in variables or {"LOCAL_RANK": ""}:
                patch.setenv(name, "1")
            assert run_folder.claim("a", "", "fit") == Path("a")
            Path("a", "metrics.csv").unlink()
            run_folder.release()


@pytest.mark.slow
def test_two_fits_at_once(tmp_path: Path) -> None:
    """By the command line: one is refused by name and touches nothing."""
    runs = Runs(tmp_path)
    both = [runs.start("one", ranks=1) for _ in range(2)]
    texts = [process.communicate(timeout=240)[0] for process in both]
    (loser,) = [text for process, text in zip(both, texts, strict=True) if process.returncode]
    assert sorted(process.returncode for process in both) == [0, 2], texts
    assert "run_dir 'one'" in loser
    assert "Traceback" not in loser
    assert runs.finish("alone", ranks=1)[0] == 0
    assert (tmp_path / "one" / "metrics.csv").read_bytes() == (tmp_path / "alone" / "metrics.csv").read_bytes()
    check_bit_for_bit(runs.state("one"), runs.state("alone"))


# ---- the newest state ---------------------------------------------------------------------------------------------

WORSE = """
class Worse(pl.Callback):
    def on_validation_epoch_end(self, trainer, module):
        module.log("worse", float(trainer.current_epoch))
"""
BEST = "{class_path: ModelCheckpoint, init_args: {monitor: worse, filename: best, save_last: LAST}}"


@pytest.mark.parametrize(
    "callbacks",
    ["", *(pytest.param(BEST.replace("LAST", last), marks=pytest.mark.slow) for last in ("true", "false", "link")),
     BEST.replace("LAST", "true") + ", {class_path: ModelCheckpoint, init_args: {save_last: true}}"],
)  # fmt: skip
def test_last_is_the_newest_state(callbacks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the recipe, of a run whose monitored value gets worse from epoch to epoch."""
    monkeypatch.chdir(tmp_path)
    runs = Runs(tmp_path)
    (tmp_path / "worse.py").write_text("import pytorch_lightning as pl\n" + WORSE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "worse", raising=False)
    monkeypatch.setenv("FAULT", f"{2 * STEPS + 3}:0:{signal.SIGTERM.value}")
    callbacks = f"[{{class_path: worse.Worse}}, {{class_path: faulty.Faulty}}{callbacks and ', ' + callbacks}]"
    with pytest.raises(SystemExit):
        main(["fit", "-c", "recipe.yaml", "--run_dir", "r", "--trainer.callbacks", callbacks])
    saved = runs.state("r")
    assert saved["global_step"] == 2 * STEPS
    if "best" in callbacks:
        assert runs.state("r", "best")["global_step"] == STEPS
    assert not Path("r/checkpoints/last.ckpt").is_symlink()
    assert not list(Path("r/checkpoints").glob("last-*"))
    monkeypatch.setenv("FAULT", "-1:0:0")
    for name in ("on", "whole"):
        resume = ["--ckpt_path", "r/checkpoints/last.ckpt"] if name == "on" else []
        main(["fit", "-c", "r/config.yaml", "--run_dir", name, *resume])
    check_bit_for_bit(runs.state("on"), runs.state("whole"))


@pytest.mark.slow
def test_last_after_kill_9(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    (tmp_path / "faulty.py").write_text(FAULTY + WORSE)
    recipe = (tmp_path / "recipe.yaml").read_text().replace("every_n_train_steps: 7", "monitor: worse, save_last: true")
    (tmp_path / "recipe.yaml").write_text(recipe + "    - {class_path: faulty.Worse}\n")
    assert runs.finish("r", ranks=1, fault=f"{2 * STEPS + 3}:0:9")[0] == -signal.SIGKILL
    assert runs.state("r")["global_step"] == 2 * STEPS
    assert runs.state("r", "often")["global_step"] == STEPS


def test_no_checkpoints_where_none_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = f"fit {VAE_OF_DIGITS} {SHORT} --trainer.max_epochs 1 --run_dir r --trainer.enable_checkpointing false"
    main(command.split())
    assert {path.name for path in Path("r").iterdir()} == {"config.yaml", "hparams.yaml", "metrics.csv", "run.json"}


def test_a_checkpoint_of_earlier_callbacks_goes_on_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """As written when recipes had `save_last`, by the trainer alone; and the other way round."""
    monkeypatch.chdir(tmp_path)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "logger": False}
    best = pl.callbacks.ModelCheckpoint(tmp_path, "best", monitor="val/loss", save_last=True)
    trainer = pl.Trainer(max_epochs=1, callbacks=[best], **quiet)
    trainer.fit(VAE((1, 8, 8)), datamodule=HFDataModule("digits"))
    recwarn.clear()
    options = f"fit {VAE_OF_DIGITS} {SHORT} --trainer.max_epochs 2 --run_dir r --ckpt_path last.ckpt".split()
    callback = "{class_path: ModelCheckpoint, init_args: {monitor: val/loss, filename: best}}"
    main([*options, "--trainer.callbacks", f"[{callback}]"])
    best = pl.callbacks.ModelCheckpoint(tmp_path / "r" / "checkpoints", "best", monitor="val/loss")
    trainer = pl.Trainer(max_epochs=3, callbacks=[best], **quiet)
    again = VAE((1, 8, 8))
    trainer.fit(again, datamodule=HFDataModule("digits"), ckpt_path="r/checkpoints/last.ckpt", weights_only=True)
    assert not [str(w.message) for w in recwarn if "callbacks" in str(w.message)]


def test_a_crash_while_writing_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    place = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": 1}, place)
    script = (
        "import os, sys, torch, lightning_ae.training.checkpoint_file as c\n"
        "def half(checkpoint, file):\n"
        "    file.write(b'x' * 1000); file.flush(); os.kill(os.getpid(), 9)\n"
        "torch.save = half\n"
        "c.AtomicCheckpointIO().save_checkpoint({}, sys.argv[1])\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(place)]).returncode == -signal.SIGKILL
    assert torch.load(place, weights_only=True) == {"a": 1}


def test_it_is_how_trainers_save(digits: Tensor, fit: Any, tmp_path: Path) -> None:
    trainer = fit(Autoencoder((1, 8, 8)), digits[:128])
    assert type(trainer.strategy.checkpoint_io) is AtomicCheckpointIO


def test_broken_weights_are_not_saved(digits: Tensor, fit: Any, tmp_path: Path) -> None:
    model = Autoencoder((1, 8, 8))
    trainer = fit(model, digits[:128])
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    good = (tmp_path / "a.ckpt").read_bytes()
    with torch.no_grad():
        model.encoder.linears[0].bias[3] = float("nan")  # type: ignore[index,union-attr]
    with pytest.raises(InputError, match=r"weights are not finite after step 2, .*: encoder\.linears\.0\.bias"):
        trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert (tmp_path / "a.ckpt").read_bytes() == good
