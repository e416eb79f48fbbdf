"""Images of any size: the same networks as of one size, codes in proportion, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from datasets import Dataset, DatasetDict
from PIL import Image as PILImage

from lightning_ae import (
    VAE,
    VQVAE,
    AdversarialAutoencoder,
    Autoencoder,
    DenoisingAutoencoder,
    HFDataModule,
    InputError,
    VampPriorVAE,
    load_model,
)
from lightning_ae.architectures import MLP, Architecture, ConvNet, ResNet, SequenceNet, TinyNet
from lightning_ae.callbacks import SampleGrid
from lightning_ae.data import Image
from lightning_ae.data.signature import Signature
from lightning_ae.export import export
from lightning_ae.preprocess import ImagePreprocess
from lightning_ae.training.certify import Case, certify

ANY = (3, None, None)
NETS = [
    ConvNet((4, 6), code="map"),
    ConvNet((4, 6), code="map", padding="zeros", norm="layer"),
    ConvNet((4, 6, 5), code="map", upsampling="transposed", padding="zeros"),
    ConvNet((4, 6), code="map", kernel_size=5),
    ResNet((4, 8), code="map"),
    ResNet((4, 8), code="map", padding="zeros", blocks=2),
    TinyNet(8, (1, 1, 2)),
    TinyNet(4, (2, 1), pooled=False),
]
SIZES = [(16, 24), (8, 8), (40, 16)]


def pair(net: Architecture, size: tuple[int, int], make: Any = Autoencoder, **options: Any) -> tuple[Any, Any]:
    """A model of any size, and one of that size with its weights."""
    torch.manual_seed(0)
    model = make(ANY, 3, architecture=net, **options)
    fixed = make((3, *size), 3, architecture=net, **options)
    fixed.load_state_dict(model.state_dict(), strict=True)
    return model, fixed


@pytest.mark.parametrize("net", NETS, ids=str)
def test_it_is_the_model_of_each_size(net: Architecture) -> None:
    for size in SIZES:
        model, fixed = pair(net, size)
        x = torch.rand(2, 3, *size)
        assert torch.equal(model(x), fixed(x))
        code = model.encode(x)
        assert (
            tuple(code.shape[1:])
            == model.code_shape_of((3, *size))
            == fixed.code_shape
            == fixed.code_shape_of(x[0].shape)
        )
        assert model.multiple == net.multiple == size[0] // code.shape[2] == size[1] // code.shape[3]
        assert fixed.multiple is None


@pytest.mark.parametrize("make", [Autoencoder, VAE, VQVAE, DenoisingAutoencoder])
def test_losses_and_gradients_are_those_of_the_size(make: Any) -> None:
    for size in SIZES[::2]:
        model, fixed = pair(NETS[0], size, make)
        x, found = torch.rand(2, 3, *size), []
        for each in (model, fixed):
            torch.manual_seed(1)
            terms = each.loss(x, x)
            terms["loss"].backward()
            found.append((terms, [p.grad for p in each.parameters()]))
        assert {k: v.item() for k, v in found[0][0].items()} == {k: v.item() for k, v in found[1][0].items()}
        for a, b in zip(found[0][1], found[1][1], strict=True):
            assert a is b is None or torch.equal(a, b)
    assert torch.equal(model.eval().score(x), fixed.eval().score(x))
    assert model.feature_dim == fixed.feature_dim == 3


def test_indices_of_any_size() -> None:
    model, fixed = pair(NETS[0], (16, 24), VQVAE)
    x = torch.rand(2, 3, 16, 24)
    indices = model.encode_indices(x)
    assert torch.equal(model.decode_indices(indices), fixed.decode_indices(indices))
    assert torch.equal(model.rate(x), fixed.rate(x))
    with pytest.raises(InputError, match="indices must be integers"):
        model.decode_indices(indices.flatten(1))


def test_sizes_that_the_stride_does_not_divide_are_refused_whoever_asks() -> None:
    model = Autoencoder(ANY, 3, architecture=NETS[0])
    for size in ((18, 24), (16, 1), (1, 1), (2, 2)):
        x = torch.rand(2, 3, *size)
        for call in (model.encode, model, model.unpack, model.features, lambda x: model.loss(x, x)):
            with pytest.raises(InputError, match=f"images of {size[0]} x {size[1]} pixels.* multiples of 4"):
                call(x)
    with pytest.raises(InputError, match="crop to 16 x 24, or pad to 20 x 24"):
        model(torch.rand(1, 3, 18, 24))
    with pytest.raises(InputError, match="hint: pad to 4 x 4"):
        model(torch.rand(1, 3, 1, 1))
    with pytest.raises(
        InputError, match=r"takes 3 x any x any, in multiples of 4, not samples of the shape \(3, 6, 4\)"
    ):
        model.code_shape_of((3, 6, 4))
    with pytest.raises(InputError, match=r"code_shape_of\(\(3, height, width\)\)"):
        _ = model.code_shape
    with pytest.raises(InputError, match=r"samples have the shape \(1, 8, 8\)"):
        model.unpack(torch.rand(2, 1, 8, 8))


@pytest.mark.parametrize("shape", [(3, None, 16), (None, None, None), (None,), (3, None), (3, None, None, None)])
def test_shapes_that_are_refused(shape: Any) -> None:
    with pytest.raises(InputError, match="input_shape must be the shape of one sample"):
        Autoencoder(shape, 3, architecture=NETS[0])


@pytest.mark.parametrize("net", [MLP(), ConvNet(), ResNet(), SequenceNet(code="map")], ids=str)
def test_networks_of_one_size_are_refused(net: Architecture) -> None:
    assert net.multiple is None
    with pytest.raises(InputError, match="takes inputs of one size"):
        Autoencoder(ANY, 3, architecture=net)


def test_what_needs_one_size_says_so(tmp_path: Path) -> None:
    net = NETS[0]
    for make in (VampPriorVAE, AdversarialAutoencoder):
        with pytest.raises(InputError, match="one size|no one shape"):
            make(ANY, 3, architecture=net)
    with pytest.raises(InputError, match="no one shape"):
        VAE(ANY, 3, architecture=net).sample(2)
    trainer = pl.Trainer(callbacks=[SampleGrid(4)], accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(InputError, match="SampleGrid needs inputs of one size"):
        trainer.fit(VAE(ANY, 3, architecture=net), torch.utils.data.DataLoader(torch.rand(4, 3, 8, 8)))
    with pytest.raises(InputError, match=r"a graph needs inputs of one size.*\n.*input_shape=\(3, 64, 64\)"):
        export(Autoencoder(ANY, 3, architecture=net), tmp_path / "m.onnx")


@pytest.mark.parametrize("options", [{"channels": 6}, {"channels": 0}, {"blocks": ()}, {"blocks": (0,)}, {"pooled": 1}])
def test_tiny_networks_that_cannot_be(options: Any) -> None:
    with pytest.raises(InputError, match=f"{next(iter(options))} of TinyNet must be"):
        TinyNet(**options)


def test_a_tiny_network_of_one_size_takes_multiples() -> None:
    with pytest.raises(InputError, match="images of 12 x 16 pixels.*\n.*pad to 16 x 16"):
        Autoencoder((3, 12, 16), 4, architecture=TinyNet())


class Uneven(ConvNet):
    """A user's own, whose decoder gives something else."""

    def decoder(self, features: int, output_shape: Any) -> Any:
        return torch.nn.Sequential(super().decoder(features, output_shape), torch.nn.ZeroPad2d((0, 1, 0, 0)))


