"""What is given in natural units: the same pixels and columns give the same codes, whatever they come in."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import pyarrow as pa
import scipy.sparse
import torch
from inputs import Case, Refused, Said
from safetensors.torch import save_file

from lightning_ae import Autoencoder, InputError, zoo
from lightning_ae.data.kinds import Image
from lightning_ae.data.signature import Column, Signature
from lightning_ae.preprocess import ImagePreprocess, TabularPreprocess
from lightning_ae.zoo.artefact import plain_weights
from lightning_ae.zoo.schema import Config
from lightning_ae.zoo.transformer import EncoderTransformer

DIGITS = "ae_mlp.digits_v1"
MEAN, STD = (1.0, 2e9, -3.0), (2.0, 0.5, 10.0)
ROWS = np.array([[3.0, 2e9 + 1, 7.0], [0.0, 2e9 - 2, -3.0]])
ROTATED = PIL.Image.Exif()
ROTATED[PIL.Image.ExifTags.Base.Orientation] = 6


@cache
def model() -> Autoencoder:
    return zoo.load(DIGITS)


@cache
def encoder() -> Any:
    return zoo.load_encoder(DIGITS)


@cache
def photo(mode: str = "RGB", size: tuple[int, int] = (13, 11)) -> PIL.Image.Image:
    pixels = np.random.default_rng(0).integers(256, size=(*size, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels).convert(mode)


def file(image: PIL.Image.Image, form: str = "PNG", **options: Any) -> bytes:
    to = io.BytesIO()
    image.save(to, form, **options)
    return to.getvalue()


def drawing() -> PIL.Image.Image:
    """A black square on nothing, whose right half is half transparent."""
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[2:6, 2:4, 3], pixels[2:6, 4:6, 3] = 255, 128
    return PIL.Image.fromarray(pixels)


ON_WHITE = np.full((1, 1, 8, 8), 255, np.uint8)
ON_WHITE[..., 2:6, 2:4], ON_WHITE[..., 2:6, 4:6] = 0, 127
BYTES = np.random.default_rng(1).integers(256, size=(2, 8, 8), dtype=np.uint8)
WIDE = PIL.Image.fromarray(BYTES[0].repeat(2, axis=1))


def everywhere(data: Any) -> torch.Tensor:
    """The codes of images by every way there is, which must agree."""
    ways: list[Callable[[Any], Any]] = [
        model().features, encoder(), encoder().features, lambda x: EncoderTransformer(DIGITS).fit_transform(x),
    ]  # fmt: skip
    return agreed(ways, data)


def agreed(ways: list[Callable[[Any], Any]], data: Any) -> torch.Tensor:
    found, errors = [], []
    for way in ways:
        try:
            found.append(torch.as_tensor(way(data)).detach())
        except InputError as error:
            errors.append(error)
    if errors:
        assert len(errors) == len(ways), f"{len(found)} of {len(ways)} ways take it"
        raise errors[0]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0)
    return found[0]


def code(images: Any) -> torch.Tensor:
    """The code of bytes (B, 1, 8, 8), from the formula."""
    return floats(torch.from_numpy(np.asarray(images)).float() / 255)


@torch.no_grad()
def floats(images: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = model().encode(images)
    return found


def trained(*files: bytes) -> torch.Tensor:
    """The code of the pixels that training reads in files."""
    rows = pa.table({"image": pa.array([{"bytes": each, "path": None} for each in files])})
    return code(Image(size=(8, 8), channels=1).decode(rows, ["image"], "train", 0))


def images(data: Any) -> Callable[[Path], torch.Tensor]:
    return lambda _: everywhere(data)


def features(data: Any) -> Callable[[Path], torch.Tensor]:
    return lambda _: model().features(data)


def as_in_training(goes_in: str, *files: bytes) -> Case:
    return Case(goes_in, lambda _: everywhere([PIL.Image.open(io.BytesIO(each)) for each in files]), trained(*files))


def table(folder: Path, named: bool = True) -> Path:
    """An artefact whose model takes the columns a, b and c."""
    torch.manual_seed(0)
    of = Autoencoder((3,), 2)
    columns = tuple(Column(name, "number", "double") for name in "abc") if named else ()
    signature = Signature(TabularPreprocess(MEAN, STD), columns)
    said = {"signature": signature.plain(), "signature_hash": signature.hash} if named else {}
    config = Config.model_validate({
        "schema": 1, "name": "ae_mlp.vectors_v1", "model": "ae", "config": of.init_args, **said,
        "preprocess": {"kind": "tabular", "mean": MEAN, "std": STD},
        "features": {"latents": ["mean"], "dim": 2, "layers": []},
    })  # fmt: skip
    to = folder / "entry"
    to.mkdir()
    (to / "config.json").write_text(config.model_dump_json(by_alias=True))
    save_file(plain_weights(of), to / "model.safetensors")
    return to


def gap(folder: Path) -> bool:
    """Whether a missing value is what its column's mean is, of a model that was trained on gaps, by each way."""
    encoder = zoo.load_encoder(table(folder))
    known = encoder.signature
    encoder.model.signature = replace(known, columns=tuple(replace(each, missing="masked") for each in known.columns))
    missing, filled = ROWS.copy(), ROWS.copy()
    missing[0, 1], filled[0, 1] = np.nan, MEAN[1]
    ways = (encoder, encoder.features, encoder.model.features)
    return all(torch.equal(way(torch.from_numpy(missing)), way(torch.from_numpy(filled))) for way in ways)


