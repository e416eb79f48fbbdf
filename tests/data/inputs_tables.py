"""Tables and labels: which columns make the input, what becomes of their numbers, and of labels."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, IterableDataset, List, Value
from datasets import Image as ImageFeature
from inputs import Case, Refused, Said, unscaled

from lightning_ae import VAE, ConditionalVAE
from lightning_ae.cli.written import vectors, write_parquet
from lightning_ae.data import HFDataModule, Tabular

N = 6
A, B = [0.5, 1.5, -2.0, 3.0, 4.0, 8.0], [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
IDS = [11, 12, 13, 14, 15, 16]
NAMES = ["cat", "dog", "cat", "emu", "dog", "cat"]
EPOCH = [1_700_000_000.0 + second for second in range(N)]
MEMORY: dict[str, Any] = {"cache": "memory", "val_fraction": 0}


def table(features: dict[str, Any] | None = None, **columns: Any) -> Dataset:
    rows = Dataset.from_dict(columns)
    return rows.cast(Features({**rows.features, **features})) if features else rows


def read(rows: Any, **options: Any) -> HFDataModule:
    data = unscaled(rows, **{**MEMORY, **options})
    data.prepare_data()
    data.setup("fit")
    return data


def batch(rows: Any, split: str = "train", **options: Any) -> dict[str, torch.Tensor]:
    return next(read(rows, **options).batches(split, 100))


def columns(rows: Any, **options: Any) -> list[str]:
    return read(rows, **options).input_columns


def labels(rows: Any, split: str = "train", **options: Any) -> tuple[Any, list[int], str]:
    """The classes, and the label of a batch with its type."""
    data = read(rows, **options)
    assert data.label is not None
    found = next(data.batches(split, 100))[data.label]
    assert torch.equal(found.nan_to_num(-7.0), data.labels(split).nan_to_num(-7.0))
    return data.class_names, found.nan_to_num(-7.0).tolist(), str(found.dtype).removeprefix("torch.")


def splits(train: list[Any], test: list[Any], of_train: Any = None, of_test: Any = None) -> DatasetDict:
    def one(values: list[Any], feature: Any) -> Dataset:
        data = {"a": [float(i) for i in range(len(values))], "label": values}
        return Dataset.from_dict(
            data, features=Features(a=Value("float64"), label=feature or Dataset.from_dict(data).features["label"])
        )

    return DatasetDict(train=one(train, of_train), test=one(test, of_test))


def standardised(values: list[Any]) -> torch.Tensor:
    return batch(table(a=values), kind=Tabular(scaling="standard"))["a"][:, 0]


def scaled(values: list[Any]) -> torch.Tensor:
    array = np.array([float(v) for v in values])
    return torch.tensor((array - array.mean()) / array.std(), dtype=torch.float32)


def same_features(values: list[float]) -> bool:
    """Whether a model's features of natural units are those of the batch that trains it."""
    data = read(table(a=values, b=B), kind=Tabular(scaling="standard"))
    model = VAE((2,), latent_dim=2).eval()
    model.signature = data.signature
    natural = torch.tensor([values, B], dtype=torch.float64).T
    # what the encoder takes: its products of other memory may round otherwise
    return torch.equal(model.read_natural(natural, {})[0], next(data.batches("train", 100))["x"])


def fed(model: DatasetDict, rows: Any) -> tuple[Any, list[int], str]:
    """The labels of rows that feed a model that was trained on others."""
    data = unscaled(rows, **MEMORY)
    data.use_signature(read(model).signature)
    data.prepare_data()
    return data.class_names, next(data.batches("train"))["label"].tolist(), str(data.label)


def stream(files: int, rows: int, bad: int) -> IterableDataset:
    """Files of one column, of which row `bad` of all is NaN."""

    def make(shard: list[int]) -> Any:
        for file in shard:
            yield from ({"a": float("nan") if file * rows + i == bad else 1.0} for i in range(rows))

    features = Features(a=Value("float64"))
    return IterableDataset.from_generator(make, gen_kwargs={"shard": list(range(files))}, features=features)


def nan_in(row: int, rows: int) -> Dataset:
    return table(a=[float("nan") if i == row else float(i) for i in range(rows)])


