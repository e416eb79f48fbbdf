"""How far apart the spectra of sequences are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_ae.config import Configurable
from lightning_ae.errors import InputError
from lightning_ae.parts.likelihoods import at_least_float32, without_autocast

FLOOR = 1e-5
"""What is added to a squared magnitude, whose root has no slope at zero, and whose logarithm no end."""


@dataclass(frozen=True)
class MultiScaleSpectral(Configurable):
    r"""A distance of spectrograms of several window lengths (Engel et al. 2020, section 4.1).

    With the magnitudes :math:`S_i, \hat S_i` of the short-time Fourier transforms of data and reconstruction by Hann
    windows of length i, moved by a quarter of it,

    .. math:: \sum_i \frac{1}{n_i} \big(\|S_i - \hat S_i\|_1 + \alpha \|\log S_i - \log \hat S_i\|_1\big),

    where n_i is the number of magnitudes (Engel et al. take the sums). The magnitudes are those of a window of unit
    energy, so that white noise of variance 1 has a mean square of 1 at every scale.

    Args:
        windows: the lengths, in steps; none longer than the sequence.
        log_weight: alpha.
        weight: of the whole in the loss, in nats.
    """

    windows: tuple[int, ...] = (32, 64, 128, 256)
    log_weight: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.windows if isinstance(self.windows, tuple) else ()
        if not given or any(isinstance(n, bool) or not isinstance(n, int) or n < 4 or n % 4 for n in given):
            raise InputError(
                f"windows of MultiScaleSpectral must be lengths in steps, multiples of 4, got {self.windows}"
            )
        for name in ("log_weight", "weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} of MultiScaleSpectral must not be negative, got {getattr(self, name)}")

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises InputError unless samples are sequences of at least the longest window."""
        if len(shape) != 2 or shape[1] < max(self.windows):
            raise InputError(
                f"MultiScaleSpectral compares sequences (channels, length) of at least {max(self.windows)} steps, its "
                f"longest window, got input_shape {shape}",
                "give shorter windows, or longer sequences",
            )

    def __call__(self, made: Tensor, target: Tensor) -> Tensor:
        """Of sequences (B, channels, length) and others, the mean over channels, (B,), in float32 at least."""
        with without_autocast(made.device):
            both = torch.stack([at_least_float32(made), at_least_float32(target)])
            total = both.new_zeros(made.shape[0])
            for length in self.windows:
                a, b = self.magnitudes(both.flatten(0, 2), length).unflatten(0, both.shape[:3])
                each = (a - b).abs() + self.log_weight * (a.log() - b.log()).abs()
                total = total + each.flatten(1).mean(dim=1)
            return total

    def magnitudes(self, x: Tensor, length: int) -> Tensor:
        """Those of sequences (N, steps): (N, length / 2 + 1, frames)."""
        window = torch.hann_window(length, dtype=x.dtype, device=x.device)
        window = window / window.square().sum().sqrt()
        found = torch.stft(x, length, length // 4, window=window, center=False, return_complex=True)
        return (found.real.square() + found.imag.square() + FLOOR).sqrt()
