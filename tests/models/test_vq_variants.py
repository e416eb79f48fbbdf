"""The quantised autoencoders of further papers: indices there and back, bits, samples, the loss by hand, and ranks."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_ae import FSQVAE, LFQVAE, VQVAE, VQVAE2, GumbelVQVAE, InputError, ResidualVQVAE, SimVQVAE, load_model
from lightning_ae.architectures import MLP, ConvNet, SequenceNet
from lightning_ae.models import vq
from lightning_ae.parts import (
    CosineDecay,
    FiniteScalarQuantizer,
    GumbelQuantizer,
    MultiScaleSpectral,
    ResidualQuantizer,
    VectorQuantizer,
)
from lightning_ae.samplers import IndexSampler
from lightning_ae.training.certify import Case, certify
from lightning_ae.training.checkpoint_file import METADATA_KEY

MAP, SEQUENCE = ConvNet(channels=(4, 8), code="map"), SequenceNet(channels=(4, 8), dilations=(1,), code="map")
CLASSES: dict[str, tuple[Any, dict[str, Any], int, int]] = {  # codes, indices a position
    "residual": (ResidualVQVAE, {"layers": 3, "codes": 20}, 20, 3),
    "fsq": (FSQVAE, {"levels": (4, 3)}, 12, 2),
    "lfq": (LFQVAE, {"bits": 4}, 16, 1),
    "sim": (SimVQVAE, {"codes": 20}, 20, 1),
    "gumbel": (GumbelVQVAE, {"codes": 20}, 20, 1),
    "one layer": (ResidualVQVAE, {"layers": 1, "codes": 20}, 20, 1),
}
INPUTS = {"map": ((1, 8, 8), MAP, (2, 2)), "sequence": ((2, 24), SEQUENCE, (6,)), "vector": ((9,), MLP(), ())}
QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False,
    "enable_model_summary": False,
}  # fmt: skip


def build(name: str, kind: str = "map", **options: Any) -> Any:
    cls, own, *_ = CLASSES[name]
    shape, network, _ = INPUTS[kind]
    torch.manual_seed(0)
    return cls(shape, 4, architecture=network, **own, **options).eval()


def random(kind: str = "map", n: int = 12) -> Tensor:
    return torch.rand(n, *INPUTS[kind][0], generator=torch.Generator().manual_seed(1))


# ---- codes and indices ----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("name", CLASSES)
def test_indices_there_and_back(name: str, kind: str) -> None:
    model, x, positions = build(name, kind), random(kind), INPUTS[kind][2]
    *_, codes, depth = CLASSES[name]
    z, indices = model.encode(x), model.encode_indices(x)
    assert z.shape == (12, 4, *positions)
    assert indices.shape == (12, *([depth] if depth > 1 else []), *positions)
    assert torch.equal(model.decode_indices(indices), model.decode(z))
    assert torch.equal(model(x), model.decode(z))
    count = depth * math.prod(positions)
    assert model.rate(x).tolist() == pytest.approx([count * math.log2(codes)] * 12)
    assert (model.code_space.units, model.code_space.classes) == (count, codes)
    flat = model.coordinates_of(x)
    assert torch.equal(flat, indices.flatten(1) if indices.ndim > 1 else indices.unsqueeze(1))
    assert torch.equal(model.from_coordinates(flat), z)
    if name != "residual":
        assert torch.equal(model.coordinates(z), flat)


@torch.no_grad()
@pytest.mark.parametrize("name", CLASSES)
def test_samples_of_indices(name: str) -> None:
    """A sampler is fitted to the indices that inputs have, and its draws are decoded."""
    model, x = build(name), random(n=64)
    flat = model.coordinates_of(x)
    with torch.enable_grad():
        model.sampler = IndexSampler(width=8, layers=1, heads=1, updates=3).fit(flat, space=model.code_space)
    found = model.sample(5)
    assert found.shape == (5, 1, 8, 8)
    assert found.isfinite().all()


def test_finite_scalars_may_be_one_index_or_several() -> None:
    assert FSQVAE((1, 8, 8)).code_space.units == 4
    assert FSQVAE((1, 8, 8), 8).code_space.units == 8
    with pytest.raises(InputError, match="latent_dim must be a multiple of 4"):
        FSQVAE((1, 8, 8), 6)
    with pytest.raises(InputError, match="latent_dim must be a multiple of 8"):
        LFQVAE((1, 8, 8), 12)


@pytest.mark.parametrize("name", CLASSES)
def test_a_checkpoint_has_all(name: str, tmp_path: Path) -> None:
    model, x = build(name), random()
    trainer = pl.Trainer(**QUIET, max_steps=2)
    trainer.fit(model.train(), DataLoader(random(n=64), batch_size=32))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = load_model(tmp_path / "model.ckpt")
    assert type(loaded) is type(model)
    assert torch.equal(loaded.eval()(x), model.eval()(x))
    assert loaded.quantizer == model.quantizer


# ---- the loss -------------------------------------------------------------------------------------------------------


def test_each_settles_a_quantizer_and_shares_the_loss() -> None:
    for cls, *_ in CLASSES.values():
        assert cls.loss is VQVAE.loss
    assert VQVAE2.loss is VQVAE.loss


def test_the_commitments_of_all_layers_weigh_what_that_of_one_does() -> None:
    layers, x = build("residual"), random()
    left = layers.encoder(x)
    expected = torch.zeros(())
    for book in layers.codebook.layers:
        e = book.lookup(book.nearest(left))
        expected = expected + 0.25 / 3 * (left - e).square().sum(dim=(1, 2, 3)).mean()
        left = left - e
    assert layers.loss(x, x)["commitment"].item() == pytest.approx(expected.item(), rel=1e-5)
    given = build("residual", commitment=0.25)
    given.load_state_dict(layers.state_dict())
    assert given.loss(x, x)["commitment"].item() == pytest.approx(3 * expected.item(), rel=1e-5)


class Settled(ResidualVQVAE):
    """A user's own, which knows nothing of the argument."""

    def __init__(self, input_shape: Any, latent_dim: int = 4, *, architecture: Any = MAP) -> None:
        super().__init__(input_shape, latent_dim, layers=3, codes=20, architecture=architecture)


