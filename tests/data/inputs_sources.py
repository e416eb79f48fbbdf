"""Where data come from, and what a data set says of itself."""

from __future__ import annotations

import gzip
import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import PIL.Image
from datasets import Dataset, DatasetDict, Features, Image, Value
from inputs import Case, Refused, Said, unscaled

from lightning_ae import HFDataModule
from lightning_ae.data import Image as Images
from lightning_ae.data import Tabular
from lightning_ae.data.kinds.image import open_image

ROWS = Dataset.from_dict({"a": [1.0, 2.0, 3.0, 4.0], "b": [5.0, 6.0, 7.0, 8.0]})


@cache
def pixels(channels: int = 3) -> np.ndarray:
    shape = (6, 5) if channels == 1 else (6, 5, channels)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def read(data: Any, split: str = "test", **options: Any) -> Callable[[Path], Any]:
    """The values of the input of a split, as lists, of a data set or of what is written into a folder."""

    def run(folder: Path) -> Any:
        given = data(folder) if callable(data) else data
        module = unscaled(given, **{"cache": "memory", "val_fraction": 0, **options})
        return next(module.batches(split))[module._key].flatten(1).tolist()

    return run


def sets(rows: Any) -> DatasetDict:
    return DatasetDict(train=ROWS, test=rows)


def folder(path: str = "data", **files: Any) -> Callable[[Path], str]:
    """A folder of files "name_ending" with this content, and its path."""

    def write(at: Path) -> str:
        place = at / path.strip("./")
        place.mkdir(exist_ok=True)
        for name, content in files.items():
            file = place / ".".join(name.rsplit("_", 1))
            if isinstance(content, PIL.Image.Image):
                content.save(file)
            else:
                file.write_bytes(content if isinstance(content, bytes) else content.encode())
        (at / "other.csv").write_text("z\n9\n9\n")  # which must not be read
        return path

    return write


def pictures(**options: Any) -> Dataset:
    features = Features({"image": Image(**options)})
    return Dataset.from_dict({"image": [PIL.Image.fromarray(pixels())]}, features)


def channels(rows: Dataset, **options: Any) -> Callable[[Path], int]:
    return lambda _: HFDataModule(rows, cache="memory", val_fraction=0, **options).input_shape[0]


