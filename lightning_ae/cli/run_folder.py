"""A run's folder: who may write there, what lies where in it, and how the run goes on."""

from __future__ import annotations

import atexit
import contextlib
import csv
import fcntl
import io
import json
import os
import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import Namespace
from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.core.saving import save_hparams_to_yaml
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.utilities import rank_zero_only

from lightning_ae.errors import InputError
from lightning_ae.files import whole_file
from lightning_ae.report.facts import versions
from lightning_ae.report.runs import FACTS

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")

_claimed: tuple[Path, int] | None = None


# ---- whose it is ----------------------------------------------------------------------------------------------------


def claim(given: str | None, name: str, command: str) -> Path:
    """A new or empty folder for this run alone; for ranks other than the first, which write nothing, a mere name.

    The folder is locked until the process ends or `release` is called: of runs that ask for one at the same time
    exactly one gets it. A lock leaves nothing behind, however its process ends.

    Args:
        given: the folder; by default runs/<name>/<command>-<number>, the first number that is free.
        name: of the recipe.
        command: "fit", say.

    Raises:
        InputError: when the folder holds files, another run has it, or it cannot be made.
    """
    if not _is_first():
        # only the first rank's loggers write; the trainer tells the others where
        return Path(given or Path("runs", name, command))
    release()
    if given is not None:
        path = Path(given)
        _lock(path)
    else:
        number = 1
        while True:
            path = Path("runs", name, f"{command}-{number}")
            with contextlib.suppress(_Taken):
                _lock(path)
                break
            number += 1
    return path


@atexit.register
def release() -> None:
    """Gives the folder up; one in which a run never began is removed."""
    global _claimed
    if _claimed is not None:
        path, lock = _claimed
        _claimed = None
        with contextlib.suppress(OSError):
            path.rmdir()
        os.close(lock)


def _is_first() -> bool:
    found = next((os.environ[name] for name in RANKS if name in os.environ), "0")
    return int(found) == 0


class _Taken(InputError):
    """A folder that another run has, or that something else lies in."""


def _lock(path: Path) -> None:
    global _claimed
    refused = "runs never overwrite one another"
    while True:
        try:
            path.mkdir(parents=True)
            made = True
        except FileExistsError:
            made = False
        except OSError as error:
            raise InputError(
                f"run_dir {str(path)!r} cannot be made: {error.strerror or error}",
                "give another run_dir, where you may write",
            ) from error
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # another run gave it up meanwhile
            continue
        except NotADirectoryError as error:
            raise _Taken(f"run_dir {str(path)!r} is a file", "give a folder that does not exist yet") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise _Taken(
                f"run_dir {str(path)!r} belongs to another run, which is writing there; {refused}", _ELSEWHERE
            ) from error
        except OSError as error:  # a file system without locks, where only who makes a folder can be sure of it
            if not made:
                os.close(lock)
                raise _Taken(f"run_dir {str(path)!r} exists, and cannot be locked there", _ELSEWHERE) from error
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(lock)):
                if not any(path.iterdir()):
                    _claimed = path.absolute(), lock
                    return
                os.close(lock)
                raise _Taken(f"run_dir {str(path)!r} exists already and holds files; {refused}", _ELSEWHERE)
        os.close(lock)


_ELSEWHERE = "give another folder, or leave run_dir out for a numbered one"


# ---- what lies where ------------------------------------------------------------------------------------------------


def loggers(given: Any, run_dir: Path) -> list[Namespace]:
    """The loggers of a configuration, each of which writes inside the run's folder, with metrics.csv always there."""
    found = [logger for logger in (given if isinstance(given, list) else [given]) if isinstance(logger, Namespace)]
    metrics = [logger for logger in found if logger.class_path.endswith((".CSVLogger", ".MetricsLogger"))]
    options = metrics[0].init_args if metrics else Namespace()
    # this one comes first: Lightning takes a run's folder from the first logger
    own = Namespace(class_path="lightning_ae.cli.run_folder.MetricsLogger", init_args=options)
    found = [own, *(logger for logger in found if logger not in metrics)]
    for logger in found:
        for key, value in _place(logger.class_path, run_dir).items():
            logger.init_args[key] = value
    return found


def _place(class_path: str, run_dir: Path) -> dict[str, Any]:
    if class_path.endswith(".MetricsLogger"):
        return {"save_dir": str(run_dir.parent), "name": "", "version": run_dir.name}
    if class_path.endswith(".TensorBoardLogger"):
        return {"save_dir": str(run_dir), "name": "", "version": "tensorboard"}
    if class_path.endswith(".WandbLogger"):
        return {"save_dir": str(run_dir)}
    return {}


