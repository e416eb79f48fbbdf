"""Images as small files and back: the format read by hand, what is damaged, or of another model, and what stays."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from codec_files import checkpoint, photos, picture
from PIL import Image

from lightning_ae import VAE, Autoencoder, ConditionalVAE, InputError, zoo
from lightning_ae.architectures import ConvNet, TinyNet
from lightning_ae.cli import main
from lightning_ae.cli.compression import MODEL, decode, encode
from lightning_ae.preprocess import ImagePreprocess
from lightning_ae.uses import Codec, Compressed, codec_rates, pillow_rates, psnr, rates_figure

NET = TinyNet(8, (1, 1, 1))


def made(seed: int = 0, **options: Any) -> Autoencoder:
    torch.manual_seed(seed)
    model = Autoencoder((3, None, None), 5, architecture=options.pop("architecture", NET), **options)
    model.preprocess = ImagePreprocess(channels=3, multiple=4, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))
    return model.eval()


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec(made(), "mine")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return [checkpoint(made(seed), folder / f"model{seed}.ckpt") for seed in (0, 1)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (photos(tmp_path) / "photos" / "notes.txt").write_text("none")
    return tmp_path


# ---- codes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 9))
def test_levels_lie_between_a_channels_ends(codec: Codec, bits: int) -> None:
    image = picture(20, 32)  # as it is: nothing to pad
    code, found = codec.model.features(image)[0], codec.compress(image, bits)
    low, step = (torch.from_numpy(each)[:, None, None] for each in (found.low, found.step))
    levels = torch.from_numpy(found.levels.copy())
    assert (levels.amin((1, 2)) == 0).all()
    assert (levels.amax((1, 2)) == 2**bits - 1).all()
    assert ((low + levels * step - code).abs() <= 0.5001 * step).all()  # the nearest level
    torch.testing.assert_close(low[:, 0, 0], code.amin((1, 2)))
    torch.testing.assert_close(low[:, 0, 0] + (2**bits - 1) * step[:, 0, 0], code.amax((1, 2)))
    again = codec.model.decode((low + levels * step)[None]).detach()
    natural = (again * torch.tensor((0.2, 0.3, 0.2)).view(3, 1, 1) + torch.tensor((0.4, 0.5, 0.6)).view(3, 1, 1))[0]
    expected = (255 * natural.clamp(0, 1)).round().permute(1, 2, 0).numpy()
    assert np.abs(codec.decompress(found).astype(int) - expected).max() <= 1


def test_the_file_is_what_is_said_of_it(codec: Codec) -> None:
    import zstandard

    found = codec.compress(picture(), 8)
    data = found.to_bytes()
    magic, bits, grey, channels, h, w, height, width, model, length = struct.unpack_from("<5sBBHIIII16sB", data)
    assert (magic, bits, grey, channels, h, w, height, width) == (b"LAEC\x01", 8, 0, 5, 6, 9, 21, 34)
    assert data[42 : 42 + length] == b"mine"
    low, step = np.frombuffer(data[46 : 46 + 40], "<f4").reshape(2, 5)
    levels = np.frombuffer(zstandard.decompress(data[86:-16], max_output_size=5 * 6 * 9), np.uint8).reshape(5, 6, 9)
    assert hashlib.blake2b(data[:-16], digest_size=16).digest() == data[-16:]
    again = Compressed.from_bytes(data, "file")
    for own, other in ((low, found.low), (step, found.step), (levels, found.levels), (levels, again.levels)):
        assert np.array_equal(own, other)
    assert again.to_bytes() == data == codec.compress(picture(), 8).to_bytes()
    assert (again.model, again.size, again.name) == (codec.identity, (21, 34), "mine")


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 3), (7, 8), (12, 13)])
def test_any_size_comes_back(codec: Codec, size: tuple[int, int]) -> None:
    image = picture(*size)
    found = codec.compress(image)
    assert codec.decompress(found).shape == (*size, 3)
    by_hand = np.pad(np.asarray(image), ((0, -size[0] % 4), (0, -size[1] % 4), (0, 0)), mode="edge")
    whole = codec.compress(Image.fromarray(by_hand))
    assert np.array_equal(whole.levels, found.levels)
    assert np.array_equal(codec.decompress(whole)[: size[0], : size[1]], codec.decompress(found))


def test_grey_comes_back_grey(codec: Codec) -> None:
    grey = picture(channels=1)
    found = codec.compress(grey)
    colour = codec.compress(grey.convert("RGB"))
    assert np.array_equal(found.levels, colour.levels)
    assert (found.grey, colour.grey) == (True, False)
    again = codec.decompress(Compressed.from_bytes(found.to_bytes(), "f"))
    luma = np.asarray(Image.fromarray(codec.decompress(colour)).convert("L"))
    assert again.shape == luma.shape
    assert np.abs(again.astype(int) - luma).max() <= 1


def test_constant_images(codec: Codec) -> None:
    flat = Compressed(
        np.zeros((5, 1, 1), np.uint8), np.ones(5, np.float32), np.zeros(5, np.float32), 8, (3, 3), False, codec.identity
    )
    assert codec.decompress(Compressed.from_bytes(flat.to_bytes(), "f")).shape == (3, 3, 3)
    one = codec.compress(Image.new("RGB", (2, 2)))
    assert (one.step == 0).all()
    assert (one.levels == 0).all()
    torch.testing.assert_close(torch.from_numpy(one.low), codec.model.features(Image.new("RGB", (4, 4)))[0, :, 0, 0])


def test_psnr_is_that_of_scikit_image(codec: Codec) -> None:
    from skimage.metrics import peak_signal_noise_ratio

    again = codec.decompress(codec.compress(picture()))
    assert psnr(picture(), again) == pytest.approx(peak_signal_noise_ratio(np.asarray(picture()), again))
    assert psnr(picture(), np.asarray(picture())) == 100


def test_what_does_not_come_back_is_refused(codec: Codec) -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 100))
    for image, words in (
        (clear, "transparent in parts"),
        (clear.convert("PA"), "transparent in parts"),
        (Image.new("I;16", (8, 8)), "more than 8 bits"),
        (np.zeros((8, 8, 5), np.uint8), "one channel or three"),
    ):
        with pytest.raises(InputError, match=words):
            codec.compress(image)
    opaque = picture().convert("RGBA")
    assert np.array_equal(codec.compress(opaque).levels, codec.compress(picture()).levels)
    for bits in (0, 9, 2.5, True):
        with pytest.raises(InputError, match="bits must be a number from 1 to 8"):
            codec.compress(picture(), bits)  # type: ignore[arg-type]
    broken = made()
    torch.nn.init.constant_(broken.encoder.head.bias, torch.nan)  # type: ignore[union-attr, arg-type]
    with pytest.raises(InputError, match="not finite"):
        Codec(broken).compress(picture())


class Several(Autoencoder):
    def encode(self, x: torch.Tensor, **given: torch.Tensor) -> Any:
        return (super().encode(x, **given),) * 2


def test_models_that_are_no_codec() -> None:
    net = ConvNet((4, 6), code="map")
    any_size = (3, None, None)
    for model, words in (
        (Autoencoder((3, 8, 8), 3, architecture=net), r"takes images of \(3, 8, 8\)"),
        (ConditionalVAE(any_size, 3, architecture=net, num_classes=3), "takes more than its input"),
        (Several(any_size, 3, architecture=net), "the codes of Several are several"),
        (VAE(any_size, 3, architecture=net), "does not say what images it takes"),
    ):
        with pytest.raises(InputError, match=words):
            Codec(model)


def test_rates_are_those_of_the_files(codec: Codec) -> None:
    images = [picture(16, 24), picture(9, 40)]
    pixels = 16 * 24 + 9 * 40
    for rate, bits in zip(codec_rates(codec, images, (2, 8)), (2, 8), strict=True):
        codes = [codec.compress(image, bits) for image in images]
        assert (rate.codec, rate.setting) == ("mine", bits)
        assert rate.bits_per_pixel == pytest.approx(8 * sum(len(code.to_bytes()) for code in codes) / pixels)
        own = [psnr(image, codec.decompress(code)) for image, code in zip(images, codes, strict=True)]
        assert rate.psnr == pytest.approx(np.mean(own))
    (low, high) = jpeg = pillow_rates(images, "JPEG", (10, 90))
    sizes = []
    for image in images:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        sizes.append(len(file.getvalue()))
    assert high.bits_per_pixel == pytest.approx(8 * sum(sizes) / pixels)
    assert (low.bits_per_pixel, low.psnr) < (high.bits_per_pixel, high.psnr)
    (axes,) = rates_figure([*jpeg, *pillow_rates(images, "WEBP", (50,))]).axes
    assert [line.get_label() for line in axes.lines] == ["JPEG", "WEBP"]
    assert axes.lines[0].get_ydata().tolist() == [low.psnr, high.psnr]
    for empty in (lambda: codec_rates(codec, []), lambda: pillow_rates([], "JPEG")):
        with pytest.raises(InputError, match="there are no images"):
            empty()


# ---- files that are wrong -------------------------------------------------------------------------------------------


def test_every_damage_is_noticed(codec: Codec) -> None:
    data = codec.compress(picture()).to_bytes()
    for place in range(0, len(data), 7):
        wrong = bytearray(data)
        wrong[place] ^= 1
        with pytest.raises(InputError, match="f.laec (is damaged|holds no code|is of another format)"):
            Compressed.from_bytes(bytes(wrong), "f.laec")
    for wrong_bytes in (data[:-1], data[:30], data + b"\0", b"", data[4:], b"LAEC"):
        with pytest.raises(InputError, match="f.laec (is damaged|holds no code|is of another format)"):
            Compressed.from_bytes(wrong_bytes, "f.laec")


def test_files_that_lie_with_a_right_checksum(codec: Codec) -> None:
    data = codec.compress(picture()).to_bytes()

    def lying(offset: int, kind: str, value: int) -> bytes:
        changed = bytearray(data[:-16])
        struct.pack_into(kind, changed, offset, value)
        return bytes(changed) + hashlib.blake2b(changed, digest_size=16).digest()

    for offset, kind, value in (
        (5, "<B", 9), (5, "<B", 0), (7, "<H", 0), (7, "<H", 60000), (9, "<I", 7), (9, "<I", 5), (13, "<I", 1 << 31),
        (17, "<I", 0), (41, "<B", 255),
    ):  # fmt: skip
        with pytest.raises(InputError, match="is damaged"):
            Compressed.from_bytes(lying(offset, kind, value), "f")
    for offset, value in ((17, 4), (21, 400)):
        with pytest.raises(InputError, match=r"a code of \(5, 6, 9\) is none of an image of"):
            codec.decompress(Compressed.from_bytes(lying(offset, "<I", value), "f"))


def test_another_model_is_refused(codec: Codec) -> None:
    found = codec.compress(picture())
    assert Codec(made(), "again").identity == codec.identity
    others = {
        "weights": made(1),
        "architecture": made(architecture=dataclasses.replace(NET, blocks=(1, 1, 1), pooled=False)),
        "preprocess": made(),
    }
    others["preprocess"].preprocess = ImagePreprocess(channels=3, multiple=4)
    for other in others.values():
        with pytest.raises(InputError, match=r"of another model, mine \([0-9a-f]{32}\), than theirs"):
            Codec(other, "theirs").decompress(found)


# ---- the command line -----------------------------------------------------------------------------------------------


def test_there_and_back(folder: Path, checkpoints: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    codes, images = folder / "codes", folder / "images"
    main(["encode", str(folder / "photos"), "--to", str(codes), "--checkpoint", checkpoints[0], "--device", "cpu"])
    said = capsys.readouterr().out
    assert "left out, as they are no images: notes.txt" in said
    main(["decode", str(codes), "--to", str(images), "--checkpoint", checkpoints[0], "--device", "cpu"])
    table = json.loads((codes / "compression.json").read_text())
    assert [row["file"] for row in table["images"]] == ["a.laec", "sub/grey.laec"]
    for row, name in zip(table["images"], ("a", "sub/grey"), strict=True):
        original, again = (Image.open(folder / where / f"{name}.png") for where in ("photos", "images"))
        assert (original.size, original.mode) == (again.size, again.mode)
        assert again.size == (row["width"], row["height"])
        assert row["bytes"] == (codes / row["file"]).stat().st_size
        assert row["bits_per_pixel"] == pytest.approx(8 * row["bytes"] / (row["width"] * row["height"]), abs=1e-4)
        assert row["psnr"] == pytest.approx(psnr(original, np.asarray(again)), abs=1e-3)
    assert table["whole"]["psnr"] == pytest.approx(np.mean([row["psnr"] for row in table["images"]]), abs=1e-3)
    total = 8 * sum(row["bytes"] for row in table["images"]) / (21 * 34 + 8 * 9)
    assert table["whole"]["bits_per_pixel"] == pytest.approx(total, abs=1e-4)
    assert not [file for file in folder.rglob("*") if file.name.startswith(".part-")]
    # one file, elsewhere
    assert encode(str(folder / "photos" / "a.png"), str(folder / "one"), checkpoints[0], device="cpu").is_dir()
    assert (folder / "one" / "a.laec").read_bytes()[47:] == (codes / "a.laec").read_bytes()[47:]


def test_what_is_there_stays(folder: Path, checkpoints: list[str]) -> None:
    def run(overwrite: bool = False, **options: Any) -> None:
        encode(
            str(folder / "photos"), str(folder / "codes"), checkpoints[0], device="cpu", overwrite=overwrite, **options
        )

    run()
    before = {file: file.read_bytes() for file in (folder / "codes").rglob("*") if file.is_file()}
    with pytest.raises(InputError, match="exists already"):
        run()
    assert before == {file: file.read_bytes() for file in before}
    run(overwrite=True, bits=2)
    assert all(file.read_bytes() != was for file, was in before.items())
    decode(str(folder / "codes"), str(folder / "images"), checkpoints[0], device="cpu")
    with pytest.raises(InputError, match="exists already"):
        decode(str(folder / "codes"), str(folder / "images"), checkpoints[0], device="cpu")


def test_a_damaged_file_is_named_before_anything_is_written(folder: Path, checkpoints: list[str]) -> None:
    codes = folder / "codes"
    encode(str(folder / "photos"), str(codes), checkpoints[0], device="cpu")
    with pytest.raises(InputError, match=r"a\.laec: the code is of another model, .*model0\.ckpt"):
        decode(str(codes), str(folder / "images"), checkpoints[1], device="cpu")
    last = codes / "sub" / "grey.laec"
    last.write_bytes(last.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"grey\.laec is damaged: its checksum is another"):
        decode(str(codes), str(folder / "images"), checkpoints[0], device="cpu")
    assert not (folder / "images").exists()


def test_images_that_cannot_be(folder: Path, checkpoints: list[str]) -> None:
    photos = folder / "photos"

    def run() -> None:
        encode(str(photos), str(folder / "codes"), checkpoints[0], device="cpu")

    def refused(name: str, words: str) -> None:
        with pytest.raises(InputError, match=words):
            run()
        (photos / name).unlink()
        assert not (folder / "codes").exists()

    (photos / "0.png").write_bytes((photos / "a.png").read_bytes()[:100])
    refused("0.png", r"0\.png is not a readable image")
    Image.new("RGBA", (8, 8), (0, 0, 0, 9)).save(photos / "0.png")
    refused("0.png", r"0\.png: the image is transparent")
    picture().save(photos / "0.gif", save_all=True, append_images=[picture(21, 34).rotate(90)])
    refused("0.gif", r"0\.gif holds 2 images")
    picture().save(photos / "a.jpg")
    refused("a.jpg", r"a\.jpg and .*a\.png would both become .*a\.laec")
    with pytest.raises(InputError, match="there is no file and no folder"):
        encode(str(folder / "none"), checkpoint=checkpoints[0])
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        encode(str(folder / "empty"), checkpoint=checkpoints[0])
    with pytest.raises(InputError, match="holds no codes"):
        decode(str(photos), checkpoint=checkpoints[0])
    with pytest.raises(InputError, match="where a codec takes images of any size"):
        encode(str(photos), str(folder / "codes"), "ae_mlp.digits_v1", device="cpu")
    with pytest.raises(InputError, match="bits must be"):
        encode(str(photos), str(folder / "codes"), checkpoints[0], bits=9, device="cpu")


def test_the_default_is_the_bundled_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert MODEL in zoo.list_models()
    assert Codec(zoo.load(MODEL)).identity.hex() == "459f070da784ae99ec74d9f6da441223"  # files of before name it
    Path("p").mkdir()
    picture(60, 90).save("p/a.webp", lossless=True)
    main(["encode", "p", "--to", "c"])
    main(["decode", "c", "--to", "d"])
    assert psnr(picture(60, 90), np.asarray(Image.open("d/a.png"))) > 25
