"""Images as their options say: every size, number of channels and range that there is, and what is no option."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from inputs import Case, Refused, Said

from lightning_ae import Autoencoder, HFDataModule
from lightning_ae.data import Image
from lightning_ae.data.kinds import Sequence as Series
from lightning_ae.data.signature import Signature
from lightning_ae.exact import Noise
from lightning_ae.preprocess import ImagePreprocess, TabularPreprocess
from lightning_ae.zoo.transformer import EncoderTransformer

Images = Sequence[PIL.Image.Image]


def data(path: Any, **options: Any) -> HFDataModule:
    return HFDataModule(path, kind=Image(**options) if options else None, cache="memory", val_fraction=0)


def read(path: Any, **options: Any) -> Callable[[Path], torch.Tensor]:
    """The images that evaluation sees, read so."""

    def run(_: Path) -> torch.Tensor:
        module = data(path, **options)
        (batch,) = module.batches("train", 99)
        found: torch.Tensor = batch[module.input_columns[0]]
        return found

    return run


def drawn(path: Any, **options: Any) -> Callable[[Path], torch.Tensor]:
    """The images of a training batch, in the order of their means."""

    def run(_: Path) -> torch.Tensor:
        module = data(path, **options)
        (batch,) = module.train_dataloader()
        x: torch.Tensor = module.on_after_batch_transfer(batch, 0)[module.input_columns[0]]
        return x[x.flatten(1).mean(dim=1).argsort()]

    return run


def stored(array: np.ndarray, run: Callable[..., Any] = read, **options: Any) -> Callable[[Path], Any]:
    """The same of a file of numpy's."""

    def of_file(folder: Path) -> Any:
        np.save(folder / "x.npy", array)
        return run(str(folder / "x.npy"), **options)(folder)

    return of_file


def sequences(path: Any) -> Callable[[Path], tuple[int, ...]]:
    """The shape of one sample, read as sequences."""
    kind = Series(layout="NCL")
    return lambda _: HFDataModule(path, kind=kind, cache="memory", val_fraction=0).input_shape


def code(trained_on: Any, given: Any, **options: Any) -> Callable[[Path], torch.Tensor]:
    """The codes of what a model is given, less those of what training sees of the images that it was trained on."""

    def run(folder: Path) -> torch.Tensor:
        module = data(trained_on, **options)
        model = Autoencoder(module.input_shape, 2)
        model.signature = module.signature
        return model.features(given) - model.encode(read(trained_on, **options)(folder)).detach()

    return run


def said_of(path: Any, **options: Any) -> Callable[[Path], tuple[int, ...]]:
    """The shape of what a model is told that it takes."""

    def run(_: Path) -> tuple[int, ...]:
        return data(path, **options).signature.columns[0].shape

    return run


def plain(shape: tuple[int, int], grey: int, mode: str = "L") -> PIL.Image.Image:
    """One of a single grey, of (height, width)."""
    return PIL.Image.new("L", shape[::-1], grey).convert(mode)


def deep(mode: str) -> dict[str, Images]:
    """Two of 16 bits, in black and in white."""
    types = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    return {"image": [PIL.Image.fromarray(np.full((2, 2), v, types[mode])) for v in (0, 65535)]}


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(shape)


TWO = {"image": [plain((2, 2), 0), plain((2, 2), 255)]}
MIXED = {"image": [plain((9, 4), 255), plain((3, 7), 255), plain((6, 6), 255)]}
SMALL = {"image": [plain((2, 3), 255), plain((1, 1), 255)]}
GREYS = {"image": [plain((4, 4), 255), plain((4, 4), 255, "RGB"), plain((4, 4), 255, "RGBA")]}
DOT = {"image": [plain((1, 1), 255), plain((1, 1), 0)]}
BLACK_AND_WHITE = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
SIGNED = np.linspace(-1, 1, 60, dtype=np.float32).reshape(5, 3, 4)
UNIT = torch.tensor((SIGNED + 1) / 2)[:, None]
BANDS = np.random.default_rng(0).random((4, 13, 5, 6)).astype(np.float32)
BYTES = np.random.default_rng(1).integers(256, size=(4, 5, 6, 3), dtype=np.uint8)
RAGGED = {"image": [np.ones((4, 5)), np.ones((3, 2))]}
FLAT = np.zeros((5, 12), np.float32)
SAME = torch.zeros(4, 2)
WHITE = np.ones((2, 64, 48), np.float32)  # of which means round to more than 1
TABLE = Signature(TabularPreprocess((0.0,) * 3))
NUMBERS: dict[str, Any] = {"range": (0, 1)}

