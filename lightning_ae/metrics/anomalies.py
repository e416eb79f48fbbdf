"""Which rows are the anomalies, as labels tell, and how well scores find them."""

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
