"""The lean path through a step does what Lightning's own does: each behaviour on both loops.

Where one is taken from Lightning's own tests (tests/tests_pytorch), the case names the test.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.loops.optimization.automatic import Closure, _AutomaticOptimization
from pytorch_lightning.loops.optimization.manual import _ManualOptimization
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.profilers import SimpleProfiler
from torch import Tensor

from lightning_ae import VAE, HFDataModule, InputError
from lightning_ae.training import private
from lightning_ae.training.lean import HOOKS, LeanStep

BATCHES, EPOCHS = 5, 2


class Model(VAE):
    """A small model that notes its own hooks."""

    def __init__(self) -> None:
        super().__init__((1, 8, 8), 2)
        self.calls: list[Any] = []

    def on_after_backward(self) -> None:
        self.calls.append(("backward", sum(p.grad is not None for p in self.parameters())))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.calls.append(("step", len(optimizer.state)))


class Noted(pl.Callback):
    """Notes every hook that has to do with a batch, and what it could see."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def _note(self, name: str, trainer: pl.Trainer, module: pl.LightningModule, *args: Any) -> None:
        gradient = next(module.parameters()).grad
        batch = trainer.fit_loop.epoch_loop.batch_progress.current
        last = args[0] if args and isinstance(args[0], Tensor | dict | None) else len(args)
        self.seen.append(
            (
                name,
                str(last)[:200],
                trainer.global_step,
                copy.copy(vars(batch)),
                gradient is not None and gradient.sum(),
            )
        )


for hook in (*HOOKS, "on_train_epoch_start", "on_train_epoch_end", "on_validation_end"):
    setattr(Noted, hook, lambda self, *args, name=hook: self._note(name, *args))


class At(pl.Callback):
    """Does something in a hook of the third batch of the first epoch."""

    def __init__(self, act: Callable[[pl.Trainer, Any], Any], hook: str = "on_train_batch_start") -> None:
        self.act = act
        setattr(self, hook, self._hook)

    def _hook(self, trainer: pl.Trainer, module: Any, *args: Any) -> None:
        if trainer.current_epoch == 0 and trainer.fit_loop.epoch_loop.batch_idx == 2:
            self.act(trainer, module)


class Batches:
    """A loader of these; a list would be several loaders."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        return iter(self.batches)


# ---- models with something of their own --------------------------------------------------------------------------


class Skips(Model):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 3 else None


class WithoutIndex(Model):
    def training_step(self, batch: Any) -> Any:  # type: ignore[override]
        return super().training_step(batch, self.trainer.fit_loop.epoch_loop.batch_idx)


class Nothing(Model):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx == 1 else super().training_step(batch, batch_idx)


class Extras(Model):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": super().training_step(batch, batch_idx), "number": batch_idx}


class OwnBackward(Model):
    def backward(self, loss: Tensor, *args: Any) -> None:
        (2 * loss).backward()


class OwnStep(Model):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        assert isinstance(optimizer_closure, Closure)
        optimizer.step(closure=optimizer_closure)


class OwnZeroGrad(Model):
    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        if batch_idx % 2 == 0:
            optimizer.zero_grad()


class OwnClipping(Model):
    def configure_gradient_clipping(self, optimizer: Any, **options: Any) -> None:  # type: ignore[override]
        self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="norm")


class BeforeTransfer(Model):
    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [1 - batch[0]]


class AfterTransfer(Model):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [1 - batch[0]]


class Manual(Model):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        loss = super().training_step(batch, batch_idx)
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(loss, retain_graph=True)
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), 1e-3) for part in (self.encoder, self.decoder)]


class Fails(Model):
    def _terms(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        if batch_idx == 3:
            raise InputError("stop here")
        return super()._terms(batch, batch_idx)


class ByLoss(torch.optim.SGD):
    """Its step is as long as the closure's loss says."""

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p -= 1e-3 * loss / (1 + loss) * p.grad
        return loss


class Deaf(torch.optim.SGD):
    """Never calls its closure."""

    def step(self, closure: Any = None) -> Any:
        return None


def optimizer(make: Callable[..., Any], schedule: Any = None, **config: Any) -> type[Model]:
    class WithOptimizer(Model):
        def configure_optimizers(self) -> Any:
            found = make(self.parameters(), lr=1e-3)
            if schedule is None:
                return found
            return {"optimizer": found, "lr_scheduler": {"scheduler": schedule(found), **config}}

    return WithOptimizer


