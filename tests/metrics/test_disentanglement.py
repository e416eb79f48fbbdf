"""Metrics of disentanglement: on codes whose answer is known, against scikit-learn and plain loops, over ranks."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from scipy.stats import entropy, norm, spearmanr
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.metrics import mutual_info_score
from torch import Tensor
from torchmetrics import Metric

from lightning_ae import Autoencoder, HFDataModule, InputError
from lightning_ae.data import Tabular
from lightning_ae.metrics import (
    DCI,
    IRS,
    MIG,
    SAP,
    UDR,
    BetaVAEScore,
    Explicitness,
    FactorVAEScore,
    GaussianTotalCorrelation,
    Modularity,
    disentanglement,
)
from lightning_ae.training import processes

METRICS: dict[str, Callable[[], Metric]] = {
    "mig": MIG,
    "sap": SAP,
    "sap of classes": lambda: SAP(categorical=(0, 1)),
    "dci": DCI,
    "dci of classes": lambda: DCI(categorical=(0, 1)),
    "modularity": Modularity,
    "explicitness": Explicitness,
    "factor_vae_score": lambda: FactorVAEScore(group=32),
    "beta_vae_score": lambda: BetaVAEScore(group=32),
    "irs": IRS,
}
every_metric = pytest.mark.parametrize("name", METRICS)


def grid(values: int = 4, factors: int = 2, times: int = 32) -> Tensor:
    """Every combination as often, (N, F)."""
    return torch.cartesian_prod(*[torch.arange(values)] * factors).repeat(times, 1)


def noisy(rows: int = 600, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Codes of four units that mix three factors of 2, 3 and 4 values, and noise."""
    generator = torch.Generator().manual_seed(seed)
    factors = torch.stack([torch.randint(many, (rows,), generator=generator) for many in (2, 3, 4)], dim=1)
    mixing = torch.tensor([[2.0, 0.1, 0.0, 0.3], [0.2, 1.0, 0.2, 0.0], [0.0, 0.3, 0.5, 0.0]])
    noise = torch.randn(rows, 4, generator=generator)
    return factors.float() @ mixing + 0.5 * noise, factors


def values_of(value: Any) -> dict[str, float]:
    return {k: float(v) for k, v in (value if isinstance(value, dict) else {"": value}).items()}


def value(name: str, codes: Tensor, factors: Tensor) -> dict[str, float]:
    metric = METRICS[name]()
    for part in zip(codes.split(97), factors.split(97), strict=True):
        metric.update(*part)
    return values_of(metric.compute())


# ---- known answers --------------------------------------------------------------------------------------------------


@every_metric
def test_perfect_codes_have_one(name: str) -> None:
    factors = grid(values=2)  # of two values, which a plane tells apart
    found = value(name, 3 - 5 * factors.double(), factors)
    # the next unit's intervals are right by chance, of categories
    assert found == pytest.approx(dict.fromkeys(found, 0.5 if name == "sap of classes" else 1.0), abs=1e-6)
    factors = grid(values=3, factors=3, times=12)
    if name != "explicitness":  # no plane tells the middle value
        found = value(name, factors.flip(1).double() + 7, factors)
        expected = np.mean([2 / 3, 2 / 3, 1]) if name == "sap of classes" else 1.0
        assert found == pytest.approx(dict.fromkeys(found, expected), abs=1e-6)


ROTATED = {  # z = (a + b, a - b): each unit knows as much of either factor
    "mig": {"": 0.0},
    "sap": {"": 0.0},
    "sap of classes": {"": 0.0},
    "modularity": {"": 0.0},
    "dci": {"disentanglement": 0.0, "completeness": 0.0, "informativeness": 1.0},
    "dci of classes": {"disentanglement": 0.0, "completeness": 0.0, "informativeness": 1.0},
    "factor_vae_score": {"": 0.5},
    "beta_vae_score": {"": 0.5},
}