def fed_through(rows: Any, **options: Any) -> list[str]:
    """All batches of training; the names of their entries."""
    data = unscaled(rows, **{**MEMORY, **options})
    data.setup("fit")
    found = list(data.train_dataloader())
    return sorted(found[0])


def half_written(tmp_path: Path) -> list[str]:
    try:
        HFDataModule(nan_in(40_000, 50_000), val_fraction=0).setup("fit")
    except ValueError:
        files = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
        return sorted(path.name for path in files if path.suffix != ".lock")
    return ["not refused"]


def wide(tmp_path: Path) -> int:
    data = HFDataModule(Dataset(pa.table({f"c{i}": pa.array([float(i), 2.0]) for i in range(3000)})), **MEMORY)
    data.prepare_data()
    return len(data.input_columns)


def codes_beside(tmp_path: Path) -> list[str]:
    made = {"code": vectors(torch.zeros(N, 3)), "row": range(N)}
    write_parquet(table(code=IDS, label=IDS), made, {}, tmp_path / "c.parquet", False)
    return list(Dataset.from_parquet(str(tmp_path / "c.parquet")).column_names)


def taught(values: list[Any]) -> None:
    data = read(table({"label": ClassLabel(names=["p", "q"])}, a=A, label=values))
    model = ConditionalVAE((1,), num_classes=2, latent_dim=1)
    model.read(next(data.batches("train")))
    model.encode(torch.zeros(N, 1), label=data.labels("train"))


def unpacked(entries: dict[str, Any]) -> Any:
    return [each.tolist() for each in VAE((2,), latent_dim=1).unpack(entries)[:2]]


CARD = {"V1": A, "V2": B, "Class": [0, 1] * 3, "user_id": IDS, "index": IDS, "Note": NAMES, "is_fraud": [0, 1] * 3}
ARRAYS = {"grid": Array2D((2, 2), "float32")}
GRID = [[[1.0, 2.0], [3.0, 4.0]]] * N
ALONE = r"makes an input by itself; it has "
X = torch.tensor([[1.0, 2.0]])

