"""Each kind of path, and what is said of those that do not work; the embedded digits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, IterableDataset
from sklearn.datasets import load_digits

from lightning_ae import InputError
from lightning_ae.data import HFDataModule
from lightning_ae.data.source import load_splits


@pytest.fixture
def rows() -> DatasetDict:
    return DatasetDict(train=Dataset.from_dict({"a": [1.0, 2.0, 3.0] * 10}), test=Dataset.from_dict({"a": [4.0, 5.0]}))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def test_digits_are_those_of_scikit_learn() -> None:
    splits = load_splits("digits")
    assert {name: len(split) for name, split in splits.items()} == {"train": 1437, "test": 360}
    ours = []
    for split in splits.values():
        for row in split:
            values = np.asarray(row["image"]).astype(int) * 16 / 255
            assert np.abs(values - values.round()).max() < 0.04  # one of 17 levels, up to rounding to bytes
            ours.append((*values.round().astype(int).flatten(), row["label"]))
    images, labels = load_digits(return_X_y=True)
    theirs = [(*image.astype(int), label) for image, label in zip(images, labels, strict=True)]
    assert sorted(ours) == sorted(theirs)
    # stratified: a fifth of each class, up to rounding
    counts = np.bincount(splits["test"]["label"][:])
    assert np.abs(counts - np.bincount(labels) * 360 / 1797).max() <= 1


def test_digits_write_no_cache(cache: Path) -> None:
    HFDataModule("digits").setup("fit")
    assert not cache.exists()


def test_in_memory(rows: DatasetDict) -> None:
    data = HFDataModule(rows)
    data.setup("test")
    assert data.dataset("test")["a"][:] == [4.0, 5.0]
    assert data.config is None
    assert len(HFDataModule(rows["train"], val_fraction=0.1).dataset("train")) == 27


def test_saved_to_disk(rows: DatasetDict, tmp_path: Path) -> None:
    rows.save_to_disk(str(tmp_path / "both"))
    rows["train"].save_to_disk(str(tmp_path / "one"))
    assert HFDataModule(str(tmp_path / "both")).dataset("test")["a"][:] == [4.0, 5.0]
    assert len(HFDataModule(str(tmp_path / "one"), val_fraction=0).dataset("train")) == 30


def test_parquet_folder(rows: DatasetDict, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    for name, split in rows.items():
        split.to_parquet(tmp_path / "data" / f"{name}-00000-of-00001.parquet")
    assert HFDataModule(str(tmp_path / "data")).dataset("test")["a"][:] == [4.0, 5.0]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert HFDataModule("~/data").dataset("test")["a"][:] == [4.0, 5.0]
    monkeypatch.chdir(tmp_path)
    assert HFDataModule("data").dataset("test")["a"][:] == [4.0, 5.0]
    with pytest.raises(InputError, match=r"(?s)is a file.*folder"):
        HFDataModule("data/train-00000-of-00001.parquet").prepare_data()


def test_folder_without_data(tmp_path: Path) -> None:
    (tmp_path / "notes.bin").write_text("nothing")
    with pytest.raises(InputError, match=r"(?s)cannot be read as a data set.*parquet"):
        HFDataModule(str(tmp_path)).prepare_data()


@pytest.mark.parametrize("path", ["../no/such/folder", "/no_such_folder", "~/no_such_folder", "a/b/c"])
def test_missing_folder(path: str) -> None:
    with pytest.raises(InputError, match="looks like a local folder, but there is none"):
        HFDataModule(path).prepare_data()


@pytest.mark.parametrize("path", [3, None, IterableDataset.from_generator(lambda: iter([]))])
def test_path_of_another_type(path: Any) -> None:
    with pytest.raises(InputError, match="path"):
        HFDataModule(path).prepare_data()


def run_python(code: str) -> str:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    return result.stdout + result.stderr


def test_hub_out_of_reach() -> None:
    # in a process of its own: datasets reads HF_HUB_OFFLINE when it is imported
    said = run_python("from lightning_ae.data import HFDataModule; HFDataModule('nobody/no-such-data').prepare_data()")
    assert "InputError: path 'nobody/no-such-data' is no local folder, and cannot be loaded from the hub" in said
    assert "HF_HUB_OFFLINE=1" in said


def test_import_leaves_datasets_alone() -> None:
    assert run_python("import sys, lightning_ae.data; print('datasets' in sys.modules)") == "False\n"
