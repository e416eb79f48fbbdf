"""Frechet distances against closed forms and scipy, neighbourhoods against loops and hand-made cases."""

from __future__ import annotations

import itertools
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn

from lightning_ae.errors import InputError
from lightning_ae.metrics import (
    DataCopying,
    DensityCoverage,
    FrechetDistance,
    PrecisionRecall,
    frechet_distance,
)


def drawn(n: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64)


def floats(values: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def filled(metric: Any, **sets: Tensor) -> Any:
    for kind, rows in sets.items():
        for part in rows.split(37):
            metric.update(part, kind)
    return metric


# ---- the Frechet distance -------------------------------------------------------------------------------------------


def test_two_gaussians_whose_covariances_commute() -> None:
    """Then the roots are those of the eigenvalues: |m - m'|^2 + sum (s - s')^2."""
    basis = torch.linalg.qr(drawn(6, 6, 0)).Q
    spreads = torch.tensor([[1.0, 2.0, 0.5, 3.0, 0.0, 0.1], [2.0, 0.0, 0.5, 1.0, 4.0, 0.0]], dtype=torch.float64)
    means = drawn(2, 6, 1)
    one, other = ((basis * spread**2) @ basis.T for spread in spreads)
    expected = float((means[0] - means[1]).square().sum() + (spreads[0] - spreads[1]).square().sum())
    assert float(frechet_distance(means[0], one, means[1], other)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dim", [2, 7, 40])
def test_the_distance_is_that_of_scipy(dim: int) -> None:
    real, generated = drawn(300, dim, 0), 0.5 + drawn(200, dim, 1) @ drawn(dim, dim, 2)
    a, b = real.numpy(), generated.numpy()
    one, other = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one + other - 2 * np.real(sqrtm(one @ other)))
    metric = filled(FrechetDistance(dim), real=real, generated=generated)
    assert floats(metric.compute()) == {"distance": pytest.approx(expected, rel=1e-6)}


def test_fewer_samples_than_features() -> None:
    """Singular covariances: the non-zero singular values of the product of the centred rows are all there is."""
    real, generated = drawn(6, 30, 0), drawn(9, 30, 1)
    centred = (real - real.mean(0)) / math.sqrt(5), (generated - generated.mean(0)) / math.sqrt(8)
    overlap = torch.linalg.matrix_norm(centred[0] @ centred[1].T, "nuc")
    means = (real.mean(0) - generated.mean(0)).square().sum()
    expected = means + centred[0].square().sum() + centred[1].square().sum() - 2 * overlap
    metric = filled(FrechetDistance(30), real=real, generated=generated)
    assert float(metric.compute()["distance"]) == pytest.approx(float(expected), rel=1e-6)


def test_the_same_samples_have_no_distance_and_a_constant_feature_does_no_harm() -> None:
    real = torch.cat([drawn(100, 5, 0), torch.full((100, 1), 3.0)], dim=1)
    metric = filled(FrechetDistance(6), real=real, generated=real.flip(0), held_out=real + 2)
    assert floats(metric.compute()) == {"distance": pytest.approx(0, abs=1e-9), "floor": pytest.approx(24, rel=1e-6)}


def test_samples_far_from_the_origin() -> None:
    real, generated = drawn(500, 3, 0), 2 * drawn(500, 3, 1)
    near = filled(FrechetDistance(3), real=real, generated=generated).compute()
    far = filled(FrechetDistance(3), real=real + 1000, generated=generated + 1000).compute()
    assert float(far["distance"]) == pytest.approx(float(near["distance"]), rel=1e-6)


def test_the_floor_of_halves_is_small_beside_a_distance() -> None:
    rows = drawn(4000, 4, 0)
    metric = filled(FrechetDistance(4), real=rows[::2], held_out=rows[1::2], generated=0.3 + rows[::2])
    found = floats(metric.compute())
    assert found["distance"] == pytest.approx(4 * 0.3**2, rel=1e-6)
    assert 0 < found["floor"] < 0.1 * found["distance"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"covariance": torch.eye(3)}, r"^covariance must have the shape \(2, 2\), got \(3, 3\)"),
        ({"other_mean": torch.zeros(3)}, r"^other_mean must have the shape \(2,\), got \(3,\)"),
        ({"other_covariance": -torch.eye(2)}, "^other_covariance is not symmetric and positive semi-definite"),
        ({"covariance": torch.tensor([[1.0, 0.5], [0.0, 1.0]])}, "^covariance is not symmetric and positive"),
        ({"mean": torch.tensor([0.0, torch.nan])}, "^1 of the 2 values of mean are NaN or infinite"),
    ],
)
def test_what_is_no_gaussian_is_refused(change: dict[str, Tensor], match: str) -> None:
    given = {"mean": torch.zeros(2), "covariance": torch.eye(2), "other_mean": torch.zeros(2)}
    with pytest.raises(InputError, match=match):
        frechet_distance(**({**given, "other_covariance": torch.eye(2)} | change))