CASES = [
    # what is no option
    *[Case(f"fit={fit!r}", read(TWO, size=(2, 2), fit=fit), Refused(f"fit of images.*{fit}.*(.|\n)*(stretch|crop)"))
      for fit in ("centre", "", "Crop")],
    Case("fit='crop' to nothing", read(TWO, fit="crop"), Refused(r"a size, which is not given\n.*size=\(height")),
    *[Case(f"size={size!r}", read(TWO, size=size), Refused(r"size must be \(height, width\) in positive integers, got"))
      for size in (8, (8,), (0, 4), (4, -4), (4.0, 4), (True, 4), "44")],
    *[Case(f"flip={flip!r}", read(TWO, flip=flip), Refused(f"flip must be true or false, got {flip!r}"))
      for flip in (1, "left", None)],
    *[Case(f"crop={crop!r}", read(TWO, crop=crop), Refused(r"crop must be the smallest .*got(.|\n)*crop=\(0.5, 1\)"))
      for crop in (0.5, (0.5,), (0.0, 1.0), (0.9, 0.5), (0.5, 2), (28, 28), "ab", (float("nan"), 1.0), (True, True))],
    *[Case(f"crop and binarize={how!r}", read(TWO, crop=(0.5, 1), binarize=how),
           Refused(f"crop makes greys .*{how}.*\n.*'dynamic'")) for how in ("threshold", "static")],
    *[Case(f"range={limits!r}", read(SIGNED, range=limits), Refused(r"range must be \(low, high\), the values.*got"))
      for limits in (255, (1,), (1, 0), (0, 0), (0, True), (0, float("inf")), (float("nan"), 1), "01")],
    Case("range of bytes that are binarised", read(TWO, range=(0, 255), binarize="threshold"),
         Refused("binarize is of bytes, and range of other images\n.*leave one")),
    Case("a layout without a range", read(BANDS, layout="CHW"), Refused(r"which need a range\n.*range=\(low, high\)")),
    Case("a layout of batches", read(BANDS, layout="NCHW", **NUMBERS), Refused("'NCHW'(.|\n)*CHW")),
    *[Case(f"channels={n!r}", read(TWO, channels=n), Refused("channels must be 1 or 3, got")) for n in (0, 2, 4, True)],
    # sizes
    Case("mixed sizes", read(MIXED), Refused(r"row 0 has .*9, 4\), row 1 has .*3, 7\)\n.*size=\(height.*fit='crop'")),
    Case("mixed sizes, stretched", read(MIXED, size=(4, 5)), ones(3, 1, 4, 5)),
    Case("mixed sizes, cut", read(MIXED, size=(4, 5), fit="crop"), ones(3, 1, 4, 5)),
    Case("images smaller than the cut", read(SMALL, size=(6, 6), fit="crop"), ones(2, 1, 6, 6)),
    Case("one pixel", read(DOT), torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)),
    Case("one pixel, mirrored and cut", drawn(DOT, flip=True, crop=(0.1, 0.5)),
         torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)),
    Case("a line of pixels, cut", read({"image": [plain((1, 99), 255)]}, size=(4, 4), fit="crop"), ones(1, 1, 4, 4)),
    Case("2 x 2 pixels, cut to a part of one", drawn(TWO, crop=(0.01, 0.01)), BLACK_AND_WHITE),
    Case("arrays of mixed sizes", read(RAGGED, **NUMBERS), Refused(r"row 1 has .*3, 2\)(.|\n)*size=\(height, width\)")),
    Case("arrays of mixed sizes, cut", read(RAGGED, size=(2, 2), fit="crop", **NUMBERS), ones(2, 1, 2, 2)),
    Case("images that lie flat", read(FLAT, **NUMBERS), Refused(r"flat in 'x'.*x.reshape\(len\(x\), height, width\)")),
    # channels
    Case("mixed channels", read(GREYS), Refused(r"row 0 has .*\(1, 4, 4\), row 1 has \(3, 4, 4\)\n.*channels=1 or 3")),
    Case("mixed channels, in grey", read(GREYS, channels=1), ones(3, 1, 4, 4)),
    Case("mixed channels, in colour", read(GREYS, channels=3), ones(3, 3, 4, 4)),
    Case("13 channels", read(BANDS, layout="CHW", **NUMBERS), torch.tensor(BANDS)),
    Case("13 channels, last", read(BANDS.transpose(0, 2, 3, 1), layout="HWC", **NUMBERS), torch.tensor(BANDS)),
    Case("13 channels in a file", stored(BANDS, layout="CHW", **NUMBERS), torch.tensor(BANDS)),
    Case("13 channels, nothing said", read(BANDS), Refused(r"arrays in 'x'.*range=\(0, 1\), layout='CHW'\) or 'HWC'")),
    Case("13 channels, no layout", read(BANDS, **NUMBERS), Refused(r"\(13, 5, 6\), and do not say which.*\n.*layout=")),
    Case("13 channels as colour", read(BANDS, layout="CHW", channels=3, **NUMBERS),
         Refused("13 channels cannot be given 3\n.*leave channels out")),
    Case("13 channels, mirrored", lambda at: drawn(BANDS[:1], layout="CHW", flip=True, crop=(1.0, 1.0), **NUMBERS)(at)
         .sort(dim=3)[0].allclose(torch.tensor(BANDS[:1]).sort(dim=3)[0], atol=1e-6), True),
    Case("13 channels for a model of them", code(BANDS, list(BANDS), layout="CHW", **NUMBERS), SAME),
    Case("channels last for a model of channels first",
         code(BANDS, BANDS.transpose(0, 2, 3, 1), layout="CHW", **NUMBERS),
         Refused("5 channels cannot be given 13\n.*layout 'CHW'")),
    Case("channels first, said to be last", said_of(BYTES.transpose(0, 3, 1, 2), range=(0, 255), layout="HWC"),
         Said(r"6 channels.*3 x 5.*layout='CHW'", (6, 3, 5))),
    Case("channels last, said to be first", said_of(BYTES, range=(0, 255), layout="CHW"),
         Said(r"5 channels.*6 x 3.*layout='HWC'", (5, 6, 3))),
    Case("4 channels of bytes", read(BYTES[:, :4], range=(0, 255), layout="CHW"), torch.tensor(BYTES[:, :4]) / 255),
    Case("4 channels of bytes, nothing said", read(BYTES[..., [0, 1, 2, 0]]),
         Refused(r"one channel or three(.|\n)*kind=Image\(range=\(0, 255\), layout='CHW'\) or 'HWC'")),
    *[Case(f"bytes, 3 channels at either end{where}", way(BYTES[:, :3]), Refused(r"\(N, C, H, W\) or .*\n.*'CHW'"))
      for where, way in (("", read), (" of a file", stored))],
    *[Case(f"the same, said{where}", way(BYTES[:, :3], range=(0, 255), layout="CHW"), torch.tensor(BYTES[:, :3]) / 255)
      for where, way in (("", read), (" of a file", stored))],
    *[Case(f"bytes for sequences{where}", lambda at, way=way: way(BYTES[..., 0], sequences)(at), (5, 6))
      for where, way in (("", lambda x, run: run(x)), (" of a file", stored))],
    # ranges
    *[Case(f"16 bits, mode {mode}", read(deep(mode)), Refused(rf"'{mode}'.* more than 8 bits.*\n.*range=\(0, 65535\)"))
      for mode in ("I;16", "I", "F")],
    *[Case(f"16 bits, mode {mode}, with a range", read(deep(mode), range=(0, 65535)), BLACK_AND_WHITE)
      for mode in ("I;16", "I", "F")],
    Case("16 bits of which 12 are said", read(deep("I;16"), range=(0, 4095)),
         Refused(r"row 1 of split 'train' holds values in \[65535, 65535\].*\(0, 4095\)\n.*range of the data")),
    Case("uint16", read(BYTES[..., 0].astype(np.uint16)), Refused(r"'x' are: kind=Image\(range=\(0, 65535\)\)")),
    Case("uint16, with a range", read(BYTES[..., 0].astype(np.uint16), range=(0, 255)),
         torch.tensor(BYTES[:, None, ..., 0]) / 255),
    Case("bytes among 16 bits", read({"image": [*deep("I;16")["image"], plain((2, 2), 9)]}, range=(0, 65535)),
         Refused("row 2 .*'L' has 8 bits, .*65535(.|\n)*one number of bits")),
    Case("floats in [-1, 1]", read(SIGNED), Refused(r"it has x \(nested lists\)\n.*kind=Image\(range=\(0, 1\)\)")),
    Case("floats in [-1, 1] of a file", stored(SIGNED), Refused(r"kind=Image\(range=\(0, 1\)\)")),
    Case("floats in [-1, 1] as images", read(SIGNED, flip=True), Refused(r"kind=Image\(range=\(0, 1\)\) for")),
    Case("floats in [-1, 1], said to be in [0, 1]", read(SIGNED, **NUMBERS),
         Refused(r"row 0 of split 'train' holds values in \[-1, -0.6.*range says \(0, 1\)\n.*give the range")),
    Case("floats in [-1, 1], with a range", read(SIGNED, range=(-1, 1)), UNIT),
    Case("floats in [-1, 1] for a model of them", code(SIGNED[:4], SIGNED[:4], range=(-1, 1)), SAME),
    Case("floats in [0, 2] for a model of [-1, 1]", code(SIGNED[:4], SIGNED[:4] + 1, range=(-1, 1)),
         Refused(r"holds 1.*images lie in \[-1, 1\]\n.*units of the training data")),
    Case("NaN among floats", read(np.where(SIGNED > 0.99, np.nan, SIGNED), range=(-1, 1)),
         Refused("NaN .*first in row 4")),
    Case("booleans", read(SIGNED > 0, **NUMBERS), (UNIT > 0.5).float()),
    Case("white floats, resized", lambda at: float(read(WHITE, size=(28, 28), **NUMBERS)(at).max()), 1.0),
    Case("white floats, resized for a model",
         lambda _: float(ImagePreprocess((28, 28))(torch.ones(2, 1, 64, 48)).max()), 1.0),
    Case("white images, cut to parts", lambda _: Image(crop=(0.1, 1.0)).augment(ones(500, 1, 28, 28), Noise("key")),
         ones(500, 1, 28, 28)),
    # arrays of which nothing says what they are
    *[Case(f"floats {words}, no kind", read(array), Refused(rf"makes an input.*\n.*{hint}")) for words, array, hint in (
        ("(N, H, W)", SIGNED, r"Image\(range=\(0, 1\)\) .*Sequence\(layout='NCL'\) .*Tabular\(columns=\['x'\]\)"),
        ("(N, H, W), labelled", (SIGNED, [0, 1, 0, 1, 1]), r"Image\(range=\(0, 1\)\) "),
        ("(N, H, W) in a dict", {"im": SIGNED, "y": [0, 1, 0, 1, 1]}, r"in 'im' are: kind=Image\(range=\(0, 1\)\) "),
        ("(N, H, W) as a tensor", torch.tensor(SIGNED), r"Image\(range=\(0, 1\)\) "),
        ("(N, H, W) in a list", {"im": list(SIGNED)}, r"in 'im' are: kind=Image\(range=\(0, 1\)\) "),
        ("(N, C, H, W)", BANDS, r"Image\(range=\(0, 1\), layout='CHW'\) or 'HWC' (?!.*Sequence).*Tabular"),
        ("(N, D, C, H, W)", BANDS[:, None], r"arrays in 'x' are: kind=Tabular\(columns=\['x'\]\)"),
    )],
    *[Case(f"{words} for a model that knows no data", lambda _, given=given: Autoencoder((1, 4, 6), 2).features(given),
           Refused(hint)) for words, given, hint in (
        ("(N, H, W)", np.ones((5, 4, 6)), r"is \(1, 4, 6\)\n.*x\[:, None\]"),
        ("(N, H, W, 1)", np.ones((5, 4, 6, 1)), r"is \(1, 4, 6\)\n.*x.transpose\(0, 3, 1, 2\)"),
        ("(H, W)", np.ones((4, 6)), r"is \(1, 4, 6\)\n.*x\[None, None\]"),
        ("(C, H, W)", np.ones((1, 4, 6)), r"is \(1, 4, 6\)\n.*x\[None\]"),
        ("(N, H * W)", np.ones((5, 24)), r"is \(1, 4, 6\)\n.*x.reshape\(-1, 1, 4, 6\)"),
        ("images in a dict", {"im": np.ones((5, 4, 6))}, "columns im, and the model does not know"),
        ("bytes", np.ones((5, 1, 4, 6), np.uint8), "uint8, but models take floats\n.*255"),
    )],
    *[Case(f"images for a table of 3 columns, {words}", lambda _, x=given: TABLE.tensor(x), Refused(hint))
      for words, given, hint in (
          ("(N, H, W)", np.ones((5, 4, 6)), r"3 values.* 4 dimensions\n.*\(B, 3, ...\).*shape \(5, 4, 6\)"),
          ("(N, D)", np.ones((5, 24)), r"3 values.* 24 dimensions\n.*\(B, 3\).*shape \(5, 24\)"),
    )],
    Case("a dict of images in scikit-learn", lambda _: EncoderTransformer("ae_mlp.digits_v1").fit({"im": BYTES}),
         Refused(r"X is a dict of im, which.*\n.*array of images")),
]  # fmt: skip
