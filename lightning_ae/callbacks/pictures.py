"""Callbacks that draw what a model does, as PNG files in the run's folder and in the loggers that take pictures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.batches import rows_of
from lightning_ae.callbacks.measures import (
    as_autoencoder,
    is_due,
    read_input,
    takes_part,
    to_unit_interval,
    undisturbed,
    visible,
)
from lightning_ae.callbacks.projections import Method, check_method, projection_figure
from lightning_ae.errors import InputError
from lightning_ae.files import whole_file
from lightning_ae.models.contractive import jacobian_spectrum
from lightning_ae.parts.moves import Way
from lightning_ae.shapes import one_size
from lightning_ae.training.units import THRESHOLD

if TYPE_CHECKING:
    from lightning_ae.figures import Figure


class Picture(pl.Callback):
    """Base of the callbacks that draw: after validation every few epochs, and after test, on the first rank.

    The samples are rows of the evaluation data, the same ones every time: of a data module that can draw them
    (`some_rows`) drawn by a fixed seed, in turn from each class; of streams and DataLoaders the first ones.

    The picture is written to `pictures/<name>.png` in the run's folder, where the newest replaces the one before (of a
    bare validation or a test to `pictures/<name>_validate.png` or `_test.png`). TensorBoard and Weights & Biases, where
    they are among the loggers, keep all.

    Args:
        samples: how many samples of the evaluation data the picture needs.
        every_n_epochs: how often to draw.
    """

    name: str
    needs_images = True

    def __init__(self, samples: int, every_n_epochs: int) -> None:
        for argument, value in {"every_n_epochs": every_n_epochs, "the number of samples": samples}.items():
            if value < 1:
                raise InputError(f"{argument} of {type(self).__name__} must be positive, got {value}")
        self.samples = samples
        self.every_n_epochs = every_n_epochs
        self._inputs: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._given: list[dict[str, Tensor]] = []
        self.given: dict[str, Tensor] = {}
        """What else the model takes of the samples that `draw` gets, by role."""
        self.figure: Figure | None = None
        """The last that was drawn, on the first rank."""
        self.measured: dict[str, float] = {}
        """What `draw` measured on the first rank, to be logged on all."""

    @abstractmethod
    def draw(self, trainer: pl.Trainer, model: Autoencoder, x: Tensor, labels: Tensor | None, title: str) -> Figure:
        """The figure, from up to `samples` inputs (B, *input_shape) and their labels (B,), where there are any."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses models whose data make no picture.

        Raises:
            InputError: when the picture needs images and the model takes something else.
        """
        model = as_autoencoder(self, pl_module)
        if self.needs_images and len(model.input_shape) != 3:
            raise InputError(
                f"{type(self).__name__} draws images, but the model's input_shape is {model.input_shape}",
                f"leave {type(self).__name__} out",
            )

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: D102
        self._inputs, self._labels, self._given = [], [], []

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: D102
        self._inputs, self._labels, self._given = [], [], []

    def on_validation_batch_end(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if is_due(trainer, self.every_n_epochs):
            self._collect(trainer, pl_module, batch)

    def on_test_batch_end(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._collect(trainer, pl_module, batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: D102
        self._publish(trainer, pl_module, "" if trainer.state.fn == "fit" else "validate")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: D102
        self._publish(trainer, pl_module, "test")

    def _collect(self, trainer: pl.Trainer, model: Autoencoder, batch: Any) -> None:
        missing = self.samples - sum(len(x) for x in self._inputs)
        if takes_part(trainer, model) and missing > 0 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            data: Any = getattr(trainer, "datamodule", None)
            if hasattr(data, "some_rows") and not data.streaming:
                if missing < self.samples:
                    return  # fewer rows than samples: all were taken
                batch = data.some_rows("test" if trainer.testing else "val", self.samples)
            x, given = read_input(model, batch)
            self._inputs.append(x[:missing])
            self._given.append(rows_of(given, slice(missing)))
            labels = labels_of(trainer, batch)
            if labels is not None:
                self._labels.append(labels[:missing])

    def _publish(self, trainer: pl.Trainer, model: Autoencoder, stage: str) -> None:
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # asks all ranks, so before any of them returns
        if self._inputs:
            self._draw(trainer, model, folder, stage)
        model.log_dict(trainer.strategy.broadcast(self.measured), sync_dist=True)
        self._inputs, self._labels, self._given, self.measured = [], [], [], {}

    def _draw(self, trainer: pl.Trainer, model: Autoencoder, folder: Path, stage: str) -> None:
        labels = torch.cat(self._labels) if self._labels else None
        self.given = {role: torch.cat([given[role] for given in self._given]) for role in self._given[0]}
        with undisturbed(model):
            when = stage or f"epoch {trainer.current_epoch + 1}"
            figure = self.draw(trainer, model, torch.cat(self._inputs), labels, f"{self.name}, {when}")
        if trainer.is_global_zero:
            self.figure = figure
        show(trainer, figure, self.name, folder, stage)


class ReconstructionGrid(Picture):
    """Draws inputs, what a denoising model sees of them, and their reconstructions.

    Args:
        n: how many images.
        every_n_epochs: how often to draw.
    """

    name = "reconstructions"

    def __init__(self, n: int = 12, every_n_epochs: int = 1) -> None:
        super().__init__(n, every_n_epochs)

    def draw(self, trainer: pl.Trainer, model: Autoencoder, x: Tensor, labels: Tensor | None, title: str) -> Figure:
        """Rows of images: inputs, corrupted inputs where they differ, reconstructions; classes and errors above."""
        data: Any = getattr(trainer, "datamodule", None)
        known = labels is not None and getattr(data, "has_classes", False)
        names = named(labels.tolist(), data.class_names) if known and labels is not None else []
        return reconstruction_figure(model, x, title, names, **self.given)


class SampleGrid(Picture):
    """Draws samples of a generative model, of the same random draws every time, so that progress can be seen.

    Of a model that takes a label there is a row for each class, of the same draws.

    Args:
        n: how many samples, at least one of each class.
        every_n_epochs: how often to draw.
    """

    name = "samples"

    def __init__(self, n: int = 64, every_n_epochs: int = 1) -> None:
        super().__init__(1, every_n_epochs)
        if n < 1:
            raise InputError(f"n of SampleGrid must be positive, got {n}")
        self.n = n

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses models that cannot sample images.

        Raises:
            InputError: naming the model.
        """
        super().setup(trainer, pl_module, stage)
        model = as_autoencoder(self, pl_module)
        one_size(model, "SampleGrid")
        # a fit takes a sampler away, whose codes it moves
        if not (type(model) if stage == "fit" else model).generates:
            raise InputError(f"{type(pl_module).__name__} cannot sample", "leave SampleGrid out, or train a VAE")

    def draw(self, trainer: pl.Trainer, model: Autoencoder, x: Tensor, labels: Tensor | None, title: str) -> Figure:
        """A square of samples."""
        return sample_figure(model, self.n, seed=0, title=title)


