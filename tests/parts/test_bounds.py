"""Combinations of importance-weighted bounds: against loops over draws, known evidence, and each other."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, distributions, nn

from lightning_ae import CIWAE, PIWAE, VAE, InputError
from lightning_ae.architectures import MLP
from lightning_ae.exact import Noise
from lightning_ae.parts import (
    CIWAEObjective,
    Gaussian,
    IWAEObjective,
    MIWAEObjective,
    MixturePrior,
    Objective,
    PIWAEObjective,
    PlanarFlow,
    Prior,
    StandardNormal,
    VampPrior,
    Warmup,
)
from lightning_ae.parts.importance import Gradient
from lightning_ae.parts.posteriors import DiagonalNormal
from lightning_ae.training.certify import Case, certify

GRADIENTS: tuple[Any, ...] = get_args(Gradient)
K, M = 6, 3
OBJECTIVES: dict[str, Any] = {
    "CIWAE": lambda **options: CIWAEObjective(K, elbo_weight=0.3, **options),
    "MIWAE": lambda **options: MIWAEObjective(K, bounds=M, **options),
    "PIWAE": lambda **options: PIWAEObjective(K, bounds=M, **options),
}


def build(objective: Objective, **options: Any) -> VAE:
    torch.manual_seed(0)
    options = {"latent_dim": 3, "likelihood": Gaussian("learned"), "architecture": MLP((8,)), **options}
    return VAE((6,), objective=objective, **options).double()


def batch(n: int = 4) -> Tensor:
    return torch.rand(n, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def terms(model: VAE, x: Tensor, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return model.loss(x, x)


def gradients(loss: Tensor, model: nn.Module) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, materialize_grads=True)
    return dict(zip(named, found, strict=True))


# ---- the gradients --------------------------------------------------------------------------------------------------


def log_mean(each: list[Tensor]) -> Tensor:
    return torch.stack(each).exp().mean().log()


def bound_of(name: str, each: list[Tensor]) -> tuple[Tensor, Tensor]:
    """What the decoder and what the encoder maximise, of the log-weights of one sample's draws."""
    whole = log_mean(each)
    size = K // M
    groups = torch.stack([log_mean(each[m * size : (m + 1) * size]) for m in range(M)]).mean()
    elbo = torch.stack(each).mean()
    mixed = 0.3 * elbo + 0.7 * whole
    return {"CIWAE": (mixed, mixed), "MIWAE": (groups, groups), "PIWAE": (whole, groups)}[name]


@pytest.mark.parametrize("prior", [StandardNormal(), MixturePrior(4)], ids=str)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_plain_gradients_are_those_of_each_networks_bound(name: str, prior: Prior) -> None:
    """Autograd of a loop over the draws, once for each network."""
    model, x = build(OBJECTIVES[name](), prior=prior), batch()
    loss = terms(model, x)["loss"]
    torch.manual_seed(0)
    q = model.infer(x)
    assert isinstance(q, DiagonalNormal)
    z = q.draw(Noise(), K)
    normal = distributions.Normal(q.mean, (q.log_variance / 2).exp())
    totals = [torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)]
    for i in range(len(x)):
        each = []
        for k in range(K):
            code = z[i, k]
            log_q = distributions.Normal(normal.loc[i], normal.scale[i]).log_prob(code).sum()
            log_p = model.log_likelihood(code[None], x[i : i + 1])[0] + model.prior.log_prob(model, code[None])[0]
            each.append(log_p - log_q)
        totals = [total - bound / len(x) for total, bound in zip(totals, bound_of(name, each), strict=True)]
    of_decoder, of_encoder = (gradients(total, model) for total in totals)
    expected = {key: (of_encoder if key.startswith("encoder") else of_decoder)[key] for key in of_decoder}
    assert float(loss.detach()) == pytest.approx(float(totals[0].detach()), rel=1e-12)
    torch.testing.assert_close(gradients(loss, model), expected)