@pytest.mark.parametrize("name", ROTATED)
def test_rotated_codes_tell_no_factors_apart(name: str) -> None:
    factors = grid()
    a, b = factors.double().T
    # what is drawn: 800 guesses of 0.5 have a standard error of 0.018; forests split by either unit first
    drawn = 0.06 if "score" in name else 0.03 if "dci" in name else 1e-6
    assert value(name, torch.stack([a + b, a - b], dim=1), factors) == pytest.approx(ROTATED[name], abs=drawn)


RANDOM = {
    "mig": {"": 0.0},
    "sap": {"": 0.0},
    "sap of classes": {"": 0.0},
    "dci": {"disentanglement": 0.0, "completeness": 0.0, "informativeness": 0.0},
    "explicitness": {"": 0.5},
    "factor_vae_score": {"": 1 / 3},
    "beta_vae_score": {"": 1 / 3},
    "irs": {"": 0.0},
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_codes_have_what_chance_has(name: str) -> None:
    factors = grid(values=3, factors=3, times=100)
    codes = torch.randn(len(factors), 5, generator=torch.Generator().manual_seed(1))
    assert value(name, codes, factors) == pytest.approx(RANDOM[name], abs=0.06)


ONE = {  # a single unit that is the first of two factors
    "mig": {"": 0.5},
    "sap": {"": 0.5},
    "sap of classes": {"": 0.25},
    # what is left of the other factor is the forest's by chance, and counts as much
    "dci": {"disentanglement": 0.0, "completeness": 1.0, "informativeness": 0.5},
    "modularity": {"": 1.0},
    "explicitness": {"": 0.75},
    "factor_vae_score": {"": 0.5},  # it is always the one that varies least
    "beta_vae_score": {"": 1.0},  # it differs, or not
    "irs": {"": 1.0},
}


@pytest.mark.parametrize("name", ONE)
def test_one_latent(name: str) -> None:
    factors = grid(values=2, times=100)
    drawn = {"factor_vae_score": 0.06, "dci": 0.02, "explicitness": 0.04}.get(name, 1e-6)
    assert value(name, factors[:, :1].double(), factors) == pytest.approx(ONE[name], abs=drawn)


def test_factors_that_no_unit_knows() -> None:
    factors = grid(values=4, factors=3, times=8)
    codes = factors[:, :2].double()
    assert value("factor_vae_score", codes, factors)[""] == pytest.approx(2 / 3, abs=0.06)
    assert value("mig", codes, factors)[""] == pytest.approx(2 / 3, abs=1e-6)
    assert value("modularity", codes, factors)[""] == pytest.approx(1, abs=1e-6)


def test_two_units_of_one_factor_are_modular_but_not_complete() -> None:
    factors = grid(values=4, times=40)
    codes = torch.cat([factors, factors[:, :1]], dim=1).double()
    assert value("mig", codes, factors)[""] == pytest.approx(0.5, abs=1e-6)  # of the first factor the gap is none
    assert value("modularity", codes, factors)[""] == pytest.approx(1, abs=1e-6)
    found = value("dci", codes, factors)
    assert found["disentanglement"] == pytest.approx(1, abs=1e-6)
    assert found["completeness"] < 0.9


def test_a_gaussian_factor_has_the_area_of_its_distance() -> None:
    factors = torch.arange(2).repeat(10_000)[:, None]
    codes = factors + torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    assert value("explicitness", codes, factors)[""] == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.01)


def test_scale_and_sign_of_units_do_not_matter() -> None:
    codes, factors = noisy()
    for name in METRICS:
        if name != "irs":  # whose units are weighted by what they vary
            others = value(name, codes.double() * torch.tensor([-2.0, 4.0, 0.5, -8.0]), factors)
            assert others == pytest.approx(value(name, codes, factors), abs=0.03), name


# ---- independent computations ---------------------------------------------------------------------------------------


def in_bins(unit: np.ndarray, bins: int) -> np.ndarray:
    return np.digitize(unit, np.histogram_bin_edges(unit, bins)[1:-1])


