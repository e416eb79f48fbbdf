"""Scores: -log p(x) or its bound, for every variant; against closed forms and quadrature."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from asking import given_of, shape_of, told
from scipy import stats
from torch import Tensor

from lightning_ae import VAE, Autoencoder, InputError, get_model, list_models
from lightning_ae.architectures import MLP
from lightning_ae.exact import Noise, keyed, noise_of_step, rows
from lightning_ae.models.finetune import FineTuneClassifier
from lightning_ae.parts import Bernoulli, Gaussian, Laplace, Likelihood, Mixed, NegativeBinomial, Poisson
from lightning_ae.parts.head import LikelihoodHead
from lightning_ae.parts.objectives import TotalCorrelation

SHAPE = (6,)
NAMES = [name for name in list_models() if name != "score_matching"]


def made(name: str, masked: bool = False) -> tuple[Any, Tensor, dict[str, Tensor]]:
    """A variant in float64, samples, and what it is given besides."""
    torch.manual_seed(0)
    cls: Any = get_model(name)
    if masked:
        cls = type(f"Masked{cls.__name__}", (cls,), {"given": (*cls.given, "mask"), "__module__": __name__})
    shape = shape_of(name, SHAPE)
    model = told(cls(shape, 4)).double()
    x = torch.rand(9, *shape, dtype=torch.float64)
    return model, x, given_of(model, len(x))


def part(given: dict[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {role: value[rows] for role, value in given.items()}


# ---- every variant --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_scores_belong_to_rows(name: str) -> None:
    """A score is finite, the same again and whatever stands beside the row; the model is left as it was."""
    model, x, given = made(name)
    model.train()
    model.encoder.eval()
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    draws = torch.get_rng_state()
    for options in ({}, {"per": "feature"}, *([{"draws": 3}] if "sample" in model.latents else [])):
        score = model.score(x, **options, **given)
        assert score.shape == (x.shape if "per" in options else (9,))
        assert score.isfinite().all()
        assert not score.requires_grad
        assert torch.equal(score, model.score(x, **options, **given))
        halves = [model.score(x[a:b], **options, **part(given, slice(a, b))) for a, b in ((0, 1), (1, 6), (6, 9))]
        torch.testing.assert_close(torch.cat(halves), score, rtol=1e-10, atol=1e-10)
        if "sample" in model.latents:
            assert not torch.equal(score, model.score(x, seed=1, **options, **given))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())
    assert torch.equal(torch.get_rng_state(), draws)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_shares_and_what_the_code_costs_are_the_score(name: str, masked: bool) -> None:
    if masked and get_model(name).__name__ == "VampPriorVAE":
        pytest.skip("takes no mask")
    model, x, given = made(name, masked)
    shares = model.score(x, "feature", **given)
    with keyed(0, "score", samples=len(x), alike=True):
        cost = next(iter(model.eval().coded(*model.read({"input": x, **given})[:1], **given))).divergence
    total = shares.flatten(1).sum(dim=1) + (0 if cost is None else cost)
    torch.testing.assert_close(total, model.score(x, **given), rtol=1e-10, atol=1e-10)
    if masked:
        assert not shares[~given["mask"]].any()
        assert shares[given["mask"]].all()


def test_what_a_deterministic_model_scores_is_its_loss_on_clean_data() -> None:
    for name in ("ae", "denoising", "contractive", "sparse"):
        model, x, _ = made(name)
        model.eval()
        torch.testing.assert_close(model.score(x).mean(), model.reconstruction_loss(model.encode(x), x))


def test_the_weights_of_an_objective_do_not_count() -> None:
    torch.manual_seed(0)
    plain = VAE(SHAPE, 3)
    x = torch.rand(5, *SHAPE)
    for options in ({"beta": 7.0}, {"beta": 3.0, "objective": TotalCorrelation(alpha=2.0)}):
        other = told(VAE(SHAPE, 3, **options))
        other.load_state_dict(plain.state_dict(), strict=False)
        assert torch.equal(other.score(x), plain.score(x))


# ---- what they are --------------------------------------------------------------------------------------------------


def linear_gaussian() -> tuple[VAE, Tensor, Tensor, torch.distributions.MultivariateNormal]:
    """A linear VAE whose p(x) is Gaussian and whose q is somewhat off; samples, -log p(x), and the posterior."""
    torch.manual_seed(3)
    model = VAE((4,), 2, architecture=MLP(hidden=()), likelihood=Gaussian(scale=0.7)).double().eval()
    networks: Any = (model.encoder, model.decoder)
    encoder, decoder = (next(each for each in net.modules() if isinstance(each, torch.nn.Linear)) for net in networks)
    weight, bias = decoder.weight.detach(), decoder.bias.detach()
    precision = torch.eye(2, dtype=torch.float64) + weight.T @ weight / 0.49
    step = precision.inverse() @ weight.T / 0.49
    with torch.no_grad():
        encoder.weight.copy_(torch.cat([step, torch.zeros_like(step)]))
        encoder.bias.copy_(torch.cat([0.2 - step @ bias, 0.3 - precision.diagonal().log()]))
    covariance = weight @ weight.T + 0.49 * torch.eye(4, dtype=torch.float64)
    density = stats.multivariate_normal(bias.numpy(), covariance.numpy())
    x = torch.as_tensor(density.rvs(40, random_state=0))
    posterior = torch.distributions.MultivariateNormal((x - bias) @ step.T, precision_matrix=precision)
    return model, x, -torch.as_tensor(density.logpdf(x.numpy())), posterior


def test_scores_bound_a_linear_gaussian_model() -> None:
    """The mean of the bound lies above -log p(x) by KL(q || posterior); 500 draws come near."""
    model, x, exact, posterior = linear_gaussian()
    one = torch.stack([model.score(x, seed=seed) for seed in range(100)])
    error = one.std(dim=0) / math.sqrt(len(one))
    assert (one.mean(dim=0) - exact > -4 * error).all()
    q: Any = model.infer(x)
    own = torch.distributions.MultivariateNormal(q.mean, torch.diag_embed(q.log_variance.exp()))
    gap = torch.distributions.kl_divergence(own, posterior)
    assert ((one.mean(dim=0) - exact - gap).abs() < 4.5 * error).all()
    few, many = (torch.stack([model.score(x, draws=k, seed=s) for s in range(n)]) for k, n in ((5, 100), (500, 8)))
    assert one.mean() > few.mean() > many.mean()
    means = many.mean(dim=1)  # over rows; it is the seeds that are independent
    assert (means.mean() - exact.mean()).abs() < 2 * means.std() / math.sqrt(8)


def test_a_score_of_many_draws_comes_to_the_quadrature() -> None:
    """A network that is no line, with one unit: -log p(x) by a sum over a grid of codes."""
    torch.manual_seed(1)
    model = VAE((3,), 1, architecture=MLP(hidden=(8,)), likelihood=Bernoulli()).double().eval()
    x = (torch.rand(6, 3, dtype=torch.float64) < 0.5).double()
    grid = torch.linspace(-9, 9, 4001, dtype=torch.float64).unsqueeze(1)
    log_p = torch.stack([model.log_likelihood(grid, row.expand(len(grid), 3)) for row in x])
    prior = -0.5 * grid[:, 0].square() - 0.5 * math.log(2 * math.pi)
    exact = -(log_p + prior + math.log(18 / 4000)).logsumexp(dim=1)
    found = torch.stack([model.score(x, draws=300, seed=seed) for seed in range(6)])
    error = found.std(dim=0) / math.sqrt(6)
    assert ((found.mean(dim=0) - exact).abs() < 4 * error + 1e-4).all()
    assert (torch.stack([model.score(x, seed=s) for s in range(40)]).mean(dim=0) > exact).all()


# ---- the shares of likelihoods --------------------------------------------------------------------------------------

LIKELIHOODS: list[Likelihood] = [
    Gaussian(), Gaussian("optimal"), Gaussian("optimal_per_feature"), Gaussian("learned"), Gaussian("per_pixel"),
    Laplace(2.0), Laplace("optimal"), Laplace("optimal_per_feature"), Laplace("per_pixel"),
    Poisson(library=True), NegativeBinomial(dispersion="per_value"), NegativeBinomial(library=True),
    Mixed((0, 3, 0, 2, 3), Gaussian("optimal_per_feature")), Mixed((0, 3, 0, 2, 3), Laplace("optimal")),
    Mixed((0, 0, 0, 0, 0), NegativeBinomial()), Mixed((2, 3, 2, 2, 3)),
]  # fmt: skip


def registered() -> list[Likelihood]:
    """Every likelihood that `lightning_ae.parts` exports."""
    from lightning_ae import parts

    found: list[Any] = [getattr(parts, name) for name in parts.__all__]
    own = [cls for cls in found if isinstance(cls, type) and issubclass(cls, Likelihood) and cls is not Likelihood]
    return [cls() for cls in own if cls is not Mixed]


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
@pytest.mark.parametrize("likelihood", [*registered(), *LIKELIHOODS], ids=str)
def test_shares_of_every_likelihood_add_up(likelihood: Likelihood, shape: tuple[int, ...]) -> None:
    if isinstance(likelihood, Mixed) and len(shape) > 1:
        pytest.skip("of vectors only")
    g = torch.Generator().manual_seed(0)
    head = LikelihoodHead(likelihood, shape).double().eval()
    if head.fits:
        head.fitted.copy_(torch.randn(head.fits, generator=g))
    if isinstance(likelihood, Mixed):
        classes = torch.tensor([k or 4 for k in likelihood.categories])
        x = (torch.rand(7, 5, generator=g) * classes).floor().double()
    else:
        high = 1.0 if likelihood.support[1] == 1 else 4.0
        x = torch.rand(7, *shape, generator=g).double() * high
        x = x.round().clamp(*likelihood.support) if likelihood.whole else x
    output = torch.randn(7, *likelihood.output_shape(shape), generator=g).double()
    for mask in (None, torch.rand(7, *shape, generator=g) < 0.6):
        params = head(output, **likelihood.implies(x, mask))
        unknown = x if mask is None else torch.where(mask, x, math.nan)
        each = head.log_prob_each(params, unknown, mask)
        assert each.shape == x.shape
        assert each.dtype == torch.float64
        torch.testing.assert_close(each.flatten(1).sum(1), head.log_prob(params, unknown, mask), rtol=1e-10, atol=1e-10)
        if mask is not None:
            assert not each[~mask].any()


def test_shares_are_those_of_scipy() -> None:
    x, location = torch.tensor([[0.3, 2.0, 5.0]]).double(), torch.tensor([[0.1, 1.0, 1.5]]).double()
    found = {
        "norm": Gaussian(0.7).log_prob_each(location.unsqueeze(1), x),
        "laplace": Laplace(0.7).log_prob_each(location.unsqueeze(1), x),
        "poisson": Poisson().log_prob_each(location.unsqueeze(1), x.round()),
    }
    expected = {
        "norm": stats.norm(location, 0.7).logpdf(x),
        "laplace": stats.laplace(location, 0.7).logpdf(x),
        "poisson": stats.poisson(location.exp()).logpmf(x.round()),
    }
    for name, value in found.items():
        torch.testing.assert_close(value, torch.as_tensor(expected[name]), rtol=1e-10, atol=1e-10)


# ---- draws ----------------------------------------------------------------------------------------------------------


def test_all_rows_get_the_same_draws() -> None:
    def drawn(n: int, rows_of: int, *shape: int) -> Tensor:
        with keyed(5, "score", samples=n, alike=True):
            noise_of_step("a").randn_like(torch.zeros(n, *shape))
            return noise_of_step("a").randn_like(torch.zeros(n * rows_of, *shape))

    one = drawn(1, 1, 3)
    assert torch.equal(drawn(7, 1, 3), one.expand(7, 3))
    pairs = drawn(1, 2, 3)  # two draws of each row beside each other
    assert torch.equal(drawn(4, 2, 3).unflatten(0, (4, 2)), pairs.expand(4, 2, 3))
    with rows("by_draw"):
        assert torch.equal(drawn(4, 2, 3).unflatten(0, (2, 4)), pairs[:, None].expand(2, 4, 3))
    with rows("shared"):
        assert len(drawn(4, 2, 3).unique()) == 24
    assert stats.kstest(drawn(3, 1, 5000)[0].numpy(), "norm").pvalue > 1e-3
    with keyed(5, "score", samples=1, alike=True):
        assert not torch.equal(noise_of_step("a").randn_like(torch.zeros(1, 3)), one)  # the first of two draws
    assert drawn(0, 1, 3).shape == (0, 3)
    assert type(Noise("a")) is Noise


# ---- what has none --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("vae", {"draws": 0}, "draws must be a positive integer, got 0"),
        ("vae", {"draws": True}, "draws must be a positive integer"),
        ("vae", {"draws": 2, "per": "feature"}, "per='feature' takes one draw, got draws=2"),
        ("vae", {"per": "features"}, "per must be 'sample' or 'feature', got 'features'"),
        ("ae", {"draws": 2}, "Autoencoder gives one code"),
        ("vq_vae", {"draws": 2}, "VQVAE gives one code"),
        ("score_matching", {}, "ScoreMatchingAutoencoder has no likelihood"),
    ],
)
def test_what_is_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        get_model(name)(SHAPE, 4).score(torch.rand(2, *SHAPE), **options)


def test_values_that_a_likelihood_does_not_take_are_named() -> None:
    x = torch.rand(4, *SHAPE)
    x[2, 1] = 1.5
    with pytest.raises(InputError, match=r"row 2, column 1: 1.5, which the model's likelihood Bernoulli"):
        Autoencoder(SHAPE, 2, likelihood=Bernoulli()).score(x)
    with pytest.raises(InputError, match="row 12, column 1: 1.5"):
        Autoencoder(SHAPE, 2, likelihood=Bernoulli()).score_batch(x, x, first=10)
    x[0, 3] = math.nan
    with pytest.raises(InputError, match="row 0, column 3"):
        VAE(SHAPE, 2).score_batch(x, x)


def test_models_without_a_likelihood_or_a_cost_say_so() -> None:
    with pytest.raises(InputError, match="FineTuneClassifier classifies"):
        FineTuneClassifier(Autoencoder(SHAPE, 2), 2).score(torch.rand(2, *SHAPE))

    class Drawing(Autoencoder):
        latents = ("mean", "sample")

    with pytest.raises(InputError, match="Drawing draws codes, and does not say what they cost"):
        Drawing(SHAPE, 2).score(torch.rand(2, *SHAPE))
