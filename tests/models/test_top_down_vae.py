"""The top-down hierarchy against its equations by hand, torch.distributions and quadrature."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli as Coin
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional as F

from lightning_ae import InputError, TopDownVAE, get_model
from lightning_ae.architectures import ConvNet
from lightning_ae.exact import Noise
from lightning_ae.parts import Bernoulli


def build(shape: tuple[int, ...] = (1, 8, 8), *, bent: bool = True, **options: Any) -> TopDownVAE:
    """With weights between the levels that are not those of a fresh model, unless it is to be one."""
    torch.manual_seed(0)
    options = {"latent_dim": 6, "upper_dims": (4, 3), "width": 20, "likelihood": Bernoulli()} | options
    model = TopDownVAE(shape, **options).double().eval()
    if bent:
        for network in (*model.stages, *model.paths, *model.priors):
            torch.nn.init.normal_(network.linears[-1].weight, std=0.3)  # type: ignore[union-attr, index, arg-type]
            torch.nn.init.normal_(network.linears[-1].bias, std=0.3)  # type: ignore[union-attr, index, arg-type]
    return model


def x_of(n: int = 9) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64).round()


def normal(output: Tensor) -> Independent:
    mean, log_variance = output.chunk(2, dim=1)
    return Independent(Normal(mean, (log_variance / 2).exp()), 1)


@torch.no_grad()
def by_hand(model: TopDownVAE, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The codes of all levels, the divergence of each and log p(x | z) of each sample, level by level from the top."""
    noise, leaky = Noise(), F.leaky_relu
    b = [model.encoder(x)]
    for stage in model.stages:
        b.append(b[-1] + stage(leaky(b[-1])))
    zero = torch.zeros(len(x), model.dims[2], dtype=torch.float64)
    q = normal(model.posteriors[2](leaky(b[2])))
    kl = [kl_divergence(q, normal(torch.cat([zero, zero], dim=1)))]
    codes = [q.base_dist.mean + q.base_dist.stddev * noise.randn_like(zero)]
    h = model.reads[2](codes[0])
    h = h + model.paths[2](leaky(h))
    for i in (1, 0):
        p, q = normal(model.priors[i](leaky(h))), normal(model.posteriors[i](leaky(torch.cat([b[i], h], dim=1))))
        kl.insert(0, kl_divergence(q, p))
        codes.insert(0, q.base_dist.mean + q.base_dist.stddev * noise.randn_like(q.mean))
        h = h + model.reads[i](codes[0])
        h = h + model.paths[i](leaky(h))
    return codes, kl, Coin(logits=model.decoder(h)).log_prob(x).flatten(1).sum(dim=1)


@torch.no_grad()
def test_loss_and_divergences_are_those_of_the_equations() -> None:
    model, x = build(beta=0.7), x_of()
    torch.manual_seed(3)
    codes, kl, log_p = by_hand(model, x)
    torch.manual_seed(3)
    levels = model.descend(model.evidence(x), lambda q: q.draw(model.noise("any")))
    for level, code, expected in zip(levels, codes, kl, strict=True):
        torch.testing.assert_close(level.code, code)
        torch.testing.assert_close(level.kl, expected)
    torch.manual_seed(3)
    terms = model.loss(x, x)
    for i, expected in enumerate(kl, start=1):
        torch.testing.assert_close(terms[f"kl_{i}"], expected.mean())
    total = torch.stack(kl).sum(dim=0)
    torch.testing.assert_close(terms["loss"], (0.7 * total - log_p).mean())
    torch.testing.assert_close(terms["bits_per_dimension"], (total - log_p).mean() / (64 * math.log(2)))
    torch.manual_seed(3)
    torch.testing.assert_close(model.rate(x), total / math.log(2))
    log_likelihood = model.log_likelihood(tuple(codes), x)
    torch.testing.assert_close(log_likelihood, log_p)


@torch.no_grad()
def test_with_one_level_in_use_it_is_a_vae() -> None:
    """What the upper levels say and cost is zero: the bound is that of q(z_1 | x), N(0, I) and the decoder alone."""
    model, x = build(upper_dims=(4,), bent=False), x_of()
    silent = [model.reads[1], model.posteriors[1].linears[-1]]
    silent += [network.linears[-1] for network in (*model.stages, *model.paths, *model.priors)]
    for layer in silent:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    torch.manual_seed(3)
    terms = model.loss(x, x)
    torch.manual_seed(3)
    noise = Noise()
    noise.randn_like(torch.zeros(9, 4, dtype=torch.float64))
    seen = torch.cat([model.encoder(x), torch.zeros(9, 20, dtype=torch.float64)], dim=1)
    q = normal(model.posteriors[0](F.leaky_relu(seen)))
    z = q.base_dist.mean + q.base_dist.stddev * noise.randn_like(q.mean)
    standard = normal(torch.zeros(9, 12, dtype=torch.float64))
    log_p = Coin(logits=model.decoder(model.reads[0](z))).log_prob(x).flatten(1).sum(dim=1)
    torch.testing.assert_close(terms["loss"], (kl_divergence(q, standard) - log_p).mean())
    torch.testing.assert_close(terms["kl_2"], torch.zeros((), dtype=torch.float64))


