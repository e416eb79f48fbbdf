"""Which unit of a code tells which factor's value, and how much of it: MIG, SAP, DCI, modularity, explicitness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_ae.errors import InputError
from lightning_ae.metrics.base import positive
from lightning_ae.metrics.factors import FactorMetric, entropies, gap, mutual_information, numbered, varying


class MIG(FactorMetric):
    r"""The mutual information gap: how far the unit that knows most of a factor is ahead of the next, over factors.

    .. math:: \frac{1}{F} \sum_k \frac{1}{H(v_k)} \big( I(z_{j_k}; v_k) - \max_{j \ne j_k} I(z_j; v_k) \big),
        \quad j_k = \arg\max_j I(z_j; v_k)

    (Chen, Li, Grosse & Duvenaud 2018, https://arxiv.org/abs/1802.04942, equation 6). Of the codes' means, each unit in
    bins of equal width, as Locatello et al. 2019 do, and the factors' entropy in the sample. A single unit is ahead of
    one that knows nothing. A factor of more values than there are bins cannot be known in full: of 40 equally frequent
    values 20 bins tell log 20 / log 40, 0.81.

    Args:
        bins: of each unit, from its least to its greatest value.
        names: of the factors, for messages; by default their numbers.

    Raises:
        InputError: when `bins` is not positive.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import MIG
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(4))
        >>> MIG()(factors.double(), factors)
        tensor(1.)
    """

    def __init__(self, bins: int = 20, names: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(names, **kwargs)
        positive(self, bins=bins)
        self.bins = bins

    def score(self, codes: np.ndarray, factors: np.ndarray) -> float:  # noqa: D102
        return float((gap(mutual_information(codes, factors, self.bins)) / entropies(factors)).mean())


class _Categories(FactorMetric):
    """Base of those that predict factors: of ordered values as a number, of categories as a class.

    Args:
        categorical: the numbers of the factors whose values have no order, such as shapes.
        names: of the factors.
    """

    def __init__(self, categorical: Sequence[int] = (), names: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(names, **kwargs)
        self.categorical = frozenset(categorical)

    def measure(self, rows: list[np.ndarray]) -> Any:
        """As `FactorMetric`; `categorical` must name factors that there are."""
        many = rows[1].shape[1]
        if strange := sorted(each for each in self.categorical if not 0 <= each < many):
            raise InputError(
                f"categorical of {type(self).__name__} names factor {strange[0]}, and there are {many}, counted from 0"
            )
        return super().measure(rows)


class SAP(_Categories):
    r"""The separated attribute predictability: how far the unit that predicts a factor best is ahead of the next.

    .. math:: \frac{1}{F} \sum_k \big( S_{j_k k} - \max_{j \ne j_k} S_{jk} \big), \quad j_k = \arg\max_j S_{jk}

    (Kumar, Sattigeri & Balakrishnan 2018, https://arxiv.org/abs/1711.00848, section 3). S is the squared correlation of
    unit and factor, what a line explains of it; of a category the balanced accuracy of as many intervals of the unit as
    there are values, by thresholds that scikit-learn's decision tree finds, on the same rows. Of V categories a unit
    that says nothing has 1 / V, and the gap is 1 - 1 / V at most. A single unit is ahead of one that says nothing.

    Args:
        categorical: the numbers of the factors whose values have no order, such as shapes.
        names: of the factors, for messages; by default their numbers.

    Raises:
        InputError: in `compute`, when `categorical` names a factor that there is not.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import SAP
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(4))
        >>> SAP()(factors.double(), factors)
        tensor(1.)
    """

    def score(self, codes: np.ndarray, factors: np.ndarray) -> float:  # noqa: D102
        some = varying(codes)
        scores = np.zeros((codes.shape[1], factors.shape[1]))
        none = np.zeros(factors.shape[1])
        for k, values in enumerate(factors.T):
            if k in self.categorical:
                none[k] = 1 / len(np.unique(values))
                scores[:, k] = [_separated(unit, values) for unit in codes.T]
            else:
                scores[some, k] = _correlations(codes[:, some], values) ** 2
        return float(gap(scores, none).mean())


class DCI(_Categories):
    r"""Disentanglement, completeness and informativeness, by what random forests use to predict each factor.

    With the importance R of unit i for factor k,

    .. math:: D_i = 1 - H_F(R_{i \cdot} / \textstyle\sum_k R_{ik}), \quad
        C_k = 1 - H_D(R_{\cdot k} / \textstyle\sum_i R_{ik})

    where H_F is the entropy to the base of the number F of factors, H_D of the number D of units (Eastwood & Williams
    2018, https://openreview.net/forum?id=By-7dz-AZ, section 2). "disentanglement" is the mean of D weighted by a unit's
    share of all importance, "completeness" the mean of C. Of a single factor D is 1, of a single unit C is.

    A seeded half of the rows trains a forest of scikit-learn's for each factor, whose importances (the shares of
    impurity that splits by a unit take away) are R; "informativeness" is how well the forests predict the other half:
    R^2, at least 0, and of a category the accuracy, averaged over factors. The paper gives an error, where less is
    better. A forest's importances add up to 1 even where it predicts nothing: where few factors are told, the other two
    values tell of chance.

    Args:
        categorical: the numbers of the factors whose values have no order, such as shapes.
        trees: of each forest.
        depth: of a tree, at most.
        seed: of the halves and the forests.
        names: of the factors, for messages; by default their numbers.

    Raises:
        InputError: when `trees` or `depth` is not positive; in `compute`, with fewer than 10 rows, or when
            `categorical` names a factor that there is not.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import DCI
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(4)).repeat(10, 1)
        >>> DCI()(factors.double(), factors)
        {'disentanglement': tensor(1.), 'completeness': tensor(1.), 'informativeness': tensor(1.)}
    """

    parts = ("disentanglement", "completeness", "informativeness")
    least = 10

    def __init__(
        self,
        categorical: Sequence[int] = (),
        trees: int = 20,
        depth: int = 8,
        seed: int = 0,
        names: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(categorical, names, **kwargs)
        positive(self, trees=trees, depth=depth)
        self.trees, self.depth, self.seed = trees, depth, seed

    def score(self, codes: np.ndarray, factors: np.ndarray) -> dict[str, float]:  # noqa: D102
        if len(codes) < self.least:
            raise InputError(f"DCI needs {self.least} rows at least, half of them to train forests; got {len(codes)}")
        order = np.random.default_rng(self.seed).permutation(len(codes))
        train, test = order[: len(order) // 2], order[len(order) // 2 :]
        importance, told = np.zeros((codes.shape[1], factors.shape[1])), np.zeros(factors.shape[1])
        for k, values in enumerate(factors.T):
            if (values[train] == values[train[0]]).all():
                raise InputError(f"{self.named(k)} has one value in the half of the {len(codes)} rows that trains")
            forest = self._forest(k).fit(codes[train], values[train])
            importance[:, k], told[k] = forest.feature_importances_, max(0.0, forest.score(codes[test], values[test]))
        share = importance.sum(axis=1) / max(importance.sum(), np.finfo(float).tiny)
        return {
            "disentanglement": float((share * _concentration(importance)).sum()),
            "completeness": float(_concentration(importance.T).mean()),
            "informativeness": float(told.mean()),
        }

    def _forest(self, factor: int) -> Any:
        from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

        forest = RandomForestClassifier if factor in self.categorical else RandomForestRegressor
        # of all units at each split: a classifier's forest would look at some only, and spread importance over others
        return forest(self.trees, max_depth=self.depth, max_features=None, random_state=self.seed)


class Modularity(FactorMetric):
    r"""Whether each unit knows of one factor at most.

    With the mutual information m of unit i and factor k, and a template t that keeps its greatest alone,

    .. math:: 1 - \frac{\sum_k (m_{ik} - t_{ik})^2}{\max_k m_{ik}^2\, (F - 1)}

    (Ridgeway & Mozer 2018, https://arxiv.org/abs/1802.05312, section 3), averaged over the units that vary. It does not
    ask how much a unit knows: the sample's chance makes units that know nothing look neither modular nor not.

    Args:
        bins: of each unit, from its least to its greatest value.
        names: of the factors, for messages; by default their numbers.

    Raises:
        InputError: when `bins` is not positive; in `compute`, when there is one factor.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import Modularity
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(4))
        >>> Modularity()(factors.double(), factors)
        tensor(1.)
    """

    several = True

    def __init__(self, bins: int = 20, names: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(names, **kwargs)
        positive(self, bins=bins)
        self.bins = bins

    def score(self, codes: np.ndarray, factors: np.ndarray) -> float:  # noqa: D102
        squares = mutual_information(codes[:, varying(codes)], factors, self.bins) ** 2
        greatest = squares.max(axis=1)
        squares, greatest = squares[greatest > 0], greatest[greatest > 0]
        if not len(squares):
            return 0.0
        return float((1 - (squares.sum(axis=1) - greatest) / (greatest * (squares.shape[1] - 1))).mean())


class Explicitness(FactorMetric):
    r"""Whether each value of each factor can be told from the others by a plane through the codes.

    The area under the ROC curve of logistic regression (scikit-learn, standardised codes, C = 1) that tells one value
    from all others, averaged over the values of a factor, then over factors: 0.5 by chance, 1 at best (Ridgeway &
    Mozer 2018, https://arxiv.org/abs/1802.05312, section 3). Of each value a seeded half of the rows trains, and the
    other half is judged. The middle values of an ordered factor are told apart by a plane only where its values lie on
    a curve, not on a line.

    Args:
        seed: of the halves.
        names: of the factors, for messages; by default their numbers.

    Raises:
        InputError: in `compute`, when a value of a factor has fewer than two rows.

    Example:
        >>> import torch
        >>> from lightning_ae.metrics import Explicitness
        >>> factors = torch.cartesian_prod(torch.arange(2), torch.arange(2)).repeat(2, 1)
        >>> Explicitness()(factors.double(), factors)
        tensor(1.)
    """

    def __init__(self, seed: int = 0, names: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(names, **kwargs)
        self.seed = seed

    def score(self, codes: np.ndarray, factors: np.ndarray) -> float:  # noqa: D102
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import roc_auc_score

        codes = codes[:, varying(codes)]
        codes = (codes - codes.mean(axis=0)) / codes.std(axis=0)
        generator = np.random.default_rng(self.seed)
        found = []
        for k, values in enumerate(numbered(factors).T):
            train = self._halves(k, values, generator)
            areas = []
            for value in range(values.max() + 1):
                one = values == value
                plane = LogisticRegression(max_iter=1000).fit(codes[train], one[train])
                areas.append(roc_auc_score(one[~train], plane.decision_function(codes[~train])))
            found.append(np.mean(areas))
        return float(np.mean(found))

    def _halves(self, factor: int, values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Which rows train, bool: half of those of each value."""
        train = np.zeros(len(values), bool)
        for value in range(values.max() + 1):
            rows = generator.permutation(np.flatnonzero(values == value))
            if len(rows) < 2:
                raise InputError(
                    f"{self.named(factor)} has a value with a single row among {len(values)}: Explicitness needs two, "
                    "one to train and one to judge",
                    "give more rows, or leave rows of rare values out",
                )
            train[rows[: len(rows) // 2]] = True
        return train


def _separated(unit: np.ndarray, values: np.ndarray) -> float:
    """The balanced accuracy of as many intervals of a unit as there are values."""
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_leaf_nodes=len(np.unique(values)), class_weight="balanced", random_state=0)
    return float(balanced_accuracy_score(values, tree.fit(unit[:, None], values).predict(unit[:, None])))


def _correlations(codes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Of each unit (N, D) with a factor's values (N,)."""
    codes, values = codes - codes.mean(axis=0), values - values.mean()
    found: np.ndarray = codes.T @ values / np.sqrt((codes**2).sum(axis=0) * (values**2).sum())
    return found


def _concentration(importance: np.ndarray) -> np.ndarray:
    """1 minus the entropy of each row, to the base of the number of columns; 1 of one column, 0 of a row of zeros."""
    total = importance.sum(axis=1, keepdims=True)
    share = importance / np.where(total > 0, total, 1)
    if importance.shape[1] == 1:
        return np.ones(len(importance))
    logs = np.log(np.where(share > 0, share, 1))
    found: np.ndarray = np.where(total[:, 0] > 0, 1 + (share * logs).sum(axis=1) / np.log(importance.shape[1]), 0)
    return found
