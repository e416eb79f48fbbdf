"""Codes of several parts against torch.distributions, formulas written out and two processes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, distributions

from lightning_ae import VAE, InputError, JointVAE
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.exact import Noise
from lightning_ae.parts import (
    ELBO,
    IAF,
    Bernoulli,
    Capacity,
    Concrete,
    DiagonalGaussian,
    FullCovarianceGaussian,
    IWAEObjective,
    JointCapacity,
    JointPosterior,
    JointPrior,
    MixturePrior,
    StandardNormal,
    UniformOnCategories,
    UniformOnSphere,
    VampPrior,
    VonMisesFisher,
    Warmup,
)
from lightning_ae.parts.joint import JointDistribution
from lightning_ae.training.certify import Case, certify

NETWORKS: list[Any] = [MLP((8,)), ConvNet((4, 8), code="map")]
BOTH = pytest.mark.parametrize("network", NETWORKS, ids=["vector", "map"])


def build(network: Any = NETWORKS[0], **options: Any) -> JointVAE:
    torch.manual_seed(0)
    options = {"latent_dim": 5, "variables": 2, "classes": 4, "likelihood": Bernoulli()} | options
    return JointVAE((1, 8, 8), architecture=network, **options).double()


def images(n: int = 9) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64).round()


def expected(model: JointVAE, x: Tensor) -> tuple[distributions.Distribution, distributions.Distribution]:
    """Both parts by torch, from the encoder's output: 3 Gaussian units, 2 variables of 4 classes."""
    output = 3 * model.encoder(x)
    mean, log_variance, logits = output.split([3, 3, 8], dim=1)
    gaussian = distributions.Normal(mean, (log_variance / 2).exp())
    categories = distributions.OneHotCategorical(logits=logits.unflatten(1, (2, 4)).movedim(2, -1))
    return (
        distributions.Independent(gaussian, mean.ndim - 1),
        distributions.Independent(categories, logits.ndim - 1),
    )


@BOTH
@torch.no_grad()
def test_divergences_and_densities_are_those_of_torch(network: Any) -> None:
    model, x = build(network).eval(), images()
    gaussian, categories = expected(model, x)
    q = model.posterior.infer(model, 3 * model.encoder(x), x, {})
    assert isinstance(q, JointDistribution)
    assert isinstance(model.prior, JointPrior)
    z, several = q.draw(Noise(1, "a")), q.draw(Noise(1, "a"), 6)
    shape = model.code_shape
    assert shape[0] == 3 + 8
    assert (z.shape, several.shape) == ((9, *shape), (9, 6, *shape))
    assert set(z[:, 3:].unique().tolist()) == {0.0, 1.0}
    normal = distributions.Independent(distributions.Normal(torch.zeros(9, 3, *shape[1:]), 1.0), len(shape))
    uniform = distributions.OneHotCategorical(logits=torch.zeros(9, 2, *shape[1:], 4, dtype=torch.float64))
    kl = distributions.kl_divergence(gaussian, normal)
    class_kl = distributions.kl_divergence(categories, distributions.Independent(uniform, len(shape)))
    torch.testing.assert_close(model.prior.kl_by_part(model, q, z), torch.stack([kl, class_kl], dim=1))
    torch.testing.assert_close(model.prior.kl(model, q, z), kl + class_kl)
    assert model.prior.closed_form(model.posterior)

    def log(p: distributions.Distribution, c: distributions.Distribution, code: Tensor) -> Tensor:
        return p.log_prob(code[:, :3]) + c.log_prob(code[:, 3:].unflatten(1, (2, 4)).movedim(2, -1))

    torch.testing.assert_close(q.log_prob(z), log(gaussian, categories, z))
    torch.testing.assert_close(q.log_prob(several)[:, 4], log(gaussian, categories, several[:, 4]))
    prior = log(normal, distributions.Independent(uniform, len(shape)), z)
    torch.testing.assert_close(model.prior.log_prob(model, z), prior)
    torch.testing.assert_close(model.prior.log_prob(model, several)[:, 0], model.prior.log_prob(model, several[:, 0]))


def test_draws_are_relaxed_in_training_alone() -> None:
    model, x = build(), images()
    assert not set(model.train().draw(x)[:, 3:].unique().tolist()) <= {0.0, 1.0}
    model.eval()
    for z in (model.draw(x), model.prior.sample(model, 50, Noise(1, "a"))):
        assert set(z[:, 3:].unique().tolist()) == {0.0, 1.0}
        torch.testing.assert_close(z[:, 3:].unflatten(1, (2, 4)).sum(dim=2), torch.ones(len(z), 2).double())
    torch.testing.assert_close(model.encode(x)[:, 3:].unflatten(1, (2, 4)).sum(dim=2), torch.ones(9, 2).double())


