"""What every variant of the registry must do. A new variant gets all of this by being registered."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_ae import Autoencoder, get_model, list_models, load_model
from lightning_ae.autoencoder import Autoencoder as Base

SHAPES = [(1, 28, 28), (3, 9, 7), (64,)]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]


@pytest.fixture(params=list_models())
def variant(request: pytest.FixtureRequest) -> type[Autoencoder]:
    return get_model(request.param)


def build(variant: type[Autoencoder], shape: tuple[int, ...] = (1, 8, 8), **options: Any) -> Autoencoder:
    torch.manual_seed(0)
    return variant(input_shape=shape, **{"latent_dim": 16, **options})


def batch_of(shape: tuple[int, ...], n: int = 12) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(variant: type[Autoencoder], shape: tuple[int, ...]) -> None:
    model, x = build(variant, shape).eval(), batch_of(shape)
    code = model.encode(x)
    assert code.shape == (12, 16)
    assert model.decode(code).shape == x.shape
    assert model(x).shape == x.shape


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_loss_is_finite_and_reaches_all_parameters(variant: type[Autoencoder], shape: tuple[int, ...]) -> None:
    model, x = build(variant, shape), batch_of(shape)
    terms = model.loss(model.corrupt(x), x)
    assert all(value.ndim == 0 and torch.isfinite(value) for value in terms.values())
    terms["loss"].backward()
    model.eval().loss(x, x)["loss"].backward()  # of variants trained in phases, all of them
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_loss_is_a_mean_over_samples(variant: type[Autoencoder]) -> None:
    # of a batch of copies of one sample, the loss does not grow with the number of copies
    model = build(variant).eval()
    x = batch_of((1, 8, 8), 1)

    def mean_loss(copies: int) -> float:
        torch.manual_seed(0)
        return sum(float(model.loss(batch, batch)["loss"]) for batch in [x.expand(copies, -1, -1, -1)] * 400) / 400

    with torch.no_grad():
        assert mean_loss(8) == pytest.approx(mean_loss(2), rel=0.05)


def test_loss_falls_on_digits(variant: type[Autoencoder], digits: Tensor, fit: Any) -> None:
    model = build(variant)
    x = digits[:512]

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            torch.manual_seed(0)
            return float(model.loss(model.corrupt(x), x)["loss"])

    before = loss()
    fit(model.train(), digits, max_epochs=12)
    assert loss() < before - 0.05 * abs(before)


def test_checkpoint_round_trip(variant: type[Autoencoder], digits: Tensor, fit: Any, tmp_path: Path) -> None:
    model = build(variant, lr=3e-3)
    trainer = fit(model, digits, max_steps=3, max_epochs=-1)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    model.eval()
    for loaded in (variant.load_from_checkpoint(tmp_path / "model.ckpt"), load_model(tmp_path / "model.ckpt")):
        loaded.eval()
        assert type(loaded) is variant
        assert loaded.hparams == model.hparams
        assert loaded.hparams["lr"] == 3e-3
        torch.testing.assert_close(loaded(digits[:16]), model(digits[:16]), rtol=0, atol=0)


def test_hyper_parameters_are_plain_data(variant: type[Autoencoder]) -> None:
    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(isinstance(k, str) and plain(v) for k, v in value.items())
        if isinstance(value, list):
            return all(plain(v) for v in value)
        return value is None or type(value) in (bool, int, float, str)

    model = build(variant)
    assert plain(dict(model.hparams))
    again = variant(**model.hparams)
    assert again.hparams == model.hparams


def test_evaluation_is_deterministic(variant: type[Autoencoder]) -> None:
    model, x = build(variant).eval(), batch_of((1, 8, 8))
    for first, second in zip(model.predict_step(x, 0).values(), model.predict_step(x, 0).values(), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_pickle_and_deepcopy(variant: type[Autoencoder]) -> None:
    model, x = build(variant).eval(), batch_of((1, 8, 8))
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
        assert again.hparams == model.hparams


class Batches(Dataset):
    """The digits in another form: bare tensors, tuples with a label, or dicts."""

    def __init__(self, data: Tensor, form: str) -> None:
        self.data, self.form = data, form

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> Any:
        x, label = self.data[i], torch.tensor(i % 10)
        return {"tensor": x, "tuple": (x, label), "dict": {"label": label, "image": x}}[self.form]


def test_batch_forms_agree(variant: type[Autoencoder], digits: Tensor, fit: Any) -> None:
    weights = []
    for form in ("tensor", "tuple", "dict"):
        model = build(variant)
        trainer = pl.Trainer(
            max_steps=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
            enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(model, DataLoader(Batches(digits[:128], form), batch_size=32))
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    torch.testing.assert_close(weights[0], weights[2], rtol=0, atol=0)


def test_validation_and_test_log_every_term(variant: type[Autoencoder], digits: Tensor, tmp_path: Path) -> None:
    model = build(variant)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, max_steps=3,
    )  # fmt: skip
    loader = DataLoader(digits[:100], batch_size=32)
    with torch.no_grad():
        terms = set(model.eval().loss(digits[:4], digits[:4]))
    trainer.fit(model.train(), loader, loader)
    for stage, run in (("val", trainer.validate), ("test", trainer.test)):
        (logged,) = run(model, loader, verbose=False)
        assert set(logged) == {f"{stage}/{term}" for term in terms}
        (again,) = run(model, loader, verbose=False)
        assert logged == again


def test_bf16_mixed_is_finite(variant: type[Autoencoder], digits: Tensor, fit: Any) -> None:
    model = build(variant)
    trainer = fit(model, digits, precision="bf16-mixed", max_steps=10, max_epochs=-1)
    assert trainer.global_step == 10
    assert all(torch.isfinite(p).all() for p in model.parameters())


USER_MODULE = """
from lightning_ae import {name}

