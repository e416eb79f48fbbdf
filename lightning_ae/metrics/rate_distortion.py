"""Rate and distortion of a model's codes: lossy compression, on data it was trained on and on data it was not."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.errors import InputError
from lightning_ae.files import whole_file
from lightning_ae.models.sparse import KSparseAutoencoder, SparseAutoencoder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Point:
    """One point of the curve."""

    split: str
    """Which data, "train" or "test"."""
    setting: float
    """What was varied: bits for each code value, or the scale of the posterior's noise."""
    rate: float
    """Bits for each sample."""
    distortion: float
    """The squared error summed over the dimensions of a sample, averaged over samples, in the model's units."""


BITS = (1, 2, 3, 4, 6, 8)


@torch.no_grad()
def rate_distortion(model: Autoencoder, x: Tensor, split: str, reference: Tensor) -> list[Point]:
    r"""The curve of a model on samples.

    How the rate is measured depends on what the model has:

    - a posterior (variational): the rate is the divergence :math:`KL(q(z|x) \| p(z))` in bits, the distortion that of
      a draw from q. One point: the trade-off is set in training, by beta.
    - a sparse code of d units, a of them active: how many are active costs :math:`\log_2 (d + 1)` bits, which ones
      :math:`\log_2 \binom{d}{a}`, and each of their values the bits of the quantiser b, together
      :math:`\log_2 (d + 1) + \log_2 \binom{d}{a} + a b`. That is the length, but for rounding up to whole bits, of a
      message that can be decoded with no knowledge of the sample: all numbers of active units are taken as equally
      likely, so a model whose codes always have the same number pays a little too much.
    - any other code: each value is quantised to a fixed number of bits, so the rate is the size of the code.

    Values are quantised uniformly between the 0.1 % and the 99.9 % quantile of each code dimension on the training
    data.

    Args:
        model: any variant, in evaluation mode.
        x: samples (N, *input_shape).
        split: how to name them.
        reference: training samples (M, *input_shape), which set the quantiser.

    Returns:
        A point for each number of bits, from 1 to 8, or one for a variational model.

    Raises:
        InputError: when the code is no vector.
    """
    posterior = getattr(model, "posterior", None)
    if posterior is not None:
        mean, log_variance = (part.double() for part in posterior(x))
        kl = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=1).mean()
        generator = torch.Generator(mean.device).manual_seed(0)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        drawn = mean + (0.5 * log_variance).exp() * noise
        return [Point(split, 1.0, float(kl) / math.log(2), _distortion(model, drawn, x))]
    # in float64, since a quantile takes no half precision
    code, seen = model.encode(x).double(), model.encode(reference).double()
    if code.ndim != 2:
        raise InputError(f"rate_distortion takes codes (B, latent_dim), got {tuple(code.shape)}")
    low, high = seen.quantile(0.001, dim=0), seen.quantile(0.999, dim=0)
    sparse = isinstance(model, SparseAutoencoder | KSparseAutoencoder)
    active = code.abs() > (0.1 if isinstance(model, SparseAutoencoder) and model.penalty == "kl" else 0.0)
    points = []
    for bits in BITS:
        steps = (2**bits - 1) / (high - low).clamp(min=1e-12)
        quantised = low + ((code.clamp(low, high) - low) * steps).round() / steps
        if sparse:
            quantised = torch.where(active, quantised, torch.zeros_like(code))
            count = active.sum(dim=1).double()
            choices = _log2_binomial(code.shape[1], count)
            rate = float((count * bits + choices).mean()) + math.log2(code.shape[1] + 1)
        else:
            rate = float(bits * code.shape[1])
        points.append(Point(split, bits, rate, _distortion(model, quantised, x)))
    return points


def write_rate_distortion(points: Iterable[Point], folder: Path) -> tuple[Path, Path]:
    """Writes rate_distortion.csv and rate_distortion.png into a folder, and returns their paths."""
    import csv

    points = list(points)
    table, picture = folder / "rate_distortion.csv", folder / "rate_distortion.png"
    with whole_file(table) as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["split", "setting", "rate_bits", "distortion"])
        writer.writerows([p.split, p.setting, f"{p.rate:.6g}", f"{p.distortion:.6g}"] for p in points)
    with whole_file(picture) as part:
        rate_distortion_figure(points).savefig(part)
    return table, picture


def rate_distortion_figure(points: list[Point]) -> Figure:
    """Distortion over rate, a line for each split."""
    from matplotlib.figure import Figure

    figure = Figure((6.0, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for split in dict.fromkeys(point.split for point in points):
        chosen = sorted((p.rate, p.distortion) for p in points if p.split == split)
        axes.plot(*zip(*chosen, strict=True), marker="o", markersize=4, linewidth=1.2, label=split)
    axes.set_xlabel("rate, bits per sample", fontsize=9)
    axes.set_ylabel("distortion, squared error per sample", fontsize=9)
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=8)
    axes.legend(frameon=False, fontsize=9)
    return figure


def _distortion(model: Autoencoder, code: Tensor, x: Tensor) -> float:
    errors: list[Any] = []
    for part, target in zip(code.split(1024), x.split(1024), strict=True):
        difference = model.decode(part.to(x.dtype)).double() - target.double()
        errors.append(difference.square().flatten(1).sum(dim=1))
    return float(torch.cat(errors).mean())


def _log2_binomial(n: int, k: Tensor) -> Tensor:
    total = torch.tensor(float(n), dtype=k.dtype, device=k.device)
    return (torch.lgamma(total + 1) - torch.lgamma(k + 1) - torch.lgamma(total - k + 1)) / math.log(2)
