"""Importance weights: the three gradients against autograd on each draw, known posteriors and many draws; chunks."""

from __future__ import annotations

import copy
import math
from typing import Any, get_args

import pytest
import torch
from linear_gaussian import FactorAnalysis, Off
from torch import Tensor, nn

from lightning_ae import IWAE, VAE, ConditionalVAE, InputError
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.exact import Noise
from lightning_ae.parts import (
    Gaussian,
    IWAEObjective,
    Likelihood,
    MixturePrior,
    Prior,
    StandardNormal,
    VampPrior,
)
from lightning_ae.parts.importance import Gradient
from lightning_ae.parts.posteriors import DiagonalNormal
from lightning_ae.training.certify import Case, certify

VECTOR: dict[str, Any] = {"input_shape": (6,), "architecture": MLP((8,))}
MAP: dict[str, Any] = {"input_shape": (1, 8, 8), "architecture": ConvNet((4, 8), code="map", norm="group")}
GRADIENTS: tuple[Any, ...] = get_args(Gradient)


def build(objective: IWAEObjective, **options: Any) -> VAE:
    torch.manual_seed(0)
    options = {"latent_dim": 3, "likelihood": Gaussian("learned"), **VECTOR, **options}
    return VAE(objective=objective, **options).double()


def batch(model: VAE, n: int = 5) -> Tensor:
    return torch.rand(n, *model.input_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def terms(model: VAE, x: Tensor, seed: int = 0, **given: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return model.loss(x, x, **given)


def gradients(loss: Tensor, model: nn.Module) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
    return dict(zip(named, found, strict=True))


# ---- the gradients --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("prior", [StandardNormal(), MixturePrior(4), VampPrior(4)], ids=str)
@pytest.mark.parametrize("options", [VECTOR, MAP], ids=["vector", "map"])
def test_each_gradient_is_that_of_its_equation(gradient: Any, prior: Prior, options: dict[str, Any]) -> None:
    """Draw by draw, with the prior that of a copy: its encoder, where it has one, is no posterior."""
    model = build(IWAEObjective(4, gradient), prior=prior, **options)
    x = batch(model, 2)
    loss = terms(model, x)["loss"]
    other = copy.deepcopy(model)
    torch.manual_seed(0)
    q = model.infer(x)
    assert isinstance(q, DiagonalNormal)
    z = q.draw(Noise(), 4)
    ours = dict(model.named_parameters())
    expected = {name: torch.zeros_like(value) for name, value in ours.items()}
    encoder = [value for name, value in ours.items() if name.startswith("encoder")]

    def add(values: tuple[Tensor, ...], names: list[str], weight: float) -> None:
        for name, value in zip(names, values, strict=True):
            expected[name] -= weight * value / len(x)

    names = [name for name in ours if name.startswith("encoder")]
    rest = list(dict(other.named_parameters()).items())
    bound = 0.0
    for i in range(len(x)):
        code = [z[i, k].detach().requires_grad_() for k in range(4)]
        log_joint = [
            other.log_likelihood(c[None], x[i : i + 1])[0] + other.prior.log_prob(other, c[None])[0] for c in code
        ]
        fixed = [-0.5 * ((c - q.mean[i]) ** 2 / q.log_variance[i].exp() + q.log_variance[i]).sum() for c in code]
        log_q = [value - 0.5 * code[0].numel() * math.log(2 * math.pi) for value in fixed]
        weights = torch.stack([p - r for p, r in zip(log_joint, log_q, strict=True)]).exp().detach()
        shares = (weights / weights.sum()).tolist()
        bound -= float(weights.mean().log()) / len(x)
        for k, share in enumerate(shares):
            # decoder and prior
            found = torch.autograd.grad(
                log_joint[k], [value for _, value in rest], retain_graph=True, materialize_grads=True
            )
            add(found, [name for name, _ in rest], share)
            # the posterior
            (by_code,) = torch.autograd.grad(log_joint[k] - log_q[k], code[k], retain_graph=True)
            through = torch.autograd.grad(z[i, k], encoder, by_code, retain_graph=True)
            add(through, names, share**2 if gradient == "dreg" else share)
            if gradient == "plain":
                direct = torch.autograd.grad(log_q[k], encoder, retain_graph=True)
                add(direct, names, -share)
    assert float(loss.detach()) == pytest.approx(bound)
    torch.testing.assert_close(gradients(loss, model), expected)


def analysis(cls: type[VAE], objective: IWAEObjective) -> VAE:
    return cls((1,), 1, likelihood=Gaussian(0.5), objective=objective).double()


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_at_the_posterior_the_landing_sticks(gradient: Any, samples: int) -> None:
    model = analysis(FactorAnalysis, IWAEObjective(samples, gradient))
    for p in model.parameters():
        p.data = p.data.double()
    variance = 1 / (1 + 1.5**2 / 0.25)  # once more, in float64
    model.encoder.weight.data[0], model.encoder.bias.data[0] = variance * 6, -0.3 * variance * 6  # type: ignore[union-attr, index, operator]
    model.encoder.bias.data[1] = math.log(variance)  # type: ignore[union-attr, index, operator]
    model.decoder.bias.data.fill_(0.3)  # type: ignore[union-attr, index, operator]
    found = gradients(terms(model, batch(model, 50))["loss"], model)
    largest = max(float(found[name].abs().max()) for name in ("encoder.weight", "encoder.bias"))
    assert largest > 0.01 if gradient == "plain" else largest < 1e-12
    assert float(found["decoder.bias"].abs().max()) > 0.01


def draws_of_the_gradient(gradient: Any, samples: int, times: int, n: int) -> Tensor:
    """The encoder's at one sample, each a mean of n; (times, 4)."""
    model = analysis(Off, IWAEObjective(samples, gradient))
    x = torch.full((n, 1), 0.9, dtype=torch.float64)
    found = []
    for seed in range(times):
        by_name = gradients(terms(model, x, seed if gradient == "plain" else 10_000 + seed)["loss"], model)
        found.append(torch.cat([by_name[name].flatten() for name in ("encoder.weight", "encoder.bias")]))
    return torch.stack(found)


def test_double_reparametrisation_is_without_bias_and_a_single_one_is_not() -> None:
    plain, dreg, stl = (draws_of_the_gradient(name, 5, 200, 500) for name in ("plain", "dreg", "stl"))

    def apart(a: Tensor, b: Tensor) -> Tensor:
        """In standard errors."""
        return (a.mean(0) - b.mean(0)).abs() / ((a.var(0) + b.var(0)) / len(a)).sqrt()

    assert float(apart(plain, dreg).max()) < 5
    assert float(apart(plain, stl).max()) > 20
    assert (dreg.mean(0).abs() > 5 * dreg.std(0) / math.sqrt(len(dreg))).all()  # there is something to agree on


@pytest.mark.slow
def test_more_draws_leave_less_signal_in_the_plain_gradient_only() -> None:
    def signal_to_noise(gradient: str, samples: int) -> float:
        found = draws_of_the_gradient(gradient, samples, 200, 100)
        return float((found.mean(0).abs() / found.std(0)).mean())

    assert signal_to_noise("plain", 100) < signal_to_noise("plain", 4) / 2
    assert signal_to_noise("dreg", 100) > signal_to_noise("dreg", 4)


# ---- chunks ---------------------------------------------------------------------------------------------------------

LIKELIHOODS = [Gaussian("learned"), Gaussian("optimal")]


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)
@pytest.mark.parametrize(
    ("gradient", "prior", "options"),
    [("plain", StandardNormal(), VECTOR), ("dreg", VampPrior(4), VECTOR), ("stl", MixturePrior(3), MAP)],
    ids=GRADIENTS,
)
@pytest.mark.parametrize("chunk", [1, 3, 5])
def test_chunks_change_nothing(chunk: int, gradient: Any, prior: Prior, options: Any, likelihood: Likelihood) -> None:
    whole, parts = (
        build(IWAEObjective(5, gradient, size), prior=prior, likelihood=likelihood, **options) for size in (None, chunk)
    )
    x = batch(whole)
    found, expected = terms(parts, x), terms(whole, x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients(found["loss"], parts), gradients(expected["loss"], whole))
    torch.testing.assert_close(dict(parts.named_buffers()), dict(whole.named_buffers()))
    with torch.no_grad():
        torch.testing.assert_close(terms(parts.eval(), x), terms(whole.eval(), x))


def test_chunks_have_what_their_samples_are_given() -> None:
    torch.manual_seed(0)
    whole = ConditionalVAE((6,), 3, num_classes=5, architecture=MLP((8,)), objective=IWAEObjective(5)).double()
    parts = ConditionalVAE((6,), 3, num_classes=5, architecture=MLP((8,)), objective=IWAEObjective(5, chunk=2)).double()
    parts.load_state_dict(whole.state_dict())
    x, label = batch(whole), torch.arange(5)
    found, expected = terms(parts, x, label=label), terms(whole, x, label=label)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found["loss"], parts), gradients(expected["loss"], whole))