def informations(codes: np.ndarray, factors: np.ndarray, bins: int = 20) -> np.ndarray:
    return np.array([[mutual_info_score(in_bins(z, bins), v) for v in factors.T] for z in codes.T])


def test_mutual_information_gap_by_scikit_learn() -> None:
    codes, factors = noisy()
    table = informations(codes.double().numpy(), factors.numpy(), 13)
    gaps = []
    for k, v in enumerate(factors.numpy().T):
        best, second = sorted(table[:, k])[:-3:-1]
        gaps.append((best - second) / entropy(np.bincount(v)))
    metric = MIG(bins=13)
    metric.update(codes, factors)
    assert float(metric.compute()) == pytest.approx(np.mean(gaps), rel=1e-6)


def test_modularity_by_a_loop() -> None:
    codes, factors = noisy()
    table, found = informations(codes.double().numpy(), factors.numpy()), []
    for row in table:
        best = row.argmax()
        found.append(1 - sum(row[k] ** 2 for k in range(3) if k != best) / (row[best] ** 2 * 2))
    assert value("modularity", codes, factors)[""] == pytest.approx(np.mean(found), rel=1e-6)


def test_squared_correlations_by_numpy() -> None:
    codes, factors = (each.numpy() for each in noisy())
    factors = factors**2  # whose values are not as far apart, and not all there
    gaps = []
    for v in factors.T:
        squares = sorted(np.corrcoef(z, v)[0, 1] ** 2 for z in codes.T)
        gaps.append(squares[-1] - squares[-2])
    assert value("sap", noisy()[0], torch.from_numpy(factors))[""] == pytest.approx(np.mean(gaps), rel=1e-5)


def test_a_threshold_by_a_loop() -> None:
    """Of two classes: the threshold that leaves the least impurity, each class weighing as much."""
    codes, factors = noisy(200)
    rare = (factors[:, 2:] == 0).long()  # a quarter
    codes, v = codes.double().numpy(), rare[:, 0].numpy()
    weight = 1 / np.bincount(v)[v]

    def accuracy(z: np.ndarray) -> float:
        best = (np.inf, 0.0)
        for threshold in np.sort(z)[:-1]:
            impurity, right = 0.0, 0.0
            for side in (z <= threshold, z > threshold):
                shares = np.array([weight[side & (v == value)].sum() for value in (0, 1)])
                impurity += shares.sum() - (shares**2).sum() / shares.sum()
                right += shares.max() / 2
            best = min(best, (impurity, right))
        return best[1]

    ordered = sorted(map(accuracy, codes.T))
    metric = SAP(categorical=[0])
    metric.update(torch.from_numpy(codes), rare)
    assert float(metric.compute()) == pytest.approx(ordered[-1] - ordered[-2], rel=1e-6)


@pytest.mark.parametrize("classes", [(), (0, 2)])
def test_dci_by_scikit_learn_and_scipy(classes: tuple[int, ...]) -> None:
    codes, factors = (each.numpy() for each in noisy())
    order = sorted(range(len(codes)), key=lambda row: (*factors[row][::-1], *codes[row][::-1]))  # the last column first
    codes, factors = codes[order].astype(np.float64), factors[order]
    rows = np.random.default_rng(3).permutation(len(codes))
    train, test = rows[:300], rows[300:]
    table, told = [], []
    for k, v in enumerate(factors.T):
        make = RandomForestClassifier if k in classes else RandomForestRegressor
        forest = make(20, max_depth=8, max_features=None, random_state=3).fit(codes[train], v[train])
        table.append(forest.feature_importances_)
        guessed = forest.predict(codes[test])
        spread = ((v[test] - v[test].mean()) ** 2).sum()
        told.append((guessed == v[test]).mean() if k in classes else 1 - ((guessed - v[test]) ** 2).sum() / spread)
    importance = np.array(table).T  # (D, F)
    apart = [1 - entropy(row, base=3) for row in importance]
    metric = DCI(categorical=classes, seed=3)
    metric.update(*noisy())
    assert values_of(metric.compute()) == pytest.approx(
        {
            "disentanglement": np.average(apart, weights=importance.sum(axis=1)),
            "completeness": np.mean([1 - entropy(column, base=4) for column in importance.T]),
            "informativeness": np.mean(told),
        },
        rel=1e-5,
    )


