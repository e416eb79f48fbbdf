"""Codes that are vectors, maps, tokens and tuples, and inputs of any rank, in all that stands above a model."""

from __future__ import annotations

import csv
import importlib
import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_ae import (
    VAE,
    Autoencoder,
    ContractiveAutoencoder,
    FineTuneClassifier,
    HFDataModule,
    InputError,
    KSparseAutoencoder,
    LadderVAE,
    LinearAutoencoder,
    ScoreMatchingAutoencoder,
    SparseAutoencoder,
    StackedAutoencoder,
    registry,
    zoo,
)
from lightning_ae.architectures import Architecture, ConvNet, ResNet
from lightning_ae.callbacks import (
    DenoisingMetrics,
    JacobianSpectrum,
    LatentProbe,
    LatentProjection,
    LatentTraversal,
    ReconstructionGrid,
    ReconstructionMetrics,
    SampleGrid,
    SparsityMetrics,
)
from lightning_ae.metrics.rate_distortion import rate_distortion
from lightning_ae.models.contractive import jacobian_spectrum
from lightning_ae.parts import Bernoulli, Prior
from lightning_ae.parts.penalties import exact_jacobian, hutchinson_jacobian
from lightning_ae.zoo import index
from lightning_ae.zoo.artefact import load_trained

SHAPE = (1, 8, 8)
POSITIONS = 4


