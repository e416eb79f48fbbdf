"""What stays of a code where one factor is held: the scores of beta-VAE and FactorVAE, interventional robustness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_ae.errors import InputError
from lightning_ae.metrics.base import positive
from lightning_ae.metrics.factors import FactorMetric, numbered, varying


class _Held(FactorMetric):
    """Base of those that draw groups in which one factor is held.

    Args:
        group: rows of a group, or pairs of them.
        points: groups that train a classifier, and as many that judge it.
        seed: of what is drawn.
        names: of the factors.
    """

    def __init__(
        self, group: int = 64, points: int = 800, seed: int = 0, names: Sequence[str] = (), **kwargs: Any
    ) -> None:
        super().__init__(names, **kwargs)
        positive(self, group=group, points=points)
        self.group, self.points, self.seed = group, points, seed

    def able(self, factors: np.ndarray, least: int) -> list[np.ndarray]:
        """For each factor, the rows whose value `least` rows share, or more.

        Raises:
            InputError: naming a factor of which there are none.
        """
        found = []
        for k, values in enumerate(factors.T):
            counts = np.bincount(values)
            rows = np.flatnonzero(counts[values] >= least)
            if not len(rows):
                raise InputError(
                    f"{type(self).__name__} needs {least} rows that share the value of a factor, and no value of "
                    f"{self.named(k)} has more than {counts.max()} of the {len(values)} rows",
                    "give more rows, or a smaller group" if least > 2 else "give more rows",
                )
            found.append(rows)
        return found


class FactorVAEScore(_Held):
    r"""Whether the unit that varies least, where a factor is held, tells which factor it is.

    Of a group of rows that share a factor's value, the unit of the least variance relative to that in all rows,

    .. math:: d = \arg\min_i \frac{\mathrm{Var}_{group}(z_i)}{\mathrm{Var}(z_i)},

    is a vote; for each unit the factor that most votes of it were of is its guess, and the score is the accuracy of
    the guesses (Kim & Mnih 2018, https://arxiv.org/abs/1802.05983, section 5). By chance it is 1 / F.

    There the generator draws groups anew. Here they are drawn among the rows of a labelled sample: a factor, a row, and
    a group without replacement of those that share the row's value. Rows of values that fewer rows than a group share
    hold none. The votes that are judged are others than those that the guesses were learnt of, where the paper has the
    same, and units that do not vary at all are left out.

    Args:
        group: rows of a group, two or more.
        points: groups to learn the guesses of, and as many to judge them.
        seed: of what is drawn.
        names: of the factors, for messages; by default their numbers.

    Raises:
        InputError: when `points` is not positive or `group` is below 2; in `compute`, when there is one factor, or no
            value of a factor has the rows of a group.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import FactorVAEScore
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(4))
        >>> FactorVAEScore(group=4)(factors.double(), factors)
        tensor(1.)
    """

    several = True

    def __init__(
        self, group: int = 64, points: int = 800, seed: int = 0, names: Sequence[str] = (), **kwargs: Any
    ) -> None:
        super().__init__(group, points, seed, names, **kwargs)
        if group < 2:
            raise InputError(f"group of FactorVAEScore must be 2 or more, which a variance needs; got {group}")

    def score(self, codes: np.ndarray, factors: np.ndarray) -> float:  # noqa: D102
        codes, factors = codes[:, varying(codes)], numbered(factors)
        codes = codes / codes.std(axis=0)
        able, generator = self.able(factors, self.group), np.random.default_rng(self.seed)
        held = generator.integers(factors.shape[1], size=2 * self.points)
        least = np.zeros(len(held), int)
        members = [[np.flatnonzero(values == value) for value in range(values.max() + 1)] for values in factors.T]
        for vote, k in enumerate(held):
            value = factors[generator.choice(able[k]), k]
            group = generator.choice(members[k][value], self.group, replace=False)
            least[vote] = codes[group].var(axis=0).argmin()
        votes = np.zeros((codes.shape[1], factors.shape[1]), int)
        np.add.at(votes, (least[: self.points], held[: self.points]), 1)
        return float((votes.argmax(axis=1)[least[self.points :]] == held[self.points :]).mean())


class BetaVAEScore(_Held):
    r"""Whether a linear classifier tells which factor two rows share, by how far apart their codes are.

    Pairs of rows that share the value of factor k, each pair its own, are one point,

    .. math:: \frac{1}{L} \sum_{l=1}^{L} | z_l - z'_l |,

    and the score is the accuracy with which logistic regression (scikit-learn) guesses k from it (Higgins et al. 2017,
    https://openreview.net/forum?id=Sy2fzU9gl, section 3). By chance it is 1 / F.

    There the generator draws pairs anew. Here they are drawn among the rows of a labelled sample: a factor, a row, and
    another one that shares its value. Units are divided by their standard deviation first, so that their scales do not
    matter, and those that do not vary are left out.

    Args:
        group: pairs L of a point.
        points: to train the classifier, and as many to judge it.
        seed: of what is drawn.
        names: of the factors, for messages; by default their numbers.

    Raises:
        InputError: when `points` or `group` is not positive; in `compute`, when there is one factor, or no two rows
            share a factor's value.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import BetaVAEScore
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(4))
        >>> BetaVAEScore()(factors.double(), factors)
        tensor(1.)
    """

    several = True

    def score(self, codes: np.ndarray, factors: np.ndarray) -> float:  # noqa: D102
        from sklearn.linear_model import LogisticRegression

        codes, factors = codes[:, varying(codes)], numbered(factors)
        codes = codes / codes.std(axis=0)
        able, generator = self.able(factors, 2), np.random.default_rng(self.seed)
        held = generator.integers(factors.shape[1], size=2 * self.points)
        order = np.argsort(factors, axis=0, kind="stable")  # rows of one value stand together
        place = np.empty_like(order)
        np.put_along_axis(place, order, np.arange(len(order))[:, None], axis=0)
        counts = [np.bincount(values) for values in factors.T]
        apart = np.zeros((len(held), codes.shape[1]))
        for point, k in enumerate(held):
            first = generator.choice(able[k], self.group)
            value = factors[first, k]
            start, many = (np.cumsum(counts[k]) - counts[k])[value], counts[k][value]
            further = generator.integers(1, many)  # places from the first one, around its value's rows
            other = order[start + (place[first, k] - start + further) % many, k]
            apart[point] = np.abs(codes[first] - codes[other]).mean(axis=0)
        if len(np.unique(held[: self.points])) < 2:
            raise InputError(f"points {self.points} of BetaVAEScore drew one factor only", "take more of them")
        linear = LogisticRegression(max_iter=1000).fit(apart[: self.points], held[: self.points])
        return float(linear.score(apart[self.points :], held[self.points :]))


class IRS(FactorMetric):
    r"""The interventional robustness score: whether a unit stays where it is while all factors but one change.

    For unit i and factor k, of the rows of each value v of it the distance from their mean,

    .. math:: R_{ik} = 1 - \frac{\sum_v p(v)\, Q_v(|z_i - \mathrm{E}_v z_i|)}{Q(|z_i - \mathrm{E} z_i|)}

    where Q is the greatest one, with v of the rows in which the factor has the value v, else of all; a unit has its
    best factor's score, and the mean over units is weighted by what stands below the line (Suter, Miladinovic,
    Schölkopf & Bauer 2019, https://arxiv.org/abs/1811.00007, section 4, for deterministic encoders). Units that do not
    vary are left out. The greatest distance of a finite sample is a matter of chance: so Q is a quantile, 1 for the
    greatest.

    Args:
        quantile: of distances, in (0, 1].
        names: of the factors, for messages; by default their numbers.

    Raises:
        InputError: when `quantile` lies elsewhere.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import IRS
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(4))
        >>> IRS()(factors.double(), factors)
        tensor(1.)
    """

    def __init__(self, quantile: float = 0.99, names: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(names, **kwargs)
        if not 0 < quantile <= 1:
            raise InputError(f"quantile of IRS must lie in (0, 1], got {quantile}")
        self.quantile = quantile

    def score(self, codes: np.ndarray, factors: np.ndarray) -> float:  # noqa: D102
        codes, factors = codes[:, varying(codes)], numbered(factors)
        whole = self._distance(codes)
        codes, whole = codes[:, whole > 0], whole[whole > 0]  # few rows that differ lie beyond the quantile
        if not len(whole):
            raise InputError(f"quantile {self.quantile} of IRS is 0: less than that part of the rows differs from most")
        left = np.zeros((len(whole), factors.shape[1]))
        for k, values in enumerate(factors.T):
            for value, many in enumerate(np.bincount(values)):
                left[:, k] += many / len(values) * self._distance(codes[values == value])
        robust = np.maximum(1 - left / whole[:, None], 0).max(axis=1)
        return float((robust * whole).sum() / whole.sum())

    def _distance(self, codes: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.quantile(np.abs(codes - codes.mean(axis=0)), self.quantile, axis=0)
        return found