# ---- what is done to them in the middle of an epoch --------------------------------------------------------------


def hook_on_module(trainer: Any, module: Any) -> None:
    module.on_before_backward = lambda loss: module.calls.append(("loss", float(loss.detach())))


def patch_step(trainer: Any, module: Any) -> None:
    step = trainer.optimizers[0].step

    def patched(closure: Any = None) -> Any:
        module.calls.append("patched")
        return step(closure)

    trainer.optimizers[0].step = patched


def patch_wrapper(trainer: Any, module: Any) -> None:
    module.optimizers().step = lambda closure=None: closure()


def step_hooks(trainer: Any, module: Any) -> None:
    def before(optimizer: Any, args: Any, kwargs: Any) -> None:
        # loops that run the closure beforehand come too late for it: the gradient is still that of the step before
        gradient = optimizer.param_groups[0]["params"][0].grad
        module.calls.append(("pre", callable(kwargs["closure"]), gradient is None or float(gradient.sum())))

    trainer.optimizers[0].register_step_pre_hook(before)
    trainer.optimizers[0].register_step_post_hook(lambda *args: module.calls.append("post"))


def own_training_step(trainer: Any, module: Any) -> None:
    step = module.training_step
    module.training_step = lambda batch, batch_idx: 2 * step(batch, batch_idx)


def setting(name: str, value: Any) -> Callable[[Any, Any], None]:
    return lambda trainer, module: setattr(trainer, name, value)


ALL = BATCHES * EPOCHS


@dataclass(frozen=True)
class Behaviour:
    """A run, and how many of its steps must be Lightning's."""

    name: str
    model: Callable[[], Model] = Model
    options: dict[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[pl.Callback]] = list
    lightning: int = 0
    none: bool = False
    warns: str = ""
    error: str = ""


