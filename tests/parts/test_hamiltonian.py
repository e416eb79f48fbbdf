"""Leapfrog steps: reversed, their volume by automatic differentiation, and bounds against a known evidence."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from linear_gaussian import FactorAnalysis, Linear
from torch import Tensor, distributions, nn

from lightning_ae import VAE, ConditionalVAE, HamiltonianVAE, InputError, MissingDataIWAE
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.exact import Noise
from lightning_ae.parts import (
    ELBO,
    Gaussian,
    GaussianNoise,
    HamiltonianFlow,
    IWAEObjective,
    MixturePrior,
    TotalCorrelation,
    UniformOnCategories,
    UniformOnSphere,
    VampPrior,
)
from lightning_ae.parts.hamiltonian import Leapfrog, Leapfrogged
from lightning_ae.training.certify import Case, certify

SMOOTH = MLP((8,), activation="tanh")
VECTOR: dict[str, Any] = {"input_shape": (6,), "latent_dim": 3, "architecture": SMOOTH}
MAP: dict[str, Any] = {
    "input_shape": (1, 8, 8),
    "latent_dim": 2,
    "architecture": ConvNet((3, 4), code="map", norm="group", activation="tanh"),
}
STRONG = HamiltonianFlow(3, 0.2, 0.5, 3.0)


def build(posterior: HamiltonianFlow = STRONG, cls: type[VAE] = VAE, **options: Any) -> VAE:
    torch.manual_seed(0)
    model = cls(posterior=posterior, **{"likelihood": Gaussian("learned"), **VECTOR, **options}).double()
    if isinstance(model.posterior_weights, Leapfrog):  # each unit its own
        with torch.no_grad():
            model.posterior_weights.steps.add_(torch.linspace(-0.5, 0.5, len(model.posterior_weights.steps)))
    return model


def batch(model: VAE, n: int = 4) -> Tensor:
    return torch.rand(n, *model.input_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def inferred(model: VAE, x: Tensor, **given: Tensor) -> Leapfrogged:
    q = model.infer(x, **given)
    assert isinstance(q, Leapfrogged)
    return q


# ---- the steps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [VECTOR, MAP, {**VECTOR, "prior": MixturePrior(3)}], ids=["vector", "map", "prior"])
def test_the_steps_can_be_reversed_and_shrink_volume_by_the_cooling(options: dict[str, Any]) -> None:
    model = build(**options)
    q = inferred(model, batch(model, 1))
    z, rho = torch.randn(2, 1, 1, *model.code_shape, dtype=torch.float64)
    q.scale = torch.ones((), dtype=torch.float64)
    there = q.move(z, rho)
    back = q.move(there[0], -there[1])
    torch.testing.assert_close(back[0], z)
    torch.testing.assert_close(back[1], -rho)
    assert float((there[0] - z).detach().abs().max()) > 0.05
    values = z.numel()
    for scale in (1.0, 1.7):
        q.scale = torch.tensor(scale, dtype=torch.float64)

        def flat(both: Tensor, q: Leapfrogged = q, z: Tensor = z) -> Tensor:
            moved = q.move(*(half.view_as(z) for half in both.chunk(2)))
            return torch.cat([part.flatten() for part in moved])

        start = torch.cat([z.flatten(), rho.flatten()])
        jacobian = torch.autograd.functional.jacobian(flat, start)
        sign, log_det = torch.linalg.slogdet(jacobian)
        assert float(sign) == 1
        assert float(log_det) == pytest.approx(-values * math.log(scale), abs=1e-8)


@pytest.mark.parametrize("n", [None, 2])
@pytest.mark.parametrize("options", [VECTOR, MAP], ids=["vector", "map"])
def test_the_density_of_a_draw_is_the_papers_with_the_determinant_of_autograd(options: Any, n: int | None) -> None:
    """Draw by draw, with density of the momentum and Jacobian as they stand in the paper."""
    model = build(**options)
    x = batch(model, 2)
    q = inferred(model, x)
    torch.manual_seed(3)
    z, log_q = q.draw_with_log_prob(Noise(), n)
    torch.manual_seed(3)
    start, gamma = q.base.draw(Noise(), n), Noise().randn_like(z)
    momentum = q.scale * gamma  # of variance 1 / beta_0
    for i in range(len(x)):
        one = inferred(model, x[i : i + 1])
        for k in range(n or 1):
            place = (i,) if n is None else (i, k)
            first = torch.cat([start[place].flatten(), momentum[place].flatten()])

            def flat(both: Tensor, one: Leapfrogged = one) -> Tensor:
                shape = (1, 1, *model.code_shape)
                return torch.cat([part.flatten() for part in one.move(*(half.view(shape) for half in both.chunk(2)))])

            end, rho = flat(first).chunk(2)
            log_det = torch.linalg.slogdet(torch.autograd.functional.jacobian(flat, first))[1]
            base = distributions.Normal(q.base.mean[i], (q.base.log_variance[i] / 2).exp())
            expected = base.log_prob(start[place]).sum() - log_det
            expected = expected + distributions.Normal(0, q.scale).log_prob(momentum[place]).sum()
            expected = expected - distributions.Normal(0, 1).log_prob(rho).sum()
            torch.testing.assert_close(z[place].flatten(), end)
            torch.testing.assert_close(log_q[place], expected)


class Poor(FactorAnalysis):
    """With a Gaussian that is far from the posterior, and is not learned."""

    def build_encoder(self) -> nn.Module:
        return Linear([[0.3], [0.0]], [0.1, -1.0])


def analysis(**options: Any) -> VAE:
    return Poor((1,), 1, likelihood=Gaussian(0.5), **options).double()


def test_the_steps_by_hand() -> None:
    """Of a linear model, in numbers, with the inverse temperatures as the paper has them."""
    model, x = analysis(posterior=HamiltonianFlow(4, 0.1, 0.4, 2.5)), 0.9
    q = inferred(model, torch.tensor([[x]], dtype=torch.float64))

    def force(z: float) -> float:
        return 1.5 * (x - 1.5 * z - 0.3) / 0.25 - z

    def root_beta(k: int) -> float:
        first = math.sqrt(1 / 2.5)
        return 1 / ((1 - 1 / first) * k**2 / 4**2 + 1 / first)

    z, rho = 0.7, -0.4
    for k in range(1, 5):
        rho += 0.05 * force(z)
        z += 0.1 * rho
        rho += 0.05 * force(z)
        rho *= root_beta(k - 1) / root_beta(k)
    assert root_beta(4) == pytest.approx(1)
    found = q.move(*(torch.full((1, 1, 1), value, dtype=torch.float64) for value in (0.7, -0.4)))
    # weights that were float32 before
    assert [float(each.detach()) for each in found] == pytest.approx([z, rho], rel=1e-5)


# ---- the bound ------------------------------------------------------------------------------------------------------


def test_the_bound_lies_between_the_gaussians_and_the_evidence() -> None:
    x = torch.linspace(-2, 2, 16, dtype=torch.float64).unsqueeze(1)
    evidence = -float(distributions.Normal(0.3, math.sqrt(1.5**2 + 0.25)).log_prob(x).mean())
    found = {}
    for name, options in {
        "gaussian": {"objective": ELBO("drawn")},
        "untrained": {"posterior": HamiltonianFlow(3, 0.1, 0.5, 2.0)},
        "moved": {"posterior": HamiltonianFlow(3, 0.1, 0.5, 2.0)},
        "not cooled": {"posterior": HamiltonianFlow(3, 0.1, 0.5, 1.0, learned_temperature=False)},
    }.items():
        torch.manual_seed(0)
        model = analysis(**options)
        if name in ("moved", "not cooled"):
            assert model.posterior_weights is not None
            optimizer = torch.optim.Adam(model.posterior_weights.parameters(), lr=0.1)
            for _ in range(60):
                optimizer.zero_grad()
                model.loss(x.repeat(8, 1), x.repeat(8, 1))["loss"].backward()
                optimizer.step()
        rows = x.repeat(100, 1)
        with torch.no_grad():
            each = torch.stack([model.loss(rows, rows)["loss"] for _ in range(40)])
        found[name] = (float(each.mean()), float(each.std()) / math.sqrt(len(each)))
    print({name: f"{bound:.4f} +- {error:.4f}" for name, (bound, error) in found.items()}, f"{evidence:.4f}")
    for bound, error in found.values():
        assert bound > evidence - 2 * error, found
    gaussian, error = found["gaussian"]
    for name in ("moved", "not cooled"):
        assert found[name][0] < gaussian - 0.1 - 2 * (error + found[name][1]), found


def test_importance_weights_of_the_steps_go_to_the_evidence() -> None:
    x = torch.linspace(-2, 2, 16, dtype=torch.float64).unsqueeze(1)
    evidence = -float(distributions.Normal(0.3, math.sqrt(1.5**2 + 0.25)).log_prob(x).mean())
    model = analysis(posterior=HamiltonianFlow(3, 0.15, 0.5, 2.0)).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        bounds = [
            float(IWAEObjective(k)(model, model.infer(rows), rows)["loss"])
            for k, rows in ((1, x.repeat(200, 1)), (10, x.repeat(20, 1)), (2000, x))
        ]
        scores = [float(model.score(x, draws=k).mean()) for k in (1, 100)]
    assert bounds[0] > bounds[1] + 0.1
    assert bounds[1] > bounds[2]
    assert bounds[2] == pytest.approx(evidence, abs=0.02)
    assert scores[1] == pytest.approx(evidence, abs=0.2)
    assert scores[0] > scores[1] + 0.1


@pytest.mark.parametrize("objective", [ELBO(), IWAEObjective(2), IWAEObjective(3, chunk=2)], ids=str)
@pytest.mark.parametrize("options", [VECTOR, MAP], ids=["vector", "map"])
def test_gradients_are_those_of_differences(options: dict[str, Any], objective: Any) -> None:
    model = build(objective=objective, **options)
    x = batch(model)

    def loss() -> Tensor:
        torch.manual_seed(0)
        return model.loss(x, x)["loss"]

    named = dict(model.named_parameters())
    gradients = dict(zip(named, torch.autograd.grad(loss(), list(named.values())), strict=True))
    generator = torch.Generator().manual_seed(5)
    for name, p in named.items():
        direction = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        values = []
        for h in (1e-6, -1e-6):
            with torch.no_grad():
                p.add_(h * direction)
            values.append(float(loss().detach()))
            with torch.no_grad():
                p.sub_(h * direction)
        found = float((gradients[name] * direction).sum())
        assert found == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-7), name


def test_a_fitted_scale_is_a_constant_of_the_steps_and_counts_the_ends_alone() -> None:
    model = build(likelihood=Gaussian("optimal"))
    x = batch(model)
    model.loss(x, x)  # now there is one
    before = model.head.fitted.clone()
    with torch.no_grad():
        torch.manual_seed(0)
        model.loss(x, x)
        counted = model.head.sums[1].clone()
        model.head.fitted.copy_(before)
        torch.manual_seed(0)
        z = inferred(model, x).draw(Noise())
        assert torch.equal(model.head.fitted, before)
        errors = (model.decode(z) - x).square().sum()
    # the first step's errors are there, too
    model.head.begin(1)
    model.head.sums.zero_()
    with torch.no_grad():
        model.reconstruction_loss(z, x)
    torch.testing.assert_close(model.head.sums[1][0].sum(), errors)
    assert float(counted[1].sum()) == 2 * x.numel()  # of two losses, and no step's


# ---- where there are no gradients, and what is given ----------------------------------------------------------------


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_evaluation_has_the_forces_in_every_mode(precision: torch.dtype) -> None:
    model = build(architecture=MLP((8,))).float().eval()
    x = batch(model).float()
    found = []
    for mode in (torch.enable_grad(), torch.no_grad(), torch.inference_mode()):
        with mode, torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
            model.decode(model.zeros(1))  # converts weights, which autocast keeps
            for _ in range(2):
                torch.manual_seed(0)
                found.append(model.loss(x * 1, x * 1)["loss"].detach().clone())
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])
    assert not any(p.grad is not None for p in model.parameters())


def test_what_is_given_goes_into_the_steps() -> None:
    model = build(cls=ConditionalVAE, num_classes=3)
    x = batch(model)
    codes = []
    for label in (0, 0, 1):
        torch.manual_seed(0)
        q = inferred(model, x, label=torch.full((4,), label))
        q.base = inferred(model, x, label=torch.zeros(4, dtype=torch.long)).base
        codes.append(q.draw(Noise()))
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codes[2])


@pytest.mark.parametrize("inference", [False, True])
def test_what_is_missing_does_not_move_codes(inference: bool) -> None:
    model = build(cls=MissingDataIWAE, samples=2).eval()
    x = batch(model)
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    mask[0] = False
    found = []
    with torch.inference_mode(inference):
        for fill in (0.0, 7.0, math.nan):
            torch.manual_seed(0)
            loss = model.loss(torch.where(mask, x, fill), torch.where(mask, x, fill), mask=mask * True)["loss"]
            found.append(float(loss.detach()))
    assert found[0] == found[1] == found[2]
    assert math.isfinite(found[0])


def test_the_class_is_the_vae_with_its_part(digits: Tensor) -> None:
    found = []
    for make in (
        lambda: HamiltonianVAE((1, 8, 8), 3, steps=2, step_size=0.01, architecture=MLP((8,))),
        lambda: VAE((1, 8, 8), 3, posterior=HamiltonianFlow(2, 0.01), architecture=MLP((8,))),
    ):
        torch.manual_seed(0)
        model: VAE = make()
        found.append(float(model.loss(digits[:9], digits[:9])["loss"].detach()))
    assert found[0] == found[1]


def test_a_compiled_decoder_takes_the_steps_as_it_is() -> None:
    found = []
    for compiled in (False, True):
        model = build()
        if compiled:
            model.compile(backend="aot_eager")
        torch.manual_seed(0)
        loss = model.loss(batch(model), batch(model))["loss"]
        found.append(torch.autograd.grad(loss, list(model.parameters())))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.slow
def test_any_number_of_ranks() -> None:
    options = {"steps": 2, "architecture": MLP((8,))}
    importance = {"class_path": "IWAEObjective", "init_args": {"samples": 3, "chunk": 2}}
    cases = [Case("HamiltonianVAE", options), Case("HamiltonianVAE", {**options, "objective": importance})]
    for found in certify(cases, worlds=[2, 3]):
        assert found.passed, found


# ---- what is refused ------------------------------------------------------------------------------------------------

IMAGE: dict[str, Any] = {"input_shape": (1, 8, 8), "posterior": HamiltonianFlow()}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: HamiltonianFlow(0), "steps of HamiltonianFlow must be a positive integer, got 0"),
        (lambda: HamiltonianFlow(step_size=0.5), "step_size .* between 0 and largest_step=0.5, got 0.5"),
        (lambda: HamiltonianFlow(step_size=-0.1), "step_size of HamiltonianFlow .* got -0.1"),
        (lambda: HamiltonianFlow(largest_step=math.inf), "largest_step of HamiltonianFlow must be positive, got inf"),
        (lambda: HamiltonianVAE((6,), temperature=0.3), "(?s)temperature of HamiltonianFlow .* got 0.3.*beta_0"),
        (lambda: HamiltonianVAE((6,), temperature=1.0), "(?s)learned temperature .*learned_temperature=False"),
        (lambda: VAE(architecture=ConvNet((4, 8), norm="batch"), **IMAGE), "decoder's BatchNorm2d"),
        (lambda: VAE(architecture=MLP((8,), dropout=0.1), **IMAGE), "decoder's Dropout"),
        (lambda: VAE(corruption=GaussianNoise(), **IMAGE), "(?s)density of what the encoder sees.*leave out corrupt"),
        (lambda: VAE(prior=VampPrior(3), **IMAGE), "VampPrior asks for the density of any code"),
        (lambda: VAE(prior=UniformOnCategories(), **IMAGE), "HamiltonianFlow gives others"),
        (lambda: VAE(prior=UniformOnSphere(), **IMAGE), "HamiltonianFlow"),
        (lambda: VAE(objective=IWAEObjective(gradient="stl"), **IMAGE), "HamiltonianFlow knows that of its own draws"),
        (lambda: VAE(objective=ELBO("closed_form"), **IMAGE), "HamiltonianFlow from a StandardNormal has no closed"),
        (lambda: VAE(objective=TotalCorrelation(), **IMAGE), "not independent under HamiltonianFlow"),
    ],
)
def test_what_cannot_be(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_the_density_of_any_code_is_refused() -> None:
    model = build()
    with pytest.raises(InputError, match="density of its own draws only"):
        inferred(model, batch(model)).log_prob(model.zeros(4))
