"""Errors of classifiers on codes against scikit-learn's, on any type, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from lightning_ae import Autoencoder
from lightning_ae.cli.tools import features
from lightning_ae.errors import InputError
from lightning_ae.metrics import knn_error, linear_probe_error

ERRORS = pytest.mark.parametrize("error", [knn_error, linear_probe_error])
Sets = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture
def sets() -> Sets:
    """Two classes that overlap, in float32."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (500,), generator=generator)
    codes = torch.randn(500, 4, generator=generator) + 1.5 * labels[:, None]
    return codes[:300], labels[:300], codes[300:], labels[300:]


@pytest.mark.parametrize("k", [1, 4, 5])
def test_knn_error_is_that_of_scikit_learn(k: int) -> None:
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(500, 6)), rng.normal(size=(203, 6))
    labels, truth = rng.integers(3, 9, 500), rng.integers(3, 9, 203)  # noise: votes often tie
    expected = 1 - KNeighborsClassifier(k).fit(train, labels).score(test, truth)
    ours = knn_error(*map(torch.from_numpy, (train, labels, test, truth)), k=k, block=64)
    assert ours == pytest.approx(expected, abs=1e-12)


def test_knn_error_far_from_the_origin() -> None:
    rng = np.random.default_rng(0)
    codes = (1000 + 0.1 * rng.normal(size=(800, 6))).astype(np.float32)
    labels = (codes[:, 0] > 1000) + 2 * (codes[:, 1] > 1000)
    expected = 1 - KNeighborsClassifier(5).fit(codes[:500], labels[:500]).score(codes[500:], labels[500:])
    parts = codes[:500], labels[:500], codes[500:], labels[500:]
    assert knn_error(*map(torch.from_numpy, parts)) == pytest.approx(expected, abs=1e-12)
    assert expected < 0.3


def test_linear_probe() -> None:
    torch.manual_seed(0)
    x = torch.randn(600, 5)
    labels = (x[:, 0] * 100 + 7 > 7).long()  # linear, though on another scale than the other dimensions
    assert linear_probe_error(x[:400], labels[:400], x[400:], labels[400:]) < 0.03
    shuffled = labels[torch.randperm(600)]
    assert linear_probe_error(x[:400], shuffled[:400], x[400:], shuffled[400:]) > 0.3


@ERRORS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_codes_of_any_type(error: Callable[..., float], dtype: torch.dtype, sets: Sets) -> None:
    train, labels, test, truth = sets
    scale = 1 if dtype.is_floating_point else 1000  # on a coarse grid distances tie
    train, test = (scale * train).to(dtype), (scale * test).to(dtype)
    scaler = StandardScaler().fit(train.double().numpy())
    x, xt = (scaler.transform(part.double().numpy()) for part in (train, test))
    if error is knn_error:
        x, xt = train.double().numpy(), test.double().numpy()
    model: Any = KNeighborsClassifier(5) if error is knn_error else LogisticRegression(max_iter=1000)
    expected = 1 - model.fit(x, labels.numpy()).score(xt, truth.numpy())
    assert error(train.requires_grad_(dtype.is_floating_point), labels, test, truth) == pytest.approx(expected)
    assert 0 < expected < 0.3


@ERRORS
@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.uint64]
)
def test_labels_of_any_integer_type(error: Callable[..., float], dtype: torch.dtype, sets: Sets) -> None:
    train, labels, test, truth = sets
    assert error(train, labels.to(dtype), test, truth) == error(train, labels, test, truth.to(dtype)) == error(*sets)


@ERRORS
@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({0: lambda x: x[:, 0]}, r"^train_codes must have the shape \(N, D\).* got \(300,\)"),
        ({2: lambda x: x[0]}, r"^codes must have the shape \(N, D\).* got \(4,\)"),
        ({2: lambda x: x[:0], 3: lambda y: y[:0]}, r"^codes must have the shape \(N, D\) and hold something"),
        ({2: lambda x: x[:, :3]}, "train_codes have 4 dimensions, codes 3"),
        ({1: lambda y: y[:-1]}, r"train_labels must have the shape \(300,\), got \(299,\)"),
        ({3: lambda y: y[:1]}, r"^labels must have the shape \(200,\), got \(1,\)"),
        ({1: lambda y: torch.nn.functional.one_hot(y)}, r"train_labels must have the shape \(300,\)"),
        ({1: lambda y: y.float()}, "train_labels must be integers, got torch.float32"),
        ({3: lambda y: y.bfloat16()}, "^labels must be integers, got torch.bfloat16"),
        ({1: lambda y: 0 * y + 7}, "train_labels hold one class, 7"),
    ],
)
def test_what_cannot_be_classified_is_refused(
    error: Callable[..., float], change: dict[int, Callable[[Tensor], Tensor]], match: str, sets: Sets
) -> None:
    changed = [change.get(i, lambda part: part)(part) for i, part in enumerate(sets)]
    with pytest.raises(InputError, match=match):
        error(*changed)


@ERRORS
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_codes_that_are_not_finite_are_refused(error: Callable[..., float], value: float, sets: Sets) -> None:
    for i, name in ((0, "train_codes"), (2, "codes")):
        parts = [part.clone() for part in sets]
        parts[i][7, 1] = value
        with pytest.raises(InputError, match=f"^1 of the {parts[i].numel()} values of {name} are NaN or infinite"):
            error(*parts)


@pytest.mark.parametrize(("options", "match"), [({"k": 301}, "k must"), ({"k": 0}, "k must"), ({"block": 0}, "block")])
def test_options_of_the_neighbours(options: dict[str, int], match: str, sets: Sets) -> None:
    with pytest.raises(InputError, match=match):
        knn_error(*sets, **options)


def test_features_are_written_where_there_is_one_class(
    fit: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = "\n".join(f"{i / 40},{i / 80},3" for i in range(40))
    for split in ("train", "test"):
        (folder / f"{split}.csv").write_text(f"a,b,label\n{rows}\n")
    checkpoint = tmp_path / "plain.ckpt"
    fit(Autoencoder((2,), 1), torch.rand(64, 2)).save_checkpoint(checkpoint)
    files = features(str(checkpoint), str(folder))
    assert all(file.is_file() for file in files.values())
    assert "No 5-nearest-neighbour error of the test split's codes: train_labels hold one class" in (
        capsys.readouterr().out
    )
