"""Each kind of path, and what is said of those that do not work; the embedded data."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from sklearn.datasets import load_digits

from lightning_ae import InputError
from lightning_ae.data import HFDataModule, source
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


def test_fashion_is_a_balanced_part_of_fashion_mnist() -> None:
    splits = load_splits("fashion")
    for name, each in {"train": 600, "test": 100}.items():
        assert np.bincount(splits[name]["label"][:]).tolist() == [each] * 10
        assert splits[name].features["label"].names[8] == "Bag"
        images = {np.asarray(image).tobytes() for image in splits[name]["image"]}
        assert len(images) == 10 * each  # none twice
    image = np.asarray(splits["train"][0]["image"])
    assert (image.shape, image.dtype) == ((28, 28), np.uint8)
    assert sum(file.stat().st_size for file in (Path(source.__file__).parent / "fashion").iterdir()) < 4e6
    data = HFDataModule("fashion", batch_size=1000, cache="memory")
    assert data.class_names == splits["train"].features["label"].names
    (batch,) = data.batches("test")  # in which names mean what they say
    means = torch.stack([batch["image"][batch["label"] == number].mean(dim=0)[0] for number in range(10)])
    assert data.class_names[int(means[:, :, 3:8].mean(dim=(1, 2)).argmin())] == "Trouser"  # narrow
    assert data.class_names[int(means[:, :8].mean(dim=(1, 2)).argmin())] == "Sneaker"  # low


@pytest.mark.parametrize("name", source.EMBEDDED)
def test_a_folder_called_like_an_embedded_data_set_is_told(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    with pytest.warns(UserWarning, match=f"embedded data set; the folder of that name here is './{name}'"):
        assert len(load_splits(name)["train"]) > 1000
    with pytest.raises(InputError, match="cannot be read as a data set"):
        load_splits(f"./{name}")


@pytest.mark.parametrize("name", source.EMBEDDED)
def test_embedded_data_write_no_cache(name: str, cache: Path) -> None:
    HFDataModule(name, cache="memory").setup("fit")
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
    assert len(HFDataModule("data/train-00000-of-00001.parquet", val_fraction=0).dataset("train")) == 30


def test_folder_without_data(tmp_path: Path) -> None:
    (tmp_path / "notes.bin").write_text("nothing")
    with pytest.raises(InputError, match=r"(?s)cannot be read as a data set.*parquet"):
        HFDataModule(str(tmp_path)).prepare_data()


@pytest.mark.parametrize(
    "path", ["../no/such/folder", "/no_such_folder", "~/no_such_folder", "~no_such_user/a", "a/b/c"]
)
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


# ---- nothing that lies in a folder acts ------------------------------------------------------------------------------


SCRIPT = """
from pathlib import Path
import datasets
Path(__file__).with_name("ran").touch()
class Evil(datasets.GeneratorBasedBuilder):
    pass