@pytest.mark.parametrize("cls", [ResidualVQVAE, Settled])
def test_in_a_file_of_an_earlier_version_each_layer_weighs_as_much(cls: Any, tmp_path: Path) -> None:
    """Whose checkpoints do not speak of the commitment."""
    given = {"layers": 3, "codes": 20} if cls is ResidualVQVAE else {}
    model, rows = cls((1, 8, 8), 4, architecture=MAP, **given), DataLoader(random(n=64), batch_size=32)
    trainer = pl.Trainer(**QUIET, max_steps=1)
    trainer.fit(model, rows)
    trainer.save_checkpoint(tmp_path / "now.ckpt")
    now = load_model(tmp_path / "now.ckpt")
    assert now.quantizer == model.quantizer
    assert now.quantizer.quantizer.commitment == pytest.approx(0.25 / 3)
    assert now.hparams.keys() == model.hparams.keys()
    if cls is Settled:
        return
    content = torch.load(tmp_path / "now.ckpt", weights_only=True)
    del content["hyper_parameters"]["commitment"]
    content[METADATA_KEY]["arguments"].remove("commitment")
    torch.save(content, tmp_path / "old.ckpt")
    loaded = load_model(tmp_path / "old.ckpt")
    assert loaded.quantizer == ResidualQuantizer(3, VectorQuantizer(20, commitment=0.25))
    assert load_model(tmp_path / "old.ckpt", commitment=0.1).quantizer.quantizer.commitment == 0.1
    with pytest.raises(InputError, match=r"trained with commitment = 0.25 \(here None\)"):
        pl.Trainer(**QUIET, max_steps=2).fit(copy.deepcopy(model), rows, ckpt_path=tmp_path / "old.ckpt")
    pl.Trainer(**QUIET, max_steps=2).fit(loaded.train(), rows, ckpt_path=tmp_path / "old.ckpt")


def test_finite_scalars_have_the_reconstruction_alone() -> None:
    terms = build("fsq").loss(random(), random())
    assert set(terms) == {"loss", "reconstruction", "perplexity"}
    assert torch.equal(terms["loss"], terms["reconstruction"])


