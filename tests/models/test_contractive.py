"""The contraction: closed form, automatic differentiation and Hutchinson's estimate agree with autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_ae import ContractiveAutoencoder, InputError
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.exact import Noise
from lightning_ae.models.contractive import jacobian_spectrum
from lightning_ae.parts.penalties import exact_jacobian, hutchinson_jacobian


def by_autograd(model: Any, x: Tensor) -> Tensor:
    """The Jacobians, one sample and one unit at a time."""
    rows = []
    for sample in x:
        sample = sample.unsqueeze(0).requires_grad_()
        code = model.encode(sample)[0]
        rows.append(torch.stack([torch.autograd.grad(unit, sample, retain_graph=True)[0].flatten() for unit in code]))
    return torch.stack(rows)


def build(**options: Any) -> ContractiveAutoencoder:
    torch.manual_seed(0)
    return ContractiveAutoencoder(**{"input_shape": (6,), "latent_dim": 4, **options}).double()


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "identity"])
@pytest.mark.parametrize("latent_dim", [4, 9])
def test_all_ways_agree(activation: Any, latent_dim: int) -> None:
    x = torch.randn(5, 6, dtype=torch.float64)
    closed = build(code_activation=activation, latent_dim=latent_dim)
    exact = build(code_activation=activation, latent_dim=latent_dim, method="exact")
    reference = by_autograd(closed, x)
    expected = reference.square().sum(dim=(1, 2))
    assert (closed.jacobian_method, exact.jacobian_method) == ("closed_form", "exact")
    torch.testing.assert_close(closed.jacobian_norm(x), expected)
    torch.testing.assert_close(exact.jacobian_norm(x), expected)
    torch.testing.assert_close(exact_jacobian(closed.encode, x), reference)
    estimates = hutchinson_jacobian(closed.encode, x.repeat(4000, 1), Noise("draw")).unflatten(0, (4000, 5))
    error = estimates.std(dim=0) / 4000**0.5
    assert ((estimates.mean(dim=0) - expected).abs() < 5 * error + 1e-12).all()


@pytest.mark.parametrize("architecture", [MLP(hidden=(7,), activation="tanh"), ConvNet(channels=(3,))], ids=str)
@pytest.mark.parametrize("latent_dim", [3, 40])  # reverse and forward mode
def test_deep_encoders(architecture: Any, latent_dim: int) -> None:
    model = build(input_shape=(1, 5, 5), latent_dim=latent_dim, architecture=architecture)
    x = torch.randn(4, 1, 5, 5, dtype=torch.float64)
    assert model.jacobian_method == "exact"
    reference = by_autograd(model, x)
    torch.testing.assert_close(model.jacobian_norm(x), reference.square().sum(dim=(1, 2)))
    spectrum = jacobian_spectrum(model, x).double()
    torch.testing.assert_close(spectrum, torch.linalg.svdvals(reference), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("latent_dim", [3, 9])  # reverse and forward mode
def test_dropout_has_one_mask_for_all_passes(latent_dim: int) -> None:
    torch.manual_seed(0)
    architecture = MLP(hidden=(7,), activation="tanh", dropout=0.5)
    model = ContractiveAutoencoder((6,), latent_dim, architecture=architecture).double().train()
    x = torch.randn(5, 6, dtype=torch.float64)
    with model.at_step("train", 0):
        found = exact_jacobian(model.encode, x)
    with model.at_step("train", 0):
        model.encode(x[:1])  # to see how wide the code is
        given = x.clone().requires_grad_()
        code = model.encode(given)
        units = [torch.autograd.grad(unit.sum(), given, retain_graph=True)[0] for unit in code.T]
    torch.testing.assert_close(found, torch.stack(units, dim=1))
    assert (model.train(False).jacobian_norm(x) != found.square().sum(dim=(1, 2))).all()


def test_under_autocast_the_norm_is_of_float32() -> None:
    """The slope of a sigmoid that rounds to 1 in bfloat16 is not zero."""
    torch.manual_seed(0)
    for method in ("closed_form", "exact", "hutchinson"):
        model = ContractiveAutoencoder((6,), 4, method=method)  # type: ignore[arg-type]
        with torch.no_grad():
            model.encoder.linears[0].bias.fill_(7.0)
        x = torch.randn(5, 6)
        with torch.autocast("cpu", torch.bfloat16), model.at_step("val", 0):
            found = model.jacobian_norm(x)
        with model.at_step("val", 0):
            torch.testing.assert_close(found, model.jacobian_norm(x), rtol=0.1, atol=0)


@pytest.mark.parametrize("method", ["closed_form", "exact"])
def test_gradients_of_the_penalty(method: Any) -> None:
    model = build(method=method)
    x = torch.randn(5, 6, dtype=torch.float64)
    weight = next(m for m in model.encoder.modules() if isinstance(m, torch.nn.Linear)).weight
    (ours,) = torch.autograd.grad(model.jacobian_norm(x).mean(), weight)
    numeric = torch.zeros_like(weight)
    with torch.no_grad():
        for i in range(weight.numel()):
            values = []
            for step in (1e-5, -2e-5, 1e-5):
                weight.view(-1)[i] += step
                values.append(float(model.jacobian_norm(x).mean()))
            numeric.view(-1)[i] = (values[0] - values[1]) / 2e-5
    torch.testing.assert_close(ours, numeric, atol=1e-7, rtol=1e-5)


def test_the_higher_order_term_in_all_ways() -> None:
    x = torch.randn(6, 6, dtype=torch.float64)
    change = {}
    for method in ("closed_form", "exact"):
        model = build(method=method, hessian_weight=0.5, hessian_scale=0.3)
        with model.at_step("val", 0):
            terms = model.loss(x, x)
        total = terms["reconstruction"] + 0.1 * terms["contraction"] + 0.5 * terms["hessian"]
        torch.testing.assert_close(terms["loss"], total)
        change[method] = terms["hessian"]
    torch.testing.assert_close(change["closed_form"], change["exact"])
    model = build()
    with model.at_step("val", 0):
        moved = x + 0.3 * model.noise("hessian").randn_like(x)
    expected = (by_autograd(model, x) - by_autograd(model, moved)).square().sum(dim=(1, 2)).mean()
    torch.testing.assert_close(change["exact"], expected)
    estimator = build(method="hutchinson", hessian_weight=0.5, hessian_scale=0.3, draws=4000)
    with estimator.at_step("val", 0):
        estimate = estimator.loss(x, x)["hessian"]
    torch.testing.assert_close(estimate, expected, rtol=0.1, atol=0)


def test_training_contracts(digits: Tensor, fit: Any) -> None:
    norms = []
    for weight in (0.0, 3.0):
        torch.manual_seed(0)
        model = ContractiveAutoencoder((1, 8, 8), latent_dim=64, contraction=weight)
        fit(model, digits, max_epochs=15)
        with torch.no_grad():
            norms.append(float(model.jacobian_norm(digits).sqrt().mean()))
    assert norms[1] < norms[0] / 3


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"contraction": -1.0}, "contraction"),
        ({"hessian_weight": -1.0}, "hessian_weight"),
        ({"hessian_scale": 0.0}, "hessian_scale"),
        ({"draws": 0}, "draws"),
        ({"method": "guess"}, "method"),
        ({"method": "closed_form", "architecture": MLP(hidden=(5,))}, "one layer"),
        ({"code_activation": "softmax"}, "code_activation"),
        ({"architecture": MLP(norm="batch")}, "batch"),
    ],
)
def test_refusals(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        build(**options)


def test_an_encoder_without_a_gradient_is_refused() -> None:
    class Indices(ContractiveAutoencoder):
        def encode(self, x: Tensor) -> Tensor:
            return super().encode(x).argmax(dim=1, keepdim=True)

    with pytest.raises(InputError, match="differentiable encoder"):
        Indices((6,), 4, method="exact").jacobian_norm(torch.randn(3, 6))
    with pytest.raises(InputError, match="differentiable encoder"):
        jacobian_spectrum(Indices((6,), 4), torch.randn(3, 6))
