"""Where a feature of a code can go: what a traversal shows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