class MetricsLogger(CSVLogger):
    """Lightning's CSV logger, which neither deletes a file that is there nor leaves half a row on a full disk.

    Args:
        save_dir: the folder of the run's folder.
        name: a folder in between; none by default.
        version: the name of the run's folder, as it stands: one of digits only, too.
        prefix: to put before the names of metrics.
        flush_logs_every_n_steps: how often rows are written.
    """

    def __init__(
        self,
        save_dir: str,
        name: str = "",
        version: str = "metrics",
        prefix: str = "",
        flush_logs_every_n_steps: int = 100,
    ) -> None:
        super().__init__(save_dir, name, version, prefix, flush_logs_every_n_steps)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """What collects and writes the rows."""
        if self._experiment is None:
            os.makedirs(self.root_dir, exist_ok=True)
            self._experiment = _Rows(self.log_dir)
        return self._experiment

    @rank_zero_only
    def save(self) -> None:
        """Writes what has been logged.

        Raises:
            InputError: when it cannot be written; the rows written earlier stay.
        """
        try:
            super().save()
        except OSError as error:
            place = error.filename or self.experiment.metrics_file_path
            raise InputError(
                f"{place} cannot be written: {error.strerror or error}",
                "make room; what was written earlier is untouched, and the run goes on from checkpoints/last.ckpt",
            ) from error


class _Rows(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:  # which would delete the metrics of an earlier run
        if os.path.exists(self.metrics_file_path):
            raise InputError(f"{self.metrics_file_path} exists already", "runs never overwrite one another")

    def save(self) -> None:
        save_hparams_to_yaml(os.path.join(self.log_dir, self.NAME_HPARAMS_FILE), self.hparams)
        if not self.metrics:
            return
        fresh = not os.path.exists(self.metrics_file_path)
        known = list(self.metrics_keys)
        if self._record_new_keys() and not fresh:
            try:
                self._rewrite_with_new_header(self.metrics_keys)
            except InputError:
                self.metrics_keys = known  # those of the file's header, still
                raise
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=self.metrics_keys)
        if fresh:
            writer.writeheader()
        writer.writerows(self.metrics)
        left = memoryview(text.getvalue().encode())
        # without a buffer, which would try to write its rest again when it is closed
        with open(self.metrics_file_path, "ab", buffering=0) as file:
            start = file.tell()
            try:
                while left:
                    left = left[file.write(left) :]
            except OSError:
                file.truncate(start)
                raise
        self.metrics = []

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        with open(self.metrics_file_path, newline="") as file:
            rows = list(csv.DictReader(file))
        with whole_file(self.metrics_file_path) as part, open(part, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=fieldnames)
            writer.writeheader()
            writer.writerows(rows)


class LastCheckpoint(Checkpoint):
    """Keeps the newest state in checkpoints/last.ckpt: at the end of each epoch, and of one that is cut short.

    Lightning's `ModelCheckpoint(monitor=..., save_last=True)` writes last.ckpt only when the monitored value is among
    the best. This one has no state of its own, so that a run goes on from its checkpoints without it, too.

    Args:
        dirpath: the folder.
    """

    def __init__(self, dirpath: str) -> None:
        super().__init__()
        self.dirpath = dirpath

    @property
    def path(self) -> Path:
        """The checkpoint."""
        return Path(self.dirpath) / "last.ckpt"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Agrees with the other ranks on the folder."""
        self.dirpath = trainer.strategy.broadcast(self.dirpath)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        trainer.save_checkpoint(self.path, weights_only=False)


class RunFacts(pl.Callback):
    """Writes run.json into the run's folder: the command, the versions, when training began and when it ended.

    Args:
        run_dir: the folder.
        words: what followed `lightning-ae fit`.
    """

    def __init__(self, run_dir: str, words: Sequence[str]) -> None:
        self.run_dir, self.words = run_dir, list(words)
        self._facts: dict[str, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self._facts = {
            "command": shlex.join(["lightning-ae", "fit", *self.words]),
            "versions": versions(),
            "processes": trainer.world_size,
        }
        self._write(trainer, "started")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self._facts |= {"epochs": trainer.current_epoch, "steps": trainer.global_step}
        self._write(trainer, "ended")

    def _write(self, trainer: pl.Trainer, when: str) -> None:
        if trainer.is_global_zero:
            self._facts[when] = datetime.now().astimezone().isoformat(timespec="seconds")
            with whole_file(Path(self.run_dir) / FACTS) as part:
                part.write_text(json.dumps(self._facts, indent=2) + "\n")


# ---- how it goes on -------------------------------------------------------------------------------------------------


def command_to_go_on(run_dir: Path | None, checkpoint: Path, words: Sequence[str]) -> str:
    """The command that goes on from a checkpoint, to be copied to a shell.

    Args:
        run_dir: the run's folder, whose configuration holds all of its options.
        checkpoint: to go on from.
        words: the options that the run was started with, for one without a folder.
    """
    options = ["-c", str(run_dir / "config.yaml")] if run_dir is not None else list(words)
    return shlex.join(["lightning-ae", "fit", *options, "--ckpt_path", os.path.relpath(checkpoint)])
