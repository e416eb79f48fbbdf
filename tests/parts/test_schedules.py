"""Schedules of the learning rate and of weights: their formulas, and what an optimizer sees at each step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_ae import VAE, Autoencoder, HFDataModule, InputError
from lightning_ae.architectures import MLP
from lightning_ae.cli import main
from lightning_ae.cli.training import TrainingCLI
from lightning_ae.parts import CosineDecay, LinearDecay, Schedule, Warmup
from lightning_ae.training import processes

SMALL = MLP(hidden=(8,))
LR = 0.01


# ---- formulas -------------------------------------------------------------------------------------------------------


def test_warm_up() -> None:
    schedule = Warmup(4)
    assert [schedule(step, 0.0) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert not schedule.needs_total


@pytest.mark.parametrize("last", [0.0, 0.1])
def test_cosine(last: float) -> None:
    schedule = CosineDecay(warmup=5, last=last)
    for step in range(25):
        after = max(0, step - 5) / 20
        rise = min(1.0, (step + 1) / 5)
        assert schedule(step, 25.0) == pytest.approx(rise * (last + (1 - last) * (1 + math.cos(math.pi * after)) / 2))
    assert schedule(25, 25.0) == schedule(99, 25.0) == pytest.approx(last)


def test_cosine_is_torchs() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=0.2)
    for step in range(40):
        assert CosineDecay(last=0.2)(step, 40.0) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def test_linear() -> None:
    schedule = LinearDecay(warmup=2, last=0.5, decay=0.25)
    expected = [0.5, *[1.0] * 15, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.5]
    # twenty steps, of which the last five fall
    assert [schedule(step, 20.0) for step in range(22)] == pytest.approx([*expected[:15], *expected[16:]])
    assert LinearDecay()(5, 20.0) == 0.75


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Warmup(0), "steps of Warmup"),
        (lambda: Warmup(2.5), "steps of Warmup"),  # type: ignore[arg-type]
        (lambda: CosineDecay(warmup=-1), "warmup of CosineDecay"),
        (lambda: CosineDecay(last=1.5), "last of CosineDecay"),
        (lambda: LinearDecay(decay=0.0), "decay of LinearDecay"),
        (lambda: Autoencoder((4,), lr_schedule="Cosine"), "lr_schedule"),  # type: ignore[arg-type]
        (lambda: VAE((4,), beta_schedule={"class_path": "Warmupp"}), "Warmup"),  # type: ignore[arg-type]
    ],
)
def test_bad_arguments_are_named(make: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        make()


# ---- what the optimizer sees ----------------------------------------------------------------------------------------


class Grouped(Autoencoder):
    """The decoder learns ten times slower, without decay."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [
            {"params": [*self.encoder.parameters(), *self.head.parameters()]},
            {"params": list(self.decoder.parameters()), "lr": 0.1 * self.lr, "weight_decay": 0.0},
        ]