class LatentProjection(Picture):
    """Draws codes in the plane, two-dimensional ones as they are, coloured by label; the axes say how.

    Codes are taken as vectors, `model.pool`: a map or tokens by the mean over positions, a hierarchy's side by side.

    Args:
        samples: how many codes at most.
        beside_pca: draw the first two principal components of the inputs themselves beside them, and above either the
            error of a 5-nearest-neighbour classifier among the points shown (each classified by the others).
        every_n_epochs: how often to draw.
        method: "pca", on the first two principal components; "tsne"; or "umap", which the extra "umap" brings.
        thumbnails: how many images to show at their points, of a model of images.
    """

    name = "projection"
    needs_images = False

    def __init__(
        self,
        samples: int = 2000,
        beside_pca: bool = False,
        every_n_epochs: int = 1,
        method: Method = "pca",
        thumbnails: int = 0,
    ) -> None:
        super().__init__(samples, every_n_epochs)
        check_method(method)
        if thumbnails < 0:
            raise InputError(f"thumbnails of LatentProjection must not be negative, got {thumbnails}")
        self.beside_pca, self.method, self.thumbnails = beside_pca, method, thumbnails
        self.needs_images = thumbnails > 0

    def draw(self, trainer: pl.Trainer, model: Autoencoder, x: Tensor, labels: Tensor | None, title: str) -> Figure:
        """A scatter plot, or two."""
        codes = torch.cat([model.pool(part).float() for part in encoded(model, x, self.given)]).cpu()
        data: Any = getattr(trainer, "datamodule", None)
        names = getattr(data, "class_names", None)
        if labels is not None and not getattr(data, "has_classes", True):
            labels = labels.float()
        panels = {"codes": codes} | ({"inputs": x.flatten(1).float().cpu()} if self.beside_pca else {})
        images = visible(to_unit_interval(model, x.float()).cpu())[0] if self.thumbnails else None
        return projection_figure(panels, labels, names, title, self.method, images, self.thumbnails)


