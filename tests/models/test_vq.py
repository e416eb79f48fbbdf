"""The vector-quantised autoencoder: its terms, its indices, when its codebook moves, and that a run goes on."""

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

from lightning_ae import VQVAE, HFDataModule, InputError, load_model
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.parts import GradientVectorQuantizer, VectorQuantizer
from lightning_ae.training.certify import Case, certify
from lightning_ae.zoo.encoder import Encoder
from lightning_ae.zoo.schema import Config, parse

SMALL = VectorQuantizer(codes=32)
INPUTS = [((1, 28, 28), (16, 7, 7)), ((3, 9, 7), (16, 3, 2)), ((64,), (16, 8)), ((2, 30), (16, 8))]
QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False,
    "enable_model_summary": False,
}  # fmt: skip


def build(shape: tuple[int, ...] = (1, 8, 8), **options: Any) -> VQVAE:
    torch.manual_seed(0)
    return VQVAE(shape, **{"quantizer": SMALL, **options})


def state(model: VQVAE) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.codebook.named_buffers()}


def moved(model: VQVAE, before: dict[str, Tensor]) -> bool:
    return any(not torch.equal(value, before[name]) for name, value in model.codebook.named_buffers())


@pytest.mark.parametrize(("shape", "code"), INPUTS, ids=str)
def test_codes_indices_and_bits(shape: tuple[int, ...], code: tuple[int, ...]) -> None:
    model, x = build(shape).eval(), torch.rand(5, *shape)
    z, indices = model.encode(x), model.encode_indices(x)
    assert model.code_shape == code
    assert z.shape == (5, *code)
    assert indices.shape == (5, *code[1:])
    assert indices.dtype == torch.int64
    torch.testing.assert_close(model.decode_indices(indices), model.decode(z), rtol=0, atol=0)
    torch.testing.assert_close(model(x), model.decode(z), rtol=0, atol=0)
    assert model.rate(x).tolist() == [math.prod(code[1:]) * 5.0] * 5  # 32 codes are 5 bits
    assert model.pool(z).shape == (5, model.feature_dim) == (5, 16)


def test_a_vector_has_one_index() -> None:
    model, x = build((64,), architecture=MLP()).eval(), torch.rand(5, 64)
    assert model.encode_indices(x).shape == (5,)
    torch.testing.assert_close(model.decode_indices(model.encode_indices(x)), model(x), rtol=0, atol=0)
    assert model.rate(x).tolist() == [5.0] * 5


@pytest.mark.parametrize("quantizer", [SMALL, GradientVectorQuantizer(codes=32)], ids=lambda q: type(q).__name__)
def test_the_loss_by_hand(quantizer: Any) -> None:
    model, x = build(quantizer=quantizer).double().eval(), torch.rand(12, 1, 8, 8, dtype=torch.float64)
    terms = {name: value.item() for name, value in model.loss(x, x).items()}
    with torch.no_grad():
        h, e = model.encoder(x), model.encode(x)
        squared = (h - e).square().sum().item() / 12
        # the Gaussian of scale 1
        reconstruction = 0.5 * (model(x) - x).square().sum().item() / 12 + 32 * math.log(2 * math.pi)
        p = model.encode_indices(x).flatten().bincount() / (12 * 4)
    expected = {"reconstruction": reconstruction, "commitment": 0.25 * squared}
    expected |= {"codebook": squared} if isinstance(quantizer, GradientVectorQuantizer) else {}
    expected["loss"] = sum(expected.values())
    expected["perplexity"] = math.exp(-sum(q * math.log(q) for q in p.tolist() if q))
    assert terms == pytest.approx(expected, rel=1e-6)


def test_gradients_go_straight_through() -> None:
    """The encoder's is that of a decoder whose input is the encoder's output, moved; and of the commitment."""
    model, x = build(quantizer=VectorQuantizer(codes=32, commitment=0.0)).double(), torch.rand(6, 1, 8, 8).double()
    weight = model.encoder.head.weight
    (found,) = torch.autograd.grad(model.eval().loss(x, x)["loss"], weight)
    h = model.encoder(x)
    shift = (model.encode(x) - h).detach()
    (expected,) = torch.autograd.grad(model.reconstruction_loss(h + shift, x), weight)
    torch.testing.assert_close(found, expected)
    assert found.abs().sum() > 0


