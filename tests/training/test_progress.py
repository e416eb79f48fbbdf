"""Progress bars draw seldom under our modules, show where a run came to, and are Lightning's again afterwards."""

from __future__ import annotations

import io
from typing import Any

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.profilers import PassThroughProfiler
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_ae import Autoencoder
from lightning_ae.cli.training import ProgressBar as CommandLinesBar
from lightning_ae.training import progress

SHAPE = (1, 8, 8)
BATCHES = 20
SELDOM = [1, 5, 9, 13, 17, 20]
"""The batches of .03 seconds that are drawn .1 seconds apart at least; and the last."""


class Rich(RichProgressBar):
    """Notes how many batches it is told of, which is what it draws."""

    def __init__(self, **options: Any) -> None:
        super().__init__(console_kwargs={"file": io.StringIO()}, **options)
        self.drawn: list[int] = []

    def _update(self, task: Any, current: int, *args: Any, **options: Any) -> None:
        self.drawn.append(current)
        super()._update(task, current, *args, **options)


class OfCommandLine(CommandLinesBar, Rich):
    """That of the command line."""


class Tqdm(TQDMProgressBar):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.drawn: list[int] = []

    def _should_update(self, current: int, total: int) -> bool:
        self.drawn.append(current)
        return super()._should_update(current, total)


class Clock(pl.Callback):
    """By which a batch takes .03 seconds; notes where the bar is when a callback that comes after it is called."""

    def __init__(self) -> None:
        self.now = 100.0
        self.shown: list[tuple[str, int]] = []

    def monotonic(self) -> float:
        return self.now

    def _batch(self, *args: Any) -> None:
        self.now += 0.03

    def _show(self, name: str, trainer: Any) -> None:
        self.shown.append((name, (trainer.progress_bar_callback.drawn or [0])[-1]))

    on_train_batch_end = on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _batch

    def on_validation_start(self, trainer: Any, *args: Any) -> None:
        self._show("training paused", trainer)

    def on_validation_epoch_end(self, trainer: Any, *args: Any) -> None:
        self._show("validation", trainer)

    def on_train_epoch_end(self, trainer: Any, *args: Any) -> None:
        self._show("training", trainer)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture
def loader(digits: Tensor) -> Any:
    return DataLoader(digits[: 4 * BATCHES], 4)  # type: ignore[arg-type]


def trainer(bar: ProgressBar, clock: Clock, **options: Any) -> pl.Trainer:
    options = {"max_epochs": 1, "num_sanity_val_steps": 0} | options
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
        callbacks=[bar, clock], **options,
    )  # fmt: skip


def is_lightnings(bar: ProgressBar) -> bool:
    return not any(name.startswith("on_") for name in vars(bar))


class Profiler(PassThroughProfiler):
    """One of one's own, under which Lightning's loop runs."""


class Boring(BoringModel):
    """A module of another package, with eight batches."""

    def train_dataloader(self) -> Any:
        return DataLoader(super().train_dataloader().dataset, batch_size=8)

    val_dataloader = None  # type: ignore[assignment]


@pytest.mark.parametrize("profiler", [None, Profiler()], ids=["lean", "lightning"])
@pytest.mark.parametrize("make", [Rich, Tqdm, OfCommandLine])
def test_a_bar_draws_ten_times_a_second_at_most_and_to_the_end(
    make: Any, profiler: Any, loader: Any, clock: Clock
) -> None:
    bar = make()
    run = trainer(bar, clock, profiler=profiler)
    model = Autoencoder(SHAPE, 2)
    for action in (run.fit, run.validate, run.test, run.predict):
        clock.now += 1
        bar.drawn.clear()
        action(model, loader)
        assert bar.drawn == SELDOM


@pytest.mark.parametrize("make", [Rich, Tqdm])
def test_a_bar_shows_where_training_paused_and_where_it_stopped(make: Any, loader: Any, clock: Clock) -> None:
    run = trainer(bar := make(), clock, max_epochs=-1, max_steps=15, val_check_interval=7, limit_val_batches=3)
    run.fit(Autoencoder(SHAPE, 2), loader, loader)
    pause = "training paused"
    assert clock.shown == [(pause, 7), ("validation", 3), (pause, 14), ("validation", 3), ("training", 15)]
    assert len(bar.drawn) < 15


@pytest.mark.parametrize("make", [Rich, Tqdm, OfCommandLine])
@pytest.mark.parametrize("fails", [False, True], ids=["ends", "fails"])
def test_a_bar_is_lightnings_again_afterwards(make: Any, fails: bool, loader: Any, clock: Clock) -> None:
    class Model(Autoencoder):
        def on_after_backward(self) -> None:
            assert not is_lightnings(bar)
            if fails and self.global_step == 7:
                raise KeyError("on purpose")

    bar = make()
    run = trainer(bar, clock)
    if fails:
        with pytest.raises(KeyError, match="on purpose"):
            run.fit(Model(SHAPE, 2), loader)
    else:
        run.fit(Model(SHAPE, 2), loader)
    assert is_lightnings(bar)
    bar.drawn.clear()
    clock.now += 1
    trainer(bar, clock).fit(Boring())
    assert bar.drawn == ([1, 5, 8] if make is OfCommandLine else list(range(1, 9)))
    assert is_lightnings(bar)


@pytest.mark.parametrize("base", [RichProgressBar, TQDMProgressBar])
def test_a_hook_of_ones_own_hears_of_every_batch(base: Any, loader: Any, clock: Clock) -> None:
    heard: list[int] = []

    class Mine(base):  # type: ignore[misc]
        def on_train_batch_end(self, trainer: Any, module: Any, output: Any, batch: Any, batch_idx: int) -> None:
            assert len(batch) == 4
            heard.append(batch_idx)
            super().on_train_batch_end(trainer, module, output, batch, batch_idx)

    patched = base()
    patched.on_train_batch_end = lambda *args: heard.append(args[-1])
    clock.on_train_epoch_end = lambda *args: None  # type: ignore[method-assign]
    for bar in (Mine(), patched):
        heard.clear()
        trainer(bar, clock).fit(Autoencoder(SHAPE, 2), loader)
        assert heard == list(range(BATCHES))
    assert "on_train_batch_end" in vars(patched)


def test_a_rate_in_batches_stays(loader: Any, clock: Clock) -> None:
    bar = Tqdm(refresh_rate=2)  # which draws every second one of those that it hears of
    trainer(bar, clock).fit(Autoencoder(SHAPE, 2), loader)
    assert bar.drawn == list(range(1, BATCHES + 1))
