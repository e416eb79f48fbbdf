"""Flows against automatic differentiation and quadrature, and the posteriors and priors that they make."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from scipy import stats
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.utils.data import DataLoader

from lightning_ae import VAE, AdversarialAutoencoder, InputError, load_model
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.exact import Noise
from lightning_ae.parts import (
    ELBO,
    IAF,
    DiagonalGaussian,
    FlowPrior,
    Gaussian,
    IWAEObjective,
    PlanarFlow,
    Posterior,
    SplineFlow,
    StandardNormal,
    TotalCorrelation,
    VampPrior,
)
from lightning_ae.parts.flow_posteriors import Flowed
from lightning_ae.parts.flows import Flows, GatedAutoregressive, MaskedAutoregressive, Planar, SplineCoupling, spline

MAP: dict[str, Any] = {"input_shape": (1, 8, 8), "architecture": ConvNet((4, 8), code="map")}
VECTOR: dict[str, Any] = {"input_shape": (6,), "architecture": MLP((8,))}
POSTERIORS = [PlanarFlow(3), IAF(2, 16), SplineFlow(2, 16, bins=5, bound=3.0)]
INVERTIBLE = POSTERIORS[1:]
each_posterior = pytest.mark.parametrize("posterior", POSTERIORS, ids=lambda part: type(part).__name__)
each_invertible = pytest.mark.parametrize("posterior", INVERTIBLE, ids=lambda part: type(part).__name__)


def shake(weights: nn.Module, size: float = 0.5) -> None:
    """Weights of a flow that bends."""
    torch.manual_seed(1)
    for value in weights.parameters():
        nn.init.normal_(value, std=size if value.ndim != 2 else size / math.sqrt(value.shape[1]) * 2)


def build(posterior: Posterior = DiagonalGaussian(), latent_dim: int = 3, *, bend: bool = True, **options: Any) -> VAE:
    torch.manual_seed(0)
    model = VAE(latent_dim=latent_dim, posterior=posterior, **VECTOR | options).double().eval()
    for weights in (model.posterior_weights, model.prior_weights):
        if bend and weights is not None and isinstance(weights, Flows):
            shake(weights)
    return model


def flows(units: int) -> dict[str, tuple[Flows, Tensor]]:
    """Each kind, two steps of it, with a context for four vectors."""
    torch.manual_seed(0)
    each = 2 * units + 1
    steps: dict[str, list[Any]] = {
        "planar": [Planar(units, 0), Planar(units, each)],
        "gated": [GatedAutoregressive(units, 8, 5, backwards=back) for back in (False, True)],
        "masked": [MaskedAutoregressive(units, 8, backwards=back) for back in (False, True)],
        "spline": [SplineCoupling(units, 8, 5, bins=4, bound=2.0, backwards=back) for back in (False, True)],
    }
    found = {}
    for name, two in steps.items():
        flow = Flows(units, two).double()
        shake(flow)
        found[name] = (flow, torch.randn(4, 2 * each if name == "planar" else 5, dtype=torch.float64))
    return found


# ---- the maps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("units", [2, 5])
@pytest.mark.parametrize("name", ["planar", "gated", "masked", "spline"])
def test_determinants_are_those_of_the_jacobian(name: str, units: int) -> None:
    flow, context = flows(units)[name]
    x = 1.5 * torch.randn(4, units, dtype=torch.float64)
    y, log_det = flow(x, context)
    assert not torch.allclose(y, x, atol=0.05)
    for i in range(4):
        matrix: Any = jacobian(lambda one, i=i: flow(one.unsqueeze(0), context[i : i + 1])[0][0], x[i])
        torch.testing.assert_close(log_det[i], torch.linalg.slogdet(matrix).logabsdet)


@pytest.mark.parametrize("units", [2, 5])
@pytest.mark.parametrize("name", ["gated", "masked", "spline"])
def test_the_inverse_inverts(name: str, units: int) -> None:
    flow, context = flows(units)[name]
    x = 1.5 * torch.randn(4, 3, units, dtype=torch.float64)
    context = context.unsqueeze(1).expand(-1, 3, -1)
    y, log_det = flow(x, context)
    back, same = flow(y, context, inverse=True)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(same, log_det)


def test_the_spline_is_the_papers() -> None:
    """Knots and derivatives by hand, monotone, the identity beyond, and the identity where all parameters are zero."""
    torch.manual_seed(0)
    free, bound = torch.randn(11, dtype=torch.float64), 2.0
    x = torch.linspace(-3, 3, 2001, dtype=torch.float64).requires_grad_()
    y, log_derivative = spline(x, free.expand(2001, -1), bound)
    assert (y.diff() > 0).all()
    outside = x.abs() > bound
    assert torch.equal(y[outside], x[outside])
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], log_derivative.exp())
    knots = [
        2 * bound * np.concatenate([[0], np.cumsum(0.001 + 0.996 * np.exp(part) / np.exp(part).sum())]) - bound
        for part in (free[:4].numpy(), free[4:8].numpy())
    ]
    at, slope = spline(torch.tensor(knots[0][1:-1]), free.expand(3, -1), bound)
    assert np.allclose(at.numpy(), knots[1][1:-1])
    expected = 0.001 + np.log1p(np.exp(free[8:].numpy() + math.log(math.expm1(0.999))))
    assert np.allclose(slope.exp().numpy(), expected)
    same, flat = spline(x, torch.zeros(2001, 11, dtype=torch.float64), bound)
    torch.testing.assert_close(same, x)
    torch.testing.assert_close(flat, torch.zeros_like(x))


def test_planar_steps_are_the_papers_and_stay_invertible() -> None:
    flow, _ = flows(3)["planar"]
    step: Any = flow.steps[0]
    torch.manual_seed(0)
    context, x = 3 * torch.randn(500, 7, dtype=torch.float64), torch.randn(500, 3, dtype=torch.float64)
    w, u, b = context.split([3, 3, 1], dim=1)
    u = step.gain * u
    a = (w * u).sum(dim=1, keepdim=True)
    m = -0.999 + (1 + (a + math.log(math.expm1(0.999))).exp()).log()
    u = u + (m - a) * w / (w * w).sum(dim=1, keepdim=True)
    assert ((w * u).sum(dim=1) > -1).all()
    y, _ = step(x, context)
    torch.testing.assert_close(y, x + u * ((w * x).sum(dim=1, keepdim=True) + b).tanh())


# ---- posteriors -----------------------------------------------------------------------------------------------------


@each_posterior
@pytest.mark.parametrize("options", [VECTOR, MAP], ids=["vector", "map"])
def test_a_draw_brings_the_density_of_the_change_of_variables(posterior: Posterior, options: dict[str, Any]) -> None:
    model = build(posterior, **options)
    x = torch.randn(3, *model.input_shape, dtype=torch.float64)
    q = model.infer(x)
    assert isinstance(q, Flowed)
    z, log_q = q.draw_with_log_prob(Noise(1, "a"))
    many, each = q.draw_with_log_prob(Noise(2, "a"), 4)
    assert z.shape == (3, *model.code_shape) == (many.shape[0], *many.shape[2:])
    assert torch.equal(z, q.draw(Noise(1, "a")))
    epsilon = Noise(1, "a").randn_like(z)
    for i in range(2):
        one = model.infer(x[i : i + 1])
        assert isinstance(one, Flowed)
        matrix: Any = jacobian(lambda e, one=one: one._flow(e.unsqueeze(0))[0][0].flatten(), epsilon[i])
        log_det = torch.linalg.slogdet(matrix.flatten(1)).logabsdet
        normal = stats.norm.logpdf(epsilon[i].numpy()).sum()
        assert float(log_q[i].detach()) == pytest.approx(normal - float(log_det))
    torch.testing.assert_close(model.encode(x), q._flow(torch.zeros_like(z))[0])
    if posterior.evaluates:
        torch.testing.assert_close(q.log_prob(z), log_q)
        torch.testing.assert_close(q.log_prob(many), each)
        frozen = q.detach()
        assert not frozen.log_prob(z.detach()).requires_grad
        assert not frozen.draw(Noise(1, "a")).requires_grad
        torch.testing.assert_close(frozen.log_prob(z), log_q)
    else:
        with pytest.raises(InputError, match="only its own draws have a density"):
            q.log_prob(z)


@each_invertible
@torch.no_grad()
def test_posterior_densities_integrate_to_one_and_draws_follow_them(posterior: Posterior) -> None:
    model = build(posterior, latent_dim=2)
    q = model.infer(torch.randn(1, 6, dtype=torch.float64))
    axis = torch.linspace(-9, 9, 451, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis).unsqueeze(0)
    density = q.log_prob(grid)[0].exp().view(451, 451)
    step = float(axis[1] - axis[0])
    assert float(density.sum()) * step**2 == pytest.approx(1, abs=1e-3)
    draws = q.draw(Noise(3, "a"), 10_000)[0].numpy()
    for unit in range(2):
        below = (density.sum(dim=1 - unit).cumsum(0) * step**2 + 0).numpy()
        fits = stats.kstest(draws[:, unit], lambda z, below=below: np.interp(z, axis.numpy() + step / 2, below))
        assert fits.pvalue > 1e-3, fits
        off = stats.kstest(draws[:, unit] + 0.1, lambda z, below=below: np.interp(z, axis.numpy() + step / 2, below))
        assert off.pvalue < 1e-3


@torch.no_grad()
def test_planar_densities_integrate_to_one() -> None:
    """By the change of variables: the mean of 1 / q over draws is the volume that they cover, cell by cell."""
    model = build(PlanarFlow(2), latent_dim=2)
    q = model.infer(torch.randn(1, 6, dtype=torch.float64))
    z, log_q = q.draw_with_log_prob(Noise(3, "a"), 200_000)
    centre = z[0].median(dim=0).values
    for side in (0.3, 0.6):
        volume = ((z[0] - centre).abs() < side / 2).all(dim=1) / log_q[0].exp()
        assert abs(float(volume.mean()) - side**2) < 5 * float(volume.std()) / math.sqrt(len(volume))
        assert float(volume.std()) / math.sqrt(len(volume)) < 0.02 * side**2


@each_posterior
@torch.no_grad()
def test_a_fresh_flow_is_the_gaussian(posterior: Posterior) -> None:
    model = build(posterior, bend=False)
    x = torch.randn(1, 6, dtype=torch.float64).expand(50_000, -1)
    q = model.infer(x)
    assert isinstance(q, Flowed)
    closed = float(StandardNormal().kl(model, q.base, q.base.mean)[0])
    drawn = StandardNormal().kl(model, q, *q.draw_with_log_prob(Noise(1, "a")))
    error = float(drawn.std()) / math.sqrt(len(x))
    if isinstance(posterior, IAF):  # gates of .982, not one
        gates = (2 * 1 / (1 + math.exp(-4)),)
        z = q.draw(Noise(1, "a"))
        torch.testing.assert_close(z, (gates[0] / 2) ** 2 * q.base.draw(Noise(1, "a")))
    else:
        torch.testing.assert_close(q.draw(Noise(1, "a")), q.base.draw(Noise(1, "a")))
        assert abs(float(drawn.mean()) - closed) < 5 * error < 0.05


@each_posterior
@pytest.mark.parametrize("value", [1e4, -1e4, 0.0])
def test_extreme_outputs_stay_finite(posterior: Posterior, value: float) -> None:
    model = build(posterior, latent_dim=4).float()
    output = torch.full((2, posterior.values(4)), value).requires_grad_()
    q = posterior(output, model.posterior_weights)
    z, log_q = q.draw_with_log_prob(Noise(1, "a"), 3)
    weights = [output, *model.posterior_weights.parameters()]  # type: ignore[union-attr]
    found = torch.autograd.grad(z.sum() + log_q.sum(), weights, allow_unused=True)
    assert z.isfinite().all()
    assert log_q.isfinite().all()
    assert all(each.isfinite().all() for each in found if each is not None)
    if posterior.evaluates:
        density = q.log_prob(torch.tensor([[0.0, 1e4, -1e4, 3.0], [1.0, 1.0, 1.0, 1.0]]))
        assert all(each.isfinite().all() for each in torch.autograd.grad(density.sum(), weights, allow_unused=True)
                   if each is not None)  # fmt: skip
    low = posterior(torch.randn(2, posterior.values(4)).bfloat16(), model.posterior_weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(each.dtype == torch.float32 for each in low.draw_with_log_prob(Noise()))


@pytest.mark.parametrize("value", [1e3, -1e3])
def test_gates_stay_open_enough_to_invert_and_come_back(value: float) -> None:
    step = GatedAutoregressive(3, 8)
    nn.init.constant_(step.network.last.bias, value)
    y, log_det = step(torch.randn(4, 3))
    x, _ = step.inverse(y.detach())
    assert x.isfinite().all()
    assert log_det.min() > -3 * 5.1
    x, log_det = step.inverse(torch.full((4, 3), 10.0))
    assert x.isfinite().all()
    log_det.sum().backward()
    bias = step.network.last.bias.grad
    assert bias is not None
    assert value > 0 or (bias[3:] > 0).all()


@each_posterior
def test_every_weight_learns(posterior: Posterior) -> None:
    model = build(posterior).train()
    model.loss(*[torch.randn(16, 6, dtype=torch.float64)] * 2)["loss"].backward()
    for name, value in model.named_parameters():
        if "posterior" in name or "encoder" in name:
            assert value.grad is not None, name
            assert value.grad.abs().sum() > 0, name


@each_posterior
def test_importance_weights_tighten_the_bound_of_a_flow(posterior: Posterior) -> None:
    model = build(posterior, objective=IWAEObjective(5), likelihood=Gaussian("learned"))
    x = torch.randn(8, 6, dtype=torch.float64)
    with torch.no_grad():
        bounds = [float(IWAEObjective(k)(model, model.infer(x), x)["loss"]) for k in (1, 5, 500)]
        scores = [float(model.score(x, draws=k).mean()) for k in (1, 500)]
    assert bounds[0] > bounds[1] > bounds[2]
    assert scores[0] > scores[1]
    assert scores[1] == pytest.approx(bounds[2], rel=0.1)


# ---- the prior ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_flow_prior_integrates_to_one_and_its_draws_follow_it() -> None:
    model = build(latent_dim=2, prior=FlowPrior(2, 16))
    shake(model.prior_weights, 0.25)  # type: ignore[arg-type]  # so that all of it is near enough
    axis = torch.linspace(-12, 12, 601, dtype=torch.float64)
    density = model.prior.log_prob(model, torch.cartesian_prod(axis, axis)).exp().view(601, 601)
    step = float(axis[1] - axis[0])
    assert float(density.sum()) * step**2 == pytest.approx(1, abs=1e-3)
    torch.manual_seed(0)
    draws = model.prior.sample(model, 10_000, Noise()).numpy()
    for unit in range(2):
        below = (density.sum(dim=1 - unit).cumsum(0) * step**2).numpy()
        for shift in (0.0, 0.3):
            fits = stats.kstest(
                draws[:, unit] + shift, lambda z, below=below: np.interp(z, axis.numpy() + step / 2, below)
            )
            assert (fits.pvalue > 1e-3) == (shift == 0), (unit, shift, fits)


@pytest.mark.parametrize("options", [VECTOR, MAP], ids=["vector", "map"])
def test_the_flow_prior_of_any_code(options: dict[str, Any]) -> None:
    fresh, bent = (build(prior=FlowPrior(2, 16), bend=bend, **options) for bend in (False, True))
    z = torch.randn(2, 3, *fresh.code_shape, dtype=torch.float64)
    torch.testing.assert_close(fresh.prior.log_prob(fresh, z), StandardNormal().log_prob(fresh, z))
    torch.testing.assert_close(fresh.prior.sample(fresh, 4, Noise(1, "a")), Noise(1, "a").randn_like(fresh.zeros(4)))
    assert bent.prior.log_prob(bent, z).shape == (2, 3)
    drawn = bent.prior.sample(bent, 4, Noise(1, "a"))
    x, log_det = bent.prior_weights(drawn.flatten(1), inverse=True)  # type: ignore[misc]
    torch.testing.assert_close(x, Noise(1, "a").randn_like(fresh.zeros(4)).flatten(1))
    matrix: Any = jacobian(lambda e: bent.prior_weights(e.unsqueeze(0))[0][0], x[0])  # type: ignore[misc]
    expected = stats.norm.logpdf(x[0].detach().numpy()).sum() - float(torch.linalg.slogdet(matrix).logabsdet)
    assert float(bent.prior.log_prob(bent, drawn[0]).detach()) == pytest.approx(expected)
    assert bent.sample(2).shape == (2, *bent.input_shape)


def test_flows_are_trained_and_saved(digits: Tensor, fit: Any, tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = VAE((1, 8, 8), 4, prior=FlowPrior(1, 8), posterior=SplineFlow(2, 8), architecture=MLP((8,)))
    before = {name: value.clone() for name, value in model.state_dict().items() if "_weights" in name}
    trainer = fit(model, digits[:256])
    assert all(not torch.equal(model.state_dict()[name], value) for name, value in before.items())
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = VAE.load_from_checkpoint(tmp_path / "model.ckpt").eval()
    assert loaded.posterior == model.posterior
    assert torch.equal(loaded.score(digits[:9]), model.eval().score(digits[:9]))


def test_bad_input() -> None:
    for posterior in (IAF(), SplineFlow()):
        with pytest.raises(InputError, match=f"{type(posterior).__name__} lets some units .* and there is one"):
            VAE((6,), 1, posterior=posterior)
    with pytest.raises(InputError, match="FlowPrior lets some units"):
        VAE((6,), 1, prior=FlowPrior())
    VAE((6,), 1, posterior=PlanarFlow())
    for part in (PlanarFlow, IAF, SplineFlow, FlowPrior):
        with pytest.raises(InputError, match=f"steps of {part.__name__} must be a positive integer, got 0"):
            part(steps=0)
    for part in (IAF, SplineFlow, FlowPrior):
        with pytest.raises(InputError, match=rf"hidden of {part.__name__} must be a positive integer, got 2\.5"):
            part(hidden=2.5)
    with pytest.raises(InputError, match="bins of SplineFlow must be 2 to 500, got 1"):
        SplineFlow(bins=1)
    with pytest.raises(InputError, match="bound of SplineFlow must be positive, got 0"):
        SplineFlow(bound=0)
    with pytest.raises(InputError, match="PlanarFlow knows that of its own draws only"):
        VAE((6,), posterior=PlanarFlow(), prior=VampPrior())
    with pytest.raises(InputError, match="divergence of a IAF from a StandardNormal has no closed form"):
        VAE((6,), posterior=IAF(), objective=ELBO("closed_form"))
    with pytest.raises(InputError, match="not independent under SplineFlow"):
        VAE((6,), posterior=SplineFlow(), objective=TotalCorrelation())
    with pytest.raises(InputError, match="prior FlowPrior has weights"):
        AdversarialAutoencoder((6,), prior=FlowPrior())


def test_a_gain_of_an_earlier_version_loads(tmp_path: Path) -> None:
    """It was a scalar, which FSDP does not shard."""
    torch.manual_seed(0)
    model = VAE((6,), 4, posterior=PlanarFlow(), architecture=MLP((8,)))
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=0, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(model, DataLoader(torch.rand(8, 6)))
    trainer.save_checkpoint(tmp_path / "now.ckpt")
    kept = torch.load(tmp_path / "now.ckpt", weights_only=True)
    gains = [name for name in kept["state_dict"] if name.endswith(".gain")]
    for i, name in enumerate(gains):
        kept["state_dict"][name] = torch.tensor(0.5 + i)
    torch.save(kept, tmp_path / "earlier.ckpt")
    loaded = load_model(tmp_path / "earlier.ckpt").state_dict()
    assert [loaded[name].tolist() for name in gains] == [[0.5 + i] for i in range(4)]