# ---- when the codebook moves ----------------------------------------------------------------------------------------


def test_only_a_training_step_moves_the_codebook(digits: Tensor) -> None:
    model, x = build(), digits[:32]
    before = state(model)
    model.eval().loss(x, x)
    for mode in (True, False):  # what callbacks ask for
        model.train(mode)
        model(x), model.encode(x), model.encode_indices(x), model.predict_step(x, 0), model.rate(x)
    trainer = pl.Trainer(**QUIET)
    trainer.validate(model, DataLoader(digits[:96], batch_size=32), verbose=False)
    assert not moved(model, before)
    model.train().loss(x, x)
    assert moved(model, before)


def test_once_for_each_batch_under_accumulation(digits: Tensor) -> None:
    """N after the four batches of two steps, as if each were a step."""
    model = build(quantizer=VectorQuantizer(codes=32, decay=0.5, revive=0.0), lr=1e-30)  # the weights stay
    counts = torch.zeros(32)
    with torch.no_grad():
        alone = copy.deepcopy(model)
        for part in digits[:128].split(32):
            counts = 0.5 * counts + 0.5 * alone.encode_indices(part).flatten().bincount(minlength=32)
            alone.train().loss(part, part)
    trainer = pl.Trainer(**QUIET, max_epochs=1, accumulate_grad_batches=2)
    trainer.fit(model, DataLoader(digits[:128], batch_size=32))
    assert trainer.global_step == 2
    torch.testing.assert_close(model.codebook.counts, counts)
    torch.testing.assert_close(alone.codebook.counts, counts)


class Stop(pl.Callback):
    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == 7:
            trainer.save_checkpoint(f"{trainer.default_root_dir}/stopped.ckpt")


