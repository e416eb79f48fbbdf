"""The report in a run's loggers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_ae.report.page import Report


def log(page: Report, file: Path, loggers: Sequence[Any], step: int) -> None:
    """Gives the page to the loggers that take one: Weights & Biases the page itself, TensorBoard its facts and numbers.

    Args:
        page: the report.
        file: where it was written.
        loggers: of a trainer.
        step: of the run.
    """
    from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("report", f"{page.markdown()}\n`{file}`", step)
            logger.experiment.flush()
        elif isinstance(logger, WandbLogger):
            import wandb

            # beside the step, which is the axis of all that Lightning logs there
            logger.experiment.log({"report": wandb.Html(page.html, inject=False), "trainer/global_step": step})
