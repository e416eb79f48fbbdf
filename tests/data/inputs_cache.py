"""Data and code that change under their names: decoded samples of the cache are always those of what is at hand."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import PIL.Image
import pyarrow as pa
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from inputs import Case, Refused, Said, unscaled

from lightning_ae.data import Image, Tabular
from lightning_ae.data.cache import entries
from lightning_ae.data.code_digest import DECODING
from lightning_ae.data.fingerprint import states


def first(data: Any, kind: Any = None) -> int:
    """The first value of the first sample; of an image in 0..255."""
    batch = next(unscaled(data if isinstance(data, Dataset) else str(data), kind=kind, val_fraction=0).batches("train"))
    value = batch["image"] * 255 if "image" in batch else batch["a"]
    return round(float(value.flatten()[0]))


def picture(file: Path, value: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.full((4, 4), value, np.uint8)).save(file, format="BMP")
    os.utime(file, ns=(0, 0))
    return file


def table(value: int) -> Dataset:
    return Dataset.from_dict({"a": [float(value)] * 8})


def parquet(folder: Path, value: int) -> Path:
    folder.mkdir(exist_ok=True)
    table(value).to_parquet(folder / "train-0.parquet")
    os.utime(folder / "train-0.parquet", ns=(0, 0))
    return folder


def packed(folder: Path, value: int) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "train.csv.gz").write_bytes(gzip.compress(f"a\n{value}.0\n{value}.0\n".encode()))
    os.utime(folder / "train.csv.gz", ns=(0, 0))
    return folder


def named(*files: Path, key: str = "image") -> Dataset:
    return Dataset.from_dict({key: [str(file) for file in files]}).cast_column(key, ImageFeature())


def rewritten(folder: Path) -> list[int]:
    data = named(picture(folder / "0.bmp", 10))
    return [first(data), first(named(picture(folder / "0.bmp", 20)))]


def replaced(folder: Path) -> list[int]:
    def image_folder() -> int:
        return first(folder / "set")

    picture(folder / "set" / "train" / "0.bmp", 10)
    found = image_folder()
    picture(folder / "new.bmp", 20).replace(folder / "set" / "train" / "0.bmp")
    return [found, image_folder()]


def exchanged(written: Callable[[Path, int], Path]) -> Callable[[Path], list[int]]:
    return lambda folder: [first(written(folder / "set", value)) for value in (1, 2)]


def exchange(folder: Path, value: int) -> None:
    """Another arrow file under the same description."""
    table(value).save_to_disk(folder / "other")
    [file] = (folder / "other").glob("*.arrow")
    file.replace(next((folder / "set").glob("*.arrow")))


def arrow(folder: Path) -> list[int]:
    table(1).save_to_disk(folder / "set")
    found = first(folder / "set")
    exchange(folder, 2)
    return [found, first(folder / "set")]


def arrow_under_an_open_one(folder: Path) -> list[int]:
    table(1).save_to_disk(folder / "set")
    opened = Dataset.load_from_disk(str(folder / "set"))
    exchange(folder, 2)
    return [first(opened), first(folder / "set"), first(opened)]


def link(folder: Path) -> list[int]:
    found = []
    for value in (1, 2):
        parquet(folder / str(value), value)
    (folder / "set").mkdir()
    for value in (1, 2):
        (folder / "set" / "train.parquet").unlink(missing_ok=True)
        (folder / "set" / "train.parquet").symlink_to(folder / str(value) / "train-0.parquet")
        found.append(first(folder / "set"))
    return found


def moved(folder: Path) -> list[int]:
    parquet(folder / "new", 2)
    found = first(parquet(folder / "set", 1))
    (folder / "set").rename(folder / "old")
    (folder / "new").rename(folder / "set")
    return [found, first(folder / "set")]


def written_to(folder: Path) -> list[int]:
    values = np.full(8, 1.0)
    data = Dataset(pa.table({"a": values}))  # a view
    found = first(data)
    values[:] = 2.0
    return [found, first(data)]


def views(folder: Path) -> list[int]:
    data = Dataset.from_dict({"a": np.arange(8.0)})
    other = data.add_column("b", np.arange(8.0) + 9).remove_columns("a").rename_column("b", "a")
    return [first(each) for each in (data, data.sort("a", reverse=True), data.select([3, 1]), data.skip(2), other)]


@dataclass(frozen=True)
class Shifted(Tabular):
    """A user's kind, with a field of its own."""

    by: int = 0

    def decode(self, rows: Any, columns: list[str], split: str, first: int) -> np.ndarray:
        return super().decode(rows, columns, split, first) + np.float32(self.by)


