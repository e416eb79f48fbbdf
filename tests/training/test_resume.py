"""However a run stops inside an epoch, it goes on there, bit for bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor

from lightning_ae import VAE, HFDataModule
from lightning_ae.architectures import MLP

STEPS = 7  # batches in an epoch: 1293 samples in batches of 200
EPOCHS = 3


class Model(VAE):
    """With state of every kind: batch statistics, dropout, and schedulers that follow steps, epochs and metrics."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), 1e-3)
        by_step = torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.9)
        by_epoch = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.8)
        by_loss = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.7, patience=0, threshold=0.3)
        return [optimizer], [
            {"scheduler": by_step, "interval": "step"},
            {"scheduler": by_epoch, "interval": "epoch"},
            {"scheduler": by_loss, "interval": "epoch", "monitor": "val/loss"},
        ]


class Batches(pl.Callback):
    """The first samples of each batch, by epoch and number."""

    def __init__(self) -> None:
        self.seen: dict[tuple[int, int], Tensor] = {}

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert (trainer.current_epoch, batch_idx) not in self.seen
        self.seen[trainer.current_epoch, batch_idx] = batch["image"][:3].clone()


class At(pl.Callback):
    """Does something in a hook, at a step."""

    def __init__(self, hook: str, step: int, act: Callable[[pl.Trainer], None]) -> None:
        self.step, self.act, self.done = step, act, False
        setattr(self, hook, self._called)

    def _called(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step and not self.done and not trainer.sanity_checking:
            self.done = True
            self.act(trainer)


class Run:
    """A fit in a folder: what it logged, the batches it saw, and the state at its end."""

    def __init__(
        self, folder: Path, *callbacks: pl.Callback, resume: Path | None = None, norm: str = "batch", **options: Any
    ) -> None:
        pl.seed_everything(3, verbose=False)
        self.batches = Batches()
        saves = any(isinstance(callback, pl.callbacks.Checkpoint) for callback in callbacks)
        quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
        self.trainer = pl.Trainer(
            **quiet,
            **{"max_epochs": EPOCHS, "log_every_n_steps": 4} | options,
            default_root_dir=folder,
            logger=CSVLogger(folder),
            enable_checkpointing=saves,
            callbacks=[self.batches, *callbacks],
        )
        self.model = Model((1, 8, 8), 4, architecture=MLP(hidden=(16,), norm=norm, dropout=0.2))
        self.ended: BaseException | None = None
        try:
            data = HFDataModule("digits", batch_size=200)
            self.trainer.fit(self.model, datamodule=data, ckpt_path=resume, weights_only=True)
        except BaseException as error:
            self.ended = error
            if isinstance(error, pytest.fail.Exception | AssertionError):
                raise

    def state(self) -> dict[str, Any]:
        """What must be the same."""
        saved = self.trainer._checkpoint_connector.dump_checkpoint()
        parts = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch")
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed
        return {part: saved[part] for part in parts} | {"batches": batches}

    def logged(self) -> dict[int, dict[str, str]]:
        """What was logged of training and validation, by step."""
        import csv

        rows: dict[int, dict[str, str]] = {}
        path = Path(self.trainer.log_dir or "") / "metrics.csv"
        if path.is_file():  # one step logs nothing
            for row in csv.DictReader(path.read_text().splitlines()):
                rows.setdefault(int(row["step"]), {}).update({k: v for k, v in row.items() if v})
        return rows


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(torch.equal(a, b) if isinstance(a, Tensor) else a == b)


def check(whole: Run, first: Run, second: Run, used: int) -> None:
    assert second.ended is None, second.ended
    found, expected = second.state(), whole.state()
    for part in expected:
        assert same(found[part], expected[part]), part
    assert same(first.batches.seen | second.batches.seen, whole.batches.seen)
    assert len(second.batches.seen) == expected["batches"] - used
    logged = whole.logged()
    for step, row in second.logged().items():
        assert row.items() <= logged[step].items(), step
    means = [set(), set()]
    for found, runs in zip(means, ([first, second], [whole]), strict=True):
        rows = [(step, name) for run in runs for step, row in run.logged().items() for name in row]
        found |= {(step, name) for step, name in rows if name in ("train/loss_epoch", "val/loss")}
    assert means[0] >= means[1]


def stop(trainer: pl.Trainer) -> None:
    trainer.should_stop = True


def fail(trainer: pl.Trainer) -> None:
    raise RuntimeError("a fault")


def send(number: int) -> Callable[[pl.Trainer], None]:
    return lambda trainer: os.kill(os.getpid(), number)


def saving(folder: Path, **options: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "saved", enable_version_counter=False, **options)


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """The run that was never stopped, for some options of the trainer."""
    runs: dict[str, Run] = {}

    def whole(**options: Any) -> Run:
        key = repr(sorted(options.items()))
        if key not in runs:
            runs[key] = Run(tmp_path_factory.mktemp("whole"), **options)
        return runs[key]

    return whole


AFTER = "saved after fit"
PREEMPTED = "preempted.ckpt"

# of a way to stop: callbacks, options of the first run, options of both, and which checkpoint goes on
WAYS: dict[str, tuple[Callable[[Path], list[pl.Callback]], dict[str, Any], dict[str, Any], str]] = {
    "max_steps": (lambda f: [], {"max_steps": 10}, {}, AFTER),
    "max_steps at the end of an epoch": (lambda f: [], {"max_steps": 2 * STEPS}, {}, AFTER),
    "max_steps, last epoch's checkpoint": (lambda f: [saving(f)], {"max_steps": 10}, {}, "saved.ckpt"),
    "max_steps in the first step": (lambda f: [], {"max_steps": 1}, {}, AFTER),
    "max_time": (lambda f: [], {"max_time": timedelta(microseconds=1)}, {}, AFTER),
    "max_epochs": (lambda f: [], {"max_epochs": 2}, {}, AFTER),
    "max_epochs, last epoch's checkpoint": (lambda f: [saving(f)], {"max_epochs": 2}, {}, "saved.ckpt"),
    "should_stop": (lambda f: [At("on_train_batch_end", 10, stop)], {}, {}, AFTER),
    "should_stop, last epoch's checkpoint": (
        lambda f: [At("on_train_batch_end", 10, stop), saving(f)], {}, {}, "saved.ckpt"),
    "should_stop in a validation": (lambda f: [At("on_validation_batch_end", 14, stop)], {}, {}, AFTER),
    "SIGTERM": (lambda f: [At("on_train_batch_start", 10, send(signal.SIGTERM))], {}, {}, PREEMPTED),
    "SIGTERM in the last batch": (lambda f: [At("on_train_batch_start", 13, send(signal.SIGTERM))], {}, {}, PREEMPTED),
    "SIGTERM in a validation": (lambda f: [At("on_validation_start", 14, send(signal.SIGTERM))], {}, {}, PREEMPTED),
    "Ctrl-C": (lambda f: [At("on_train_batch_start", 10, send(signal.SIGINT))], {}, {}, PREEMPTED),
    "an exception in a step": (
        lambda f: [At("on_before_optimizer_step", 10, fail), OnExceptionCheckpoint(f)], {}, {"norm": "layer"},
        "on_exception.ckpt"),
    "an exception before a step": (
        lambda f: [At("on_train_batch_start", 10, fail), OnExceptionCheckpoint(f)], {}, {}, "on_exception.ckpt"),
    "an exception after a step": (
        lambda f: [At("on_train_batch_end", 10, fail), OnExceptionCheckpoint(f)], {}, {}, "on_exception.ckpt"),
    "an exception after the last step": (
        lambda f: [At("on_train_batch_end", 14, fail), OnExceptionCheckpoint(f)], {}, {}, "on_exception.ckpt"),
    "an exception in a validation": (
        lambda f: [At("on_validation_batch_end", 14, fail), OnExceptionCheckpoint(f)], {}, {}, "on_exception.ckpt"),
    "an exception at the start of an epoch": (
        lambda f: [At("on_train_epoch_start", 14, fail), OnExceptionCheckpoint(f)], {}, {}, "on_exception.ckpt"),
    "every_n_train_steps": (
        lambda f: [saving(f, every_n_train_steps=11), At("on_train_batch_start", 17, fail)], {}, {}, "saved.ckpt"),
    "every_n_train_steps at the end of an epoch": (
        lambda f: [saving(f, every_n_train_steps=STEPS), At("on_train_batch_start", 20, fail)], {}, {}, "saved.ckpt"),
    "the end of a validation": (
        lambda f: [saving(f, save_on_train_epoch_end=False), At("on_train_batch_start", 20, fail)], {}, {},
        "saved.ckpt"),
    "max_steps, validating in mid-epoch": (lambda f: [], {"max_steps": 10}, {"val_check_interval": 4}, AFTER),
    "max_steps at a validation in mid-epoch": (lambda f: [], {"max_steps": 11}, {"val_check_interval": 4}, AFTER),
    "a validation in mid-epoch": (
        lambda f: [saving(f), At("on_train_batch_start", 15, fail)], {}, {"val_check_interval": 4}, "saved.ckpt"),
    "SIGTERM before a validation in mid-epoch": (
        lambda f: [At("on_train_batch_start", 10, send(signal.SIGTERM))], {}, {"val_check_interval": 4}, PREEMPTED),
    "a validation every 7 batches": (
        lambda f: [saving(f), At("on_train_batch_start", 17, fail)], {},
        {"val_check_interval": 7, "check_val_every_n_epoch": None}, "saved.ckpt"),
    "SIGTERM in a limited epoch": (
        lambda f: [At("on_train_batch_start", 9, send(signal.SIGTERM))], {}, {"limit_train_batches": 6}, PREEMPTED),
    "max_steps in a limited epoch": (lambda f: [], {"max_steps": 9}, {"limit_train_batches": 6}, AFTER),
    "max_steps at the end of a limited epoch": (lambda f: [], {"max_steps": 12}, {"limit_train_batches": 6}, AFTER),
    "max_steps, accumulating": (lambda f: [], {"max_steps": 7}, {"accumulate_grad_batches": 2}, AFTER),
    "SIGTERM while it accumulates": (
        lambda f: [At("on_train_batch_start", 8, send(signal.SIGTERM))], {}, {"accumulate_grad_batches": 2}, PREEMPTED),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_stop(way: str, wholes: Callable[..., Run], tmp_path: Path) -> None:
    callbacks, options, both, checkpoint = WAYS[way]
    first = Run(tmp_path / "first", *callbacks(tmp_path), **options, **both)
    path = tmp_path / checkpoint
    if checkpoint == PREEMPTED:
        path = tmp_path / "first" / "preempted.ckpt"
    if checkpoint == AFTER:
        assert first.ended is None
        first.trainer.save_checkpoint(path)
    second = Run(tmp_path / "second", resume=path, **both)
    loops = torch.load(path, weights_only=True)["loops"]
    used = loops["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"]
    check(wholes(**both), first, second, used)


def test_a_checkpoint_of_an_earlier_version(wholes: Callable[..., Run], tmp_path: Path) -> None:
    """Which knew the sums of the epoch only, of the first rank, and no metrics."""
    first = Run(tmp_path / "first", max_steps=10)
    saved = first.trainer._checkpoint_connector.dump_checkpoint()
    del saved["resumption"]
    (terms,) = saved["exact"]["epoch_terms"]
    waiting = terms["waiting"]
    sizes, names = [batch["size"] for batch in waiting], list(waiting[0]["terms"])
    sums = torch.tensor(sizes, dtype=torch.float32) @ torch.tensor([list(batch["terms"].values()) for batch in waiting])
    saved["exact"]["epoch_terms"] = {"names": names, "sums": sums.tolist(), "samples": sum(sizes)}
    torch.save(saved, tmp_path / "old.ckpt")
    second = Run(tmp_path / "second", resume=tmp_path / "old.ckpt")
    found, expected = second.state(), wholes().state()
    assert all(same(found[part], expected[part]) for part in expected)
    whole = wholes().logged()[2 * STEPS - 1]
    assert float(second.logged()[2 * STEPS - 1]["train/loss_epoch"]) == pytest.approx(float(whole["train/loss_epoch"]))


@pytest.mark.parametrize("stop_at", [{"max_steps": 10}, {"max_epochs": 2}], ids=str)
def test_plain_loaders_go_on_with_the_right_number_of_steps(
    stop_at: dict[str, int], digits: Tensor, fit: Any, tmp_path: Path
) -> None:
    """Their order cannot be taken up again, which is said; a run of max_steps=10 used to make 51 steps of 82."""
    first = fit(VAE((1, 8, 8), 4), digits[:1300], **{"max_epochs": 4} | stop_at)
    steps = first.global_step
    first.save_checkpoint(tmp_path / "a.ckpt")
    model = VAE((1, 8, 8), 4)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(digits[:1300]), batch_size=64)
    trainer = pl.Trainer(max_epochs=4, accelerator="cpu", logger=False, enable_progress_bar=False,
                         enable_checkpointing=False, enable_model_summary=False)  # fmt: skip
    batches: list[int] = []
    trainer.callbacks.append(pl.callbacks.LambdaCallback(on_train_batch_end=lambda t, m, o, b, i: batches.append(i)))
    with pytest.warns() as said:
        trainer.fit(model, loader, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert trainer.global_step == 4 * 21
    assert len(batches) == 4 * 21 - steps
    assert batches[0] == steps % 21
    assert sum("not resumable" in str(w.message) for w in said) == int("max_steps" in stop_at)


def test_ctrl_c_is_to_the_caller_what_it_is_in_lightning(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    run = Run(tmp_path, At("on_train_batch_start", 2, send(signal.SIGINT)))
    assert isinstance(run.ended, SystemExit)
    assert run.ended.code == 1
    assert isinstance(run.ended.__context__, KeyboardInterrupt)
    assert run.trainer.interrupted
    assert (tmp_path / "preempted.ckpt").is_file()
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_programs_own_answer_to_ctrl_c_stays(tmp_path: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        run = Run(tmp_path, At("on_train_batch_start", 2, send(signal.SIGINT)), max_epochs=1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT]
    assert run.ended is None
    assert run.trainer.global_step == STEPS


def test_a_checkpoint_in_the_middle_of_a_step_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="in the middle of a step.*batch statistics"):
        Run(tmp_path, At("on_before_optimizer_step", 2, fail), OnExceptionCheckpoint(tmp_path))
