"""What a page shows of a model on its data: pictures, the map of codes, traversals, units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.batches import rows_of
from lightning_ae.callbacks.measures import visible
from lightning_ae.callbacks.pictures import drawn, feature_names, told_apart
from lightning_ae.callbacks.projections import plane_of
from lightning_ae.colours import PALETTE
from lightning_ae.errors import InputError
from lightning_ae.evaluation import Look, carried
from lightning_ae.report import charts
from lightning_ae.report.charts import Chart
from lightning_ae.report.images import Sprite, data_uri, pixels, sprite
from lightning_ae.shapes import one_size
from lightning_ae.training.units import THRESHOLD

if TYPE_CHECKING:
    from lightning_ae.data import HFDataModule

PAIRS, SAMPLES = 8, 48
"""How many of the best and of the worst reconstructions are shown, and how many samples."""
SIDE, THUMBNAIL = 128, 32
"""The longest side of an image and of a thumbnail, in pixels."""
WAYS, STEPS, SPAN = 10, 15, 3.0
"""How many ways a traversal goes, in how many steps, to how many standard deviations on either side."""
BATCH = 500


@dataclass(frozen=True)
class Pair:
    """An input beside its reconstruction.

    Args:
        row: which of the rows that were looked at it is.
        error: the squared error, summed over the sample's dimensions, in the model's units.
        label: the name of its class, or "".
        images: of both, as data URIs; or none.
        chart: of a sequence, where both are drawn; or "".
        columns: of a vector the columns of the largest error: name, value, reconstruction.
    """

    row: int
    error: float
    label: str = ""
    images: tuple[str, str] | None = None
    chart: str = ""
    columns: Sequence[tuple[str, float, float]] = ()


@dataclass(frozen=True)
class Slider:
    """A way through the space of codes: an image for each of its steps.

    Args:
        name: of the feature.
        what: its spread over data, or how many classes it has.
        sprite: the images, in one row.
        steps: what is said of each.
        start: the step that is shown first.
    """

    name: str
    what: str
    sprite: Sprite
    steps: Sequence[str]
    start: int


@dataclass
class Contents:
    """What a page shows; what does not apply is left out, and why is said.

    Args:
        best: the best reconstructions, the best first.
        worst: the worst, the worst first.
        error: the mean squared error of all rows looked at.
        columns: the name of the chart of what is explained of each column, or "".
        samples: rows of samples and their names, "" where they have none.
        thumbnails: of the points of the map.
        classes: the names of the classes in the map's legend, and their colours.
        captions: what is said of each point of the map.
        sliders: the traversals.
        base: the image that traversals begin at.
        small: whether images are so small that their pixels are to be seen.
        units: how many units carry something, and how many there are.
        charts: the charts by name.
        notes: what else is to be said of a part, by its name.
        left_out: why a part is not there.
    """

    best: Sequence[Pair] = ()
    worst: Sequence[Pair] = ()
    error: float | None = None
    columns: str = ""
    samples: Sequence[tuple[str, Sequence[str]]] = ()
    thumbnails: Sprite | None = None
    classes: Sequence[tuple[str, str]] = ()
    captions: Sequence[str] = ()
    sliders: Sequence[Slider] = ()
    base: str = ""
    small: bool = False
    units: tuple[int, int] | None = None
    charts: dict[str, Chart] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def part(self, name: str, make: Callable[[], None]) -> None:
        """Makes a part, or says why it is left out."""
        try:
            make()
        except InputError as reason:
            self.left_out[name] = reason.message
        except NotImplementedError:
            self.left_out[name] = "the model does not implement it"


def _places() -> list[float]:
    """Of the steps of a traversal, in standard deviations."""
    found: list[float] = torch.linspace(-SPAN, SPAN, STEPS).tolist()
    return found


class Shown:
    """Fills the contents of a page from a model, and where there are any from rows of its data.

    Args:
        model: a trained one, in evaluation mode.
        data: its data module.
        looked: what an evaluation looked at.
        seed: of samples.
    """

    def __init__(self, model: Autoencoder, data: HFDataModule | None, looked: Look | None, seed: int = 0) -> None:
        self.model, self.data, self.looked, self.seed = model, data, looked, seed
        self.pictures = len(model.input_shape) == 3
        self.contents = Contents(small=self.pictures and max(n or SIDE for n in model.input_shape[1:]) <= 64)

    def all(self) -> Contents:
        """Every part that applies."""
        contents = self.contents
        contents.part("samples", self._samples)
        if self.looked is not None:
            contents.part("reconstructions", self._reconstructions)
            contents.part("map of codes", self._map)
            contents.part("traversals", self._traversals)
            contents.part("units of the code", self._units)
        return contents

    # ---- the parts ----------------------------------------------------------------------------------------------

    def _samples(self) -> None:
        model = self.model
        if not model.generates:
            raise InputError(f"{type(model).__name__} has no distribution over codes to sample from")
        if not self.pictures:
            raise InputError("they are no images; `lightning-ae evaluate` compares them with held-out rows")
        one_size(model, "a picture of samples")
        rows, names = drawn(model, SAMPLES, self.seed)
        if len(rows) > 10:
            rows, names = rows[:10], names[:10]
            self.contents.notes["samples"] = "of the first 10 classes"
        self.contents.samples = [
            (name, [data_uri(image) for image in pixels(model, row, SIDE)])
            for name, row in zip(names or [""] * len(rows), rows, strict=True)
        ]

    def _reconstructions(self) -> None:
        x, given = self._rows()
        made = torch.cat([self.model(part, **each) for part, each in self._parts()]).float().cpu()
        errors = (made - x.float()).flatten(1).double().square().sum(dim=1)
        order = errors.argsort(stable=True)
        count = min(PAIRS, len(x) // 2) or 1
        contents = self.contents
        contents.error = float(errors.mean())
        pair = self._pair_of(x, made, errors)
        contents.best = [pair(int(row)) for row in order[:count]]
        contents.worst = [pair(int(row)) for row in order.flip(0)[:count]]
        if self.pictures:
            if which := visible(x[:1])[1]:
                contents.notes["reconstructions"] = f"{which} are shown"
        elif x.ndim == 2 and x.shape[1] > 1:
            self._explained(x.double(), made.double())

    def _pair_of(self, x: Tensor, made: Tensor, errors: Tensor) -> Callable[[int], Pair]:
        names = self._value_names(x[0].numel()) if x.ndim == 2 else []

        def pair(row: int) -> Pair:
            about = row, float(errors[row]), self._label(row)
            if self.pictures:
                both = pixels(self.model, torch.stack([x[row], made[row]]), SIDE)
                return Pair(*about, images=(data_uri(both[0]), data_uri(both[1])))
            if x.ndim == 3 and x.shape[2] > 1:
                name = f"pair-{row}"
                self.contents.charts[name] = charts.lines(x[row], made[row])
                return Pair(*about, chart=name)
            true, found = x[row].flatten(), made[row].flatten()
            most = (true - found).abs().topk(min(3, len(true))).indices.tolist()
            columns = [(names[i] if names else f"value {i}", float(true[i]), float(found[i])) for i in most]
            return Pair(*about, columns=columns)

        return pair

    def _explained(self, x: Tensor, made: Tensor) -> None:
        spread = (x - x.mean(dim=0)).square().sum(dim=0)
        varies = spread > 0
        share = 1 - (made - x).square().sum(dim=0)[varies] / spread[varies]
        names = [name for name, keep in zip(self._value_names(x.shape[1]), varies.tolist(), strict=True) if keep]
        order = share.argsort()[: charts.COLUMNS].tolist()
        self.contents.columns = "columns"
        self.contents.charts["columns"] = charts.bars([(names[i], float(share[i])) for i in order], "R squared")
        if len(names) > len(order):
            self.contents.notes["columns"] = f"the {len(order)} of {len(names)} columns of which the least is explained"

    def _map(self) -> None:
        assert self.looked is not None
        codes = self.looked.codes["test"]
        if codes.shape[1] < 2:
            raise InputError("codes have one feature, which makes no plane")
        points, axes = plane_of(codes)
        labels = self.looked.samples.labels
        classes = None if self.data is None or labels is None else self.data.class_names
        of_rows = [-1] * len(codes) if labels is None else labels["test"].tolist()
        contents = self.contents
        contents.charts["map"] = charts.plane(points, axes, classes, of_rows)
        contents.captions = [self._label(row) for row in range(len(codes))]
        if self.pictures:
            contents.thumbnails = sprite(pixels(self.model, self._rows()[0], THUMBNAIL))
        if classes is not None and len(classes) <= charts.MOST_CLASSES:
            colours = [PALETTE[k % len(PALETTE)] for k in range(len(classes))]
            contents.classes = list(zip(classes, colours, strict=True))
        elif classes is not None:
            contents.notes["map of codes"] = f"{len(classes)} classes are too many for a legend; a point says its own"

    def _traversals(self) -> None:
        model = self.model
        if not self.pictures:
            raise InputError("decoded codes are no images")
        x, given = self._rows()
        one_size(model, "a traversal")
        codes = [model.encode(part, **each) for part, each in self._parts()]
        features = torch.cat([model.pool(code) for code in codes])
        ways = model.ways(features)
        if model.geometry == "discrete" and not any(way.classes for way in ways):
            raise InputError("codes are of a finite number, and a step leads to none of them")
        moving, still = told_apart(model, ways)
        chosen = (moving or still[:1])[:WAYS]
        notes = []
        if still:
            notes.append(f"{len(still)} of {len(ways)} features hardly vary over the data, and are left out")
        if len(moving) > len(chosen):
            notes.append(f"the {len(chosen)} of the largest spread are shown")
        contents = self.contents
        contents.notes["traversals"] = "".join(f" {note[0].upper()}{note[1:]}." for note in notes)
        names = feature_names(model)
        first = x[:1].to(model.device)
        contents.base = data_uri(pixels(model, first, SIDE)[0])
        sliders = []
        for way in chosen:
            by = way.steps(STEPS, SPAN).to(features.device)
            same = {role: value[:1].to(model.device).expand(len(by), *value.shape[1:]) for role, value in given.items()}
            code = model.encode(first.expand(len(by), *first.shape[1:]), **same)
            images = pixels(model, model.decode(model.move(code, way.feature, by), **same), SIDE)
            if way.classes:
                what, said, start = f"{way.classes} classes", [f"class {k}" for k in by.tolist()], 0
            else:
                what, start = f"std {way.spread:.2f}", STEPS // 2
                said = [f"{value:+.2f}, {at:+.1f} std" for value, at in zip(by.tolist(), _places(), strict=True)]
                said[start] = "as it is"
            sliders.append(Slider(names[way.feature], what, sprite(images, len(images)), said, start))
        contents.sliders = sliders

    def _units(self) -> None:
        x, given = self._rows()
        few = {role: value[:BATCH].to(self.model.device) for role, value in given.items()}
        values, what = carried(self.model, x[:BATCH].to(self.model.device), few)
        order = values.argsort(descending=True)
        shown = order[: charts.UNITS].tolist()
        contents = self.contents
        contents.charts["units"] = charts.bars([(str(i), float(values[i])) for i in shown], what, THRESHOLD)
        contents.units = int((values > THRESHOLD).sum()), len(values)
        contents.notes["units of the code"] = what
        if len(values) > len(shown):
            contents.notes["units of the code"] += f"; the {len(shown)} of {len(values)} that carry most"

    # ---- rows ---------------------------------------------------------------------------------------------------

    def _rows(self) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.looked is not None
        return self.looked.samples.inputs["test"], self.looked.samples.given["test"]

    def _parts(self) -> Any:
        x, given = self._rows()
        device = self.model.device
        for start in range(0, len(x), BATCH):
            part = slice(start, start + BATCH)
            yield x[part].to(device), {role: value.to(device) for role, value in rows_of(given, part).items()}

    def _label(self, row: int) -> str:
        assert self.looked is not None
        labels = self.looked.samples.labels
        if labels is None or (label := int(labels["test"][row])) < 0:
            return ""
        names = None if self.data is None else self.data.class_names
        return names[label] if names and label < len(names) else str(label)

    def _value_names(self, count: int) -> list[str]:
        signature = self.model.signature
        names = [] if signature is None else signature.value_names(count)
        return names if len(names) == count else [f"value {i}" for i in range(count)]