def evidence(model: TopDownVAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x) and the mean of p(x), of two levels of one unit each, by quadrature over both codes."""
    axis = torch.linspace(-8, 8, 161, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    z1, z2 = grid[:, :1], grid[:, 1:]
    h = model.reads[1](z2)
    h = h + model.paths[1](F.leaky_relu(h))
    density = normal(model.priors[0](F.leaky_relu(h))).log_prob(z1) + Normal(0.0, 1.0).log_prob(z2[:, 0])
    density = density + 2 * math.log(float(axis[1] - axis[0]))
    assert float(density.exp().sum()) == pytest.approx(1, abs=1e-3)
    each = torch.stack([model.log_likelihood((z1, z2), row.expand(len(grid), *row.shape)) + density for row in x])
    means = model.decode((z1, z2))
    return each.logsumexp(dim=1), (means * density.exp().view(-1, 1, 1, 1)).sum(dim=0)


@pytest.mark.slow
@torch.no_grad()
def test_score_and_samples_are_those_by_quadrature() -> None:
    model, x = build(latent_dim=1, upper_dims=(1,)), x_of(3)
    exact, mean = evidence(model, x)
    one = torch.stack([model.score_batch(x, x, seed=seed).score for seed in range(300)])
    many = model.score_batch(x, x, draws=5000).score
    error = one.std(dim=0) / math.sqrt(len(one))
    assert (one.mean(dim=0) > -exact + 3 * error).all()
    torch.testing.assert_close(many, -exact, rtol=0, atol=0.05)
    assert (many < one.mean(dim=0) - 3 * error).all()
    torch.manual_seed(0)
    samples = model.sample(4000)
    off = (samples.mean(dim=0) - mean) / (samples.std(dim=0) / math.sqrt(len(samples)))
    assert float(off.abs().max()) < 4.5, off


@torch.no_grad()
def test_codes() -> None:
    model, x = build(), x_of()
    assert model.code_shape == ((6,), (4,), (3,))
    codes = model.encode(x)
    levels = model.descend(model.evidence(x), lambda q: q.mean)
    assert all(torch.equal(code, level.q.mean) for code, level in zip(codes, levels, strict=True))
    torch.testing.assert_close(model(x), model.decode(codes))
    changed = model.decode((codes[0], codes[1], codes[2] + 1))
    assert not torch.allclose(changed, model.decode(codes), atol=1e-3)  # the data see all levels
    assert not torch.equal(model.draw(x)[0], model.draw(x)[0])
    by = torch.full((9,), 2.0, dtype=torch.float64)
    moved = model.move(codes, 6 + 1, by)
    torch.testing.assert_close(moved[1] - codes[1], torch.tensor([0.0, 2.0, 0.0, 0.0]).double().expand(9, 4))
    assert torch.equal(moved[2], codes[2])
    above = model.below(2, None, codes[2])
    p = [model.prior(0, model.below(1, above, code[1])) for code in (codes, moved)]
    torch.testing.assert_close(moved[0] - codes[0], p[1].mean - p[0].mean)


def test_every_weight_learns(digits: Tensor, fit: Any) -> None:
    model = build(bent=False).float()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model.train(), digits[:512], max_epochs=2)
    assert [name for name, value in model.state_dict().items() if torch.equal(value, before[name])] == []


def test_names_and_bad_arguments() -> None:
    assert get_model("hierarchical-VAE") is get_model("top_down_vae") is TopDownVAE
    for name in ("nvae", "vd_vae"):
        with pytest.raises(InputError, match="the nearest is 'top_down_vae'"):
            get_model(name)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"upper_dims": ()}, "(?s)TopDownVAE takes positive integers.*; for one, use VAE"),
        ({"width": 0}, "and width; got"),
        ({"beta": -1.0}, "beta must not be negative"),
        ({"architecture": ConvNet((4,), code="map")}, r"levels of TopDownVAE are vectors.*\(128, 4, 4\)"),
    ]
    for options, reason in wrong:
        with pytest.raises(InputError, match=reason):
            TopDownVAE((1, 8, 8), **options)
    model = build()
    with pytest.raises(InputError, match="TopDownVAE decodes a tuple of 3 codes"):
        model.decode(model.encode(x_of())[0])