BEHAVIOURS = [
    Behaviour("plain"),
    Behaviour("clipped", options={"gradient_clip_val": 0.5}),
    Behaviour("clipped by value", options={"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}),
    Behaviour("bf16-mixed", options={"precision": "bf16-mixed"}),
    # plugins/precision/test_amp.py::test_optimizer_amp_scaling_support_in_step_method, which ours has no part in
    Behaviour("bf16-mixed, clipped", options={"precision": "bf16-mixed", "gradient_clip_val": 0.5}),
    Behaviour("64-true", options={"precision": "64-true"}),
    Behaviour("validated in the middle", options={"val_check_interval": 2}),
    Behaviour("max_steps", options={"max_steps": 7}),
    Behaviour("fast_dev_run", options={"fast_dev_run": 3}),
    # trainer/optimization/test_optimizers.py::test_optimizer_with_scheduling, test_reducelronplateau_scheduling
    Behaviour(
        "scheduled", optimizer(torch.optim.Adam, lambda o: torch.optim.lr_scheduler.StepLR(o, 2), interval="step")
    ),
    Behaviour("scheduled by epoch", optimizer(torch.optim.SGD, lambda o: torch.optim.lr_scheduler.StepLR(o, 1))),
    Behaviour(
        "scheduled by plateau",
        optimizer(torch.optim.SGD, torch.optim.lr_scheduler.ReduceLROnPlateau, interval="step", monitor="train/loss"),
    ),
    # loops/test_training_loop.py::test_on_train_batch_start_return_minus_one, test_should_stop_mid_epoch,
    # test_outputs_format
    Behaviour("an epoch cut short", Skips),
    Behaviour("should_stop", callbacks=lambda: [At(setting("should_stop", True))]),
    Behaviour("extras", Extras, lightning=ALL),
    # loops/test_training_epoch_loop.py::test_no_batch_idx_gradient_accumulation
    Behaviour("a step without an index", WithoutIndex, lightning=ALL),
    Behaviour("accumulated", options={"accumulate_grad_batches": 2}, lightning=ALL),
    Behaviour("a step that gives nothing", Nothing, lightning=ALL, warns="`training_step` returned `None`"),
    Behaviour("a batch of None", none=True, warns="train_dataloader yielded None"),
    # core/test_lightning_optimizer.py::test_lightning_optimizer_automatic_optimization_lbfgs_zero_grad,
    # ..._optimizer_zero_grad, ..._optimizer_step
    Behaviour("lbfgs", optimizer(lambda p, lr: torch.optim.LBFGS(p, lr, max_iter=3))),
    Behaviour("an optimizer that uses the loss", optimizer(ByLoss)),
    Behaviour("an optimizer that never asks", optimizer(Deaf), error="closure hasn't been executed"),
    Behaviour("optimizer_zero_grad", OwnZeroGrad, lightning=ALL),
    Behaviour("optimizer_step", OwnStep, lightning=ALL),
    Behaviour("backward", OwnBackward, lightning=ALL),
    Behaviour("configure_gradient_clipping", OwnClipping, lightning=ALL),
    Behaviour("on_before_batch_transfer", BeforeTransfer, lightning=ALL),
    Behaviour("on_after_batch_transfer", AfterTransfer),
    # trainer/optimization/test_manual_optimization.py::test_multiple_optimizers_step
    Behaviour("manual", Manual, lightning=ALL),
    Behaviour("step hooks", callbacks=lambda: [At(step_hooks)]),
    Behaviour("a hook set on the module", callbacks=lambda: [At(hook_on_module, "on_before_zero_grad")]),
    Behaviour("a callback added", callbacks=lambda: [At(lambda t, m: t.callbacks.append(Noted()))]),
    Behaviour("a callback that goes", callbacks=lambda: [At(lambda t, m: t.callbacks.pop(1), "on_train_batch_end")]),
    Behaviour("clipped later", callbacks=lambda: [At(setting("gradient_clip_val", 0.1), "on_after_backward")]),
    # callbacks/test_gradient_accumulation_scheduler.py: accumulation changes while it trains
    Behaviour("accumulated later", callbacks=lambda: [At(setting("accumulate_grad_batches", 2))], lightning=ALL - 2),
    Behaviour("profiled later", callbacks=lambda: [At(setting("profiler", SimpleProfiler()))], lightning=ALL - 2),
    Behaviour("optimizer patched", callbacks=lambda: [At(patch_step)]),
    Behaviour("its wrapper patched", callbacks=lambda: [At(patch_wrapper)], lightning=ALL - 2),
    Behaviour("training_step patched", callbacks=lambda: [At(own_training_step)], lightning=ALL - 2),
    Behaviour("an error", Fails, error="stop here"),
]


def run(
    case: Behaviour, folder: Path, lean: bool, monkeypatch: pytest.MonkeyPatch, digits: Tensor
) -> tuple[dict[str, Any], int]:
    """What can be seen of the run, and how many steps Lightning took."""
    taken = 0

    def counted(cls: Any) -> Any:
        original = cls.run

        def count(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal taken
            taken += 1
            return original(self, *args, **kwargs)

        return count

    Closure.warning_cache.clear()  # of the process
    pl.seed_everything(0, verbose=False)
    model, noted = case.model(), Noted()
    logger = pl.loggers.CSVLogger(folder, version="lean" if lean else "plain")
    options = {"max_epochs": EPOCHS, "log_every_n_steps": 1, "accelerator": "cpu", "logger": logger} | case.options
    options |= {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    batches: list[Any] = [[x] for x in digits[: 24 * BATCHES].split(24)]
    if case.none:
        batches[1] = None
    with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for cls in (_AutomaticOptimization, _ManualOptimization):
            patch.setattr(cls, "run", counted(cls))
        if not lean:
            patch.setattr("lightning_ae.training.module.use_lean_loop", lambda trainer: None)
        trainer = pl.Trainer(callbacks=[noted, *case.callbacks()], **options)
        error = ""
        try:
            trainer.fit(model, Batches(batches), Batches(batches[:1]))
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
    log = Path(logger.log_dir) / "metrics.csv"
    seen = {
        "weights": model.state_dict(),
        "optimizers": str([o.state_dict() for o in trainer.optimizers]),
        "seen": str(noted.seen),
        "calls": str(model.calls),
        "loops": str(trainer.fit_loop.state_dict()),
        "metrics": dict(trainer.callback_metrics),
        "log": log.read_text() if log.is_file() else "",
        "said": [str(warning.message) for warning in said],
        "error": error,
    }
    return seen, taken


@pytest.mark.parametrize("case", BEHAVIOURS, ids=lambda case: case.name)
def test_it_does_what_lightning_does(
    case: Behaviour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: Tensor
) -> None:
    (lean, taken), (plain, _) = (run(case, tmp_path, lean, monkeypatch, digits) for lean in (True, False))
    for name in ("weights", "metrics"):
        torch.testing.assert_close(lean.pop(name), plain.pop(name), rtol=0, atol=0)
    for name in plain:
        assert lean[name] == plain[name], name
    assert taken == case.lightning
    assert case.error in lean["error"]
    assert bool(case.error) == bool(lean["error"])
    assert not case.warns or any(case.warns in message for message in lean["said"])
    assert len(plain["seen"]) > 200


def test_with_a_data_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its batches are there already, and skip the transfer."""
    found = []
    for lean in (True, False):
        with monkeypatch.context() as patch:
            if not lean:
                patch.setattr("lightning_ae.training.module.use_lean_loop", lambda trainer: None)
            pl.seed_everything(0, verbose=False)
            model, noted = Model(), Noted()
            quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
            trainer = pl.Trainer(max_epochs=2, callbacks=[noted], accelerator="cpu", default_root_dir=tmp_path, **quiet)
            trainer.fit(model, HFDataModule("digits", batch_size=256))
        found.append((model.state_dict(), str(noted.seen)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=0)
    assert found[0][1] == found[1][1]


# ---- where it comes and goes --------------------------------------------------------------------------------------


class Watch(pl.Callback):
    """Notes what stands on the loop while it trains."""

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self.found = vars(trainer.fit_loop.epoch_loop).get("advance")


def test_it_leaves_the_trainer_as_it_was(fit: Any, digits: Tensor) -> None:
    watch = Watch()
    trainer = fit(Model(), digits[:128], callbacks=[watch], enable_checkpointing=False)
    assert isinstance(watch.found, LeanStep)
    assert type(trainer.fit_loop.epoch_loop) is _TrainingEpochLoop
    assert not vars(trainer.fit_loop.epoch_loop).keys() & {"advance", "_broadcast_sigterm_tensor"}


def test_it_never_acts_for_another_module(fit: Any, digits: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where an error or a `teardown` without super() left it on the trainer."""

    class Stays(Model):
        def teardown(self, stage: str) -> None:
            pass

    trainer = fit(Stays(), digits[:128], enable_checkpointing=False)
    assert isinstance(trainer.fit_loop.epoch_loop.advance, LeanStep)
    taken = []
    advance = _TrainingEpochLoop.advance
    monkeypatch.setattr(_TrainingEpochLoop, "advance", lambda *args: (taken.append(1), advance(*args)))
    trainer.fit_loop.max_epochs = 2
    trainer.fit(BoringModel())
    assert len(taken) == 64


def test_a_loop_of_ones_own_stays(fit: Any, digits: Tensor) -> None:
    class Own(_TrainingEpochLoop):
        pass

    class Swaps(Watch):
        def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
            trainer.fit_loop.epoch_loop.__class__ = Own

    swaps = Swaps()
    trainer = fit(Model(), digits[:128], callbacks=[swaps], enable_checkpointing=False)
    assert type(trainer.fit_loop.epoch_loop) is Own
    assert swaps.found is None


def test_the_profiler_shows_lightnings_names(fit: Any, digits: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    actions = []
    for lean in (True, False):
        if not lean:
            monkeypatch.setattr("lightning_ae.training.module.use_lean_loop", lambda trainer: None)
        profiler = SimpleProfiler()
        fit(Model(), digits[:128], profiler=profiler, enable_checkpointing=False)
        actions.append({name: len(times) for name, times in profiler.recorded_durations.items()})
    assert actions[0] == actions[1]
    assert actions[0]["[_TrainingEpochLoop].train_dataloader_next"] == 2


# ---- private names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["_logger_connector.gone", "fit_loop.epoch_loop.gone", "lightning_module.gone"])
def test_where_a_name_is_missing_lightnings_loop_runs(
    name: str, fit: Any, digits: Tensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(private, "LOOP", (*private.LOOP, name))
    watch, model = Watch(), Model()
    with caplog.at_level("INFO"):
        trainer = fit(model, digits[:128], callbacks=[watch], enable_checkpointing=False)
    assert watch.found is None
    assert trainer.global_step == 2
    (note,) = [message for message in caplog.messages if "Lightning's own loop runs" in message]
    assert name in note


@pytest.mark.parametrize("name", ["EpochLoop", "Fetcher", "Closure", "ClosureResult"])
def test_where_a_class_is_missing_lightnings_loop_runs(
    name: str, fit: Any, digits: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, name, None)
    watch = Watch()
    assert fit(Model(), digits[:128], callbacks=[watch], enable_checkpointing=False).global_step == 2
    assert watch.found is None


def test_a_class_that_went_is_none() -> None:
    assert private._found("fetchers", "_Gone") is None
    assert private._found("gone", "Closure") is None
