"""Likelihoods of counts against scipy, at their limits, and with a library."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from scipy import stats
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_ae import IWAE, VAE, Autoencoder, ConditionalVAE, InputError, LadderVAE, StackedAutoencoder
from lightning_ae.architectures import MLP
from lightning_ae.exact import Noise
from lightning_ae.parts import Likelihood, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from lightning_ae.parts.head import LikelihoodHead
from lightning_ae.parts.quantiles import log_gamma_quantile, poisson_quantile

ZINB = ZeroInflatedNegativeBinomial
ALL: list[Any] = [Poisson, NegativeBinomial, ZINB]
by_family = pytest.mark.parametrize("family", ALL)
COUNTS = torch.tensor([0.0, 1, 2, 7, 40, 300, 5000], dtype=torch.float64)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]


def params_of(*values: float, n: int = len(COUNTS)) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1).repeat(n, 1, 1)


def reference(log_mean: float, log_theta: float) -> Any:
    theta = math.exp(log_theta)
    return stats.nbinom(theta, theta / (theta + math.exp(log_mean)))


@pytest.mark.parametrize("log_mean", [-3.0, 0.0, 2.0, 9.0])
@pytest.mark.parametrize("log_theta", [-9.0, -1.0, 0.0, 3.4, 3.5, 8.0, 18.0])  # 3.47 is where the formula changes
def test_log_prob_is_scipys(log_mean: float, log_theta: float) -> None:
    x, counts = COUNTS.unsqueeze(1), COUNTS.numpy()
    found = Poisson().log_prob(params_of(log_mean), x)
    np.testing.assert_allclose(found, stats.poisson.logpmf(counts, math.exp(log_mean)), rtol=1e-9)
    found = NegativeBinomial(dispersion="per_value").log_prob(params_of(log_mean, log_theta), x)
    # scipy's own takes the difference of large gamma functions
    expected, tolerance = reference(log_mean, log_theta).logpmf(counts), 1e-9 * math.exp(max(0, log_theta - 8))
    np.testing.assert_allclose(found, expected, rtol=max(1e-9, tolerance), atol=1e-9)
    for logit in (-3.0, 0.0, 2.0):  # the zero-inflated one by a direct sum
        share = 1 / (1 + math.exp(-logit))
        found = ZINB(dispersion="per_value").log_prob(params_of(log_mean, logit, log_theta), x).exp()
        direct = share * (counts == 0) + (1 - share) * np.exp(expected)
        np.testing.assert_allclose(found, direct, rtol=max(1e-7, tolerance), atol=1e-300)


@pytest.mark.parametrize("log_mean", [-12.0, -40.0])  # where scipy's own gives -inf
def test_small_means(log_mean: float) -> None:
    found = NegativeBinomial(dispersion="per_value").log_prob(params_of(log_mean, 0.7), COUNTS.unsqueeze(1))
    theta, mean = math.exp(0.7), math.exp(log_mean)
    gammas = [math.lgamma(x + theta) - math.lgamma(theta) - math.lgamma(x + 1) for x in COUNTS.tolist()]
    odds = log_mean - 0.7 - math.log1p(mean / theta)
    expected = [g - theta * math.log1p(mean / theta) + x * odds for g, x in zip(gammas, COUNTS.tolist(), strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@by_family
def test_masses_sum_to_one_and_have_the_mean(family: Any) -> None:
    x = torch.arange(3000, dtype=torch.float64).unsqueeze(1)
    params = params_of(2.0, 0.3, -0.2, n=3000)[:, : family().num_parameters]
    mass = family().log_prob(params, x).exp()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-9)
    assert float(mass @ x[:, 0]) == pytest.approx(float(family().mean(params[:1])), rel=1e-9)


@by_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_finite_at_the_ends(family: Any, dtype: torch.dtype) -> None:
    options = {} if family is Poisson else {"dispersion": "per_value"}
    likelihood = family(**options)
    ends = torch.cartesian_prod(*[torch.tensor([-1e4, -60.0, 0.0, 60.0])] * likelihood.num_parameters)
    params = ends.view(-1, likelihood.num_parameters, 1).to(dtype).requires_grad_()
    for count in (0.0, 1.0, 1000.0):
        found = likelihood.log_prob(params, torch.full((len(params), 1), count, dtype=dtype))
        (gradient,) = torch.autograd.grad(found.sum(), params)
        assert torch.isfinite(found).all()
        assert torch.isfinite(gradient).all()


def test_without_dispersion_it_is_a_poisson_distribution() -> None:
    x = COUNTS[:5].float().unsqueeze(1)
    found = NegativeBinomial(dispersion="per_value").log_prob(params_of(1.3, 100.0, n=5).float(), x)
    torch.testing.assert_close(found, Poisson().log_prob(params_of(1.3, n=5).float(), x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("log_theta", [0.5, 3.4, 3.5, 6.0])
def test_gradients_are_those_of_differences(log_theta: float) -> None:
    likelihood = ZINB(dispersion="per_value")
    params = params_of(1.0, -0.4, log_theta).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: likelihood.log_prob(p, COUNTS.unsqueeze(1)), params)


@by_family
def test_draws_follow_the_distribution(family: Any) -> None:
    n = 20_000
    params = params_of(0.9, -0.5, 0.4, n=n)[:, : family().num_parameters]
    draws = family().sample(params, Noise("a")).flatten()
    assert torch.equal(draws, family().sample(params, Noise("a")).flatten())
    bins = torch.arange(12, dtype=torch.float64).unsqueeze(1)
    expected = family().log_prob(params[:12], bins).exp().numpy()
    observed = np.array([(draws == k).sum() for k in range(12)] + [(draws >= 12).sum()])
    assert stats.chisquare(observed, n * np.append(expected, 1 - expected.sum())).pvalue > 1e-4


@pytest.mark.parametrize("shape", [1e-4, 0.3, 1.0, 20.0, 1e6])
def test_quantiles_are_scipys(shape: float) -> None:
    u = torch.linspace(0.001, 0.999, 31, dtype=torch.float64)
    many = torch.full_like(u, shape)
    np.testing.assert_allclose(poisson_quantile(u, many), stats.poisson.ppf(u, shape))
    np.testing.assert_allclose(log_gamma_quantile(u, many).exp(), stats.gamma.ppf(u, shape), rtol=1e-7, atol=1e-300)


def test_each_feature_has_a_dispersion_of_its_own() -> None:
    head = LikelihoodHead(NegativeBinomial(), (3, 4))
    assert head.shared is not None
    assert head.shared.shape == (1, 3)
    with torch.no_grad():
        head.shared.copy_(torch.tensor([[0.0, 1.0, 2.0]]))
    params = head(torch.zeros(2, 3, 4))
    assert torch.equal(params[:, 1], torch.tensor([0.0, 1.0, 2.0]).view(3, 1).expand(2, 3, 4))
    with pytest.raises(InputError, match="did you mean 'feature'"):
        NegativeBinomial(dispersion="features")  # type: ignore[arg-type]


# ---- the library ------------------------------------------------------------------------------------------------


def counts(n: int = 6) -> Tensor:
    return torch.poisson(torch.full((n, 5), 3.0), generator=torch.Generator().manual_seed(0))


@by_family
def test_means_are_shares_of_the_library(family: Any) -> None:
    model = Autoencoder((5,), 2, likelihood=family(library=True)).eval()
    x = counts()
    z = model.encode(x)
    library = x.sum(dim=1)
    found = model.decode(z, library=library)
    rest = 1.0
    if family is ZINB:
        rest = 1 - model.decoder_parameters(z, library=library)[:, 1].sigmoid()
    torch.testing.assert_close((found / rest).sum(dim=1), library)
    torch.testing.assert_close(model(x), found)
    torch.testing.assert_close(model.decode(z, library=2 * library), 2 * found)
    torch.testing.assert_close(model.decode(z, library=7), model.decode(z, library=torch.full((6,), 7.0)))


class MaskedVAE(VAE):
    given = ("mask",)


@pytest.mark.parametrize("model", [VAE, IWAE, LadderVAE, ConditionalVAE, StackedAutoencoder, MaskedVAE])
def test_where_a_sample_is_at_hand_its_own_counts_are_the_library(model: type[Autoencoder]) -> None:
    torch.manual_seed(0)
    built = model((5,), latent_dim=2, likelihood=Poisson(library=True))
    x = counts()
    mask = torch.rand(x.shape) < 0.7
    given: dict[str, Tensor] = {"label": torch.arange(6)} if model is ConditionalVAE else {}
    given |= {"mask": mask} if model is MaskedVAE else {}
    own = torch.where(mask, x, 0.0).sum(dim=1) if model is MaskedVAE else x.sum(dim=1)
    losses = []
    for library in ({}, {"library": own}, {"library": own + 1}):
        torch.manual_seed(1)
        losses.append(float(built.loss(x, x, **given, **library)["loss"].detach()))
    assert losses[0] == losses[1] != losses[2]
    _, _, found = built.read({"x": x, **given})
    assert torch.equal(found["library"], own)
    _, _, found = built.read({"x": x, **given, "library": own + 1})
    assert torch.equal(found["library"], own + 1)
    _, _, found = built.read((x, *given.values(), torch.zeros(6)))  # what follows in a tuple is left alone
    assert torch.equal(found["library"], own)
    built.eval()
    assert built.features(x, **given).shape[0] == 6
    assert built(x, **given).shape == x.shape


def test_where_there_is_no_sample_it_is_asked_for() -> None:
    model = VAE((5,), 2, likelihood=NegativeBinomial(library=True)).eval()
    with pytest.raises(InputError, match=r"takes the library of each sample(.|\n)*library=\.\.\."):
        model.decode(torch.zeros(3, 2))
    with pytest.raises(InputError, match="takes the library of each sample"):
        model.sample(3)
    with pytest.raises(InputError, match=r"of shape \(3,\)"):
        model.decode(torch.zeros(3, 2), library=torch.ones(2))
    with pytest.raises(InputError, match="'library' besides the input"):
        model.read({"x": counts(), "library": torch.ones(6).tolist()})
    assert model.sample(3, library=100.0).shape == (3, 5)  # type: ignore[arg-type]
    torch.testing.assert_close(model.sample(3, library=torch.tensor([1.0, 2, 3])).sum(1), torch.tensor([1.0, 2, 3]))
    plain = VAE((5,), 2, likelihood=NegativeBinomial())
    assert plain.read({"x": counts(), "library": torch.ones(6)})[2] == {}
    with pytest.raises(InputError, match="takes nothing besides the input, got library"):
        plain.decode(torch.zeros(3, 2), library=torch.ones(3))


def test_a_loss_that_takes_nothing_cannot_be_given_a_library() -> None:
    class Short(Autoencoder):
        def loss(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            return super().loss(x, target)

    with pytest.raises(InputError, match="is given library, which its loss does not take"):
        Short((5,), 2, likelihood=Poisson(library=True))


def test_a_sample_without_counts_has_a_finite_loss() -> None:
    model = Autoencoder((5,), 2, likelihood=NegativeBinomial(library=True))
    loss = model.loss(torch.zeros(3, 5), torch.zeros(3, 5))["loss"]
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_with_a_library_it_is_no_code_of_the_counts() -> None:
    assert Poisson().is_mass_at(counts())
    assert not Poisson().is_mass_at(counts() + 0.5)
    assert not Poisson(library=True).is_mass_at(counts())


# ---- what is no count -------------------------------------------------------------------------------------------


def fit(model: Any, x: Tensor) -> Any:
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, DataLoader(TensorDataset(x), batch_size=4))
    return model


@by_family
@pytest.mark.parametrize("value", [-1.0, 0.5, math.nan, math.inf])
def test_what_is_no_count_is_refused_by_row_and_column(family: Any, value: float) -> None:
    x = counts(12)
    x[5, 3] = value
    said = rf"row 1 of batch 1, column 3: {value:g}, where \[0, inf\] is what {family.__name__} takes, in whole numbers"
    with pytest.raises(InputError, match=said):
        fit(Autoencoder((5,), 2, likelihood=family()), x)


def test_counts_are_learned() -> None:
    """The dispersion of data that has one, from a code that can say nothing."""
    torch.manual_seed(0)
    rate = torch.distributions.Gamma(torch.tensor([2.0, 20.0]), torch.tensor([0.2, 2.0])).sample((4000,))
    model = Autoencoder((2,), 1, architecture=MLP(hidden=()), likelihood=NegativeBinomial())
    with torch.no_grad():
        model.decoder.linears[0].weight.zero_()  # type: ignore[union-attr, index, operator]
    x, bias = torch.poisson(rate), model.decoder.linears[0].bias  # type: ignore[union-attr, index]
    optimizer = torch.optim.LBFGS([model.head.shared, bias], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model.loss(x, x)["loss"]
        loss.backward()
        return loss

    optimizer.step(closure)
    assert model.head.shared is not None
    assert model.head.shared.exp().flatten().tolist() == pytest.approx([2.0, 20.0], rel=0.15)
    assert bias.exp().tolist() == pytest.approx([10.0, 10.0], rel=0.05)  # type: ignore[operator, union-attr]


def test_likelihoods_are_plain_data() -> None:
    every: list[Likelihood] = [family(library=True) for family in ALL]
    assert [VAE((5,), likelihood=each).hparams["likelihood"]["class_path"].rpartition(".")[2] for each in every] == [
        "Poisson", "NegativeBinomial", "ZeroInflatedNegativeBinomial",
    ]  # fmt: skip