@pytest.mark.parametrize("training", [True, False])
def test_memory_holds_the_activations_of_a_chunk(training: bool) -> None:
    """Of 5 000 draws: what the graph keeps, and the rows that the decoder sees at a time."""
    model = build(IWAEObjective(5000, "dreg", 50), likelihood=Gaussian("optimal")).float().train(training)
    rows, kept = [], []
    model.decoder.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    x = batch(model, 2).float()

    def keep(value: Tensor) -> Tensor:
        kept.append(value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value), torch.set_grad_enabled(training):
        loss = terms(model, x)["loss"]
    if training:
        loss.backward()
    assert max(rows) == 2 * 50
    assert sum(rows) == (3 if training else 1) * 2 * 5000  # for the scale, the loss and the gradient
    assert sum(kept) < 8 * 2 * 5000 * 3  # of the size of the codes; a hidden layer of all has 2 * 5000 * 8 by itself
    assert loss.isfinite()


def test_more_draws_in_chunks_are_tighter() -> None:
    x = batch(analysis(Off, IWAEObjective()), 20).repeat(20, 1)
    evidence = -float(torch.distributions.Normal(0.3, math.sqrt(1.5**2 + 0.25)).log_prob(x).sum(dim=1).mean())
    with torch.no_grad():
        found = [float(terms(analysis(Off, IWAEObjective(k, "dreg", 100)), x)["loss"]) for k in (1, 10, 1000)]
    assert found == sorted(found, reverse=True)
    assert found[-1] == pytest.approx(evidence, abs=0.01)