def opened(*size: int) -> Callable[[Path], tuple[int, ...]]:
    """The size of a black image of one bit a pixel, without its pixels; a warning is an error."""

    def run(_: Path) -> tuple[int, ...]:
        header = struct.pack(">IIBBBBB", *size, 1, 0, 0, 0, 0)
        chunks = [(b"IHDR", header), (b"IDAT", b""), (b"IEND", b"")]
        packed = b"".join(struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
        with warnings.catch_warnings(), patch("PIL.ImageFile.ImageFile.load"):
            warnings.simplefilter("error")
            with open_image({"bytes": b"\x89PNG\r\n\x1a\n" + packed, "path": None}, "train", 0) as image:
                assert PIL.Image.MAX_IMAGE_PIXELS < 10**8  # of everybody else
                return image.size

    return run


def png(value: int) -> bytes:
    """Four pixels of a grey."""
    to = io.BytesIO()
    PIL.Image.fromarray(np.full((2, 2), value, np.uint8)).save(to, "PNG")
    return to.getvalue()


def grey(value: int) -> list[list[float]]:
    """What a model sees of it."""
    return [[float(np.float32(value) / np.float32(255))] * 4]


def files(contents: dict[str, str | bytes], path: str = "data") -> Callable[[Path], str]:
    """A folder of files, by their paths in it."""

    def write(at: Path) -> str:
        for name, content in contents.items():
            (at / path / name).parent.mkdir(parents=True, exist_ok=True)
            (at / path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def file(name: str, content: str | bytes) -> Callable[[Path], str]:
    """A single file."""
    return lambda at: f"{files({name: content}, '.')(at)}/{name}"


def tables(train: list[Any], test: list[Any], name: str = "a") -> Callable[[Path], str]:
    """A folder of parquet files of one column."""

    def write(at: Path) -> str:
        (at / "data").mkdir()
        for split, values in {"train": train, "test": test}.items():
            Dataset.from_dict({name: values}).to_parquet(at / "data" / f"{split}.parquet")
        return "data"

    return write


def packed(*entries: Any, cut: int | None = None, inside: str = "photos.zip") -> Callable[[Path], str]:
    """A zip file of entries (name or ZipInfo, content), of which the first bytes are kept."""

    def write(at: Path) -> str:
        to = io.BytesIO()
        with zipfile.ZipFile(to, "w") as opened:
            for name, content in entries:
                opened.writestr(name, content)
        return file(inside, to.getvalue()[:cut])(at)

    return write


def saved(array: Any, name: str = "x.npy", **arrays: Any) -> Callable[[Path], str]:
    """A file of one array, or of several by name."""

    def write(at: Path) -> str:
        np.savez(at / name, **arrays) if arrays else np.save(at / name, array)
        return name

    return write


def labelled(data: Callable[[Path], str], split: str = "train", **options: Any) -> Callable[[Path], Any]:
    """The classes, the labels of a split, and the paths of its images; nothing but the cache is written to."""

    def run(at: Path) -> Any:
        given = data(at)
        before = set(at.rglob("*"))
        module = unscaled(given, **{"cache": "memory", "val_fraction": 0, **options})
        found = module.class_names, module.labels(split).tolist(), module.keys(split).get("path")
        assert {each for each in at.rglob("*") if "hf" not in each.relative_to(at).parts} == before
        return found

    return run


def arrow(cut: int, single: bool = False) -> Callable[[Path], str]:
    """What save_to_disk wrote, or its file, without its last bytes."""

    def write(at: Path) -> str:
        ROWS.save_to_disk(at / "data")
        [written] = (at / "data").glob("*.arrow")
        written.write_bytes(written.read_bytes()[: -cut or None])
        return str(written) if single else "data"

    return write


def again(at: Path) -> Any:
    """A table that is read again after the copy that `datasets` made of it was cut short."""
    path = file("t.csv", CSV)(at)
    one = read(path, "train")(at)
    for copy in (at / "hf").rglob("*.arrow"):
        copy.write_bytes(copy.read_bytes()[:100])
    return one == read(path, "train")(at)


def damaged(at: Path, name: str) -> str:
    content = (at / name).read_bytes()
    (at / name).write_bytes(content[:60] + bytes([content[60] ^ 255]) + content[61:])
    return name


def link() -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("a.png")
    entry.external_attr = 0o120777 << 16
    return entry


CATS = (("cat/0.png", png(1)), ("dog/0.png", png(2)), ("__MACOSX/cat/._0.png", b"x"), ("cat/.DS_Store", b""))
CLASSES = (["cat", "dog"], [0, 1], ["cat/0.png", "dog/0.png"])
TABLE = "a,b,label\n1,2.5,x\n3,4,y\n"
VALUES = [[1.0, 2.5], [3.0, 4.0]]
LINES = '{"a": 1, "b": 2.5, "label": "x"}\n{"a": 3, "b": 4, "label": "y"}\n'
CSV = "a\n1\n2\n"
GREY = PIL.Image.fromarray(pixels(1))

GAPS = Dataset.from_dict({"a": [1.0, 2.0, 3.0, 4.0, None, 6.0]})
NOTHING = Dataset.from_dict({"a": [1.0], "b": [None]})
VIEWS = {
    "chosen": GAPS.select([5, 4, 0]),
    "sorted": GAPS.sort("a", reverse=True, null_placement="at_end").select([0, 5]),
    "shared out": GAPS.shard(2, 1),
    "shuffled": GAPS.shuffle(seed=0).select(
        [0, int(np.argwhere(np.isnan(np.array(GAPS.shuffle(seed=0)["a"], float)))[0, 0])]
    ),
    "split": GAPS.train_test_split(test_size=2, shuffle=False)["test"].select([1, 0]),
}


def pathed(at: Path) -> Dataset:
    """Images whose bytes are no image, and would be as long as memory: their file names alone are wanted."""
    items = [{"bytes": b"none", "path": f"{i}.png"} for i in range(3)]
    return Dataset.from_dict({"image": items}, Features({"image": Image()}))


CASES = [
    # what a data set is set to
    Case("a transform", read(sets(ROWS.with_transform(lambda rows: rows))), Refused("'test' .*transform.*\n.*map")),
    Case("a format of some columns", read(ROWS.with_format("torch", columns=["b"]), "train"),
         [[5.0], [6.0], [7.0], [8.0]]),
    Case("a format of numpy", read(sets(ROWS.with_format("numpy"))), [[1.0, 5.0], [2.0, 6.0], [3.0, 7.0], [4.0, 8.0]]),
    Case("chosen rows", read(sets(ROWS.select([2, 0]))), [[3.0, 7.0], [1.0, 5.0]]),
    Case("chosen rows, cached on disk", read(sets(ROWS.select([2, 0])), cache="disk"), [[3.0, 7.0], [1.0, 5.0]]),
    Case("sorted rows, read each time", read(sets(ROWS.sort("a", reverse=True)), cache="none"),
         [[4.0, 8.0], [3.0, 7.0], [2.0, 6.0], [1.0, 5.0]]),
    Case("a filter", read(sets(ROWS.filter(lambda row: row["a"] > 3))), [[4.0, 8.0]]),
    Case("images of mode L", channels(pictures(mode="L")), 1),
    Case("images of mode RGB", channels(pictures(mode="RGB")), 3),
    Case("images of another mode", channels(pictures(mode="CMYK")), Refused("CMYK.*\n.*mode='L'")),
    Case("a mode that the kind denies", channels(pictures(mode="L"), kind=Images(channels=3)), Refused("reads 3 chan")),
    Case("images that are not decoded", channels(pictures(decode=False)), 3),
    Case("columns of another type", read(sets(ROWS.cast_column("b", Value("int32")))),
         [[1.0, 5.0], [2.0, 6.0], [3.0, 7.0], [4.0, 8.0]]),
    Case("a column that one split lacks", read(sets(ROWS.rename_column("b", "c"))),
         Refused("'b' is not in split 'test', and numbers .double. in split 'train'")),
    Case("text where numbers were", read(sets(ROWS.cast_column("b", Value("string")))),
         Refused(r"'b' holds text \(string\) in split 'test', and numbers \(double\) in split 'train'")),
    Case("... said before a fit", lambda _: HFDataModule(sets(ROWS.cast_column("b", Value("string")))).setup("fit"),
         Refused("'b' holds text")),
    Case("numbers where text was", read(DatasetDict(train=ROWS.cast_column("b", Value("string")), test=ROWS),
                                        kind=Tabular(("a",))), [[1.0], [2.0], [3.0], [4.0]]),
    Case("lists where numbers were", read(sets(ROWS.map(lambda row: {"b": [row["b"]]}))),
         Refused(r"'b' holds vectors \(list<.*\) in split 'test', and numbers")),
    Case("nothing where numbers were", read(sets(NOTHING)),
         Refused("'b' holds all values missing .null. in split 'test'")),
    Case("whole numbers where decimals were", read(sets(ROWS.cast(Features(a=Value("int8"), b=Value("int64"))))),
         [[1.0, 5.0], [2.0, 6.0], [3.0, 7.0], [4.0, 8.0]]),
    Case("booleans where decimals were", read(sets(Dataset.from_dict({"a": [True], "b": [False]}))), [[1.0, 0.0]]),
    Case("lists where labels were", read(DatasetDict(train=ROWS.add_column("label", [0, 1, 0, 1]),
                                                     test=ROWS.add_column("label", [[0]] * 4))),
         Refused("'label' holds .* in split 'test', and numbers .int64.")),
    Case("texts where a target was", read(DatasetDict(train=ROWS.add_column("label", [0.5, 1, 0, 1]),
                                                      test=ROWS.add_column("label", ["1"] * 4))),
         Refused("'label' holds text")),
    Case("... in a stream", read(tables([1.0], ["x"]), streaming=True, test_split="test"),
         Refused("column 'a' is string")),
    # views of rows
    *[Case(f"an error in rows that were {how}", read(DatasetDict(train=rows), "train"),
         Refused("first in row 1$|first in row 1\n"))
      for how, rows in VIEWS.items()],
    *[Case(f"the row numbers of rows that were {how}", lambda _, rows=rows: HFDataModule(
        rows, val_fraction=0).keys("train")["row"].tolist(), list(range(len(rows)))) for how, rows in VIEWS.items()],
    Case("the same rows in another order, cached", lambda at: [read(DatasetDict(train=ROWS.shuffle(seed)), "train",
         cache="disk")(at) == [[a, a + 4] for a in ROWS.shuffle(seed)["a"]] for seed in (1, 2, 3)], [True] * 3),
    Case("shares of rows, cached", lambda at: [read(DatasetDict(train=ROWS.shard(2, i)), "train", cache="disk")(at)
                                               for i in (0, 1)], [[[1.0, 5.0], [2.0, 6.0]], [[3.0, 7.0], [4.0, 8.0]]]),
    Case("the file names of chosen images", lambda at: HFDataModule(pathed(at).select([2, 0]), val_fraction=0)
         .keys("train")["path"], ["2.png", "0.png"]),
    Case("... of a stream", lambda at: HFDataModule(pathed(at).to_iterable_dataset(), val_fraction=0, streaming=True)
         .keys("train")["path"], ["0.png", "1.png", "2.png"]),
    Case("the row numbers of a stream",
         lambda _: HFDataModule(ROWS.to_iterable_dataset(), val_fraction=0, streaming=True)
         .keys("train")["row"].tolist(), [0, 1, 2, 3]),
    # splits
    Case("no test split beside a training one", read(DatasetDict(train=ROWS, extra=ROWS)),
         Refused("test_split='extra'")),
    Case("no training split", read(DatasetDict(training=ROWS), "train"), Refused("no split 'train'.*\n.*='training'")),
    Case("no test split", read(DatasetDict(train=ROWS)),
         Refused("no split 'test' .test_split.*\n.*'train', and no further")),
    Case("a hundred splits", read(DatasetDict({f"s{i}": ROWS for i in range(100)})), Refused("and 92 more")),
    # folders
    *[Case(f"a folder called {name}", read(folder(name, train_csv=CSV), "train"), [[1.0], [2.0]])
      for name in ("csv", "./json", "parquet/", "text", "imagefolder")],
    Case("no folder csv", read("csv"), Refused("names a file format")),
    *[Case(typo, read(typo), Refused(f"did you mean '{name}'"))
      for typo, name in {"digts": "digits", "fasion": "fashion"}.items()],
    Case("a Path", read(lambda at: at / folder(train_csv=CSV)(at), "train"), [[1.0], [2.0]]),
    Case("an ending in capitals", read(folder(a_PNG=GREY), "train"),
         [(pixels(1).ravel() / np.float32(255)).tolist()]),
    Case("a CSV with ragged rows", read(folder(train_csv="a,b\n1,2\n3,4,5\n")), Refused("'train.csv': .*line 3")),
    Case("a CSV in Latin-1", read(folder(train_csv="a,b\n1,\xe9\n".encode("latin1"))), Refused("'train.csv'.*utf-8")),
    Case("a CSV with a name twice", read(folder(train_csv="a,b,a\n1,2,3\n")), Refused("'a' more than once")),
    Case("a CSV of a header", read(folder(train_csv="a,b\n")), Refused("holds no rows")),
    Case("a CSV of one row", read(folder(train_csv="a,b\n1,2\n"), "train"), [[1.0, 2.0]]),
    Case("a truncated parquet file", read(folder(train_parquet=b"PAR1abc")), Refused("'train.parquet': .*7 bytes")),
    Case("images and a table", read(folder(a_png=GREY, t_csv=CSV)), Refused("'a.png'.*'t.csv'")),
    Case("... in folders", read(files({"x/a.png": png(1), "y/t.csv": CSV})),
         Refused("images .'x/a.png'.* CSV tables .'y/t.csv'")),
    Case("two kinds of table", read(files({"x/t.csv": CSV, "t.jsonl": '{"a": 1}'})),
         Refused("JSON tables .*CSV tables")),
    Case("a file of no split beside splits", read(files({"train.csv": CSV, "more.csv": CSV})),
         Refused("'train.csv', which belongs to a split.*'more.csv', which belongs to none")),
    Case("a class called train", read(files({"train/a.png": png(1), "bus/a.png": png(2)})),
         Refused("'train/a.png'.*'bus/a.png'")),
    Case("notes beside images",
         read(files({"a.png": png(1), "b.png": png(1), "b.txt": "b", "LICENSE.md": "d"}), "train"),
         [*grey(1), *grey(1)]),
    Case("more notes than images", read(files({"a.png": png(1), "b.txt": "b", "c.txt": "c"})),
         Refused("images .'a.png'.* notes .'b.txt'")),
    Case("tables with other columns", read(files({"1.csv": "a,b\n1,2\n", "2.csv": "a,c\n1,2\n"})),
         Refused("'2.csv' has the columns c, which '1.csv' has not")),
    Case("text where numbers were, in files", read(files({"train.csv": "a\n1\n", "test.csv": "a\n2\nx\n"})),
         Refused("column 'a' is large_string in 'test.csv' .from row 1., and int64 in 'train.csv'")),
    Case("... in a stream", read(tables([1.0], ["x"]), streaming=True),
         Refused("column 'a' is string in 'test.parquet'.* double in 'train.parquet'")),
    Case("decimals where whole numbers were", read(files({"train.csv": "a\n1\n", "test.csv": "a\n1.5\n"})), [[1.5]]),
    Case("... in a stream", read(tables([1], [1.5]), streaming=True), [[1.5]]),
    Case("a folder with a star", read(files({"t.csv": CSV}, "a*")), Refused(r"'a\*' holds one of \*")),
    Case("an image of no bytes", read(folder(a_png=b""), "train"), Refused("row 0 of split 'train' .*a.png")),
    Case("an image cut short", read(folder(a_png=GREY.tobytes()[:9]), "train"), Refused("row 0 of split 'train'")),
    Case("an image that unpacks to more than memory", opened(20_000, 20_000),
         Refused("row 0 of split 'train' .*20000 x 20000 pixels.*decompression bomb")),
    Case("a photograph of 200 megapixels", opened(16_320, 12_240), (16_320, 12_240)),
    # ---- single files --------------------------------------------------------------------------------------------
    Case("a CSV file", read(file("t.csv", TABLE), "train"), VALUES),
    Case("... and its label", labelled(file("t.csv", TABLE)), (["x", "y"], [0, 1], None)),
    Case("... beside another folder's description", read(lambda at: files({"README.md": "---\n}{\n---\n"}, ".")(at) and
                                                         file("t.csv", TABLE)(at), "train"), VALUES),
    Case("a CSV file with a star", read(file("[1]*.csv", TABLE), "train"), VALUES),
    Case("a packed CSV file", read(file("t.csv.gz", gzip.compress(TABLE.encode())), "train"), VALUES),
    Case("a TSV file", read(file("t.tsv", TABLE.replace(",", "\t")), "train"), VALUES),
    Case("a file of JSON lines", read(file("t.jsonl", LINES), "train"), VALUES),
    Case("a list in JSON", read(file("t.json", f"[{LINES.strip().replace(chr(10), ',')}]"), "train"), VALUES),
    Case("a parquet file", read(lambda at: tables([1.0], [])(at) + "/train.parquet", "train"), [[1.0]]),
    Case("an Arrow file", read(arrow(0, single=True), "train"), [[1.0, 5.0], [2.0, 6.0], [3.0, 7.0], [4.0, 8.0]]),
    Case("what save_to_disk wrote", read(arrow(0), "train"), [[1.0, 5.0], [2.0, 6.0], [3.0, 7.0], [4.0, 8.0]]),
    Case("an array of numbers", read(saved(np.arange(2.0)), "train"), [[0.0], [1.0]]),
    Case("an array of vectors", read(saved(np.arange(4, dtype=">i2").reshape(2, 2)), "train"),
         [[0.0, 1.0], [2.0, 3.0]]),
    Case("an array of images", read(saved(pixels()[None]), "train"),
         (pixels().transpose(2, 0, 1).reshape(1, -1) / np.float32(255)).tolist()),
    Case("arrays by name", labelled(saved(None, "a.npz", x=np.ones((2, 3)), y=[5, 7])), (["5", "7"], [0, 1], None)),
    Case("arrays of splits", read(saved(None, "a.npz", x_train=np.ones(3), y_train=[0, 1, 1], x_test=np.zeros(1),
                                        y_test=[1]), kind=Tabular(("x",))), [[0.0]]),
    Case("arrays of several lengths", read(saved(None, "a.npz", x=np.ones(3), y=np.ones(2))),
         Refused(r"x \(3,\), y \(2,\)")),
    Case("a single number", read(saved(np.array(1.0))), Refused(r"row for each sample: x \(\)")),
    Case("floats of three dimensions", read(saved(np.ones((2, 3, 3))), "train"),
         Refused(r"x \(nested lists\)(.|\n)*kind=Image\(range=")),
    Case("floats of three dimensions, as images",
         read(saved(np.arange(8.0).reshape(2, 2, 2)), "train", kind=Images(range=(0, 7))),
         (np.arange(8.0, dtype=np.float32).reshape(2, 4) / np.float32(7)).tolist()),
    Case("objects in an array", read(saved(np.array([None]))), Refused("objects of Python")),
    Case("an array cut short", read(file("x.npy", b"\x93NUMPY\x01\x00v\x00")),
         Refused("'x.npy' cannot be read|x.npy' cannot")),
    Case("another file", read(file("t.txt", "a")), Refused("'./t.txt' is a file of a kind.*\n.*csv, .*npz, .zip")),
    Case("a file that is not there", read("tabel.csv"),
         Refused("'tabel.csv' looks like a local file, but there is none")),
    Case("... whose name is misspelt", read(lambda at: file("table.csv", TABLE)(at)[:-5] + "s.csv"),
         Refused("did you mean 'table.csv'")),
    Case("a CSV with semicolons and decimal commas", read(file("t.csv", "a;b;label\n1;2,5;x\n3;4;y\n"), "train"),
         Said("'t.csv' is read as separated by ';', with decimal commas", VALUES)),
    Case("a CSV whose rows are short", read(file("t.csv", "a,b\n1,2\n3\n")),
         Refused("'t.csv': line 3 has 1 values.*a, b")),
    Case("a CSV whose rows are all long", read(file("t.csv", "a,b\n1,2,3\n")), Refused("'t.csv': line 2 has 3 values")),
    Case("a CSV in Latin-1, by column", read(file("t.csv", b"a,b\n1,\xe9\n")),
         Refused("'t.csv': line 2, column 'b', holds")),
    Case("CSV files of two ways", read(files({"1.csv": "a;b\n1;2\n", "2.csv": "a,b\n1,2\n"})),
         Refused("'1.csv' is separated by ';', and '2.csv' by ','")),
    Case("an empty CSV file", read(file("t.csv", "")), Refused("the file './t.csv' cannot .*No columns")),
    Case("decimals after ten thousand rows", lambda at: max(HFDataModule(
        file("t.csv", "a\n" + "1\n" * 10_001 + "1.5\n")(at), cache="none").splits["train"]["a"]), 1.5),
    Case("text after them", read(file("t.csv", "a\n" + "1\n" * 10_001 + "x\n")),
         Refused("'a' is large_string.* row 10001.*int64")),
    Case("a CSV that streams", read(file("t.csv", TABLE), "train", streaming=True),
         Refused("does not say what its columns hold\n.*parquet")),
    Case("a folder cut short that save_to_disk wrote", read(arrow(200), "train"),
         Refused("data-00000-of-00001.arrow' cannot be read")),
    Case("an Arrow file cut short", read(arrow(200, single=True), "train"),
         Refused("arrow' cannot be read as a data set")),
    Case("a copy cut short that datasets made", again, Said("the copy of the data .* is damaged", True)),
    # ---- zip files -----------------------------------------------------------------------------------------------
    Case("a zip of images in folders of classes", labelled(packed(*CATS)), CLASSES),
    Case("... in a folder of its own", labelled(packed(*CATS, inside="data/photos.zip")), CLASSES),
    Case("... that streams", read(packed(*CATS), "train", streaming=True), [*grey(1), *grey(2)]),
    Case("a zip of splits", read(packed(("train/a.png", png(1)), ("test/a.png", png(3)))), grey(3)),
    Case("zips of splits", read(lambda at: packed(("a.png", png(1)), inside="data/train.zip")(at) and
                                packed(("a.png", png(3)), inside="data/test.zip")(at) and "data"), grey(3)),
    Case("a zip of a table", read(packed(("t.csv", TABLE)), "train"), VALUES),
    Case("a zip beside a table", read(lambda at: packed(*CATS, inside="data/photos.zip")(at) and
                                      files({"t.csv": CSV})(at)), Refused("archives .'photos.zip'.*CSV tables")),
    *[Case(f"a zip with {name}", labelled(packed((name, png(1)), ("b.png", png(1)))),
         Refused("has the entry .*which lies outside"))
      for name in ("../x.png", "/x.png", "a/../../x.png", "C:/x.png", "..\\x.png")],
    Case("a zip with a link", labelled(packed((link(), "/etc/passwd"))), Refused("'a.png', which is a link")),
    Case("a zip cut short", labelled(packed(*CATS, cut=-30)),
         Refused("the zip file '.*photos.zip' cannot be unpacked")),
    Case("a zip of a damaged image", labelled(lambda at: str(damaged(at, packed(*CATS)(at)))),
         Refused("at 'cat/0.png': Bad CRC")),
    Case("an empty zip", labelled(packed()), Refused("is empty")),
    Case("a zip of notes", labelled(packed(("a.txt", "a"))), Refused("neither images nor tables")),
    Case("a zip in a zip", labelled(packed(("a.zip", b""))), Refused("the archive 'a.zip'")),
    Case("images of two sizes", read(folder(a_png=GREY, b_png=GREY.resize((4, 4))), "train"),
         Refused("row 0 has .*1, 6, 5.*row 1 has .*1, 4, 4")),
]  # fmt: skip