def test_a_network_of_ones_own_is_asked() -> None:
    with pytest.raises(InputError, match="the decoder of Uneven gives"):
        Autoencoder(ANY, 3, architecture=Uneven((4, 6), code="map"))


# ---- data in natural units ------------------------------------------------------------------------------------------


def photographs(size: tuple[int, int], n: int = 6) -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset.from_dict(
        {"image": [PILImage.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for _ in range(n)]}
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    rows = photographs((20, 28))
    data = HFDataModule(DatasetDict(train=rows, test=rows), kind=Image(size=(16, 16)), cache="memory", batch_size=3)
    model = Autoencoder(ANY, 3, architecture=NETS[0])
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path_factory.mktemp("t"),
    )
    trainer.fit(model, data)
    file = str(tmp_path_factory.mktemp("c") / "a.ckpt")
    trainer.save_checkpoint(file)
    return model, file


def test_the_signature_says_any(trained: Any) -> None:
    model = load_model(trained[1])
    assert model.preprocess == ImagePreprocess(channels=3, multiple=4)
    assert model.signature.hash == type(model.signature).from_plain(model.signature.plain()).hash
    assert "multiple" not in str(Signature(ImagePreprocess((8, 8), 1)).plain())  # hashes of others stay
    x = torch.randint(256, (2, 3, 24, 40), dtype=torch.uint8)
    found = model.features(x)
    assert torch.equal(found, model.encode(x.float() / 255))  # nothing resizes
    assert found.shape == (2, 3, 6, 10)
    assert torch.allclose(model.features(x, pooled=True), found.mean((2, 3)), atol=1e-6)
    pictures = [PILImage.fromarray(each.permute(1, 2, 0).numpy()) for each in x]
    assert torch.equal(model.features(pictures), found)
    assert torch.equal(model.features(pictures[0]), found[:1])
    assert torch.equal(model.features(np.asarray(pictures[0])), found[:1])


