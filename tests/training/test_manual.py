"""Optimizers that alternate: logged, distributed and stopped as any other training."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_ae import Autoencoder, InputError
from lightning_ae.training.certify import Case, certify
from lightning_ae.training.epoch_terms import EpochTerms


class Alternating(Autoencoder):
    """An adversarial autoencoder (Makhzani et al. 2015) whose critic follows the encoder within a step."""

    def __init__(self, input_shape: Any) -> None:
        super().__init__(input_shape, 4)
        self.automatic_optimization = False
        self.critic = nn.Linear(4, 1)

    def loss(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        z = self.encode(x)
        reconstruction = self.reconstruction_loss(z, target)
        return {"loss": reconstruction + F.softplus(-self.critic(z)).mean(), "reconstruction": reconstruction}

    def critic_loss(self, x: Tensor) -> Tensor:
        z = self.encode(x).detach()
        prior = self.noise("prior").randn_like(z)
        return F.softplus(self.critic(z)).mean() + F.softplus(-self.critic(prior)).mean()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        generator, critic = self.optimizers()
        terms, share = self.step_terms(batch, batch_idx), self.share(batch)
        self.descend(terms["loss"] * share, generator)
        with self.at_step("train", batch_idx, batch):
            terms["critic"] = self.critic_loss(self.unpack(batch)[0])
        self.log_terms(terms, batch, batch_idx)
        self.descend(terms["critic"] * share, critic)

    def descend(self, loss: Tensor, optimizer: Any) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def configure_optimizers(self) -> Any:
        networks = [*self.encoder.parameters(), *self.decoder.parameters()]
        return [torch.optim.SGD(networks, 1e-3), torch.optim.SGD(self.critic.parameters(), 1e-2)]


class Documented(Alternating):
    """The step in ExactModule's docstring: it logs before any optimizer steps."""

    def loss(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        return super().loss(x, target) | {"critic": self.critic_loss(x)}

    def training_step(self, batch: Any, batch_idx: int) -> None:
        terms = self.step_terms(batch, batch_idx)
        self.log_terms(terms, batch, batch_idx)
        for name, optimizer in zip(("loss", "critic"), self.optimizers(), strict=True):
            optimizer.zero_grad()
            self.manual_backward(terms[name] * self.share(batch))
            optimizer.step()


class ByRank(Alternating):
    """A negative control: as if all ranks had equal shares."""

    def share(self, batch: Any) -> float:
        return 1.0


class Logged(pl.loggers.logger.DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # type: ignore[override]
        assert step is not None
        self.rows.append((step, metrics))


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("cls", [Alternating, Documented, Autoencoder])
def test_steps_are_logged_at_the_same_intervals(cls: Any, every: int, fit: Any, digits: Tensor) -> None:
    logger = Logged()
    trainer = fit(cls((1, 8, 8)), digits[: 7 * 64], max_epochs=2, logger=logger, log_every_n_steps=every)
    steps = [step for step, metrics in logger.rows if "train/loss" in metrics]
    assert steps == [step for step in range(14) if (step + 1) % every == 0]
    assert trainer.global_step == (14 if cls is Autoencoder else 28)  # Lightning counts optimizers' steps


def test_epoch_means_are_those_of_the_steps(fit: Any, digits: Tensor) -> None:
    logger = Logged()
    fit(Alternating((1, 8, 8)), digits[: 3 * 64 + 32], logger=logger, log_every_n_steps=1)
    sizes = torch.tensor([64.0, 64.0, 64.0, 32.0])
    for name in ("loss", "reconstruction", "critic"):
        steps = torch.tensor([metrics[f"train/{name}"] for _, metrics in logger.rows if f"train/{name}" in metrics])
        (mean,) = (metrics[f"train/{name}_epoch"] for _, metrics in logger.rows if f"train/{name}_epoch" in metrics)
        assert mean == pytest.approx(float(steps @ sizes / sizes.sum()), rel=1e-6)


def test_terms_that_some_batches_leave_out() -> None:
    epoch = EpochTerms()
    rows: list[dict[str, float]] = [{"loss": 1.0, "a": 2.0}, {"loss": 2.0}, {"loss": 6.0, "a": 5.0}, {"loss": 4.0}]
    for batch_idx, (row, size) in enumerate(zip(rows, (1, 2, 3, 4), strict=True)):
        epoch.add({name: torch.tensor(value) for name, value in row.items()}, batch_idx, size)
    again = EpochTerms()
    again.restore(epoch.state(4))
    for found in (epoch, again):
        assert {k: float(v) for k, v in found.means().items()} == pytest.approx({"loss": 3.9, "a": 4.25})
    assert epoch.broken() is None
    for batch_idx, value in ((4, 1.0), (5, float("nan")), (6, float("inf"))):
        epoch.add({"loss": torch.tensor(value)} | ({"a": torch.tensor(0.0)} if batch_idx == 6 else {}), batch_idx, 1)
    assert epoch.broken() == (5, {"loss": pytest.approx(float("nan"), nan_ok=True)})


def test_means_of_an_earlier_versions_checkpoint() -> None:
    epoch = EpochTerms()
    epoch.restore({"names": ["loss", "a"], "sums": [6.0, 3.0], "samples": 3})
    assert {k: float(v) for k, v in epoch.means().items()} == {"loss": 2.0, "a": 1.0}
    epoch.restore({"names": [], "sums": None, "samples": 0})
    assert epoch.means() == {}


def test_a_batch_at_hand_counts_later() -> None:
    epoch, again = EpochTerms(), EpochTerms()
    for batch_idx, names in enumerate(["loss", "loss a", "loss", "loss b", "loss"]):
        epoch.add({name: torch.tensor(float(batch_idx)) for name in names.split()}, batch_idx, 1)
    again.restore(epoch.state(3))
    assert {k: float(v) for k, v in again.means().items()} == {"loss": 1.0, "a": 1.0}


def test_a_loss_that_is_not_finite_stops_it(fit: Any, digits: Tensor) -> None:
    class Diverges(Alternating):
        def loss(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
            terms = super().loss(x, target)
            return terms | {"loss": terms["loss"] / (0.0 if self.trainer.fit_loop.batch_idx == 2 else 1.0)}

    with pytest.raises(InputError, match="not finite at train batch 2 of epoch 0"):
        fit(Diverges((1, 8, 8)), digits[:256], enable_checkpointing=False)


def test_terms_without_a_loss_are_refused(fit: Any, digits: Tensor) -> None:
    class Nameless(Alternating):
        def log_terms(self, terms: Any, batch: Any, batch_idx: int) -> None:
            super().log_terms({"critic": terms["critic"]}, batch, batch_idx)

    with pytest.raises(InputError, match="'loss' among them, got critic"):
        fit(Nameless((1, 8, 8)), digits[:64], enable_checkpointing=False)


def test_sigterm_is_answered(fit: Any, digits: Tensor, tmp_path: Path) -> None:
    class Asks(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SIGTERMException):
        fit(Alternating((1, 8, 8)), digits[:256], callbacks=[Asks()])
    (saved,) = tmp_path.rglob("preempted.ckpt")
    assert torch.load(saved, weights_only=True)["global_step"] == 4  # of two optimizers, after two batches


def test_any_number_of_ranks() -> None:
    """47 samples in batches of 12, the last of 11, which two ranks share unevenly."""
    names = ("Alternating", "Documented", "ByRank")
    *held, refused = certify([Case(f"test_manual.{name}") for name in names], worlds=[2])
    assert all(found.passed for found in held), held
    assert not refused.passed
    assert refused.errors["weights"] > 1e-5


@pytest.fixture
def own_processes() -> Iterator[None]:
    """Ends the process group of a strategy that ran here, and takes back what it told the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", os.environ.copy())
        yield
    torch.distributed.destroy_process_group()


def test_unused_parameters_are_looked_for(
    own_processes: None, fit: Any, digits: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    """Under DDP, said once; taken back at the end; what the user says stays."""
    options: list[Any] = []

    class Looks(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            options.append(dict(trainer.strategy._ddp_kwargs))

    for cls, given, seen in (
        (Alternating, {}, True),
        (Alternating, {"find_unused_parameters": True}, True),
        (Autoencoder, {}, None),
    ):
        caplog.clear()
        strategy = DDPStrategy(**given)
        with caplog.at_level("INFO"):
            single = {"devices": 1, "strategy": strategy, "callbacks": [Looks()], "enable_checkpointing": False}
            fit(cls((1, 8, 8)), digits[:64], **single)
        assert options.pop().get("find_unused_parameters") is seen
        assert strategy._ddp_kwargs == given
        said = [message for message in caplog.messages if "manual optimization" in message]
        assert len(said) == (cls is Alternating and not given)