@pytest.mark.slow
def test_any_number_of_ranks() -> None:
    options = {"samples": 4, "gradient": "dreg", "chunk": 3, "architecture": MLP((8,))}  # a scale of all draws, too
    (found,) = certify([Case("IWAE", options)], worlds=[2])
    assert found.passed, found


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_what_cannot_be() -> None:
    wrong: list[tuple[str, Any]] = [("samples", 0), ("samples", True), ("samples", 2.0), ("chunk", 0), ("chunk", -1)]
    for name, value in wrong:
        with pytest.raises(InputError, match=f"{name} of IWAEObjective must be a positive integer, got {value!r}"):
            IWAEObjective(**{name: value})
    with pytest.raises(InputError, match=r"gradient of IWAEObjective 'dregs'\n.*did you mean 'dreg'"):
        IWAE((6,), gradient="dregs")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("network", "prior", "what"),
    [
        (MLP((8,), dropout=0.1), StandardNormal(), "decoder's Dropout"),
        (ConvNet((4, 8), norm="batch"), StandardNormal(), "decoder's BatchNorm2d"),
    ],
)
def test_networks_that_a_chunk_would_change_are_refused(network: Any, prior: Prior, what: str) -> None:
    with pytest.raises(InputError, match=rf"chunk=2 of IWAEObjective .*{what}"):
        IWAE((1, 8, 8), chunk=2, architecture=network, prior=prior)
    IWAE((1, 8, 8), chunk=5, architecture=network, prior=prior)  # which is no chunk


def test_draws_without_a_gradient_are_refused() -> None:
    class Undifferentiable(DiagonalNormal):
        def draw(self, noise: Noise, n: int | None = None) -> Tensor:
            return super().draw(noise, n).detach()

    class Model(VAE):
        def infer(self, x: Tensor, **given: Tensor) -> Any:
            q: Any = super().infer(x, **given)
            return Undifferentiable(q.mean, q.log_variance)

    model = Model((6,), architecture=MLP((8,)), objective=IWAEObjective(2))
    with pytest.raises(InputError, match="gradient through the draws, and those of .* have none"):
        model.loss(torch.rand(3, 6), torch.rand(3, 6))
    with torch.no_grad():
        assert model.loss(torch.rand(3, 6), torch.rand(3, 6))["loss"].isfinite()