PLAIN = "Tabular.decode(self, *of)"


def written(body: str, *more: str) -> Any:
    """A kind of a user's module, as it is imported after an edit."""
    text = [*more, "class Mine(Tabular):", "    def decode(self, *of):", f"        return {body}"]
    module: Any = types.ModuleType("a_module")
    module.Tabular, module.np = Tabular, np
    exec("\n".join(text), vars(module))
    sys.modules["a_module"] = module
    return module.Mine()


def edited(*kinds: Any) -> Callable[[Path], list[int]]:
    """What comes out by one after the other, and how often it was decoded."""
    return lambda folder: [*(first(table(1), kind) for kind in kinds), len(entries())]


def calls(*before: str, by: str = "change(Tabular.decode(self, *of))") -> Any:
    """The same decode, with other things about it."""
    return edited(*(written(by, *(line.replace("N", n) for line in before)) for n in "23"))


class Opens(Tabular):
    """A kind that opens files itself, which a column of texts names."""

    def input_columns(self, features: Features, label: str | None) -> list[str]:
        return ["a"]

    def decode(self, rows: Any, columns: list[str], split: str, first: int) -> np.ndarray:
        return np.stack([np.float32([Path(file).read_text()]) for file in rows["a"].to_pylist()])


def opened_by_the_kind(folder: Path) -> list[int]:
    def written_as(text: str) -> int:
        (folder / "1.txt").write_text(text)
        os.utime(folder / "1.txt", ns=(0, 0))
        return first(Dataset.from_dict({"a": [str(folder / "1.txt")]}, Features({"a": Value("string")})), Opens())

    return [written_as("1"), written_as("2")]


def gone(folder: Path) -> int:
    data = named(picture(folder / "0.bmp", 10), picture(folder / "1.bmp", 10))
    first(data)
    (folder / "1.bmp").unlink()
    return first(data)


def decodings(*change: Callable[[Path], Any], under: str = "set") -> Callable[[Path], list[int]]:
    """What comes out before and after a change that leaves the data as they are, and how often it was decoded."""

    def run(folder: Path) -> list[int]:
        found = [first(parquet(folder / "set", 1))]
        for each in change:
            each(folder)
        return [*found, first(folder / under), len(entries())]

    return run


class NoTimes:
    """What a file system says that keeps neither times of change nor inodes."""

    st_size, st_mtime_ns, st_ctime_ns, st_ino, st_dev = 1, 0, 0, 0, 0


def without_times(limit: int) -> Callable[[Path], bool]:
    def run(folder: Path) -> bool:
        file, found = folder / "file", set()
        with (
            patch("lightning_ae.data.fingerprint.os.stat", lambda path: NoTimes),
            patch("lightning_ae.data.fingerprint.HASHED", limit),
        ):
            for text in "ab"[: 2 if limit else 1]:
                file.write_text(text)
                found.add(states([str(file)]))
        return len(found) == 2

    return run


def odd_images(_: Path) -> tuple[int, str]:
    """The number of our own decoding, and a digest of what it makes of images that it has to convert."""
    rng, items = np.random.default_rng(0), []
    grey, colour, clear = (rng.integers(256, size=(4, 4, n), dtype=np.uint8) for n in (1, 3, 4))
    turned = PIL.Image.Exif()
    turned[PIL.Image.ExifTags.Base.Orientation] = 6
    palette = PIL.Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4), "P")
    palette.putpalette(colour.tobytes() + clear.tobytes()[:48])
    for image in (PIL.Image.fromarray(grey[..., 0]).convert("1"), PIL.Image.fromarray(clear), palette,
                  PIL.Image.fromarray(clear).convert("LA"), PIL.Image.fromarray(colour)):  # fmt: skip
        to = io.BytesIO()
        image.save(to, "PNG", exif=turned)
        items.append({"bytes": to.getvalue(), "path": None})
    rows = [pa.table({"image": pa.array([item])}) for item in items]
    samples = [Image().decode(each, ["image"], "train", 0) for each in rows]
    return DECODING, hashlib.md5(b"".join(str(each.shape).encode() + each.tobytes() for each in samples)).hexdigest()