@dataclass(frozen=True)
class Patches(Architecture):
    """Tokens: a quarter of the image each, embedded by one linear map, and back."""

    def encoder(self, input_shape: tuple[int, ...], features: int) -> nn.Module:
        return nn.Sequential(_ToPatches(), nn.Sequential(nn.Conv1d(math.prod(input_shape) // POSITIONS, features, 1)))

    def decoder(self, features: int, output_shape: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(nn.Conv1d(features, math.prod(output_shape) // POSITIONS, 1), _FromPatches(output_shape))


class _ToPatches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).unflatten(1, (POSITIONS, -1)).transpose(1, 2)


class _FromPatches(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, z: Tensor) -> Tensor:
        return z.transpose(1, 2).flatten(1).unflatten(1, self.shape)


MODELS: dict[str, Callable[[], Autoencoder]] = {
    "vector": lambda: VAE(SHAPE, 5, likelihood=Bernoulli()),
    "map": lambda: VAE(SHAPE, 5, architecture=ConvNet(channels=(6, 8), code="map"), likelihood=Bernoulli()),
    "tokens": lambda: Autoencoder(SHAPE, 5, architecture=Patches()),
    "tuple": lambda: LadderVAE(SHAPE, 3, upper_dims=[2], width=12, likelihood=Bernoulli()),
}
SHAPES: dict[str, Any] = {"vector": (5,), "map": (5, 2, 2), "tokens": (5, 4), "tuple": ((3,), (2,))}
UNITS = {"vector": 5, "map": 20, "tokens": 20, "tuple": 5}


@pytest.fixture(params=list(MODELS))
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def model(kind: str) -> Autoencoder:
    torch.manual_seed(0)
    return MODELS[kind]().eval()


def levels(code: Any) -> tuple[Tensor, ...]:
    return code if isinstance(code, tuple) else (code,)


def flat(code: Any) -> Tensor:
    """All values of each code, by hand."""
    return torch.stack([torch.cat([part[i].reshape(-1) for part in levels(code)]) for i in range(len(levels(code)[0]))])


def pooled(code: Any) -> Tensor:
    """The mean over the positions of each channel, by hand."""
    return torch.cat([part.reshape(len(part), part.shape[1], -1).mean(-1) for part in levels(code)], dim=1)


def trainer(folder: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[*callbacks],
        enable_checkpointing=False, default_root_dir=folder, **options,
    )  # fmt: skip


@torch.no_grad()
def test_shapes(model: Autoencoder, kind: str, digits: Tensor) -> None:
    code = model.encode(digits[:6])
    assert model.code_shape == SHAPES[kind]
    assert model.feature_dim == 5
    assert model.units(code).shape == (6, UNITS[kind])
    torch.testing.assert_close(model.pool(code), pooled(code))
    assert model(digits[:6]).shape == (6, *SHAPE)


@torch.no_grad()
def test_a_move_changes_one_feature(model: Autoencoder, digits: Tensor) -> None:
    code, by = model.encode(digits[:6]), torch.linspace(-1, 1, 6)
    for feature in range(3):  # of a ladder those of the lowest level, which nothing follows
        step = pooled(model.move(code, feature, by)) - pooled(code)
        expected = torch.zeros(6, 5)
        expected[:, feature] = by
        torch.testing.assert_close(step, expected, rtol=1e-5, atol=1e-6)


def test_metrics_are_those_of_all_units(model: Autoencoder, digits: Tensor, tmp_path: Path) -> None:
    data = digits[:150]
    callbacks = [ReconstructionMetrics(), SparsityMetrics(0.1)]
    (logged,) = trainer(tmp_path, *callbacks).validate(model, DataLoader(data, batch_size=64), verbose=False)
    with torch.no_grad():
        units, output = flat(model.encode(data)), model(data)
    assert logged["val/active_units"] == int((units.var(dim=0, correction=0) > 0.01).sum())
    assert logged["val/l0"] == pytest.approx(float((units.abs() > 0.1).sum() / 150), rel=1e-6)
    assert logged["val/dead_units"] == int((units.abs() <= 0.1).all(dim=0).sum())
    assert logged["val/mean_activation"] == pytest.approx(float(units.mean()), rel=1e-4)
    assert logged["val/mse"] == pytest.approx(float((output - data).square().sum() / 150), rel=1e-5)
    assert logged.keys() >= {"val/psnr", "val/ssim"}


def test_probe_reads_the_pooled_codes(model: Autoencoder, tmp_path: Path) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    data = HFDataModule("digits")
    (logged,) = trainer(tmp_path, LatentProbe(k=3)).test(model, data, verbose=False)

    def codes(split: str) -> tuple[Any, Any]:
        with torch.no_grad():
            encoded = torch.cat([pooled(model.encode(batch["image"])) for batch in data.batches(split)])
        return encoded.numpy(), np.array(data.dataset(split)["label"][:])

    expected = 1 - KNeighborsClassifier(3).fit(*codes("train")).score(*codes("test"))
    assert logged["test/knn_error"] == pytest.approx(expected, abs=1e-6)


def test_pictures(model: Autoencoder, tmp_path: Path) -> None:
    pictures = [ReconstructionGrid(), LatentProjection(), LatentTraversal(steps=3), JacobianSpectrum(samples=8)]
    if model.generates:
        pictures.append(SampleGrid(4))
    run = trainer(tmp_path, *pictures)
    run.validate(model, HFDataModule("digits"), verbose=False)
    for picture in pictures:
        with Image.open(tmp_path / "pictures" / f"{picture.name}_validate.png") as image:
            assert len(np.unique(np.asarray(image.convert("L")))) > 15
    with torch.no_grad():
        x = torch.rand(4, *SHAPE)
        spectrum = jacobian_spectrum(model, x)
    jacobian = torch.autograd.functional.jacobian(lambda x: flat(model.encode(x)).sum(0), x).flatten(2).movedim(0, 1)
    torch.testing.assert_close(spectrum, torch.linalg.svdvals(jacobian), rtol=1e-3, atol=1e-5)


def test_a_traversal_moves_a_feature_by_its_own_spread(
    model: Autoencoder, kind: str, digits: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_ae.callbacks import pictures

    drawn: dict[str, Any] = {}
    monkeypatch.setattr(pictures, "image_figure", lambda *args: drawn.update(rows=args[1], names=args[2]))
    monkeypatch.setattr(pictures, "THRESHOLD", 0.0)  # of an untrained model a unit hardly moves
    with torch.no_grad():
        LatentTraversal(steps=3, span=2.0, dims=5).draw(None, model, digits[:40], None, "")  # type: ignore[arg-type]
        code = model.encode(digits[:40])
        std = pooled(code).std(dim=0, correction=0)
        first = model.encode(digits[:1])
        middle = model.decode(first)
    assert len(drawn["rows"]) == 5
    for row in drawn["rows"]:
        torch.testing.assert_close(row[1:2], middle, rtol=1e-4, atol=1e-5)  # no step
        assert not torch.allclose(row[0], row[2], rtol=0, atol=1e-7)
    largest = int(std.argmax())
    name = {"tuple": f"z1.{largest}" if largest < 3 else f"z2.{largest - 3}"}.get(kind, f"z{largest}")
    assert drawn["names"][0].startswith(f"{name}  (std {float(std.max()):.2f})")
    with torch.no_grad():
        further = model.decode(model.move(first, largest, 2 * std.max().reshape(1)))
    torch.testing.assert_close(drawn["rows"][0][2:], further, rtol=1e-4, atol=1e-5)


def test_predictions_are_written(kind: str, digits: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_ae.cli import main

    monkeypatch.chdir(tmp_path)
    model = MODELS[kind]()
    options: list[str] = []
    for key, value in model.hparams.items():
        if key in ("input_shape", "latent_dim", "width", "upper_dims"):
            options += [f"--model.{key}", str(list(value) if key in ("input_shape", "upper_dims") else value)]
    architecture = {"map": ["--model.architecture", "ConvNet", "--model.architecture.code", "map"],
                    "tokens": ["--model.architecture", f"{__name__}.Patches"]}.get(kind, [])  # fmt: skip
    main(["predict", "--model", type(model).__name__, *options, *architecture, "--data", "HFDataModule",
          "--data.path", "digits", "--data.batch_size", "100", "--trainer.accelerator", "cpu", "--run_dir", "run",
          "--trainer.enable_progress_bar", "false"])  # fmt: skip
    written = torch.load("run/predictions-rank0.pt", weights_only=True)
    shapes = [tuple(part.shape[1:]) for part in levels(written["code"])]
    channels = {"map": [(5, 2, 2)]}.get(kind, [*SHAPES[kind]] if kind == "tuple" else [SHAPES[kind]])
    assert shapes == channels
    assert {len(part) for part in levels(written["code"])} == {len(written["reconstruction"])}
    assert isinstance(written["code"], tuple) == (kind == "tuple")


# ---- a trained model: the zoo, the tools, the supervised stage -------------------------------------------------------


@pytest.fixture
def checkpoint(kind: str, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    run = trainer(tmp_path, max_epochs=1)
    run.fit(MODELS[kind](), HFDataModule("digits", val_fraction=0, batch_size=256))
    run.save_checkpoint(tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def test_published_features_are_those_of_the_encoder(
    checkpoint: Path, kind: str, digits: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.MODELS, "toy", f"{__name__}:Autoencoder")
    to, name = tmp_path / "zoo", "toy_net.digits_v1"
    entry = zoo.publish(checkpoint, name, to=str(to), dry_run=False)
    model = zoo.load(to / "weights" / name)
    assert (entry.features.dim, entry.features.latents) == (5, list(model.latents))
    assert entry.features.mean is not None
    assert len(entry.features.mean) == len(entry.features.std or []) == 5
    sampled = "sample" in model.latents
    assert (entry.metric("negative_elbo") is not None) == sampled
    assert len(entry.golden.code) == (6 + 4 if kind == "tuple" else 8)  # of two samples at most eight of each level
    monkeypatch.setattr(index, "zoo_folder", lambda: to)
    assert zoo.verify() == [name]
    assert zoo.reproduce(name).passed
    encoder = zoo.load_encoder(name)
    images = digits[:12]
    assert encoder.feature_dim == 5
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), pooled(model.encode(images)))
    standard = zoo.load_encoder(name, normalize=True)(digits)
    torch.testing.assert_close(standard.std(dim=0), torch.ones(5), rtol=0.2, atol=0)
    encoder.unfreeze()
    encoder(images).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters() if p.requires_grad)
    if sampled:
        drawing = zoo.load_encoder(name, latent="sample")
        torch.manual_seed(0)
        drawn = drawing(images)
        torch.manual_seed(0)
        with torch.no_grad():
            torch.testing.assert_close(drawn, pooled(model.draw(images)))
        assert not torch.allclose(drawn, encoder(images).detach())


def test_tools(checkpoint: Path, kind: str, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from lightning_ae.cli import tools

    model = load_trained(checkpoint)
    files = tools.features(str(checkpoint), output=str(tmp_path / "out"), device="cpu")
    written = torch.tensor(pq.read_table(files["test"])["code"].to_pylist())
    batch = next(HFDataModule("digits").batches("test", 1000))
    with torch.no_grad():
        torch.testing.assert_close(written, pooled(model.encode(batch["image"])), rtol=1e-4, atol=1e-5)
    assert tools.reconstruct(str(checkpoint), n=3, device="cpu").is_file()
    if model.generates:
        assert tools.sample(str(checkpoint), n=4, device="cpu").is_file()
    table, _ = tools.rate_distortion([str(checkpoint)], samples=100, output=str(tmp_path / "out"), device="cpu")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == (12 if kind == "tokens" else 2)
    assert all(math.isfinite(float(row["rate_bits"])) for row in rows)


@pytest.mark.parametrize("freeze", [False, True])
def test_the_supervised_stage(kind: str, freeze: bool, digits: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS[kind]()
    classifier = FineTuneClassifier(model, freeze=freeze, layer_decay=0.9)
    assert classifier.classifier.in_features == 5
    before = {name: p.detach().clone() for name, p in classifier.named_parameters()}
    data = HFDataModule("digits", val_fraction=0, batch_size=512)
    trainer(tmp_path, max_epochs=1).fit(classifier, data)
    trained = [n for n, p in classifier.named_parameters() if p.requires_grad]
    assert [n for n in trained if torch.equal(before[n], dict(classifier.named_parameters())[n])] == []
    assert any(n.startswith("model.encoder") for n in trained) != freeze
    assert not any(n.startswith(("model.decoder", "model.head")) for n in trained)
    if kind == "tuple":
        assert any(n.startswith("model.priors") for n in trained) != freeze  # the mean of z_1 depends on them


def test_a_code_without_a_gradient_is_not_fine_tuned() -> None:
    class Rounded(Autoencoder):
        def encode(self, x: Tensor, **given: Tensor) -> Tensor:
            return super().encode(x).detach().round()

    with pytest.raises(InputError, match="no gradient"):
        FineTuneClassifier(Rounded(SHAPE, 5))
    assert FineTuneClassifier(Rounded(SHAPE, 5), freeze=True).classifier.in_features == 5


# ---- rate and distortion ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wide(Prior):
    """N(0, 4 I), by draws alone."""

    def log_prob(self, model: VAE, z: Tensor) -> Tensor:
        dims = tuple(range(z.ndim - len(model.code_shape), z.ndim))
        return torch.distributions.Normal(0.0, 2.0).log_prob(z).sum(dim=dims)

    def sample(self, model: VAE, n: int, noise: Any) -> Tensor:
        drawn: Tensor = 2 * noise.randn_like(model.zeros(n))
        return drawn


@pytest.mark.parametrize("architecture", [ConvNet(channels=(4,), code="map"), ConvNet(channels=(4,))], ids=str)
@torch.no_grad()
def test_the_rate_is_the_divergence_from_the_models_own_prior(architecture: Any, digits: Tensor) -> None:
    torch.manual_seed(0)
    x = digits[:40].repeat(100, 1, 1, 1)  # so that one draw each is enough
    model = VAE(SHAPE, 3, architecture=architecture, prior=Wide()).eval()
    (point,) = rate_distortion(model, x, "test", x[:40])
    q = model.infer(x[:40])
    normal = torch.distributions.Normal(q.mean, (q.log_variance / 2).exp())  # type: ignore[attr-defined]
    kl = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 2.0)).flatten(1).sum(dim=1)
    assert point.rate == pytest.approx(float(kl.mean()) / math.log(2), rel=0.05)
    standard = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).flatten(1).sum(dim=1)
    assert point.rate != pytest.approx(float(standard.mean()) / math.log(2), rel=0.2)


@torch.no_grad()
def test_draws_do_not_depend_on_the_process(digits: Tensor) -> None:
    model = MODELS["tuple"]().eval()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = rate_distortion(model, digits[:50], "test", digits[:50])
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert rate_distortion(model, digits[:50], "test", digits[:50]) == first


@torch.no_grad()
def test_every_value_of_a_map_is_quantised_and_paid_for(digits: Tensor) -> None:
    torch.manual_seed(0)
    model, x = MODELS["tokens"]().eval(), digits[:60]
    points = rate_distortion(model, x, "test", digits)
    assert [p.rate for p in points] == [20.0 * bits for bits in (1, 2, 3, 4, 6, 8)]
    seen = flat(model.encode(digits)).double()
    low, high = seen.quantile(0.001, dim=0), seen.quantile(0.999, dim=0)
    step = (high - low) / 7
    quantised = low + ((flat(model.encode(x)).double().clamp(low, high) - low) / step).round() * step
    error = (model.decode(quantised.float().view(60, 5, 4)) - x).square().flatten(1).sum(1).mean()
    assert points[2].distortion == pytest.approx(float(error), rel=1e-5)


@torch.no_grad()
def test_of_a_sparse_map_what_is_active_is_paid_for(digits: Tensor) -> None:
    torch.manual_seed(0)
    x = digits[:60]
    model = SparseAutoencoder(SHAPE, 5, penalty="l1", architecture=ConvNet(channels=(4,), code="map")).eval()
    active = flat(model.encode(x)) > 0
    assert 0.1 < float(active.float().mean()) < 0.9
    points = rate_distortion(model, x, "test", digits)
    d, counts = active.shape[1], active.sum(dim=1).tolist()
    rate = sum(math.log2(d + 1) + math.log2(math.comb(d, a)) + 3 * a for a in counts) / 60
    assert points[2].rate == pytest.approx(rate, rel=1e-9)


# ---- Jacobians -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [2, 30])  # reverse and forward mode
def test_jacobians_of_maps(channels: int) -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(1, channels, 3, stride=2).double()
    encode = lambda x: network(x).tanh()  # noqa: E731
    x = torch.rand(3, 1, 7, 7, dtype=torch.float64)
    jacobian = exact_jacobian(encode, x)
    assert jacobian.shape == (3, channels * 9, 49)
    expected = torch.stack([torch.autograd.functional.jacobian(encode, x[i : i + 1]).view(-1, 49) for i in range(3)])
    torch.testing.assert_close(jacobian, expected)
    estimate = hutchinson_jacobian(encode, x, draws=2000)
    torch.testing.assert_close(estimate, expected.square().sum(dim=(1, 2)), rtol=0.1, atol=0)


@pytest.mark.parametrize("method", ["exact", "hutchinson"])
def test_contraction_of_a_map(method: Any, digits: Tensor, fit: Any) -> None:
    torch.manual_seed(0)
    model = ContractiveAutoencoder(
        SHAPE, 2, architecture=ConvNet(channels=(4,), code="map"), method=method, hessian_weight=0.1
    )
    run = fit(model, digits[:128], max_steps=2, max_epochs=-1, log_every_n_steps=1)
    assert float(run.callback_metrics["train/contraction"]) > 0
    x = digits[:3]
    model.eval()
    expected = torch.autograd.functional.jacobian(lambda x: flat(model.encode(x)).sum(0), x)
    if method == "exact":
        torch.testing.assert_close(model.jacobian_norm(x), expected.square().sum(dim=(0, 2, 3, 4)))


def test_noise_levels_scale_the_channels_of_a_map(digits: Tensor) -> None:
    torch.manual_seed(0)
    architecture = ConvNet(channels=(4,), code="map")
    model = ScoreMatchingAutoencoder(SHAPE, 4, sigma=[1.0, 0.5], architecture=architecture).eval()
    with torch.no_grad():
        code = model.encode(digits[:4])  # a batch as large as a side of the map: it would have fitted, and been wrong
        scale, shift = model.level(torch.tensor([[0.5]]).log()).chunk(2, dim=1)  # type: ignore[misc]
        moved = code * (1 + scale).view(1, 4, 1, 1) + shift.view(1, 4, 1, 1)
        torch.testing.assert_close(model(digits[:4]), model.decode(moved))


# ---- inputs of any rank ----------------------------------------------------------------------------------------------

RANKS = [(12,), (2, 6), (3, 4, 5), (1, 2, 3, 4)]
ANY_RANK = [
    Autoencoder, LinearAutoencoder, SparseAutoencoder, KSparseAutoencoder, ContractiveAutoencoder, StackedAutoencoder,
    ScoreMatchingAutoencoder, VAE, LadderVAE,
]  # fmt: skip


def of_any_rank() -> list[Any]:
    """Each class on the most dimensions, the VAE on all; the others of these are slow."""
    return [
        pytest.param(cls, shape, marks=[] if len(shape) == 4 or cls is VAE else pytest.mark.slow)
        for cls, shape in itertools.product(ANY_RANK, RANKS)
    ]


@pytest.mark.parametrize(("cls", "shape"), of_any_rank(), ids=str)
def test_inputs_of_any_rank_are_trained_and_measured(
    cls: type[Autoencoder], shape: tuple[int, ...], fit: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, data = cls(shape, latent_dim=4), torch.rand(64, *shape)
    fit(model, data, max_steps=2, max_epochs=-1)
    callbacks = [ReconstructionMetrics(), SparsityMetrics(), LatentProjection(), JacobianSpectrum(samples=4)]
    (logged,) = trainer(tmp_path, *callbacks).validate(model, DataLoader(data, batch_size=32), verbose=False)
    assert ("val/psnr" in logged) == ("val/ssim" in logged) == (len(shape) == 3)
    assert {"val/mse", "val/active_units", "val/r_squared", "val/jacobian_norm"} <= logged.keys()
    assert (tmp_path / "pictures" / "projection_validate.png").is_file()
    for point in rate_distortion(model.eval(), data, "test", data):
        assert math.isfinite(point.rate)
        assert math.isfinite(point.distortion)


@pytest.mark.parametrize("shape", [s for s in RANKS if len(s) != 3], ids=str)
def test_what_makes_no_picture_is_refused_by_name(shape: tuple[int, ...], tmp_path: Path) -> None:
    loader = DataLoader(torch.rand(8, *shape))
    for callback in (ReconstructionGrid(), LatentTraversal(), SampleGrid()):
        with pytest.raises(InputError, match=f"{type(callback).__name__} draws images"):
            trainer(tmp_path, callback).validate(VAE(shape, 2), loader, verbose=False)
    for architecture in (ConvNet(), ResNet()):
        with pytest.raises(InputError, match="takes images.*\n.*use MLP"):
            Autoencoder(shape, 2, architecture=architecture)


@pytest.mark.parametrize("shape", [(12,), (2, 6), (1, 2, 3, 4)], ids=str)
def test_tools_say_what_makes_no_picture(shape: tuple[int, ...], fit: Any, tmp_path: Path) -> None:
    from lightning_ae.cli import tools

    checkpoint = str(tmp_path / "last.ckpt")
    fit(VAE(shape, 2), torch.rand(32, *shape), max_steps=1, max_epochs=-1).save_checkpoint(checkpoint)
    for tool in (tools.reconstruct, tools.sample):
        with pytest.raises(InputError, match="which make no picture") as caught:
            tool(checkpoint, device="cpu")
        assert str(shape) in str(caught.value)
    if len(shape) > 1:
        with pytest.raises(InputError, match=r"the model takes (the input_shape|vectors)"):
            zoo.publish(checkpoint, "vae_mlp.digits_v9")


def test_what_a_model_says_of_itself_is_asked(tmp_path: Path) -> None:
    class Clean(Autoencoder):
        """Overrides what it could corrupt by, and says that it does not."""

        corrupts = False  # type: ignore[assignment]

        def corrupt(self, x: Tensor) -> Tensor:
            return x

    class Silent(VAE):
        generates = False

    loader = DataLoader(torch.rand(8, *SHAPE))
    with pytest.raises(InputError, match="denoises none"):
        trainer(tmp_path, DenoisingMetrics()).validate(Clean(SHAPE), loader, verbose=False)
    with pytest.raises(InputError, match="cannot sample"):
        trainer(tmp_path, SampleGrid()).validate(Silent(SHAPE), loader, verbose=False)
    with pytest.raises(InputError, match="no distribution to draw from"):
        Autoencoder(SHAPE).draw(torch.rand(2, *SHAPE))


def test_nothing_asks_for_a_class() -> None:
    """Nothing above the models names one of them to know what it can do."""
    folder = Path(importlib.import_module("lightning_ae").__file__ or "").parent
    names = {cls for cls in registry.CLASSES if cls != "Autoencoder"}
    for part in ("callbacks", "metrics", "zoo", "cli"):
        for file in (folder / part).rglob("*.py"):
            if file.parent.name == "importers":  # which make models, of other packages' files
                continue
            text = file.read_text()
            assert [name for name in names if re.search(rf"(import |isinstance\(model, ){name}\b", text)] == []
