"""Splits that are made: by a fraction, by groups, by time; against scikit-learn where it has the same."""

from __future__ import annotations

import datetime as dt
import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from sklearn.model_selection import GroupShuffleSplit, TimeSeriesSplit

from lightning_ae import InputError
from lightning_ae.cli.trained import data_of
from lightning_ae.data import HFDataModule
from lightning_ae.data.identity import check_identity
from lightning_ae.data.splits import at_random, by_group, by_time

ROWS = 60
RNG = np.random.default_rng(0)
PATIENTS = [f"p{i}" for i in RNG.integers(0, 11, ROWS)]
DAYS = RNG.permutation(ROWS)
TABLE = {
    "a": RNG.normal(size=ROWS),
    "patient": PATIENTS,
    "day": [f"2024-05-01T{int(d) // 60:02}:{int(d) % 60:02}:00Z" for d in DAYS],
    "n": DAYS,
}


def data(rows: Any = None, **options: Any) -> HFDataModule:
    rows = Dataset.from_dict(TABLE if rows is None else rows) if not isinstance(rows, DatasetDict) else rows
    return HFDataModule(rows, **{"cache": "memory", "label": "n", **options})


def rows(module: HFDataModule) -> dict[str, list[int]]:
    return {split: module.keys(split)["row"].tolist() for split in ("train", "val", "test") if module.has(split)}


@pytest.mark.parametrize(("val", "test"), [(0.1, 0.0), (0.25, 0.2), (0.0, 0.3)])
def test_a_fraction_is_the_permutation_that_it_always_was(val: float, test: float) -> None:
    parts = at_random(ROWS, val, test, seed=3)
    order = np.random.default_rng(3).permutation(ROWS)
    held = round(val * ROWS)
    np.testing.assert_array_equal(parts["val"], np.sort(order[:held]))
    if not test:
        np.testing.assert_array_equal(parts["train"], np.sort(order[held:]))
    assert len(parts["test"]) == round(test * ROWS)
    np.testing.assert_array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(ROWS))
    np.testing.assert_array_equal(parts["val"], at_random(ROWS, val, 0.0, seed=3)["val"])  # test takes of the rest


@pytest.mark.parametrize(("n", "fraction"), [(11, 0.1), (11, 0.5), (7, 0.3), (30, 0.1)])
def test_groups_are_set_aside_as_scikit_learn_does(n: int, fraction: float) -> None:
    groups = np.concatenate([np.arange(n), RNG.integers(0, n, 100)])
    parts = by_group(groups, fraction, 0.0, seed=0)
    (_, held), *_ = GroupShuffleSplit(1, test_size=fraction, random_state=0).split(groups, groups=groups)
    found = {part: set(groups[numbers]) for part, numbers in parts.items()}
    assert len(found["val"]) == len(set(groups[held]))
    assert not found["train"] & found["val"]
    assert sum(map(len, parts.values())) == len(groups)  # whole groups


@pytest.mark.parametrize("later", [1, 7, 20])
def test_the_last_by_time_is_that_of_scikit_learn(later: int) -> None:
    parts = by_time(DAYS, later / ROWS, 0.0)
    *_, (train, held) = TimeSeriesSplit(2, test_size=later).split(np.arange(ROWS))
    ordered = np.argsort(DAYS)
    np.testing.assert_array_equal(parts["val"], np.sort(ordered[held]))
    np.testing.assert_array_equal(parts["train"], np.sort(ordered[train]))


def test_rows_of_one_time_stay_together() -> None:
    parts = by_time(np.array([0, 0, 1, 1, 1, 2, 2, 3]), 0.25, 0.125)
    assert {part: numbers.tolist() for part, numbers in parts.items()} == {
        "train": [0, 1, 2, 3, 4], "val": [5, 6], "test": [7],
    }  # fmt: skip
    assert by_time(np.array([0, 1, 1, 1]), 0.25, 0.0)["val"].tolist() == [1, 2, 3]  # a later part takes them


