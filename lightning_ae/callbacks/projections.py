"""Codes in the plane."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_ae.colours import PALETTE
from lightning_ae.errors import InputError, unknown

if TYPE_CHECKING:
    from lightning_ae.figures import Figure

Method = Literal["pca", "tsne", "umap"]
MARKS = "o^sDvP"
PERPLEXITY, NEIGHBOURS = 30, 15


def check_method(method: str) -> None:
    """Raises InputError unless there is such a projection, and what makes it is installed."""
    if method not in get_args(Method):
        raise unknown("method", method, get_args(Method))
    if method == "umap" and find_spec("umap") is None:
        raise InputError("the method 'umap' needs umap-learn", "pip install 'lightning_ae[umap]', or take 'tsne'")


def projection_figure(
    panels: dict[str, Tensor],
    labels: Tensor | None,
    class_names: list[str] | None,
    title: str = "",
    method: Method = "pca",
    images: Tensor | None = None,
    thumbnails: int = 0,
) -> Figure:
    """Points of each panel in the plane, coloured by label.

    Args:
        panels: points (B, dimensions) by the panel's name.
        labels: (B,), in whole numbers classes, of which -1 is none; floats lie on a scale.
        class_names: of 0, 1, and so on.
        title: above all.
        method: how more than two dimensions become two, see `plane_of`; the axes say it.
        images: (B, C, H, W) in [0, 1], grey or colour, of which some stand at their points.
        thumbnails: how many at most, none over another.

    Raises:
        InputError: for an unknown method, or thumbnails without images.
    """
    from matplotlib.markers import MarkerStyle

    from lightning_ae.figures import Figure

    check_method(method)
    if thumbnails and images is None:
        raise InputError(f"thumbnails = {thumbnails} are of images, and there are none", "give images")
    figure = Figure((1.2 + 5.2 * len(panels), 5.2), dpi=150, layout="constrained")
    values = None if labels is None else labels.cpu().numpy()
    scaled = labels is not None and labels.is_floating_point()
    classes = [] if values is None or scaled else sorted(set(values.tolist()))
    for column, (name, points) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), column)
        plane, axis_names = plane_of(points, method)
        x, y = plane.T.numpy()
        if values is None or scaled:
            own = {"c": values, "cmap": "viridis"} if scaled else {"color": PALETTE[0]}
            shown = axes.scatter(x, y, s=8, alpha=0.75, linewidths=0, **own)
            if scaled and column == len(panels):
                figure.colorbar(shown, ax=axes)
        for i, value in enumerate(classes):
            known = class_names is not None and 0 <= int(value) < len(class_names)  # -1 often means unlabeled
            text = class_names[int(value)] if known and class_names else f"{value:g}"
            of_class = values == value
            look: dict[str, Any] = {"color": PALETTE[i % len(PALETTE)], "s": 8, "alpha": 0.75, "linewidths": 0}
            mark = MarkerStyle(MARKS[i // len(PALETTE) % len(MARKS)])
            axes.scatter(x[of_class], y[of_class], label=text, marker=mark, **look)
        if images is not None and thumbnails:
            _place(axes, plane, images, thumbnails)
        axes.set_xlabel(axis_names[0], fontsize=9)
        axes.set_ylabel(axis_names[1], fontsize=9)
        axes.tick_params(labelsize=8)
        if len(panels) > 1:
            labelled = torch.empty(0) if values is None or scaled else torch.from_numpy(values >= 0)
            error = ""
            if int(labelled.sum()) > 1:
                of_them = plane[labelled], torch.from_numpy(values)[labelled]
                error = f": 5-NN error {100 * _leave_one_out(*of_them):.1f} %"
            axes.set_title(f"{name}{error}", fontsize=10)
    if classes and len(classes) <= 20:
        handles, texts = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside right center", fontsize=8, frameon=False, markerscale=2)
    figure.suptitle(title, fontsize=10)
    return figure


def plane_of(points: Tensor, method: Method = "pca") -> tuple[Tensor, tuple[str, str]]:
    """Points (B, dimensions) in the plane, (B, 2), and the names of its axes, which say how.

    Args:
        points: two dimensions stay as they are.
        method: "pca", the first two principal components; "tsne" (van der Maaten & Hinton 2008), by scikit-learn from
            there on, or "umap" (McInnes et al. 2018), by umap-learn, an extra: distances between groups say little in
            these two. All give the same plane for the same points.
    """
    if points.shape[1] == 2:
        return points, ("z0", "z1")
    if method == "tsne" and len(points) > 3:
        from sklearn.manifold import TSNE

        perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
        found = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(points.double().numpy())
        return torch.from_numpy(found), (f"t-SNE, perplexity {perplexity:.3g}", "")
    if method == "umap" and len(points) > 3:
        from umap import UMAP

        near = min(NEIGHBOURS, len(points) - 1)
        with_seed = UMAP(n_neighbors=near, random_state=0, n_jobs=1)
        return torch.from_numpy(np.asarray(with_seed.fit_transform(points.numpy()))), (f"UMAP, {near} neighbours", "")
    centred = points - points.mean(dim=0)
    samples, dimensions = centred.shape
    centred = F.pad(centred, (0, max(0, 2 - dimensions)))
    _, spectrum, directions = torch.linalg.svd(F.pad(centred, (0, 0, 0, max(0, 2 - samples))), full_matrices=False)
    share = 100 * spectrum.square() / spectrum.square().sum().clamp_min(1e-30)  # equal points have no variance
    names = (f"first principal component ({share[0]:.0f} % of the variance)", f"second ({share[1]:.0f} %)")
    return centred @ directions[:2].T, names


def _place(axes: Any, plane: Tensor, images: Tensor, most: int) -> None:
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    for row in _apart(plane, most):
        grey = len(images[row]) != 3
        pixels = images[row][0] if grey else images[row].permute(1, 2, 0)
        picture = OffsetImage(pixels.numpy(), zoom=15 / max(pixels.shape[:2]), cmap="gray", norm=None)
        picture.image.set_clim(0, 1)
        axes.add_artist(AnnotationBbox(picture, (float(plane[row, 0]), float(plane[row, 1])), frameon=False, pad=0))


def _apart(plane: Tensor, most: int, least: float = 0.055) -> Iterator[int]:
    """Rows of points of which no two are nearer than a part of the plane's width and height, the first first."""
    low, high = plane.amin(0), plane.amax(0)
    places = (plane - low) / (high - low).clamp_min(1e-30)
    taken: list[int] = []
    for row, place in enumerate(places):
        if len(taken) == most:
            return
        if not taken or float((places[taken] - place).abs().amax(1).min()) >= least:
            taken.append(row)
            yield row


def _leave_one_out(points: Tensor, labels: Tensor, k: int = 5) -> float:
    """The error of a k-nearest-neighbour classifier of each point by the others."""
    points = points.double()
    distances = torch.cdist(points, points).fill_diagonal_(float("inf"))
    nearest = labels[distances.topk(min(k, len(points) - 1), largest=False).indices]
    return float((nearest.mode(dim=1).values != labels).float().mean())
