"""Progress bars that draw ten times a second at most: drawn every step, they take a tenth of a small network's time."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar, TQDMProgressBar

SECONDS = 0.1
STAGES = ("train", "validation", "test", "predict")
THEN = ("on_validation_start", *(f"on_{stage}_epoch_end" for stage in STAGES))
"""Where what was not drawn is, before the bar goes on."""


def draw_seldom(trainer: pl.Trainer) -> None:
    """Makes the trainer's bar draw seldom, where its hooks are Lightning's own.

    A hook that a subclass has of its own stays as it is, and so does a tqdm bar of which is said how many batches it
    waits for.
    """
    draw_always(trainer)
    bar: Any = trainer.progress_bar_callback
    base = next((base for base in (RichProgressBar, TQDMProgressBar) if isinstance(bar, base)), None)
    if base is None or (base is TQDMProgressBar and bar.refresh_rate != 1):
        return
    state = _State()
    for name in (f"on_{stage}_batch_end" for stage in STAGES):
        if getattr(getattr(bar, name), "__func__", None) is getattr(base, name):
            setattr(bar, name, _Seldom(state, getattr(bar, name)))
    for name in THEN:
        setattr(bar, name, _Then(state, getattr(bar, name)))
    bar.on_exception = _Last(state, bar.on_exception)


def draw_always(trainer: pl.Trainer) -> None:
    """Leaves the trainer's bar as Lightning has it."""
    own = {} if trainer.progress_bar_callback is None else vars(trainer.progress_bar_callback)
    for name in [name for name, hook in own.items() if isinstance(hook, _Hook)]:
        del own[name]


class _State:
    due = 0.0
    held: Callable[[], Any] | None = None


class _Hook:
    """What stands on a bar in the place of its hook."""

    def __init__(self, state: _State, hook: Callable[..., Any]) -> None:
        self.state, self.hook = state, hook


class _Seldom(_Hook):
    def __call__(self, trainer: pl.Trainer, module: pl.LightningModule, output: Any, batch: Any, *where: int) -> None:
        state = self.state
        if time.monotonic() < state.due:
            # without output and batch, at which these bars do not look, and whose memory the next step needs
            state.held = partial(self.hook, trainer, module, None, None, *where)
            return
        state.held = None
        self.hook(trainer, module, output, batch, *where)
        state.due = time.monotonic() + SECONDS


class _Then(_Hook):
    def __call__(self, *args: Any) -> None:
        held, self.state.held = self.state.held, None
        if held is not None:
            held()
        self.hook(*args)


class _Last(_Hook):
    def __call__(self, trainer: pl.Trainer, *args: Any) -> None:
        draw_always(trainer)  # after an exception Lightning tears no module down
        self.hook(trainer, *args)
