"""Callbacks that measure reconstructions and codes in validation and test."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.image import StructuralSimilarityIndexMeasure

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.errors import InputError
from lightning_ae.metrics import (
    ActiveUnits,
    PSNRPerImage,
    RSquared,
    Sparsity,
    SquaredErrorPerSample,
    knn_error,
    linear_probe_error,
)
from lightning_ae.parts.likelihoods import known
from lightning_ae.shapes import is_any, one_size


class Staged(pl.Callback):
    """Base of the callbacks that look at all batches of a validation, or of a test."""

    @abstractmethod
    def start(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Before the batches of "val" or "test"."""

    @abstractmethod
    def see(self, trainer: pl.Trainer, model: Any, batch: Any, batch_idx: int, stage: str) -> None:
        """A batch."""

    @abstractmethod
    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """After them."""

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self.start(trainer, pl_module, "val")

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self.start(trainer, pl_module, "test")

    def on_validation_batch_end(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.see(trainer, pl_module, batch, batch_idx, "val")

    def on_test_batch_end(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.see(trainer, pl_module, batch, batch_idx, "test")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: D102
        self.finish(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: D102
        self.finish(trainer, pl_module, "test")


class Accumulated(Staged):
    """Base of the callbacks that add up metrics over the batches."""

    _metrics: dict[str, Metric]

    @abstractmethod
    def metrics(self, model: Autoencoder) -> dict[str, Metric]:
        """New metrics, by name."""

    @abstractmethod
    def add(self, model: Autoencoder, metrics: dict[str, Metric], x: Tensor, target: Tensor, **given: Tensor) -> None:
        """Adds a batch, with what the model takes besides; `model.corrupt` draws what it draws in the step."""

    def start(self, trainer: pl.Trainer, model: Any, stage: str) -> None:  # noqa: D102
        model = as_autoencoder(self, model)
        self._metrics = {name: metric.to(model.device) for name, metric in self.metrics(model).items()}

    def see(  # noqa: D102
        self, trainer: pl.Trainer, model: Any, batch: Any, batch_idx: int, stage: str
    ) -> None:
        with torch.no_grad(), model.at_step(stage, batch_idx, batch):
            x, target, given = model.read(batch)
            self.add(model, self._metrics, x, target, **given)

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:  # noqa: D102
        values: dict[str, Tensor] = {}
        for name, metric in self._metrics.items():
            value = metric.compute()
            values |= value if isinstance(value, dict) else {name: value}
        model.log_dict({f"{stage}/{name}": value.to(model.device) for name, value in values.items()}, sync_dist=True)


class ReconstructionMetrics(Accumulated):
    """Logs, under val/ and test/, how well inputs are reconstructed and how many units of the code are in use.

    - `mse`: the squared error summed over the dimensions of a sample, in the model's units;
    - `psnr` (dB) and `ssim`, for images, both of images in [0, 1] and as the mean over images. PSNR counts an image as
      100 dB at most. SSIM takes the Gaussian window of Wang et al. 2004 (11 pixels wide), and for images of 10 pixels
      or fewer a uniform window of up to 7;
    - `active_units`: how many values of the code have a variance over the data of more than 0.01; of a map, tokens or
      a hierarchy each value at each position and level is a unit.

    A denoising model reconstructs from the corrupted input, and is compared with the clean one. Of a model that takes a
    mask `mse` is over what is known, and there is no `psnr` or `ssim`; of a model of images of any size, whose batches
    may have several, no `ssim` and no `active_units`.
    """

    def metrics(self, model: Autoencoder) -> dict[str, Metric]:
        """The metrics that the model's input has."""
        metrics: dict[str, Metric] = {"mse": SquaredErrorPerSample()}
        if not is_any(model.input_shape):
            metrics["active_units"] = ActiveUnits(_units(model))
        if len(model.input_shape) == 3 and "mask" not in model.given:
            metrics["psnr"] = PSNRPerImage()
            side = 0 if is_any(model.input_shape) else min(model.input_shape[1:])
            if side > 10:
                metrics["ssim"] = StructuralSimilarityIndexMeasure(data_range=1.0)
            elif side >= 3:
                window = min(7, side - 1 + side % 2)
                metrics["ssim"] = StructuralSimilarityIndexMeasure(
                    gaussian_kernel=False, kernel_size=window, data_range=1.0
                )
        return metrics

    def add(self, model: Autoencoder, metrics: dict[str, Metric], x: Tensor, target: Tensor, **given: Tensor) -> None:
        """Adds a batch."""
        reconstruction, target = model(model.corrupt(x), **given).float(), target.float()
        reconstruction = known(reconstruction, given.get("mask"))  # as the target is
        if "active_units" in metrics:
            metrics["active_units"].update(model.units(model.encode(x, **given)))
        metrics["mse"].update(reconstruction, target)
        if "psnr" in metrics:
            images = [to_unit_interval(model, part) for part in (reconstruction, target)]
            for name in metrics.keys() & {"psnr", "ssim"}:
                metrics[name].update(*images)


class SparsityMetrics(Accumulated):
    """Logs, under val/ and test/, how sparse the codes are and how much they explain.

    All values of a code are its units: of a map, tokens or a hierarchy each at each position and level.

    - `l0`: the mean number of units active in a sample;
    - `mean_activation`: over units and samples;
    - `dead_units`: units active in no sample;
    - `r_squared`: 1 minus the squared error as a share of the data's variance, so 1 minus the FVU; not of a model that
      takes a mask.

    Args:
        threshold: a unit is active where the size of its activation exceeds this; sigmoid units are never quite zero.
    """

    def __init__(self, threshold: float = 0.1) -> None:
        if not threshold >= 0:
            raise InputError(f"threshold of SparsityMetrics must not be negative, got {threshold}")
        self.threshold = threshold

    def metrics(self, model: Autoencoder) -> dict[str, Metric]:
        """Both metrics."""
        metrics: dict[str, Metric] = {"sparsity": Sparsity(_units(model), self.threshold)}
        if "mask" not in model.given:
            metrics["r_squared"] = RSquared(math.prod(one_size(model, "SparsityMetrics")))
        return metrics

    def add(self, model: Autoencoder, metrics: dict[str, Metric], x: Tensor, target: Tensor, **given: Tensor) -> None:
        """Adds a batch."""
        metrics["sparsity"].update(model.units(model.encode(x, **given)))
        if "r_squared" in metrics:
            metrics["r_squared"].update(model(x, **given), x)


class DenoisingMetrics(Accumulated):
    """Logs, under val/ and test/, what a denoising model is to be compared with, in dB as the mean over images.

    - `psnr_corrupted`: of the corrupted images as they are;
    - `psnr_median`: of the corrupted images after a 3x3 median filter.

    `psnr` of `ReconstructionMetrics` is the model's own, on the same corrupted images.
    """

    def metrics(self, model: Autoencoder) -> dict[str, Metric]:
        """Both metrics.

        Raises:
            InputError: when the model takes no images, or corrupts nothing.
        """
        if len(model.input_shape) != 3 or not model.corrupts:
            raise InputError(
                f"DenoisingMetrics compares denoised images, but {type(model).__name__} with input_shape "
                f"{model.input_shape} denoises none",
                "leave DenoisingMetrics out, or train a DenoisingAutoencoder on images",
            )
        return {name: PSNRPerImage() for name in ("psnr_corrupted", "psnr_median")}

    def add(self, model: Autoencoder, metrics: dict[str, Metric], x: Tensor, target: Tensor, **given: Tensor) -> None:
        """Adds a batch."""
        from scipy.ndimage import median_filter

        corrupted, clean = (to_unit_interval(model, part.float()) for part in (model.corrupt(x), target))
        filtered = torch.from_numpy(median_filter(corrupted.cpu().numpy(), size=(1, 1, 3, 3)))
        metrics["psnr_corrupted"].update(corrupted, clean)
        metrics["psnr_median"].update(filtered.to(clean.device), clean)


class LatentProbe(pl.Callback):
    """Logs, under val/ and test/, how well labels can be read off the codes.

    - `knn_error`: of the k-nearest-neighbour classifier;
    - `probe_error`: of logistic regression on standardised codes.

    Codes are taken as vectors, `model.pool`: a map or tokens by the mean over positions, a hierarchy's side by side.
    Both learn from codes of the training split. The first rank alone makes a pass over both splits. Of a model that is
    given the labels they say how much of them its codes hold besides.

    Args:
        k: the number of neighbours.
        max_train: how many training samples to learn from at most, drawn once.
        every_n_epochs: how often to probe in validation.
    """

    def __init__(self, k: int = 5, max_train: int = 10_000, every_n_epochs: int = 1) -> None:
        for name, value in {"k": k, "max_train": max_train, "every_n_epochs": every_n_epochs}.items():
            if value < 1:
                raise InputError(f"{name} of LatentProbe must be positive, got {value}")
        self.k, self.max_train, self.every_n_epochs = k, max_train, every_n_epochs

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses data that it cannot probe.

        Raises:
            InputError: when the data module has no `batches(split)`, or no labels.
        """
        as_autoencoder(self, pl_module)
        data: Any = getattr(trainer, "datamodule", None)
        if not hasattr(data, "batches"):
            raise InputError(
                f"LatentProbe needs a data module with batches(split) and label, got {type(data).__name__}",
                "use HFDataModule, or leave LatentProbe out",
            )
        if data.label is None:
            raise InputError("LatentProbe needs labels, but the data set has no label column", "leave LatentProbe out")
        if not getattr(data, "has_classes", True):
            raise InputError(
                f"LatentProbe needs classes, but the label {data.label!r} holds numbers",
                "leave LatentProbe out, or declare classes (Dataset.cast_column with ClassLabel)",
            )

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: D102
        if is_due(trainer, self.every_n_epochs):
            self._probe(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: D102
        self._probe(trainer, pl_module, "test")

    def _probe(self, trainer: pl.Trainer, model: Autoencoder, stage: str) -> None:
        errors = self._errors(trainer, model, stage) if takes_part(trainer, model) else {}
        # every rank logs what the first one found
        model.log_dict(trainer.strategy.broadcast(errors), sync_dist=True)

    def _errors(self, trainer: pl.Trainer, model: Autoencoder, stage: str) -> dict[str, float]:
        with undisturbed(model):
            train_codes, train_labels = _codes(model, trainer, "train")
            codes, labels = _codes(model, trainer, stage)
        kept = torch.randperm(len(train_codes), generator=torch.Generator().manual_seed(0))[: self.max_train]
        learned = train_codes[kept], train_labels[kept]
        return {
            f"{stage}/knn_error": knn_error(*learned, codes, labels, k=min(self.k, len(kept))),
            f"{stage}/probe_error": linear_probe_error(*learned, codes, labels),
        }


def as_autoencoder(callback: pl.Callback, module: pl.LightningModule) -> Autoencoder:
    """The module, which must be an Autoencoder.

    Raises:
        InputError: when it is not.
    """
    if not isinstance(module, Autoencoder):
        raise InputError(f"{type(callback).__name__} works on an Autoencoder, got {type(module).__name__}")
    return module


def takes_part(trainer: pl.Trainer, model: Autoencoder) -> bool:
    """Whether this rank runs the model for what the first one measures: a sharded model runs on all of them only."""
    return trainer.is_global_zero or model.device_mesh is not None


def to_unit_interval(model: Autoencoder, images: Tensor) -> Tensor:
    """Images in the model's units (B, C, H, W) as images in [0, 1]."""
    natural = images if model.preprocess is None else model.preprocess.inverse(images)
    return natural.clamp(0, 1)


def visible(images: Tensor) -> tuple[Tensor, str]:
    """What a picture can show of images (B, C, H, W), in grey or colour; and in words which channels, where not all."""
    channels = images.shape[1]
    if channels in (1, 3):
        return images, ""
    shown = 1 if channels == 2 else 3
    return images[:, :shown], f"channel{'s 1 to 3' if shown == 3 else ' 1'} of {channels}"


def is_due(trainer: pl.Trainer, every_n_epochs: int) -> bool:
    """Whether to measure in this validation: in every n-th epoch of `fit`, and in each bare `validate`."""
    if trainer.sanity_checking:
        return False
    return trainer.state.fn != "fit" or (trainer.current_epoch + 1) % every_n_epochs == 0


@contextmanager
def undisturbed(model: Autoencoder) -> Iterator[None]:
    """Inside, draws leave the run's random state as it is, and no gradients are kept."""
    # its own device alone: forking another GPU's generator would take memory there
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        yield


def read_input(model: Autoencoder, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """The input of a batch, and what the model takes besides, where the model is."""
    x, _, given = model.read(batch)
    return x.to(model.device), {role: value.to(model.device) for role, value in given.items()}


def _units(model: Autoencoder) -> int:
    """How many values a code has."""
    return model.units(model.zeros(1)).shape[1]


def _codes(model: Autoencoder, trainer: pl.Trainer, split: str) -> tuple[Tensor, Tensor]:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    codes, labels = [], []
    for batch in data.batches(split, 1024):
        x, given = read_input(model, batch)
        codes.append(model.pool(model.encode(x, **given)).float().cpu())
        labels.append(batch[data.label])
    of_all = torch.cat(labels)
    labelled = of_all >= 0  # -1 marks rows without a class
    return torch.cat(codes)[labelled], of_all[labelled]
