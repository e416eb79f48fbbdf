"""The factors of a data set: which columns hold them, their values, and that no model takes them as its input."""

from __future__ import annotations

import datetime
import logging
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict

from lightning_ae import HFDataModule, InputError
from lightning_ae.data import Tabular
from lightning_ae.data.factors import KNOWN

PRESETS = [names for known in KNOWN.values() for names in known]


def columns(rows: int = 12) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {"a": generator.normal(size=rows), "b": generator.normal(size=rows), "many": generator.normal(size=rows),
            "size": np.resize([10, 9, 100], rows), "angle": np.resize([0.5, -0.25, 1.0, 0.0], rows),
            "kind": np.resize(["ring", "disc"], rows), "on": np.resize([True, False], rows)}  # fmt: skip


def of(rows: Any = None, **options: Any) -> HFDataModule:
    options = {"factors": ["size", "angle"], "val_fraction": 0.25, "cache": "memory"} | options
    return HFDataModule(columns() if rows is None else rows, **options)


@pytest.mark.parametrize("names", PRESETS, ids="-".join)
def test_those_of_well_known_data_sets_are_found(names: tuple[str, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 255, (8, 1, 8, 8), dtype=np.uint8)
    rows = {"image": images, **{name: np.arange(8) % 3 for name in names}, "color": np.zeros(8, int)}
    data = HFDataModule(rows, val_fraction=0)
    assert data.factor_names == list(names)
    assert data.input_columns == ["image"]
    assert data.factors("train").tolist() == [[k % 3] * len(names) for k in range(8)]
    rows.pop(names[-1])
    assert HFDataModule(rows, val_fraction=0).factor_names == []  # not all of them
    assert HFDataModule(rows, val_fraction=0, factors=["color"]).factor_names == ["color"]  # what one names
    table = {name: np.arange(8.0) for name in names} | {"more": np.arange(8.0)}
    assert HFDataModule(table, val_fraction=0, label="more").factor_names == []  # of a table they may be anything


def test_values_are_numbered_in_order() -> None:
    data = of(factors=["size", "angle", "kind", "on"])
    found = {each.name: (each.kind, each.classes) for each in data.factor_columns}
    assert found == {
        "size": ("number", ("9", "10", "100")),
        "angle": ("number", ("-0.25", "0", "0.5", "1")),
        "kind": ("category", ("disc", "ring")),
        "on": ("number", ("false", "true")),
    }
    rows = data.dataset("train")
    numbers = [[9, 10, 100].index(row["size"]) for row in rows]
    assert data.factors("train")[:, 0].tolist() == numbers
    assert data.factors("train")[:, 1].tolist() == [[-0.25, 0, 0.5, 1].index(row["angle"]) for row in rows]
    assert data.factors("train")[:, 2].tolist() == [["disc", "ring"].index(row["kind"]) for row in rows]
    assert data.factors("train")[:, 3].tolist() == [int(row["on"]) for row in rows]
    assert data.factors("train").dtype == torch.int64


def test_they_are_in_the_order_of_evaluation() -> None:
    data = of()
    for split, many in (("train", 9), ("val", 3)):
        sizes = torch.cat([batch["size"] for batch in data.batches(split, 4)])
        assert torch.tensor([9, 10, 100])[data.factors(split)[:, 0]].tolist() == sizes.tolist()
        assert len(sizes) == many


def test_declared_classes() -> None:
    rows = Dataset.from_dict({"a": [0.0, 1.0, 2.0], "shape": [2, 0, -1], "step": [1, 0, 1]})
    rows = rows.cast_column("shape", ClassLabel(names=["square", "ellipse", "heart"]))
    rows = rows.cast_column("step", ClassLabel(names=["0.5", "1.5"]))
    data = of(rows, factors=["shape", "step"], val_fraction=0)
    assert [each.kind for each in data.factor_columns] == ["category", "number"]
    assert data.factors("train").tolist() == [[2, 1], [0, 0], [-1, 1]]


def test_what_is_missing_is_minus_one() -> None:
    rows = Dataset.from_dict(
        {"a": [0.0, 1, 2, 3], "n": [5, None, -1, 7], "x": [0.5, float("nan"), None, 0.25], "t": ["b", None, "a", "b"],
         "sign": [-1, 1, 1, -1]}
    )  # fmt: skip
    data = of(rows, factors=["n", "x", "t", "sign"], val_fraction=0)
    assert data.factors("train").tolist() == [[0, 1, 1, 0], [-1, -1, -1, 1], [-1, -1, 0, 1], [1, 0, 1, 0]]


def test_a_number_means_the_same_in_each_split() -> None:
    train = {"a": [0.0, 1.0], "size": [10, 30]}
    test = {"a": [0.0, 1.0, 2.0], "size": [20, 30, 10]}
    data = of({"train": train, "test": test}, factors=["size"], val_fraction=0)
    assert data.factor_columns[0].classes == ("10", "20", "30")
    assert data.factors("train")[:, 0].tolist() == [0, 2]
    assert data.factors("test")[:, 0].tolist() == [1, 2, 0]


def test_no_model_takes_them_as_its_input(caplog: pytest.LogCaptureFixture) -> None:
    data = of()
    assert data.input_columns == ["a", "b", "many", "on"]
    with caplog.at_level(logging.INFO):
        data.setup("fit")
        data.setup("fit")
    (said,) = [message for message in caplog.messages if "factors: " in message]
    assert said.startswith("factors: size, angle; input: 4 columns (a, b, many, on)")
    assert "size (" not in said.partition("left out")[2]
    # who names a column twice has both
    both = of(kind=Tabular(columns=["a", "size"]))
    assert both.input_columns == ["a", "size"]
    assert both.factors("train").shape == (9, 2)


def test_they_are_in_checkpoints_of_data() -> None:
    path = "digits"
    data = HFDataModule(path, factors=["label"])
    assert HFDataModule.from_config(data.config or {}).factor_names == ["label"]
    assert data.factors("test")[:, 0].tolist() == data.labels("test").tolist()
    config = data.config or {}
    del config["init_args"]["factors"]  # as earlier versions wrote it
    assert HFDataModule.from_config(config).factor_names == []


DATES = [datetime.date(2020, 1, k) for k in range(1, 13)]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"factors": ["siez"]}, "no column 'siez'"),
        ({"factors": []}, "factors must be names of columns, got"),
        ({"factors": ["size", "angle", "size"]}, "factors names a column twice: size, angle, size"),
        ({"factors": ["when"]}, "factor 'when' holds .*, not numbers, classes or text\n.*size"),
        ({"factors": None}, "the data set has no factors that are known\n.*factors="),
    ],
)
def test_what_is_no_factor(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        of(columns() | {"when": DATES}, **options).factors("train")


def test_values_that_are_too_many_or_none() -> None:
    rows = Dataset.from_dict({"a": [0.0] * 1001, "depth": np.arange(1001) / 7, "none": [float("nan")] * 1001})
    with pytest.raises(InputError, match="factor 'depth' holds 1001 different values, and a factor has 1 to 1000"):
        of(rows, factors=["depth"]).factors("train")
    with pytest.raises(InputError, match="factor 'none' holds 0 different values"):
        of(rows, factors=["none"]).factors("train")


def test_a_stream_does_not_say() -> None:
    rows = DatasetDict(train=Dataset.from_dict({"a": [0.0, 1.0], "size": [1, 2]})).map(lambda row: row)
    data = HFDataModule(rows, factors=["size"], streaming=True, val_fraction=0)
    assert data.factor_names == ["size"]
    assert data.input_columns == ["a"]
    with pytest.raises(InputError, match="a stream does not say which values its factors have"):
        data.factors("train")
