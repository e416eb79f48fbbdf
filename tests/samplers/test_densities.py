"""The densities of samplers, against closed forms, scikit-learn, quadrature and hand-made distributions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_ae import InputError
from lightning_ae.exact import Noise
from lightning_ae.samplers import (
    FlowSampler,
    GaussianSampler,
    IndexSampler,
    MixtureSampler,
    Sampler,
    Space,
    TwoStageSampler,
)

SHORT: dict[str, Any] = {"updates": 40, "batch_size": 64}
NUMBERS = [
    GaussianSampler(),
    MixtureSampler(3),
    FlowSampler(steps=2, hidden=16, **SHORT),
    FlowSampler("iaf", steps=2, hidden=16, **SHORT),
    TwoStageSampler(hidden=(16,), **SHORT),
]
INDICES = IndexSampler(width=16, layers=1, heads=2, **SHORT)


def name_of(sampler: Sampler) -> str:
    return f"{type(sampler).__name__}{getattr(sampler, 'kind', '')}"


def crescent(n: int, seed: int = 0) -> Tensor:
    """Codes (n, 2) far from a Gaussian, of other scales and places than 0 and 1."""
    draws = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
    bent = torch.stack([draws[:, 0], draws[:, 0].square() + 0.3 * draws[:, 1]], dim=1)
    return bent * torch.tensor([3.0, 0.2]) + torch.tensor([5.0, -40.0])


def correlated(n: int, seed: int = 0) -> Tensor:
    mix = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.1, 0.0], [-3.0, 0.5, 7.0]])
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)) @ mix.T + torch.tensor([1.0, -2.0, 30.0])


def categories(n: int, seed: int = 0) -> Tensor:
    """Indices (n, 3) of 4: the first uniform, the second the same in 9 of 10 rows, the third their sum's parity."""
    g = torch.Generator().manual_seed(seed)
    first, other = (torch.randint(4, (n,), generator=g) for _ in range(2))
    second = torch.where(torch.rand(n, generator=g) < 0.9, first, other)
    return torch.stack([first, second, (first + second) % 2], dim=1)


def probability(rows: Tensor) -> Tensor:
    first, second, third = rows.unbind(1)
    second_given = 0.9 * (first == second).double() + 0.1 / 4
    return second_given / 4 * (third == (first + second) % 2)


def draws(density: Any, n: int, seed: int = 0) -> Tensor:
    found: Tensor = density.sample(n, Noise(seed, "test"))
    return found


def off(covariance: Tensor, drawn: Tensor) -> float:
    """How far draws, whitened by their covariance, are from the identity's."""
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), drawn.T, upper=False)
    return float((torch.cov(white) - torch.eye(len(covariance)).double()).abs().max())


# ---- Gaussians ------------------------------------------------------------------------------------------------------


def test_a_gaussian_has_the_codes_moments_and_the_closed_density() -> None:
    codes = correlated(500)
    density = GaussianSampler().fit(codes)
    x = codes.double().numpy()
    # by numpy: the maximum-likelihood covariance, and the floor that the docstring states
    covariance = np.cov(x.T, bias=True) + 1e-6 * np.diag(x.std(axis=0) ** 2)
    reference = torch.distributions.MultivariateNormal(torch.from_numpy(x.mean(0)), torch.from_numpy(covariance))
    asked = correlated(50, seed=1)
    torch.testing.assert_close(density.log_prob(asked), reference.log_prob(asked.double()), rtol=1e-9, atol=1e-9)
    assert density.log_prob(asked.view(5, 10, 3)).shape == (5, 10)
    drawn = draws(density, 40_000)
    assert drawn.dtype == torch.float64
    error = torch.from_numpy(covariance).diag().sqrt() / 200
    assert ((drawn.mean(0) - reference.mean).abs() < 4 * error).all()
    assert off(torch.from_numpy(covariance), drawn) < 0.05


def test_a_mixture_is_scikit_learns() -> None:
    from sklearn.mixture import GaussianMixture

    codes = torch.cat([correlated(300), correlated(200, 2) * 0.1 + 50, correlated(100, 3) - 80])
    density: Any = MixtureSampler(3).fit(codes, seed=4)
    x = codes.double().numpy()
    shift, scale = x.mean(0), x.std(0)
    own = GaussianMixture(3, reg_covar=1e-6, max_iter=200, random_state=4).fit((x - shift) / scale)
    asked = correlated(60, seed=1).double()
    expected = own.score_samples((asked.numpy() - shift) / scale) - np.log(scale).sum()
    torch.testing.assert_close(density.log_prob(asked), torch.from_numpy(expected), rtol=1e-9, atol=1e-9)
    # draws: of each cluster as many as its weight says, with its moments
    drawn = draws(density, 30_000)
    nearest = torch.cdist(drawn, density.means).argmin(dim=1)
    shares = torch.bincount(nearest, minlength=3) / 30_000
    torch.testing.assert_close(shares.double(), density.weights, rtol=0, atol=0.02)
    for k in range(3):
        assert off(density.factors[k] @ density.factors[k].T, drawn[nearest == k]) < 0.1


