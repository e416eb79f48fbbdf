"""Pictures of what codes are used for: images in rows, or lines where samples are no images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.callbacks import pictures
from lightning_ae.callbacks.pictures import unit_figure
from lightning_ae.uses.attributes import add_attribute, arithmetic
from lightning_ae.uses.conditions import class_samples
from lightning_ae.uses.imputation import impute
from lightning_ae.uses.paths import Path, interpolate
from lightning_ae.uses.units import decoded, encoded

if TYPE_CHECKING:
    from lightning_ae.figures import Figure


def interpolation_figure(
    model: Autoencoder, a: Any, b: Any, steps: int = 9, paths: Sequence[Path] = ("shortest",), **given: Any
) -> Figure:
    """A row for each pair of inputs and each path: from the reconstruction of a to that of b; see `interpolate`."""
    found = {path: interpolate(model, a, b, steps, path, **given) for path in paths}
    rows = [each[i] for i in range(len(found[paths[0]])) for each in found.values()]
    names = [path for _ in range(len(found[paths[0]])) for path in found]
    return sheet(rows, names if len(paths) > 1 else [], "from one code to another")


def attribute_figure(
    model: Autoencoder,
    data: Any,
    vector: Tensor,
    strengths: Sequence[float] = (-2.0, -1.0, 0.0, 1.0, 2.0),
    name: str = "an attribute",
    **given: Any,
) -> Figure:
    """A row for each input, a column for each strength of an attribute; see `add_attribute`."""
    found = add_attribute(model, data, vector, strengths, **given)
    said = ", ".join(f"{strength:g}" for strength in strengths)
    return sheet(list(found), [], f"{name} added, times {said}")


def arithmetic_figure(model: Autoencoder, a: Any, minus: Any, plus: Any, **given: Any) -> Figure:
    """Rows of the reconstructions of a, minus and plus, and of what their codes add up to; see `arithmetic`."""
    from lightning_ae.scores import asked

    found = arithmetic(model, a, minus, plus, **given)
    with asked(model):
        rows = [decoded(model, *encoded(model, each, given)) for each in (a, minus, plus)]
    same = [row.expand(len(found), *row.shape[1:]) if len(row) == 1 else row for row in rows]
    return sheet([*same, found], ["a", "- minus", "+ plus", "= sum"], "sums of codes")


def imputation_figure(
    model: Autoencoder, data: Any, mask: Any, truth: Any = None, *, steps: int = 200, burn_in: int = 50, **given: Any
) -> Figure:
    """Rows of what is known, with gaps at half of the range, of what is filled in, and of the truth; see `impute`.

    Args:
        model: see `impute`.
        data: an array or a tensor in natural units, of the model's own shape.
        mask: true where a value is known, of that shape.
        truth: what stands in the gaps, where it is known.
        steps: see `impute`.
        burn_in: see `impute`.
        given: see `impute`.
    """
    found = impute(model, data, mask, steps=steps, burn_in=burn_in, **given)
    shown = torch.as_tensor(mask).bool()
    shown = (shown.unsqueeze(1) if shown.ndim == found.ndim - 1 else shown).expand_as(found).to(found.device)
    middle = (found.amin() + found.amax()) / 2
    rows = {"known": torch.where(shown, found, middle), "filled in": found}
    if truth is not None:
        rows["truth"] = torch.as_tensor(truth).to(found).view_as(found)
    return sheet(list(rows.values()), list(rows), "what is missing, by what is known")


def class_figure(
    model: Autoencoder, n: int = 8, classes: Sequence[int] | None = None, seed: int = 0, **given: Any
) -> Figure:
    """A row for each code, a column for each class; see `class_samples`."""
    return sheet(
        list(class_samples(model, n, classes, seed, **given)), [], "a code in each row, a class in each column"
    )


def reconstruction_figure(
    model: Autoencoder, data: Any, title: str = "", columns: Sequence[str] = (), **given: Any
) -> Figure:
    """Images, what a model that corrupts sees of them, and their reconstructions, a row each, below their errors.

    Args:
        model: of images, a trained one.
        data: images in natural units, as of `model.features`.
        title: above all.
        columns: what each image is called, a class or a file.
        given: what else the model takes, by the names in `model.given`.
    """
    with _asked(model, data, given) as (x, roles):
        return pictures.reconstruction_figure(model, x, title, columns, **roles)


def traversal_figure(
    model: Autoencoder, data: Any, steps: int = 9, span: float = 3.0, dims: int = 8, title: str = "", **given: Any
) -> Figure:
    """What each dimension of the first image's code does, a row each: see `lightning_ae.callbacks.LatentTraversal`.

    Args:
        model: of images, a trained one.
        data: images in natural units, whose codes say how far to go.
        steps: how many values each dimension takes.
        span: how far to go to either side, in standard deviations over the data.
        dims: how many dimensions, those of the largest variance first.
        title: above all.
        given: what else the model takes, by the names in `model.given`.
    """
    with _asked(model, data, given) as (x, roles):
        return pictures.traversal_figure(model, x, steps, span, dims, title, **roles)


def jacobian_figure(model: Autoencoder, data: Any, title: str = "", **given: Any) -> Figure:
    """The singular values of the encoder's Jacobian, the mean over data: see `lightning_ae.callbacks.JacobianSpectrum`.

    Args:
        model: a trained one with a differentiable encoder.
        data: in natural units, as of `model.features`.
        title: above all.
        given: what else the model takes, by the names in `model.given`.
    """
    with _asked(model, data, given) as (x, roles):
        return pictures.jacobian_figure(model, x, title, **roles)[0]


@contextmanager
def _asked(model: Autoencoder, data: Any, given: dict[str, Any]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Inside, the model is in evaluation mode; its input, and what it takes besides, of data in natural units."""
    from lightning_ae.scores import asked

    with asked(model):
        x, _, roles = model.read_natural(data, given)
        yield x, roles


def sheet(rows: Sequence[Tensor], names: Sequence[str], title: str = "") -> Figure:
    """Rows of samples in natural units, (B, *shape) each: images (C, H, W), or others as lines over their places."""
    if rows[0].ndim == 4:
        return unit_figure([row.float().clamp(0, 1).cpu() for row in rows], list(names), title)
    from matplotlib import colormaps

    from lightning_ae.figures import Figure

    figure = Figure((6.4, 0.4 + 1.6 * len(rows)), dpi=150, layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False, sharex=True)[:, 0]
    for i, (axis, row) in enumerate(zip(axes, rows, strict=True)):
        lines = row.flatten(1).float().cpu().numpy()
        for j, line in enumerate(lines):
            colour = colormaps["viridis"](j / max(1, len(lines) - 1))
            axis.plot(range(len(line)), line, linewidth=1.0, color=colour, marker="." if len(line) < 30 else None)
        axis.tick_params(labelsize=7)
        if names:
            axis.set_ylabel(names[i], fontsize=8)
    axes[-1].set_xlabel("value of a sample; dark lines first", fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure
