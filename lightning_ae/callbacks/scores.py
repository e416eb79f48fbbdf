"""How strange the rows of validation and test are, in the run's loggers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_ae.callbacks.measures import Staged, as_autoencoder, is_due, to_unit_interval
from lightning_ae.callbacks.pictures import labels_of, show, unit_figure
from lightning_ae.errors import InputError
from lightning_ae.exact import gather_rows
from lightning_ae.metrics.anomalies import anomalous_classes, separation, strangeness
from lightning_ae.thresholds import check_quantile

if TYPE_CHECKING:
    from lightning_ae.figures import Figure


class ScoreMetrics(Staged):
    """Logs, under val/ and test/, how strange the rows are to the model: its scores by one draw of a fixed seed.

    - `score_median` and `score_quantile`, in nats: of the validation split the latter is the threshold that
      `model.fit_threshold` finds;
    - `score_exceeds`: the share of rows above the model's threshold, where it has one;
    - `score_auroc` and `score_average_precision`: how well scores find the anomalies, where labels tell them. Rows
      without a class do not count.

    Of images it draws the strangest and the plainest, and below each how much its pixels have in its score, as
    `pictures/strangest.png`; see `Picture` for where. All of it is of the rows of all ranks. A row whose score is no
    finite number makes what it enters NaN.

    It costs a second pass of the model over the rows, so it stands in no recipe: `--trainer.callbacks+=ScoreMetrics`.

    Args:
        anomaly: the classes of the label that are to be found, by name or number; by default of two the second. Of a
            DataLoader, whose classes have no names, their numbers, and by default none.
        quantile: in (0, 1).
        n: how many images of each kind in the picture; 0 for none.
        every_n_epochs: how often in validation.
    """

    def __init__(
        self,
        anomaly: Sequence[str | int] | None = None,
        quantile: float = 0.99,
        n: int = 10,
        every_n_epochs: int = 1,
    ) -> None:
        check_quantile(quantile)
        if n < 0 or every_n_epochs < 1:
            raise InputError(f"ScoreMetrics takes n >= 0 and every_n_epochs > 0, got {n} and {every_n_epochs}")
        self.anomaly, self.quantile, self.n, self.every_n_epochs = anomaly, quantile, n, every_n_epochs
        self._wanted: list[int] = []
        self._said: set[str] = set()
        self._scores: list[Tensor] = []
        self._strange: list[Tensor] = []
        self._ends: list[tuple[Tensor, ...]] = []
        self.figure: Figure | None = None
        """The last that was drawn, of images, on the first rank."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Settles which classes are to be found, and says it once.

        Raises:
            InputError: of a model without a likelihood; for classes that the label does not have.
        """
        as_autoencoder(self, pl_module).check_scores()
        data: Any = getattr(trainer, "datamodule", None)
        found: list[int] | str = "a DataLoader's classes have no names: give their numbers as anomaly"
        if hasattr(data, "class_names") and not (data.class_names is None and data.has_classes and self.anomaly):
            found = anomalous_classes(data, self.anomaly)
        elif self.anomaly is not None:  # of a DataLoader, or of a stream that names no classes
            if wrong := [each for each in self.anomaly if isinstance(each, bool) or not isinstance(each, int)]:
                raise InputError(f"anomaly {wrong[0]!r} is no number of a class, and the data name none")
            found = [int(each) for each in self.anomaly]
        self._wanted = [] if isinstance(found, str) else found
        names = getattr(data, "class_names", None)
        named = found if isinstance(found, str) or names is None else ", ".join(repr(names[i]) for i in found)
        self._say("ScoreMetrics " + (f"logs no AUROC: {named}" if isinstance(found, str) else f"is to find {named}"))

    def start(self, trainer: pl.Trainer, model: Any, stage: str) -> None:  # noqa: D102
        self._scores, self._strange, self._ends = [], [], []

    def see(self, trainer: pl.Trainer, model: Any, batch: Any, batch_idx: int, stage: str) -> None:  # noqa: D102
        if stage == "val" and not is_due(trainer, self.every_n_epochs):
            return
        pictured = len(model.input_shape) == 3 and self.n > 0 and not trainer.fast_dev_run  # type: ignore[attr-defined]
        x, target, given = model.read(batch)
        found = model.score_batch(x, target, pictured, **given)
        self._scores.append(found.score)
        labels = labels_of(trainer, batch) if self._wanted else None
        if labels is not None:
            self._strange.append(strangeness(labels, self._wanted))
        if pictured:
            assert found.shares is not None
            image = to_unit_interval(model, target.float())
            self._ends = self._kept((found.score, image, found.shares.sum(dim=1, keepdim=True)))

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:  # noqa: D102
        if stage == "val" and not is_due(trainer, self.every_n_epochs):
            return
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # asks all ranks
        scores = gather_rows(torch.cat(self._scores)).double().cpu()
        low, high = np.quantile(scores.numpy(), [0.5, self.quantile])
        values = {"score_median": float(low), "score_quantile": float(high)}
        if model.threshold is not None and model.threshold.draws == 1:
            above = (scores > model.threshold.value).double().where(~scores.isnan(), torch.nan)
            values["score_exceeds"] = float(above.mean())
        if self._strange:
            strange = gather_rows(torch.cat(self._strange)).cpu()
            if (parted := separation(strange, scores)) is None:
                self._say(f"ScoreMetrics logs no {stage}/score_auroc: all labelled rows are of one kind", warn=True)
            else:
                values["score_auroc"], values["score_average_precision"] = parted
        model.log_dict({f"{stage}/{name}": value for name, value in values.items()}, sync_dist=True)
        if self._ends:
            strangest, plainest = self._of_all()
            when = "test" if stage == "test" else "" if trainer.state.fn == "fit" else "validate"
            title = f"strangest, {when or f'epoch {trainer.current_epoch + 1}'}"
            figure = extremes_figure(strangest[1], plainest[1], strangest[2], plainest[2], title)
            if trainer.is_global_zero:
                self.figure = figure
            show(trainer, figure, "strangest", folder, when)
        self._scores, self._strange, self._ends = [], [], []

    def _kept(self, batch: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
        """The strangest and the plainest of what was kept and a batch: score, image and map of each."""
        found = []
        for end, sign in zip(self._ends or [batch, batch], (-1, 1), strict=True):
            both = [torch.cat(parts) for parts in zip(end, batch, strict=True)] if self._ends else list(batch)
            order = (sign * both[0].float()).argsort(stable=True)[: self.n]
            found.append(tuple(part[order] for part in both))
        return found

    def _of_all(self) -> list[tuple[Tensor, ...]]:
        """The same of all ranks."""
        found: list[tuple[Tensor, ...]] = []
        for end, sign in zip(self._ends, (-1, 1), strict=True):
            score, image, where = (gather_rows(part.float()).cpu() for part in end)
            order = (sign * score).argsort(stable=True)[: self.n]
            found.append((score[order], image[order], where[order]))
        return found

    def _say(self, text: str, warn: bool = False) -> None:
        if text not in self._said:
            (rank_zero_warn if warn else rank_zero_info)(text)
        self._said.add(text)


def extremes_figure(strangest: Tensor, plainest: Tensor, there: Tensor, here: Tensor, title: str = "") -> Figure:
    """The strangest images and the plainest, (B, C, H, W) in [0, 1], and below each its pixels' scores, (B, 1, H, W).

    The scores of all are on one scale, white for the highest.
    """
    low, high = torch.aminmax(torch.cat([there, here]))
    shown = [(each - low) / (high - low).clamp(min=1e-12) for each in (there, here)]
    return unit_figure([strangest, shown[0], plainest, shown[1]], ["strangest", "where", "plainest", "where"], title)