@pytest.mark.parametrize(
    "quantizer",
    [
        VectorQuantizer(codes=64, decay=0.7, revive=0.5),
        VectorQuantizer(codes=64, decay=0.7, revive=0.5, start="batch"),
        GradientVectorQuantizer(codes=64, start="kmeans"),
    ],
    ids=lambda q: f"{type(q).__name__}-{q.start}",
)
def test_a_run_goes_on_bit_for_bit(quantizer: Any, tmp_path: Path) -> None:
    def run(**options: Any) -> VQVAE:
        pl.seed_everything(3, verbose=False)
        model = build(quantizer=quantizer)
        trainer = pl.Trainer(**QUIET, max_epochs=4, callbacks=[Stop()], default_root_dir=tmp_path)
        trainer.fit(model, datamodule=HFDataModule("digits", batch_size=300), **options)
        assert trainer.global_step == 20
        return model

    whole = run()
    path = tmp_path / "stopped.ckpt"
    saved = load_model(path).codebook.vectors
    second = run(ckpt_path=path, weights_only=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name
    assert not torch.equal(saved, whole.codebook.vectors)


def test_bf16_mixed(digits: Tensor, fit: Any) -> None:
    model = build(quantizer=VectorQuantizer(codes=128))
    fit(model, digits, precision="bf16-mixed", max_steps=20, max_epochs=-1)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert {value.dtype for value in model.codebook.buffers()} == {torch.float32}
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        h, indices = model.encoder(digits), model.encode_indices(digits)
    assert h.dtype == torch.bfloat16
    vectors = h.double().movedim(1, -1).reshape(-1, 16)
    expected = torch.cdist(vectors, model.codebook.vectors.double()).argmin(dim=1)
    assert torch.equal(indices.flatten(), expected)


def test_it_learns_and_uses_its_codes(digits: Tensor, fit: Any) -> None:
    # four positions of six bits each are enough where a position knows which it is, by zeros beyond its border
    network = ConvNet(code="map", padding="zeros")
    model = build(quantizer=VectorQuantizer(codes=64), architecture=network)
    fit(model, digits, max_epochs=10)
    model.eval()
    error = (model(digits) - digits).square().flatten(1).sum(dim=1).mean().item()
    assert error < 0.5 * (digits - digits.mean(dim=0)).square().flatten(1).sum(dim=1).mean().item()
    assert model.encode_indices(digits).unique().numel() > 48


# ---- ranks ----------------------------------------------------------------------------------------------------------

OF_START = {"class_path": "VectorQuantizer", "init_args": {"codes": 24, "start": "batch", "revive": 0.5, "decay": 0.5}}
TRAINED = {"class_path": "GradientVectorQuantizer", "init_args": {"codes": 24}}
OF_DATA = {"class_path": "GradientVectorQuantizer", "init_args": {"codes": 24, "start": "kmeans"}}
CASES = [
    Case("VQVAE", title="a map"),
    Case("VQVAE", {"quantizer": OF_START}, title="from the first batch, revived often"),
    Case("VQVAE", {"quantizer": TRAINED, "input_shape": [9]}, title="tokens, by gradient"),
    Case("VQVAE", {"quantizer": OF_DATA}, {"accumulate_grad_batches": 2}, title="by gradient, from k-means"),
    Case("VQVAE", {"quantizer": OF_START, "input_shape": [9]}, {"accumulate_grad_batches": 2}, title="accumulated"),
]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_the_same_run_on_several_ranks(strategy: Any) -> None:
    for found in certify(CASES, worlds=(2, 3), strategy=strategy):
        assert found.passed, found


# ---- indices as features --------------------------------------------------------------------------------------------


def config(model: VQVAE) -> Config:
    features = {"latents": list(model.latents), "dim": model.feature_dim, "layers": []}
    found: Config = parse(
        Config,
        {
            "schema": 1,
            "name": "vq_vae.digits_v1",
            "model": "vq_vae",
            "config": model.init_args,
            "preprocess": {"kind": "image", "size": [8, 8], "channels": 1},
            "features": features | {"mean": [0.0] * 16, "std": [1.0] * 16},
        },
        "a test",
    )
    model.preprocess = found.preprocess.build()
    return found


@pytest.mark.parametrize("architecture", [ConvNet(code="map"), MLP(tokens=3), MLP()], ids=["map", "tokens", "vector"])
def test_indices_are_features(architecture: Any, digits: Tensor) -> None:
    model = build(architecture=architecture).eval()
    expected = model.encode_indices(digits[:9]).reshape(9, -1)
    described = config(model)
    encoder = Encoder(copy.deepcopy(model), described, latent="indices")
    found = encoder(digits[:9])
    assert found.dtype == torch.int64
    assert torch.equal(found, expected)
    assert encoder.feature_dim == expected.shape[1]


@pytest.mark.parametrize("options", [{"freeze": False}, {"normalize": True}], ids=str)
def test_indices_have_neither_a_gradient_nor_a_scale(options: Any) -> None:
    model = build().eval()
    described = config(model)
    with pytest.raises(InputError, match="latent='indices'"):
        Encoder(copy.deepcopy(model), described, latent="indices", **options)
    with pytest.raises(InputError, match="latent='indices'"):
        Encoder(copy.deepcopy(model), described, latent="indices").unfreeze()


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("indices", "named"),
    [
        (torch.zeros(3, 2, 2), r"indices must be integers \(B, 2, 2\), got torch.float32"),
        (torch.zeros(3, 2, 2, dtype=torch.bool), "indices must be integers"),
        (torch.zeros(3, 4, dtype=torch.long), r"of the shape \(3, 4\)"),
        (torch.full((3, 2, 2), 32), "indices must lie in 0, ..., 31, got some from 32 to 32"),
        (torch.full((3, 2, 2), -1), "indices must lie in 0"),
    ],
)
def test_indices_that_are_none(indices: Tensor, named: str) -> None:
    with pytest.raises(InputError, match=named):
        build().decode_indices(indices)


def test_a_codebook_larger_than_the_first_batch(digits: Tensor, fit: Any) -> None:
    model = build(quantizer=VectorQuantizer(codes=512, start="batch"))
    with pytest.raises(InputError, match="codes = 512 .* first batch, which has 256 vectors"):
        fit(model, digits)


def test_what_cannot_work() -> None:
    with pytest.raises(InputError, match="no distribution over codes"):
        build().sample(3)
    with pytest.raises(InputError, match="quantizer"):
        build(quantizer="VectorQuantizer")
    with pytest.raises(InputError, match="use MLP"):
        build((1, 3, 3))