"""


@pytest.mark.parametrize("script", ["data.py", "train.py", "conftest.py", "datasets.py"])
@pytest.mark.parametrize("streaming", [False, True])
def test_scripts_beside_the_data_do_not_run(
    rows: DatasetDict, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, script: str, streaming: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data"
    folder.mkdir()
    rows["train"].to_parquet(folder / "train-0.parquet")
    (folder / script).write_text(SCRIPT)
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("asked whether to run it"))
    if script == "data.py":  # named as the folder is, as scripts of data sets were
        with pytest.raises(InputError, match="scripts are no longer supported"):
            load_splits("data", streaming=streaming)
    else:
        assert list(load_splits("data", streaming=streaming)) == ["train"]
    assert sorted(each.name for each in folder.iterdir()) == sorted(["train-0.parquet", script])


@pytest.mark.parametrize("name", ["csv", "json", "parquet", "imagefolder", "text", "arrow", "pandas", "webdataset"])
def test_a_folder_named_like_a_format_is_a_folder(
    rows: DatasetDict, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Dataset.from_dict({"b": [1.0]}).to_parquet(tmp_path / "train-0.parquet")  # what the format's reader would find
    (tmp_path / "train-1.csv").write_text("b\n1.0\n")
    with pytest.raises(InputError, match=rf"(?s){name}' names a file format.*no folder.*give the folder"):
        load_splits(name)
    (tmp_path / name).mkdir()
    rows["train"].to_parquet(tmp_path / name / "train-0.parquet")
    for path in (name, f"./{name}", Path(name)):
        assert load_splits(path)["train"].column_names == ["a"]


def pickles(folder: Path) -> None:
    class Acts:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {folder}/ran",)

    np.save(folder / "train-0.npy", np.array([Acts()], dtype=object), allow_pickle=True)
    (folder / "train-0.pkl").write_bytes(pickle.dumps(Acts()))
    with tarfile.open(folder / "train-0.tar", "w") as tar:
        for ending in ("npy", "pkl", "pickle", "pth", "pyd"):
            shutil.copy(folder / ("train-0.npy" if ending == "npy" else "train-0.pkl"), folder / f"0.{ending}")
            tar.add(folder / f"0.{ending}", f"0.{ending}")


@pytest.mark.parametrize("kept", [".tar", ".npy", ".pkl"])
def test_pickles_in_a_folder_are_not_loaded(tmp_path: Path, cache: Path, kept: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    pickles(folder)
    for file in folder.iterdir():
        if file.name != f"train-0{kept}":
            file.unlink()
    with pytest.raises(InputError, match="cannot be read as a data set"):
        load_splits(str(folder))
    assert not (folder / "ran").exists()


CONFIGS = "configs:\n- config_name: default\n  data_files: {}\n"
BOMB = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
DESCRIPTIONS: dict[str, tuple[str, str, str]] = {
    "a chain that fills in templates": (CONFIGS.format("'reference://*::/tmp/refs.json'"), "README.md", "elsewhere"),
    "a server": (CONFIGS.format("https://localhost/train.parquet"), "README.md", "elsewhere"),
    "another folder": (CONFIGS.format("../other/*"), "README.md", "elsewhere"),
    "the root": (CONFIGS.format("[{split: train, path: [/etc/*]}]"), "README.md", "elsewhere"),
    "in the other file": (CONFIGS.format("file:///etc/*"), ".huggingface.yaml", "elsewhere"),
    "a class": (CONFIGS.format("!!python/object/apply:os.system [touch ran]"), "README.md", "cannot be read"),
    "aliases that multiply": (f"a: &a [x]\n{BOMB}{CONFIGS.format('*i')}", "README.md", "more than a million"),
    "something else": ("configs: [1]\n", "README.md", "cannot be read"),
    "deep": (f"configs: {'[' * 5000}\n", "README.md", "cannot be read"),
}


@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_a_description_names_files_of_its_folder_only(
    rows: DatasetDict, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, description: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **options: pytest.fail("asked all the same"))
    text, name, words = DESCRIPTIONS[description]
    rows["train"].to_parquet(tmp_path / "train-0.parquet")
    (tmp_path / name).write_text(f"---\n{text}---\n" if name == "README.md" else text)
    with pytest.raises(InputError, match=words):
        load_splits(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_a_usual_description_is_followed(rows: DatasetDict, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "data").mkdir()
    rows["train"].to_csv(tmp_path / "data" / "some.csv", index=False, sep=";")
    text = CONFIGS.format("[{split: train, path: data/*.csv}]") + "  sep: ';'\n"
    (tmp_path / "README.md").write_text(f"---\nlicense: mit\n{text}---\n# Words\n")
    assert load_splits(str(tmp_path))["train"]["a"][:3] == [1.0, 2.0, 3.0]


STATES: dict[str, tuple[str, Any]] = {
    "another folder's file": ("state.json", {"_data_files": [{"filename": "../other/data-00000-of-00001.arrow"}]}),
    "a file of the system's": ("state.json", {"_data_files": [{"filename": "/etc/passwd"}]}),
    "a format that is not known": ("state.json", {"_format_type": "os.system"}),
    "a list": ("state.json", []),
    "no files": ("state.json", {"_data_files": None}),
    "a feature of no such type": ("dataset_info.json", {"features": {"a": {"_type": "os"}}}),
    "a function for a feature": ("dataset_info.json", {"features": {"a": {"_type": "generate_from_dict", "obj": {}}}}),
    "features of a list": ("dataset_info.json", {"features": [1]}),
    "deep": ("state.json", "[" * 100_000),
    "deep features": ("dataset_info.json", '{"features": ' * 50_000),
    "bytes": ("state.json", b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("state", STATES)
def test_odd_content_of_what_was_saved_is_refused(rows: DatasetDict, tmp_path: Path, state: str) -> None:
    name, content = STATES[state]
    for folder in ("data", "other"):
        rows["train"].save_to_disk(str(tmp_path / folder))
    file = tmp_path / "data" / name
    if isinstance(content, dict):
        content = json.dumps(json.loads(file.read_text()) | content)
    file.write_bytes(content if isinstance(content, bytes) else str(content).encode())
    with pytest.raises(InputError, match="cannot be read|lies elsewhere"):
        load_splits(str(tmp_path / "data"))


def test_a_saved_format_does_not_act(rows: DatasetDict, tmp_path: Path) -> None:
    rows["train"].save_to_disk(str(tmp_path / "data"))
    state = json.loads((tmp_path / "data" / "state.json").read_text())
    transform = {"_format_type": "custom", "_format_kwargs": {"transform": f"os.system('touch {tmp_path}/ran')"}}
    (tmp_path / "data" / "state.json").write_text(json.dumps(state | transform))
    with pytest.raises(InputError, match="has a transform"):
        next(HFDataModule(str(tmp_path / "data"), val_fraction=0).batches("train"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", [".huggingface.yaml", "state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
def test_a_pipe_in_a_folder_is_named(rows: DatasetDict, tmp_path: Path, name: str) -> None:
    rows["train"].save_to_disk(str(tmp_path / "data" / "train"))
    (tmp_path / "data" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (tmp_path / "data" / "train" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "data" / "train" / name)
    for folder in ("data", "data/train"):
        with pytest.raises(InputError, match=r"is no file: a pipe"):
            load_splits(str(tmp_path / folder))
