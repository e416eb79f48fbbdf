"""Metrics against scikit-learn and closed forms, in one pass and merged from parts."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torchmetrics import Metric

from lightning_ae.errors import InputError
from lightning_ae.metrics import (
    ActiveUnits,
    ExplainedVariance,
    Sparsity,
    SquaredErrorPerSample,
    knn_error,
    linear_probe_error,
)


def merged(make: type[Metric], *args: int, batches: list[tuple[Tensor, ...]]) -> Metric:
    """What two ranks have together: each state reduced as the metric says, from one rank's batches and another's."""
    ranks = [make(*args), make(*args)]
    for i, batch in enumerate(batches):
        ranks[i % 2].update(*batch)
    total = pickle.loads(pickle.dumps(ranks[0]))
    for name, reduce in total._reductions.items():
        setattr(total, name, reduce(torch.stack([getattr(rank, name) for rank in ranks])))
    total._update_count = 1
    return total


def test_squared_error_per_sample() -> None:
    x, y = torch.rand(11, 2, 3), torch.rand(11, 2, 3)
    metric = merged(SquaredErrorPerSample, batches=[(x[:5], y[:5]), (x[5:], y[5:])])
    assert float(metric.compute()) == pytest.approx(float(((x - y) ** 2).sum() / 11), rel=1e-6)
    with pytest.raises(InputError, match="shape"):
        metric.update(x, y[:, :1])


def test_active_units_with_a_large_mean() -> None:
    torch.manual_seed(0)
    std = torch.tensor([0.0, 0.05, 0.09, 0.11, 0.5, 1.0])  # the threshold is a variance of 0.01
    codes = 300 + std * torch.randn(5000, 6)
    metric = merged(ActiveUnits, 6, batches=[(part,) for part in codes.split(777)])
    assert float(metric.compute()) == (codes.numpy().astype(np.float64).var(axis=0) > 0.01).sum() == 3


def test_sparsity() -> None:
    codes = torch.tensor([[0.0, 0.2, -3.0, 0.0], [0.0, 0.0, 1.0, 0.05], [0.0, 0.0, 2.0, 0.0]])
    values = merged(Sparsity, 4, batches=[(codes[:2],), (codes[2:],)]).compute()
    assert float(values["l0"]) == pytest.approx(5 / 3)
    assert float(values["dead_units"]) == 1
    assert float(values["mean_activation"]) == pytest.approx(float(codes.mean()))
    assert float(Sparsity(4, threshold=0.1)(codes)["l0"]) == pytest.approx(4 / 3)


def test_explained_variance() -> None:
    torch.manual_seed(0)
    x = 10 + torch.randn(50, 3, 4)
    mean = x.mean(dim=0).expand(50, 3, 4)
    batches = lambda r: [(r[:20], x[:20]), (r[20:], x[20:])]  # noqa: E731
    assert float(merged(ExplainedVariance, 12, batches=batches(x)).compute()) == 1
    assert float(merged(ExplainedVariance, 12, batches=batches(mean)).compute()) == pytest.approx(0, abs=1e-6)
    half = (x + mean) / 2
    assert float(merged(ExplainedVariance, 12, batches=batches(half)).compute()) == pytest.approx(0.75, abs=1e-6)


@pytest.mark.parametrize("k", [1, 4, 5])
def test_knn_error_is_that_of_scikit_learn(k: int) -> None:
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(500, 6)), rng.normal(size=(203, 6))
    labels, truth = rng.integers(3, 9, 500), rng.integers(3, 9, 203)  # noise: votes often tie
    expected = 1 - KNeighborsClassifier(k).fit(train, labels).score(test, truth)
    ours = knn_error(*map(torch.from_numpy, (train, labels, test, truth)), k=k, block=64)
    assert ours == pytest.approx(expected, abs=1e-12)
    with pytest.raises(InputError, match="k must lie between"):
        knn_error(torch.zeros(3, 2), torch.zeros(3), torch.zeros(1, 2), torch.zeros(1), k=4)


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