def test_the_temperature_follows_its_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("gumbel", temperature=0.5, temperature_schedule=CosineDecay(last=0.1))
    seen: list[float] = []
    forward = type(model.codebook).forward

    def watch(self: Any, h: Tensor, noise: Any = None, scale: float = 1.0) -> Any:
        seen.append(scale)
        return forward(self, h, noise, scale)

    monkeypatch.setattr(type(model.codebook), "forward", watch)
    pl.Trainer(**QUIET, max_epochs=5).fit(model.train(), DataLoader(random(n=32), batch_size=32))
    assert seen == pytest.approx([CosineDecay(last=0.1)(step, 5) for step in range(5)])
    model.eval().loss(random(), random())
    assert seen[-1] == 1.0


def test_training_draws_and_evaluation_does_not() -> None:
    model, x = build("gumbel").train(), random()
    with torch.no_grad():
        assert model.loss(x, x)["reconstruction"] != model.loss(x, x)["reconstruction"]
        assert torch.equal(model.eval().loss(x, x)["loss"], model.loss(x, x)["loss"])


@pytest.mark.parametrize("name", ["fsq", "residual", "lfq", "sim"])
def test_it_learns_and_uses_its_codes(name: str, digits: Tensor) -> None:
    cls, own, *_ = CLASSES[name]
    torch.manual_seed(0)
    dims = {"fsq": 4, "lfq": 8}.get(name, 16)
    own = {"fsq": {"levels": (5, 3)}, "lfq": {"bits": 4}}.get(name, own)
    model = cls((1, 8, 8), dims, architecture=ConvNet(code="map", padding="zeros"), lr=3e-3, **own)
    pl.Trainer(**QUIET, max_epochs=10).fit(model, DataLoader(digits, batch_size=64, shuffle=True))
    model.eval()
    with torch.no_grad():
        error = (model(digits) - digits).square().flatten(1).sum(dim=1).mean().item()
        used = model.codebook.perplexity(model.encode_indices(digits))
    assert error < 0.6 * (digits - digits.mean(dim=0)).square().flatten(1).sum(dim=1).mean().item()
    assert used > 0.3 * model.codebook.codes


# ---- two levels -----------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(
    ("shape", "network", "lower", "upper"),
    [
        ((1, 28, 28), None, (7, 7), (4, 4)),
        ((3, 9, 7), None, (3, 2), (2, 1)),
        ((2, 24), SEQUENCE, (6,), (3,)),
        ((11,), None, (8,), (4,)),
    ],
)
@pytest.mark.parametrize("depth", [1, 2])
def test_two_levels(shape: tuple[int, ...], network: Any, lower: Any, upper: Any, depth: int) -> None:
    quantizer = ResidualQuantizer(depth, VectorQuantizer(codes=20))
    model = VQVAE2(shape, 6, width=5, architecture=network, quantizer=quantizer).eval()
    x = torch.rand(3, *shape)
    z, indices = model.encode(x), model.encode_indices(x)
    assert model.code_shape == ((6, *lower), (6, *upper))
    more = [depth] if depth > 1 else []
    assert [part.shape for part in z] == [(3, 6, *lower), (3, 6, *upper)]
    assert [part.shape for part in indices] == [(3, *more, *lower), (3, *more, *upper)]
    assert torch.equal(model.decode_indices(indices), model.decode(z))
    assert torch.equal(model(x), model.decode(z))
    flat = model.coordinates_of(x)
    assert torch.equal(flat, torch.cat([indices[1].flatten(1), indices[0].flatten(1)], dim=1))  # the coarse first
    assert all(torch.equal(a, b) for a, b in zip(model.from_coordinates(flat), z, strict=True))
    assert model.code_space.units == flat.shape[1]
    assert float(model.rate(x)[0]) == pytest.approx(flat.shape[1] * math.log2(20))
    assert model.pool(z).shape == (3, 12)


