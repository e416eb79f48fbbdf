"""Where data come from, and what a data set says of itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from datasets import Dataset, DatasetDict, Features, Image, Value
from inputs import Case, Refused

from lightning_ae import HFDataModule
from lightning_ae.data import Image as Images

ROWS = Dataset.from_dict({"a": [1.0, 2.0, 3.0, 4.0], "b": [5.0, 6.0, 7.0, 8.0]})


@cache
def pixels(channels: int = 3) -> np.ndarray:
    shape = (6, 5) if channels == 1 else (6, 5, channels)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def read(data: Any, split: str = "test", **options: Any) -> Callable[[Path], Any]:
    """The values of the input of a split, as lists, of a data set or of what is written into a folder."""

    def run(folder: Path) -> Any:
        given = data(folder) if callable(data) else data
        module = HFDataModule(given, **{"cache": "memory", "val_fraction": 0, **options})
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


CSV = "a\n1\n2\n"
GREY = PIL.Image.fromarray(pixels(1))

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
    Case("a column that one split lacks", read(sets(ROWS.rename_column("b", "c"))), Refused("no column 'b'")),
    # splits
    Case("no training split", read(DatasetDict(training=ROWS), "train"), Refused("no split 'train'.*\n.*='training'")),
    Case("no test split", read(DatasetDict(train=ROWS)), Refused("no split 'test' .test_split.*\n.*'train'")),
    Case("a hundred splits", read(DatasetDict({f"s{i}": ROWS for i in range(100)})), Refused("and 92 more")),
    # folders
    *[Case(f"a folder called {name}", read(folder(name, train_csv=CSV), "train"), [[1.0], [2.0]])
      for name in ("csv", "./json", "parquet/", "text", "imagefolder")],
    Case("no folder csv", read("csv"), Refused("names a file format")),
    *[Case(typo, read(typo), Refused(f"did you mean '{name}'"))
      for typo, name in {"digts": "digits", "fasion": "fashion"}.items()],
    Case("a file", read(lambda at: str(at / folder()(at)) + "/../other.csv"), Refused("is a file\n.*the folder")),
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
    Case("an image of no bytes", read(folder(a_png=b""), "train"), Refused("row 0 of split 'train' .*a.png")),
    Case("an image cut short", read(folder(a_png=GREY.tobytes()[:9]), "train"), Refused("row 0 of split 'train'")),
    Case("an image that unpacks to more than memory", read(folder(a_png=PIL.Image.new("1", (20000, 9000))), "train"),
         Refused("row 0 of split 'train' .*decompression bomb")),
    Case("images of two sizes", read(folder(a_png=GREY, b_png=GREY.resize((4, 4))), "train"),
         Refused("row 0 has .*1, 6, 5.*row 1 has .*1, 4, 4")),
]  # fmt: skip
