"""Codes in the plane: how, in colours that everybody tells apart, with images at their points."""

import re
from importlib.resources import files
from importlib.util import find_spec
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from contrast import contrast, linear

from lightning_ae import InputError
from lightning_ae.callbacks import LatentProjection
from lightning_ae.callbacks.projections import plane_of, projection_figure
from lightning_ae.colours import GREY, PALETTE

# Machado, Oliveira & Fernandes 2009, severity 1, for linear RGB
SIGHTS = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]] @ rgb / [0.95047, 1, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def nearest(palette: Any, sight: str) -> float:
    """The least distance of two colours in CIELAB, where 2.3 is just noticed."""
    seen = [lab(np.clip(np.array(SIGHTS[sight]) @ linear(colour), 0, 1)) for colour in palette]
    return min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2))


@pytest.mark.parametrize("sight", SIGHTS)
def test_colours_are_told_apart(sight: str) -> None:
    assert nearest(PALETTE, sight) > 20
    usual = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f"]
    assert sight in ("normal", "tritanopia") or nearest(usual, sight) < 10  # matplotlib's are not: the check can fail


def test_colours_show_on_paper_and_on_both_schemes_of_the_report() -> None:
    style = (files("lightning_ae.report") / "templates" / "style.css").read_text()
    behind = {"#ffffff", *re.findall(r"--(?:back|card): (#[0-9a-f]{6})", style)}
    assert len(behind) == 3  # white, and the dark of the page and of a card on it
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    for colour in (*PALETTE, GREY):
        assert min(contrast(colour, each) for each in behind) >= 3
    assert len({*PALETTE, GREY}) == 11


def test_more_classes_than_colours_have_other_marks() -> None:
    labels = torch.arange(25)
    figure = projection_figure({"codes": torch.rand(25, 2)}, labels, None)
    looks = {
        (tuple(each.get_facecolor()[0].round(3)), each.get_paths()[0].vertices.tobytes())
        for each in figure.axes[0].collections
    }
    assert len(looks) == 25


def three_groups() -> torch.Tensor:
    rows = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)) / 10
    return rows + 5 * torch.eye(8)[torch.arange(60) % 3]


@pytest.mark.parametrize("method", ["pca", "tsne", "umap"])
def test_a_projection_keeps_groups_together_and_says_how(method: Any) -> None:
    if method == "umap" and find_spec("umap") is None:
        pytest.skip("umap-learn, of the extra umap, is not installed")
    plane, names = plane_of(three_groups(), method)
    assert {"pca": "principal component", "tsne": "t-SNE, perplexity 19.7", "umap": "UMAP"}[method] in names[0]
    near = torch.cdist(plane, plane).fill_diagonal_(float("inf")).argmin(1)
    assert torch.equal(near % 3, torch.arange(60) % 3)
    assert torch.equal(plane_of(three_groups(), method)[0], plane)


def test_two_dimensions_stay_as_they_are() -> None:
    points = torch.rand(9, 2)
    assert plane_of(points, "tsne")[0] is points


def test_thumbnails_stand_at_their_points_and_apart() -> None:
    points, images = torch.rand(200, 2), torch.rand(200, 1, 4, 4)
    figure = projection_figure({"codes": points}, None, None, images=images, thumbnails=30)
    boxes = figure.axes[0].artists
    places = np.array([box.xy for box in boxes])
    assert len(boxes) == 30
    for box, place in zip(boxes, places, strict=True):
        (row,) = np.flatnonzero((points.numpy() == place.astype(np.float32)).all(1))
        np.testing.assert_array_equal(box.offsetbox.get_data(), images[row, 0].numpy())
    spread = points.numpy().max(0) - points.numpy().min(0)
    assert min(np.abs((a - b) / spread).max() for a, b in combinations(places, 2)) > 0.05
    figure.savefig("/dev/null", format="svg")


def test_what_cannot_be() -> None:
    with pytest.raises(InputError, match="did you mean 'tsne'"):
        LatentProjection(method="t-sne")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="thumbnails of LatentProjection must not be negative"):
        LatentProjection(thumbnails=-1)
    with pytest.raises(InputError, match="thumbnails = 3 are of images"):
        projection_figure({"codes": torch.rand(5, 2)}, None, None, thumbnails=3)
    if find_spec("umap") is None:
        with pytest.raises(InputError, match="needs umap-learn"):
            LatentProjection(method="umap")
