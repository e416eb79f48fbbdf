"""The alignment of two models' codes against the formulas in terms of all pairs of samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_ae.errors import InputError
from lightning_ae.metrics import LinearCKA

EITHER = pytest.mark.parametrize("unbiased", [False, True])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value(codes: Tensor, others: Tensor, unbiased: bool = False, size: int = 13) -> float:
    metric = LinearCKA(codes.shape[1], others.shape[1], unbiased)
    for part in zip(codes.split(size), others.split(size), strict=True):
        metric.update(*part)
    return float(metric.compute())


def of_kernels(x: np.ndarray, y: np.ndarray, unbiased: bool) -> float:
    """Of kernel matrices: traces of centred ones, or of ones without diagonals, each term a loop."""
    n = len(x)

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        if not unbiased:
            centre = np.eye(n) - 1 / n
            return float(np.trace(k @ centre @ m @ centre))
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        ones = np.ones(n)
        return float(
            np.trace(k @ m)
            + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (ones @ k @ m @ ones)
        )

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


@EITHER
def test_the_value_is_that_of_kernel_matrices(unbiased: bool) -> None:
    x = 0.7 + drawn(40, 5)
    y = x @ drawn(5, 3, seed=1) + 2 * drawn(40, 3, seed=2) - 1
    expected = of_kernels(x.numpy(), y.numpy(), unbiased)
    assert 0.1 < expected < 0.9
    assert value(x, y, unbiased) == pytest.approx(expected, rel=1e-6)
    assert value(y, x, unbiased) == pytest.approx(expected, rel=1e-6)


@EITHER
def test_rotations_scales_and_shifts_leave_it_at_one(unbiased: bool) -> None:
    x = drawn(50, 6) * torch.tensor([3.0, 2.0, 1.0, 1.0, 0.5, 0.1])
    turned = 4 - 7 * x @ torch.linalg.qr(drawn(6, 6, seed=1)).Q
    assert value(x, turned, unbiased) == pytest.approx(1, abs=1e-6)
    wide = x @ torch.linalg.qr(drawn(30, 6, seed=2)).Q.T
    assert value(x, wide, unbiased) == pytest.approx(1, abs=1e-6)
    assert value(x, x @ drawn(6, 6, seed=3), unbiased) < 0.95  # which no linear map else does


@EITHER
def test_codes_far_from_the_origin(unbiased: bool) -> None:
    x, y = drawn(60, 4), drawn(60, 4, seed=1)
    assert value(x + 100, y - 100, unbiased) == pytest.approx(value(x, y, unbiased), rel=1e-4, abs=1e-6)


def test_only_the_unbiased_value_of_unrelated_codes_is_zero_on_the_average() -> None:
    biased, unbiased = (
        np.array([value(drawn(30, 20, seed=2 * i), drawn(30, 20, seed=2 * i + 1), u) for i in range(60)])
        for u in (False, True)
    )
    assert biased.mean() == pytest.approx(20 / (20 + 30), abs=0.05)
    assert abs(unbiased.mean()) < 3 * unbiased.std() / math.sqrt(60)


def test_orthogonal_directions_have_nothing_in_common() -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert value(x[:, :1], x.roll(2, 0)[:, :1]) == 0


@EITHER
def test_codes_that_do_not_vary_and_few_samples(unbiased: bool) -> None:
    assert math.isnan(value(drawn(50, 3), torch.full((50, 2), 0.1), unbiased))
    assert math.isnan(value(drawn(3 if unbiased else 1, 3), drawn(3 if unbiased else 1, 3), unbiased))
    assert math.isfinite(value(drawn(4, 3), drawn(4, 3, seed=1), unbiased))


def test_what_cannot_be_compared_is_refused() -> None:
    metric = LinearCKA(3, 2)
    metric.update(drawn(9, 3), drawn(9, 2))
    before = float(metric.compute())
    spoilt = drawn(9, 2)
    spoilt[0, 0] = torch.nan
    for codes, others, match in (
        (drawn(9, 2), drawn(9, 2), r"^codes must have the shape \(B, 3\), got \(9, 2\)"),
        (drawn(9, 3), drawn(9, 3), r"^others must have the shape \(B, 2\), got \(9, 3\)"),
        (drawn(9, 3), drawn(8, 2), "codes are of 9 samples, others of 8"),
        (drawn(9, 3), spoilt, "^1 of the 18 values of others are NaN or infinite"),
    ):
        with pytest.raises(InputError, match=match):
            metric.update(codes, others)
    assert float(metric.compute()) == before
    with pytest.raises(InputError, match="other_dim of LinearCKA must be positive"):
        LinearCKA(3, 0)