def drawn_scores(codes: np.ndarray, factors: np.ndarray, group: int, points: int) -> tuple[float, float]:
    """FactorVAE's and beta-VAE's scores by plain loops and other draws."""
    from sklearn.svm import LinearSVC

    generator = np.random.default_rng(17)
    codes = codes / codes.std(axis=0)

    def rows_that_share() -> tuple[int, np.ndarray]:
        k = generator.integers(factors.shape[1])
        row = generator.integers(len(factors))
        return k, np.flatnonzero(factors[:, k] == factors[row, k])

    table = np.zeros((codes.shape[1], factors.shape[1]))
    guesses = []
    for point in range(2 * points):
        k, rows = rows_that_share()
        chosen = generator.permutation(rows)[:group]
        unit = int(np.argmin([np.var(codes[chosen, i]) for i in range(codes.shape[1])]))
        if point < points:
            table[unit, k] += 1
        else:
            guesses.append(table[unit].argmax() == k)
    x, y = [], []
    for _ in range(2 * points):
        k = generator.integers(factors.shape[1])
        apart = []
        for _ in range(group):
            row = generator.integers(len(factors))
            other = generator.choice([r for r in np.flatnonzero(factors[:, k] == factors[row, k]) if r != row])
            apart.append(np.abs(codes[row] - codes[other]))
        x.append(np.mean(apart, axis=0))
        y.append(k)
    linear = LinearSVC().fit(x[:points], y[:points])
    return float(np.mean(guesses)), float(linear.score(x[points:], y[points:]))


def test_scores_of_groups_by_other_draws() -> None:
    generator = torch.Generator().manual_seed(5)
    factors = torch.randint(4, (400, 3), generator=generator)
    mixing = torch.tensor([[1.0, 0.5, 0.2], [0.6, 1.0, 0.3], [0.3, 0.2, 1.0]])
    codes = factors.float() @ mixing + torch.randn(400, 3, generator=generator)
    factor, beta = drawn_scores(codes.double().numpy(), factors.numpy(), 8, 400)
    one, other = FactorVAEScore(group=8, points=2000), BetaVAEScore(group=8, points=2000)
    # four standard errors of 400 guesses
    assert float(one(codes, factors)) == pytest.approx(factor, abs=4 * np.sqrt(factor * (1 - factor) / 400))
    assert float(other(codes, factors)) == pytest.approx(beta, abs=4 * np.sqrt(beta * (1 - beta) / 400))
    assert 0.4 < factor < 0.95  # neither chance nor certainty
    assert 0.4 < beta < 0.95


def test_no_row_is_a_pair_with_itself() -> None:
    factors = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    codes = torch.tensor([[0.0], [1.0], [3.0], [4.0]])  # 1 apart where the first is held, 3 where the second is
    assert float(BetaVAEScore(group=1)(codes, factors)) == 1


def test_robustness_by_a_loop() -> None:
    codes, factors = noisy()
    z, v = codes.double().numpy(), factors.numpy()
    robust, weights = [], []
    for i in range(z.shape[1]):
        whole = max(abs(each - z[:, i].mean()) for each in z[:, i])
        best = 0.0
        for k in range(v.shape[1]):
            left = 0.0
            for one in set(v[:, k]):
                own = z[v[:, k] == one, i]
                left += len(own) / len(z) * max(abs(each - own.mean()) for each in own)
            best = max(best, 1 - left / whole)
        robust.append(best)
        weights.append(whole)
    metric = IRS(quantile=1)
    metric.update(codes, factors)
    assert float(metric.compute()) == pytest.approx(np.average(robust, weights=weights), rel=1e-6)