# ---- precision and recall, density and coverage ---------------------------------------------------------------------


def by_loops(real: np.ndarray, others: np.ndarray, k: int) -> dict[str, float]:
    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.sqrt(((a - b) ** 2).sum()))

    def reach(rows: np.ndarray) -> list[float]:
        found = []
        for i, row in enumerate(rows):
            found.append(sorted(distance(row, other) for j, other in enumerate(rows) if j != i)[k - 1])
        return found

    real_reach, other_reach = reach(real), reach(others)
    inside = [[distance(x, y) <= r for x, r in zip(real, real_reach, strict=True)] for y in others]
    covered = [[distance(x, y) <= r for y, r in zip(others, other_reach, strict=True)] for x in real]
    return {
        "precision": sum(any(row) for row in inside) / len(others),
        "recall": sum(any(row) for row in covered) / len(real),
        "density": sum(map(sum, inside)) / (k * len(others)),
        "coverage": sum(any(column) for column in zip(*inside, strict=True)) / len(real),
    }


def neighbourhoods(k: int, block: int = 16, **sets: Tensor) -> dict[str, float]:
    found = {}
    for cls in (PrecisionRecall, DensityCoverage):
        found |= floats(filled(cls(next(iter(sets.values())).shape[1], k=k, block=block), **sets).compute())
    return found


@pytest.mark.parametrize("k", [1, 3, 5])
def test_neighbourhoods_are_those_of_plain_loops(k: int) -> None:
    real, generated, held_out = drawn(60, 3, 0), 1.2 + drawn(45, 3, 1), drawn(50, 3, 2)
    expected = by_loops(real.numpy(), generated.numpy(), k)
    expected |= {f"{name}_held_out": v for name, v in by_loops(real.numpy(), held_out.numpy(), k).items()}
    assert neighbourhoods(k, real=real, generated=generated, held_out=held_out) == pytest.approx(expected, rel=1e-6)
    assert 0.1 < expected["precision"] < 1
    assert 0.1 < expected["recall"] < 1


def test_rows_on_a_grid_whose_distances_tie() -> None:
    grid = torch.tensor(list(itertools.product(range(5), range(5))), dtype=torch.float64) / 10
    others = grid + torch.tensor([0.1, 0.0])
    assert neighbourhoods(2, 7, real=grid, generated=others) == pytest.approx(
        by_loops(grid.numpy(), others.numpy(), 2), rel=1e-6
    )


def test_equal_sets_and_sets_apart() -> None:
    rows = drawn(50, 4, 0)
    assert neighbourhoods(4, real=rows, generated=rows.flip(0)) == {
        "precision": 1, "recall": 1, "density": 1.25, "coverage": 1
    }  # fmt: skip
    assert neighbourhoods(4, real=rows, generated=rows + 100) == {
        "precision": 0, "recall": 0, "density": 0, "coverage": 0
    }  # fmt: skip


