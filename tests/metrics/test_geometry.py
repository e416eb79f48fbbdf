"""Measures of codes against closed forms, scikit-learn and loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import iv
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor
from torch.nn import functional as F

from lightning_ae.errors import InputError
from lightning_ae.metrics import (
    Alignment,
    EffectiveRank,
    cluster_scores,
    intrinsic_dimension,
    two_nn_dimension,
    uniformity,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def circle(n: int) -> Tensor:
    angles = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    return torch.stack([angles.cos(), angles.sin()], dim=1)


# ---- effective rank -------------------------------------------------------------------------------------------------


def test_directions_that_count_alike_and_one_that_counts_less() -> None:
    basis = torch.linalg.qr(drawn(50, 8)).Q - torch.linalg.qr(drawn(50, 8)).Q.mean(0)
    directions = torch.linalg.svd(basis, full_matrices=False)[0]  # orthonormal columns without a mean
    for sizes in ([1.0, 1.0, 1.0, 0, 0, 0, 0, 0], [3.0, 1.0, 0, 0, 0, 0, 0, 0], [1.0] * 8):
        codes = 300 + directions * torch.tensor(sizes) @ torch.linalg.qr(drawn(8, 8, seed=1)).Q
        p = np.array([size for size in sizes if size]) / sum(sizes)
        assert float(EffectiveRank(8)(codes)) == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-4)


def test_codes_that_do_not_vary_have_no_rank() -> None:
    assert math.isnan(float(EffectiveRank(3)(torch.full((9, 3), 0.1))))
    assert float(EffectiveRank(3)(torch.tensor([[0.1, 0.1, 0.1], [0.1, 0.3, 0.1]]))) == pytest.approx(1)


# ---- alignment and uniformity ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.5])
def test_alignment_by_a_loop(alpha: float) -> None:
    codes, others = drawn(70, 5), 0.5 + drawn(70, 5, seed=1)
    metric = Alignment(5, alpha)
    for part in zip(codes.split(32), others.split(32), strict=True):
        metric.update(*part)
    expected = np.mean(
        [
            np.linalg.norm(a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** alpha
            for a, b in zip(codes.numpy(), others.numpy(), strict=True)
        ]
    )
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-6)


def test_alignment_of_one_direction_of_right_angles_and_of_opposites() -> None:
    codes = circle(12)
    for other, expected in ((3 * codes, 0.0), (codes.roll(3, 0), 2.0), (-codes, 4.0)):
        assert float(Alignment(2)(codes, other)) == pytest.approx(expected, abs=1e-6)


def test_alignment_has_gradients() -> None:
    codes = drawn(6, 3).requires_grad_()
    Alignment(3)(codes, drawn(6, 3, seed=1)).backward()
    other = codes.detach().clone().requires_grad_()
    (F.normalize(other) - F.normalize(drawn(6, 3, seed=1))).square().sum(1).mean().backward()
    assert codes.grad is not None
    assert torch.allclose(codes.grad, other.grad, atol=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("t", [0.5, 2.0, 40.0])
def test_uniformity_on_a_circle(t: float) -> None:
    """The mean over angles of exp(-t (2 - 2 cos)) is exp(-2 t) I_0(2 t); n points take out their own n pairs."""
    n = 200
    mean = math.exp(-2 * t) * float(iv(0, 2 * t))
    expected = math.log((n * mean - 1) / (n - 1))
    for block in (7, 1000):
        assert uniformity(3 * circle(n), t, block) == pytest.approx(expected, rel=1e-9)


def test_uniformity_of_one_direction_and_of_a_loop() -> None:
    assert uniformity(torch.arange(1, 9.0)[:, None] * torch.tensor([[0.6, 0.8]])) == pytest.approx(0, abs=1e-6)
    codes = drawn(40, 6)
    rows = F.normalize(codes).numpy()
    pairs = [math.exp(-2 * ((a - b) ** 2).sum()) for i, a in enumerate(rows) for b in rows[:i]]
    assert uniformity(codes) == pytest.approx(math.log(np.mean(pairs)), rel=1e-9)
    assert uniformity(codes, t=1e4) < -1e3  # where all terms underflow


# ---- intrinsic dimension --------------------------------------------------------------------------------------------


def neighbour_distances(codes: Tensor) -> np.ndarray:
    rows = codes.numpy()
    far = np.array([[np.linalg.norm(a - b) for b in rows] for a in rows])
    return np.sort(far, axis=1)[:, 1:]


def test_both_dimensions_by_loops() -> None:
    codes = drawn(120, 4)
    far, k, n = neighbour_distances(codes), 7, 120
    total = sum(math.log(row[k - 1] / row[j]) for row in far for j in range(k - 1))
    assert intrinsic_dimension(codes, k, block=32) == pytest.approx(n * (k - 1) / total, rel=1e-9)
    ratios = sorted(row[1] / row[0] for row in far)[:108]
    x, y = np.log(ratios), [-math.log(1 - (i + 1) / n) for i in range(108)]
    slope = np.linalg.lstsq(x[:, None], np.array(y), rcond=None)[0][0]
    assert two_nn_dimension(codes, block=32) == pytest.approx(slope, rel=1e-9)
    ratios = sorted(row[1] / row[0] for row in far)[:119]  # the last height is infinite
    y = [-math.log(1 - (i + 1) / n) for i in range(119)]
    slope = np.linalg.lstsq(np.log(ratios)[:, None], np.array(y), rcond=None)[0][0]
    assert two_nn_dimension(codes, discard=0) == pytest.approx(slope, rel=1e-9)


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_a_sphere_in_a_high_dimensional_space(dimension: int) -> None:
    sphere = F.normalize(drawn(3000, dimension + 1)) @ torch.linalg.qr(drawn(100, dimension + 1, seed=1)).Q.T
    assert intrinsic_dimension(1000 + 7 * sphere) == pytest.approx(dimension, rel=0.05)
    assert two_nn_dimension(1000 + 7 * sphere) == pytest.approx(dimension, rel=0.07)


# ---- clusters -------------------------------------------------------------------------------------------------------


def test_clusters_of_scikit_learn() -> None:
    labels = torch.arange(3).repeat(40)
    codes = drawn(120, 4) + 1.5 * F.one_hot(labels, 4)
    found = KMeans(3, n_init=10, random_state=5).fit_predict(codes.numpy())
    assert cluster_scores(codes, labels, seed=5) == pytest.approx(
        {"nmi": normalized_mutual_info_score(labels, found), "ari": adjusted_rand_score(labels, found)}
    )
    far = cluster_scores(codes + 30 * F.one_hot(labels, 4), 7 - labels)
    assert far == {"nmi": pytest.approx(1), "ari": pytest.approx(1)}
    none = cluster_scores(codes, labels[torch.randperm(120, generator=torch.Generator().manual_seed(0))])
    assert none["ari"] == pytest.approx(0, abs=0.05)
    # three clusters told into two: the scores of a table by hand
    halves = cluster_scores(codes + 30 * F.one_hot(labels, 4), (labels > 0).long(), clusters=3)
    entropy = -(1 / 3 * math.log(1 / 3) + 2 / 3 * math.log(2 / 3))
    assert halves["nmi"] == pytest.approx(entropy / ((entropy + math.log(3)) / 2), rel=1e-9)


# ---- what is refused ------------------------------------------------------------------------------------------------

CODES = drawn(30, 3)
LABELS = torch.arange(30) % 3
SPOILT = CODES.clone()
SPOILT[2, 1] = torch.nan
NAN = "^1 of the 90 values of codes are NaN or infinite"


@pytest.mark.parametrize(
    ("measure", "match"),
    [
        (lambda: EffectiveRank(3).update(SPOILT), NAN),
        (lambda: EffectiveRank(3).update(CODES[:, :2]), r"codes must have the shape \(B, 3\), got \(30, 2\)"),
        (lambda: EffectiveRank(0), "latent_dim of EffectiveRank must be positive"),
        (lambda: Alignment(3).update(SPOILT, CODES), NAN),
        (lambda: Alignment(3).update(CODES, SPOILT), "^1 of the 90 values of others are NaN"),
        (lambda: Alignment(3).update(CODES, CODES[:5]), "codes are of 30 samples, others of 5"),
        (lambda: Alignment(3).update(0 * CODES, CODES), "30 of the 30 rows of codes are zero"),
        (lambda: Alignment(3, alpha=0), "alpha of Alignment must be positive"),
        (lambda: uniformity(SPOILT), NAN),
        (lambda: uniformity(CODES[:1]), "codes has 1 rows, but there must be at least 2"),
        (lambda: uniformity(0 * CODES), "30 of the 30 rows of codes are zero"),
        (lambda: uniformity(CODES, t=-1), "t must be positive and finite, got -1"),
        (lambda: uniformity(CODES[0]), r"codes must have the shape \(N, F\), got \(3,\)"),
        (lambda: intrinsic_dimension(SPOILT), NAN),
        (lambda: intrinsic_dimension(CODES, k=30), "codes has 30 rows, but k = 30 neighbours take at least 31"),
        (lambda: intrinsic_dimension(CODES, k=1), "k must be an integer of at least 2, got 1"),
        (lambda: intrinsic_dimension(torch.cat([CODES, CODES[:2]])), "4 of the 32 codes equal another one"),
        (lambda: two_nn_dimension(SPOILT), NAN),
        (lambda: two_nn_dimension(CODES[:2]), "codes has 2 rows, but k = 2 neighbours take at least 3"),
        (lambda: two_nn_dimension(CODES, discard=1.0), "discard must lie in"),
        (lambda: two_nn_dimension(torch.cat([CODES, CODES])), "60 of the 60 codes equal another one"),
        (lambda: cluster_scores(SPOILT, LABELS), NAN),
        (lambda: cluster_scores(CODES, LABELS[:5]), r"labels must have the shape \(30,\), got \(5,\)"),
        (lambda: cluster_scores(CODES, LABELS.float()), "labels must be integers, got torch.float32"),
        (lambda: cluster_scores(CODES, 0 * LABELS), "labels hold one class, 0"),
        (lambda: cluster_scores(CODES, LABELS - 1), "10 of the 30 labels are missing"),
        (lambda: cluster_scores(CODES, LABELS, clusters=31), "clusters must lie between 2 and .* 30; got 31"),
    ],
)
def test_what_cannot_be_measured_is_refused(measure: Callable[[], Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        measure()
