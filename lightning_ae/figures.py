"""Figures that show in a notebook by themselves, and the numbers that they stand for."""

from __future__ import annotations

import html
import math
from base64 import b64encode
from collections.abc import Mapping
from io import BytesIO
from typing import Literal

from matplotlib.figure import Figure as _Figure

from lightning_ae.errors import InputError


class Figure(_Figure):
    """A matplotlib figure that a notebook shows where it is the last value of a cell, and once.

    All of the package's pictures are of this class. pyplot does not know them: none of them stays in memory after its
    last use, none shows a second time at the end of a cell, and no backend or window is asked for. Save one by
    `figure.savefig("picture.png")` or ".svg"; axes are at `figure.axes`.

    Takes what `matplotlib.figure.Figure` takes. `caption` is the line that stands below it, see `caption`.
    """

    caption: str | None = None

    def _repr_png_(self) -> bytes | None:
        return None if self.caption else self._png()

    def _repr_html_(self) -> str | None:
        if not self.caption:
            return None
        image, line = b64encode(self._png()).decode(), html.escape(self.caption)
        return (
            f'<figure><img src="data:image/png;base64,{image}" alt="{line}"/><figcaption>{line}</figcaption></figure>'
        )

    def _png(self) -> bytes:
        file = BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


class NotBetterError(AssertionError):
    """A figure's number is not better than those of what costs no training."""


def caption(
    figure: Figure,
    what: str,
    ours: float,
    beside: Mapping[str, float],
    better: Literal["lower", "higher"] = "lower",
    unit: str = "",
) -> Figure:
    """Writes below a figure the number that it stands for, beside those that it has to beat.

    A picture of a model that learned nothing often looks as good as another. So it comes with a number, and with that
    of principal components, of the untrained network, or of what else anybody has for nothing.

    Args:
        figure: of `lightning_ae.figures.Figure`, as all of the package's pictures are.
        what: is measured, and of what: "squared error of the test images".
        ours: the model's.
        beside: those that it has to beat, by what they are of: {"PCA": 12.1, "the untrained network": 80.3}.
        better: whether "lower" or "higher" numbers are better.
        unit: what follows each number, such as " dB".

    Returns:
        The figure, whose `caption` is set.

    Raises:
        NotBetterError: when the model's number is not better than each of the others, or one of them is NaN.
        InputError: for another kind of figure; where there is nothing beside it.

    Example:
        >>> from lightning_ae.figures import Figure, caption
        >>> caption(Figure(), "squared error of the test images", 6.5, {"PCA": 9.25}).caption
        'squared error of the test images: 6.5, beside 9.25 (PCA)'
    """
    if not isinstance(figure, Figure):
        raise InputError(
            f"a caption is for a lightning_ae.figures.Figure, got {type(figure).__name__}",
            "from lightning_ae.figures import Figure; axes = Figure().subplots()",
        )
    if better not in ("lower", "higher"):
        raise InputError(f"better must be 'lower' or 'higher', got {better!r}")
    if not beside:
        raise InputError("beside is empty", "give what the number has to beat, such as that of PCA")
    others = " and ".join(f"{_short(value)}{unit} ({name})" for name, value in beside.items())
    figure.caption = f"{what}: {_short(ours)}{unit}, beside {others}"
    sign = 1 if better == "lower" else -1
    # a comparison with NaN is false
    if not_beaten := [name for name, value in beside.items() if not sign * ours < sign * value]:
        raise NotBetterError(f"{figure.caption}: not {better} than {' and '.join(not_beaten)}")
    return figure


def _short(value: float) -> str:
    """Three digits, and whole numbers whole."""
    value = float(value)
    return f"{value:.0f}" if math.isfinite(value) and abs(value) >= 1000 else f"{value:.3g}"
