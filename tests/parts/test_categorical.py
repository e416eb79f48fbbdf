"""Categories against torch.distributions and expectations by enumeration."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, distributions

from lightning_ae import VAE, CategoricalVAE, InputError
from lightning_ae.exact import Noise
from lightning_ae.parts import ELBO, Concrete, CosineDecay, IWAEObjective, LinearDecay, UniformOnCategories
from lightning_ae.parts.categorical import Categories


def categories(*shape: int) -> tuple[Categories, distributions.Distribution]:
    """Three variables of four classes, for each of five samples, at each position; and the same by torch."""
    logits = 2 * torch.randn(5, 12, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = distributions.OneHotCategorical(logits=logits.unflatten(1, (3, 4)).movedim(2, -1))
    return Concrete(classes=4)(logits), distributions.Independent(plain, 1 + len(shape))


@pytest.mark.parametrize("shape", [(), (2, 2)], ids=str)
def test_divergence_and_probabilities_are_those_of_torch(shape: tuple[int, ...]) -> None:
    q, expected = categories(*shape)
    uniform = distributions.OneHotCategorical(logits=torch.zeros(5, 3, *shape, 4, dtype=torch.float64))
    whole = distributions.Independent(uniform, 1 + len(shape))
    torch.testing.assert_close(q.kl(), distributions.kl_divergence(expected, whole))
    z, several = q.draw(Noise(1, "a")), q.draw(Noise(1, "a"), 6)
    assert z.shape == q.mean.shape == (5, 12, *shape)
    assert several.shape == (5, 6, 12, *shape)
    torch.testing.assert_close(q.log_prob(z), expected.log_prob(z.unflatten(1, (3, 4)).movedim(2, -1)))
    each = [expected.log_prob(several[:, k].unflatten(1, (3, 4)).movedim(2, -1)) for k in range(6)]
    torch.testing.assert_close(q.log_prob(several), torch.stack(each, dim=1))


def test_draws_are_as_frequent_as_probable() -> None:
    q, _ = categories()
    n = 20_000
    z = q.draw(Noise(1, "a"), n)
    assert set(z.unique().tolist()) == {0.0, 1.0}
    error = (q.mean * (1 - q.mean) / n).sqrt()
    assert ((z.mean(dim=1) - q.mean).abs() <= 5 * error + 1e-12).all()


def test_relaxed_gradient_tends_to_the_exact_one() -> None:
    r"""Of E f(z), with f of a variable's three classes not linear; the error shrinks as the temperature falls."""
    logits = torch.tensor([[0.5, -0.3, 0.1]], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([2.0, -0.5, 0.3], dtype=torch.float64)

    def f(z: Tensor) -> Tensor:
        return (z @ weights).square()

    (exact,) = torch.autograd.grad((logits.softmax(dim=1) * f(torch.eye(3).double())).sum(), logits)
    errors = []
    for temperature in (1.0, 0.3, 0.1):
        q = Categories(logits.log_softmax(dim=1).unsqueeze(1), temperature)
        (found,) = torch.autograd.grad(f(q.draw(Noise(1, "a"), 100_000)).mean(), logits, retain_graph=True)
        errors.append(float((found - exact).norm() / exact.norm()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.05


def test_straight_through_decodes_ones_with_the_relaxed_gradient() -> None:
    logits = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    log, weights = logits.log_softmax(dim=2), torch.randn(12, dtype=torch.float64)
    rounded, relaxed = (Categories(log, 0.5, through).draw(Noise(1, "a")) for through in (True, False))
    torch.testing.assert_close(
        rounded,
        relaxed.unflatten(1, (3, 4)).eq(relaxed.unflatten(1, (3, 4)).amax(dim=2, keepdim=True)).flatten(1).double(),
    )
    one, other = (torch.autograd.grad((z * weights).sum(), logits, retain_graph=True)[0] for z in (rounded, relaxed))
    torch.testing.assert_close(one, other)


def test_code_and_prior_of_a_model() -> None:
    model = CategoricalVAE((6,), 3, classes=4)
    x = torch.randn(5, 6)
    assert model.code_shape == (12,)
    assert model.decode(model.encode(x)).shape == x.shape
    torch.testing.assert_close(model.encode(x).unflatten(1, (3, 4)).sum(dim=2), torch.ones(5, 3))
    assert not set(model.train().draw(x).unique().tolist()) <= {0.0, 1.0}
    assert set(model.eval().draw(x).unique().tolist()) == {0.0, 1.0}
    z = model.prior.sample(model, 8000, Noise(1, "a"))
    assert set(z.unique().tolist()) == {0.0, 1.0}
    assert (z.mean(dim=0) - 0.25).abs().max() < 5 * math.sqrt(0.25 * 0.75 / 8000)
    torch.testing.assert_close(model.prior.log_prob(model, z), torch.full((8000,), -3 * math.log(4)))


def test_temperature_follows_its_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    model = CategoricalVAE((6,), 3, temperature=2.0, temperature_schedule=CosineDecay(last=0.5))
    monkeypatch.setattr(CategoricalVAE, "scheduled", lambda self, schedule: schedule(100, 100))
    q = model.infer(torch.randn(2, 6))
    assert isinstance(q, Categories)
    assert q.temperature == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 1}, "classes"),
        ({"classes": 2.5}, "classes"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"temperature_schedule": LinearDecay()}, "temperature_schedule"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CategoricalVAE((6,), **options)


def test_pairs_that_cannot_work_are_refused() -> None:
    with pytest.raises(InputError, match="UniformOnCategories"):
        VAE((4,), posterior=Concrete())
    with pytest.raises(InputError, match="Concrete"):
        VAE((4,), prior=UniformOnCategories())
    for objective in (IWAEObjective(2), ELBO(divergence="drawn")):
        with pytest.raises(InputError, match="probability"):
            VAE((4,), posterior=Concrete(), prior=UniformOnCategories(), objective=objective)
    relaxed = Categories(torch.zeros(2, 3, 4).log_softmax(dim=2), 0.5)
    with pytest.raises(InputError, match="relaxed"):
        relaxed.log_prob(relaxed.draw(Noise()))
