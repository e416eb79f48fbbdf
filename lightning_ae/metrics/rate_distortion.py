"""Rate and distortion of a model's codes: lossy compression, on data it was trained on and on data it was not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_ae.autoencoder import Autoencoder, Code
from lightning_ae.files import whole_file

if TYPE_CHECKING:
    from lightning_ae.figures import Figure


@dataclass(frozen=True)
class Point:
    """One point of the curve."""

    split: str
    """Which data, "train" or "test"."""
    setting: float
    """What was varied: bits for each code value; of a model with a rate of its own its beta, 1 where it has none."""
    rate: float
    """Bits for each sample."""
    distortion: float
    """The squared error summed over the dimensions of a sample, averaged over samples, in the model's units."""
    model: str = ""
    """What the model is called, where there are several."""
    own: bool = False
    """Whether the model has a rate of its own: those of several make one curve, over the beta of their training."""


BITS = (1, 2, 3, 4, 6, 8)
_OVER_BETA = "over beta, as written"


@torch.no_grad()
def rate_distortion(
    model: Autoencoder,
    x: Tensor,
    split: str,
    reference: Tensor,
    given: Mapping[str, Tensor] | None = None,
    reference_given: Mapping[str, Tensor] | None = None,
    name: str = "",
) -> list[Point]:
    r"""The curve of a model on samples.

    How the rate is measured depends on what the model says of itself:

    - a `rate` of its own, such as the divergence :math:`KL(q(z|x) \| p(z))` from its prior: the rate is that, the
      distortion that of a draw of the code, or of the code itself where the model draws none. One point: the trade-off
      is set in training, by beta. Draws are those of the seed 0, whatever the process has drawn before.
    - a sparse code of d units, a of them `active`: how many are active costs :math:`\log_2 (d + 1)` bits, which ones
      :math:`\log_2 \binom{d}{a}`, and each of their values the bits of the quantiser b, together
      :math:`\log_2 (d + 1) + \log_2 \binom{d}{a} + a b`. That is the length, but for rounding up to whole bits, of a
      message that can be decoded with no knowledge of the sample: all numbers of active units are taken as equally
      likely, so a model whose codes always have the same number pays a little too much.
    - any other code: each value is quantised to a fixed number of bits, so the rate is the size of the code.

    All values of a map, of tokens and of a hierarchy's codes are units. They are quantised uniformly between the 0.1 %
    and the 99.9 % quantile of each unit on the training data.

    Args:
        model: any variant, in evaluation mode.
        x: samples (N, *input_shape).
        split: how to name them.
        reference: training samples (M, *input_shape), which set the quantiser.
        given: what the model takes besides for `x`.
        reference_given: what it takes for the training samples.
        name: what to call the model.

    Returns:
        A point for each number of bits, from 1 to 8, or one where the model has a rate of its own.
    """
    given = given or {}
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(0)
        cost = model.rate(x, **given)
        torch.manual_seed(0)
        if cost is not None:
            code = model.draw(x, **given) if "sample" in model.latents else model.encode(x, **given)
            beta = float(getattr(model, "beta", 1.0))
            rate, distortion = float(cost.double().mean()), _distortion(model, code, x, given)
            return [Point(split, beta, rate, distortion, name, own=True)]
    code = model.encode(x, **given)
    active = model.active(code)
    # in float64, since a quantile takes no half precision
    units, seen = model.units(code).double(), model.units(model.encode(reference, **(reference_given or {}))).double()
    low, high = seen.quantile(0.001, dim=0), seen.quantile(0.999, dim=0)
    points = []
    for bits in BITS:
        steps = (2**bits - 1) / (high - low).clamp(min=1e-12)
        quantised = low + ((units.clamp(low, high) - low) * steps).round() / steps
        rate = float(bits * units.shape[1])
        if active is not None:
            chosen = model.units(active)
            quantised = torch.where(chosen, quantised, torch.zeros_like(units))
            count = chosen.sum(dim=1).double()
            choices = _log2_binomial(units.shape[1], count)
            rate = float((count * bits + choices).mean()) + math.log2(units.shape[1] + 1)
        distortion = _distortion(model, model.from_units(quantised), x, given)
        points.append(Point(split, bits, rate, distortion, name))
    return points


def write_rate_distortion(points: Iterable[Point], folder: Path) -> tuple[Path, Path]:
    """Writes rate_distortion.csv and rate_distortion.png into a folder, and returns their paths."""
    import csv

    points = list(points)
    table, picture = folder / "rate_distortion.csv", folder / "rate_distortion.png"
    with whole_file(table) as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "split", "setting", "rate_bits", "distortion"])
        writer.writerows([p.model, p.split, p.setting, f"{p.rate:.6g}", f"{p.distortion:.6g}"] for p in points)
    with whole_file(picture) as part:
        rate_distortion_figure(points).savefig(part)
    return table, picture


def rate_distortion_figure(points: list[Point]) -> Figure:
    """Distortion over rate, a line for each split, and for each model but those with a rate of their own.

    These make one line together: the rate-distortion curve of the evidence lower bound (Alemi et al. 2018,
    https://arxiv.org/abs/1711.00464), along which beta changes from one to the next.
    """
    from lightning_ae.figures import Figure

    figure = Figure((6.0, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    together = len({point.model for point in points if point.own}) > 1
    lines: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        lines.setdefault((_OVER_BETA if point.own and together else point.model, point.split), []).append(point)
    for (model, split), chosen in lines.items():
        chosen = sorted(chosen, key=lambda point: (point.rate, point.distortion))
        places = [[point.rate for point in chosen], [point.distortion for point in chosen]]
        axes.plot(*places, marker="o", markersize=4, linewidth=1.2, label=", ".join(filter(None, (model, split))))
        for point in chosen if model == _OVER_BETA else []:
            where = (point.rate, point.distortion)
            axes.annotate(f"{point.setting:g}", where, (3, 3), textcoords="offset points", fontsize=7, color="0.35")
    axes.set_xlabel("rate, bits per sample", fontsize=9)
    axes.set_ylabel("distortion, squared error per sample", fontsize=9)
    axes.margins(0.08)  # marks and what they say stay inside
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=8)
    axes.legend(frameon=False, fontsize=9)
    return figure


def _distortion(model: Autoencoder, code: Code, x: Tensor, given: Mapping[str, Tensor]) -> float:
    errors: list[Any] = []
    for start in range(0, len(x), 1024):
        part = slice(start, start + 1024)
        z = tuple(each[part].to(x.dtype) for each in code) if isinstance(code, tuple) else code[part].to(x.dtype)
        difference = model.decode(z, **{k: v[part] for k, v in given.items()}).double() - x[part].double()
        errors.append(difference.square().flatten(1).sum(dim=1))
    return float(torch.cat(errors).mean())


def _log2_binomial(n: int, k: Tensor) -> Tensor:
    total = torch.tensor(float(n), dtype=k.dtype, device=k.device)
    return (torch.lgamma(total + 1) - torch.lgamma(k + 1) - torch.lgamma(total - k + 1)) / math.log(2)
