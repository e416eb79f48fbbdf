"""Encoders as feature extractors: any image in, features out; differentiable, trainable, exportable."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

from lightning_ae import Autoencoder, HFDataModule, InputError, zoo
from lightning_ae.data.signature import Signature
from lightning_ae.preprocess import ImagePreprocess
from lightning_ae.zoo import index
from lightning_ae.zoo.artefact import load_with_config, plain_weights
from lightning_ae.zoo.encoder import Encoder
from lightning_ae.zoo.schema import Config
from lightning_ae.zoo.transformer import EncoderTransformer

DIGITS = [name for name in index.names() if name.endswith("digits_v1")]
CONV = [name for name in index.names() if "_conv." in name]


@pytest.mark.parametrize("name", index.names())
def test_features_are_the_codes(name: str) -> None:
    encoder, model = zoo.load_encoder(name), zoo.load(name)
    shape = model.new_inputs(3).shape
    images = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    given = model.stand_ins(3)
    found = encoder(images, **given)
    with torch.no_grad():
        code = model.encode(images.float() / 255, **given)
    torch.testing.assert_close(found, model.pool(code) if model.multiple is None else code)
    assert found.shape[:2] == (3, encoder.feature_dim)
    assert encoder.feature_dim == zoo.info(name).features.dim
    assert not found.requires_grad


@pytest.mark.parametrize("shape", [(2, 28, 28), (2, 1, 16, 16), (2, 3, 20, 9), (2, 1, 8, 8), (2, 3, 8, 8)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_images_of_any_size_and_type(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    encoder = zoo.load_encoder("vae_mlp.digits_v1")
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    bytes_ = (255 * images).round().to(torch.uint8)
    given = bytes_ if dtype == torch.uint8 else (bytes_.double() / 255).to(dtype)
    # bytes are rounded to bytes when they are resized
    torch.testing.assert_close(encoder(given), encoder(bytes_.float() / 255), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("name", DIGITS)
def test_differentiable_though_frozen(name: str) -> None:
    encoder = zoo.load_encoder(name)
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(encoder(x, **encoder.model.stand_ins(2)).sum(), x)
    assert gradient.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.train().training


@pytest.mark.parametrize("name", DIGITS)
def test_unfrozen_every_weight_is_trained(name: str) -> None:
    encoder = zoo.load_encoder(name, freeze=False)
    assert encoder.train().training
    encoder(torch.rand(4, 1, 8, 8), **encoder.model.stand_ins(4)).square().sum().backward()
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    assert trained
    assert all(parameter.grad is not None for parameter in trained)  # DistributedDataParallel would complain


@pytest.mark.parametrize("name", [*DIGITS, *CONV])
def test_layers(name: str) -> None:
    shape = zoo.info(name).input_shape
    images = torch.rand(2, *shape)
    for layer in zoo.load_encoder(name).feature_info:
        encoder = zoo.load_encoder(name, layer=layer["name"])
        given = encoder.model.stand_ins(2)
        found = encoder(images, **given)
        assert found.shape == (2, encoder.feature_dim)
        if layer["stride"] is None:
            assert encoder.feature_dim == layer["channels"]
            continue
        side = -(-shape[1] // layer["stride"])
        assert encoder.feature_dim == layer["channels"] * side * side
        for pool, reduce in (("avg", torch.mean), ("max", torch.amax)):
            pooled = zoo.load_encoder(name, layer=layer["name"], pool=pool)(images, **given)  # type: ignore[arg-type]
            maps = found.unflatten(1, (layer["channels"], side, side))
            torch.testing.assert_close(pooled, reduce(maps, dim=(2, 3)))


def test_several_layers_at_once() -> None:
    name, names = "vae_conv.mnist_v1", ["stages.2", "stages.0"]
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    encoder = zoo.load_encoder(name, layer=names)
    found = encoder(images)
    info = {each["name"]: each for each in encoder.feature_info}
    assert [tuple(each.shape) for each in found] == [(3, 128, 4, 4), (3, 32, 14, 14)]
    assert [each.shape[1] for each in found] == [info[each]["channels"] for each in names]
    assert encoder.feature_dim == 160
    x = encoder.preprocess(images)
    torch.testing.assert_close(found[1], encoder.model.encoder.stages[0](x))
    pooled = zoo.load_encoder(name, layer=names, pool="max")
    torch.testing.assert_close(pooled(images), torch.cat([each.amax((2, 3)) for each in found], dim=1))
    assert pooled.feature_dim == 160
    torch.testing.assert_close(zoo.load_encoder(name, layer=names[:1])(images)[0], found[0])
    trained = zoo.load_encoder(name, layer=names[1:], freeze=False)
    assert [n for n, p in trained.named_parameters() if p.requires_grad] == [
        "model.encoder.stages.0.0.weight", "model.encoder.stages.0.0.bias",
    ]  # fmt: skip
    rows = EncoderTransformer(name, layer=names, pool="max").fit_transform(images.numpy())
    np.testing.assert_allclose(rows, pooled(images), rtol=1e-5)
    with pytest.raises(InputError, match="takes one vector"):
        EncoderTransformer(name, layer=names).fit(images.numpy())


def test_several_layers_as_a_graph(tmp_path: Path) -> None:
    encoder = zoo.load_encoder("vae_conv.mnist_v1", layer=["stages.0", "stages.2"])
    encoder.export(tmp_path / "maps.onnx", to="onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "maps.onnx")
    images = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    found = session.run(["stages_0", "stages_2"], {"input": images.numpy()})
    for got, wanted in zip(found, encoder(images), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_inputs_far_from_the_training_data_are_told_of_once() -> None:
    data = HFDataModule("digits")
    digits = np.stack([np.asarray(image) for image in data.splits["test"]["image"]])
    for normalize in (False, True):
        encoder = zoo.load_encoder("ae_mlp.digits_v1", normalize=normalize)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            encoder.features(digits)
            encoder.features(255 - digits[:7])  # too few to tell
        with pytest.warns(UserWarning, match="far from what ae_mlp.digits_v1 was made for .digits.*training data"):
            encoder(torch.from_numpy(255 - digits))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            encoder.features(255 - digits)


def test_a_pipeline_tells_of_them_too_and_vmap_of_nothing() -> None:
    images = 255 - np.stack([np.asarray(image) for image in HFDataModule("digits").splits["test"]["image"]])
    with pytest.warns(UserWarning, match="far from what ae_mlp.digits_v1 was made for"):
        EncoderTransformer("ae_mlp.digits_v1").fit_transform(images)
    encoder, x = zoo.load_encoder("ae_mlp.digits_v1"), torch.rand(2, 9, 1, 8, 8)
    torch.testing.assert_close(torch.vmap(encoder)(x), encoder(x.flatten(0, 1)).unflatten(0, (2, 9)))


def test_the_last_layer_of_a_plain_encoder_is_the_code() -> None:
    images = torch.rand(2, 1, 8, 8)
    layered = zoo.load_encoder("ae_mlp.digits_v1", layer="linears.2")
    torch.testing.assert_close(layered(images), zoo.load_encoder("ae_mlp.digits_v1")(images))


def test_normalize_standardises_over_the_training_data() -> None:
    from lightning_ae import HFDataModule

    data = HFDataModule("digits", val_fraction=0)
    images = torch.cat([batch["image"] for batch in data.batches("train")])
    found = zoo.load_encoder("sparse_mlp.digits_v1", normalize=True)(images)
    torch.testing.assert_close(found.mean(dim=0), torch.zeros(128), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.std(dim=0), torch.ones(128), atol=1e-3, rtol=0)


def test_samples_of_the_posterior() -> None:
    model = zoo.load("vae_mlp.digits_v1")
    images = torch.rand(1, 1, 8, 8).expand(20_000, -1, -1, -1)
    torch.manual_seed(0)
    found = zoo.load_encoder("vae_mlp.digits_v1", latent="sample")(images)
    q = model.infer(images[:1])  # type: ignore[operator]
    std = (0.5 * q.log_variance).exp()
    assert ((found.mean(dim=0) - q.mean).abs() < 5 * std / 20_000**0.5).all()
    torch.testing.assert_close(found.std(dim=0), std[0], rtol=0.03, atol=0)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"latent": "indices"}, "unknown latent"),
        ({"latent": "sample"}, "unknown latent"),
        ({"layer": "stages.9"}, "unknown layer"),
        ({"layer": ["linears.0", "stages.9"]}, "unknown layer"),
        ({"layer": []}, "must name different layers"),
        ({"layer": ["linears.0", "linears.0"]}, "must name different layers"),
        ({"pool": "avg"}, "needs a layer"),
        ({"layer": "linears.0", "pool": "avg"}, "whose output is a map"),
        ({"layer": "linears.0", "pool": "sum"}, "unknown pool"),
        ({"layer": "linears.0", "normalize": True}, "leave layer out"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        zoo.load_encoder("ae_mlp.digits_v1", **options)


def test_exports(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    cases: list[tuple[str, dict[str, Any], torch.Tensor]] = [
        ("vae_mlp.digits_v1", {}, torch.rand(2, 1, 8, 8)),
        ("k_sparse_mlp.digits_v1", {"normalize": True}, (255 * torch.rand(2, 1, 8, 8)).to(torch.uint8)),
    ]
    if CONV:
        cases.append((CONV[0], {"layer": "stages.1", "pool": "avg"}, torch.rand(2, 1, 28, 28)))
    for name, options, images in cases:
        encoder = zoo.load_encoder(name, **options)
        expected = encoder(images)
        exported = torch.export.export(encoder, (images,))
        torch.testing.assert_close(exported.module()(images), expected)
        file = tmp_path / f"{name}.onnx"
        torch.onnx.export(encoder, (images,), file, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(str(file))
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


class Classifier(pl.LightningModule):
    """A user's module with an encoder in it."""

    def __init__(self, freeze: bool) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.encoder = zoo.load_encoder("denoising_mlp.digits_v1", freeze=freeze)
        self.head = nn.Linear(self.encoder.feature_dim, 10)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.head(self.encoder(images)), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], 1e-3)


