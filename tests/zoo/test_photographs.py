"""The bundled autoencoder of photographs, whose weights others made, and how such weights are imported."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lightning_ae import Autoencoder, InputError, zoo
from lightning_ae.architectures import TinyNet
from lightning_ae.cli import main
from lightning_ae.preprocess import ImagePreprocess
from lightning_ae.zoo import index
from lightning_ae.zoo.publishing import imported
from lightning_ae.zoo.publishing.entry import preview
from lightning_ae.zoo.publishing.evaluate import measure_photographs, photographs
from lightning_ae.zoo.publishing.imported import check_given, publish_imported, read_state_dict, take_in_order
from lightning_ae.zoo.schema import Entry, parse
from lightning_ae.zoo.transformer import EncoderTransformer

NAME = "ae_tiny.taef2_v1"
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def model() -> Autoencoder:
    return zoo.load(NAME)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    y, x = np.mgrid[:64, :96] / 16
    return np.stack([127 + 120 * np.sin(x + c) * np.cos(y - c) for c in range(3)], axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def theirs(shared_data: Path) -> Path:
    return shared_data / "taef2"


def command() -> Any:
    spec = importlib.util.spec_from_file_location("import_taef2", ROOT / "zoo" / "import_taef2.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_gives_what_the_authors_code_gives(model: Autoencoder, theirs: Path) -> None:
    golden = load_file(theirs / "golden.safetensors")
    code = model.features(golden["image"])
    torch.testing.assert_close(code, golden["latent"], rtol=0, atol=1e-4)
    torch.testing.assert_close(model.decode(golden["latent"]), golden["reconstruction"], rtol=0, atol=1e-3)
    torch.testing.assert_close(model(golden["image"] / 255), golden["reconstruction"], rtol=0, atol=1e-3)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_photograph_there_and_back(model: Autoencoder, picture: np.ndarray) -> None:
    code = model.features(Image.fromarray(picture))
    assert code.shape == (1, 32, 8, 12)
    assert (1, *model.code_shape_of((3, 64, 96))) == tuple(code.shape)
    again = model.decode(code).detach()
    assert again.shape == (1, 3, 64, 96)
    error = (again.clamp(0, 1) - torch.from_numpy(picture).permute(2, 0, 1) / 255).square().mean()
    assert float(error) < 1e-3  # a smooth one: 30 dB and more
    assert torch.allclose(model.features(picture), code, atol=1e-5)
    assert torch.allclose(model.features([picture], pooled=True), code.mean((2, 3)), atol=1e-5)


def test_its_encoder(model: Autoencoder, picture: np.ndarray) -> None:
    code = model.features(picture)
    assert torch.allclose(zoo.load_encoder(NAME).features(picture), code, atol=1e-5)
    assert torch.allclose(zoo.load_encoder(NAME, pool="avg").features(picture), code.mean((2, 3)), atol=1e-5)
    assert torch.allclose(zoo.load_encoder(NAME, pool="max").features(picture), code.amax((2, 3)), atol=1e-5)
    assert zoo.load_encoder(NAME, layer="stages.2", pool="avg").features(picture).shape == (1, 64)
    assert zoo.load_encoder(NAME).feature_dim == 32
    with pytest.raises(InputError, match=r"takes any height and width in multiples of 8"):
        zoo.load_encoder(NAME).features(picture[:60])
    with pytest.raises(InputError, match="EncoderTransformer needs inputs of one size"):
        EncoderTransformer(NAME).fit([picture])
    with pytest.raises(InputError, match="a graph needs inputs of one size"):
        zoo.load_encoder(NAME).export("encoder.pt2")


def test_psnr_is_that_of_scikit_image(model: Autoencoder, picture: np.ndarray) -> None:
    from skimage.metrics import peak_signal_noise_ratio

    (metric,) = measure_photographs(model, [picture, Image.fromarray(picture[:, ::-1])], "two")
    expected = []
    for each in (picture, picture[:, ::-1]):
        made = model(torch.from_numpy(each.copy()).permute(2, 0, 1)[None] / 255).detach().clamp(0, 1)[0]
        expected.append(peak_signal_noise_ratio(each / 255, made.permute(1, 2, 0).double().numpy(), data_range=1))
    assert (metric.n, metric.dataset) == (2, "two")
    assert metric.value == pytest.approx(np.mean(expected), abs=1e-3)


@pytest.mark.slow
def test_psnr_on_kodak(shared_data: Path) -> None:
    (check,) = zoo.reproduce(NAME, str(shared_data / "kodak")).checks
    assert check.passed
    assert check.measured == pytest.approx(30.19, abs=0.01)  # the authors' code


def test_what_cannot_be_measured_or_trained_again() -> None:
    with pytest.raises(InputError, match="of the data set kodak, which no hub id names"):
        zoo.reproduce(NAME)
    with pytest.raises(InputError, match="names no recipe"):
        zoo.reproduce(NAME, train=True)


def test_the_card_says_whose_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    card = (index.zoo_folder() / "weights" / NAME / "README.md").read_text()
    for said in (
        "Ollin Boer Bohan",
        "https://github.com/madebyollin/taesd",
        "licence MIT",
        "psnr 30.19 ",
        "model.decode",
    ):
        assert said in card
    assert "Copyright (c) 2023 Ollin Boer Bohan" in (index.zoo_folder() / "weights" / NAME / "LICENSE.txt").read_text()
    main(["zoo", "info", NAME])
    main(["zoo", "list", "taef2"])
    assert "3 x any x any, in multiples of 8" in capsys.readouterr().out


def test_the_card_shows_photographs_above_their_reconstructions(model: Autoencoder, shared_data: Path) -> None:
    folder = index.zoo_folder() / "weights" / NAME
    assert (
        "![Images of kodak, scaled down, above their reconstructions](preview.png)"
        in (folder / "README.md").read_text()
    )
    data = (folder / "preview.png").read_bytes()
    assert len(data) < 200_000
    assert hashlib.sha256(data).hexdigest() == zoo.info(NAME).file("preview.png").sha256
    found = np.asarray(Image.open(folder / "preview.png"))
    assert found.shape == (2 * 82, 5 * 122, 3)
    images = photographs(str(shared_data / "kodak"))
    drawn = Image.open(io.BytesIO(preview(model, imported._shown(model, images), {}, 5)))
    assert np.abs(np.asarray(drawn).astype(int) - found).max() <= 2  # by the same function
    for place, number in enumerate((0, 4, 9, 14, 19)):
        above, below = (found[row : row + 80, place * 122 + 1 : place * 122 + 121] for row in (1, 83))
        small = images[number].convert("RGB").resize((120, 80), Image.Resampling.BICUBIC)
        if images[number].width > images[number].height:  # the others are cut
            assert np.abs(above.astype(int) - np.asarray(small)).max() <= 1
        again = model.decode(model.features(above)).detach()[0].clamp(0, 1).permute(1, 2, 0).numpy()
        assert np.abs(below - 255 * again).max() <= 2
        assert np.abs(below.astype(int) - above).mean() > 1  # not the image itself


def test_a_preview_of_fewer_images(model: Autoencoder, picture: np.ndarray) -> None:
    """Of another shape, and grey: cut around the centre, in colour; as many as there are."""
    tall = Image.fromarray(picture).resize((40, 90)).convert("L")
    x = imported._shown(model, [tall, Image.fromarray(picture)])
    assert x.shape == (2, 3, 80, 120)
    assert torch.equal(x[0, 0], x[0, 1])
    assert imported._shown(model, [tall] * 24).shape == (5, 3, 80, 120)


def test_an_entry_was_trained_or_imported() -> None:
    plain = zoo.info(NAME).model_dump(by_alias=True, mode="json")
    trained = zoo.info("ae_mlp.digits_v1").model_dump(by_alias=True, mode="json")
    for wrong in (plain | {"imported": None}, plain | {"recipe": trained["recipe"]}, trained | {"recipe": None}):
        with pytest.raises(InputError, match="by which recipe it was trained, or where it was imported from"):
            parse(Entry, wrong, "wrong")
    with pytest.raises(InputError, match="data must have an id"):
        parse(Entry, trained | {"data": trained["data"] | {"id": None}}, "wrong")
    with pytest.raises(InputError, match="a size, or a multiple"):
        parse(Entry, plain | {"preprocess": plain["preprocess"] | {"multiple": None}}, "wrong")
    with pytest.raises(InputError, match="input_shape"):
        parse(Entry, plain | {"config": plain["config"] | {"input_shape": [3, None, 8]}}, "wrong")
    with pytest.raises(InputError, match="input_shape"):
        parse(Entry, trained | {"config": trained["config"] | {"input_shape": [1, None, None]}}, "wrong")


def test_weights_of_another_type_than_is_said_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    shutil.copytree(index.zoo_folder() / "weights" / NAME, folder)
    assert zoo.load(folder).features(np.zeros((8, 16, 3), np.uint8)).shape == (1, 32, 1, 2)
    weights = load_file(folder / "model.safetensors")
    weights["encoder.head.bias"] = weights["encoder.head.bias"].float()
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"holds encoder.head.bias in torch.float32, where its config says float16"):
        zoo.load(folder)


# ---- importing ------------------------------------------------------------------------------------------------------


def test_the_command_converts(theirs: Path, tmp_path: Path, model: Autoencoder) -> None:
    found = command().converted(theirs)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), model.parameters(), strict=True))
    for file in theirs.iterdir():
        shutil.copy(file, tmp_path)
    wrong = torch.load(tmp_path / "taef2_decoder.pth", weights_only=True)
    wrong["19.bias"] += 0.01
    torch.save(wrong, tmp_path / "taef2_decoder.pth")
    with pytest.raises(InputError, match=r"the reconstruction differs from the authors' by up to 0\.01"):
        command().converted(tmp_path)


def test_networks_that_differ_are_refused(tmp_path: Path) -> None:
    net = TinyNet(channels=4, blocks=(1, 1))
    one, other = net.encoder((3, None, None), 2), net.encoder((3, None, None), 2)
    theirs = {f"{i}.w": tensor for i, tensor in enumerate(one.state_dict().values())}
    take_in_order(other, theirs, "a.pth")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    with pytest.raises(InputError, match=r"a.pth has \d+ tensors, the network \d+"):
        take_in_order(other, dict(list(theirs.items())[1:]), "a.pth")
    with pytest.raises(InputError, match=r"1.w of a.pth has the shape \(5,\), where stages.0.0.bias has \(4,\)"):
        take_in_order(other, theirs | {"1.w": torch.zeros(5)}, "a.pth")
    for wrong in (torch.ones(2), torch.full((3,), torch.nan)):
        with pytest.raises(InputError, match="the code differs"):
            check_given("code", wrong, torch.zeros(3), 1e-3)
    torch.save({"a": 1}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    for file, words in (("a.pth", "holds a dict, not tensors"), ("b.pth", "holds no weights"), ("c.pth", "no weights")):
        with pytest.raises(InputError, match=words):
            read_state_dict(tmp_path / file)


def test_published_so_that_it_loads(tmp_path: Path, picture: np.ndarray) -> None:
    torch.manual_seed(0)
    model = Autoencoder((3, None, None), 2, architecture=TinyNet(channels=4, blocks=(1, 1))).half().float().eval()
    model.preprocess = ImagePreprocess(channels=3, multiple=2)
    about: dict[str, Any] = {
        "originals": {"a.pth": Path(__file__)}, "licence_text": "as you like", "to": tmp_path, "stored": "float16",
        "metrics": measure_photographs(model, [picture], "kodak"), "authors": "A", "source": "https://a.example/b",
        "command": "c", "stated": {}, "licence": {"weights": "MIT", "data": "NOASSERTION"},
        "data": {"id": None, "provenance": "none"}, "paper": {"title": "A", "url": "https://a.example"},
    }  # fmt: skip
    entry = publish_imported(model, "ae_tiny.a_v1", **about)
    assert not any(file.name == "preview.png" for file in entry.files)  # no images were given
    loaded = zoo.load(tmp_path / "weights" / "ae_tiny.a_v1")
    assert torch.equal(loaded.features(picture), model.features(picture))
    assert (entry.stored, entry.multiple, entry.file("LICENSE.txt").size) == ("float16", 2, len("as you like"))
    assert "ae_tiny.a_v1" in (tmp_path / "weights" / "ae_tiny.a_v1" / "README.md").read_text()
    with pytest.raises(InputError, match="is taken"):
        publish_imported(model, "ae_tiny.a_v1", **about)
    with torch.no_grad():
        model.encoder.head.bias.add_(1e-6)  # type: ignore[union-attr, operator]
    with pytest.raises(InputError, match=r"encoder.head.bias would lose digits in float16"):
        publish_imported(model, "ae_tiny.a_v2", **about)
