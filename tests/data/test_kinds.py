"""How columns become arrays: decoding, choice of columns, binarisation, standardisation, what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, List, Value
from datasets import Image as ImageFeature
from sklearn.preprocessing import StandardScaler

from lightning_ae import InputError
from lightning_ae.data import HFDataModule, Image, Tabular


def images(arrays: list[Any], **columns: Any) -> Dataset:
    data = {"image": [PIL.Image.fromarray(a) if isinstance(a, np.ndarray) else a for a in arrays], **columns}
    return Dataset.from_dict(data).cast_column("image", ImageFeature())


def whole(data: HFDataModule, split: str) -> dict[str, torch.Tensor]:
    (batch,) = data.batches(split, 10_000)
    return batch


def grey(n: int, height: int = 6, width: int = 5) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (n, height, width), dtype=np.uint8))


def test_images_are_those_of_pil() -> None:
    arrays = list(np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), dtype=np.uint8))
    batch = whole(HFDataModule(images(arrays, label=list(range(20))), val_fraction=0), "train")
    np.testing.assert_allclose(batch["image"].numpy(), np.stack(arrays).transpose(0, 3, 1, 2) / 255, rtol=1e-6)
    assert batch["label"].tolist() == list(range(20))


def test_mnist_is_that_of_pil(shared_data: Path) -> None:
    data = HFDataModule(str(shared_data / "mnist"))
    data.setup("test")
    x = next(data.batches("test", 16))["image"]
    assert data.input_shape == (1, 28, 28)
    encoded = data.dataset("test").with_format("arrow")[:16]["image"].to_pylist()
    for sample, item in zip(x, encoded, strict=True):
        pixels = np.asarray(PIL.Image.open(io.BytesIO(item["bytes"])))
        np.testing.assert_array_equal((sample[0] * 255).round().numpy(), pixels)


def test_orientation_of_photographs_is_applied() -> None:
    array = np.random.default_rng(0).integers(0, 256, (4, 6), dtype=np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by 90 degrees
    buffer = io.BytesIO()
    PIL.Image.fromarray(array).save(buffer, "PNG", exif=exif)
    rows = Dataset.from_dict({"image": [{"bytes": buffer.getvalue(), "path": None}] * 2})
    data = HFDataModule(rows.cast_column("image", ImageFeature()), val_fraction=0)
    x = whole(data, "train")["image"][0, 0]
    np.testing.assert_array_equal((x * 255).round().numpy(), np.rot90(array, -1))


def test_mixed_sizes_need_a_size() -> None:
    rows = images([*grey(3, 6, 5), *grey(3, 12, 10)])
    with pytest.raises(InputError, match=r"(?s)\(1, 6, 5\).*\(1, 12, 10\).*size"):
        HFDataModule(rows, val_fraction=0).setup("fit")
    data = HFDataModule(rows, kind=Image(size=(6, 5)), val_fraction=0)
    x = whole(data, "train")["image"]
    assert x.shape == (6, 1, 6, 5)
    np.testing.assert_array_equal((x[:3, 0] * 255).round().numpy(), np.stack(grey(3, 6, 5)))
    small = [PIL.Image.fromarray(a).resize((5, 6), PIL.Image.Resampling.BILINEAR) for a in grey(3, 12, 10)]
    np.testing.assert_allclose(x[3:, 0].numpy() * 255, np.stack([np.asarray(a) for a in small]), atol=1.01)


def test_mixed_colours_need_channels() -> None:
    rows = images([*grey(2), np.zeros((6, 5, 3), np.uint8)])
    with pytest.raises(InputError, match="channels"):
        HFDataModule(rows, val_fraction=0).setup("fit")
    assert whole(HFDataModule(rows, kind=Image(channels=3), val_fraction=0), "train")["image"].shape == (3, 3, 6, 5)


def test_splits_of_different_sizes_are_refused() -> None:
    data = HFDataModule(DatasetDict(train=images(grey(4)), test=images(grey(4, 8, 8))), val_fraction=0)
    data.setup("fit")
    with pytest.raises(InputError, match=r"(?s)\(1, 8, 8\).*\(1, 6, 5\).*size="):
        data.setup("test")


def test_normalised_images() -> None:
    data = HFDataModule(images(grey(10)), kind=Image(mean=(0.5,), std=(0.25,)), val_fraction=0)
    expected = (np.stack(grey(10))[:, None] / 255 - 0.5) / 0.25
    np.testing.assert_allclose(whole(data, "train")["image"].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_threshold() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    data = HFDataModule(images([ramp] * 2), kind=Image(binarize="threshold"), val_fraction=0)
    x = whole(data, "train")["image"][0, 0]
    np.testing.assert_array_equal(x.numpy(), ramp / 255 >= 0.5)


def test_static_binarisation_is_one_fixed_draw() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    n = 2000
    draws = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        data = HFDataModule(images([ramp] * n), kind=Image(binarize="static"), val_fraction=0)
        draws.append(whole(data, "train")["image"])
    torch.testing.assert_close(draws[0], draws[1], rtol=0, atol=0)
    assert draws[0].unique().tolist() == [0, 1]
    p, count = ramp[0] / 255, 4 * n
    # 5 standard errors of a Bernoulli mean, for 256 means: a false alarm in ten thousand runs
    bound = 5 * np.sqrt(p * (1 - p) / count)
    assert (np.abs(draws[0].mean(dim=(0, 1, 2)).numpy() - p) <= bound + 1e-6).all()


def test_dynamic_binarisation_draws_anew() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    data = HFDataModule(images([ramp] * 500), kind=Image(binarize="dynamic"), val_fraction=0.1, batch_size=450)
    (batch,) = data.train_dataloader()
    assert batch["image"].dtype == torch.uint8
    assert set(batch["image"].unique().tolist()) == set(range(256))  # grey until it is used
    torch.manual_seed(0)
    used = [data.on_after_batch_transfer(batch, 0)["image"] for _ in range(20)]
    assert not torch.equal(used[0], used[1])
    assert used[0].unique().tolist() == [0, 1]
    p = ramp / 255
    bound = 5 * np.sqrt(p * (1 - p) / (450 * 20))
    assert (np.abs(torch.cat(used).mean(dim=(0, 1)).numpy() - p) <= bound + 1e-6).all()
    # evaluation sees one fixed draw
    torch.testing.assert_close(whole(data, "val")["image"], whole(data, "val")["image"], rtol=0, atol=0)
    assert whole(data, "val")["image"].unique().tolist() == [0, 1]


def table(n: int = 50) -> Dataset:
    rng = np.random.default_rng(0)
    columns = {
        "a": rng.normal(5, 2, n).astype(np.float16),
        "b": rng.normal(size=n),
        "k": rng.integers(0, 9, n),
        "constant": np.full(n, 0.1),
        "text": ["t"] * n,
        "label": rng.integers(0, 3, n),
    }
    features = {"a": Value("float16"), "b": Value("float64"), "k": Value("int32"), "constant": Value("float32")}
    features |= {"text": Value("string"), "label": ClassLabel(names=["x", "y", "z"])}
    return Dataset.from_dict(columns, features=Features(features))


def test_columns_of_numbers_are_joined() -> None:
    rows = table()
    data = HFDataModule(rows, kind=Tabular(scaling="none"), val_fraction=0)
    batch = whole(data, "train")
    expected = np.stack([np.asarray(rows[name], np.float32) for name in ("a", "b", "k", "constant")], axis=1)
    assert set(batch) == {"x", "label"}
    assert batch["x"].dtype == torch.float32
    np.testing.assert_array_equal(batch["x"].numpy(), expected)
    assert batch["label"].tolist() == rows["label"][:]
    assert (data.label, data.class_names, data.input_shape) == ("label", ["x", "y", "z"], (4,))


def test_named_columns() -> None:
    data = HFDataModule(table(), kind=Tabular(columns=["b", "a"], scaling="none"), val_fraction=0)
    batch = whole(data, "train")
    np.testing.assert_array_equal(batch["x"][:, 0].numpy(), np.asarray(table()["b"], np.float32))
    assert set(batch) == {"x", "k", "constant", "label"}


@pytest.mark.parametrize("length", [-1, 3])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
def test_vectors(length: int, dtype: str) -> None:
    vectors = np.random.default_rng(0).integers(-50, 50, (20, 3)).tolist()
    features = Features({"v": List(Value(dtype), length=length), "target": Value("float32")})
    rows = Dataset.from_dict({"v": vectors, "target": list(range(20))}, features=features)
    data = HFDataModule(rows, kind=Tabular(scaling="none"), val_fraction=0)
    batch = whole(data, "train")
    assert batch["v"].tolist() == vectors
    assert batch["v"].dtype == torch.float32
    assert data.label == "target"


def test_standardisation_is_that_of_scikit_learn() -> None:
    rows = table(200)
    data = HFDataModule(DatasetDict(train=rows, test=table(30)), kind=Tabular(scaling="standard"), val_fraction=0.25)
    names = ["a", "b", "k", "constant"]

    def array(split: str) -> np.ndarray:
        return np.stack([np.asarray(data.dataset(split)[name], np.float32) for name in names], axis=1)

    scaler = StandardScaler().fit(array("train"))
    for split in ("train", "val", "test"):
        expected = scaler.transform(array(split))
        np.testing.assert_allclose(whole(data, split)["x"].numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("constant", [0.1, 1e8, -3.3e-9])
def test_constant_columns_are_only_centred(constant: float) -> None:
    rows = Dataset.from_dict({"a": [constant] * 997, "b": list(range(997))})
    data = HFDataModule(rows, kind=Tabular(scaling="standard"), val_fraction=0)
    assert whole(data, "train")["x"][:, 0].abs().max() == 0
    assert data.preprocess.std[0] == 1


def bad_table(value: Any) -> DatasetDict:
    good = {"a": [1.0] * 9, "v": [2.0] * 9}
    return DatasetDict(train=Dataset.from_dict(good), test=Dataset.from_dict(good | {"v": [2.0] * 6 + [value] * 3}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_values_that_are_not_finite_are_located(value: Any) -> None:
    data = HFDataModule(bad_table(value))
    data.setup("fit")
    with pytest.raises(InputError, match=r"column 'v' of split 'test'.*first in row 6"):
        data.setup("test")


CORRUPT = {"bytes": b"no image", "path": None}
VECTORS = [[1.0, 2.0]] * 9


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        (lambda: table(), {"kind": Tabular(columns=["nope"])}, r"(?s)'nope'.*'constant'"),
        (lambda: table(), {"kind": Tabular(columns=["text"])}, "'text'.*string"),
        (lambda: table(), {"kind": Image()}, "0 image columns"),
        (lambda: table(), {"label": "nope"}, r"(?s)'nope'.*'constant'"),
        (lambda: Dataset.from_dict({"v": VECTORS, "w": VECTORS}), {"label": "v"}, "label 'v'"),
        (lambda: Dataset.from_dict({"s": ["a"] * 9}), {}, r"s \(text\)"),
        (lambda: Dataset.from_dict({"v": VECTORS, "w": VECTORS}), {}, r"(?s)2 columns of vectors.*columns="),
        (lambda: Dataset.from_dict({"v": [*VECTORS, [1.0]]}), {}, "'v'.*differ in length"),
        (lambda: Dataset.from_dict({"v": [*VECTORS, None]}), {}, "'v'"),
        (lambda: images(grey(9)), {"kind": Image(column="nope")}, r"(?s)'nope'.*image"),
        (lambda: images(grey(9), k=[1] * 9), {"kind": Image(column="k")}, "'k'.*not images"),
        (lambda: images([*grey(2), None]), {}, "row 2 of split 'train' has no image"),
        (lambda: images([*grey(2), CORRUPT]), {}, "row 2 of split 'train' is not a readable image"),
        (lambda: images([np.zeros((4, 4), np.uint16)] * 2), {}, "row 0 of split 'train'.*8 bits"),
        (lambda: images(grey(9)), {"kind": Image(mean=(0.1, 0.2, 0.3))}, "3 values"),
    ],
)
def test_refused(rows: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):  # noqa: PT012  a batch shows what setup cannot know
        data = HFDataModule(rows(), val_fraction=0, **options)
        data.setup("fit")
        whole(data, "train")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Image(binarize="sometimes"), "binarize"),
        (lambda: Image(binarize="static", mean=(0.5,)), "binarize"),
        (lambda: Image(size=28), "size"),
        (lambda: Image(channels=4), "channels"),
        (lambda: Image(std=(0.0,)), "std"),
    ],
)
def test_kinds_refused(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_two_image_columns_need_a_name() -> None:
    rows = images(grey(4)).add_column("other", [0] * 4)
    rows = rows.map(lambda row: {"other": row["image"]}, features=Features(image=ImageFeature(), other=ImageFeature()))
    with pytest.raises(InputError, match=r"(?s)2 image columns.*column="):
        HFDataModule(rows, val_fraction=0).setup("fit")
    data = HFDataModule(rows, kind=Image(column="other"), val_fraction=0)
    assert set(whole(data, "train")) == {"other"}


def test_arrays_are_no_scalars() -> None:
    features = Features({"a": Value("float32"), "grid": Array2D((2, 2), "float32")})
    rows = Dataset.from_dict({"a": [1.0] * 4, "grid": [[[1, 2], [3, 4]]] * 4}, features=features)
    assert HFDataModule(rows, val_fraction=0).input_columns == ["a"]