@pytest.mark.parametrize("freeze", [True, False])
def test_fine_tuning_in_another_module(fit: Any, digits: torch.Tensor, freeze: bool, tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    labels = torch.from_numpy(load_digits().target)
    module = Classifier(freeze)
    before = {key: value.clone() for key, value in module.encoder.state_dict().items()}
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(digits, labels), batch_size=64, shuffle=True)
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data)
    moved = [key for key, value in module.encoder.state_dict().items() if not torch.equal(value, before[key])]
    assert bool(moved) != freeze
    trainer.save_checkpoint(tmp_path / "tuned.ckpt")
    again = Classifier.load_from_checkpoint(tmp_path / "tuned.ckpt", map_location="cpu", weights_only=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(again.encoder(digits[:5]), module.eval().encoder(digits[:5]))


def test_values_are_looked_at_where_they_are_there_to_be_read() -> None:
    encoder = zoo.load_encoder("ae_mlp.digits_v1")
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(torch.vmap(lambda one: encoder(one[None])[0])(x), encoder(x))
    jacobian = torch.func.vmap(torch.func.jacrev(lambda one: encoder(one[None])[0]))(x)
    assert jacobian.shape == (3, 8, 1, 8, 8)
    exported = torch.export.export(encoder, (x,)).module()
    torch.testing.assert_close(exported(16 * x), encoder.encode(16 * x))  # a graph has no place for it
    with pytest.raises(InputError, match="row 0, channel 0, pixel .* where floats of images lie in"):
        encoder(16 * x)
    encoder.model.preprocess = ImagePreprocess()
    with pytest.raises(InputError, match="shape .1, 9, 9., where ae_mlp.digits_v1 takes .1, 8, 8."):
        encoder(torch.rand(3, 1, 9, 9))


class Masked(Autoencoder):
    given = ("mask",)


def test_what_is_unknown_is_zero_as_in_training(digits: torch.Tensor) -> None:
    model = Masked((1, 8, 8), 4)
    model.preprocess = ImagePreprocess((8, 8), 1, (0.3,), (0.2,))  # of which zero is not zero
    mask = torch.rand(digits[:4].shape, generator=torch.Generator().manual_seed(0)) > 0.3
    holes = digits[:4].where(mask, torch.nan)
    expected = model.features(digits[:4].where(mask, 0), mask=mask)
    torch.testing.assert_close(model.features(holes, mask=mask), expected)
    with pytest.raises(InputError, match="holds NaN"):
        model.features(holes)
    encoder = Encoder(model, load_with_config("ae_mlp.digits_v1")[1])
    torch.testing.assert_close(encoder(holes, mask=mask), expected)
    torch.testing.assert_close(encoder.features(holes, mask=mask), expected)


@pytest.mark.parametrize("name", ["ae_mlp.digits_v1", "vq_vae_conv.digits_v1"])
def test_a_graph_takes_any_batch_and_says_what_it_was_trained_on(name: str, tmp_path: Path) -> None:
    encoder, file = zoo.load_encoder(name), tmp_path / "encoder.pt2"
    encoder.export(file)
    said: dict[str, Any] = {"signature.json": "", "signature_hash": ""}
    graph = torch.export.load(file, extra_files=said).module()
    assert said["signature_hash"] == encoder.signature.hash == zoo.load(name).signature.hash  # type: ignore[union-attr]
    assert Signature.from_plain(json.loads(said["signature.json"])) == encoder.signature
    for size in (1, 2, 7):
        images = torch.randint(256, (size, 1, 8, 8), dtype=torch.uint8)
        torch.testing.assert_close(graph(images), encoder(images))
    with pytest.raises(InputError, match="label besides its input"):
        zoo.load_encoder("conditional_vae_mlp.digits_v1").export(file)


def vectors(folder: Path, width: int) -> str:
    """An artefact of a model of vectors, whose columns have no names."""
    torch.manual_seed(0)
    model = Autoencoder((width,), 2)
    config = Config.model_validate({
        "schema": 1, "name": "ae_mlp.vectors_v1", "model": "ae", "config": model.init_args,
        "preprocess": {"kind": "tabular"}, "features": {"latents": ["mean"], "dim": 2, "layers": []},
    })  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(config.model_dump_json(by_alias=True))
    save_file(plain_weights(model), folder / "model.safetensors")
    return str(folder)


OTHER_WIDTH = {
    "check_estimators_overwrite_params": 2, "check_estimators_fit_returns_self": 2, "check_readonly_memmap_input": 2,
    "check_fit_idempotent": 2, "check_fit_check_is_fitted": 2, "check_n_features_in": 2,
    "check_n_features_in_after_fitting": 4, "check_positive_only_tag_during_fit": 4, "check_estimators_dtypes": 5,
    "check_dtype_object": 10, "check_fit2d_1sample": 10, "check_fit2d_1feature": 1,
}  # fmt: skip
"""The checks of scikit-learn whose data have not three columns, and how many they have."""


@pytest.mark.filterwarnings("ignore")  # the checks give frames to models without names
def test_what_scikit_learn_asks_of_a_transformer(tmp_path: Path) -> None:
    reasons = {check: f"its data have {width} columns, the entry takes 3" for check, width in OTHER_WIDTH.items()}
    found = check_estimator(
        EncoderTransformer(vectors(tmp_path / "three", 3)), expected_failed_checks=reasons, on_skip=None
    )
    assert {each["check_name"] for each in found if each["status"] == "xfail"} == set(OTHER_WIDTH)
    assert [each["check_name"] for each in found if each["status"] == "skipped"] == ["check_array_api_input"]
    for width in set(OTHER_WIDTH.values()):  # given data of that width, an entry passes these, too
        transformer = EncoderTransformer(vectors(tmp_path / str(width), width))
        for check in [check for check, wanted in OTHER_WIDTH.items() if wanted == width]:
            getattr(estimator_checks, check)("EncoderTransformer", transformer)


def test_what_a_transformer_says_of_itself(digits: torch.Tensor, tmp_path: Path) -> None:
    images = digits[:5].numpy()
    transformer = EncoderTransformer("ae_mlp.digits_v1").set_output(transform="pandas")
    with pytest.raises(NotFittedError):
        transformer.transform(images)
    frame = pd.DataFrame(images.reshape(5, 64), index=list("abcde")).add_prefix("pixel")
    codes = transformer.fit_transform(frame)
    assert list(codes.index) == list("abcde")
    assert list(codes.columns) == list(transformer.get_feature_names_out()) == [f"code{i}" for i in range(8)]
    assert list(transformer.feature_names_in_) == list(frame.columns)
    joblib.dump(transformer, tmp_path / "transformer")
    again = joblib.load(tmp_path / "transformer")
    pd.testing.assert_frame_equal(again.transform(frame), codes)
    assert get_tags(again).input_tags.three_d_array
    transformer.fit(images)
    assert transformer.n_features_in_ == 64
    assert not hasattr(transformer, "feature_names_in_")
    sampling = clone(transformer).set_params(name="vae_mlp.digits_v1", latent="sample")
    assert get_tags(sampling).non_deterministic
    assert not get_tags(transformer).non_deterministic


def test_in_a_pipeline(digits: torch.Tensor) -> None:
    from sklearn.datasets import load_digits

    images, labels = digits.numpy(), load_digits().target
    pipeline = make_pipeline(EncoderTransformer("k_sparse_mlp.digits_v1"), LogisticRegression(max_iter=500))
    pipeline.fit(images[:1500], labels[:1500])
    assert pipeline.score(images[1500:], labels[1500:]) > 0.85
    flat = pipeline.predict(images[1500:].reshape(-1, 64))
    np.testing.assert_array_equal(flat, pipeline.predict(images[1500:]))
    transformer = pipeline[0]
    np.testing.assert_allclose(
        clone(transformer).set_params(batch_size=7).fit_transform(images[:20]), transformer.transform(images[:20]),
        rtol=1e-5, atol=1e-6,
    )  # fmt: skip
    again = pickle.loads(pickle.dumps(pipeline))
    np.testing.assert_array_equal(again.predict(images[:50]), pipeline.predict(images[:50]))
    assert list(transformer.get_feature_names_out()[:2]) == ["code0", "code1"]
    with pytest.raises(InputError, match="X has 63 features, but EncoderTransformer is expecting 64 features"):
        transformer.transform(images.reshape(-1, 64)[:, :63])


RECIPES = Path(__file__).parents[2] / "recipes" / "zoo"


SCRIPTS = sorted(file.name for file in RECIPES.glob("*.py"))


@pytest.mark.parametrize(
    "script", [script if "sklearn" in script else pytest.param(script, marks=pytest.mark.slow) for script in SCRIPTS]
)
def test_recipes_run(script: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(RECIPES / script)], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.strip()