CASES = [
    # ---- which columns -------------------------------------------------------------------------------------------
    Case("what looks like an id, an index, a target", lambda _: columns(table(**CARD)),
         Said(r"input: 2 columns \(V1, V2\); label: Class \(2 classes: 0, 1\); left out: user_id \(an identifier\), "
              r"index \(an index\), is_fraud \(looks like a target\), Note \(text\); .*columns=", ["V1", "V2"])),
    Case("the same, named", lambda _: columns(table(**CARD), kind=Tabular(("user_id", "V1"))),
         Said(r"^input: 2 columns \(user_id, V1\); (?!.*columns=)", ["user_id", "V1"])),
    Case("the index of a data frame", lambda _: columns(table(a=A, __index_level_0__=B, **{"Unnamed: 0": IDS})),
         Said(r"Unnamed: 0 \(an index\)", ["a"])),
    Case("names that only sound like it", lambda _: columns(table(grid=A, paid=B, valid=IDS, x=A, y=B)),
         Said("label: none", ["grid", "paid", "valid", "x", "y"])),
    Case("an array beside an id", lambda _: columns(table(ARRAYS, id=IDS, grid=GRID)),
         Refused(ALONE + r"id \(an identifier\), grid \(arrays of shape \(2, 2\)\)")),
    Case("nested lists beside an index", lambda _: columns(table(index=IDS, v=GRID)),
         Refused(ALONE + r"index \(an index\), v \(nested lists\)")),
    Case("a struct beside a target", lambda _: columns(table(churn=[0, 1] * 3, s=[{"p": 1.0}] * N)),
         Refused(ALONE + r"churn \(looks like a target\), s \(a struct\)")),
    Case("lists of images beside an id", lambda _: columns(
        Dataset.from_dict({"id": [], "im": []}, Features(id=Value("int64"), im=List(ImageFeature())))
        .add_item({"id": 1, "im": []})), Refused(ALONE + r"id \(an identifier\), im \(lists of images\)")),
    Case("numbers as text, and dates", lambda _: columns(
        table(n=["1.5"] * N, day=[datetime.date(2020, 1, 1)] * N, none=[None] * N, label=IDS)),
         Refused(ALONE + r"the label 'label' and n \(text\), day \(a date\), none \(all values missing\)")),
    Case("decimals and booleans", lambda _: batch(table(d=[Decimal("1.25")] * N, b=[True, False] * 3))["x"][1],
         torch.tensor([1.25, 0.0])),
    Case("classes beside numbers", lambda _: columns(
        table({"k": ClassLabel(names=["p", "q"]), "l": ClassLabel(names=["p", "q"])}, a=A, k=[0, 1] * 3, l=[0] * N)),
         Said(r"left out: k \(classes\), l \(classes\)", ["a"])),
    Case("a vector as target of another", lambda _: columns(table(v=[[1.0, 2.0]] * N, target=[[0.0, 1.0]] * N)),
         Said(r"target \(looks like a target\)", ["v"])),
    Case("a column twice", lambda _: columns(table(a=A), kind=Tabular(("a", "a"))), Refused("'a' more than once")),
    Case("3000 columns", wide, Said(r"input: 3000 columns \(c0, .{20,60} and 2992 more\)", 3000)),
    # ---- their numbers -------------------------------------------------------------------------------------------
    Case("epoch seconds, standardised", lambda _: standardised(EPOCH), scaled([0, 1, 2, 3, 4, 5])),
    Case("and the features of them", lambda _: same_features(EPOCH), True),
    Case("epoch seconds as they are", lambda _: columns(table(t=EPOCH)),
         Said(r"float32 cannot tell apart.* of t: give kind=Tabular\(scaling='standard'\)", ["t"])),
    Case("integers near 2^53, standardised", lambda _: standardised([2**50 + i for i in range(N)]),
         scaled([0, 1, 2, 3, 4, 5])),
    Case("integers beside floats", lambda _: batch(table(i=[2**40 + n for n in range(N)], f=A),
                                                  kind=Tabular(scaling="standard"))["x"][:, 0], scaled(list(range(N)))),
    Case("integers of 2^53", lambda _: standardised([1, 2, 2**53, 4, 5, 6]),
         Refused(r"column 'a' of split 'train' holds 9007199254740992 in row 2: integers of 2\^53")),
    Case("1e39", lambda _: batch(table(a=[1.0, 1e39])), Refused(r"'a'.* holds 1e\+39, which float32 cannot.* row 1")),
    Case("1e39, standardised", lambda _: standardised([0.0, 1e39]), torch.tensor([-1.0, 1.0])),
    Case("1e300, standardised", lambda _: standardised([-1e300, 1e300]), Refused("dimension 0 .*too far")),
    Case("a constant but for rounding", lambda _: standardised([0.1 + 0.2, 0.3] * 3).round(decimals=9),
         torch.zeros(N)),
    # ---- labels --------------------------------------------------------------------------------------------------
    Case("labels 1..K", lambda _: labels(splits([1, 2, 3, 1], [3, 1]), "test"), (["1", "2", "3"], [2, 0], "int64")),
    Case("int32, one missing", lambda _: labels(splits([5, 6, None, 6], [6], Value("int32"))),
         Said(r"2 classes: 5, 6; 1 rows have none", (["5", "6"], [0, 1, -1, 1], "int64"))),
    Case("-1 marks none", lambda _: labels(splits([0, 1, -1, 1], [1])), (["0", "1"], [0, 1, -1, 1], "int64")),
    Case("but -1 and 1 are classes", lambda _: labels(splits([-1, 1, 1], [1])), (["-1", "1"], [0, 1, 1], "int64")),
    Case("text", lambda _: labels(splits(NAMES, ["emu", None]), "test"), (["cat", "dog", "emu"], [2, -1], "int64")),
    Case("booleans", lambda _: labels(splits([True, False], [None, True]), "test"),
         (["false", "true"], [-1, 1], "int64")),
    Case("integers that become floats by a gap", lambda _: labels(splits([1, 2], [2.0, None]), "test"),
         (["1", "2"], [1, -1], "int64")),
    Case("a number to regress on", lambda _: labels(splits([0.5, None], [1.0])), (None, [0.5, -7.0], "float32")),
    Case("more integers than classes", lambda _: labels(splits(list(range(40)), [99]), "test"), (None, [99], "int64")),
    Case("classes in another order", lambda _: labels(
        splits([0, 1], [0, 1], ClassLabel(names=["p", "q"]), ClassLabel(names=["q", "p"])), "test"),
         (["p", "q"], [1, 0], "int64")),
    Case("a class that training has not", lambda _: labels(splits(NAMES, ["dog", "yak"]), "test"),
         Refused(r"label 'label' of split 'test' is 'yak' in row 1, which is no class .*: cat, dog, emu")),
    Case("in a class that is not declared", lambda _: labels(
        splits([0, 1], [0, 1], ClassLabel(names=["p", "q"]), ClassLabel(names=["p", "r"])), "test"),
         Refused(r"is 'r' in row 1")),
    Case("a model's classes, for other data", lambda _: fed(splits(NAMES, ["cat"]), splits(["emu", "dog"], ["dog"])),
         (["cat", "dog", "emu"], [2, 1], "label")),
    Case("others than a model's", lambda _: fed(splits(NAMES, ["cat"]), splits(["yew", "ash"], ["ash"])),
         Said("none of which the model was trained with", (["ash", "yew"], [1, 0], "label"))),
    Case("a model that needs each label", lambda _: taught([0, 1, 1, -1, 0, 1]), Refused("in row 3 of the batch")),
    Case("a stream's labels", lambda _: batch(
        splits([3, None, 7], [1])["train"].to_iterable_dataset(), streaming=True)["label"].tolist(), [3, -1, 7]),
    # ---- names ---------------------------------------------------------------------------------------------------
    Case("a column x beside several", lambda _: sorted(batch(table(a=A, b=B, x=A), kind=Tabular(("a", "b")))),
         ["x", "x_"]),
    Case("an input called target", lambda _: unpacked({"target": X, "y": X[:, 0]}), [X.tolist()] * 2),
    Case("a target of the input's shape", lambda _: unpacked({"x": X, "target": 2 * X}),
         [X.tolist(), (2 * X).tolist()]),
    Case("a column code beside the codes", codes_beside, ["code_", "row", "code", "label"]),
    # ---- bad values, by the data set's own row -----------------------------------------------------------------------
    Case("NaN where batches are decoded each time", lambda _: fed_through(
        nan_in(503, 600), cache="none", val_fraction=0.3, batch_size=32), Refused(r"first in row 503\b")),
    Case("NaN in a stream", lambda _: fed_through(
        stream(1, 600, 500), streaming=True, shuffle_buffer=50, batch_size=32), Refused("first in row 500")),
    Case("NaN in a stream of files", lambda _: fed_through(
        stream(3, 200, 205), streaming=True, shuffle_buffer=50, batch_size=16),
         Refused(r"first in row 5 \(rows are counted in each of the stream's files; .*number .*1.* of 3\)")),
    Case("vectors of other lengths", lambda _: batch(table(v=[[1.0, 2.0]] * 4 + [[1.0]])),
         Refused("'v' of split 'train' differ in length: row 0 has 2 values, row 4 has 1")),
    Case("the same, shuffled", lambda _: fed_through(table(v=[[1.0, 2.0]] * 9 + [[1.0]]), cache="none", batch_size=5),
         Refused(r"row \d is float32 \(., row 9 is|row 9 is float32")),
    Case("a gap in a vector", lambda _: batch(table(v=[[1.0, 2.0], [1.0, None]])), Refused("'v'.*first in row 1 at 1")),
    Case("empty vectors", lambda _: batch(table(v=[[]] * 3).cast(Features(v=List(Value("float32"))))),
         Refused("'v' of split 'train' holds empty vectors")),
    Case("no rows", lambda _: batch(table(a=A).select([])), Refused("'train' of the data set is empty")),
    Case("one row", lambda _: batch(table(a=[2.0], b=[3.0]), kind=Tabular(scaling="standard"))["x"], torch.zeros(1, 2)),
    Case("all values missing", lambda _: batch(table({"a": Value("float64")}, a=[None] * N)),
         Refused("'a' of split 'train' holds missing values .*row 0")),
    Case("NaN in a later chunk leaves no cache entry", half_written, []),
]  # fmt: skip
