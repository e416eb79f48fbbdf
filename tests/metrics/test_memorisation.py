"""Nearest training rows against scikit-learn, and the test of copying against scipy's Mann-Whitney test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu, norm
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from lightning_ae.errors import InputError
from lightning_ae.metrics import DataCopying, nearest_figure, nearest_training


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("offset", [0.0, 1e8])  # where products of float64 cancel
@pytest.mark.parametrize("block", [16, 1000])
def test_nearest_rows_are_those_of_scikit_learn(offset: float, block: int) -> None:
    samples, training = (offset + drawn(n, 2, 3, 3, seed=n).double() for n in (70, 200))
    tree = NearestNeighbors(n_neighbors=1, algorithm="kd_tree").fit(training.double().flatten(1).numpy())
    far, which = tree.kneighbors(samples.double().flatten(1).numpy())
    found = nearest_training(samples, training, block=block)
    assert found.indices.tolist() == which[:, 0].tolist()
    assert found.distances.numpy() == pytest.approx(far[:, 0], rel=1e-12)


def test_a_copy_is_found_at_a_distance_of_zero() -> None:
    training = 1e4 + drawn(500, 1, 8, 8, seed=0)
    found = nearest_training(training[[17, 400, 3]], training)
    assert found.indices.tolist() == [17, 400, 3]
    assert found.distances.tolist() == [0, 0, 0]


def test_nearest_in_the_space_of_features() -> None:
    class First(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert not self.training
            return x[:, 0, 0, :1]

    training = torch.tensor([[0.0, 9.0], [5.0, 0.0]]).reshape(2, 1, 1, 2)
    samples = torch.tensor([[1.0, 0.0]]).reshape(1, 1, 1, 2)
    assert nearest_training(samples, training).indices.tolist() == [1]
    features = First()
    assert nearest_training(samples, training, features).indices.tolist() == [0]
    assert features.training


@pytest.mark.parametrize(
    ("samples", "training", "match"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), r"a sample has the shape \(3,\), a training row \(4,\)"),
        (torch.zeros(2, 3), torch.zeros(0, 3), "training has 0 rows, but there must be at least 1"),
        (torch.full((2, 3), torch.nan), torch.zeros(2, 3), "^6 of the 6 values of samples are NaN"),
    ],
)
def test_what_has_no_neighbour_is_refused(samples: Tensor, training: Tensor, match: str) -> None:
    with pytest.raises(InputError, match=match):
        nearest_training(samples, training)


def test_the_figure_shows_each_sample_above_its_neighbour() -> None:
    training = torch.rand(30, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    figure = nearest_figure(training[[4, 7, 9]].clamp(0.01, 0.99), training, columns=2, title="copies")
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    for row, image in zip([4, 7, 4, 7, 9, 9], shown, strict=True):
        assert image == pytest.approx(training[row].permute(1, 2, 0).numpy(), abs=0.02)
    assert np.array_equal(shown[2], training[4].permute(1, 2, 0).numpy())  # the training image itself
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["sample", "nearest"] * 2
    with pytest.raises(InputError, match="samples must be images"):
        nearest_figure(training[0], training[0])
    with pytest.raises(InputError, match="columns must be positive"):
        nearest_figure(training, training, columns=0)


def copying(dim: int, cells: int = 1, **sets: Tensor) -> dict[str, float]:
    metric: Any = DataCopying(dim, cells=cells, block=64)
    for kind, rows in sets.items():
        metric.update(rows, kind)
    return {name: float(value) for name, value in metric.compute().items()}


def reference(real: Tensor, held_out: Tensor, generated: Tensor) -> tuple[float, float]:
    """The share of pairs by comparing all, and scipy's z."""
    tree = NearestNeighbors(n_neighbors=1).fit(real.double().numpy())
    p, q = (tree.kneighbors(each.double().numpy())[0][:, 0] for each in (held_out, generated))
    share = (q[:, None] < p[None]).mean() + (q[:, None] == p[None]).mean() / 2
    test = mannwhitneyu(q, p, use_continuity=False, method="asymptotic")
    return float(share), float(np.sign(test.statistic - len(p) * len(q) / 2) * norm.isf(test.pvalue / 2))


@pytest.mark.parametrize("kind", ["fresh", "copied", "blurred", "ties"])
def test_the_score_is_scipys_z(kind: str) -> None:
    real, held_out, fresh = (drawn(n, 3, seed=i) for i, n in enumerate((150, 60, 90)))
    generated = {"fresh": fresh, "copied": real[:90] + 0.01 * fresh, "blurred": 3 * fresh, "ties": fresh}[kind]
    if kind == "ties":
        real, held_out, generated = (part.round() for part in (real, held_out, generated))
    nearer, z = reference(real, held_out, generated)
    found = copying(3, real=real, held_out=held_out, generated=generated)
    assert found == {"nearer": pytest.approx(nearer, rel=1e-6), "c_t": pytest.approx(z, rel=1e-5, abs=1e-6)}
    if kind == "copied":
        assert found["c_t"] < -8
        assert found["nearer"] > 0.99
    elif kind == "blurred":
        assert found["c_t"] > 4
    else:
        assert abs(found["c_t"]) < 3


def test_cells_find_what_is_copied_in_one_place_and_blurred_in_another() -> None:
    """Two far clusters: the weighted mean of the scores of each by itself."""
    shift = torch.tensor([100.0, 0.0])
    clusters = [[part + place for part in drawn(3, 100, 2, seed=i)] for i, place in enumerate((0 * shift, shift))]
    (real, held_out, _), (far, far_held_out, far_other) = clusters
    copied, blurred = real[:80] + 1e-3 * drawn(80, 2, seed=7), shift + 3 * (far_other - shift)
    sets = {"real": (real, far), "held_out": (held_out, far_held_out[:50]), "generated": (copied, blurred)}
    found = copying(2, cells=2, **{kind: torch.cat(parts) for kind, parts in sets.items()})
    scores = [reference(real, held_out, copied)[1], reference(far, far_held_out[:50], blurred)[1]]
    assert found["c_t"] == pytest.approx((100 * scores[0] + 50 * scores[1]) / 150, rel=1e-5)
    assert scores[0] < -8 < 4 < scores[1]


def test_what_the_score_refuses() -> None:
    with pytest.raises(InputError, match="cells of DataCopying must be positive"):
        DataCopying(2, cells=0)
    few = {"real": drawn(30, 2, seed=0), "held_out": drawn(19, 2, seed=1), "generated": drawn(30, 2, seed=2)}
    with pytest.raises(InputError, match="no cell of DataCopying has 20 held-out and 20 generated rows"):
        copying(2, **few)
    few["held_out"] = drawn(30, 2, seed=1)
    with pytest.raises(InputError, match="cells of DataCopying are 31, but there are 30 real rows"):
        copying(2, cells=31, **few)