@pytest.mark.filterwarnings("error")
def test_a_mixture_that_has_not_settled_says_so() -> None:
    with pytest.warns(UserWarning, match="not settled after 1 iterations"):
        MixtureSampler(3, iterations=1).fit(correlated(200))


# ---- flows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["maf", "iaf"])
def test_a_flow_integrates_to_one_and_draws_what_it_says(kind: Any) -> None:
    codes = crescent(2000)
    density: Any = FlowSampler(kind, steps=3, hidden=24, updates=150, batch_size=128, lr=5e-3).fit(codes)
    # by the sum over a grid, which at this width is exact to far below 1e-3
    sides = [torch.linspace(-25, 35, 600), torch.linspace(-43, -34, 900)]
    grid = torch.cartesian_prod(*sides)
    mass = density.log_prob(grid).double().exp().view(600, 900)
    cell = (60 / 599) * (9 / 899)
    assert abs(float(mass.sum()) * cell - 1) < 2e-3
    drawn = draws(density, 20_000)
    for axis, points in enumerate(sides):
        marginal = mass.sum(dim=1 - axis) * cell
        for power in (1, 2):
            expected = (marginal * (points.double() - codes.double().mean(0)[axis]) ** power).sum()
            values = (drawn[:, axis] - codes.double().mean(0)[axis]) ** power
            assert abs(values.mean() - expected) < 5 * values.std() / math.sqrt(len(values)) + 1e-3
    # it has learned: codes that it has not seen are likelier than under the Gaussian with their moments
    unseen = crescent(2000, seed=5)
    assert density.log_prob(unseen).mean() > GaussianSampler().fit(codes).log_prob(unseen).mean() + 0.3
    # what was held out is stated, in nats of the codes
    of_unseen = density.log_prob(unseen).double()
    assert abs(float(density.held_out) + float(of_unseen.mean())) < 4 * float(of_unseen.std()) / math.sqrt(200)


def test_a_flow_takes_two_values() -> None:
    with pytest.raises(InputError, match="there is one"):
        FlowSampler().fit(torch.randn(50, 1))


# ---- the second stage -----------------------------------------------------------------------------------------------


def test_two_stages_come_near_the_codes() -> None:
    codes = correlated(3000)
    density: Any = TwoStageSampler(hidden=(64,), updates=1000).fit(codes)
    drawn, scale = draws(density, 20_000), codes.double().std(0)
    assert ((drawn.mean(0) - codes.double().mean(0)).abs() < 0.1 * scale).all()
    found, wanted = (torch.cov((x.double() / scale).T) for x in (drawn, codes))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.15)
    # a bound on -log p: it cannot lie far below the entropy of the codes' own distribution
    entropy = -float(GaussianSampler().fit(codes).log_prob(correlated(3000, 7)).mean())
    assert entropy - 0.2 < float(density.held_out) < entropy + 1.5
    # the second decoder's noise has the variance that is kept, in units of the codes' scale
    without, noisy = (draws(density, 20_000) for density.variance.data in (torch.zeros(()), torch.tensor(4.0)))
    spread = ((noisy - without) / density.scale).std(dim=0)
    torch.testing.assert_close(spread, torch.full((3,), 2.0).double(), rtol=0.03, atol=0)
    with pytest.raises(InputError, match="TwoStageSampler draws codes, and has no density"):
        density.log_prob(codes)


# ---- indices --------------------------------------------------------------------------------------------------------


def test_indices_are_learned() -> None:
    density: Any = IndexSampler(width=24, layers=2, heads=2, updates=400, lr=5e-3).fit(categories(4000))
    every = torch.cartesian_prod(*[torch.arange(k) for k in (4, 4, 4)])
    own, expected = density.log_prob(every).exp().double(), probability(every)
    assert float(own.sum()) == pytest.approx(1, abs=1e-5)  # a distribution over all there is
    assert float((own - expected).abs().sum() / 2) < 0.05  # total variation
    entropy = -(expected * expected.clamp(min=1e-12).log()).sum()
    assert float(density.held_out) == pytest.approx(float(entropy), abs=0.15)
    drawn = draws(density, 8000)
    code = drawn @ torch.tensor([16, 4, 1])
    shares = torch.bincount(code, minlength=64) / 8000
    assert float((shares - own).abs().sum() / 2) < 0.05


def test_an_index_sees_none_after_it() -> None:
    density: Any = INDICES.build(Space(5, 6))
    rows = torch.randint(6, (3, 5), generator=torch.Generator().manual_seed(0))
    changed = rows.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 6
    before, after = density.logits(rows), density.logits(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=0, atol=1e-6)
    assert not torch.allclose(before[:, 4], after[:, 4])