# ---- without factors ------------------------------------------------------------------------------------------------


def models(rows: int = 300) -> list[Tensor]:
    z = torch.randn(rows, 3, generator=torch.Generator().manual_seed(2))
    silent = 1e-3 * z[:, :1]
    return [z, torch.cat([-z.flip(1), silent], dim=1), z @ torch.tensor([[1.0, 1, 0], [1, -1, 0], [0, 0.5, 1]]),
            z[:, :2] ** 3]  # fmt: skip


def test_ranking_by_a_loop() -> None:
    codes = [each.double().numpy() for each in models()]
    used = [each[:, each.var(axis=0) > 0.01] for each in codes]
    found = []
    for i, j in itertools.product(range(4), repeat=2):
        a, b = used[i], used[j]
        table = np.array([[abs(spearmanr(x, y).statistic) for y in b.T] for x in a.T])
        sum_of_rows = sum(row.max() ** 2 / row.sum() for row in table)
        sum_of_columns = sum(column.max() ** 2 / column.sum() for column in table.T)
        found.append((sum_of_rows + sum_of_columns) / (a.shape[1] + b.shape[1]))
    table = np.array(found).reshape(4, 4)
    expected = [np.median([table[i, j] for j in range(4) if j != i]) for i in range(4)]
    metric = UDR(4)
    for batch in zip(*(each.split(77) for each in models()), strict=True):
        metric.update(batch)
    assert metric.compute().numpy() == pytest.approx(np.array(expected), rel=1e-5)


def test_models_that_agree_up_to_order_and_sign_have_one() -> None:
    codes = grid(values=5, factors=3, times=1).double()  # whose units are not correlated at all
    assert UDR(3)([codes, -codes[:, [2, 0, 1]], 3 * codes.flip(1) + 1]).tolist() == pytest.approx([1, 1, 1])
    still = torch.zeros(len(codes), 3)
    assert UDR(2)([codes, still]).tolist() == [0, 0]  # of one no unit says anything


def test_total_correlation_by_its_closed_form_and_by_numpy() -> None:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(5000, 4, generator=generator) @ torch.randn(4, 4, generator=generator) + 100
    covariance = np.cov(mixed.double().numpy().T)
    expected = 0.5 * (np.log(np.diag(covariance)).sum() - np.linalg.slogdet(covariance)[1])
    metric = GaussianTotalCorrelation(5)
    for part in mixed.split(999):
        metric.update(torch.cat([part, torch.full((len(part), 1), 0.1)], dim=1))  # a unit that does not vary
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-5)
    z = torch.randn(200_000, 2, generator=generator)
    pair = torch.stack([z[:, 0], 0.6 * z[:, 0] + 0.8 * z[:, 1]], dim=1)
    assert float(GaussianTotalCorrelation(2)(pair)) == pytest.approx(-0.5 * np.log(1 - 0.36), abs=0.005)
    assert float(GaussianTotalCorrelation(2)(z[:, :1].repeat(1, 2))) == float("inf")
    with pytest.raises(InputError, match="covariance of 2 units needs more samples than that, got 2"):
        GaussianTotalCorrelation(2)(z[:2])


# ---- ranks, order, types --------------------------------------------------------------------------------------------