def test_a_module_divides_by_groups(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        module = data(split_by="patient", val_fraction=0.2, test_fraction=0.2)
        module.setup("fit")
        found = rows(module)
    who = {split: {PATIENTS[row] for row in numbers} for split, numbers in found.items()}
    assert [len(each) for each in who.values()] == [5, 3, 3]
    assert len(set().union(*who.values())) == 11
    said = [record.getMessage() for record in caplog.records if "split_by" in record.getMessage()]
    assert said == [
        f"of the 60 rows of split 'train' {len(found['train'])} train (5 of 11 groups), {len(found['val'])} validate "
        f"(3 of 11 groups), {len(found['test'])} test (3 of 11 groups): no 'patient' is in two of them (split_by), "
        "drawn with split_seed 0"
    ]
    assert module.labels("test").tolist() == DAYS[found["test"]].tolist()
    module.setup("test")
    assert next(module.batches("test", 100))["n"].tolist() == DAYS[found["test"]].tolist()
    numbers = data(TABLE | {"patient": [int(name[1:]) for name in PATIENTS]}, split_by="patient")
    assert numbers.input_columns == ["a"]  # who it is makes no input
    assert HFDataModule.from_config(HFDataModule("digits", split_by="label").config).split_by == "label"


@pytest.mark.parametrize("column", ["day", "n", "when"])
def test_a_module_divides_by_time(column: str, caplog: pytest.LogCaptureFixture) -> None:
    start = dt.datetime(2024, 5, 1, tzinfo=dt.UTC)
    when = [start + dt.timedelta(minutes=int(day)) for day in DAYS]
    with caplog.at_level(logging.INFO):
        module = data(TABLE | {"when": when}, split_time=column, val_fraction=0.1, test_fraction=0.1)
        module.setup("fit")
    found = rows(module)
    assert DAYS[found["train"]].max() == 47
    assert sorted(DAYS[found["val"]]) == list(range(48, 54))
    assert sorted(DAYS[found["test"]]) == list(range(54, 60))
    first = {"n": "48", "day": "2024-05-01T00:48:00Z", "when": "2024-05-01 00:48:00+00:00"}[column]
    assert f"6 validate (from {first} on), 6 test" in caplog.text


def test_a_test_split_is_made_where_asked_only() -> None:
    assert "test" not in rows(data())
    with pytest.raises(InputError, match="no split 'test'"):
        data().dataset("test")
    both = DatasetDict(train=Dataset.from_dict(TABLE), test=Dataset.from_dict(TABLE))
    with pytest.raises(
        InputError, match=r"test_fraction 0.1 would set rows aside where the data set has a split 'test'"
    ):
        data(both, test_fraction=0.1).setup("fit")
    only = DatasetDict(test=Dataset.from_dict(TABLE))  # other data that a trained model is tested on
    assert len(data(only, test_fraction=0.1).dataset("test")) == ROWS


def test_a_fit_goes_on_with_the_same_rows_only() -> None:
    was = data(split_by="patient").identity
    check_identity(was, data(split_by="patient").identity, middle=True)
    for change, words in [
        ({}, "split_by was 'patient' and is None"),
        ({"split_by": "patient", "test_fraction": 0.1}, "test_fraction was 0.0 and is 0.1"),
        ({"split_time": "n"}, "split_time was None and is 'n'"),
    ]:
        with pytest.raises(InputError, match=f"other rows of the same data validate.*{words}"):
            check_identity(was, data(**change).identity, middle=False)
    other = TABLE | {"patient": PATIENTS[::-1]}
    with pytest.raises(InputError, match="rows of the parts differs"):
        check_identity(was, data(other, split_by="patient").identity, middle=True)
    older = data().identity
    older["held_out"] = {name: older["held_out"][name] for name in ("val_fraction", "split_seed")}
    check_identity(older, data().identity, middle=True)
    with pytest.raises(InputError, match="split_by was None and is 'patient'"):
        check_identity(older, data(split_by="patient").identity, middle=False)


def test_other_data_of_a_trained_model_are_divided_as_they_can_be(tmp_path: Any) -> None:
    config = HFDataModule("digits", split_by="patient", test_fraction=0.2, cache="memory").config
    model: Any = SimpleNamespace(data_config=config, signature=None, use_columns_of=lambda _: None)
    rows_ = Dataset.from_dict(TABLE)
    for name, given in {"moved": rows_, "other": rows_.remove_columns("patient")}.items():
        DatasetDict(train=given).save_to_disk(tmp_path / name)
    DatasetDict(train=rows_, test=rows_.select(range(5))).save_to_disk(tmp_path / "tested")
    moved, other, tested = (data_of(model, "x", str(tmp_path / name)) for name in ("moved", "other", "tested"))
    assert rows(moved) == rows(data(split_by="patient", test_fraction=0.2))
    assert len(other.dataset("test")) == 12
    assert len(tested.dataset("test")) == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split_by": "patent"}, "no column 'patent'"),
        ({"split_by": "one"}, r"split_by='one' names one group in all 60 rows"),
        ({"split_by": "n"}, "a group of one row in each of the 60 rows"),
        ({"split_by": "gaps"}, r"column 'gaps' of split 'train' names no group in row 7"),
        ({"split_time": "late"}, r"column 'late' of split 'train' holds no time in row 7"),
        ({"split_time": "gaps"}, r"'p\d+' in row 0, which is no date of ISO 8601\n"),
        ({"split_time": "one", "val_fraction": 1e-3}, "leaves no validation data, as rows of one 'one' stay together"),
        ({"split_time": "mixed"}, "'2024-05-01T01:00:00Z' in row 1, which is no date of ISO 8601 as those before it"),
        ({"split_by": "patient", "split_time": "n"}, "give one"),
        ({"split_by": "patient", "val_fraction": 0}, "has nothing to do"),
        ({"split_by": "patient", "val_split": "train"}, "has nothing to do"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "test_fraction must lie in"),
        ({"val_fraction": 0.1, "test_fraction": 0.001}, "test_fraction 0.001 of 60 rows leaves no test data"),
        ({"streaming": True, "val_fraction": 0, "test_fraction": 0.1}, "streaming=True cannot set test_fraction 0.1"),
        ({"streaming": True, "val_fraction": 0, "split_by": "n"}, "streaming=True cannot divide.* split_by='n'"),
    ],
)
def test_what_cannot_divide(options: Any, words: str) -> None:
    gaps = [None if i == 7 else name for i, name in enumerate(PATIENTS)]
    late = [float("nan") if i == 7 else float(i) for i in range(ROWS)]
    mixed = ["2024-05-01", "2024-05-01T01:00:00Z"] * (ROWS // 2)
    columns = {"one": [1.0] * ROWS, "gaps": gaps, "late": late, "mixed": mixed}
    with pytest.raises(InputError, match=rf"(?s){words}"):
        data(TABLE | columns, **options).dataset("test" if options.get("test_fraction") else "val")