# ---- all ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [*NUMBERS, INDICES], ids=name_of)
def test_a_fit_is_of_its_codes_and_seed_alone(sampler: Sampler) -> None:
    codes = categories(200) if sampler.discrete else correlated(200)
    torch.manual_seed(5)
    first = sampler.fit(codes, seed=3)
    untouched = torch.rand(1)
    torch.manual_seed(6)
    second = sampler.fit(codes, seed=3)
    torch.manual_seed(5)
    assert torch.equal(untouched, torch.rand(1))  # the global generator stays where it was
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num()), name
    assert torch.equal(draws(first, 9), draws(second, 9))
    assert not any(parameter.requires_grad for parameter in first.parameters())
    # what is built has the names, shapes and types of what is fitted: so a file is checked before it is read
    built = sampler.build(first.space).state_dict()
    assert {n: (t.shape, t.dtype) for n, t in built.items()} == {
        n: (t.shape, t.dtype) for n, t in first.state_dict().items()
    }


@pytest.mark.parametrize("sampler", NUMBERS, ids=name_of)
@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_values_that_do_not_vary_break_nothing(sampler: Sampler, scale: float) -> None:
    codes = torch.cat([scale * correlated(300), torch.full((300, 1), 123.0)], dim=1)
    density = sampler.fit(codes)
    drawn = draws(density, 500)
    assert torch.isfinite(drawn).all()
    spread = float(codes.double().std(0).max())
    assert (drawn[:, 3] - 123).abs().max() < 1e-4 * max(spread, 1)
    if not isinstance(sampler, TwoStageSampler):
        assert torch.isfinite(density.log_prob(codes)).all()


@pytest.mark.parametrize("sampler", [*NUMBERS, INDICES], ids=name_of)
def test_the_statistics_keep_their_types(sampler: Sampler) -> None:
    density = sampler.fit(categories(200) if sampler.discrete else correlated(200))
    types = {name: value.dtype for name, value in density.state_dict().items()}
    around = torch.nn.ModuleDict({"sampler": density}).to(torch.bfloat16)
    assert {n: t.dtype for n, t in around["sampler"].state_dict().items()} == types


@pytest.mark.parametrize("sampler", [*NUMBERS, INDICES], ids=name_of)
def test_plain_data_make_it_again(sampler: Sampler) -> None:
    from lightning_ae.config import from_plain, to_plain

    plain = to_plain(sampler, "sampler")
    assert plain["class_path"] == f"lightning_ae.samplers.{type(sampler).__name__}"
    assert from_plain(Sampler, plain, "sampler") == sampler
    assert from_plain(Sampler, {"class_path": type(sampler).__name__}, "sampler") == type(sampler)()


@pytest.mark.parametrize(
    ("sampler", "codes", "said"),
    [
        (MixtureSampler(10), torch.randn(9, 2), "takes 10 codes or more, got 9"),
        (GaussianSampler(), torch.randn(1, 2), "takes 2 codes or more, got 1"),
        (GaussianSampler(), torch.randn(5, 2, 3), r"must be vectors, \(N, units\), got the shape \(5, 2, 3\)"),
        (GaussianSampler(), torch.tensor([[0.0, 1], [2, torch.nan]]), "value 1 of code 1 is nan"),
        (FlowSampler(), torch.tensor([[0.0, 1], [torch.inf, 1]]), "value 0 of code 1 is inf"),
        (GaussianSampler(), torch.tensor([[0, 1], [1, 0]]), r"take IndexSampler\(\)"),
        (IndexSampler(), torch.randn(5, 2), "IndexSampler is of indices, and these codes are numbers"),
        (IndexSampler(), torch.tensor([[0, 1], [-1, 0]]), "value 0 of code 1 is -1, none of 0 to 1"),
    ],
)
def test_codes_that_it_cannot_be_fitted_to(sampler: Sampler, codes: Tensor, said: str) -> None:
    with pytest.raises(InputError, match=said):
        sampler.fit(codes)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MixtureSampler(0), "components of MixtureSampler must be a positive integer"),
        (lambda: FlowSampler("nvp"), "unknown kind of FlowSampler 'nvp'"),  # type: ignore[arg-type]
        (lambda: FlowSampler(lr=0.0), "lr of FlowSampler must be positive"),
        (lambda: TwoStageSampler(updates=0), "updates of TwoStageSampler must be a positive integer"),
        (lambda: TwoStageSampler(latent_dim=0), "latent_dim of TwoStageSampler"),
        (lambda: IndexSampler(width=10, heads=4), "width of IndexSampler must be a multiple of heads"),
    ],
)
def test_arguments_that_cannot_work(make: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()


def test_a_training_that_fails_says_so() -> None:
    with pytest.raises(InputError, match="give a smaller lr than 1e\\+20"):
        TwoStageSampler(updates=40, lr=1e20).fit(correlated(100))