def rows(data: Any, named: bool = True) -> Callable[[Path], torch.Tensor]:
    """The codes of a table by every way there is, less those of the rows that it should be read as."""

    def run(folder: Path) -> torch.Tensor:
        entry = table(folder, named)
        of, reader = zoo.load(entry), zoo.load_encoder(entry)
        ways: list[Callable[[Any], Any]] = [of.features, reader, reader.features]
        if not isinstance(data, dict | pa.Table | pa.RecordBatch):
            ways.append(EncoderTransformer(str(entry)).fit_transform)
        with torch.no_grad():
            expected = of.encode(torch.from_numpy((ROWS - MEAN) / STD).float())
        return agreed(ways[: 1 if not named else None], data) - expected

    return run


def frame(data: Any) -> Callable[[Path], torch.Tensor]:
    """How the codes of a table differ from those of the rows that it should be read as."""

    def run(folder: Path) -> torch.Tensor:
        of = zoo.load(table(folder))
        return of.features(data) - of.features(ROWS)

    return run


def transformed(folder: Path, fit: Any, then: Any) -> torch.Tensor:
    """How the codes of a transformer that has seen one table in `fit` differ where it is given another."""
    transformer = EncoderTransformer(str(table(folder)))
    return torch.from_numpy(transformer.fit(fit).transform(then) - transformer.fit_transform(fit))


def silent(images: Any, read: tuple[int, ...]) -> list[str]:
    """What is said of images for a model that was trained on images which were read in this shape."""
    signature = Signature(ImagePreprocess((8, 8), 1), (Column("image", "image", "image", read),))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        signature.tensor(images)
    return [str(each.message) for each in said]


FRAME = pd.DataFrame(ROWS, columns=list("abc"))
WITH_NA = FRAME.assign(b=pd.array([2_000_000_001, None], dtype="Int64"))
SAME = torch.zeros(2, 2)
ONE = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
PHOTO = trained(file(photo()))
PALETTE = {"transparency": 0}

