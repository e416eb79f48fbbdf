"""What every variant of the registry must do. A new variant gets all of this by being registered.

Nothing here knows a variant by its name: each is asked what it takes (`given`, the inputs that its architecture
serves), what its codes are (`code_shape`), and what it says of itself (`generates`, `latents`, `needs_data_size`). The
toys at the top are classes that answer otherwise than the registry does.
"""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from asking import batch_of, given_of, variants
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset
from typing_extensions import Unpack

from lightning_ae import VAE, Autoencoder, InputError, get_model, list_models, load_model
from lightning_ae.architectures import MLP, Architecture, ConvNet, SequenceNet
from lightning_ae.autoencoder import LikelihoodOptions, Options
from lightning_ae.exact import sum_over_ranks

SHAPES = [(64,), (2, 24), (1, 28, 28), (3, 9, 7), (1, 4, 6, 5)]
DIGITS = (1, 8, 8)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]


# ---- toys -----------------------------------------------------------------------------------------------------------


class Labelled(Autoencoder):
    """Takes labels, which its codes are to tell."""

    given = ("label",)

    def __init__(self, input_shape: Sequence[int], latent_dim: int = 16, **options: Unpack[Options]) -> None:
        super().__init__(input_shape, latent_dim, **options)
        self.told = nn.Linear(self.latent_dim, 10)

    def loss(self, x: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        terms = super().loss(x, target, **given)
        told = F.cross_entropy(self.told(self.encode(x, **given)), given["label"])
        return {**terms, "loss": terms["loss"] + told, "told": told}


class Known(Autoencoder):
    """Takes a mask, and sees what it marks."""

    given = ("mask",)

    def encode(self, x: Tensor, **given: Tensor) -> Any:
        return super().encode(torch.where(given["mask"], x, 0.0) if "mask" in given else x, **given)


class OnMaps(VAE):
    """Codes that are maps, of an architecture that serves images alone."""

    def __init__(self, input_shape: Sequence[int], latent_dim: int = 4, **options: Unpack[LikelihoodOptions]) -> None:
        super().__init__(input_shape, latent_dim, architecture=ConvNet(channels=(4, 8), code="map"), **options)


@dataclass(frozen=True)
class Four(Architecture):
    """Four tokens, of a layer each way."""

    def encoder(self, input_shape: Any, features: int) -> nn.Module:
        layer = MLP().encoder(input_shape, 4 * features)
        return nn.Sequential(layer, nn.Unflatten(1, (features, 4)))

    def decoder(self, features: int, output_shape: Any) -> nn.Module:
        return nn.Sequential(nn.Flatten(), MLP().decoder(4 * features, output_shape))


class Tokens(Autoencoder):
    """Codes (latent_dim, n)."""

    def __init__(self, input_shape: Sequence[int], latent_dim: int = 4, **options: Unpack[LikelihoodOptions]) -> None:
        super().__init__(input_shape, latent_dim, architecture=Four(), **options)


@dataclass(frozen=True)
class Rows(Architecture):
    """Sequences, or images as sequences of their columns."""

    net: Architecture = SequenceNet(channels=(8, 12), dilations=(1, 2), code="map")

    def encoder(self, input_shape: Any, features: int) -> nn.Module:
        if len(input_shape) != 3:
            return self.net.encoder(input_shape, features)
        channels, height, width = input_shape
        return nn.Sequential(nn.Flatten(1, 2), self.net.encoder((channels * height, width), features))

    def decoder(self, features: int, output_shape: Any) -> nn.Module:
        if len(output_shape) != 3:
            return self.net.decoder(features, output_shape)
        channels, height, width = output_shape
        return nn.Sequential(
            self.net.decoder(features, (channels * height, width)), nn.Unflatten(1, (channels, height))
        )


class OnSequences(VAE):
    """Codes (latent_dim, l), of an architecture that serves sequences."""

    def __init__(self, input_shape: Sequence[int], latent_dim: int = 4, **options: Unpack[LikelihoodOptions]) -> None:
        super().__init__(input_shape, latent_dim, architecture=Rows(), **options)


class TwoLevels(Autoencoder):
    """A code of two parts, the second made of the first."""

    def __init__(self, input_shape: Sequence[int], latent_dim: int = 16, **options: Unpack[Options]) -> None:
        super().__init__(input_shape, latent_dim, **options)
        self.up = nn.Linear(latent_dim, 3)
        self.down = nn.Linear(3, latent_dim)

    def encode(self, x: Tensor, **given: Tensor) -> Any:
        lower = super().encode(x, **given)
        return lower, self.up(lower).tanh()

    def decoder_parameters(self, z: Any, **given: Tensor) -> Tensor:
        return super().decoder_parameters(z[0] + self.down(z[1]), **given)


class Centres(Autoencoder):
    """Codes drawn to centres that follow them: buffers, moved by no gradient."""

    latents = ("mean", "indices")
    centres: Tensor

    def __init__(self, input_shape: Sequence[int], latent_dim: int = 16, **options: Unpack[Options]) -> None:
        super().__init__(input_shape, latent_dim, **options)
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("centres", torch.randn(8, latent_dim, generator=generator))

    def loss(self, x: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
        code = self.encode(x, **given)
        chosen = F.one_hot(torch.cdist(code.detach(), self.centres.to(code)).argmin(dim=1), 8).to(code)
        if self.training:
            total, count = sum_over_ranks(chosen.T @ code.detach(), chosen.sum(dim=0))
            moved = torch.where(count[:, None] > 0, total / count[:, None].clamp(min=1), self.centres)
            self.centres.lerp_(moved.to(self.centres), 0.1)
        commitment = (code - chosen @ self.centres.to(code)).square().sum(dim=1).mean()
        reconstruction = self.reconstruction_loss(code, target, **given)
        terms = {"loss": reconstruction + 0.1 * commitment, "reconstruction": reconstruction}
        return {**terms, "commitment": commitment}

    def rate(self, x: Tensor, **given: Tensor) -> Tensor:
        return torch.full((len(x),), 3.0)


TOYS = {toy.__name__: toy for toy in (Labelled, Known, OnMaps, OnSequences, Tokens, TwoLevels, Centres)}


# ---- what is asked of each ------------------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every variant; in what trains, those that only settle another's parts are slow."""
    if "variant" in metafunc.fixturenames:
        trains = {"fit", "fitted", "user_class"} & set(metafunc.fixturenames)
        names = variants() if trains else list_models()
        metafunc.parametrize("variant", [*names, *TOYS], indirect=True, scope="module")


@pytest.fixture(scope="module")
def variant(request: pytest.FixtureRequest) -> type[Autoencoder]:
    return TOYS[request.param] if request.param in TOYS else get_model(request.param)


def build(variant: type[Autoencoder], shape: tuple[int, ...] = DIGITS, **options: Any) -> Autoencoder:
    torch.manual_seed(0)
    model = variant(input_shape=shape, **options)
    if model.needs_data_size:
        model.data_size.fill_(1797)
    return model


def served(variant: type[Autoencoder], shape: tuple[int, ...]) -> Autoencoder | None:
    """The model of that input, or None where the default architecture cannot serve it, and says so by name."""
    try:
        return build(variant, shape)
    except InputError as error:
        assert "cannot serve" in str(error)  # noqa: PT017  whatever else it refuses is a fault
        assert str(shape) in str(error)  # noqa: PT017
        return None


def random(shape: tuple[int, ...], n: int = 12) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(1))


def loss_of(model: Autoencoder, x: Tensor) -> dict[str, Tensor]:
    return model.loss(model.corrupt(x), x, **given_of(model, len(x)))


def flat(value: Any) -> list[Tensor]:
    """The tensors in tuples and dicts."""
    if isinstance(value, dict):
        value = tuple(value.values())
    return [part for item in value for part in flat(item)] if isinstance(value, tuple | list) else [value]


def same(first: Any, second: Any) -> None:
    for a, b in zip(flat(first), flat(second), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def reconstruction(model: Autoencoder, x: Tensor) -> Tensor:
    return model(x, **given_of(model, len(x)))


@dataclass
class Fitted:
    """A variant after a fit on the digits."""

    model: Autoencoder
    loss: float
    before: float
    checkpoint: Path


@pytest.fixture(scope="module")
def fitted(variant: type[Autoencoder], digits: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """One fit for all that asks for one; it is left as it is."""
    model, x = build(variant, lr=2e-3), digits[:512]
    folder = tmp_path_factory.mktemp(variant.__name__)

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            torch.manual_seed(0)
            terms = loss_of(model, x)
        # what two sides of a game lose in sum need not fall: where there is a critic, the reconstruction does
        return float(terms["reconstruction" if "critic" in terms else "loss"])

    before = loss()
    rows = TensorDataset(digits, *given_of(model, len(digits)).values())
    epochs = 16 if hasattr(model, "critic") else 4
    trainer = quiet(max_epochs=epochs, default_root_dir=folder, enable_checkpointing=True)
    trainer.fit(model.train(), DataLoader(rows, batch_size=64, shuffle=True))
    trainer.save_checkpoint(folder / "model.ckpt")
    return Fitted(model.eval(), loss(), before, folder / "model.ckpt")


def quiet(**options: Any) -> pl.Trainer:
    others = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(**{**others, "enable_checkpointing": False, **options})


# ---- shapes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(variant: type[Autoencoder], shape: tuple[int, ...]) -> None:
    if (model := served(variant, shape)) is None:
        assert any(served(variant, other) is not None for other in SHAPES)
        return
    x, given = random(shape), given_of(model.eval(), 12)
    code = model.encode(x, **given)
    parts = code if isinstance(code, tuple) else (code,)
    shapes = model.code_shape if isinstance(code, tuple) else (model.code_shape,)
    assert [part.shape[1:] for part in parts] == list(shapes)
    if not isinstance(code, tuple):
        assert model.code_shape[0] == model.code_features
    assert model.pool(code).shape == (12, model.feature_dim)
    assert model.units(code).shape == (12, sum(part[0].numel() for part in parts))
    for decoded in (model.decode(code, **given), model.decode(model.zeros(12), **given), model(x, **given)):
        assert decoded.shape == x.shape
    assert model.log_likelihood(code, x, **given).shape == (12,)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_loss_is_finite_and_reaches_all_parameters(variant: type[Autoencoder], shape: tuple[int, ...]) -> None:
    if (model := served(variant, shape)) is None:
        return  # which test_shapes has looked at
    x = random(shape, 96)
    for part in x.split(12):  # a unit, a component or a code may be unused in one of them
        terms = loss_of(model.train(), part)
        assert all(value.ndim == 0 and torch.isfinite(value) for value in terms.values())
        terms["loss"].backward()
    loss_of(model.eval(), x)["loss"].backward()  # of variants trained in phases, all of them
    without = [
        n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)
    ]
    assert without == []


def test_loss_is_a_mean_over_samples(variant: type[Autoencoder]) -> None:
    # of a batch of copies of one sample, the loss does not grow with the number of copies; as many draws of each number
    model = build(variant).eval()
    x = random(DIGITS, 1)
    same_given = given_of(model, 1)
    # a loss that asks how many samples the data have is none over those of a batch, but for its likelihood
    name = "reconstruction" if model.needs_data_size else "loss"

    def mean_loss(copies: int) -> float:
        torch.manual_seed(0)
        batch = x.expand(copies, -1, -1, -1)
        given = {role: value.expand(copies, *value.shape[1:]) for role, value in same_given.items()}
        times = 1600 // copies
        return sum(float(model.loss(batch, batch, **given)[name]) for _ in range(times)) / times

    with torch.no_grad():
        assert mean_loss(80) == pytest.approx(mean_loss(20), rel=0.05)


# ---- a fit ----------------------------------------------------------------------------------------------------------


def test_loss_falls_on_digits(fitted: Fitted) -> None:
    assert fitted.loss < fitted.before - 0.05 * abs(fitted.before)


def test_checkpoint_round_trip(variant: type[Autoencoder], fitted: Fitted, digits: Tensor) -> None:
    for loaded in (variant.load_from_checkpoint(fitted.checkpoint), load_model(fitted.checkpoint)):
        loaded.eval()
        assert type(loaded) is variant
        assert loaded.hparams == fitted.model.hparams
        assert loaded.hparams["lr"] == 2e-3
        same(dict(loaded.state_dict()), dict(fitted.model.state_dict()))
        same(reconstruction(loaded, digits[:16]), reconstruction(fitted.model, digits[:16]))


def test_what_it_says_of_itself(fitted: Fitted, digits: Tensor) -> None:
    model, x = fitted.model, digits[:6]
    given = given_of(model, 6)
    if model.generates:
        sample = model.sample(6, **given)
        assert sample.shape == x.shape
        assert torch.isfinite(sample).all()
    else:
        with pytest.raises(InputError, match="no distribution over codes"):
            model.sample(6, **given)
    with torch.no_grad():
        rate, active = model.rate(x, **given), model.active(model.encode(x, **given))
    assert rate is None or (rate.shape == (6,) and torch.isfinite(rate).all())
    assert active is None or (active.dtype == torch.bool and active.shape[1:] == model.code_shape)
    assert model.features(x, **given).shape == (6, model.feature_dim)
    assert set(model.latents) <= {"mean", "sample", "indices"}


@torch.no_grad()
def test_what_is_given_is_asked_for(variant: type[Autoencoder]) -> None:
    model, x = build(variant).eval(), random(DIGITS)
    given = given_of(model, 12)
    calls: list[Callable[..., Any]] = [model.encode, model, model.features]
    for call in calls:
        with pytest.raises(InputError, match=f"{variant.__name__} takes .* besides the input, got .*nonsense"):
            call(x, **given, nonsense=x)
    for role in set(given) - set(model.optional):
        with pytest.raises(InputError, match=f"{variant.__name__} takes .*{role}"):
            model.encode(x, **{name: value for name, value in given.items() if name != role})


def test_hyper_parameters_are_plain_data(variant: type[Autoencoder]) -> None:
    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(isinstance(k, str) and plain(v) for k, v in value.items())
        if isinstance(value, list):
            return all(plain(v) for v in value)
        return value is None or type(value) in (bool, int, float, str)

    model = build(variant)
    assert plain(dict(model.hparams))
    again = variant(**model.init_args)
    assert again.hparams == model.hparams


def test_evaluation_is_deterministic(variant: type[Autoencoder]) -> None:
    model = build(variant).eval()
    batch = batch_of(model, random(DIGITS))
    with torch.no_grad():
        same(model.predict_step(batch, 0), model.predict_step(batch, 0))


def test_pickle_and_deepcopy(variant: type[Autoencoder]) -> None:
    model, x = build(variant).eval(), random(DIGITS)
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        same(reconstruction(again, x), reconstruction(model, x))
        assert again.hparams == model.hparams


class Batches(Dataset):
    """The digits in another form: bare tensors, tuples with what is given and a label, or dicts."""

    def __init__(self, data: Tensor, given: dict[str, Tensor], form: str) -> None:
        self.data, self.given, self.form = data, given, form

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> Any:
        x, given, further = self.data[i], {role: value[i] for role, value in self.given.items()}, torch.tensor(i % 10)
        return {"tensor": x, "tuple": (x, *given.values(), further), "dict": {"other": further, **given, "image": x}}[
            self.form
        ]


def test_batch_forms_agree(variant: type[Autoencoder], digits: Tensor) -> None:
    weights = {}
    for form in ("tensor", "tuple", "dict"):
        model = build(variant)
        rows = Batches(digits[:128], given_of(model, 128), form)
        trainer = quiet(max_steps=2)
        if form == "tensor" and set(model.given) - {"mask"}:
            with pytest.raises(InputError, match=f"takes '{model.given[0]}' besides the input"):
                trainer.fit(model, DataLoader(rows, batch_size=32))
            continue
        if form == "tensor" and model.given:
            continue
        trainer.fit(model, DataLoader(rows, batch_size=32))
        weights[form] = torch.cat([p.detach().flatten() for p in model.parameters()])
    for other in weights.values():
        torch.testing.assert_close(other, weights["tuple"], rtol=0, atol=0)


def test_validation_and_test_log_every_term(variant: type[Autoencoder], digits: Tensor) -> None:
    model = build(variant)
    trainer = quiet(max_steps=3)
    rows = TensorDataset(digits[:100], *given_of(model, 100).values())
    loader = DataLoader(rows, batch_size=32)
    with torch.no_grad():
        terms = set(loss_of(model.eval(), digits[:4]))
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
    assert all(torch.isfinite(p).all() for p in (*model.parameters(), *model.buffers()))


# ---- a user's subclass ----------------------------------------------------------------------------------------------

USER_MODULE = """
from {module} import {name}

class Mine({name}):
    def loss(self, x, target{given}):
        terms = super().loss(x, target{given})
        terms["penalty"] = self.units(self.encode(x{given})).square().mean()
        terms["loss"] = terms["loss"] + 0.1 * terms["penalty"]
        return terms
"""


@pytest.fixture
def user_class(variant: type[Autoencoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A subclass in a module of the user's own, which overrides `loss` alone: `loss(x, target)` where that is all."""
    module = f"user_module_{variant.__name__.lower()}"
    given = ", **given" if variant.given else ""
    text = USER_MODULE.format(module=variant.__module__, name=variant.__name__, given=given)
    (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield getattr(__import__(module), "Mine")  # noqa: B009  clearer than __import__(...).Mine
    del sys.modules[module]


def test_subclass_from_python(user_class: type[Autoencoder], digits: Tensor, fit: Any, tmp_path: Path) -> None:
    model = build(user_class)
    trainer = fit(model, digits, max_steps=3, max_epochs=-1, log_every_n_steps=1)
    assert trainer.callback_metrics["train/penalty"] > 0
    trainer.save_checkpoint(tmp_path / "mine.ckpt")
    loaded = load_model(tmp_path / "mine.ckpt")
    assert type(loaded) is user_class
    same(reconstruction(loaded, digits[:4]), reconstruction(model.eval(), digits[:4]))


def test_subclass_from_the_command_line(
    user_class: type[Autoencoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_ae.cli import main

    if "mask" in user_class.given:
        return  # no data set has one
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


@pytest.mark.parametrize("name", list_models())
def test_documented(name: str) -> None:
    variant = get_model(name)
    assert variant.__doc__ is not None
    assert ".. math::" in variant.__doc__
    assert variant.reference
    assert issubclass(variant, Autoencoder)
