"""What lies in memory, and counts: frames, arrays, tensors, sparse matrices, AnnData."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import pyarrow as pa
import scipy.sparse
import torch
from inputs import Case, Refused, Said

from lightning_ae.data import Counts, HFDataModule, Tabular
from lightning_ae.data.kinds.counts import CountPreprocess
from lightning_ae.data.signature import Column, Signature

MEMORY: dict[str, Any] = {"cache": "memory", "val_fraction": 0}
DENSE = np.array([[0, 3, 0], [1, 0, 2], [0, 0, 0], [0, 40_000, 5]])
GENES = ["CD3", "CD8", "ACTB"]
MODEL = Signature(CountPreprocess(3), (Column("X", "vector", "struct", (3,), names=tuple(GENES)),))


def made(data: Any, **options: Any) -> HFDataModule:
    return HFDataModule(data, **{**MEMORY, **options})


def features(data: Any, **options: Any) -> dict[str, str]:
    """Of a column each what the data set holds, in its own words."""
    return {name: str(feature) for name, feature in made(data, **options).splits["train"].features.items()}


def batch(data: Any, split: str = "train", model: Signature | None = None, **options: Any) -> dict[str, torch.Tensor]:
    module = made(data, **options)
    if model is not None:
        module.use_signature(model)
    module.setup("fit")
    return next(module.batches(split, 100))


def x(data: Any, key: str = "x", **options: Any) -> torch.Tensor:
    return batch(data, **options)[key]


def anndata(matrix: Any = DENSE, genes: list[str] = GENES, **more: Any) -> SimpleNamespace:
    """What of an AnnData is read."""
    cells = [f"cell{i}" for i in range(len(DENSE))]
    kinds = pd.Categorical(["T", "B", "T", None], categories=["T", "NK", "B"])
    obs = pd.DataFrame({"cell_type": kinds, "depth": [1.0, 2.0, 3.0, 4.0]}, index=cells)
    return SimpleNamespace(**{"X": matrix, "obs": obs, "var_names": pd.Index(genes), "layers": {}, **more})


def written(tmp_path: Path, name: str) -> str:
    (tmp_path / name).write_bytes(b"no such thing")
    return str(tmp_path / name)


def sparse(values: Any = DENSE, of: Any = scipy.sparse.csr_array) -> Any:
    return of(np.array(values))


def counts(**columns: Any) -> torch.Tensor:
    return batch(columns, kind=Counts())["x" if len(columns) > 1 else next(iter(columns))]


def columns_model() -> Signature:
    return made({"a": [1], "b": [2]}, kind=Counts()).signature


FLOATS = torch.tensor(DENSE, dtype=torch.float32)
FRAME = pd.DataFrame({"a": [0.5, 1.5], "b": [1, 2]})
RAW: dict[str, Any] = {"kind": Tabular(scaling="none")}
SHUFFLED = anndata(sparse(DENSE[:, [2, 0, 1]]), ["ACTB", "CD3", "CD8"])
WIDER = anndata(np.c_[DENSE, DENSE[:, :1]], [*GENES, "XIST"])

CASES = [
    # frames
    Case("a frame", lambda _: x(FRAME, **RAW), torch.tensor([[0.5, 1.0], [1.5, 2.0]])),
    Case("a frame's index", lambda _: features(FRAME.set_index("b")),
         Said("^the frame's index 'b' is left out; frame.reset_index", {"a": "Value('float64')"})),
    Case("indices of several splits", lambda _: list(made({s: FRAME.set_index("b") for s in ("train", "test")}).splits),
         Said("the frame's index", ["train", "test"])),
    Case("a table of Arrow's", lambda _: features(pa.table({"a": [1]})), {"a": "Value('int64')"}),
    Case("nullable types", lambda _: features(pd.DataFrame({
        "a": pd.array([1, None], "Int64"), "b": pd.array([True, None], "boolean"),
        "t": pd.date_range("2024", periods=2, tz="Europe/Berlin", unit="us"),
        "z": pd.array([0, 1], pd.SparseDtype(int, 0))})),
         {"a": "Value('int64')", "b": "Value('bool')", "t": "Value('timestamp[us, tz=Europe/Berlin]')",
          "z": "Value('int64')"}),
    Case("a nullable integer that is missing", lambda _: x({"a": pd.array([1, None], "Int64")}, "a"),
         Refused("missing values.*first in row 1")),
    Case("a categorical keeps its order",
         lambda _: made(pd.DataFrame({"a": [1], "c": pd.Categorical(["hi"], ["lo", "mid", "hi"])})).class_names,
         ["lo", "mid", "hi"]),
    Case("a categorical that is missing",
         lambda _: batch(pd.DataFrame({"a": [1, 2], "c": pd.Categorical([None, "x"])}))["c"].tolist(), [-1, 0]),
    Case("categories of one name", lambda _: made(pd.DataFrame({"a": pd.Categorical([1, "1"])})),
         Refused("column 'a' has several categories called '1'")),
    Case("duplicate columns", lambda _: made(pd.DataFrame([[1, 2]], columns=["a", "a"])),
         Refused("several columns of one name: a")),
    Case("mixed types", lambda _: made(pd.DataFrame({"a": [1, 2, "x"]})),
         Refused("column 'a' mixes types: 1 is a number, 'x' in row 2 a str")),
    Case("periods", lambda _: made(pd.DataFrame({"p": pd.period_range("2024", periods=2, freq="M")})),
         Refused(r"column 'p' holds period\[M\], which data sets have no type for")),
    Case("intervals", lambda _: made(pd.DataFrame({"p": pd.interval_range(0, 2)})),
         Refused("column 'p' holds interval")),
    Case("complex numbers in a frame", lambda _: made(pd.DataFrame({"p": [1j]})), Refused("column 'p'.*1j.* in row 0")),
    Case("objects", lambda _: made(pd.DataFrame({"p": [object()]})), Refused("column 'p'.*object.* in row 0")),
    Case("no rows", lambda _: made(FRAME[:0]), Refused("path, a DataFrame, has no rows")),
    Case("no columns", lambda _: made(pd.DataFrame(index=range(2))), Refused("path, a DataFrame, has no columns")),
    Case("a series", lambda _: made(FRAME["a"]), Refused("got Series")),
    Case("texts alone", lambda _: made(pd.DataFrame({"a": ["x"]})), Refused("no column .* makes an input")),
    # arrays
    Case("an array", lambda _: x(np.arange(4.0).reshape(2, 2), **RAW), torch.arange(4.0).reshape(2, 2)),
    Case("a big-endian one", lambda _: x(np.arange(4).reshape(2, 2).astype(">i2"), **RAW),
         torch.arange(4.0).reshape(2, 2)),
    Case("every other column", lambda _: x(np.arange(8.0).reshape(2, 4)[:, ::2], **RAW),
         torch.tensor([[0.0, 2.0], [4.0, 6.0]])),
    Case("a tensor with a gradient", lambda _: x(torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True), **RAW),
         torch.ones(2, 3)),
    Case("complex numbers", lambda _: made(np.ones((2, 2), complex)), Refused("column 'x' holds complex128")),
    Case("long doubles", lambda _: made(np.ones((2, 2), np.longdouble)), Refused("column 'x' holds float128")),
    Case("dates by years", lambda _: made(np.array(["2024"], "M8[Y]")), Refused(r"column 'x' holds datetime64\[Y\]")),
    Case("a single value", lambda _: made(np.array(3.0)), Refused("column 'x' is a single value")),
    Case("vectors of no values", lambda _: made(np.ones((3, 0))), Refused(r"shape \(3, 0\), which holds no values")),
    Case("an empty array", lambda _: made(np.ones((0, 3))), Refused("path, a ndarray, has no rows")),
    Case("masked vectors", lambda _: made(np.ma.array([[1.0, 2.0]], mask=[[0, 1]])), Refused("masked values")),
    Case("fields", lambda _: features(np.array([(1, 2.0)], [("a", "i4"), ("b", "f4")])),
         {"a": "Value('int32')", "b": "Value('float32')"}),
    Case("a list", lambda _: made([[1, 2]]), Refused("got list\n.*make an array")),
    Case("nothing", lambda _: made(None), Refused("got NoneType")),
    # images
    Case("grey images", lambda _: x(np.full((2, 4, 5), 255, np.uint8)), torch.ones(2, 1, 4, 5)),
    Case("images, channels last", lambda _: x(np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3))[1, 2, 0, 1],
         torch.tensor((48 + 5) / 255)),
    Case("images, channels first", lambda _: x(torch.arange(96, dtype=torch.uint8).reshape(2, 3, 4, 4))[1, 2, 0, 1],
         torch.tensor((48 + 33) / 255)),
    Case("one image in colour", lambda _: made(np.zeros((8, 8, 3), np.uint8)), Refused("one image in colour, or 8 in")),
    Case("three grey ones, or one", lambda _: made(np.zeros((3, 8, 8), np.uint8)), Refused("one image in colour, or")),
    Case("channels first or last", lambda _: made(np.zeros((5, 3, 8, 3), np.uint8)),
         Refused(r"may be \(N, C, H, W\) or \(N, H, W, C\)")),
    Case("five channels", lambda _: made(np.zeros((5, 5, 8, 8), np.uint8)),
         Refused(r"nested lists(.|\n)*kind=Image\(range")),
    Case("floats of images", lambda _: made(np.zeros((5, 3, 8, 8))), Refused("makes an input by itself.*nested lists")),
    Case("PIL images", lambda _: x({"im": [PIL.Image.new("L", (2, 2), 255)]}, "im"), torch.ones(1, 1, 2, 2)),
    Case("PIL images and a gap", lambda _: made({"im": [PIL.Image.new("L", (2, 2)), None]}),
         Refused("column 'im' holds images, but row 1 is a NoneType")),
    # pairs, dicts, splits
    Case("a pair", lambda _: batch((np.ones((2, 2)), ["dog", "cat"]))["label"].tolist(), [1, 0]),
    Case("a pair of two lengths", lambda _: made((np.ones((2, 2)), [1])), Refused("x 2, label 1")),
    Case("a pair with labels twice", lambda _: made((FRAME.assign(label=0), [1, 1])), Refused("'label' already")),
    Case("three in a tuple", lambda _: made((1, 2, 3)), Refused("got tuple")),
    Case("a dict", lambda _: features({"a": [1, None], "b": torch.ones(2, 2), 3: ["x", "y"]}),
         {"a": "Value('int64')", "b": "List(Value('float32'), length=2)", "3": "Value('string')"}),
    Case("a dict of a number", lambda _: made({"a": 3}), Refused("column 'a' is 3")),
    Case("a dict of a text", lambda _: made({"a": "abc"}), Refused("column 'a' is 'abc'")),
    Case("columns of two lengths", lambda _: made({"a": [1], "b": [1, 2]}), Refused("differ in length: a 1, b 2")),
    Case("splits", lambda _: x({"train": FRAME, "test": FRAME[1:]}, split="test", **RAW), torch.tensor([[1.5, 2.0]])),
    Case("splits of one's own", lambda _: x({"a": FRAME, "b": FRAME}, train_split="b", **RAW)[0],
         torch.tensor([0.5, 1.0])),
    Case("an empty split", lambda _: made({"train": FRAME, "test": FRAME[:0]}), Refused("split 'test'.* has no rows")),
    Case("name of a frame", lambda _: made(FRAME, name="b"), Refused("name 'b' is a configuration")),
    # counts
    Case("sparse rows", lambda _: x(sparse()), FLOATS),
    Case("... by columns", lambda _: x(sparse(of=scipy.sparse.csc_matrix)), FLOATS),
    Case("... of torch", lambda _: x(FLOATS.to_sparse()), FLOATS),
    Case("... read each time", lambda _: x(sparse(), cache="none"), FLOATS),
    Case("... as a stream", lambda _: x(sparse(), streaming=True), FLOATS),
    Case("... cached on disk", lambda _: x(sparse(), cache="disk"), FLOATS),
    Case("... of booleans", lambda _: x(sparse(DENSE > 0)), (FLOATS > 0).float()),
    Case("... with an entry twice",
         lambda _: x(scipy.sparse.coo_array(([1, 2], ([0, 0], [1, 1])), (1, 3))), torch.tensor([[0.0, 3.0, 0.0]])),
    Case("... without entries", lambda _: x(scipy.sparse.csr_array((2, 3))), torch.zeros(2, 3)),
    Case("... of a split that is fuller", lambda _: x({"train": sparse(DENSE[:1]), "test": sparse()}, split="test"),
         FLOATS),
    Case("... of splits of two widths",
         lambda _: x({"train": sparse(), "test": sparse(DENSE[:, :2])}, split="test"),
         Refused("has 2 dimensions, where the model takes 3")),
    Case("a negative entry", lambda _: made(sparse([[0, 1], [0, -1]])), Refused("row 1, dimension 1 holds -1")),
    Case("a fraction", lambda _: made(sparse([[0, 1.5]])), Refused("row 0, dimension 1 holds 1.5")),
    Case("NaN", lambda _: made(sparse([[0, np.nan]])), Refused("row 0, dimension 1 holds nan")),
    Case("what float32 cannot tell", lambda _: made(sparse([[0, 2**24 + 1]])), Refused("holds 16777217: from 2.24")),
    Case("sparse rows as a table", lambda _: made(sparse(), kind=Tabular()), Refused(r"it has x \(sparse rows\)")),
    Case("columns of counts", lambda _: counts(a=[1, 2], b=np.array([3, 70_000]), c=[0.5, 1.5]),
         torch.tensor([[1.0, 3.0], [2.0, 70_000.0]])),
    Case("vectors of counts", lambda _: counts(v=DENSE.astype(float)), FLOATS),
    Case("columns with a fraction", lambda _: x({"a": [1.0, 2.5]}, "a", kind=Counts(columns=("a",))),
         Refused("row 1, column 'a' of split 'train'.* holds 2.5, where counts are whole")),
    Case("columns with a negative number", lambda _: counts(a=[1, 2], b=[3, -4]),
         Refused("row 1, column 'b' of split 'train' holds -4, where")),
    Case("vectors with a fraction", lambda _: counts(v=DENSE + 0.25), Refused("column 'v'.* at 0 holds 0.25")),
    Case("fractions alone", lambda _: made({"a": [0.5]}, kind=Counts()), Refused("no column .* holds whole numbers")),
    Case("a text as a count", lambda _: made({"a": ["x"]}, kind=Counts(columns=("a",))),
         Refused("column 'a' does not hold one number")),
    # AnnData
    Case("AnnData", lambda _: x(anndata(), "X", label="cell_type"), FLOATS),
    Case("its sparse X", lambda _: x(anndata(sparse()), "X", label="cell_type"), FLOATS),
    Case("its classes", lambda _: made(anndata()).class_names, ["T", "NK", "B"]),
    Case("what of it is left out", lambda _: list(features(anndata(obsm={"X_pca": 0}))),
         Said("left out: the names of rows; obsm X_pca", ["X", "cell_type", "depth"])),
    Case("normalised", lambda _: made(anndata(DENSE / 2, layers={"log": DENSE / 3, "counts": DENSE})),
         Refused(r"X of the AnnData, row 0 \(cell0\), 'CD8' holds 1.5(.|\n)*whole numbers are in name='counts'$")),
    Case("normalised alone", lambda _: made(anndata(sparse(DENSE / 2))), Refused("neither its layers nor raw")),
    Case("a layer", lambda _: x(anndata(DENSE / 2, layers={"counts": DENSE}), "X", name="counts"), FLOATS),
    Case("raw", lambda _: x(anndata(DENSE / 2, raw=WIDER), "X", name="raw")[:, :3], FLOATS),
    Case("a layer that is not there", lambda _: made(anndata(), name="counts"),
         Refused("without 'counts'\n.*it has X")),
    Case("genes of one name", lambda _: made(anndata(genes=["a", "a", "b"])), Refused("several columns called 'a'")),
    Case("genes in another order", lambda _: x(SHUFFLED, "X", model=MODEL), FLOATS),
    Case("... for the model", lambda _: MODEL.tensor(SHUFFLED), FLOATS),
    Case("further genes", lambda _: x(WIDER, "X", model=MODEL), Said("does not take are left out: XIST", FLOATS)),
    Case("... for the model itself", lambda _: MODEL.tensor(WIDER), Said("does not take are left out: XIST", FLOATS)),
    Case("a gene that is missing", lambda _: x(anndata(genes=["CD3", "CD4", "ACTB"]), "X", model=MODEL),
         Refused("lacks 1 of the 3 dimensions .*: CD8")),
    Case("... for the model, too", lambda _: MODEL.tensor(anndata(genes=["CD3", "CD4", "ACTB"])),
         Refused("of which the data lack CD8")),
    Case("... of a test split", lambda _: x({"train": anndata(), "test": anndata(genes=["CD3", "CD4", "ACTB"])}, "X",
                                             split="test"), Refused("lacks 1 of the 3 dimensions .*: CD8")),
    Case("a test split in another order", lambda _: x({"train": anndata(), "test": SHUFFLED}, "X", split="test"),
         FLOATS),
    Case("a frame by genes", lambda _: MODEL.tensor(pd.DataFrame(DENSE[:, ::-1], columns=GENES[::-1])), FLOATS),
    Case("a matrix", lambda _: MODEL.tensor(sparse()), FLOATS),
    Case("a matrix of another width", lambda _: MODEL.tensor(sparse(DENSE[:, :2])), Refused("have 2 dimensions")),
    Case("a model's fraction", lambda _: MODEL.tensor(DENSE / 2), Refused("row 0, column 'CD8' holds 1.5, where")),
    Case("a table for a model of counts", lambda _: x({"X": [0.5]}, "X", model=MODEL), Refused("holds a number")),
    Case("columns for a model of counts", lambda _: x({"b": [1, 2], "a": [3, 4]}, model=columns_model()),
         torch.tensor([[3.0, 1.0], [4.0, 2.0]])),
    Case("counts for a model of a table", lambda _: x(sparse(), model=made(DENSE).signature),
         Refused("as counts, which the model does not take")),
    Case("an h5ad file that is none", lambda tmp_path: made(written(tmp_path, "x.H5AD")).splits,
         Refused("AnnData|anndata")),
]  # fmt: skip
