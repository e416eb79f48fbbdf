"""Images as files of indices and back: the format read by hand, equal to decode_indices, and what is wrong."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from codec_files import checkpoint, photos, picture
from PIL import Image

from lightning_ae import (
    FSQVAE,
    LFQVAE,
    VQGAN,
    VQVAE,
    VQVAE2,
    GumbelVQVAE,
    InputError,
    ResidualVQVAE,
    SimVQVAE,
)
from lightning_ae.architectures import ConvNet, LatentDiffusionNet
from lightning_ae.cli import main
from lightning_ae.cli.compression import decode, encode
from lightning_ae.parts import GradientVectorQuantizer, VectorQuantizer
from lightning_ae.preprocess import ImagePreprocess
from lightning_ae.uses import Codec, Compressed, CompressedIndices, codec_rates, psnr, read_code

NET = ConvNet((4, 6), code="map")
MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "vq": (VQVAE, {"quantizer": VectorQuantizer(codes=700)}),
    "gradient": (VQVAE, {"quantizer": GradientVectorQuantizer(codes=20, start="kmeans")}),
    "residual": (ResidualVQVAE, {"layers": 3, "codes": 20}),
    "finite scalars": (FSQVAE, {"latent_dim": 6, "levels": (40, 40, 50)}),  # two indices of 80 000
    "signs": (LFQVAE, {"latent_dim": 8}),
    "sim": (SimVQVAE, {"codes": 300}),
    "gumbel": (GumbelVQVAE, {"codes": 2}),
    "two levels": (VQVAE2, {"quantizer": VectorQuantizer(codes=300)}),
    "vqgan": (
        VQGAN,
        {"quantizer": VectorQuantizer(codes=17), "critic": None, "architecture": LatentDiffusionNet((8, 16))},
    ),
}


def made(name: str = "vq", seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    kind, own = MODELS[name]
    model = kind((3, None, None), **{"architecture": NET, **own, **options})
    model.preprocess = ImagePreprocess(channels=3, multiple=model.multiple, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))
    return model.eval()


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec(made(), "mine")


def by_hand(model: Any, image: Image.Image) -> tuple[Any, np.ndarray]:
    """The indices of an image, and what they decode to, in the model's own words."""
    m = model.multiple
    array = np.asarray(image.convert("RGB"))
    height, width = array.shape[:2]
    padded = np.pad(array, ((0, -height % m), (0, -width % m), (0, 0)), mode="edge").transpose(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in ((0.4, 0.5, 0.6), (0.2, 0.3, 0.2)))
    with torch.no_grad():
        indices = model.encode_indices((torch.from_numpy(padded).float() - mean) / std)
        again = model.decode_indices(indices)[0] * std + mean
    return indices, (255 * again.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()[:height, :width]


# ---- there and back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_what_comes_back_is_what_the_indices_decode_to(name: str) -> None:
    model = made(name)
    codec = Codec(model, name)
    for size in ((21, 34), (1, 1) if name != "vqgan" else (3, 1), (16, 8)):  # a group norm of one value is none
        indices, again = by_hand(model, picture(*size))
        code = read_code(codec.compress(picture(*size)).to_bytes(), "f")
        assert isinstance(code, CompressedIndices)
        for part, found, book in zip(
            indices if isinstance(indices, tuple) else (indices,), code.indices, model.codebooks, strict=True
        ):
            assert np.array_equal(part[0].numpy(), found if book.depth > 1 else found[0])
            assert found.dtype == np.int64
        assert np.array_equal(codec.decompress(code), again)


def test_grey_comes_back_grey(codec: Codec) -> None:
    grey, colour = codec.compress(picture(channels=1)), codec.compress(picture(channels=1).convert("RGB"))
    assert isinstance(grey, CompressedIndices)
    assert isinstance(colour, CompressedIndices)
    assert np.array_equal(grey.indices[0], colour.indices[0])
    luma = np.asarray(Image.fromarray(codec.decompress(colour)).convert("L"))
    assert np.abs(codec.decompress(read_code(grey.to_bytes(), "f")).astype(int) - luma).max() <= 1


@pytest.mark.parametrize(("codes", "planes", "bits"), [(2, 1, 1), (256, 1, 8), (257, 2, 9), (80_000, 3, 17)])
def test_the_file_is_what_is_said_of_it(codes: int, planes: int, bits: int) -> None:
    import zstandard

    rng = np.random.default_rng(0)
    parts = (rng.integers(codes, size=(2, 5, 7)), rng.integers(9, size=(1, 3, 4)))
    code = CompressedIndices(parts, (codes, 9), (20, 28), True, bytes(range(16)), "mine")
    data = code.to_bytes()
    assert code.bits == max(bits, 4)
    magic, grey, levels, height, width, model, length = struct.unpack_from("<5sBBII16sB", data)
    assert (magic, grey, levels, height, width, model) == (b"LAEC\x02", 1, 2, 20, 28, bytes(range(16)))
    assert data[32 : 32 + length] == b"mine"
    assert struct.unpack_from("<QHIIQHII", data, 36) == (codes, 2, 5, 7, 9, 1, 3, 4)
    place = 36 + 36
    for part, each in zip(parts, (planes, 1), strict=True):
        found = 0
        for i in range(each):
            (size,) = struct.unpack_from("<I", data, place)
            plane = zstandard.decompress(data[place + 4 : place + 4 + size], max_output_size=part.size)
            found = found + np.frombuffer(plane, np.uint8).astype(int) * 256**i
            place += 4 + size
        assert np.array_equal(found, part.flatten())
    assert data[place:] == hashlib.blake2b(data[:-16], digest_size=16).digest()
    again = read_code(data, "f")
    assert isinstance(again, CompressedIndices)
    assert again.to_bytes() == data
    assert (again.codes, again.size, again.grey, again.name) == ((codes, 9), (20, 28), True, "mine")


def test_a_file_costs_what_its_indices_do() -> None:
    """Not much more than log2 of the codes for each; less, where some are used more than others."""
    rng = np.random.default_rng(0)
    for codes in (16, 512, 1000):
        even = CompressedIndices((rng.integers(codes, size=(1, 64, 96)),), (codes,), (512, 768), False, bytes(16))
        assert len(even.to_bytes()) <= 1.03 * 64 * 96 * math.ceil(math.log2(codes)) / 8 + 100
        few = CompressedIndices((rng.integers(codes // 8, size=(1, 64, 96)),), (codes,), (512, 768), False, bytes(16))
        assert len(few.to_bytes()) < 0.85 * len(even.to_bytes())


def test_a_rate_is_that_of_the_files(codec: Codec) -> None:
    images = [picture(16, 24), picture(9, 40)]
    (rate,) = codec_rates(codec, images)
    codes = [codec.compress(image) for image in images]
    assert (rate.codec, rate.setting) == ("mine", 10)
    assert rate.bits_per_pixel == pytest.approx(8 * sum(len(c.to_bytes()) for c in codes) / (16 * 24 + 9 * 40))
    own = [psnr(image, codec.decompress(code)) for image, code in zip(images, codes, strict=True)]
    assert rate.psnr == pytest.approx(np.mean(own))


# ---- what is wrong --------------------------------------------------------------------------------------------------


def test_every_damage_is_noticed(codec: Codec) -> None:
    data = codec.compress(picture()).to_bytes()
    for place in range(0, len(data), 5):
        wrong = bytearray(data)
        wrong[place] ^= 1
        with pytest.raises(InputError, match="f.laec (is damaged|holds no code|is of another format)"):
            read_code(bytes(wrong), "f.laec")
    for short in range(0, len(data), 9):
        with pytest.raises(InputError, match="f.laec (is damaged|holds no code)"):
            read_code(data[:short], "f.laec")
    with pytest.raises(InputError, match="is of another format"):
        Compressed.from_bytes(data, "f")


def signed(data: bytes) -> bytes:
    return data + hashlib.blake2b(data, digest_size=16).digest()


def test_files_that_lie_with_a_right_checksum(codec: Codec) -> None:
    data = codec.compress(picture()).to_bytes()
    head = 36  # with the name "mine"

    def lying(offset: int, kind: str, value: int) -> bytes:
        changed = bytearray(data[:-16])
        struct.pack_into(kind, changed, offset, value)
        return signed(bytes(changed))

    for offset, kind, value in (
        (6, "<B", 0), (6, "<B", 2), (7, "<I", 0), (11, "<I", 0), (31, "<B", 255), (head, "<Q", 0), (head, "<Q", 2**30),
        (head + 8, "<H", 0), (head + 8, "<H", 2), (head + 10, "<I", 1 << 31), (head + 14, "<I", 8),
        (head + 18, "<I", 1 << 31), (head + 18, "<I", 1),
    ):  # fmt: skip
        with pytest.raises(InputError, match="f is damaged"):
            read_code(lying(offset, kind, value), "f")
    for shorter in range(1, 40, 3):
        with pytest.raises(InputError, match="f is damaged"):
            read_code(signed(data[: -16 - shorter]), "f")
    with pytest.raises(InputError, match="f is damaged"):
        read_code(signed(data[:-16] + b"more"), "f")
    largest = int(codec.compress(picture()).indices[0].max())  # type: ignore[union-attr]
    with pytest.raises(InputError, match=f"f holds the index {largest}, where there are 257 codes"):
        read_code(lying(head, "<Q", 257), "f")
    for offset, value in ((7, 4), (11, 400)):
        with pytest.raises(InputError, match=r"a code of \(\(1, 6, 9\), \(700,\)\) is none of an image of"):
            codec.decompress(read_code(lying(offset, "<I", value), "f"))
    with pytest.raises(InputError, match=r"a code of \(\(1, 6, 9\), \(900,\)\) is none of"):
        codec.decompress(read_code(lying(head, "<Q", 900), "f"))


def test_another_model_is_refused(codec: Codec) -> None:
    found = codec.compress(picture())
    assert Codec(made(), "again").identity == codec.identity
    scalars = made("finite scalars")
    others = [
        (codec, made(seed=1)),
        # of the same weights, but what the indices stand for is another
        (Codec(scalars, "mine"), made("finite scalars", levels=(40, 50, 40))),
    ]
    others[1][1].load_state_dict(scalars.state_dict())
    for own, other in others:
        code = own.compress(picture())
        with pytest.raises(InputError, match=r"of another model, mine \([0-9a-f]{32}\), than theirs"):
            Codec(other, "theirs").decompress(code)
    same = made("vq", quantizer=VectorQuantizer(codes=700, decay=0.99))  # as by default
    assert Codec(same).identity == codec.identity
    assert found.model == codec.identity


def test_what_cannot_be_kept_is_refused(codec: Codec) -> None:
    with pytest.raises(InputError, match=r"bits are of codes that are numbers, and those of VQVAE are indices"):
        codec.compress(picture(), 8)
    with pytest.raises(InputError, match="transparent in parts"):
        codec.compress(Image.new("RGBA", (8, 8), (0, 0, 0, 100)))
    broken = made()
    torch.nn.init.constant_(broken.encoder.head.bias, torch.nan)
    with pytest.raises(InputError, match="not finite"):
        Codec(broken).compress(picture())


# ---- the command line -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return [checkpoint(made(seed=seed), folder / f"model{seed}.ckpt") for seed in (0, 1)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return photos(tmp_path)


def test_the_commands(folder: Path, checkpoints: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    codes, images = folder / "codes", folder / "images"
    main(["encode", str(folder / "photos"), "--to", str(codes), "--checkpoint", checkpoints[0], "--device", "cpu"])
    assert "bits per pixel" in capsys.readouterr().out
    main(["decode", str(codes), "--to", str(images), "--checkpoint", checkpoints[0], "--device", "cpu"])
    table = json.loads((codes / "compression.json").read_text())
    assert (table["codes"], table["bits"]) == ("indices", 10)
    for row, name in zip(table["images"], ("a", "sub/grey"), strict=True):
        original, again = (Image.open(folder / where / f"{name}.png") for where in ("photos", "images"))
        assert (original.size, original.mode) == (again.size, again.mode)
        assert row["bits_per_pixel"] == pytest.approx(
            8 * (codes / row["file"]).stat().st_size / (row["width"] * row["height"]), abs=1e-4
        )
        assert row["psnr"] == pytest.approx(psnr(original, np.asarray(again)), abs=1e-3)
    assert np.array_equal(np.asarray(Image.open(images / "a.png")), by_hand(made(), picture())[1])


def test_nothing_is_half_written(folder: Path, checkpoints: list[str]) -> None:
    codes = folder / "codes"
    with pytest.raises(InputError, match="bits are of codes that are numbers"):
        encode(str(folder / "photos"), str(codes), checkpoints[0], bits=4, device="cpu")
    assert not codes.exists()
    encode(str(folder / "photos"), str(codes), checkpoints[0], device="cpu")
    with pytest.raises(InputError, match=r"a\.laec: the code is of another model, .*model0\.ckpt"):
        decode(str(codes), str(folder / "images"), checkpoints[1], device="cpu")
    last = codes / "sub" / "grey.laec"
    last.write_bytes(last.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"grey\.laec is damaged: its checksum is another"):
        decode(str(codes), str(folder / "images"), checkpoints[0], device="cpu")
    assert not (folder / "images").exists()