def of_batches(batches: list[Any], ranked: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, make in METRICS.items():
        metric = make()
        for batch in batches:
            metric.update(*batch)
        found[name] = values_of(metric.compute())
    ranking, total = UDR(4), GaussianTotalCorrelation(4)
    for batch in ranked:
        ranking.update(batch)
    for codes, _ in batches:
        total.update(codes)
    return found | {"udr": ranking.compute().tolist(), "total correlation": float(total.compute())}


def all_batches() -> tuple[list[Any], list[Any]]:
    rows, ranked = noisy(), models()
    return [list(zip(*(part.split(140) for part in each), strict=True)) for each in (rows, ranked)]


def in_a_process(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    shared = of_batches(*(each[rank::world] for each in all_batches()))
    alone = of_batches(*(each if rank == 0 else [] for each in all_batches()))
    torch.save([shared, alone], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_value_of_one(tmp_path: Any) -> None:
    """Each with some batches, and one with all of them."""
    processes.run(in_a_process, (2, str(tmp_path)), 2)
    expected = of_batches(*all_batches())
    for found in [each for rank in range(2) for each in torch.load(tmp_path / f"{rank}.pt")]:
        for name in (*METRICS, "udr"):
            assert found[name] == expected[name], name  # bit for bit
        assert found["total correlation"] == pytest.approx(expected["total correlation"], rel=1e-6)  # of sums


@every_metric
def test_the_order_of_rows_does_not_matter(name: str) -> None:
    codes, factors = noisy()
    order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))
    assert value(name, codes[order], factors[order]) == value(name, codes, factors)
    gaps = torch.tensor([3, 4, 1_000_000, 2_000_000_000])[factors]  # which numbers name the values does not, either
    if name not in ("sap", "dci", "sap of classes", "dci of classes"):
        assert value(name, codes, gaps) == value(name, codes, factors)
    else:  # but to those that are ordered, where a line goes through them
        assert value(name, codes, gaps) != value(name, codes, factors)


@pytest.mark.parametrize("name", ["dci", "explicitness", "factor_vae_score", "beta_vae_score"])
def test_what_is_drawn_follows_the_seed(name: str) -> None:
    codes, factors = noisy()
    codes = codes + torch.randn(codes.shape, generator=torch.Generator().manual_seed(9))
    kind = {"dci": DCI, "explicitness": Explicitness, "factor_vae_score": FactorVAEScore,
            "beta_vae_score": BetaVAEScore}[name]  # fmt: skip
    found = [values_of(kind(seed=seed)(codes, factors)) for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert found[0] != found[2]
    assert found[0] == pytest.approx(found[2], abs=0.1)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@every_metric
def test_a_module_in_half_precision_leaves_the_rows(name: str) -> None:
    codes, factors = noisy()
    module = torch.nn.Module()
    module.metric = METRICS[name]()
    module.half()
    module.metric.update(codes[:200], factors[:200].int())
    module.to(torch.bfloat16)
    module.metric.update(codes[200:], factors[200:])
    assert values_of(module.metric.compute()) == value(name, codes, factors)
    assert values_of(pickle.loads(pickle.dumps(module.metric)).compute()) == value(name, codes, factors)
    module.metric.reset()
    assert all(np.isnan(each) for each in values_of(module.metric.compute()).values())


@every_metric
def test_plot(name: str) -> None:
    from matplotlib import pyplot

    metric = METRICS[name]()
    values = [metric(*noisy(seed=seed)) for seed in range(2)]
    figure, axes = metric.plot()
    codes, factors = (torch.cat(each) for each in zip(noisy(seed=0), noisy(seed=1), strict=True))
    total = value(name, codes, factors)  # of what forward was given
    assert values_of(metric.compute()) == total
    drawn = [float(y) for line in axes.get_lines() for y in line.get_ydata()]
    assert all(any(np.isclose(y, each) for y in drawn) for each in total.values())
    metric.plot(values, axes)
    pyplot.close(figure)


# ---- what is refused ------------------------------------------------------------------------------------------------

CODES, FACTORS = noisy(64)
NAN = torch.where(torch.arange(4) == 2, torch.nan, CODES)
MISSING = torch.where(torch.arange(3) == 1, -1, FACTORS)


@pytest.mark.parametrize(
    ("codes", "factors", "match"),
    [
        (NAN, FACTORS, "64 of the 256 values of codes are NaN or infinite"),
        (CODES / 0, FACTORS, "values of codes are NaN or infinite"),
        (CODES, MISSING, "64 of the 64 rows lack a factor's value .*row 0, factor 'size'"),
        (CODES[0], FACTORS, r"codes must have the shape \(N, D\), got \(4,\)"),
        (CODES[:, :0], FACTORS, r"codes must have the shape \(N, D\), got \(64, 0\)"),
        (CODES, FACTORS[:60], r"factors must have the shape \(64, F\), a row for each code, got \(60, 3\)"),
        (CODES, FACTORS[:, 0], r"factors must have the shape .* got \(64,\)\n.*unsqueeze"),
        (CODES, FACTORS.float(), "factors must be integers, got torch.float32"),
        (CODES, FACTORS[:, :2], "names has 3 names, shape, size, angle, of 2 factors"),
        (CODES[:, :3], FACTORS, "the width of this batch is .*'codes': 3.*of earlier ones .*'codes': 4"),
    ],
)
def test_batches_that_cannot_be_used(codes: Tensor, factors: Tensor, match: str) -> None:
    metric = MIG(names=["shape", "size", "angle"])
    metric.update(CODES, FACTORS)
    before = float(metric.compute())
    with pytest.raises(InputError, match=match):
        metric.update(codes, factors)
    assert float(metric.compute()) == before


@every_metric
def test_a_factor_with_one_value(name: str) -> None:
    metric = METRICS[name]()
    metric.names = ("shape", "size", "angle")
    metric.update(CODES, FACTORS * torch.tensor([1, 0, 1]))
    with pytest.raises(InputError, match="factor 'size' has one value, 0, in all 64 rows"):
        metric.compute()


@every_metric
def test_codes_that_are_all_alike(name: str) -> None:
    with pytest.raises(InputError, match="no unit of the codes varies: all 64 rows are alike"):
        METRICS[name]()(torch.ones(64, 2), FACTORS)


@pytest.mark.parametrize(
    ("make", "rows", "match"),
    [
        (FactorVAEScore, 64, "FactorVAEScore needs 64 rows that share the value .*factor 0 has more than"),
        (BetaVAEScore, 2, "BetaVAEScore needs 2 rows that share the value .*factor 2 has more than 1 of the 2 rows"),
        (DCI, 8, "DCI needs 10 rows at least"),
        (Explicitness, 5, "has a value with a single row among 5"),
    ],
)
def test_too_few_rows(make: Callable[[], Metric], rows: int, match: str) -> None:
    factors = torch.stack([torch.tensor([0, 0, 1, 1, 1])] * 2 + [torch.tensor([0, 1, 2, 3, 4])], dim=1)
    codes, factors = (CODES[:5], factors) if rows == 5 else (CODES[:rows], FACTORS[:rows])
    if rows == 2:
        factors = torch.tensor([[0, 0, 0], [1, 1, 1]])
        match = match.replace("factor 2", "factor 0")
    with pytest.raises(InputError, match=match):
        make()(codes, factors)


@pytest.mark.parametrize("make", [Modularity, FactorVAEScore, BetaVAEScore])
def test_a_single_factor_is_compared_with_none(make: Callable[[], Metric]) -> None:
    with pytest.raises(InputError, match="compares factors with each other, and there is one, factor 0"):
        make()(CODES, FACTORS[:, :1])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: MIG(bins=0), "bins of MIG"),
        (lambda: Modularity(bins=-1), "bins of Modularity"),
        (lambda: DCI(trees=0), "trees of DCI"),
        (lambda: DCI(depth=0), "depth of DCI"),
        (lambda: FactorVAEScore(group=1), "group of FactorVAEScore must be 2 or more"),
        (lambda: BetaVAEScore(points=0), "points of BetaVAEScore"),
        (lambda: IRS(quantile=0), "quantile of IRS"),
        (lambda: UDR(1), "models of UDR"),
        (lambda: UDR(2, threshold=-1), "threshold of UDR"),
        (lambda: GaussianTotalCorrelation(0), "latent_dim of GaussianTotalCorrelation"),
        (lambda: SAP(categorical=[3])(CODES, FACTORS), "categorical of SAP names factor 3, and there are 3"),
        (lambda: UDR(2)([CODES]), "codes must be those of 2 models, got 1"),
        (lambda: UDR(2)([CODES, CODES[:5]]), r"codes of model 1 must have the shape \(64, D\)"),
        (lambda: UDR(2)([CODES, NAN]), "values of codes of model 1 are NaN"),
        (lambda: UDR(2)([CODES[:2], CODES[:2]]), "UDR needs three samples at least"),
    ],
)
def test_options_that_cannot_work(make: Callable[[], Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        make()


# ---- of a model -----------------------------------------------------------------------------------------------------


class Same(Autoencoder):
    """Whose code is its input."""

    def encode(self, x: Tensor, **given: Tensor) -> Tensor:
        return x


def made_of(rows: int = 1200) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    kind, size = generator.choice(["disc", "bar", "ring"], rows), generator.integers(0, 4, rows)
    return {"a": np.unique(kind, return_inverse=True)[1] + 0.0, "b": 2.0 * size - 1, "kind": kind, "size": size}


def test_a_model_beside_shuffled_codes() -> None:
    data = HFDataModule({"train": made_of(50), "test": made_of()}, factors=["kind", "size"], val_fraction=0)
    assert data.input_columns == ["a", "b"]  # the factors are none of it
    model = Same(data.input_shape, latent_dim=2)
    found = disentanglement(model, data)
    assert found == disentanglement(model, data)
    assert model.training
    best = ["mig", "sap", "dci_disentanglement", "dci_completeness", "dci_informativeness", "modularity", "irs",
            "factor_vae_score", "beta_vae_score"]  # fmt: skip
    expected = dict.fromkeys(best, 1.0) | {"sap": np.mean([2 / 3, 1])}
    assert {name: found[name] for name in best} == pytest.approx(expected, abs=0.02)
    shuffled = {name: found[f"{name}_shuffled"] for name in best}
    shuffled.pop("modularity")  # of units that know nothing it is what chance makes it
    floors = {"factor_vae_score": 0.5, "beta_vae_score": 0.5, "dci_informativeness": np.mean([1 / 3, 0])}
    assert shuffled == pytest.approx({name: floors.get(name, 0.0) for name in shuffled}, abs=0.1)
    assert found["explicitness"] > 0.8
    assert found["explicitness_shuffled"] == pytest.approx(0.5, abs=0.06)
    assert found["total_correlation"] == pytest.approx(found["total_correlation_shuffled"], abs=0.01)
    assert set(found) == {f"{n}{s}" for n in (*best, "explicitness", "total_correlation") for s in ("", "_shuffled")}


def test_a_model_on_data_that_do_not_do() -> None:
    rows = made_of()
    columns = Tabular(columns=["a", "b"])
    plain = HFDataModule({"train": rows, "test": rows}, kind=columns)
    model = Same((2,), latent_dim=2)
    with pytest.raises(InputError, match="no factors that are known"):
        disentanglement(model, plain)
    rows["size"] = rows["size"] * 0 + 2
    with pytest.raises(InputError, match="factor 'size' has one value"):
        disentanglement(model, HFDataModule({"train": rows, "test": rows}, factors=["kind", "size"]))
    one = disentanglement(model, HFDataModule({"train": rows, "test": rows}, factors=["kind"], kind=columns))
    assert "mig" in one
    assert "modularity" not in one  # it compares factors


def test_shuffled_codes_depend_on_nothing() -> None:
    rows = made_of()
    rows["b"] = rows["a"] + 0.5 * np.random.default_rng(1).normal(size=len(rows["a"]))
    data = HFDataModule({"train": rows, "test": rows}, factors=["kind", "size"])
    found = disentanglement(Same((2,), latent_dim=2), data, seed=4)
    assert found["total_correlation"] > 0.5
    assert found["total_correlation_shuffled"] < 0.01
