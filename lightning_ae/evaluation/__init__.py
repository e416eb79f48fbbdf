"""How good a trained model is: every number that applies, one table and one picture."""

from lightning_ae.evaluation.beside import Beside, beside
from lightning_ae.evaluation.evaluate import Look, carried, evaluate, look
from lightning_ae.evaluation.numbers import Number
from lightning_ae.evaluation.picture import sheet
from lightning_ae.evaluation.report import Evaluation, markdown, table
from lightning_ae.evaluation.samples import Samples

__all__ = [
    "Beside",
    "Evaluation",
    "Look",
    "Number",
    "Samples",
    "beside",
    "carried",
    "evaluate",
    "look",
    "markdown",
    "sheet",
    "table",
]
