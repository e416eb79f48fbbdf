"""What the metrics of codes beside known factors share: all rows of all ranks, in one order, and counts of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lightning_ae.errors import InputError
from lightning_ae.metrics.base import SampleMetric, check_finite
from lightning_ae.natural import listed


class RowsMetric(SampleMetric):
    """Base of the metrics that no sums make: they keep the rows of all batches and, over several ranks, of all ranks.

    Rows are put in one order before anything is computed or drawn: neither which rank held them nor when they came
    changes the value. All ranks must compute it. Rows take 8 bytes a value, on the device of the metric.
    """

    is_differentiable = False
    plot_lower_bound = 0.0
    parts: tuple[str, ...] = ()
    """The names of the values, where there are several."""
    columns: tuple[str, ...] = ("codes",)
    """The states: each the values of all rows, flat, so that a rank without any takes part in a gather."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in self.columns:
            self.add_state(name, [], dist_reduce_fx="cat")
        self.widths: tuple[int, ...] = ()
        self.types = {"codes": torch.float64, "factors": torch.int64}

    def add(self, *values: Tensor) -> None:
        """Adds rows, (N, width) of each of the `columns`.

        Raises:
            InputError: when they are wider or narrower than those of earlier batches.
        """
        widths = tuple(each.shape[1] for each in values)
        if self.samples and self.widths != widths:
            before, now = (dict(zip(self.columns, each, strict=True)) for each in (self.widths, widths))
            raise InputError(f"the width of this batch is {now}, that of earlier ones {before}", "reset() starts anew")
        self.widths = widths
        for name, each in zip(self.columns, values, strict=True):
            getattr(self, name).append(each.to(self.types[name]).reshape(-1))
        self.samples += len(values[0])

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gathers the rows of all ranks; see torchmetrics."""
        for name in self.columns:
            if not len(getattr(self, name)):  # it would gather another type there
                setattr(self, name, [torch.zeros(0, dtype=self.types[name], device=self.device)])
        super().sync(*args, **kwargs)

    def compute(self) -> Any:
        """The value, a scalar, or the values by their names; NaN before the first sample.

        Raises:
            InputError: when these rows do not allow it.
        """
        if not self.samples:
            return {name: self._scalar(float("nan")) for name in self.parts} or self._scalar(float("nan"))
        rows = [dim_zero_cat(getattr(self, name)).reshape(int(self.samples), -1).cpu().numpy() for name in self.columns]
        found = self.measure(in_order(*rows))
        return {name: self._scalar(each) for name, each in found.items()} if isinstance(found, dict) else (
            self._scalar(found))  # fmt: skip

    def measure(self, rows: list[np.ndarray]) -> Any:
        """The value, or a dict of values, of all rows: (N, width) of each of the `columns`."""
        raise NotImplementedError

    def _scalar(self, value: Any) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float32, device=self.device)


class FactorMetric(RowsMetric):
    """Base of the metrics of codes whose samples' factors are known.

    Args:
        names: of the factors, for messages; by default their numbers.
    """

    higher_is_better = True
    plot_upper_bound = 1.0
    columns = ("codes", "factors")
    several = False  # whether it compares factors with each other

    def __init__(self, names: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names = tuple(names)

    def update(self, codes: Tensor, factors: Tensor) -> None:
        """Adds a batch.

        Args:
            codes: without randomness, (N, D).
            factors: the numbers of their values, integers from 0, (N, F).

        Raises:
            InputError: when shapes or types are others, codes are not finite, or a factor's value is missing (-1).
        """
        if codes.ndim != 2 or not codes.shape[1]:
            raise InputError(
                f"codes must have the shape (N, D), got {tuple(codes.shape)}",
                "one code is a batch of one, codes.unsqueeze(0); other codes are made vectors by flatten(1), "
                "or by the model's pool(code)",
            )
        if factors.ndim != 2 or len(factors) != len(codes) or not factors.shape[1]:
            raise InputError(
                f"factors must have the shape ({len(codes)}, F), a row for each code, got {tuple(factors.shape)}",
                "a single factor is factors.unsqueeze(1)",
            )
        if factors.is_floating_point() or factors.is_complex() or factors.dtype == torch.bool:
            raise InputError(f"factors must be integers, got {factors.dtype}", "number each factor's values: .long()")
        if self.names and len(self.names) != factors.shape[1]:
            raise InputError(f"names has {len(self.names)} names, {listed(self.names)}, of {factors.shape[1]} factors")
        check_finite("codes", codes)
        if (missing := factors < 0).any():
            row, at = map(int, missing.nonzero()[0])
            raise InputError(
                f"{int(missing.any(dim=1).sum())} of the {len(factors)} rows lack a factor's value (below 0, as -1 "
                f"marks it), the first of them row {row}, {self.named(at)}",
                "leave such rows out: taken = (factors >= 0).all(dim=1)",
            )
        self.add(codes.detach().to(self.device), factors.to(self.device))

    def named(self, number: int) -> str:
        """A factor in a message."""
        return f"factor {self.names[number]!r}" if self.names else f"factor {number}"

    def measure(self, rows: list[np.ndarray]) -> Any:
        """The value, or a dict of values, of codes (N, D), float64, and factors (N, F), int64.

        Raises:
            InputError: when a factor has one value, or no unit of the codes varies.
        """
        codes, factors = rows
        for number, column in enumerate(factors.T):
            if column.min() == column.max():
                raise InputError(
                    f"{self.named(number)} has one value, {column[0]}, in all {len(factors)} rows: nothing can be said "
                    "of how codes tell its values apart",
                    "leave it out of factors, or give rows in which it varies",
                )
        if self.several and factors.shape[1] < 2:
            raise InputError(
                f"{type(self).__name__} compares factors with each other, and there is one, {self.named(0)}"
            )
        if not varying(codes).any():
            raise InputError(f"no unit of the codes varies: all {len(codes)} rows are alike")
        return self.score(codes, factors)

    def score(self, codes: np.ndarray, factors: np.ndarray) -> Any:
        """The value of codes (N, D), of which a unit varies, and factors (N, F) of two values or more each."""
        raise NotImplementedError


def in_order(*rows: np.ndarray) -> list[np.ndarray]:
    """Rows (N, width) of several arrays that belong together, in the order of their values: which does not depend on
    the one in which they are given."""
    order = np.lexsort([column for each in rows for column in each.T])
    return [each[order] for each in rows]


def numbered(factors: np.ndarray) -> np.ndarray:
    """Factors (N, F) with the values of each that there are numbered from 0, in their order."""
    return np.stack([np.unique(column, return_inverse=True)[1] for column in factors.T], axis=1)


def varying(codes: np.ndarray) -> np.ndarray:
    """Which units of codes (N, D) are not the same in all rows, up to rounding: bool, (D,)."""
    spread = np.ptp(codes, axis=0)
    found: np.ndarray = spread > 1e-12 * np.abs(codes).max(axis=0)
    return found


def binned(codes: np.ndarray, bins: int) -> np.ndarray:
    """In which of `bins` intervals of equal width, from a unit's least to its greatest value, each value lies.

    Args:
        codes: (N, D).
        bins: their number.

    Returns:
        Numbers from 0, (N, D), int64; of a unit that does not vary 0.
    """
    low, spread = codes.min(axis=0), np.ptp(codes, axis=0)
    share = (codes - low) / np.where(spread > 0, spread, 1)
    found: np.ndarray = np.minimum((share * bins).astype(np.int64), bins - 1)
    return found


def mutual_information(codes: np.ndarray, factors: np.ndarray, bins: int) -> np.ndarray:
    r"""The mutual information of each unit, in bins, with each factor, in nats.

    .. math:: I(z_i; v_k) = \sum_{b, v} p(b, v) \log \frac{p(b, v)}{p(b)\, p(v)}

    Args:
        codes: (N, D).
        factors: (N, F).
        bins: of each unit; see `binned`.

    Returns:
        (D, F), float64.
    """
    found = np.zeros((codes.shape[1], factors.shape[1]))
    units = binned(codes, bins)
    for k, values in enumerate(numbered(factors).T):
        many = int(values.max()) + 1
        for i, unit in enumerate(units.T):
            joint = np.bincount(unit * many + values, minlength=bins * many).reshape(bins, many) / len(values)
            apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
            there = joint > 0
            found[i, k] = (joint[there] * np.log(joint[there] / apart[there])).sum()
    return np.maximum(found, 0)  # below by rounding


def entropies(factors: np.ndarray) -> np.ndarray:
    """The entropy of each factor (N, F) in these rows, in nats, (F,)."""
    shares = [np.bincount(values) / len(values) for values in numbered(factors).T]
    return np.array([-(share * np.log(share)).sum() for share in shares])


def gap(scores: np.ndarray, none: np.ndarray | float = 0.0) -> np.ndarray:
    """How far the best unit is ahead of the next, for each factor.

    Args:
        scores: (D, F).
        none: what a unit that says nothing has, (F,): the next one where there is a single unit.

    Returns:
        (F,).
    """
    some = np.vstack([scores, np.broadcast_to(none, scores.shape[1:])]) if len(scores) == 1 else scores
    best = np.sort(some, axis=0)
    found: np.ndarray = best[-1] - best[-2]
    return found
