"""Bounds and total correlation against quadrature, by the code of the table of published numbers."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from published_exact import (
    BOUNDS,
    POSTERIORS,
    SAMPLES,
    posteriors,
    ring,
    total_correlation_by_batches,
    total_correlation_by_quadrature,
)


@pytest.mark.parametrize("estimator", ["stratified", "weighted"])
def test_total_correlation_of_the_whole_data_set_is_that_by_quadrature(estimator: str) -> None:
    q = posteriors()
    exact = total_correlation_by_quadrature(q)
    coarse = total_correlation_by_quadrature(q, points=351)
    assert coarse == pytest.approx(exact, rel=1e-6)
    assert 0.4 < exact < 0.6
    found = total_correlation_by_batches(q, estimator, SAMPLES, repeats=2)
    assert float(found.mean()) == pytest.approx(exact, rel=0.05)


@pytest.mark.slow
def test_bounds_are_ordered_and_lie_below_the_evidence() -> None:
    elbo: dict[str, tuple[float, float]] = {}
    for name, posterior in POSTERIORS.items():
        truth, found = ring(posterior)
        for bound, (value, error) in found.items():
            assert value < truth + 2 * error, (name, bound, value, error, truth)
        one, five, fifty = (found[bound] for bound in BOUNDS)
        for looser, tighter in ((one, five), (five, fifty)):
            assert looser[0] < tighter[0] + 2 * math.hypot(looser[1], tighter[1]), (name, found)
        elbo[name] = one
    gaussian, error = elbo["diagonal Gaussian"]
    for name, (value, off) in elbo.items():
        assert value > gaussian - 2 * (error + off), (name, elbo)
    assert max(elbo["spline flow"][0], elbo["planar flow"][0]) > gaussian + 0.1
