"""Which rows and pixels are the anomalies, as labels and masks tell, and how well scores find them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_ae.errors import InputError, unknown


def anomalous_classes(data: Any, anomaly: Sequence[str | int] | None) -> list[int] | str:
    """The numbers of the classes that are to be found; or why there are none, in words.

    Args:
        data: a data module with `label`, `has_classes` and `class_names`.
        anomaly: names or numbers of classes; by default of two the second.

    Raises:
        InputError: where they are asked for, and the data do not have them.
    """
    names = data.class_names
    if data.label is None or not data.has_classes or names is None:
        reason = "the data have no label" if data.label is None else f"the label {data.label!r} names no classes"
        if anomaly is not None:
            raise InputError(f"anomaly is a class of the label, but {reason}", "leave it out, or give the data's label")
        return reason
    if anomaly is None:
        return [1] if len(names) == 2 else f"the label {data.label!r} has {len(names)} classes: name some as anomaly"
    found = []
    for name in map(str, anomaly):
        if name not in names and not (name.isdecimal() and int(name) < len(names)):
            raise unknown(f"class of the label {data.label!r}", name, names)
        found.append(names.index(name) if name in names else int(name))
    if len(set(found)) == len(names):
        raise InputError(f"anomaly names all classes of the label {data.label!r}", "leave those out that are normal")
    return found


def strangeness(labels: Tensor, wanted: Sequence[int]) -> Tensor:
    """Of each label 1 where it is to be found, 0 where not, -1 where nobody knows, (N,), int64."""
    return torch.where(labels >= 0, torch.isin(labels, torch.tensor(wanted, device=labels.device)).long(), -1)


def separation(strange: Tensor, scores: Tensor) -> tuple[float, float] | None:
    """AUROC and average precision of scores (N,), higher is stranger; None where there are not rows of both kinds.

    Rows of which nobody knows do not count. A score that is no finite number makes both NaN.

    Args:
        strange: 1 where a row is to be found, 0 where not, -1 where nobody knows, (N,).
        scores: of the rows, (N,).
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    known = strange >= 0
    found, values = strange[known].cpu().numpy(), scores[known].double().cpu()
    if len(set(found.tolist())) < 2:
        return None
    if not values.isfinite().all():
        return float("nan"), float("nan")
    return float(roc_auc_score(found, values)), float(average_precision_score(found, values))


class PixelAUROC:
    """The AUROC of any number of scores, of which those alone are held that are to be found.

    It is the share of pairs of the two kinds in which the one to be found scores more, of equal ones a half.

    Args:
        strange: the scores of what is to be found, of any shape.
    """

    def __init__(self, strange: Tensor) -> None:
        self._strange = strange.flatten().sort().values
        self.normal, self._above = 0, 0  # twice the pairs in the right order, which is a whole number

    @property
    def strange(self) -> int:
        """How many are to be found."""
        return len(self._strange)

    def update(self, normal: Tensor) -> None:
        """Adds scores of what is as it should be, of any shape."""
        normal = normal.flatten()
        at_most = torch.searchsorted(self._strange, normal, right=True)
        below = torch.searchsorted(self._strange, normal)
        self.normal += len(normal)
        self._above += 2 * len(self._strange) * len(normal) - int(at_most.sum()) - int(below.sum())

    def compute(self) -> float:
        """The AUROC; there must be scores of both kinds."""
        return self._above / (2 * self.strange * self.normal)
