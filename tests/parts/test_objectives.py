"""Objectives against formulas written out in loops, and against models whose evidence is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from linear_gaussian import FactorAnalysis, Off
from torch import Tensor, distributions, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_ae import VAE, BetaTCVAE, HFDataModule, InputError
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.config import to_plain
from lightning_ae.exact import Noise
from lightning_ae.parts import (
    ELBO,
    Bernoulli,
    ContinuousBernoulli,
    DiagonalGaussian,
    DiscretizedLogistic,
    Gaussian,
    IWAEObjective,
    Laplace,
    Likelihood,
    MixturePrior,
    Objective,
    Prior,
    StandardNormal,
    TotalCorrelation,
    VampPrior,
    Warmup,
)
from lightning_ae.parts.posteriors import DiagonalNormal, Distribution
from lightning_ae.training.certify import Case, certify

VECTOR: dict[str, Any] = {"input_shape": (6,), "architecture": MLP((8,))}
MAP: dict[str, Any] = {"input_shape": (1, 8, 8), "architecture": ConvNet((4, 8), code="map")}
SHAPES = pytest.mark.parametrize("options", [VECTOR, MAP], ids=["vector", "map"])


def build(objective: Objective, latent_dim: int = 3, **options: Any) -> VAE:
    torch.manual_seed(0)
    model = VAE(latent_dim=latent_dim, objective=objective, **VECTOR | options).double()
    if model.needs_data_size:
        model.data_size.fill_(50)
    return model


def batch(model: VAE, n: int = 5) -> Tensor:
    return torch.rand(n, *model.input_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def terms(model: VAE, x: Tensor, seed: int = 0, **given: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return model.loss(x, x, **given)


def normal(q: Distribution) -> distributions.Normal:
    assert isinstance(q, DiagonalNormal)
    return distributions.Normal(q.mean, (q.log_variance / 2).exp())


def gradient(loss: Tensor, model: nn.Module) -> Tensor:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return torch.cat([value.flatten() for value in found if value is not None])


# ---- the bound ------------------------------------------------------------------------------------------------------


def test_a_drawn_divergence_has_the_closed_forms_mean() -> None:
    exact, drawn = build(ELBO("closed_form")).eval(), build(ELBO("drawn")).eval()
    x = batch(exact, 1).expand(50_000, -1)
    with torch.no_grad():
        closed = float(terms(exact, x)["kl"])
        assert closed == float(terms(build(ELBO()).eval(), x)["kl"])
        found = terms(drawn, x)["kl"]
        torch.manual_seed(0)
        z, q = exact.infer(x).draw(Noise()), normal(exact.infer(x))
        each = (q.log_prob(z) - distributions.Normal(0.0, 1.0).log_prob(z)).sum(dim=1)
        error = float(each.std()) / math.sqrt(len(x))
    assert float(found) == pytest.approx(float(each.mean()), rel=1e-9) != closed
    assert abs(float(found) - closed) < 5 * error
    assert error < 0.01


def test_what_the_bounds_options_refuse() -> None:
    with pytest.raises(InputError, match="did you mean 'closed_form'"):
        ELBO("closed_from")  # type: ignore[arg-type]
    for prior in (MixturePrior(), MixturePrior(1), VampPrior()):
        name = type(prior).__name__
        with pytest.raises(InputError, match=f"divergence of a DiagonalGaussian from a {name} has no closed form"):
            build(ELBO("closed_form"), prior=prior)


# ---- importance weights ---------------------------------------------------------------------------------------------


@SHAPES
@pytest.mark.parametrize("prior", [StandardNormal(), MixturePrior(4)], ids=str)
def test_importance_weights_are_those_of_the_formula(prior: Prior, options: dict[str, Any]) -> None:
    # with a scale that does not depend on which draws are a batch
    model = build(IWAEObjective(4), prior=prior, likelihood=Gaussian("learned"), **options)
    x = batch(model)
    found = terms(model, x)
    torch.manual_seed(0)
    q = model.infer(x)
    z = q.draw(Noise(), 4)
    loss, bound = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for i in range(len(x)):
        weights = []
        for k in range(4):
            log_p = model.log_likelihood(z[i : i + 1, k], x[i : i + 1])[0]
            log_q = normal(q).log_prob(z[:, k])[i].sum()
            weights.append(log_p + model.prior.log_prob(model, z[i, k]) - log_q)
        loss = loss - torch.stack(weights).exp().mean().log() / len(x)
        bound = bound - torch.stack(weights).mean() / len(x)
    torch.testing.assert_close(found["loss"], loss)
    torch.testing.assert_close(found["reconstruction"] + found["kl"], bound)
    assert model.objective.bound(found) is found["loss"]
    torch.testing.assert_close(gradient(found["loss"], model), gradient(loss, model))


def test_one_draw_is_the_bound() -> None:
    one, plain = build(IWAEObjective(1)), build(ELBO("drawn"))
    x = batch(one)
    torch.testing.assert_close(terms(one, x)["loss"], terms(plain, x)["loss"])


@pytest.mark.parametrize("objective", [ELBO(), IWAEObjective(1), IWAEObjective(5), ELBO("drawn")], ids=str)
def test_with_the_true_posterior_every_bound_is_the_evidence(objective: Objective) -> None:
    model = FactorAnalysis((1,), 1, likelihood=Gaussian(0.5), objective=objective).double()
    x = batch(model, 50)
    evidence = distributions.Normal(0.3, math.sqrt(1.5**2 + 0.25)).log_prob(x).sum(dim=1)
    exact = objective != ELBO()  # whose divergence is exact, and reconstruction of a draw
    for seed in range(3):
        found = model.objective.bound(terms(model, x, seed))
        torch.testing.assert_close(found, -evidence.mean(), rtol=0, atol=1e-6 if exact else 0.5)


@torch.no_grad()
def test_more_draws_are_tighter() -> None:
    x = batch(build(ELBO()), 50)[:, :1].repeat(200, 1)
    evidence = -float(distributions.Normal(0.3, math.sqrt(1.5**2 + 0.25)).log_prob(x).sum(dim=1).mean())
    found = []
    for objective in (ELBO(), IWAEObjective(5), IWAEObjective(50), IWAEObjective(500)):
        model = Off((1,), 1, likelihood=Gaussian(0.5), objective=objective).double()
        found.append(float(model.objective.bound(terms(model, x))))
    assert found == sorted(found, reverse=True)
    assert found[0] - found[1] > 0.1  # the networks are the same
    assert found[-1] == pytest.approx(evidence, abs=0.01)


def test_a_batch_never_contradicts_jensen() -> None:
    model = build(IWAEObjective(5))
    for seed in range(20):
        found = terms(model, batch(model), seed)
        assert found["loss"] < found["reconstruction"] + found["kl"]


def test_what_the_model_takes_besides_is_repeated_with_the_draws() -> None:
    class Shifted(VAE):
        given = ("label",)

        def decoder_parameters(self, z: Tensor, **given: Tensor) -> Tensor:
            found: Tensor = self.head(self.decoder(z + given["label"].unsqueeze(1)))
            return found

    torch.manual_seed(0)
    parts: dict[str, Any] = {"architecture": MLP((8,)), "objective": IWAEObjective(3)}
    model = Shifted((6,), 3, likelihood=Gaussian("learned"), **parts).double()
    x, label = batch(model), torch.arange(5)
    found = terms(model, x, label=label)
    torch.manual_seed(0)
    q = model.infer(x, label=label)
    z = q.draw(Noise(), 3)
    weights = torch.stack(
        [
            model.log_likelihood(z[:, k], x, label=label)
            + model.prior.log_prob(model, z[:, k])
            - normal(q).log_prob(z[:, k]).sum(dim=1)
            for k in range(3)
        ]
    )
    torch.testing.assert_close(found["loss"], math.log(3) - weights.logsumexp(dim=0).mean())


def test_what_importance_weights_refuse() -> None:
    with pytest.raises(InputError, match="samples of IWAEObjective must be a positive integer, got 0"):
        IWAEObjective(0)
    with pytest.raises(InputError, match="no divergence to weight, got beta=2"):
        build(IWAEObjective(), beta=2.0)
    with pytest.raises(InputError, match="got beta=1 with a beta_schedule"):
        build(IWAEObjective(), beta_schedule=Warmup())


# ---- total correlation ----------------------------------------------------------------------------------------------


def weights_of(estimator: str, n: int, m: int) -> list[list[float]]:
    """What sample j counts for the draw i, written out."""
    if estimator == "weighted":
        return [[1 / (n * m)] * m for _ in range(m)]
    found = [[1 / (m - 1)] * m for _ in range(m)]
    for i in range(m):
        found[i][i] = 1 / n
        found[i][(i + 1) % m] = (n - (m - 1)) / (n * (m - 1))
    return found


@SHAPES
@pytest.mark.parametrize("estimator", ["weighted", "stratified"])
def test_total_correlation_is_that_of_the_loops(estimator: Any, options: dict[str, Any]) -> None:
    model = build(TotalCorrelation(0.7, 1.3, estimator), beta=4.0, **options)
    x = batch(model)
    found = terms(model, x)
    torch.manual_seed(0)
    z = model.infer(x).draw(Noise())
    q = normal(model.infer(x))
    weights = weights_of(estimator, 50, len(x))
    units = math.prod(model.code_shape)
    information = correlation = dimensions = torch.zeros((), dtype=torch.float64)
    for i in range(len(x)):
        mean, scale = q.mean.flatten(1), q.stddev.flatten(1)
        draw = z[i].flatten()
        each = [
            [distributions.Normal(mean[j, u], scale[j, u]).log_prob(draw[u]) for u in range(units)] for j in range(5)
        ]
        joint = sum(weights[i][j] * torch.stack(each[j]).sum().exp() for j in range(5)).log()  # type: ignore[union-attr]
        single = sum(
            sum(weights[i][j] * each[j][u].exp() for j in range(5)).log()  # type: ignore[union-attr]
            for u in range(units)
        )
        prior = distributions.Normal(0.0, 1.0).log_prob(draw).sum()
        information = information + (torch.stack(each[i]).sum() - joint) / 5
        correlation = correlation + (joint - single) / 5
        dimensions = dimensions + (single - prior) / 5
    torch.testing.assert_close(found["mutual_information"], information)
    torch.testing.assert_close(found["total_correlation"], correlation)
    torch.testing.assert_close(found["dimension_wise_kl"], dimensions)
    loss = model.reconstruction_loss(z, x) + 0.7 * information + 4.0 * correlation + 1.3 * dimensions
    torch.testing.assert_close(found["loss"], loss)
    torch.testing.assert_close(gradient(found["loss"], model), gradient(loss, model))


@pytest.mark.parametrize("estimator", ["weighted", "stratified"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_parts_sum_up_to_the_divergence_of_the_draw(estimator: Any, n: int) -> None:
    parts, plain = build(TotalCorrelation(estimator=estimator)), build(ELBO("drawn"))
    x = batch(parts, n)
    found, expected = terms(parts, x), terms(plain, x)
    names = ("mutual_information", "total_correlation", "dimension_wise_kl")
    torch.testing.assert_close(sum(found[name] for name in names), expected["kl"])
    torch.testing.assert_close(found["loss"], expected["loss"])
    torch.testing.assert_close(parts.objective.bound(found), expected["loss"])
    torch.testing.assert_close(gradient(found["loss"], parts), gradient(expected["loss"], plain))


@torch.no_grad()
def test_stratified_sampling_is_without_bias() -> None:
    """The mean over all batches of 3 of 5 samples that begin with the first is the mean of all five posteriors."""
    objective = TotalCorrelation(estimator="stratified")
    model = build(objective)
    model.data_size.fill_(5)
    everyone = batch(model)
    first = model.infer(everyone[:1]).draw(Noise(0, "a"))
    exact = normal(model.infer(everyone)).log_prob(first).sum(dim=1).exp().mean()
    found = []
    for others in itertools.permutations(range(1, 5), 2):
        q = model.infer(everyone[[0, *others]])
        assert isinstance(q, DiagonalNormal)
        found.append(objective.aggregate(model, q, first.expand(3, -1))[0][0].exp())
    torch.testing.assert_close(torch.stack(found).mean(), exact)


@pytest.mark.parametrize("data", [3, 5, 50])
def test_stratified_rows_sum_to_one(data: int) -> None:
    model = build(TotalCorrelation(estimator="stratified"))
    model.data_size.fill_(data)
    for m in (1, 2, 4):
        weights = TotalCorrelation(estimator="stratified")._log_weights(
            model, torch.zeros(m, m, 3, dtype=torch.float64)
        )
        torch.testing.assert_close(weights.exp().sum(dim=0).flatten(), torch.ones(m, dtype=torch.float64))


def test_computed_in_float32_under_autocast() -> None:
    model = build(TotalCorrelation(), beta=6.0).float()
    x = batch(model).float()
    with torch.autocast("cpu", torch.bfloat16):
        q = model.infer(x)
        assert isinstance(q, DiagonalNormal)
        z = q.draw(Noise(0, "a"))
        found = model.objective.aggregate(model, q, z)  # type: ignore[attr-defined]
    exact = DiagonalNormal(q.mean.double(), q.log_variance.double())
    expected = model.objective.aggregate(model, exact, z.double())  # type: ignore[attr-defined]
    for ours, plain in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), plain, rtol=1e-6, atol=1e-5)


QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False, "max_epochs": 1,
}  # fmt: skip


def test_the_size_of_the_data_is_asked_for(digits: Tensor, tmp_path: Any) -> None:
    model = BetaTCVAE((1, 8, 8), 2, architecture=MLP((8,)))
    with pytest.raises(InputError, match=r"loss of BetaTCVAE asks how many samples .*\n.*data_size\.fill_"):
        model.loss(digits[:4], digits[:4])
    with pytest.raises(InputError, match="asks how many samples"):
        pl.Trainer(**QUIET).validate(model, DataLoader(digits[:64], 32), verbose=False)
    sizes = []

    class Asking(BetaTCVAE):
        def validation_step(self, *args: Any) -> None:
            sizes.append(int(self.data_size))
            super().validation_step(*args)

    rows = DataLoader(TensorDataset(digits[:100]), 30)
    module = HFDataModule("digits", val_fraction=0.5, batch_size=256)
    stream = HFDataModule("digits", val_split="test", batch_size=256, streaming=True)
    for loaders, size in (((module,), 719), ((stream,), 1437), ((rows, rows), 100)):
        model = Asking((1, 8, 8), 2, architecture=MLP((8,)))
        trainer = pl.Trainer(**QUIET | {"enable_checkpointing": True, "default_root_dir": tmp_path})
        trainer.fit(model, *loaders)
        assert set(sizes) == {size}  # before the first step, too
        sizes.clear()
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = Asking.load_from_checkpoint(tmp_path / "model.ckpt")
    assert int(loaded.data_size) == 100
    pl.Trainer(**QUIET).validate(loaded, rows, verbose=False)
    unknown = DataLoader(TensorDataset(digits[:96].view(3, 32, 1, 8, 8)), batch_size=None)  # rows are batches
    with pytest.raises(InputError, match="which DataLoader does not say"):
        pl.Trainer(**QUIET).fit(BetaTCVAE((1, 8, 8), 2), unknown)
    model.data_size.fill_(96)
    pl.Trainer(**QUIET).fit(model, unknown)
    assert int(model.data_size) == 96


def test_what_total_correlation_refuses() -> None:
    for prior in (MixturePrior(), VampPrior()):
        with pytest.raises(InputError, match=f"not independent under {type(prior).__name__}"):
            build(TotalCorrelation(), prior=prior)
    with pytest.raises(InputError, match="alpha of TotalCorrelation must not be negative, got -1"):
        TotalCorrelation(alpha=-1)
    with pytest.raises(InputError, match="gamma of TotalCorrelation must not be negative, got nan"):
        TotalCorrelation(gamma=math.nan)
    with pytest.raises(InputError, match="did you mean 'stratified'"):
        TotalCorrelation(estimator="stratifed")  # type: ignore[arg-type]


# ---- every pair -----------------------------------------------------------------------------------------------------

PRIORS: list[Prior] = [StandardNormal(), MixturePrior(3), VampPrior(3)]
OBJECTIVES: list[Objective] = [ELBO(), ELBO("drawn"), ELBO("closed_form"), IWAEObjective(2), TotalCorrelation()]
LIKELIHOODS: list[Likelihood] = [
    Gaussian(), Gaussian("per_pixel"), Laplace(), DiscretizedLogistic(), Bernoulli(), ContinuousBernoulli(),
]  # fmt: skip
REFUSED = {(prior, objective) for prior in PRIORS[1:] for objective in (ELBO("closed_form"), TotalCorrelation())}


@pytest.mark.parametrize("prior", PRIORS, ids=str)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
@SHAPES
def test_every_pair_works_or_is_refused(prior: Prior, objective: Objective, options: dict[str, Any]) -> None:
    for likelihood in LIKELIHOODS:
        chosen = {"prior": prior, "posterior": DiagonalGaussian(), "likelihood": likelihood} | options
        if (prior, objective) in REFUSED:
            with pytest.raises(InputError):
                build(objective, **chosen)
            continue
        model = build(objective, **chosen)
        x = batch(model).round()
        found = terms(model, x)
        assert all(value.isfinite() and value.ndim == 0 for value in found.values())
        found["loss"].backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert model.rate(x).shape == (5,)
        assert model.eval().sample(2).shape == (2, *model.input_shape)
        if likelihood.is_mass_at(x):
            found = terms(model, x)
            bits = model.objective.bound(found) / (math.prod(model.input_shape) * math.log(2))
            torch.testing.assert_close(found["bits_per_dimension"], bits)


def case(prior: Prior, objective: Objective, number: int) -> Case:
    networks = [
        {"class_path": "MLP", "init_args": {"hidden": [12], "dropout": 0.2}},
        {"class_path": "ConvNet", "init_args": {"channels": [4], "code": "map"}},
    ]
    init_args = {
        "prior": to_plain(prior, "prior"),
        "objective": to_plain(objective, "objective"),
        "likelihood": to_plain(LIKELIHOODS[number % len(LIKELIHOODS)], "likelihood"),
        "architecture": networks[number % 2],
        "latent_dim": 3,
    }
    beta = {} if isinstance(objective, IWAEObjective) else {"beta": 3.0}
    return Case("VAE", init_args | beta, title=f"{prior} {objective}")


@pytest.mark.slow
def test_every_pair_is_the_same_on_two_ranks() -> None:
    pairs = [pair for pair in itertools.product(PRIORS, OBJECTIVES) if pair not in REFUSED]
    for found in certify([case(*pair, i) for i, pair in enumerate(pairs)], worlds=[2]):
        assert found.passed, found


NAMES: list[tuple[Callable[[], VAE], str]] = [
    (lambda: build(ELBO()), "negative_elbo"),
    (lambda: build(ELBO(), beta=2.0), "beta_vae_loss"),
    (lambda: build(IWAEObjective()), "negative_iwae_bound"),
    (lambda: build(TotalCorrelation(), beta=6.0), "beta_tc_loss"),
    (lambda: build(TotalCorrelation(alpha=0.5)), "beta_tc_loss"),
    (lambda: build(TotalCorrelation()), "negative_elbo"),
]


@pytest.mark.parametrize(("make", "name"), NAMES, ids=[name for _, name in NAMES])
def test_an_evaluation_calls_the_loss_what_it_is(make: Callable[[], VAE], name: str) -> None:
    model = make().eval()
    assert model.drawn_objective == name
    found = terms(model, batch(model))
    is_bound = torch.equal(found["loss"], model.objective.bound(found)) or torch.allclose(
        found["loss"], model.objective.bound(found)
    )
    assert is_bound == name.startswith("negative")