class LatentTraversal(Picture):
    """Draws what each dimension of the code does: it moves one at a time about the code of an image, and decodes.

    The dimensions are the features that `model.pool` makes of a code: of a map or tokens a dimension is a channel,
    which moves at all positions together; of a hierarchy each level has its own, "z1.0" the first of the first level.
    What a model makes of such a step, it says in `move`: codes on a sphere turn, those in a ball stay in it, and a
    categorical variable, which comes first, goes through all of its classes.

    Args:
        steps: how many values each dimension takes.
        span: how far to go to either side, in standard deviations of that feature over the data.
        dims: how many dimensions, those of the largest variance first.
        samples: how many codes the standard deviations are taken from.
        every_n_epochs: how often to draw.
    """

    name = "traversal"

    def __init__(
        self, steps: int = 9, span: float = 3.0, dims: int = 8, samples: int = 1000, every_n_epochs: int = 1
    ) -> None:
        super().__init__(samples, every_n_epochs)
        if steps < 2 or dims < 1 or not span > 0:
            raise InputError(f"LatentTraversal takes steps > 1, dims > 0, span > 0; got {steps}, {dims}, {span}")
        self.steps, self.span, self.dims = steps, span, dims

    def draw(self, trainer: pl.Trainer, model: Autoencoder, x: Tensor, labels: Tensor | None, title: str) -> Figure:
        """A row of images for each dimension."""
        return traversal_figure(model, x, self.steps, self.span, self.dims, title, **self.given)


class JacobianSpectrum(Picture):
    """Draws the singular values of the encoder's Jacobian, averaged over samples (Rifai et al. 2011, section 5.3).

    A contractive encoder reacts to few directions: the values fall off fast. It also logs the mean Frobenius norm of
    the Jacobian, val/jacobian_norm or test/jacobian_norm. Both are of samples of the first rank only.

    Args:
        samples: how many samples to average over.
        every_n_epochs: how often to draw.
    """

    name = "jacobian"
    needs_images = False

    def __init__(self, samples: int = 128, every_n_epochs: int = 1) -> None:
        super().__init__(samples, every_n_epochs)

    def draw(self, trainer: pl.Trainer, model: Autoencoder, x: Tensor, labels: Tensor | None, title: str) -> Figure:
        """A line that falls."""
        figure, norm = jacobian_figure(model, x, title, **self.given)
        self.measured = {f"{'test' if trainer.testing else 'val'}/jacobian_norm": norm}
        return figure