def test_rows_that_are_all_alike_lie_in_balls_without_a_radius() -> None:
    rows = torch.ones(9, 3)
    assert neighbourhoods(2, real=rows, generated=rows)["precision"] == 1
    assert neighbourhoods(2, real=rows, generated=rows + 1e-6)["precision"] == 0


def test_an_outlier_swells_precision_and_not_density() -> None:
    """Naeem et al. 2020: the ball of one real outlier holds generated samples that are far from the data."""
    real = torch.cat([0.1 * drawn(40, 2, 0), torch.tensor([[10.0, 0.0]])])
    generated = torch.tensor([5.0, 0.0]) + 0.1 * drawn(40, 2, 1)
    found = neighbourhoods(3, real=real, generated=generated)
    assert found["precision"] == 1
    assert found["density"] == pytest.approx(1 / 3)
    assert found["coverage"] == pytest.approx(1 / 41)
    assert neighbourhoods(3, real=real[:-1], generated=generated)["precision"] == 0
    # and an outlier among the generated ones swells recall, which coverage does not see
    found = neighbourhoods(3, real=generated, generated=real)
    assert (found["recall"], found["coverage"]) == (1, 0)


def test_a_mode_that_is_dropped_costs_recall_and_coverage() -> None:
    modes = torch.cat([drawn(100, 2, 0), 50 + drawn(100, 2, 1)])
    found = neighbourhoods(5, real=modes, generated=drawn(100, 2, 2))
    assert found["recall"] == pytest.approx(0.5, abs=0.03)
    assert found["coverage"] == pytest.approx(0.5, abs=0.03)
    assert found["precision"] > 0.9


def test_coverage_and_density_of_one_distribution_have_their_expectation() -> None:
    k, n, m = 3, 80, 120
    found = [neighbourhoods(k, real=drawn(n, 2, 2 * i), generated=drawn(m, 2, 2 * i + 1)) for i in range(100)]
    coverage = 1 - math.prod((n - j) / (m + n - j) for j in range(1, k + 1))
    for name, expected in (("coverage", coverage), ("density", 1.0)):
        values = np.array([each[name] for each in found])
        assert abs(values.mean() - expected) < 3 * values.std() / 10


@pytest.mark.parametrize("cls", [PrecisionRecall, DensityCoverage])
def test_fewer_samples_than_neighbours_are_refused(cls: Any) -> None:
    metric = filled(cls(2, k=4), real=drawn(5, 2, 0), generated=drawn(5, 2, 1))
    assert all(0 <= v <= 2 for v in floats(metric.compute()).values())
    metric = filled(cls(2, k=4), real=drawn(4, 2, 0), generated=drawn(5, 2, 1))
    with pytest.raises(InputError, match=f"{cls.__name__} has 4 real samples, and k = 4 neighbours take at least 5"):
        metric.compute()
    for options in ({"k": 0}, {"k": 2.5}, {"block": 0}):
        with pytest.raises(InputError, match=next(iter(options))):
            cls(2, **options)


# ---- what all of them share -----------------------------------------------------------------------------------------

METRICS: dict[str, Callable[..., Any]] = {
    "frechet": FrechetDistance,
    "precision": PrecisionRecall,
    "density": DensityCoverage,
    "copying": DataCopying,
}
every_metric = pytest.mark.parametrize("name", METRICS)


def sets(dim: int = 3) -> dict[str, Tensor]:
    return {"real": drawn(90, dim, 0), "generated": 0.5 + drawn(70, dim, 1), "held_out": drawn(80, dim, 2)}


