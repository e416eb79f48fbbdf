"""Figures show in a notebook, once, and a caption's number has to be better than what costs nothing."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure as MatplotlibFigure
from PIL import Image

import lightning_ae
from lightning_ae import VAE, ContractiveAutoencoder, HFDataModule, InputError, evaluation
from lightning_ae.callbacks import LatentTraversal, ReconstructionGrid, ScoreMetrics
from lightning_ae.figures import Figure, NotBetterError, caption
from lightning_ae.metrics import nearest_figure
from lightning_ae.metrics.rate_distortion import rate_distortion, rate_distortion_figure
from lightning_ae.uses import (
    Rate,
    imputation_figure,
    interpolation_figure,
    jacobian_figure,
    projection_figure,
    rates_figure,
    reconstruction_figure,
    sample_figure,
    sheet,
    traversal_figure,
)

PACKAGE = Path(lightning_ae.__file__).parent
X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def model() -> VAE:
    torch.manual_seed(0)
    return VAE((1, 8, 8), 3)


FIGURES: dict[str, Callable[[], object]] = {
    "reconstructions": lambda: reconstruction_figure(model(), X),
    "samples": lambda: sample_figure(model(), 4, 0),
    "projection": lambda: projection_figure({"codes": torch.rand(5, 3)}, None, None),
    "traversal": lambda: traversal_figure(model(), X, steps=3),
    "jacobian": lambda: jacobian_figure(ContractiveAutoencoder((1, 8, 8), 3), X),
    "interpolation": lambda: interpolation_figure(model(), X[:2], X[2:4], 3),
    "imputation": lambda: imputation_figure(model(), X[:2], X[:2] > 0.5, X[:2]),
    "lines": lambda: sheet([torch.rand(3, 7)], ["series"]),
    "rates": lambda: rates_figure([Rate("a", 3, 0.5, 30.0)]),
    "nearest": lambda: nearest_figure(X[:2], X),
    "rate and distortion": lambda: rate_distortion_figure(rate_distortion(model().eval(), X, "test", X)),
}


def png(data: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(data)).size


@pytest.mark.parametrize("name", FIGURES)
def test_what_draws_returns_a_figure_that_shows(name: str) -> None:
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    assert isinstance(figure, MatplotlibFigure)
    shown = figure._repr_png_()
    assert shown is not None
    assert min(png(shown)) > 20
    assert figure._repr_html_() is None


def test_pyplot_knows_none_of_them() -> None:
    """Or they would be shown twice in a notebook, and be kept in memory."""
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    FIGURES["samples"]()
    assert plt.get_fignums() == before
    for file in PACKAGE.rglob("*.py"):
        source = file.read_text()
        assert "pyplot" not in source.replace("pyplot does not know them", ""), file
        if file.name != "figures.py" or file.parent != PACKAGE:
            assert "matplotlib.figure" not in source, f"{file}: Figure is lightning_ae.figures.Figure"


def test_notebooks_get_one_image_of_it() -> None:
    """As IPython formats it, with and without a caption, whether pyplot is there or not."""
    formatters = pytest.importorskip("IPython.core.formatters")
    formatter = formatters.DisplayFormatter()
    figure = Figure((1, 1))
    figure.subplots()
    shown, _ = formatter.format(figure)
    assert {key for key in shown if key != "text/plain"} == {"image/png"}
    caption(figure, "error", 1, {"PCA": 2})
    shown, _ = formatter.format(figure)
    assert {key for key in shown if key != "text/plain"} == {"text/html"}


def test_a_caption_stands_below() -> None:
    figure = Figure((1, 1))
    found = caption(figure, "error of <all>", 12.345, {"PCA": 20, "the untrained network": 1234.5}, unit=" %")
    assert found is figure
    assert figure.caption == "error of <all>: 12.3 %, beside 20 % (PCA) and 1234 % (the untrained network)"
    html = figure._repr_html_()
    assert html is not None
    assert "<figcaption>error of &lt;all&gt;: 12.3 %" in html
    image = re.search(r"base64,([^\"]+)", html)
    assert image is not None
    assert png(base64.b64decode(image[1]))[0] > 20
    assert figure._repr_png_() is None


@pytest.mark.parametrize(
    ("ours", "beside", "better"),
    [
        (2, {"PCA": 2}, "lower"),  # as good is not better
        (3, {"PCA": 2}, "lower"),
        (1, {"PCA": 2, "the untrained network": 0.5}, "lower"),  # than each
        (1, {"PCA": 2}, "higher"),
        (math.nan, {"PCA": 2}, "lower"),
        (math.nan, {"PCA": 2}, "higher"),
        (1, {"PCA": math.nan}, "lower"),
        (math.inf, {"PCA": math.inf}, "higher"),
    ],
)
def test_what_is_not_better_is_refused(ours: float, beside: dict[str, float], better: str) -> None:
    with pytest.raises(NotBetterError, match=f"not {better} than"):
        caption(Figure(), "error", ours, beside, better)  # type: ignore[arg-type]


def test_what_is_better_is_not() -> None:
    caption(Figure(), "error", np.float32(1), {"PCA": torch.tensor(2.0)})  # type: ignore[dict-item]
    caption(Figure(), "PSNR", 3, {"PCA": 2, "the untrained network": -math.inf}, "higher")
    assert issubclass(NotBetterError, AssertionError)


def test_bad_captions() -> None:
    with pytest.raises(InputError, match="Figure"):
        caption(MatplotlibFigure(), "error", 1, {"PCA": 2})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="beside is empty"):
        caption(Figure(), "error", 1, {})
    with pytest.raises(InputError, match="better"):
        caption(Figure(), "error", 1, {"PCA": 2}, "larger")  # type: ignore[arg-type]


def test_callbacks_keep_what_they_drew_last(tmp_path: Path) -> None:
    data = HFDataModule("digits")
    callbacks = [ReconstructionGrid(n=3), LatentTraversal(samples=20), ScoreMetrics(n=2)]
    assert all(callback.figure is None for callback in callbacks)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, limit_train_batches=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path, callbacks=callbacks,
    )  # fmt: skip
    trainer.fit(model(), data)
    for callback in callbacks:
        assert isinstance(callback.figure, Figure)
    drawn = io.BytesIO()
    assert callbacks[0].figure is not None
    callbacks[0].figure.savefig(drawn)
    written = Image.open(tmp_path / "pictures" / "reconstructions.png")
    assert np.array_equal(np.asarray(Image.open(drawn)), np.asarray(written))


def test_an_evaluation_gives_its_picture() -> None:
    data = HFDataModule("digits")
    _, seen = evaluation.evaluate(model(), data, rows=60, draws=2)
    assert isinstance(evaluation.sheet([seen]), Figure)


def test_figures_of_the_model_in_natural_units() -> None:
    """Those of `lightning_ae.uses` take images as they come, and leave the mode as it was."""
    trained = model()
    bytes_of = (255 * X).round().to(torch.uint8)
    data = HFDataModule({"train": {"image": bytes_of.numpy()}}, val_fraction=0, cache="memory")
    trained.signature = data.signature
    trained.train()
    figure = reconstruction_figure(trained, [Image.fromarray(each[0].numpy()) for each in bytes_of])
    assert trained.training
    first = figure.axes[0].images[0].get_array()
    assert np.allclose(np.asarray(first), bytes_of[0, 0].numpy() / 255, atol=1e-6)
