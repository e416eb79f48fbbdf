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
    """AUROC of any number of scores, in memory that does not grow with them.

    Scores are counted in 2^20 bins, whose width is 2^-11 of their distance from the lowest score of the first batch; of
    a pair in one bin either may be the higher. `within` says how much that can make.
    """

    def __init__(self) -> None:
        self._counts = torch.zeros(2, 1 << 20, dtype=torch.int64)
        self._origin: Tensor | None = None

    def update(self, scores: Tensor, strange: Tensor) -> None:
        """Adds scores, finite and of any shape, and which of them are to be found, bool, of the same."""
        scores, strange = scores.flatten().float().cpu(), strange.flatten().cpu()
        if not len(scores):
            return
        self._origin = scores.min() if self._origin is None else self._origin
        bits = (scores - self._origin + 0.0).view(torch.int32)  # + 0.0: of the two zeros one
        ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
        bins = (ordered >> 12).long() + (1 << 19)
        for kind, of_kind in enumerate((~strange, strange)):
            self._counts[kind] += torch.bincount(bins[of_kind], minlength=1 << 20)

    @property
    def kinds(self) -> tuple[int, int]:
        """How many scores are as they should be, and how many are to be found."""
        normal, strange = self._counts.sum(dim=1).tolist()
        return normal, strange

    def compute(self) -> tuple[float, float]:
        """The AUROC, and `within` how much of the exact one; both kinds of scores must be there."""
        normal, strange = self._counts.double()
        pairs = normal.sum() * strange.sum()
        tied = (strange * normal).sum() / 2
        above = (strange * (normal.cumsum(0) - normal)).sum()
        return float((above + tied) / pairs), float(tied / pairs)
