"""A callback that measures how codebooks are used, and says when one collapses."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torchmetrics import Metric

from lightning_ae.autoencoder import Autoencoder
from lightning_ae.callbacks.measures import Accumulated
from lightning_ae.errors import InputError
from lightning_ae.exact import sum_over_ranks
from lightning_ae.metrics import CodebookUse

LEAST_EACH = 10
"""How often each code would be seen if all were used alike; with fewer indices, silence says nothing."""


class CodebookMetrics(Accumulated):
    """Logs, under val/ and test/, how the codebook of a quantised autoencoder is used, and warns where it collapses.

    `codebook_use`, `codebook_perplexity` and `dead_codes` are those of `lightning_ae.metrics.CodebookUse`; of several
    levels the lowest one's have these names, the next one's end in `_2`. It warns once in a fit, after a
    validation in which a codebook's perplexity is below `collapse` times its codes, of at least ten times as many
    indices as codes.

    Args:
        collapse: below which part of its codes a codebook's perplexity counts as a collapse, in [0, 1); with 0 it never
            warns.
    """

    def __init__(self, collapse: float = 0.05) -> None:
        if not 0 <= collapse < 1:
            raise InputError(f"collapse of CodebookMetrics must lie in [0, 1), got {collapse}")
        self.collapse, self._warned = collapse, False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins anew to look for a collapse."""
        self._warned = False

    def metrics(self, model: Autoencoder) -> dict[str, Metric]:
        """One for each codebook."""
        books = getattr(model, "codebooks", None)
        if books is None:
            raise InputError(
                f"CodebookMetrics is of models that have a codebook, which {type(model).__name__} has not",
                "leave the callback out, or train a VQVAE",
            )
        return {f"codebook_{i}": CodebookUse(book.codes, book.depth) for i, book in enumerate(books, start=1)}

    def add(self, model: Any, metrics: dict[str, Metric], x: Tensor, target: Tensor, **given: Tensor) -> None:
        """Adds a batch."""
        indices = model.encode_indices(model.corrupt(x), **given)
        for metric, part in zip(metrics.values(), indices if isinstance(indices, tuple) else (indices,), strict=True):
            metric.update(part)

    def finish(self, trainer: pl.Trainer, model: Any, stage: str) -> None:
        """Logs, and warns once."""
        for place, (name, metric) in enumerate(self._metrics.items()):
            assert isinstance(metric, CodebookUse)
            seen = sum_over_ranks(metric.counts.sum())[0]  # before it is synchronised
            found: dict[str, Tensor] = metric.compute()
            after = f"_{place + 1}" if place else ""
            model.log_dict(
                {f"{stage}/{key}{after}": value.to(model.device) for key, value in found.items()}, sync_dist=True
            )
            if stage == "val" and not trainer.sanity_checking and int(seen) >= LEAST_EACH * metric.counts.numel():
                self._look(name, metric.codes, found)

    def _look(self, name: str, codes: int, found: dict[str, Tensor]) -> None:
        if self._warned or float(found["codebook_perplexity"]) >= self.collapse * codes:
            return
        self._warned = True
        which = "the codebook" if len(self._metrics) == 1 else f"the codebook of level {name.rpartition('_')[2]}"
        perplexity = float(found["codebook_perplexity"])
        rank_zero_warn(
            f"{which} has collapsed: its perplexity on the validation data is {perplexity:.3g} of {codes} codes, and "
            f"{int(found['dead_codes'])} never occur. Dead codes that start again (VectorQuantizer(revive=0.1)), "
            "start='kmeans', a smaller commitment, fewer codes, or FiniteScalarQuantizer, which has no codebook to "
            "collapse, would help"
        )
