"""The ladder against products of Gaussians, torch.distributions and a plain VAE."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from lightning_ae import VAE, InputError, LadderVAE, load_model
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.models.hierarchical import Level, combine
from lightning_ae.parts import Bernoulli, Warmup
from lightning_ae.parts.posteriors import DiagonalNormal
from lightning_ae.training.certify import Case, certify


def some(n: int = 7, dim: int = 5, seed: int = 0) -> DiagonalNormal:
    generator = torch.Generator().manual_seed(seed)
    mean, log_variance = torch.randn(2, n, dim, generator=generator, dtype=torch.float64)
    return DiagonalNormal(mean, 2 * log_variance)


def as_torch(q: DiagonalNormal) -> Independent:
    return Independent(Normal(q.mean, (q.log_variance / 2).exp()), 1)


def ladder(**options: Any) -> LadderVAE:
    torch.manual_seed(0)
    return LadderVAE((1, 8, 8), **{"latent_dim": 6, "upper_dims": (4, 3), "width": 20, **options}).double().eval()


def x_of(n: int = 9) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_levels_are_combined_as_a_product_of_normal_distributions() -> None:
    a, b = some(seed=1), some(seed=2)
    product = combine(a, b)
    points = some(seed=3).mean, some(seed=4).mean
    # log N(z; a) + log N(z; b) and log N(z; product) differ by what does not depend on z
    differences = [as_torch(a).log_prob(z) + as_torch(b).log_prob(z) - as_torch(product).log_prob(z) for z in points]
    torch.testing.assert_close(differences[0], differences[1], rtol=1e-10, atol=1e-10)
    precision = (-a.log_variance).exp() + (-b.log_variance).exp()
    torch.testing.assert_close(product.log_variance, -precision.log())


def test_extreme_precisions_stay_finite() -> None:
    low, high = (DiagonalNormal(torch.ones(2, 3), torch.full((2, 3), v)) for v in (-30.0, 20.0))
    for product in (combine(low, high), combine(high, low), combine(low, low), combine(high, high)):
        assert product.mean.isfinite().all()
        assert product.log_variance.isfinite().all()


def test_divergence_of_a_level_is_that_of_torch() -> None:
    q, p = some(seed=1), some(seed=2)
    torch.testing.assert_close(Level(q, p, q.mean).kl, kl_divergence(as_torch(q), as_torch(p)))


def test_loss_is_the_bound_of_the_whole_hierarchy() -> None:
    # E_q[log q(z | x) - log p(z)] over joint draws, against the sum of the levels' closed forms
    model, x = ladder(likelihood=Bernoulli()), x_of(3)
    torch.manual_seed(0)
    many = x.repeat(4000, 1, 1, 1)
    with torch.no_grad():
        levels = model.descend(model.evidence(many), lambda q: q.draw(model.noise("any")))
        assert [level.code.shape[1] for level in levels] == [6, 4, 3]
        joint = sum(as_torch(level.q).log_prob(level.code) - as_torch(level.p).log_prob(level.code) for level in levels)
        terms = model.loss(many, many)
        rate = float(model.rate(many).mean())
    assert float(terms["kl"]) == pytest.approx(float(joint.mean()), rel=0.02)
    assert float(terms["kl"]) == pytest.approx(sum(float(terms[f"kl_{i}"]) for i in (1, 2, 3)))
    assert float(terms["loss"]) == pytest.approx(float(terms["reconstruction"] + terms["kl"]))
    assert rate * math.log(2) == pytest.approx(float(terms["kl"]), rel=0.02)


def uninformative(model: LadderVAE, log_variance: float) -> None:
    """Makes p(z_i | z_{i+1}) = N(0, exp(log_variance)), whatever z_{i+1}."""
    for prior in model.priors:
        last: Any = prior.linears[-1]
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
        last.bias.data[len(last.bias) // 2 :] = log_variance


@torch.no_grad()
def test_without_a_word_from_above_it_is_a_plain_vae() -> None:
    model, x = ladder(likelihood=Bernoulli()), x_of()
    uninformative(model, 20.0)
    plain = VAE((1, 8, 8), latent_dim=6, likelihood=Bernoulli()).double().eval()
    plain.decoder.load_state_dict(model.decoder.state_dict())
    state = model.encoder.state_dict()  # the plain one has no output for a stage above
    plain.encoder.load_state_dict({k: v[:12] if k.startswith("linears.1") else v for k, v in state.items()})
    torch.testing.assert_close(model.encode(x)[0], plain.encode(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model(x), plain(x), rtol=1e-6, atol=1e-6)
    # an upper level that ignores the data costs nothing, and the first the divergence from its own prior
    uninformative(model, 0.0)
    for stage in model.stages:
        torch.nn.init.zeros_(stage.linears[-1].weight)  # type: ignore[union-attr, arg-type]
        torch.nn.init.zeros_(stage.linears[-1].bias)  # type: ignore[union-attr, arg-type]
    standard = as_torch(DiagonalNormal(torch.zeros(9, 6).double(), torch.zeros(9, 6).double()))
    q = as_torch(combine(plain.infer(x), DiagonalNormal(torch.zeros(9, 6).double(), torch.zeros(9, 6).double())))
    terms = model.loss(x, x)
    assert float(terms["kl_3"]) == pytest.approx(0.0, abs=1e-12)
    assert float(terms["kl_1"]) == pytest.approx(float(kl_divergence(q, standard).mean()), rel=1e-9)


def test_the_mean_of_a_level_is_given_those_above() -> None:
    model, x = ladder(), x_of()
    codes = model.encode(x)
    assert [code.shape for code in codes] == [(9, 6), (9, 4), (9, 3)]
    assert model.code_shape == ((6,), (4,), (3,))
    evidence = model.evidence(x)
    torch.testing.assert_close(codes[2], evidence[2].mean)
    p = model.posterior(model.priors[1](codes[2]))
    precision = (-evidence[1].log_variance).exp(), (-p.log_variance).exp()
    expected = (evidence[1].mean * precision[0] + p.mean * precision[1]) / sum(precision)
    torch.testing.assert_close(codes[1], expected)
    assert not torch.equal(model.draw(x)[0], model.draw(x)[0])


def test_samples_come_from_the_top() -> None:
    model = ladder(likelihood=Bernoulli())
    uninformative(model, -30.0)  # all lower levels are 0, so every sample is the same
    with torch.no_grad():
        samples = model.sample(5)
        zeros = tuple(torch.zeros(5, dim, dtype=torch.float64) for dim in model.dims)
        torch.testing.assert_close(samples, model.decode(zeros), rtol=1e-4, atol=1e-4)


def test_lower_levels_follow_a_move_of_an_upper_one() -> None:
    model, x = ladder(), x_of()
    with torch.no_grad():
        code = model.encode(x)
        by = torch.full((9,), 2.0, dtype=torch.float64)
        moved = model.move(code, 6 + 4 + 1, by)  # the second dimension of the third level
        torch.testing.assert_close(moved[2] - code[2], torch.tensor([0.0, 2.0, 0.0]).double().expand(9, 3))
        expected = model.posterior(model.priors[1](moved[2])).mean - model.posterior(model.priors[1](code[2])).mean
        torch.testing.assert_close(moved[1] - code[1], expected)
        assert not torch.equal(model.decode(moved), model.decode(code))
        lowest = model.move(code, 0, by)
        torch.testing.assert_close(lowest[0][:, 0] - code[0][:, 0], by)
        assert torch.equal(lowest[0][:, 1:], code[0][:, 1:])
        assert torch.equal(lowest[1], code[1])


def test_warm_up_weighs_the_divergences(digits: Tensor, fit: Any) -> None:
    seen: list[tuple[float, dict[str, Tensor]]] = []

    class Seen(LadderVAE):
        def loss(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
            terms = super().loss(x, target)
            seen.append((self.global_step, {k: v.detach() for k, v in terms.items()}))
            return terms

    fit(Seen((1, 8, 8), beta=0.5, beta_schedule=Warmup(4)), digits, max_steps=6, max_epochs=-1)
    for step, terms in seen:
        weight = 0.5 * min(1.0, (step + 1) / 4)
        torch.testing.assert_close(terms["loss"], terms["reconstruction"] + weight * terms["kl"])


def test_it_learns_in_bf16_and_loads(digits: Tensor, fit: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LadderVAE((1, 8, 8), latent_dim=8, lr=3e-3)

    def bound() -> float:
        model.eval()
        torch.manual_seed(0)
        with torch.no_grad():
            return float(model.loss(digits, digits)["loss"])

    before = bound()
    trainer = fit(model.train(), digits, max_epochs=2, precision="bf16-mixed")
    assert all(p.isfinite().all() for p in model.parameters())
    assert bound() < before - 10
    trainer.save_checkpoint(tmp_path / "ladder.ckpt")
    loaded = load_model(tmp_path / "ladder.ckpt").eval()
    torch.testing.assert_close(loaded.encode(digits[:4]), model.eval().encode(digits[:4]), rtol=0, atol=0)


@pytest.mark.slow
def test_two_ranks_train_as_one() -> None:
    options = {"latent_dim": 4, "upper_dims": [3, 2], "width": 8, "architecture": MLP(hidden=(8,))}
    (found,) = certify([Case("ladder_vae", options)], worlds=[2])
    assert found.passed, found


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"upper_dims": []}, "two levels; for one, use VAE"),
        ({"upper_dims": [8, 0]}, "upper_dims"),
        ({"width": 1.5}, "width"),
        ({"beta": -1.0}, "beta"),
        ({"architecture": ConvNet(channels=(4,), code="map")}, r"levels of LadderVAE are vectors.*\(160, 4, 4\)"),
    ],
)
def test_bad_arguments(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        LadderVAE((1, 8, 8), **options)


def test_decoding_takes_a_code_for_each_level() -> None:
    model = ladder()
    code = model.encode(x_of())
    for wrong in (code[0], code[:2], list(code)):
        with pytest.raises(InputError, match="a tuple of 3 codes"):
            model.decode(wrong)
