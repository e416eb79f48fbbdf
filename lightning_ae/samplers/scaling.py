"""Codes as samplers fit them: each value standardised by its mean and standard deviation over the codes, in float64.

A value that does not vary, or hardly, has a floor: its standard deviation counts as no less than 1e-6 of that of the
value that varies most, and as no less than 1e-12. So draws of it lie within some millionths of where it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_ae.parts.sampling import Density, Sampler, Space

FLOOR, LEAST = 1e-6, 1e-12


def standardised(codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (N, units) in units of their standard deviations about their mean, that mean, and those, (units,)."""
    z = codes.double() if codes.device.type != "mps" else codes.float()
    shift = z.mean(dim=0)
    spread = z.std(dim=0, correction=0)
    scale = spread.clamp(min=max(FLOOR * float(spread.max()), LEAST))
    return (z - shift) / scale, shift, scale


class Standardised(Density):
    """A density of standardised codes, computed in float32.

    Args:
        config: the sampler that fits it.
        space: where the codes lie.
    """

    shift: Tensor
    """The mean, (units,)."""
    scale: Tensor
    """The standard deviation, with its floor, (units,)."""

    def __init__(self, config: Sampler, space: Space) -> None:
        super().__init__(config, space)
        self.register_buffer("shift", torch.zeros(space.units, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(space.units, dtype=torch.float64))

    def learn(self, codes: Tensor) -> Tensor:
        """Takes the statistics of codes (N, units), and gives those standardised."""
        x, shift, scale = standardised(codes)
        self.shift.copy_(shift)
        self.scale.copy_(scale)
        return x.float()

    def inward(self, values: Tensor) -> Tensor:
        """Codes (..., units) to standardised ones, in float32."""
        return ((values.to(self.shift.dtype) - self.shift) / self.scale).float()

    def outward(self, x: Tensor) -> Tensor:
        """The inverse, in the statistics' type."""
        return self.shift + self.scale * x.to(self.shift.dtype)

    @property
    def log_scale(self) -> Tensor:
        """The logarithm of the determinant of `outward`."""
        return self.scale.log().sum()
