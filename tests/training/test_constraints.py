"""Constraints on weights: called where an optimizer stepped, and before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_ae import VAE, Autoencoder, HFDataModule, load_model
from lightning_ae.training.certify import Case, certify
from lightning_ae.training.constraints import Constraints

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip


class UnitRows(Autoencoder):
    """The rows of its last layer have unit norm."""

    def __init__(self, input_shape: Any, latent_dim: int = 4) -> None:
        super().__init__(input_shape, latent_dim, lr=1e-2)
        self.called: list[int] = []

    def constrain(self) -> None:
        self.called.append(self.global_step)
        weight = self.decoder.linears[-1].weight  # type: ignore[union-attr,index]
        norms = weight.square().sum(dim=1, keepdim=True).sqrt()  # type: ignore[operator]
        weight.div_(torch.where((norms - 1).abs() > 1e-4, norms, 1.0))  # type: ignore[operator]


class ByHand(UnitRows):
    """Two steps for each batch."""

    def __init__(self, input_shape: Any) -> None:
        super().__init__(input_shape)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for number, optimizer in enumerate(self.optimizers()):
            terms = self.step_terms(batch, batch_idx)
            if number == 0:
                self.log_terms(terms, batch, batch_idx)
            optimizer.zero_grad()
            self.manual_backward(terms["loss"] * self.share(batch))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.SGD(self.encoder.parameters(), 1e-2),
            torch.optim.SGD(self.decoder.parameters(), 1e-2),
        ]


class Loose(UnitRows):
    """A negative control: with no constraint but on the first rank."""

    def constrain(self) -> None:
        if self.global_rank == 0:
            super().constrain()


def callbacks(trainer: pl.Trainer) -> list[str]:
    return [type(callback).__name__ for callback in trainer.callbacks]  # type: ignore[attr-defined]


def norms(model: Any) -> Tensor:
    return model.decoder.linears[-1].weight.detach().norm(dim=1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("accumulated", [1, 3])
def test_once_for_each_step_and_before_the_first(accumulated: int, fit: Any) -> None:
    model = UnitRows((6,))
    seen: list[Tensor] = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            seen.append(norms(pl_module))

    trainer = fit(model, torch.rand(64 * 7, 6), max_epochs=2, accumulate_grad_batches=accumulated, callbacks=[Watch()])
    # 7 batches an epoch: 7 steps, or 3, since the last batch of an epoch is stepped on
    assert trainer.global_step == (14 if accumulated == 1 else 6)
    assert len(model.called) == 1 + trainer.global_step
    for value in [*seen, norms(model)]:
        torch.testing.assert_close(value, torch.ones(6), rtol=0, atol=1e-4)


def test_with_optimizers_of_ones_own(fit: Any) -> None:
    model = ByHand((6,))
    trainer = fit(model, torch.rand(64 * 3, 6))
    assert trainer.global_step == 6
    assert len(model.called) == 1 + 6
    torch.testing.assert_close(norms(model), torch.ones(6), rtol=0, atol=1e-4)


def test_nothing_stays_on_an_optimizer(fit: Any) -> None:
    model = UnitRows((6,))
    trainer = fit(model, torch.rand(64, 6))
    (optimizer,) = trainer.optimizers
    called = len(model.called)
    optimizer.step()
    assert len(model.called) == called

    class Stops(pl.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise ValueError("stopped")

    model = UnitRows((6,))
    trainer = pl.Trainer(max_epochs=1, callbacks=[Stops()], enable_checkpointing=False, **QUIET)
    with pytest.raises(ValueError, match="stopped"):
        trainer.fit(model, DataLoader(TensorDataset(torch.rand(64, 6)), batch_size=16))
    called = len(model.called)
    trainer.optimizers[0].step()
    assert len(model.called) == called


def test_a_class_without_constraints_has_no_callback(fit: Any) -> None:
    x = torch.rand(64, 6)
    for model in (Autoencoder((6,), 3), VAE((6,), 3)):
        assert "Constraints" not in callbacks(fit(model, x))
    assert "Constraints" in callbacks(fit(UnitRows((6,)), x))


def test_a_trainer_goes_on_with_a_model_that_knows_none() -> None:
    class Plain(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(6, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.layer(batch[0]).square().mean()  # type: ignore[no-any-return]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 1e-2)

    loader = DataLoader(TensorDataset(torch.rand(64, 6)), batch_size=16)
    trainer = pl.Trainer(max_epochs=1, enable_checkpointing=False, **QUIET)
    trainer.fit(UnitRows((6,)), loader)
    assert any(isinstance(callback, Constraints) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    trainer.fit_loop.max_epochs = 2
    trainer.fit(Plain(), loader)
    assert trainer.global_step == 8


@pytest.mark.parametrize("stop", [2, 9])
def test_resuming_is_bit_for_bit(stop: int, tmp_path: Path) -> None:
    """A stop inside an epoch and one in the next; a second normalisation would change most rows."""

    def run(steps: int, resume: Path | None = None) -> dict[str, Tensor]:
        pl.seed_everything(0, verbose=False)
        model = UnitRows((1, 8, 8))
        trainer = pl.Trainer(max_steps=steps, enable_checkpointing=False, **QUIET)
        trainer.fit(model, HFDataModule("digits", batch_size=256), ckpt_path=resume, weights_only=True)
        trainer.save_checkpoint(tmp_path / "part.ckpt")
        return {name: value.clone() for name, value in model.state_dict().items()}

    whole = run(14)
    run(stop)
    before = load_model(tmp_path / "part.ckpt").state_dict()
    resumed = run(14, tmp_path / "part.ckpt")
    assert not torch.equal(before["decoder.linears.1.weight"], whole["decoder.linears.1.weight"])
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name


@pytest.mark.slow
def test_on_two_ranks() -> None:
    cases = [Case(f"test_constraints.{name}", title=name) for name in ("UnitRows", "ByHand", "Loose")]
    accumulated = Case("test_constraints.UnitRows", {}, {"accumulate_grad_batches": 3}, title="accumulated")
    for found in certify([*cases, accumulated], worlds=(2,)):
        assert found.passed == (found.title != "Loose"), found


@pytest.mark.slow
def test_sharded() -> None:
    for found in certify([Case("test_constraints.UnitRows")], worlds=(2, 3), strategy="fsdp"):
        assert found.passed, found
