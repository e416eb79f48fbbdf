"""Where a feature of a code can go: what a traversal shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_ae.errors import InputError

Geometry = Literal["flat", "curved", "discrete"]
"""Where codes lie: in a flat space, in which they add up; on a curved one, of which vectors are brought back to it; or
they are of a finite number, or in part."""


@dataclass(frozen=True)
class Way:
    """What `move` can do with a feature of a code.

    Args:
        feature: its number.
        spread: how much it varies over data, a standard deviation in what `move` takes as 1.
        classes: where `move` goes from class to class, how many there are from this feature on; else 0.
    """

    feature: int
    spread: float
    classes: int = 0

    def steps(self, n: int, span: float) -> Tensor:
        """What `move` is to take: n steps to `span` spreads on either side; of classes each, whatever n."""
        return torch.arange(self.classes) if self.classes else torch.linspace(-span, span, n) * self.spread


def each_by_itself(features: Tensor) -> list[Way]:
    """A way for each of the features that data have, (N, features)."""
    return [Way(i, spread) for i, spread in enumerate(features.std(dim=0, correction=0).tolist())]


def add(code: Tensor, feature: int, by: Tensor) -> Tensor:
    """Codes (B, features, ...) of which one feature is larger by `by` (B,), at all positions."""
    moved = code.clone()
    moved[:, feature] += by.to(code).view(-1, *[1] * (code.ndim - 2))
    return moved


def along(t: Tensor, code: Tensor) -> Tensor:
    """Places (B,) as factors of codes (B, features, ...)."""
    return t.to(code).view(-1, *[1] * (code.ndim - 1))


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    r"""Vectors between others along a great circle, at the places t (Shoemake 1985, section 3.3).

    .. math:: \frac{\sin (1 - t) \theta}{\sin \theta}\, a + \frac{\sin t \theta}{\sin \theta}\, b,

    with the angle theta between them. Where both have the same length, so has every vector between them.

    Args:
        a: those at t = 0, (B, D).
        b: those at t = 1, (B, D).
        t: (B,).

    Returns:
        (B, D).

    Raises:
        InputError: for vectors that point in opposite directions, between which no circle is the shortest.
    """
    wide_a, wide_b = a.double(), b.double()
    unit_a, unit_b = F.normalize(wide_a, dim=1), F.normalize(wide_b, dim=1)
    apart, together = (unit_a - unit_b).norm(dim=1), (unit_a + unit_b).norm(dim=1)
    if (opposite := together < 1e-6).any():
        raise InputError(
            f"the codes of row {int(opposite.int().argmax())} point in opposite directions, between which many great "
            "circles are as short",
            "interpolate by way of a third",
        )
    angle, t = 2 * torch.atan2(apart, together).unsqueeze(1), t.double().unsqueeze(1)
    near = angle < 1e-4  # where the circle is a straight line, to the fourth power of that
    sine = torch.where(near, 1.0, angle.sin())
    weights = (((1 - t) * angle).sin() / sine, (t * angle).sin() / sine)
    first, second = (torch.where(near, line, weight) for line, weight in zip((1 - t, t), weights, strict=True))
    return (first * wide_a + second * wide_b).to(a.dtype)
