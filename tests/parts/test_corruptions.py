"""Corruptions: how often, where to, and repeatable from a key."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_ae.errors import InputError
from lightning_ae.exact import Noise
from lightning_ae.parts.corruptions import Corruption, GaussianNoise, Masking, SaltAndPepper

N = 200_000
X = torch.full((N, 1), 0.6)


def share(mask: torch.Tensor, expected: float) -> bool:
    return abs(float(mask.float().mean()) - expected) < 5 * (expected * (1 - expected) / N) ** 0.5


def test_masking() -> None:
    out = Masking(0.3)(X, Noise("a"))
    assert share(out == 0, 0.3)
    assert ((out == 0) | (out == 0.6)).all()


def test_gaussian() -> None:
    difference = GaussianNoise(0.4)(X, Noise("a")) - X
    assert abs(float(difference.mean())) < 5 * 0.4 / N**0.5
    assert float(difference.std()) == pytest.approx(0.4, rel=5 / (2 * N) ** 0.5)


def test_salt_and_pepper() -> None:
    out = SaltAndPepper(0.3, low=-1.0, high=2.0)(X, Noise("a"))
    assert share(out == -1, 0.15)
    assert share(out == 2, 0.15)
    assert ((out == -1) | (out == 2) | (out == 0.6)).all()


@pytest.mark.parametrize("corruption", [Masking(), GaussianNoise(), SaltAndPepper()], ids=lambda c: type(c).__name__)
def test_repeatable_and_leaves_its_input(corruption: Corruption) -> None:
    x = X.clone()
    assert torch.equal(corruption(x, Noise(1, "a")), corruption(x, Noise(1, "a")))
    assert not torch.equal(corruption(x, Noise(1, "a")), corruption(x, Noise(2, "a")))
    assert torch.equal(x, X)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Masking(1.5),
        lambda: Masking(-0.1),
        lambda: GaussianNoise(0.0),
        lambda: SaltAndPepper(2.0),
        lambda: SaltAndPepper(low=1.0, high=0.0),
    ],
)
def test_refusals(make: Any) -> None:
    with pytest.raises(InputError):
        make()