@every_metric
def test_in_one_pass_and_in_parts(name: str) -> None:
    metric = METRICS[name](3)
    for kind, rows in sets().items():
        metric.update(rows, kind)
    expected = floats(metric.compute())
    assert len(expected) in (2, 4)
    assert all(map(math.isfinite, expected.values()))
    assert floats(filled(METRICS[name](3), **sets()).compute()) == pytest.approx(expected, rel=1e-6)
    assert floats(pickle.loads(pickle.dumps(metric)).compute()) == expected
    assert floats(filled(METRICS[name](3).half(), **sets()).compute()) == pytest.approx(expected, rel=1e-6)
    metric.reset()
    assert all(map(math.isnan, floats(filled(metric, real=sets()["real"]).compute()).values()))


@every_metric
def test_features_of_a_module_and_of_a_function(name: str) -> None:
    expected = floats(filled(METRICS[name](3), **{k: v.float().double() for k, v in sets().items()}).compute())
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(6, 3, bias=False))
    with torch.no_grad():
        module[2].weight.copy_(torch.cat([torch.eye(3), torch.zeros(3, 3)], dim=1))
    images = {kind: torch.cat([rows, rows * 9], dim=1).float().reshape(-1, 1, 2, 3) for kind, rows in sets().items()}
    metric = filled(METRICS[name](3, module), **images)
    assert floats(metric.compute()) == pytest.approx(expected, rel=1e-5)
    assert module.training  # as it was
    assert list(metric.parameters()) == []
    assert all(not key.startswith("_features") for key in metric.state_dict())
    metric = filled(METRICS[name](3, lambda x: x[:, 0, 0]), **images)
    assert floats(metric.compute()) == pytest.approx(expected, rel=1e-6)


@every_metric
def test_what_cannot_be_compared_is_refused(name: str) -> None:
    metric = filled(METRICS[name](3), **sets())
    before = floats(metric.compute())
    rows = drawn(4, 3, 0)
    spoilt = rows.clone()
    spoilt[1, 1] = torch.inf
    for x, kind, match in (
        (rows, "fake", "unknown kind of samples of .* 'fake'"),
        (rows[:, :2], "real", r"features of .* must have the shape \(B, 3\), got \(4, 2\)"),
        (rows[0], "real", r"must have the shape \(B, 3\), got \(3,\)"),
        (spoilt, "generated", "^1 of the 12 values of features are NaN or infinite"),
    ):
        with pytest.raises(InputError, match=match):
            metric.update(x, kind)
    assert floats(metric.compute()) == before
    with pytest.raises(InputError, match="feature_dim of .* must be positive"):
        METRICS[name](0)


@every_metric
def test_plot_draws_values(name: str) -> None:
    from matplotlib import pyplot

    metric = filled(METRICS[name](3), **sets())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure, axes = metric.plot()
    drawn_values = [float(y) for line in axes.get_lines() for y in line.get_ydata()]
    for value in floats(metric.compute()).values():
        assert any(y == pytest.approx(value) for y in drawn_values)
    pyplot.close(figure)


@every_metric
def test_rows_that_were_given_may_change_afterwards(name: str) -> None:
    metric, of = METRICS[name](3), sets()
    for kind, rows in of.items():
        metric.update(rows, kind)
        rows.zero_()
    assert floats(metric.compute()) == pytest.approx(floats(filled(METRICS[name](3), **sets()).compute()), rel=1e-6)


def test_samples_that_are_nearly_all_alike() -> None:
    """A generator that has collapsed: of its covariance the sums hold hardly more than rounding."""
    draw = torch.Generator().manual_seed(0)
    real = 10 + torch.randn(500, 6, generator=draw, dtype=torch.float64)
    alike = 1000 + 1e-7 * torch.randn(500, 1, generator=draw, dtype=torch.float64).expand(500, 6)
    metric = FrechetDistance(6)
    metric.update(real, "real")
    metric.update(alike, "generated")
    expected = (real.mean(0) - alike.mean(0)).square().sum() + real.var(0).sum()
    torch.testing.assert_close(metric.compute()["distance"].double(), expected, rtol=1e-6, atol=0)