def counts(name: str, weights: list[float], power: int) -> list[float]:
    """What each draw counts for the encoder."""
    size = K // M
    grouped = [w / sum(weights[k // size * size : k // size * size + size]) for k, w in enumerate(weights)]
    mixed = [0.3 / K + 0.7 * (w / sum(weights)) ** power for w in weights]
    return mixed if name == "CIWAE" else [share**power / M for share in grouped]


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_encoders_gradient_along_the_draws(name: str, gradient: Any) -> None:
    model, x = build(OBJECTIVES[name](gradient=gradient)), batch()
    found = gradients(terms(model, x)["loss"], model)
    torch.manual_seed(0)
    q = model.infer(x)
    assert isinstance(q, DiagonalNormal)
    z = q.draw(Noise(), K)
    encoder = {key: value for key, value in model.named_parameters() if key.startswith("encoder")}
    expected = {key: torch.zeros_like(value) for key, value in encoder.items()}
    for i in range(len(x)):
        codes = [z[i, k].detach().requires_grad_() for k in range(K)]
        fixed = distributions.Normal(q.mean[i].detach(), (q.log_variance[i].detach() / 2).exp())
        each = [
            model.log_likelihood(code[None], x[i : i + 1])[0]
            + model.prior.log_prob(model, code[None])[0]
            - fixed.log_prob(code).sum()
            for code in codes
        ]
        weights = [float(value.detach().exp()) for value in each]
        for k, count in enumerate(counts(name, weights, 2 if gradient == "dreg" else 1)):
            (by_code,) = torch.autograd.grad(each[k], codes[k], retain_graph=True)
            through = torch.autograd.grad(z[i, k], list(encoder.values()), by_code, retain_graph=True)
            for key, value in zip(encoder, through, strict=True):
                expected[key] -= count * value / len(x)
    torch.testing.assert_close({key: found[key] for key in encoder}, expected)


def test_a_group_that_counts_for_nothing_still_trains_the_encoder() -> None:
    """Half of the draws are worse by 200 nats: the decoder does not see them, and float32 has no ratio for them."""

    class Far(VAE):
        def log_likelihood(self, z: Tensor, target: Tensor, **given: Tensor) -> Tensor:
            each = super().log_likelihood(z, target, **given)
            return each - each.new_tensor([0.0, 0.0, 200.0, 200.0]).repeat(len(each) // 4)

    torch.manual_seed(0)
    model = Far((6,), 3, architecture=MLP((8,)), objective=PIWAEObjective(4, bounds=2), likelihood=Gaussian())
    both = Far((6,), 3, architecture=MLP((8,)), objective=MIWAEObjective(4, bounds=2), likelihood=Gaussian())
    both.load_state_dict(model.state_dict())
    found, expected = (gradients(terms(each, batch().float())["loss"], each) for each in (model, both))
    encoder = [key for key in found if key.startswith("encoder")]
    torch.testing.assert_close({k: found[k] for k in encoder}, {k: expected[k] for k in encoder})
    assert all(value.isfinite().all() for value in found.values())


# ---- each other -----------------------------------------------------------------------------------------------------


def same(first: VAE, second: VAE, x: Tensor, other: Tensor | None = None) -> None:
    second.load_state_dict(first.state_dict())
    a, b = terms(first, x), terms(second, x if other is None else other)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients(a["loss"], first), gradients(b["loss"], second))


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_ends_of_the_combinations(gradient: Any) -> None:
    x, options = batch(), {"gradient": gradient}
    one, iwae = build(IWAEObjective(1, **options)), build(IWAEObjective(K, **options))
    for objective in (
        CIWAEObjective(K, elbo_weight=0.0, **options),
        MIWAEObjective(K, bounds=1, **options),
        PIWAEObjective(K, bounds=1, **options),
    ):
        same(build(objective), iwae, x)
    # K draws of each sample are a draw of each of K copies
    for objective in (CIWAEObjective(K, elbo_weight=1.0, **options), MIWAEObjective(K, bounds=K, **options)):
        same(build(objective), one, x, x.repeat_interleave(K, dim=0))
    piwae = build(PIWAEObjective(K, bounds=K, **options))
    found = gradients(terms(piwae, x)["loss"], piwae)
    of_decoder, of_encoder = (
        gradients(terms(model, rows)["loss"], model) for model, rows in ((iwae, x), (one, x.repeat_interleave(K, 0)))
    )
    for key, value in found.items():
        torch.testing.assert_close(value, (of_encoder if key.startswith("encoder") else of_decoder)[key])


class Square(VAE):
    """p(x | z) = N(z^2, 0.5^2): a posterior of two modes, and evidence by quadrature."""

    def log_likelihood(self, z: Tensor, target: Tensor, **given: Tensor) -> Tensor:
        return distributions.Normal(z[:, 0].square(), 0.5).log_prob(target[:, 0])


def test_bounds_lie_in_their_order_above_the_evidence() -> None:
    axis = torch.linspace(-12, 12, 24_001, dtype=torch.float64)
    x = torch.linspace(0.2, 1.5, 20, dtype=torch.float64).unsqueeze(1)
    density = distributions.Normal(axis.square(), 0.5).log_prob(x) + distributions.Normal(0, 1).log_prob(axis)
    evidence = -float((density.logsumexp(dim=1) + math.log(24 / 24_000)).mean())
    found = []
    objectives = [
        CIWAEObjective(8, elbo_weight=1.0), CIWAEObjective(8), MIWAEObjective(8, bounds=2), PIWAEObjective(8, bounds=2),
        CIWAEObjective(8, elbo_weight=0.1), IWAEObjective(64),
    ]  # fmt: skip
    for objective in objectives:
        torch.manual_seed(0)
        model = Square((1,), 1, architecture=MLP((4,)), objective=objective).double().eval()
        with torch.no_grad():
            each = torch.stack([terms(model, x.repeat(50, 1), seed)["loss"] for seed in range(40)])
        found.append((float(each.mean()), float(each.std()) / math.sqrt(len(each))))
    elbo, half, mean, iwae, tenth, many = found
    ordered = [elbo, half, tenth, iwae, many, (evidence, 0.0)]
    for (looser, error), (tighter, other) in zip(ordered, ordered[1:], strict=False):
        assert looser > tighter - 2 * math.hypot(error, other), found
    for (looser, error), (tighter, other) in ((elbo, half), (half, iwae), (elbo, mean), (mean, iwae), (iwae, many)):
        assert looser > tighter + 2 * math.hypot(error, other), found  # and they can be told apart
    assert half[0] == pytest.approx((elbo[0] + iwae[0]) / 2, abs=2 * elbo[1])


def test_the_weight_of_the_elbo_follows_its_schedule(digits: Tensor, fit: Any) -> None:
    seen = []

    class Seen(CIWAE):
        def loss(self, x: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
            seen.append(self.objective.of_decoder(self))  # type: ignore[attr-defined]
            return super().loss(x, target, **given)

    model = Seen((1, 8, 8), 2, samples=3, elbo_weight=0.8, weight_schedule=Warmup(4), architecture=MLP((8,)))
    fit(model, digits, max_steps=5, max_epochs=-1)
    assert [round(each[3], 9) for each in seen[:5]] == [0.2, 0.4, 0.6, 0.8, 0.8]
    assert all(sum(each.values()) == pytest.approx(1) for each in seen)
    again = CIWAE(**model.init_args)
    assert again.objective == model.objective
    assert again.hparams == model.hparams


# ---- chunks and ranks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("likelihood", [Gaussian("learned"), Gaussian("optimal")], ids=str)
@pytest.mark.parametrize(
    ("name", "gradient", "prior"),
    [
        ("CIWAE", "plain", StandardNormal()), ("CIWAE", "dreg", VampPrior(4)), ("PIWAE", "plain", VampPrior(4)),
        ("PIWAE", "dreg", StandardNormal()), ("MIWAE", "stl", MixturePrior(3)),
    ],
)  # fmt: skip
def test_chunks_change_nothing(name: str, gradient: Any, prior: Prior, likelihood: Any, chunk: int) -> None:
    whole, parts = (
        build(OBJECTIVES[name](gradient=gradient, chunk=size), prior=prior, likelihood=likelihood)
        for size in (None, chunk)
    )
    same(whole, parts, batch())
    with torch.no_grad():
        torch.testing.assert_close(terms(parts.eval(), batch()), terms(whole.eval(), batch()))


@pytest.mark.slow
def test_any_number_of_ranks() -> None:
    cases = [
        Case("PIWAE", {"samples": 4, "bounds": 2, "gradient": gradient, "chunk": 3, "architecture": MLP((8,))})
        for gradient in ("plain", "dreg")
    ]
    cases.append(Case("CIWAE", {"samples": 4, "gradient": "dreg", "architecture": MLP((8,))}))
    for found in certify(cases, worlds=[2, 3]):
        assert found.passed, found


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CIWAEObjective(0), "samples of CIWAEObjective must be a positive integer, got 0"),
        (lambda: CIWAEObjective(elbo_weight=1.5), r"elbo_weight of CIWAEObjective must lie in \[0, 1\], got 1.5"),
        (lambda: CIWAE((6,), elbo_weight=-0.1), "elbo_weight of CIWAEObjective .* got -0.1"),
        (lambda: CIWAE((6,), elbo_weight=math.nan), "elbo_weight of CIWAEObjective .* got nan"),
        (lambda: PIWAE((6,), samples=-1), "samples of PIWAEObjective must be a positive integer, got -1"),
        (lambda: PIWAE((6,), bounds=0), "bounds of PIWAEObjective must be a positive integer, got 0"),
        (lambda: PIWAE((6,), samples=5, bounds=2), "(?s)samples=5 and bounds=2.*use 4 samples"),
        (lambda: MIWAEObjective(2, bounds=4), "(?s)MIWAEObjective .*samples=2 and bounds=4.*use 4 samples"),
        (lambda: VAE((6,), objective=PIWAEObjective(), beta=2.0), "PIWAEObjective has no divergence to weight"),
        (
            lambda: PIWAE((6,), 2, gradient="dreg", posterior=PlanarFlow()),
            "gradient='dreg' of PIWAEObjective asks for the density of draws",
        ),
        (lambda: CIWAE((6,), weight_schedule="Warmup"), "schedule of CIWAEObjective must be a Schedule"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()
