"""What the metrics share: sums over samples that stay exact, and checks of what they are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_ae.errors import InputError


class SampleMetric(Metric):
    """Base of the metrics: sums over samples, of which those of several processes add up.

    Sums are in float64 and counts are integers, whatever type the module around the metric takes: `half()`,
    `to(torch.bfloat16)`, `set_dtype` and a trainer's precision leave them as they are, since sums in half precision
    are wrong after a few hundred samples. Devices are followed.

    A batch whose values are NaN or infinite is refused by name and leaves the sums as they are. Before the first
    sample the value is NaN.
    """

    full_state_update = False
    samples: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_sum("samples", dtype=torch.long)

    def add_sum(self, name: str, *shape: int, dtype: torch.dtype = torch.float64) -> None:
        """Adds a state of zeros (*shape), which processes sum."""
        self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draws a value or several.

        Args:
            val: what `compute` or `forward` gave, or a list of such values; by default what `compute` gives now.
            ax: the axes to draw on, by default those of a new figure.

        Returns:
            The figure and the axes.
        """
        return self._plot(val, ax)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        def without_conversion(value: Tensor) -> Tensor:
            result = fn(value)
            return result if result.dtype == value.dtype else value.to(result.device)

        return super()._apply(without_conversion, exclude_state)


class MomentsMetric(SampleMetric):
    """Base of what follows from the first two moments of codes.

    Args:
        latent_dim: the number of units, the values of a code; of a map, those at all positions.

    Raises:
        InputError: when `latent_dim` is not positive.
    """

    total: Tensor
    products: Tensor

    def __init__(self, latent_dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        positive(self, latent_dim=latent_dim)
        self.latent_dim = latent_dim
        self.add_sum("total", latent_dim)
        self.add_sum("products", latent_dim, latent_dim)

    def update(self, codes: Tensor) -> None:
        """Adds a batch of codes without randomness, (B, latent_dim), as `Autoencoder.units` gives them.

        Raises:
            InputError: when the codes have another shape, or are not finite.
        """
        codes = code_doubles(codes.detach(), self.latent_dim)
        self.total += codes.sum(dim=0)
        self.products += codes.T @ codes
        self.samples += len(codes)


def check_finite(name: str, x: Tensor) -> None:
    """Refuses values that are NaN or infinite.

    Raises:
        InputError: naming them.
    """
    finite = torch.isfinite(x)
    if not finite.all():
        raise InputError(f"{int((~finite).sum())} of the {x.numel()} values of {name} are NaN or infinite")


def code_doubles(codes: Tensor, latent_dim: int, name: str = "codes") -> Tensor:
    """Codes (B, latent_dim) in float64; `name` is what the message calls them.

    Raises:
        InputError: when they have another shape, or are not finite.
    """
    if codes.ndim != 2 or codes.shape[1] != latent_dim:
        raise InputError(
            f"{name} must have the shape (B, {latent_dim}), got {tuple(codes.shape)}",
            "one code is a batch of one, codes.unsqueeze(0); codes of another shape are made vectors by flatten(1), or "
            "by the model's units(code)",
        )
    check_finite(name, codes)
    return codes.double()


def pair_doubles(reconstruction: Tensor, target: Tensor, dimensions: str = "...") -> tuple[Tensor, Tensor]:
    """A reconstruction and its target, of one shape (B, ...), in float64.

    Args:
        reconstruction: (B, ...).
        target: of the same shape, so that nothing is broadcast.
        dimensions: those after the batch, as the message names them; one for each that must be there.

    Raises:
        InputError: when the shapes differ or have no batch, or when values are not finite.
    """
    if reconstruction.shape != target.shape:
        raise InputError(f"reconstruction has the shape {tuple(reconstruction.shape)}, target {tuple(target.shape)}")
    if target.ndim < 1 + len(dimensions.split(", ")):
        raise InputError(
            f"reconstruction and target must have the shape (B, {dimensions}), got {tuple(target.shape)}",
            "one sample is a batch of one: x.unsqueeze(0)",
        )
    check_finite("reconstruction", reconstruction)
    check_finite("target", target)
    return reconstruction.double(), target.double()


def positive(metric: Metric, **values: float) -> None:
    """Refuses options of a metric that are not positive.

    Raises:
        InputError: naming the option.
    """
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise InputError(f"{name} of {type(metric).__name__} must be positive and finite, got {value}")
