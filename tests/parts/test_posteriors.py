"""Posteriors against torch.distributions, for vectors and maps, one draw or several."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, distributions

from lightning_ae import VAE
from lightning_ae.architectures import MLP
from lightning_ae.exact import Noise
from lightning_ae.parts import DiagonalGaussian, FullCovarianceGaussian, StandardNormal
from lightning_ae.parts.posteriors import CorrelatedNormal, DiagonalNormal

SHAPES = [(3,), (2, 3, 3)]


def posterior(shape: tuple[int, ...], n: int = 5) -> tuple[DiagonalNormal, distributions.Distribution]:
    """Those that an encoder's output describes, and the same by torch."""
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(n, 2 * shape[0], *shape[1:], generator=generator, dtype=torch.float64)
    mean, log_variance = output[:, : shape[0]], output[:, shape[0] :]
    plain = distributions.Normal(mean, (log_variance / 2).exp())
    return DiagonalGaussian()(output), distributions.Independent(plain, len(shape))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_densities_are_those_of_torch(shape: tuple[int, ...]) -> None:
    q, expected = posterior(shape)
    one, several = torch.randn(5, *shape, dtype=torch.float64), torch.randn(5, 4, *shape, dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(one), expected.log_prob(one))
    by_draw = torch.stack([expected.log_prob(several[:, k]) for k in range(4)], dim=1)
    torch.testing.assert_close(q.log_prob(several), by_draw)
    assert q.log_prob_by_unit(several).shape == several.shape
    torch.testing.assert_close(q.log_prob_by_unit(several).flatten(2).sum(dim=2), by_draw)


@pytest.mark.parametrize("n", [None, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_draws_are_mean_and_scaled_noise(shape: tuple[int, ...], n: int | None) -> None:
    q, _ = posterior(shape)
    mean, log_variance = q.mean.clone().requires_grad_(), q.log_variance.clone().requires_grad_()
    z = DiagonalNormal(mean, log_variance).draw(Noise(1, "a"), n)
    assert z.shape == ((5, *shape) if n is None else (5, n, *shape))
    noise = Noise(1, "a").randn_like(z)
    spread = (log_variance / 2).exp()
    expected = mean + spread * noise if n is None else mean.unsqueeze(1) + spread.unsqueeze(1) * noise
    torch.testing.assert_close(z, expected)
    for found, plain in zip(
        torch.autograd.grad(z.sin().sum(), (mean, log_variance), retain_graph=True),
        torch.autograd.grad(expected.sin().sum(), (mean, log_variance)),
        strict=True,
    ):
        torch.testing.assert_close(found, plain)


def test_several_draws_are_independent() -> None:
    q = DiagonalNormal(torch.zeros(2, 3), torch.zeros(2, 3))
    z = q.draw(Noise(1, "a"), 20_000)
    correlation = torch.corrcoef(z.movedim(1, -1).flatten(0, 1))
    torch.testing.assert_close(correlation, torch.eye(6), atol=0.04, rtol=0)  # 5 standard errors


def test_extreme_variances_stay_finite_and_come_back() -> None:
    output = torch.tensor([[0.0, 0.0, 1e4, -1e4]]).requires_grad_()
    q = DiagonalGaussian()(output)
    assert q.log_variance.tolist() == [[20.0, -30.0]]
    q.log_variance.sum().backward()
    assert output.grad is not None
    assert output.grad.tolist() == [[0.0, 0.0, 1.0, 1.0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_computed_in_float32(dtype: torch.dtype) -> None:
    output = torch.randn(4, 6).to(dtype)
    q = DiagonalGaussian()(output)
    found: list[Tensor] = [q.mean, q.log_variance, q.draw(Noise()), q.log_prob(q.draw(Noise(), 2))]
    assert all(value.dtype == torch.float32 for value in found)


def test_detached_has_no_gradient() -> None:
    q = DiagonalGaussian()(torch.randn(2, 6, requires_grad=True))
    z = q.draw(Noise())
    assert q.log_prob(z.detach()).requires_grad
    assert not q.detach().log_prob(z.detach()).requires_grad


# ---- full covariance ------------------------------------------------------------------------------------------------


def correlated(shape: tuple[int, ...], n: int = 5) -> tuple[CorrelatedNormal, distributions.Distribution]:
    """Those that an encoder's output describes, and the same by torch, each position's factor filled by hand."""
    generator = torch.Generator().manual_seed(0)
    units, family = shape[0], FullCovarianceGaussian()
    output = torch.randn(n, family.values(units), *shape[1:], generator=generator, dtype=torch.float64)
    last = output.movedim(1, -1)
    factor = torch.zeros(n, *shape[1:], units, units, dtype=torch.float64)
    entry = 2 * units
    for i in range(units):
        for j in range(i):
            factor[..., i, j] = last[..., entry]
            entry += 1
        factor[..., i, i] = (last[..., units + i] / 2).exp()
    assert entry == family.values(units)
    plain = distributions.MultivariateNormal(last[..., :units], scale_tril=factor)
    return family(output), distributions.Independent(plain, len(shape) - 1)


@pytest.mark.parametrize("shape", [(1,), *SHAPES], ids=str)
def test_correlated_densities_draws_and_divergences_are_those_of_torch(shape: tuple[int, ...]) -> None:
    q, expected = correlated(shape)
    one, several = torch.randn(5, *shape, dtype=torch.float64), torch.randn(5, 4, *shape, dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(one), expected.log_prob(one.movedim(1, -1)))
    by_draw = torch.stack([expected.log_prob(several[:, k].movedim(1, -1)) for k in range(4)], dim=1)
    torch.testing.assert_close(q.log_prob(several), by_draw)
    for n in (None, 3):
        z, log_q = q.draw_with_log_prob(Noise(1, "a"), n)
        assert torch.equal(z, q.draw(Noise(1, "a"), n))
        torch.testing.assert_close(log_q, q.log_prob(z))
        each = expected.base_dist  # type: ignore[attr-defined]
        epsilon = Noise(1, "a").randn_like(z).movedim(1 if n is None else 2, -1)
        factor = each.scale_tril if n is None else each.scale_tril.unsqueeze(1)
        mean = each.mean if n is None else each.mean.unsqueeze(1)
        drawn = mean + (factor @ epsilon.unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(z, drawn.movedim(-1, 1 if n is None else 2))
    torch.manual_seed(0)
    model = VAE((6,), shape[0], posterior=FullCovarianceGaussian(), architecture=MLP((8,)))
    standard = distributions.MultivariateNormal(torch.zeros(shape[0]).double(), torch.eye(shape[0]).double())
    kl = distributions.kl_divergence(expected.base_dist, standard).reshape(5, -1).sum(dim=1)  # type: ignore[attr-defined]
    torch.testing.assert_close(StandardNormal().kl(model, q, one), kl)
    assert StandardNormal().closed_form(FullCovarianceGaussian())


def test_extreme_correlations_stay_finite() -> None:
    family = FullCovarianceGaussian()
    for value in (1e4, -1e4):
        output = torch.full((2, family.values(3)), value).requires_grad_()
        q = family(output)
        z, log_q = q.draw_with_log_prob(Noise(1, "a"))
        (z.sum() + log_q.sum()).backward()
        assert z.isfinite().all()
        assert log_q.isfinite().all()
        assert output.grad is not None
        assert output.grad.isfinite().all()
    z = family(output).draw(Noise())
    assert not family(output).detach().log_prob(z.detach()).requires_grad
    assert family(torch.randn(2, 9).bfloat16()).draw(Noise()).dtype == torch.float32
