"""Sequences and splits that are made: series that are too short, out of order or doubled, layouts not stated."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from datasets import Array2D, Array3D, Dataset, Features, Value
from inputs import Case, Refused, Said

from lightning_ae.data import HFDataModule, Sequence, Tabular

N = 12
A = [float(i) for i in range(N)]
MEMORY: dict[str, Any] = {"cache": "memory", "val_fraction": 0}


def windows(kind: Sequence, options: dict[str, Any] | None = None, **columns: Any) -> list[list[float]]:
    """The first channel of each window that trains."""
    data = HFDataModule(Dataset.from_dict({"a": A, **columns}), kind=kind, **MEMORY | (options or {}))
    data.prepare_data()
    data.setup("fit")
    return next(iter(next(data.batches("train", 100)).values()))[:, 0].tolist()


def raw(length: int, columns: tuple[str, ...] = ("a",), **options: Any) -> Sequence:
    return Sequence(columns, length=length, scaling="none", **options)


def arrays(kind: Sequence, feature: Any = None, values: Any = None) -> tuple[int, ...]:
    rows = Dataset.from_dict(
        {"s": np.zeros((N, 2, 3)).tolist() if values is None else values},
        features=Features(s=Array2D((2, 3), "float32") if feature is None else feature),
    )
    return HFDataModule(rows, kind=kind, **MEMORY).input_shape


def features_of(data: Any, kind: Sequence) -> torch.Tensor:
    """What a model that was trained on windows makes of these."""
    return HFDataModule(Dataset.from_dict({"a": A, "b": A}), kind=kind, **MEMORY).signature.tensor(data)


TIMES = [float(i) for i in range(N)]
SWAPPED = [*TIMES[:6], TIMES[7], TIMES[6], *TIMES[8:]]
TWICE = [*TIMES[:6], TIMES[5], *TIMES[7:]]
MIXED = ["p", "q"] * (N // 2)
CASES = [
    # ---- windows and series --------------------------------------------------------------------------------------
    Case("a window longer than the series", lambda _: windows(raw(13)),
         Refused("window of 13 rows is longer than every series of split 'train': without a gap they have 12 rows")),
    Case("a window as long as the series", lambda _: windows(raw(12)), [A]),
    Case("longer than some of the series", lambda _: windows(
        raw(5, group="m"), m=["p"] * 4 + ["q"] * 5 + ["r"] * 3),
         [A[4:9]]),
    Case("groups of one row", lambda _: windows(raw(2, group="m"), m=[str(i) for i in range(N)]),
         Refused("without a gap they have 1, 1, 1, 1, 1, 1, 1, 1 and 4 more rows")),
    Case("a group of one row among others", lambda _: windows(
        raw(6, stride=6, group="m"), m=["p"] * 5 + ["q"] + ["p"] * 6),
         Said("1 windows of 6 rows train; of 12 rows 6 lie in none", [[*A[:5], A[6]]])),
    Case("series whose rows are mixed", lambda _: windows(raw(6, group="m"), m=MIXED), [A[::2], A[1::2]]),
    Case("a row without a group", lambda _: windows(raw(2, group="m"), m=["p"] * 11 + [None]),
         Refused("column 'm' of split 'train' names no group in row 11")),
    Case("a group of lists", lambda _: windows(raw(2, group="m"), m=[[1]] * N), Refused("group='m' is a column of")),
    Case("a group that is not there", lambda _: windows(raw(2, group="n")), Refused("no column 'n'")),
    Case("windows of one row", lambda _: windows(raw(1)), [[a] for a in A]),
    Case("a window of no rows", lambda _: raw(0), Refused("length of Sequence must be a positive integer, got 0")),
    Case("a stride without windows", lambda _: Sequence(stride=2), Refused("stride of Sequence.*length is not given")),
    Case("windows of a stream", lambda _: windows(raw(2), {"streaming": True}), Refused("windows of 2 rows need")),
    Case("windows without a cache", lambda _: windows(raw(2), {"cache": "none"}), Refused("windows of 2 rows need")),
    Case("numbers by default, but group and time", lambda _: HFDataModule(
        Dataset.from_dict({"a": A, "m": [0] * N, "t": A, "b": A, "id": [1] * N}),
        kind=Sequence(length=2, group="m", time="t"), **MEMORY).input_columns, ["a", "b"]),
    Case("windows over arrays", lambda _: arrays(Sequence(("s",), length=2)), Refused("'s' holds .*each a sample")),
    # ---- time ----------------------------------------------------------------------------------------------------
    Case("times out of order", lambda _: windows(raw(3, time="t"), t=SWAPPED),
         Refused("'t'.* is earlier in row 7 than in row 6(?s:.*)Dataset.sort")),
    Case("a time twice", lambda _: windows(raw(3, time="t"), t=TWICE), Refused("'t'.* the same in row 6 as in row 5")),
    Case("times of several series without their group", lambda _: windows(raw(3, time="t"), t=[*TIMES[:6], *TIMES[:6]]),
         Refused("earlier in row 6 than in row 5(?s:.*)group=")),
    Case("the same with it", lambda _: len(windows(raw(6, time="t", group="m"), t=[*TIMES[:6], *TIMES[:6]],
                                                   m=["p"] * 6 + ["q"] * 6)), 2),
    Case("a missing time", lambda _: windows(raw(3, time="t"), t=[*TIMES[:11], None]), Refused("no time in row 11")),
    Case("a text that is no time", lambda _: windows(raw(3, time="t"), t=["soon"] * N), Refused("'soon' in row 0")),
    Case("a gap by itself", lambda _: windows(raw(6, time="t"), t=[*TIMES[:6], *[t + 1 for t in TIMES[6:]]]),
         Said("a step of more than 1.5,", [A[:6], A[6:]])),
    Case("a gap that is allowed", lambda _: len(windows(
        raw(6, time="t", gap=2), t=[*TIMES[:6], *[t + 1 for t in TIMES[6:]]])), 3),
    Case("steps that rounding makes longer", lambda _: len(windows(
        raw(12, time="t", gap=0.1), t=[i * 0.1 for i in range(N)])), 1),
    Case("a gap without times", lambda _: raw(2, gap=1.0), Refused("gap of Sequence needs times")),
    # ---- splits of series ----------------------------------------------------------------------------------------
    Case("a part too short for a window", lambda _: HFDataModule(
        Dataset.from_dict({"a": A}), kind=raw(4), cache="memory", val_fraction=0.1).setup("fit"),
         Refused("among the rows that validate: without a gap they have 1 rows")),
    Case("neighbouring windows", lambda _: windows(raw(2), {"val_fraction": 0.5}),
         Said("6 train, 6 validate: the last of each series", [A[i : i + 2] for i in range(5)])),
    # ---- arrays --------------------------------------------------------------------------------------------------
    Case("a layout that is not stated", lambda _: arrays(Sequence()),
         Refused(r"which dimension is which is not said(?s:.*)'NCL'\) for \(channels, length\), or 'NLC'")),
    Case("channels first", lambda _: arrays(Sequence(layout="NCL")), (2, 3)),
    Case("channels last", lambda _: arrays(Sequence(layout="NLC")), (3, 2)),
    Case("another layout", lambda _: Sequence(layout="CNL"), Refused("unknown layout of Sequence 'CNL'")),  # type: ignore
    Case("a layout of windows", lambda _: Sequence(length=2, layout="NCL"), Refused("layout of Sequence is that of")),
    Case("a layout of vectors", lambda _: arrays(Sequence(layout="NCL"), [Value("float32")], [[1.0, 2.0]] * N),
         Refused("layout is that of arrays, and column 's' holds vectors")),
    Case("vectors are one channel", lambda _: arrays(Sequence(), [Value("float32")], [[1.0, 2.0]] * N), (1, 2)),
    Case("lists of several lengths", lambda _: arrays(
        Sequence(), [Value("float32")], [[1.0, 2.0]] * (N - 1) + [[1.0]]), Refused("row 11 has 1")),
    Case("arrays of three dimensions", lambda _: arrays(
        Sequence(layout="NCL"), Array3D((2, 3, 4), "float32"), np.zeros((N, 2, 3, 4)).tolist()),
         Refused(r"samples of shape \(2, 3, 4\)")),
    Case("no column of samples", lambda _: windows(Sequence()), Refused(r"0 columns of arrays(?s:.*)length=\.\.\.")),
    Case("a missing value in an array", lambda _: arrays(Sequence(layout="NCL"), [[Value("float32")]],
         [[[1.0, None], [2.0, 3.0]]] * N), Refused(r"missing values(?s:.*)kind=Sequence\(missing='masked'\)")),
    # ---- a trained model -----------------------------------------------------------------------------------------
    Case("a frame that is no window", lambda _: features_of({"a": A, "b": A}, raw(4, ("a", "b"))),
         Refused("12 rows, where a sample of the model is 4")),
    Case("a frame that is one", lambda _: tuple(features_of({"a": A[:4], "b": A[:4]}, raw(4, ("a", "b"))).shape),
         (1, 2, 4)),
    Case("one sequence alone", lambda _: features_of(np.zeros((2, 4)), raw(4, ("a", "b"))),
         Refused(r"shape \(B, channels, length\), got \(2, 4\)")),
    Case("NaN in a sequence", lambda _: features_of(np.full((1, 2, 4), np.nan), raw(4, ("a", "b"))),
         Refused("row 0, column 'a', step 0 holds NaN")),
    Case("a table for it", lambda _: HFDataModule(Dataset.from_dict({"a": A}), kind=Tabular(), **MEMORY).use_signature(
        HFDataModule(Dataset.from_dict({"a": A}), kind=raw(4), **MEMORY).signature), Refused("model takes sequences")),
]  # fmt: skip
