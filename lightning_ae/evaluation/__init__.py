"""How good a trained model is: every number that applies, one table and one picture."""

from lightning_ae.evaluation.evaluate import evaluate
from lightning_ae.evaluation.numbers import Number
from lightning_ae.evaluation.picture import sheet
from lightning_ae.evaluation.report import Evaluation, markdown, table
from lightning_ae.evaluation.samples import Samples

__all__ = ["Evaluation", "Number", "Samples", "evaluate", "markdown", "sheet", "table"]