def show(trainer: pl.Trainer, figure: Figure, name: str, folder: Path, stage: str) -> None:
    """Writes a figure to `pictures/<name>.png` in a folder, or `<name>_<stage>.png`, and to the loggers that take
    pictures, on the first rank."""
    if not trainer.is_global_zero:
        return
    file = folder / "pictures" / f"{'_'.join([*name.split(), *([stage] if stage else [])])}.png"
    with whole_file(file) as part:
        figure.savefig(part)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(
                f"pictures/{name}", figure_pixels(figure), trainer.global_step, dataformats="HWC"
            )
        elif isinstance(logger, WandbLogger):
            logger.log_image(f"pictures/{name}", [str(file)], step=trainer.global_step)


def encoded(model: Autoencoder, x: Tensor, given: Mapping[str, Tensor]) -> list[Tensor]:
    """The codes of inputs (B, *input_shape), a part of the batch at a time."""
    parts = [slice(start, start + 256) for start in range(0, len(x), 256)]
    return [model.encode(x[part], **rows_of(given, part)) for part in parts]


def traversals(
    model: Autoencoder, x: Tensor, steps: int, span: float, dims: int, **given: Tensor
) -> tuple[list[Tensor], list[str]]:
    """Rows of images of the first input's code, one for each way in which it can go, and their names.

    Args:
        model: which says what the ways are, `ways` and `move`.
        x: inputs (B, *input_shape), whose codes say how far the ways go.
        steps: how many images a way has; where it goes from class to class, it has one of each.
        span: how far to go to either side, in standard deviations.
        dims: how many ways, those from class to class and those of the largest spread first.
        given: what else the model takes of the inputs.
    """
    features = torch.cat([model.pool(part) for part in encoded(model, x, given)])
    moving, still = told_apart(model, model.ways(features))
    ways = [*moving, *still[:1]][:dims]
    names, rows, texts = feature_names(model), [], []
    for way in ways:
        by = way.steps(steps, span).to(features.device)
        same = {role: value[:1].expand(len(by), *value.shape[1:]) for role, value in given.items()}
        code = model.encode(x[:1].expand(len(by), *x.shape[1:]), **same)
        rows.append(model.decode(model.move(code, way.feature, by), **same))
        what = f"{way.classes} classes" if way.classes else f"std {way.spread:.2f}"
        if way in still:
            what = f"collapsed,\nas {len(still) - 1} more" if len(still) > 1 else "collapsed"
        texts.append(f"{names[way.feature]}  ({what})")
    return rows, texts


def traversal_figure(
    model: Autoencoder, x: Tensor, steps: int = 9, span: float = 3.0, dims: int = 8, title: str = "", **given: Tensor
) -> Figure:
    """A row of images for each way in which the code of the first input can go: see `traversals` and
    `LatentTraversal`.

    Args:
        model: of images, a trained one.
        x: inputs (B, *input_shape), in the model's units, whose codes say how far the ways go.
        steps: how many images a way has.
        span: how far to go to either side, in standard deviations.
        dims: how many ways.
        title: above all.
        given: what else the model takes of the inputs.
    """
    with undisturbed(model):
        rows, texts = traversals(model, x, steps, span, dims, **given)
    # ways from class to class come first, and have columns of their own
    values = [f"{value:+.3g}" if value else "0" for value in torch.linspace(-span, span, steps).tolist()]
    columns = [f"{value} std" if i == 0 else value for i, value in enumerate(values)]
    return image_figure(model, rows, texts, title, columns if "classes)" not in texts[-1] else [])


