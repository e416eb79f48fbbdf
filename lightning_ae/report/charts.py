"""Charts as Vega-Lite says them: plain data, which the page's script draws in the colours of its scheme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_ae.colours import GREY, PALETTE
from lightning_ae.report.runs import Series

TRAIN, VALIDATION, TEST = PALETTE[:3]
MOST_CLASSES = 2 * len(PALETTE)
"""How many classes a legend can tell apart, by colour and shape."""
FEW = 12
"""Up to how many points of a curve are marked."""
UNITS, COLUMNS = 64, 24
"""How many units and columns are drawn at most."""

Chart = dict[str, Any]


def curve(title: str, series: Sequence[Series], shown_step: int | None = None) -> Chart:
    """The curves of a term over steps; a rule marks the step of the checkpoint that the page shows."""
    means = any(each.name.endswith("epoch") for each in series)
    layers: list[Chart] = []
    for each in series:
        faint = means and each.name == "train"
        mark: Chart = {"type": "line", "strokeWidth": 1 if faint else 2, "opacity": 0.45 if faint else 1.0}
        mark |= {"color": _colour(each.name), "interpolate": "linear"}
        if len(each.points) <= FEW and not faint:
            mark |= {"point": {"filled": True, "size": 28, "color": _colour(each.name)}}
        layers.append(
            {
                "data": {"values": [{"step": step, "value": value} for step, value in each.points]},
                "mark": mark,
                "encoding": {"x": _quantity("step"), "y": _quantity("value")},
            }
        )
        dots = {"type": "point", "opacity": 0, "size": 120}
        said = [{"field": "step", "title": "step"}, {"field": "value", "format": ".5g", "title": each.name or title}]
        layers.append(layers[-1] | {"mark": dots, "encoding": {**layers[-1]["encoding"], "tooltip": said}})
    if shown_step is not None:
        layers.append(
            {
                "data": {"values": [{"step": shown_step}]},
                "mark": {"type": "rule", "strokeDash": [3, 3], "color": GREY},
                "encoding": {"x": _quantity("step")},
            }
        )
    return {"width": "container", "height": 150, "layer": layers}


def plane(points: Tensor, axes: tuple[str, str], classes: Sequence[str] | None, labels: Sequence[int]) -> Chart:
    """Points (N, 2), of a class each, -1 for none; the parameter "picked" leaves one class alone in colour."""
    values = [
        {"x": round(x, 4), "y": round(y, 4), "i": i, **({} if classes is None else {"k": label})}
        for i, ((x, y), label) in enumerate(zip(points.tolist(), labels, strict=True))
    ]
    encoding: Chart = {
        "x": {**_quantity("x"), "title": axes[0]},
        "y": {**_quantity("y"), "title": axes[1]},
        "tooltip": {"field": "i", "type": "quantitative"},
    }
    params: list[Chart] = [{"name": "picked", "value": None}]
    mark: Chart = {"type": "point", "filled": True, "size": 22, "strokeWidth": 0}
    if classes is None or len(classes) > MOST_CLASSES:
        mark["color"] = TRAIN
        encoding["opacity"] = {"value": 0.75}
    else:
        known = list(range(len(classes)))
        colours = [PALETTE[k % len(PALETTE)] for k in known]
        shapes = [("circle", "triangle-up")[k // len(PALETTE)] for k in known]
        for channel, kinds, other in (("color", colours, GREY), ("shape", shapes, "cross")):
            scale = {"domain": [*known, -1], "range": [*kinds, other]}
            encoding[channel] = {"field": "k", "type": "nominal", "scale": scale, "legend": None}
        alone = {"test": "picked === null || datum.k === picked", "value": 0.85}
        encoding["opacity"] = {"condition": alone, "value": 0.06}
    return {
        "width": "container",
        "height": 460,
        "params": params,
        "data": {"values": values},
        "mark": mark,
        "encoding": encoding,
    }


def bars(values: Sequence[tuple[str, float]], title: str, threshold: float | None = None) -> Chart:
    """Bars in the order given; a rule at a threshold, of which what does not reach it is grey."""
    rows = [{"name": name, "value": value} for name, value in values if math.isfinite(value)]
    encoding: Chart = {
        "x": {"field": "name", "type": "nominal", "sort": None, "title": None, "axis": {"labelAngle": 0}},
        "y": {"field": "value", "type": "quantitative", "title": title},
        "tooltip": [{"field": "name", "title": "of"}, {"field": "value", "format": ".4g", "title": title}],
    }
    if len(rows) > FEW + 4:
        encoding["x"]["axis"] = {"labelAngle": -90, "labelOverlap": True}
    colour: Chart = {"value": TRAIN}
    layers: list[Chart] = [{"mark": {"type": "bar", "cornerRadiusEnd": 2}, "encoding": encoding}]
    if threshold is not None:
        colour = {"condition": {"test": f"datum.value <= {threshold}", "value": GREY}, "value": TRAIN}
        rule = {"type": "rule", "strokeDash": [3, 3], "color": GREY}
        layers.append({"mark": rule, "encoding": {"y": {"datum": threshold}}})
    encoding["color"] = colour
    return {"width": "container", "height": 200, "data": {"values": rows}, "layer": layers}


def lines(true: Tensor, made: Tensor) -> Chart:
    """A sequence (C, L) and its reconstruction, a line for each channel, of which the first three are drawn."""
    layers = []
    for channel in range(min(3, len(true))):
        for each, dash in ((true, [1, 0]), (made, [4, 3])):
            values = [{"t": t, "value": round(v, 5)} for t, v in enumerate(each[channel].tolist())]
            mark = {"type": "line", "strokeWidth": 1.5, "strokeDash": dash, "color": PALETTE[channel]}
            encoding = {"x": {**_quantity("t"), "title": None}, "y": _quantity("value")}
            layers.append({"data": {"values": values}, "mark": mark, "encoding": encoding})
    return {"width": "container", "height": 120, "layer": layers}


def _colour(name: str) -> str:
    return {"validation": VALIDATION, "test": TEST}.get(name, TRAIN)


def _quantity(name: str) -> Chart:
    titled = None if name == "value" else name
    axis = {"tickCount": 4, "format": "~s"} if name == "step" else {"tickCount": 5}
    return {"field": name, "type": "quantitative", "title": titled, "scale": {"zero": False}, "axis": axis}
