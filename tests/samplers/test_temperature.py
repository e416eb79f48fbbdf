"""The temperature of samples: standard deviations times it, against the moments of what codes are drawn from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_ae import VAE, Autoencoder, InputError, get_model
from lightning_ae.architectures import MLP
from lightning_ae.cli import written
from lightning_ae.cli.sampling import sample
from lightning_ae.exact import Noise
from lightning_ae.parts import FlowPrior, MixturePrior, Prior, StandardNormal, VampPrior
from lightning_ae.parts.hyperbolic import origin_log
from lightning_ae.samplers import FlowSampler, GaussianSampler, IndexSampler, MixtureSampler, TwoStageSampler

N, T = 20_000, 0.4


def made(name: str, shape: tuple[int, ...] = (6,), **options: Any) -> Any:
    torch.manual_seed(0)
    return get_model(name)(shape, 3, architecture=MLP((8,)), **options).eval()


@torch.no_grad()
def variance(model: VAE) -> Tensor:
    """Of a prior that is a mixture of Gaussians at the temperature T, (units,), by the law of total variance."""
    prior: Any = model.prior
    q, weights = prior.distributions(model), prior.log_weights(model).exp().unsqueeze(1)
    mean = (weights * q.mean).sum(0)
    return (weights * (T**2 * q.log_variance.exp() + (q.mean - mean).square())).sum(0)


@pytest.mark.parametrize("prior", [MixturePrior(3), VampPrior(4)], ids=str)
@torch.no_grad()
def test_components_have_that_part_of_their_deviations_and_keep_their_means(prior: Prior) -> None:
    model = made("vae", prior=prior)
    if isinstance(prior, MixturePrior):
        torch.nn.init.normal_(model.prior_weights.values)
    torch.manual_seed(1)
    codes = model.draw_codes(N, T)
    torch.testing.assert_close(codes.var(0), variance(model), rtol=0.05, atol=0)
    means = prior.distributions(model).mean  # type: ignore[attr-defined]
    cold = model.draw_codes(50, 0.0)
    assert float((cold.unsqueeze(1) - means).abs().amax(2).amin(1).max()) < 1e-6
    assert len(cold.unique(dim=0)) > 1  # the weights stay


@pytest.mark.parametrize("name", ["vae", "adversarial"])
@torch.no_grad()
def test_the_standard_normal(name: str) -> None:
    model = made(name, prior=StandardNormal())
    torch.manual_seed(1)
    warm = model.draw_codes(N, 1.0)
    torch.manual_seed(1)
    codes = model.draw_codes(N, T)
    torch.testing.assert_close(codes.std(0), torch.full((3,), T), rtol=0.03, atol=0)
    torch.testing.assert_close(codes, T * warm)
    assert not model.draw_codes(5, 0.0).any()
    torch.testing.assert_close(model.sample(2, temperature=0.0), model.decode(torch.zeros(2, 3)))
    torch.manual_seed(1)
    usual = model.sample(4)
    torch.manual_seed(1)
    assert torch.equal(model.sample(4, temperature=1.0), usual)


@torch.no_grad()
def test_a_flow_begins_with_it() -> None:
    model = made("vae", prior=FlowPrior(2, 8))
    for weight in model.prior_weights.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    start = model.prior_weights(model.draw_codes(N, T), inverse=True)[0]
    torch.testing.assert_close(start.std(0), torch.full((3,), T), rtol=0.03, atol=0)


@torch.no_grad()
def test_in_the_ball_it_is_of_logarithms_at_the_origin() -> None:
    model = made("poincare_vae", curvature=0.5)
    codes = origin_log(model.draw_codes(N, T).double(), 0.5)
    torch.testing.assert_close(codes.std(0), torch.full((3,), T * model.prior.scale).double(), rtol=0.03, atol=0)


@pytest.mark.parametrize("name", ["top_down_vae", "ladder_vae"])
@torch.no_grad()
def test_each_level_given_those_above(name: str) -> None:
    model = made(name, upper_dims=(2,))
    low, top = model.draw_codes(N, T)
    torch.testing.assert_close(top.std(0), torch.full((2,), T), rtol=0.03, atol=0)
    p = model.prior(0, model.below(1, None, top))
    torch.testing.assert_close(
        ((low - p.mean) / (p.log_variance / 2).exp()).std(0), torch.full((3,), T), rtol=0.03, atol=0
    )
    cold, above = model.draw_codes(2, 0.0)
    assert not above.any()
    torch.testing.assert_close(cold, model.prior(0, model.below(1, None, above)).mean)


@torch.no_grad()
def test_samplers_that_are_gaussians_or_begin_with_them() -> None:
    model = made("ae")
    codes = torch.randn(400, 3) @ torch.tensor([[1.0, 0.5, 0], [0, 2, 1], [0, 0, 0.3]]) + torch.tensor([1.0, 2, 3])
    model.sampler = GaussianSampler().fit(codes)
    found = model.draw_codes(N, T).double()
    torch.testing.assert_close(torch.cov(found.T), T**2 * torch.cov(codes.double().T), rtol=0.1, atol=0.01)
    torch.testing.assert_close(model.draw_codes(1, 0.0)[0], codes.mean(0))
    model.sampler = FlowSampler(steps=1, hidden=8, updates=5).fit(codes)
    start = model.sampler.flows(model.sampler.inward(model.draw_codes(N, T)), inverse=True)[0]
    torch.testing.assert_close(start.std(0), torch.full((3,), T), rtol=0.03, atol=0)
    model.sampler = TwoStageSampler(hidden=(8,), updates=5).fit(codes)
    one, other = model.draw_codes(2, 0.0)
    assert torch.equal(one, other)
    expected = model.sampler.outward(model.sampler.decoder(torch.zeros(1, 3)))[0]
    torch.testing.assert_close(one.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_model_that_takes_a_label() -> None:
    model = made("conditional_vae", num_classes=4)
    a, b = model.sample(2, temperature=0.0, label=1)
    torch.testing.assert_close(a, b)
    assert not torch.equal(model.sample(1, temperature=0.0, label=2)[0], a)
    drawn = made("semi_supervised_vae", num_classes=4)
    assert drawn.sample(3, temperature=0.5).shape == (3, 6)


@pytest.mark.parametrize("temperature", [-0.5, math.nan, math.inf])
def test_what_is_no_temperature(temperature: float) -> None:
    with pytest.raises(InputError, match="temperature must be 0 or more, and finite"):
        made("vae").sample(2, temperature=temperature)


def indices() -> Autoencoder:
    model: Autoencoder = made("categorical_vae", classes=2)
    model.sampler = IndexSampler(width=4, layers=1, heads=1, updates=1).fit(torch.randint(2, (20, 3)))
    return model


REFUSED: dict[str, Any] = {
    "UniformOnSphere": lambda: made("hyperspherical_vae"),
    "UniformOnCategories": lambda: made("categorical_vae"),
    "JointPrior": lambda: made("joint_vae"),
    "IndexSampler": indices,
    "annealed Langevin dynamics": lambda: made("score_matching"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_temperature_says_so(name: str) -> None:
    model = REFUSED[name]()
    with pytest.raises(InputError, match=rf"temperature = 0.5 .* drawn from {name}, which has none"):
        model.sample(2, temperature=0.5)
    few = {"steps": 1} if "dynamics" in name else {}
    assert model.sample(2, temperature=1.0, **few).shape == (2, 6)


def test_a_sampler_gives_them_one() -> None:
    model = made("hyperspherical_vae")
    model.sampler = MixtureSampler(1).fit(torch.randn(50, 3))
    assert model.sample(2, temperature=0.5).shape == (2, 6)
    with pytest.raises(InputError, match="no distribution over codes"):
        made("ae").sample(2, temperature=0.5)


def test_a_subclass_whose_codes_have_none_says_so() -> None:
    class Plain(Autoencoder):
        def prior_codes(self, n: int) -> Any:  # type: ignore[override]
            return torch.zeros(n, 3)

    model = Plain((6,), 3)
    assert model.sample(2).shape == (2, 6)
    with pytest.raises(InputError, match=r"temperature = 0.5 was given, and prior_codes of Plain takes none"):
        model.sample(2, temperature=0.5)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_draw_what_one_draws(monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    model = made("vae", prior=MixturePrior(3))
    one = model.prior.sample(model, 6, Noise(1, "a", samples=6, temperature=T))
    monkeypatch.setattr("lightning_ae.exact.noise.world_size", lambda: world)
    for number in range(world):
        monkeypatch.setattr("lightning_ae.exact.noise.rank", lambda number=number: number)
        own = model.prior.sample(model, 6 // world, Noise(1, "a", samples=6, temperature=T))
        assert torch.equal(own, one[number::world])


@pytest.mark.parametrize(("temperature", "said"), [(1.0, "distribution, seed 0"), (0.5, "temperature 0.5, seed 0")])
def test_the_picture_says_it(temperature: float, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def kept(figure: Any, file: Path, overwrite: bool) -> Path:
        title = figure.get_suptitle()
        assert title.startswith("vae_mlp.digits_v1: ")
        assert title.endswith(said)
        return file

    monkeypatch.setattr(written, "save_figure", kept)
    sample("vae_mlp.digits_v1", n=4, temperature=temperature, output=str(tmp_path / "s.png"), device="cpu")
