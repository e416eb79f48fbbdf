"""What an explorer shows of a model and some rows of its data, whatever page shows it."""

from __future__ import annotations

import io
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.batches import rows_of
from lightning_ae.callbacks.pictures import feature_names
from lightning_ae.errors import InputError
from lightning_ae.evaluation import Samples
from lightning_ae.metrics.neighbours import nearest
from lightning_ae.parts.moves import Way
from lightning_ae.report.images import data_uri, pixels
from lightning_ae.scores import asked
from lightning_ae.shapes import one_size

if TYPE_CHECKING:
    from lightning_ae.data import HFDataModule

SIDE = 256
"""The longest side of a picture, in pixels."""
WAYS = 12
"""How many features have a slider, those of the largest spread."""
BATCH = 250


class Explorer:
    """Rows of a split, their codes, and what the decoder makes of codes nearby.

    Args:
        model: a trained one of images, which the data feed.
        data: its data module.
        split: train, val or test.
        rows: how many rows at most, drawn by seed.
        seed: of the draw.

    Raises:
        InputError: of a model of something else than images of one size, or without a decoder.
    """

    def __init__(
        self, model: Autoencoder, data: HFDataModule, split: str = "test", rows: int = 1000, seed: int = 0
    ) -> None:
        if len(model.input_shape) != 3:
            raise InputError(
                f"the explorer shows images, and the model takes inputs of shape {model.input_shape}",
                "`lightning-ae report` has a page for any model",
            )
        one_size(model, "the explorer")
        self.model, self.data = model.eval(), data
        self.ways: list[Way] = []
        samples = Samples.read(model, data, (split,), rows, seed)
        self.x, self.given = samples.inputs[split], samples.given[split]
        self.labels = None if samples.labels is None else samples.labels[split].tolist()
        with asked(model):
            self.codes = [model.encode(part, **given) for part, given in self._parts()]
            self.features = torch.cat([model.pool(code).float().cpu() for code in self.codes])
            try:
                self.reconstruction(0)
            except NotImplementedError as error:
                raise InputError(
                    f"{type(model).__name__} has no decoder, and an explorer shows what it answers",
                    "`lightning-ae report` has a page for any model",
                ) from error
        ways = model.ways(torch.cat([model.pool(code) for code in self.codes]))
        discrete = model.geometry == "discrete"
        ways = [way for way in ways if way.classes or (way.spread > 0 and not discrete)]
        self.ways = sorted(ways, key=lambda way: (not way.classes, -way.spread))[:WAYS]
        self.names = [feature_names(model)[way.feature] for way in self.ways]

    # ---- pictures -----------------------------------------------------------------------------------------------

    def image(self, row: int) -> str:
        """A row's input, as a data URI."""
        return self.shown(self.x[row : row + 1])

    def reconstruction(self, row: int) -> str:
        """What the decoder makes of a row's code."""
        return self.moved(row, ())

    def moved(self, row: int, steps: Any, x: Tensor | None = None) -> str:
        """The same of the code that is so many spreads away along each of `ways`; from class to class, whole steps.

        Args:
            row: where it begins.
            steps: a number for each way; those that are 0 leave it alone.
            x: an input in the model's units (1, *input_shape), which takes the row's place.
        """
        model, (own, given) = self.model, self._row(row)
        with asked(model):
            code = model.encode(own if x is None else x.to(model.device), **given)
            for way, step in zip(self.ways, steps, strict=False):
                if step:
                    by = torch.tensor([float(step) * (1 if way.classes else way.spread)], device=model.device)
                    code = model.move(code, way.feature, by.long() if way.classes else by)
            return self.shown(model.decode(code, **given))

    def between(self, a: int, b: int, t: float) -> str:
        """What the decoder makes of the code at t in [0, 1] on the way from a row's to another's.

        Raises:
            InputError: where nothing lies between codes.
        """
        model, (first, given), (last, of_last) = self.model, self._row(a), self._row(b)
        with asked(model):
            place = torch.tensor([t], device=model.device)
            code = model.between(model.encode(first, **given), model.encode(last, **of_last), place)
            return self.shown(model.decode(code, **given))

    # ---- rows ---------------------------------------------------------------------------------------------------

    def neighbours(self, row: int, k: int = 8) -> list[int]:
        """The rows whose codes are nearest to a row's, the nearest first."""
        others = torch.cat([self.features[:row], self.features[row + 1 :]])
        found = nearest(self.features[row : row + 1], others, min(k, len(others)))[1][0]
        return [int(i) + (int(i) >= row) for i in found]

    @cached_property
    def scores(self) -> Tensor:
        """How strange each row is, in nats, (N,).

        Raises:
            InputError: of a model without a likelihood.
        """
        found, first = [], 0
        for part, given in self._parts():
            found.append(self.model.score_batch(part, part, seed=0, first=first, **given).score.double().cpu())
            first += len(part)
        return torch.cat(found)

    def strangest(self, k: int = 16, least: bool = False) -> list[int]:
        """The rows of the highest score, or of the lowest."""
        return [int(i) for i in self.scores.argsort(descending=not least)[:k]]

    def label(self, row: int) -> str:
        """The name of a row's class, or ""."""
        if self.labels is None or (label := self.labels[row]) < 0:
            return ""
        names = self.data.class_names
        return names[label] if names and label < len(names) else str(label)

    def read(self, content: bytes) -> Tensor:
        """An image file as the model's input, (1, *input_shape).

        Raises:
            InputError: for what is no image, or is not what the model was trained on.
        """
        try:
            image = Image.open(io.BytesIO(content))
            image.load()
        except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"the file is no image that can be read: {error}", "give a PNG or a JPEG") from error
        if self.model.given:
            raise InputError(
                f"{type(self.model).__name__} takes {', '.join(self.model.given)} besides, which a file does not say",
                "choose a row of the data",
            )
        return self.model.read_natural([image], {})[0]

    def _row(self, row: int) -> tuple[Tensor, dict[str, Tensor]]:
        device, part = self.model.device, slice(row, row + 1)
        return self.x[part].to(device), {role: each.to(device) for role, each in rows_of(self.given, part).items()}

    def _parts(self) -> Any:
        device = self.model.device
        for start in range(0, len(self.x), BATCH):
            part = slice(start, start + BATCH)
            yield self.x[part].to(device), {role: v.to(device) for role, v in rows_of(self.given, part).items()}

    def shown(self, images: Tensor) -> str:
        """An image in the model's units, (1, C, H, W), as a data URI."""
        return data_uri(pixels(self.model, images, SIDE)[0])


def label_of(way: Way, name: str) -> str:
    """What a slider is called."""
    return f"{name} ({way.classes} classes)" if way.classes else f"{name} (std {way.spread:.2f})"
