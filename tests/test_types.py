"""Types and devices follow the weights, whoever converts or moves them: the trainer, the user, a module around."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from asking import batch_of, given_of, told
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_ae import Autoencoder, FineTuneClassifier, InputError, get_model, list_models, zoo
from lightning_ae.preprocess import ImagePreprocess, TabularPreprocess
from lightning_ae.zoo.transformer import EncoderTransformer

TYPES = [torch.float64, torch.bfloat16, torch.float16]
WAYS: dict[str, Callable[[nn.Module, torch.dtype], Any]] = {
    "to": lambda model, dtype: model.to(dtype),
    "method": lambda model, dtype: {torch.float64: model.double, torch.float16: model.half}.get(
        dtype, model.bfloat16
    )(),
    "inside": lambda model, dtype: nn.Sequential(nn.ModuleList([model])).to(dtype),
}


CHOOSE = ("k_sparse", "topk_dictionary")
"""Which units are the largest may change with the digits, as which vector of a codebook is the nearest."""


def build(name: str) -> Any:
    torch.manual_seed(0)
    options: dict[str, Any] = {"hidden": (32,)} if name == "stacked" else {}
    model = get_model(name)((1, 8, 8), 16, **options)
    model.preprocess = ImagePreprocess()
    return told(model).eval()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", list_models())
def test_every_variant_in_every_type(name: str, dtype: torch.dtype, way: str, digits: Tensor) -> None:
    model, plain = build(name), build(name)
    WAYS[way](model, dtype)
    assert model.dtype == dtype
    images = (255 * digits[:20]).to(torch.uint8)
    x, target, given = model.read(batch_of(model, images.double() / 255))  # numpy's type
    assert (x.dtype, target.dtype) == (dtype, dtype)
    code = model.encode(x, **given)
    parts = code if isinstance(code, tuple) else (code,)
    assert {part.dtype for part in parts} == {dtype}
    for value in (model.features(images, **given), model.features((images / 255).double().numpy(), **given)):
        assert value.dtype == dtype
        assert value.shape == (20, model.feature_dim)
    assert model.decode(code, **given).shape == model(x, **given).shape == x.shape
    wide = tuple(part.double() for part in parts)  # codes may come from elsewhere
    assert model.decode(wide if isinstance(code, tuple) else wide[0], **given).isfinite().all()
    model.train()
    terms = model.loss(model.corrupt(x), target, **given)
    assert all(value.isfinite() for value in terms.values())
    terms["loss"].backward()
    assert all(p.grad is None or (p.grad.dtype == dtype and p.grad.isfinite().all()) for p in model.parameters())
    if model.generates and "mask" not in model.given:
        options = {"steps": 2} if name == "score_matching" else given_of(model, 3)
        assert model.sample(3, **options).shape == (3, 1, 8, 8)
    if name not in CHOOSE and not hasattr(model, "quantizer"):
        with torch.no_grad():
            digits_lost = {torch.float64: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype]
            expected = plain.units(plain.encode(images.float() / 255, **given))
            torch.testing.assert_close(model.units(code).float(), expected, atol=digits_lost, rtol=digits_lost)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_encoders_follow_the_module_around_them(dtype: torch.dtype, digits: Tensor) -> None:
    for name, options in (
        ("ae_mlp.digits_v1", {}),
        ("vae_mlp.digits_v1", {"latent": "sample"}),
        ("linear_mlp.digits_v1", {"normalize": True}),
        ("ae_mlp.digits_v1", {"layer": "linears.1", "freeze": False}),
    ):
        encoder = zoo.load_encoder(name, **options)  # type: ignore[arg-type]
        module = nn.Sequential(encoder, nn.Linear(encoder.feature_dim, 10)).to(dtype)
        for images in ((255 * digits[:5]).to(torch.uint8), digits[:5], digits[:5].double(), digits[:5].bfloat16()):
            assert encoder(images).dtype == dtype
            assert module(images).isfinite().all()
        module.float()
        plain = zoo.load_encoder(name, **options)  # type: ignore[arg-type]
        if options.get("latent") != "sample":
            torch.testing.assert_close(encoder(digits[:5]), plain(digits[:5]), atol=0.1, rtol=0.1)


def test_the_device_follows_too() -> None:
    model = build("ae")
    around = nn.Sequential(model)
    assert model.device == torch.device("cpu")
    around.to("meta")
    assert model.device == torch.device("meta")
    assert model.features(torch.zeros(2, 1, 8, 8)).device.type == "meta"
    encoder = nn.Sequential(zoo.load_encoder("ae_mlp.digits_v1")).to("meta")
    assert encoder(torch.zeros(2, 1, 8, 8, device="meta")).device.type == "meta"
    with torch.device("meta"):
        built = Autoencoder((1, 8, 8))
    built.load_state_dict(build("ae").bfloat16().state_dict(), assign=True)
    assert (built.device, built.dtype) == (torch.device("cpu"), torch.bfloat16)


def test_the_trainer_says_in_setup_where_the_weights_will_be(digits: Tensor, fit: Any) -> None:
    seen: list[torch.device] = []

    class Asking(Autoencoder):
        def setup(self, stage: str) -> None:
            super().setup(stage)
            kept, self._device = self._device, torch.device("meta")  # as Lightning does before it moves the weights
            seen.append(self.device)
            self._device = kept

    model = Asking((1, 8, 8))
    fit(model, digits[:64])
    assert seen == [torch.device("meta")]
    nn.Sequential(model).to("meta")  # the run is over
    assert model.device == torch.device("meta")


def test_modules_of_several_types_and_of_none(digits: Tensor) -> None:
    model = build("ae")
    model.encoder.bfloat16()
    model.decoder.double()
    assert model.dtype == torch.bfloat16
    assert model(model.unpack(digits[:2])[0]).dtype == torch.float64

    class Flat(Autoencoder):
        def build_encoder(self) -> nn.Module:
            return nn.Flatten()

        def build_decoder(self) -> nn.Module:
            return nn.Unflatten(1, (1, 8, 8))

    flat = Flat((1, 8, 8), 64)
    assert (flat.dtype, flat.device) == (torch.float32, torch.device("cpu"))
    assert flat.unpack(digits[:2].double())[0].dtype == torch.float32

    quantised = build("ae")
    quantised.register_parameter("table", nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False))
    assert quantised.dtype == torch.float32


def test_numpys_type_trains_as_float32_does(digits: Tensor, fit: Any) -> None:
    weights = []
    for data in (digits[:256], digits[:256].double()):
        for precision in ("32-true", "bf16-mixed"):
            model = build("vae").train()
            pl.seed_everything(0, verbose=False)
            fit(model, data, precision=precision)
            weights.append(nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(weights[0], weights[2])
    assert torch.equal(weights[1], weights[3])
    with torch.autocast("cpu", torch.bfloat16):
        assert model.features(digits[:4].numpy().astype(np.float64)).dtype == torch.float32


def test_integers_of_images_are_bytes(digits: Tensor) -> None:
    with pytest.raises(InputError, match="int64, but models take floats"):
        build("ae").unpack(digits[:2].long())
    images = (255 * digits[:2]).long()
    for model in (build("ae"), zoo.load_encoder("ae_mlp.digits_v1")):
        assert torch.equal(model.features(images), model.features(images.to(torch.uint8)))
        with pytest.raises(
            InputError, match="row 1, channel 0, pixel .* holds 256, where integers of images are bytes"
        ):
            model.features(images + 1)
    transformer = EncoderTransformer("ae_mlp.digits_v1")
    expected = zoo.load_encoder("ae_mlp.digits_v1")(images.to(torch.uint8))
    np.testing.assert_array_equal(transformer.fit_transform(images.numpy()), expected.numpy())
    with pytest.raises(InputError, match="row 0, channel 0, pixel .* holds NaN"):
        transformer.fit_transform(np.array([[None] * 64]))


def test_arrays_of_any_kind_in_scikit_learn(digits: Tensor) -> None:
    transformer = EncoderTransformer("ae_mlp.digits_v1")
    array = digits[:6].numpy()
    expected = transformer.fit_transform(array)
    frozen = array.astype(np.float64)
    frozen.flags.writeable = False
    for given in (frozen, array.astype(">f4"), array[::-1][::-1], array[:, 0].reshape(6, -1), array.astype(np.float16)):
        np.testing.assert_allclose(transformer.transform(given), expected, atol=1e-5)
        assert transformer.transform(given).dtype == np.float32


@pytest.mark.parametrize("kind", [np.int64, np.float64, np.uint32])
def test_large_offsets_keep_their_digits(kind: Any) -> None:
    x = (1_600_000_000 + np.arange(6)[:, None]).astype(kind)
    found = TabularPreprocess((1_600_000_000.0,))(torch.from_numpy(x))
    np.testing.assert_array_equal(found[:, 0].numpy(), np.arange(6))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["ae", "vae"])
def test_a_classifier_on_a_converted_encoder(name: str, dtype: torch.dtype, digits: Tensor, fit: Any) -> None:
    model = FineTuneClassifier(nn.Sequential(build(name)).to(dtype)[0], num_classes=10)
    assert model.dtype == dtype
    data = TensorDataset(digits[:128].double(), torch.arange(128) % 10)
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False,
                         enable_model_summary=False, enable_checkpointing=False)  # fmt: skip
    trainer.fit(model, DataLoader(data, 32))
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert all(p.isfinite().all() for p in model.parameters())