CASES = [
    # pixels
    *[as_in_training(f"a photo of mode {mode}", file(photo(mode))) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")],
    *[as_in_training(f"a photo of mode {mode}", file(photo(mode), "TIFF")) for mode in ("CMYK", "YCbCr")],
    as_in_training("a photo that lies on its side", file(photo(), "JPEG", exif=ROTATED)),
    as_in_training("photos of three sizes", file(photo()), file(photo("L", (8, 8))), file(photo("P", (5, 9)))),
    as_in_training("a drawing on nothing", file(drawing())),
    as_in_training("a palette with a transparent colour", file(photo("P", (8, 8)), **PALETTE)),
    as_in_training("grey with a transparent level", file(photo("L", (8, 8)), **PALETTE)),
    Case("a drawing on nothing is one on white", images(drawing()), code(ON_WHITE)),
    Case("opaque RGBA", images(photo("RGBA")), PHOTO),
    Case("what lies on its side is set upright",
         images(PIL.Image.open(io.BytesIO(file(PIL.Image.fromarray(BYTES[0]), exif=ROTATED)))),
         code(np.rot90(BYTES[0], -1)[None, None].copy())),
    Case("16 bits", images(PIL.Image.new("I;16", (8, 8))), Refused("row 0.*'I;16'.*more than 8 bits")),
    Case("mode F", images([PIL.Image.new("F", (8, 8))]), Refused("row 0.*'F'.*more than 8 bits")),
    Case("a truncated file", images([photo(), PIL.Image.open(io.BytesIO(file(photo("RGB", (99, 99)))[:999]))]),
         Refused("row 1: the image is not readable: image file is truncated")),
    Case("a name of a file", features("cat.png"), Refused("got 'cat.png'\n.*PIL.Image.open")),
    Case("no image", features([]), Refused("hold no image")),
    Case("a dict of one column", features({"image": list(BYTES)}), code(BYTES[:, None])),
    Case("a dict of two columns", features({"image": BYTES, "mask": BYTES}), Refused("does not know which holds")),
    # arrays
    Case("one array (H, W)", images(list(BYTES[:1])), code(BYTES[:1, None])),
    Case("nested lists", images(BYTES.tolist()), code(BYTES[:, None])),
    Case("an array (H, W) by itself", features(BYTES[0]), code(BYTES[:1, None])),
    Case("a colour array (H, W, 3)", lambda _: encoder()(np.asarray(photo())), PHOTO),
    Case("colour arrays (B, H, W, 3)", images(np.asarray(photo())[None]), PHOTO),
    Case("colour (B, 3, H, W)", images(np.asarray(photo()).transpose(2, 0, 1)[None]), PHOTO),
    Case("strided, read-only, big-endian", images(np.broadcast_to(BYTES[0].astype(">f8") / 255, (2, 8, 8))),
         code(BYTES[[0, 0], None])),
    Case("a series of PIL images", images(pd.Series([photo()])), PHOTO),
    Case("booleans", images(BYTES > 99), code((BYTES[:, None] > 99) * np.uint8(255))),
    Case("(3, 24, 24)", features(torch.rand(3, 24, 24)), Refused("one image in colour, or three in grey")),
    Case("RGBA as an array", images([np.zeros((8, 8, 4), np.uint8)]), Refused(r"row 0 has the shape \(8, 8, 4\)")),
    Case("flat images in features", features(BYTES.reshape(2, 64)), Refused(r"reshape\(-1, 1, 8, 8\)")),
    # ranges
    Case("int64 in 0..255", images(BYTES.astype(np.int64)), code(BYTES[:, None])),
    Case("int64 below 0", images(-BYTES.astype(np.int64)), Refused(r"pixel \(.*holds -\d+, where integers")),
    Case("uint16", images(BYTES.astype(np.uint16)), Refused("16 bits")),
    Case("floats in 0..255", images(BYTES[:1] / 1.0),
         Refused(r"row 0, channel 0, pixel \(0, 0\) holds \d+, where floats of images lie in \[0, 1\]")),
    Case("floats in 0..16", images(torch.where(ONE > 0.9, 16.0, 0)), Refused("holds 16, where floats")),
    Case("floats in [-1, 1]", images(ONE * 2 - 1), Refused("holds -0.*floats of images lie in")),
    Case("NaN in a later image", images(torch.cat([ONE, ONE * np.nan])), Refused("row 3, .*holds NaN")),
    Case("an infinite one in a list", images([*ONE[:, 0], ONE[0, 0] / 0]), Refused("row 3, .*holds inf")),
    Case("what was divided by 255 twice", features(ONE / 255), Said("scaled twice", floats(ONE / 255))),
    Case("0 and 1 as bytes", lambda _: encoder()((ONE > 0.5).to(torch.uint8)),
         Said("is 1, as bytes.*scaled twice", code(ONE > 0.5))),
    # another kind than the model's
    Case("colour for grey, in batches",
         lambda _: EncoderTransformer(DIGITS, batch_size=1).fit(BYTES).transform([photo()] * 3)[:1],
         Said("^images in colour 13 x 11 for a model that takes grey 8 x 8: they are resized and their colour is lost$",
              PHOTO)),
    Case("other sizes", lambda _: encoder()(np.repeat(BYTES[:1], 2, axis=2)),
         Said("^images in grey 8 x 16 for .* grey 8 x 8: they are resized$", trained(file(WIDE)))),
    Case("photos, as in training", lambda _: silent([photo(), photo("RGB", (9, 9))], (3, 480, 640)), []),
    Case("colour where training had grey", lambda _: len(silent([photo()], (1, 480, 640))), 1),
    # columns
    *[Case(f"{what} of the model's columns", rows(data), SAME) for what, data in {
        "an array": ROWS, "a tensor": torch.from_numpy(ROWS), "lists": ROWS.tolist(),
        "a Fortran array": np.asfortranarray(ROWS),
        "a sparse matrix": scipy.sparse.csr_array(ROWS), "objects": ROWS.astype(object), "a frame": FRAME,
        "a reordered frame": FRAME[["c", "a", "b"]], "a dict": {name: FRAME[name].tolist() for name in "bca"},
        "an arrow table": pa.Table.from_pandas(FRAME[["b", "a", "c"]]),
    }.items()],
    Case("a further column", frame(FRAME.assign(id=7)),
         Said("columns that the model does not take are left out: id$", SAME)),
    Case("a renamed column", rows(FRAME.rename(columns={"b": "B"})),
         Refused("columns a, b, c, of which the data lack b\n")),
    Case("a frame for a model without names", rows(FRAME, named=False), Said("taken in their order, a, b, c$", SAME)),
    Case("two columns of one name", frame(pd.concat([FRAME, FRAME], axis=1)),
         Refused("several columns of one name: a, b, c")),
    Case("NaN", rows(FRAME.mask(FRAME == -3.0)), Refused("row 1, column .*holds NaN")),
    Case("a missing value among integers", rows(WITH_NA), Refused("row 1, column .*holds NaN")),
    Case("None", frame({**FRAME, "c": [None, 1]}), Refused("row 0, column 'c' holds NaN")),
    Case("text", frame({**FRAME, "c": ["1", "2"]}), Refused("column 'c'.* numbers")),
    Case("a gap, where the model was trained on such", gap, True),
    Case("dates", frame({**FRAME, "c": pd.to_datetime(["2020", "2021"])}),
         Refused("column 'c': .*datetime64")),
    Case("columns of two lengths", frame({**FRAME, "c": [1]}), Refused("'c' 1")),
    Case("one vector", frame(ROWS[0]), Refused(r"\(B, dimensions\), got \(3,\)")),
    Case("another width", lambda folder: zoo.load_encoder(table(folder))(ROWS[:, :2]), Refused("2 dimensions|shape")),
    Case("a frame in another order than in fit", lambda folder: transformed(folder, FRAME, FRAME[["b", "a", "c"]]),
         Refused("feature names should match")),
    Case("an array after a frame", lambda folder: transformed(folder, FRAME[["c", "b", "a"]], ROWS[:, ::-1]),
         Said("X does not have valid feature names", SAME)),
]  # fmt: skip