def jacobian_figure(model: Autoencoder, x: Tensor, title: str = "", **given: Tensor) -> tuple[Figure, float]:
    """The singular values of the encoder's Jacobian, the mean over inputs (B, *input_shape); and its mean norm."""
    from lightning_ae.figures import Figure

    values = jacobian_spectrum(model, x, **given).cpu()
    norm = values.square().sum(dim=1).sqrt().mean()
    figure = Figure((6.4, 4.0), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    mean = values.mean(dim=0).numpy()
    axes.plot(range(1, len(mean) + 1), mean, linewidth=1.5)
    axes.set_xlabel("singular value", fontsize=9)
    axes.set_ylabel(f"mean over {len(values)} samples", fontsize=9)
    axes.set_yscale("log")
    axes.set_ylim(bottom=max(mean.min() / 2, mean.max() * 1e-5, 1e-12))
    axes.tick_params(which="both", labelsize=8)
    axes.set_title(": ".join(filter(None, (title, f"mean norm of the Jacobian {norm:.3g}"))), fontsize=10)
    return figure, float(norm)


def told_apart(model: Autoencoder, ways: Sequence[Way]) -> tuple[list[Way], list[Way]]:
    """The ways that data go, those from class to class and those of the largest spread first; and collapsed ones.

    A unit of a variational model has collapsed where the variance of its mean is below 0.01 (Burda et al. 2016, section
    5.2), whose posterior is near the prior; of other models, whose units have any scale, where it spreads less than a
    hundredth of the widest.
    """
    ways = sorted(ways, key=lambda way: (not way.classes, -way.spread))
    least = THRESHOLD**0.5 if "sample" in model.latents else 0.01 * max(way.spread for way in ways)
    still = [way for way in ways if not way.classes and way.spread <= least]
    return [way for way in ways if way not in still], still


def reconstruction_figure(
    model: Autoencoder, x: Tensor, title: str = "", columns: Sequence[str] = (), **given: Tensor
) -> Figure:
    """Inputs (B, C, H, W), corrupted inputs where they differ, and reconstructions, a row each.

    Above each is its squared error, in the model's units and summed, and before that what `columns` call it.
    """
    with torch.no_grad(), model.at_step("val", 0):  # the same corruption every time
        seen = model.corrupt(x)
        rows = [x, seen, model(seen, **given)] if not torch.equal(seen, x) else [x, model(x, **given)]
    names = ["input", "corrupted", "reconstruction"] if len(rows) == 3 else ["input", "reconstruction"]
    errors = (rows[-1] - x).double().square().flatten(1).sum(dim=1).tolist()
    said = [f"{error:.3g}" for error in errors]
    if columns:
        said = [f"{_shortened(name)}\n{error}" for name, error in zip(columns, said, strict=True)]
    return image_figure(model, rows, names, title, said, "squared error")


def sample_figure(
    model: Autoencoder, n: int, seed: int, title: str = "", label: int | None = None, temperature: float = 1.0
) -> Figure:
    """`n` samples in rows of equal length; of a model that takes a label and is given none, a row for each class."""
    rows, names = drawn(model, n, seed, label, temperature)
    return image_figure(model, rows, names, title)


def drawn(
    model: Autoencoder, n: int, seed: int, label: int | None = None, temperature: float = 1.0
) -> tuple[list[Tensor], list[str]]:
    """`n` samples (n, *input_shape) in rows, and the rows' names where each is of a class, of which all have one.

    Raises:
        InputError: when the model takes a label and knows no classes, takes none, or takes something else.
    """
    if lacking := [role for role in (*model.given, *model.implied) if role not in ("label", "mask")]:
        raise InputError(f"samples of {type(model).__name__} need {', '.join(lacking)}", "call sample() yourself")
    takes_label = "label" in model.given
    if takes_label and label is None and not model.classes:
        raise InputError(f"{type(model).__name__} takes a label, and does not say which there are", "give label")
    classes = model.classes if takes_label and label is None else ()
    # a label is refused by a model that takes none
    each = max(1, n // len(classes)) if classes else n
    given: list[dict[str, Any]] = [{"label": torch.full((each,), c, device=model.device)} for c in classes]
    found = []
    tempered: dict[str, Any] = {} if temperature == 1 else {"temperature": temperature}
    with undisturbed(model):
        for options in given or [{} if label is None else {"label": torch.full((n,), label, device=model.device)}]:
            torch.manual_seed(seed)
            found.append(model.sample(each, **tempered, **options))
    if classes:
        return found, [f"class {c}" for c in classes]
    return list(found[0].split(max(1, round(n**0.5)))), []


def image_figure(
    model: Autoencoder, rows: list[Tensor], names: list[str], title: str = "", columns: Sequence[str] = (), of: str = ""
) -> Figure:
    """Rows of images in the model's units, (B, C, H, W) each, as `unit_figure` shows them."""
    return unit_figure([to_unit_interval(model, row.float()).cpu() for row in rows], names, title, columns, of)


def unit_figure(
    rows: list[Tensor], names: list[str], title: str = "", columns: Sequence[str] = (), of: str = ""
) -> Figure:
    """Rows of images in [0, 1], (B, C, H, W) each.

    Of other than one or three channels the title says which are shown.

    Args:
        rows: of images.
        names: what stands beside each row; for none, nothing.
        title: above all.
        columns: what stands above each column, a line or several; for none, nothing.
        of: what stands beside that.
    """
    from lightning_ae.figures import Figure

    title = ": ".join(part for part in (title, visible(rows[0])[1]) if part)
    rows = [visible(row)[0] for row in rows]
    count, (height, width) = max(len(row) for row in rows), rows[0].shape[2:]
    cell, lines = 0.75, max((text.count("\n") + 1 for text in columns), default=0)
    left, head = (1.5 if names else 0.1), (0.3 if title else 0) + 0.13 * lines + 0.1
    size = left + count * cell + 0.1, head + len(rows) * cell * height / width + 0.1
    figure = Figure(size, dpi=150)
    grid = figure.add_gridspec(
        len(rows), count, left=left / size[0], right=1 - 0.1 / size[0], top=1 - head / size[1],
        bottom=0.1 / size[1], wspace=0.06, hspace=0.06,
    )  # fmt: skip
    above: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 6.5, "linespacing": 1.1}
    beside: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": 8}
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            axes = figure.add_subplot(grid[r, c])
            grey = len(image) != 3
            pixels = image[0] if grey else image.permute(1, 2, 0)
            axes.imshow(pixels.numpy(), cmap="gray" if grey else None, vmin=0, vmax=1)
            axes.set_axis_off()
            if c == 0 and names:
                axes.text(-0.15, 0.5, names[r], transform=axes.transAxes, **beside)
            if r == 0 and columns:
                axes.text(0.5, 1.04, columns[c], transform=axes.transAxes, **above)
                if c == 0 and of and names:
                    axes.text(-0.15, 1.04, of, transform=axes.transAxes, **above | {"ha": "right"})
    if title:
        figure.suptitle(title, fontsize=10, y=1 - 0.18 / size[1], va="center")
    return figure


def named(labels: Sequence[int], class_names: Sequence[str] | None) -> list[str]:
    """Classes by their names, where they have some; -1, which is none, as a dash."""
    names = class_names or ()
    return [names[k] if 0 <= k < len(names) else "-" if k < 0 else str(k) for k in labels]


def _shortened(name: str, most: int = 12) -> str:
    return name if len(name) <= most else f"{name[: most - 3]}..."


def feature_names(model: Autoencoder) -> list[str]:
    """A name for each feature that `pool` gives: z0, z1 and so on; of a hierarchy z1.0, with the level first."""
    shapes = model.code_shape_of(tuple(model.new_inputs(1).shape[1:]))
    if not isinstance(shapes[0], tuple):
        return [f"z{i}" for i in range(shapes[0])]
    return [f"z{level}.{i}" for level, shape in enumerate(shapes, start=1) for i in range(shape[0])]


def labels_of(trainer: pl.Trainer, batch: Any) -> Tensor | None:
    """A batch's labels: a dict's label column, or what comes second in a tuple."""
    if isinstance(batch, Mapping):
        column = getattr(getattr(trainer, "datamodule", None), "label", None) or "label"
        return batch.get(column)
    if isinstance(batch, tuple | list) and len(batch) > 1 and isinstance(batch[1], Tensor) and batch[1].ndim == 1:
        return batch[1]
    return None


def figure_pixels(figure: Figure) -> Any:
    """A figure as an image, uint8 (height, width, 3)."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