CASES = [
    Case(
        "our own decoding: raise DECODING where this digest changes",
        odd_images,
        (2, "68779c4f06b9130b8ce793a1ade8b77d"),
    ),
    Case("an image that is written again, its size and time stamp kept", rewritten, [10, 20]),
    Case("an image of a folder that another takes the place of, size and time stamp equal", replaced, [10, 20]),
    Case("a parquet file that is exchanged, its time stamp kept", exchanged(parquet), [1, 2]),
    Case("a packed file that is exchanged, its time stamp kept", exchanged(packed), [1, 2]),
    Case("an arrow file that is exchanged under an unchanged state.json", arrow, [1, 2]),
    Case("an arrow file that is exchanged while it is open", arrow_under_an_open_one, [1, 2, 1]),
    Case("a link that leads to another file, all time stamps equal", link, [1, 2]),
    Case("a folder that another takes the place of, all time stamps equal", moved, [1, 2]),
    Case("a table in memory that is written to", written_to, [1, 2]),
    Case("selections of a table, and another column in it", views, [0, 7, 3, 2, 9]),
    Case("a file that a kind of one's own opens", opened_by_the_kind, [1, 2]),
    Case("an image that is gone since", gone, Refused(r"row 1 of split 'train' is not a readable image")),
    Case("another value of a field of one's own", edited(Shifted(), Shifted(by=4), Shifted(by=0)), [1, 5, 1, 2]),
    Case("an edited decode", edited(written(PLAIN), written(f"{PLAIN} * 3"), written(PLAIN)), [1, 3, 1, 2]),
    Case("an edited function that decode calls", calls("def change(x): return x * N"), [2, 3, 2]),
    Case("... and one that this calls", calls("def f(x): return x * N", "def change(x): return f(x)"), [2, 3, 2]),
    Case("... in a closure", calls("def of(n): return lambda x: x * n", "change = of(N)"), [2, 3, 2]),
    Case("... of an object", calls("class Of:", "  def f(self, x): return x * N", "change = Of().f"), [2, 3, 2]),
    Case("... in a default", calls("def change(x, n=N): return x * n"), [2, 3, 2]),
    Case(
        "... behind a cache",
        calls("import functools", "@functools.cache", "def n(): return N", by=f"{PLAIN} * n()"),
        [2, 3, 2],
    ),
    Case("an edited constant", calls("n = N", by=f"{PLAIN} * n"), [2, 3, 2]),
    Case("an edited table of numbers", calls("n = np.full(5000, N)", by=f"{PLAIN} * n[0]"), [2, 3, 2]),
    Case("an edited base class", calls("class Tabular(Tabular): n = N", by=f"{PLAIN} * self.n"), [2, 3, 2]),
    Case("a comment", edited(written(PLAIN), written(f"{PLAIN}  # as it is")), [1, 1, 1]),
    Case(
        "a kind that uses what cannot be looked into",
        edited(written(f"{PLAIN} * next(ones)", "ones = (1 for _ in range(9))")),
        Said("uses a generator, which cannot be looked into", [1, 1]),
    ),
    Case("the same again", decodings(), [1, 1, 1]),
    Case("the same data at two paths", decodings(lambda f: shutil.copytree(f / "set", f / "b"), under="b"), [1, 1, 2]),
    Case("a file that was touched", decodings(lambda f: os.utime(f / "set" / "train-0.parquet")), [1, 1, 2]),
    Case("a file system that keeps no times of change", without_times(1), True),
    Case("... with files too large to read", without_times(0), Said("does not tell when files changed", False)),
]