class Rates(pl.Callback):
    """The learning rates of all groups at each step of the optimizer."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self.seen.append([group["lr"] for group in optimizer.param_groups])


def fitted(
    folder: Path, model: Any, *, ckpt_path: Path | None = None, **options: Any
) -> tuple[list[list[float]], Tensor, pl.Trainer]:
    """The rates seen, the weights at the end, and the trainer."""
    pl.seed_everything(3, verbose=False)
    rates = Rates()
    trainer = pl.Trainer(**{
        "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
        "enable_checkpointing": False, "limit_val_batches": 0, "max_epochs": 2, "default_root_dir": folder,
        "callbacks": [rates], **options,
    })  # fmt: skip
    trainer.fit(model, HFDataModule("digits", batch_size=64), ckpt_path=ckpt_path)
    return rates.seen, torch.cat([p.detach().flatten() for p in model.parameters()]), trainer


def grouped(schedule: Schedule, **options: Any) -> Grouped:
    torch.manual_seed(0)
    return Grouped((1, 8, 8), 4, architecture=SMALL, lr=LR, weight_decay=0.5, lr_schedule=schedule, **options)


def test_each_groups_rate_is_multiplied_on_both_loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = CosineDecay(warmup=10)
    lean, weights, trainer = fitted(tmp_path, grouped(schedule))
    total = trainer.global_step
    assert total == len(lean)
    expected = [[LR * schedule(step, total), 0.1 * LR * schedule(step, total)] for step in range(total)]
    torch.testing.assert_close(torch.tensor(lean), torch.tensor(expected))
    assert [group["weight_decay"] for group in trainer.optimizers[0].param_groups] == [0.5, 0.0]
    monkeypatch.setattr("lightning_ae.training.module.use_lean_loop", lambda trainer: None)
    plain, others, _ = fitted(tmp_path, grouped(schedule))
    assert plain == lean
    assert torch.equal(weights, others)


def test_steps_are_the_optimizers_where_gradients_accumulate(tmp_path: Path) -> None:
    schedule = LinearDecay(warmup=3, decay=0.5)
    seen, _, trainer = fitted(tmp_path, grouped(schedule), accumulate_grad_batches=4)
    assert len(seen) == trainer.global_step < trainer.num_training_batches
    expected = [LR * schedule(step, trainer.global_step) for step in range(len(seen))]
    assert [rate for rate, _ in seen] == pytest.approx(expected)


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}], ids=str)
def test_resumed_in_the_middle_it_goes_on(tmp_path: Path, options: dict[str, Any]) -> None:
    rates = Rates()

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            if trainer.global_step == 7 and not (tmp_path / "m.ckpt").exists():
                trainer.save_checkpoint(tmp_path / "m.ckpt")

    _, weights, _ = fitted(tmp_path, grouped(CosineDecay(warmup=5)), callbacks=[rates, Save()], **options)
    rest, resumed, _ = fitted(tmp_path, grouped(CosineDecay(warmup=5)), ckpt_path=tmp_path / "m.ckpt", **options)
    assert len(rest) > 7
    assert rest == rates.seen[7:]
    assert torch.equal(weights, resumed)


@pytest.mark.slow
def test_two_ranks_see_the_rates_of_one(tmp_path: Path) -> None:
    """The total is that of the whole batches, whatever the number of ranks."""
    alone, weights, _ = fitted(tmp_path, grouped(CosineDecay(warmup=10)))
    processes.run(_rank, (str(tmp_path),), 2)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert found["seen"] == alone
    torch.testing.assert_close(found["weights"], weights, rtol=1e-3, atol=1e-4)


def _rank(rank: int, folder: str) -> None:
    import os

    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29571", "GROUP_RANK": "0"})
    os.environ["TORCHELASTIC_RUN_ID"] = "schedules"
    torch.set_num_threads(1)
    seen, weights, _ = fitted(Path(folder), grouped(CosineDecay(warmup=10)), devices=2, strategy="ddp")
    if rank == 0:
        torch.save({"seen": seen, "weights": weights}, Path(folder) / "found.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_who_knows_no_end_is_asked_for_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="set the trainer's max_epochs or max_steps, or use a schedule"):
        fitted(tmp_path, grouped(CosineDecay()), max_epochs=-1, max_time="00:00:00:30")
    seen, _, _ = fitted(tmp_path, grouped(Warmup(5)), max_epochs=-1, max_time="00:00:00:01", limit_train_batches=3)
    assert [rate for rate, _ in seen[:6]] == pytest.approx([LR * n / 5 for n in (1, 2, 3, 4, 5, 5)])


# ---- recipes --------------------------------------------------------------------------------------------------------

RECIPE = """
model:
  class_path: VAE
  init_args:
    input_shape: [1, 8, 8]
    lr: 0.01
    lr_schedule: {class_path: CosineDecay, init_args: {warmup: 10}}
data: {class_path: HFDataModule, init_args: {path: digits}}
trainer: {max_epochs: 1, accelerator: cpu, logger: false, enable_progress_bar: false}
"""


def test_of_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(RECIPE)
    cli = TrainingCLI("fit", ["-c", "recipe.yaml"])
    assert cli.model.lr_schedule == CosineDecay(warmup=10)
    assert VAE(**cli.model.init_args).lr_schedule == CosineDecay(warmup=10)
    rates = Rates()
    cli.trainer.callbacks.append(rates)
    cli.trainer.fit(cli.model, cli.datamodule)
    total = cli.trainer.global_step
    assert rates.seen == [[pytest.approx(0.01 * CosineDecay(warmup=10)(step, total))] for step in range(total)]


def test_a_scheduler_of_the_command_line_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(RECIPE.replace("logger: false, ", ""))
    words = ["--optimizer", "SGD", "--optimizer.lr", "0.0002", "--lr_scheduler", "StepLR"]
    main(["fit", "-c", "recipe.yaml", *words, "--lr_scheduler.step_size", "1", "--run_dir", "r"])
    (path,) = Path("r/checkpoints").glob("*.ckpt")
    saved = torch.load(path, weights_only=True)
    assert [group["initial_lr"] for group in saved["optimizer_states"][0]["param_groups"]] == [0.0002]
    assert "step_size" in saved["lr_schedulers"][0]


# ---- the weight of a term -------------------------------------------------------------------------------------------


def test_beta_follows_its_schedule(tmp_path: Path) -> None:
    """Read off the logged terms: the loss is the reconstruction and beta times the divergence."""
    found: list[float] = []

    class Weights(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            terms = {
                name: float(trainer.callback_metrics[f"train/{name}"]) for name in ("loss", "reconstruction", "kl")
            }
            found.append((terms["loss"] - terms["reconstruction"]) / terms["kl"])

    model = VAE((1, 8, 8), 4, architecture=SMALL, beta=3.0, beta_schedule=Warmup(20)).double()
    fitted(tmp_path, model, callbacks=[Weights()], log_every_n_steps=1, max_epochs=1, precision="64-true")
    expected = [3.0 * min(1.0, (step + 1) / 20) for step in range(len(found))]
    assert found == pytest.approx(expected, rel=1e-4)
    x = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    terms = model.eval().loss(x, x)
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + 3.0 * terms["kl"])


def test_a_schedule_is_plain_data() -> None:
    model = VAE((4,), lr_schedule=LinearDecay(decay=0.5), beta_schedule=Warmup(3))
    assert model.hparams["beta_schedule"] == {"class_path": "lightning_ae.parts.Warmup", "init_args": {"steps": 3}}
    again = VAE(**model.init_args)
    assert (again.lr_schedule, again.beta_schedule) == (LinearDecay(decay=0.5), Warmup(3))
