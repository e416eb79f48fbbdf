"""One picture of an evaluation: a row for each model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_ae.colours import PALETTE

if TYPE_CHECKING:
    from lightning_ae.figures import Figure

COLUMNS = 10
GREY = "0.35"


@dataclass(frozen=True)
class Seen:
    """What is drawn of a model, each where there is such a thing.

    Args:
        title: the model's name.
        pairs: inputs and reconstructions, (n, C, H, W) in [0, 1] each.
        samples: samples and the training rows nearest to them, likewise.
        plane: codes (N, 2), and the axes' names.
        labels: classes of the codes, (N,), -1 where there is none.
        classes: their names.
        units: what each value of a code carries, (values,), and in words what that is.
    """

    title: str
    pairs: tuple[Tensor, Tensor] | None = None
    samples: tuple[Tensor, Tensor] | None = None
    plane: tuple[Tensor, tuple[str, str]] | None = None
    labels: Tensor | None = None
    classes: list[str] | None = None
    units: tuple[Tensor, str] | None = None


def sheet(seen: list[Seen]) -> Figure:
    """The picture: reconstructions, samples beside their nearest training rows, the codes, and what their values carry;
    a row for each model."""
    from lightning_ae.figures import Figure

    panels = [
        name for name in ("pairs", "samples", "plane", "units") if any(getattr(each, name) is not None for each in seen)
    ]
    figure = Figure((0.6 + 4.0 * len(panels), 0.4 + 3.6 * len(seen)), dpi=120, layout="constrained")
    grid = figure.subplots(len(seen), len(panels), squeeze=False)
    draw = {"pairs": _pairs, "samples": _samples, "plane": _plane, "units": _units}
    for line, each in zip(grid, seen, strict=True):
        for axes, name in zip(line, panels, strict=True):
            if getattr(each, name) is None:
                axes.set_axis_off()
            else:
                draw[name](axes, each)
        line[0].text(
            -0.02, 1.12, each.title, transform=line[0].transAxes, fontsize=11, fontweight="bold", va="bottom"
        )  # fmt: skip
    return figure


def _tiles(above: Tensor, below: Tensor) -> Any:
    """Images in rows, each of `above` over the one of `below`, as an array of a picture."""
    rows = []
    for first in range(0, len(above), COLUMNS):
        for images in (above, below):
            part = images[first : first + COLUMNS]
            part = torch.cat([part, torch.ones(COLUMNS - len(part), *part.shape[1:])])
            rows.append(torch.cat(list(F.pad(part, (1, 1, 1, 1), value=1.0)), dim=2))
        rows[-1] = F.pad(rows[-1], (0, 0, 0, max(1, above.shape[2] // 6)), value=1.0)
    whole = torch.cat(rows, dim=1)
    return np.asarray((whole if len(whole) == 3 else whole[:1].expand(3, -1, -1)).permute(1, 2, 0))


def _images(axes: Any, pair: tuple[Tensor, Tensor], title: str) -> None:
    axes.imshow(_tiles(*pair), interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=9, color=GREY)


def _pairs(axes: Any, seen: Seen) -> None:
    assert seen.pairs is not None
    _images(axes, seen.pairs, "inputs over reconstructions")


def _samples(axes: Any, seen: Seen) -> None:
    assert seen.samples is not None
    _images(axes, seen.samples, "samples over the nearest training images")


def _plane(axes: Any, seen: Seen) -> None:
    from matplotlib import colormaps

    assert seen.plane is not None
    points, names = seen.plane
    labels = torch.full((len(points),), -1) if seen.labels is None else seen.labels
    classes = sorted(set(labels.tolist()))
    few, turbo = len(classes) <= len(PALETTE), colormaps["turbo"]
    for i, label in enumerate(classes):
        of_it = labels == label
        colour = GREY if label < 0 else PALETTE[i] if few else turbo(i / (len(classes) - 1))
        known = seen.classes is not None and 0 <= label < len(seen.classes)
        text = seen.classes[label] if known and seen.classes else str(label)
        axes.scatter(*points[of_it].T.numpy(), s=5, alpha=0.7, linewidths=0, color=colour, label=text)
    if 1 < len(classes) <= 12:
        axes.legend(fontsize=6, markerscale=2, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_xlabel(names[0], fontsize=8)
    axes.set_ylabel(names[1], fontsize=8)
    axes.tick_params(labelsize=7)
    axes.set_title("codes of test rows", fontsize=9, color=GREY)


def _units(axes: Any, seen: Seen) -> None:
    assert seen.units is not None
    values, what = seen.units
    order = values.argsort(descending=True)
    axes.bar(range(len(values)), values[order].numpy(), color=PALETTE[0], width=0.9)
    axes.set_xlabel("value of the code, by size", fontsize=8)
    axes.set_ylabel(what, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.set_title("what each value of the code carries", fontsize=9, color=GREY)