@BOTH
def test_the_loss_written_out(network: Any) -> None:
    model, x = build(network, capacity=4.0, class_capacity=0.5, beta=7.0).eval(), images()
    terms = model.loss(x, x)
    q = model.infer(x)
    assert isinstance(model.prior, JointPrior)
    kl = model.prior.kl_by_part(model, q, q.draw(Noise(1, "a"))).mean(dim=0)
    torch.testing.assert_close(terms["kl_1"], kl[0])
    torch.testing.assert_close(terms["kl_2"], kl[1])
    excess = (kl[0] - 4).abs() + (kl[1] - 0.5).abs()
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + 7 * excess)
    torch.testing.assert_close(terms["bits_per_dimension"] * 64 * math.log(2), terms["reconstruction"] + kl.sum())


def test_capacities_follow_their_schedule_and_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = JointCapacity((4.0, None), (1.0, 0.5), Warmup(10))
    posterior, prior = JointPosterior((DiagonalGaussian(), Concrete(4)), (2,)), JointPrior()
    model, x = VAE((1, 8, 8), 5, posterior=posterior, prior=prior, objective=objective), images().float()
    monkeypatch.setattr(VAE, "scheduled", lambda self, schedule: 1.0 if schedule is None else schedule(4, 100))
    terms = model.loss(x, x)
    expected = (terms["kl_1"] - 0.5 * 4).abs() + 0.5 * (terms["kl_2"] - 0.5 * math.log(4)).abs()
    torch.testing.assert_close(terms["excess"], expected)


def test_any_parts_go_together() -> None:
    posterior = JointPosterior((FullCovarianceGaussian(), VonMisesFisher(), Concrete(3), DiagonalGaussian()), (3, 1, 2))
    prior = JointPrior((MixturePrior(3), UniformOnSphere(), UniformOnCategories(), VampPrior(5, "data")))
    model = VAE((1, 8, 8), 8, posterior=posterior, prior=prior, architecture=MLP((8,)), likelihood=Bernoulli())
    x = images().float()
    assert model.code_shape == (2 + 3 + 3 + 2,)
    model.loss(x, x)["loss"].backward()
    assert all(weight.grad is not None for weight in model.parameters())
    assert not prior.closed_form(posterior)
    model.eval()
    z = model.draw(x)
    torch.testing.assert_close(z[:, 2:5].norm(dim=1), torch.ones(9))
    assert set(z[:, 5:8].unique().tolist()) == {0.0, 1.0}
    assert model.sample(4).shape == (4, 1, 8, 8)
    assert model.score(x).shape == model.score(x, draws=3).shape == (9,)


def test_two_ranks_are_one() -> None:
    """The means inside of the absolute values are over all ranks' samples; ranks' own are on either side of C."""
    arguments = {"latent_dim": 4, "capacity": 0.08, "class_capacity": 0.01, "beta": 30.0, "capacity_schedule": None}
    (found,) = certify([Case("joint_vae", arguments)], worlds=[2])
    assert found.passed, found.errors


def test_low_precision(digits: Tensor, fit: Any) -> None:
    model = build().bfloat16()
    fit(model, digits[:128].bfloat16())
    assert all(value.isfinite().all() for value in model.state_dict().values())
    fit(build().float(), digits[:128], precision="bf16-mixed")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variables": 5}, "variables must be"),
        ({"variables": 0}, "variables must be"),
        ({"class_capacity": 2.8}, r"capacities\[1\] .* hold 2.773 at most"),
        ({"class_capacity": 12.0, "architecture": ConvNet((4, 8), code="map")}, "hold 11.09 at most"),
        ({"capacity": -1.0}, "capacities of JointCapacity must not be negative"),
        ({"classes": 1}, "classes of Concrete"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        JointVAE((1, 8, 8), **{"latent_dim": 5, "variables": 2, "classes": 4} | options)


def test_pairs_that_cannot_work_are_refused() -> None:
    three = JointPrior((StandardNormal(), UniformOnCategories(), StandardNormal()))
    for options, message in (
        ({"posterior": JointPosterior()}, "JointPrior of as many parts"),
        ({"prior": JointPrior()}, "JointPosterior and a JointPrior"),
        ({"prior": three, "posterior": JointPosterior()}, "as many parts"),
        ({"prior": JointPrior((UniformOnCategories(), StandardNormal())), "posterior": JointPosterior()}, "Categories"),
        ({"objective": JointCapacity()}, "use the objective Capacity"),
        ({"prior": JointPrior(), "posterior": JointPosterior(units=(4,))}, "leave none of latent_dim=4"),
        ({"prior": JointPrior(), "posterior": JointPosterior(), "objective": IWAEObjective(2)}, "probability"),
        ({"prior": JointPrior(), "posterior": JointPosterior(), "objective": ELBO("drawn")}, "probability"),
    ):
        with pytest.raises(InputError, match=message):
            VAE((4,), 4, **options)  # type: ignore[arg-type]
    VAE((4,), 4, prior=JointPrior(), posterior=JointPosterior(), objective=Capacity())
    with pytest.raises(InputError, match="no weights"):
        JointPosterior((IAF(), Concrete()))
    with pytest.raises(InputError, match="two parts or more"):
        JointPosterior((DiagonalGaussian(),), ())
    with pytest.raises(InputError, match="None is for categories"):
        VAE((4,), 4, prior=JointPrior(), posterior=JointPosterior(), objective=JointCapacity((None, None)))