class Mine({name}):
    def loss(self, x, target):
        terms = super().loss(x, target)
        terms["penalty"] = self.encode(x).square().mean()
        terms["loss"] = terms["loss"] + 0.1 * terms["penalty"]
        return terms
"""


@pytest.fixture
def user_class(variant: type[Autoencoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A subclass in a module of the user's own, which overrides `loss` alone."""
    module = f"user_module_{variant.__name__.lower()}"
    (tmp_path / f"{module}.py").write_text(USER_MODULE.format(name=variant.__name__))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield getattr(__import__(module), "Mine")  # noqa: B009  clearer than __import__(...).Mine
    del sys.modules[module]


def test_subclass_from_python(user_class: type[Autoencoder], digits: Tensor, fit: Any, tmp_path: Path) -> None:
    model = build(user_class)
    trainer = fit(model, digits, max_steps=25, max_epochs=-1, log_every_n_steps=1)
    assert trainer.callback_metrics["train/penalty"] > 0
    trainer.save_checkpoint(tmp_path / "mine.ckpt")
    loaded = load_model(tmp_path / "mine.ckpt")
    assert type(loaded) is user_class
    torch.testing.assert_close(loaded(digits[:4]), model.eval()(digits[:4]), rtol=0, atol=0)


def test_subclass_from_the_command_line(
    user_class: type[Autoencoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_ae.cli import main

    monkeypatch.chdir(tmp_path)
    main(
        ["fit", "--model", f"{user_class.__module__}.Mine", "--model.input_shape", "[1, 8, 8]", "--data",
         "HFDataModule", "--data.path", "digits", "--trainer.max_steps", "3", "--trainer.accelerator", "cpu",
         "--run_dir", "run"]
    )  # fmt: skip
    (checkpoint,) = Path("run/checkpoints").glob("*.ckpt")
    loaded = load_model(checkpoint)
    assert type(loaded) is user_class
    assert loaded.input_shape == (1, 8, 8)


def test_documented(variant: type[Autoencoder]) -> None:
    assert variant.__doc__ is not None
    assert ".. math::" in variant.__doc__
    assert variant.reference
    assert issubclass(variant, Base)