def test_both_levels_are_trained_and_updated() -> None:
    model, x = VQVAE2((1, 8, 8), 6, architecture=MAP, quantizer=VectorQuantizer(codes=12)), random(n=32)
    before = copy.deepcopy(model)
    terms = model.loss(x, x)
    with torch.no_grad():
        found = before.levels(x, lambda book, h: vq.Level(h, book.quantised(h)))
    each = [0.25 * (level.hidden - level.code).square().flatten(1).sum(dim=1).mean().item() for level in found]
    assert min(each) > 0
    assert terms["commitment"].item() == pytest.approx(sum(each))
    terms["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    for book, old in zip(model.codebooks, before.codebooks, strict=True):
        assert not torch.equal(book.vectors, old.vectors)


def test_the_lower_level_sees_the_upper_one() -> None:
    model, x = VQVAE2((1, 8, 8), 6, architecture=MAP, quantizer=FiniteScalarQuantizer((5, 5, 5), 8.0)), random()
    with torch.no_grad():
        f = model.encoder(x)
        (one, _), (other, _) = (
            model.levels(x, lambda book, h, s=shift: vq.Level(h, h + s * (book is model.upper_codebook)))
            for shift in (0.0, 1.0)
        )
    assert f.shape[1] == model.width
    assert not torch.allclose(one.hidden, other.hidden)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: VQVAE2((64,), architecture=MLP()), r"VQVAE2 cannot serve input_shape \(64,\).*no positions"),
        (lambda: VQVAE2((1, 4, 4)), r"VQVAE2 cannot serve input_shape \(1, 4, 4\)"),
        (lambda: VQVAE2((1, 8, 8), width=0), "width must be a positive integer"),
        (lambda: VQVAE2((1, 8, 8)).decode(torch.zeros(1, 16, 2, 2)), "decodes a tuple of 2 codes"),
        (lambda: VQVAE2((1, 8, 8)).decode_indices(torch.zeros(1, 2, 2).long()), "must be a tuple of 2"),
        (lambda: VQVAE2((1, 8, 8)).decode_indices((torch.zeros(1, 2, 2).long(),)), "must be a tuple of 2"),
        (lambda: build("residual").decode_indices(torch.zeros(1, 2, 2).long()), r"integers \(B, 3, 2, 2\)"),
        (lambda: build("residual").decode_indices(torch.full((1, 3, 2, 2), 20)), "must lie in 0, ..., 19"),
        (lambda: build("sim").decode_indices([0]), r"integers \(B, 2, 2\), got \[0\]"),
        (lambda: VQVAE((1, 8, 8), spectral=MultiScaleSpectral()), r"MultiScaleSpectral compares sequences"),
        (lambda: VQVAE((2, 24), spectral=MultiScaleSpectral()), r"at least 256 steps"),
        (lambda: FSQVAE((1, 8, 8), levels=(5, 1)), "levels of FiniteScalarQuantizer"),
        (lambda: LFQVAE((1, 8, 8), bits=99), "bits of LookupFreeQuantizer"),
    ],
)
def test_what_cannot_work(make: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        make()


# ---- ranks ----------------------------------------------------------------------------------------------------------

MEANS = {"class_path": "VectorQuantizer", "init_args": {"codes": 12, "start": "kmeans", "revive": 0.5, "decay": 0.5}}
TURNED = {
    "class_path": "VectorQuantizer",
    "init_args": {"codes": 16, "distance": "cosine", "gradient": "rotation", "revive": 0.3, "decay": 0.5},
}
CASES = [
    Case("VQVAE", {"quantizer": MEANS}, title="k-means, revived often"),
    Case("VQVAE", {"quantizer": TURNED}, title="cosine and rotation, revived often"),
    Case("VQVAE", {"quantizer": {"class_path": "ResidualQuantizer", "init_args": {"layers": 3, "quantizer": MEANS}}}),
    Case("VQVAE2", {"quantizer": MEANS, "input_shape": [9]}, title="two levels of tokens"),
    Case("FSQVAE", {"latent_dim": 8}, title="finite scalars, two indices"),
    Case("LFQVAE", {"latent_dim": 8, "bits": 4}, title="signs, two indices"),
    Case("GumbelVQVAE", {"codes": 20}, {"accumulate_grad_batches": 2}, title="drawn codes, accumulated"),
]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_the_same_run_on_several_ranks(strategy: Any) -> None:
    for found in certify(CASES, worlds=(2, 3), strategy=strategy):
        assert found.passed, found


@pytest.mark.parametrize("quantizer", [GumbelQuantizer(codes=9), ResidualQuantizer(2)], ids=lambda q: type(q).__name__)
def test_any_quantizer_goes_with_the_base_class(quantizer: Any) -> None:
    model = VQVAE((1, 8, 8), 4, architecture=MAP, quantizer=quantizer)
    assert VQVAE(**model.init_args).quantizer == quantizer