def test_images_go_in_as_they_are_or_not_at_all(trained: Any) -> None:
    model = trained[0]
    grey, odd, other = PILImage.new("L", (8, 8)), PILImage.new("RGB", (9, 8)), PILImage.new("RGB", (16, 8))
    good = PILImage.new("RGB", (8, 8))
    for images, words in (
        ([good, grey], "row 1: images in grey, where the model takes colour as it is"),
        (torch.zeros(2, 1, 8, 8), "images in grey"),
        ([good, odd], "row 1: images of 8 x 9 pixels"),
        (torch.zeros(1, 3, 1, 1), "images of 1 x 1 pixels"),
        ([good, other], "the samples must have one shape"),
    ):
        with pytest.raises(InputError, match=words):
            model.features(images)
    for options in ({"multiple": 0}, {"multiple": 8, "size": (8, 8)}, {"multiple": True}):
        with pytest.raises(InputError, match="multiple must be"):
            ImagePreprocess(**options)


def test_data_of_another_size_evaluate_and_training_goes_on(trained: Any, tmp_path: Path) -> None:
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "default_root_dir": tmp_path}
    rows = photographs((20, 28))

    def data(size: Any) -> HFDataModule:
        return HFDataModule(DatasetDict(train=rows, test=rows), kind=Image(size=size), cache="memory", batch_size=3)

    model = load_model(trained[1])
    whole = pl.Trainer(**quiet, enable_checkpointing=False).test(model, data(None), verbose=False)[0]["test/loss"]
    x = torch.stack([torch.from_numpy(np.array(each)).permute(2, 0, 1) for each in rows["image"]]).float() / 255
    assert whole == pytest.approx(model.loss(x, x)["loss"].item(), rel=1e-5)
    pl.Trainer(max_epochs=2, **quiet).fit(
        Autoencoder(ANY, 3, architecture=NETS[0]), data((16, 16)), ckpt_path=trained[1]
    )
    mixed = HFDataModule(DatasetDict(train=rows, test=photographs((22, 28))), kind=Image(), cache="memory")
    with pytest.raises(InputError, match="images of 22 x 28 pixels"):
        pl.Trainer(**quiet).test(model, mixed, verbose=False)


def test_batches_of_several_sizes_train(tmp_path: Path) -> None:
    """Each batch of one size; that they differ is nobody's concern."""
    batches = [torch.rand(2, 3, 8, 8), torch.rand(2, 3, 12, 16)]
    model = VAE(ANY, 3, architecture=NETS[4])
    trainer = pl.Trainer(
        max_steps=4, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    trainer.fit(model, torch.utils.data.DataLoader(batches, batch_size=None))
    assert trainer.global_step == 4


@pytest.mark.slow
def test_exact_on_two_ranks() -> None:
    net = {
        "class_path": "lightning_ae.architectures.ConvNet",
        "init_args": {"channels": [4, 6], "code": "map"},
    }
    case = Case("VAE", {"input_shape": [3, None, None], "architecture": net})
    (found,) = certify([case], worlds=[2])
    assert found.passed, found
