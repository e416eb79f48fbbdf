"""Scores against analytic ones."""

from __future__ import annotations

import math
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_ae import InputError, ScoreMatchingAutoencoder
from lightning_ae.architectures import MLP, ResNet

CENTRES = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.5]])
SPREAD = 0.4


def draw(n: int, sigma: float = 0.0) -> Tensor:
    return CENTRES[torch.randint(3, (n,))] + math.hypot(SPREAD, sigma) * torch.randn(n, 2)


def analytic_score(x: Tensor, sigma: float) -> Tensor:
    x = x.clone().requires_grad_()
    variance = SPREAD**2 + sigma**2
    log_density = torch.logsumexp(-(x[:, None] - CENTRES).square().sum(-1) / (2 * variance), dim=1)
    return torch.autograd.grad(log_density.sum(), x)[0]


def agreement(model: ScoreMatchingAutoencoder, sigma: float, given: float | None) -> tuple[float, float]:
    x = draw(5000, sigma)
    exact = analytic_score(x, sigma)
    with torch.no_grad():
        ours = model.eval().grad_log_density(x, given)
    cosine = torch.nn.functional.cosine_similarity(ours.flatten(), exact.flatten(), dim=0)
    return float((ours - exact).norm() / exact.norm()), float(cosine)


def trained(epochs: int = 25, **options: Any) -> ScoreMatchingAutoencoder:
    class Falling(ScoreMatchingAutoencoder):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), 3e-3)
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)]

    pl.seed_everything(0, verbose=False)
    model = Falling((2,), latent_dim=64, architecture=MLP(hidden=(64, 64), activation="silu"), **options)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, DataLoader(draw(16_384), batch_size=256, shuffle=True))
    return model


@pytest.mark.slow
def test_denoising_gives_the_smoothed_density_s_score() -> None:
    relative, cosine = agreement(trained(sigma=0.5), 0.5, None)
    assert relative <= 0.10
    assert cosine >= 0.995


@pytest.mark.slow
def test_several_noise_levels_and_langevin_samples() -> None:
    model = trained(epochs=40, sigma=[1.0, 0.5, 0.25])
    for sigma in (1.0, 0.5, 0.25):
        relative, cosine = agreement(model, sigma, sigma)
        assert relative <= 0.2, sigma
        assert cosine >= 0.98, sigma
    samples = model.sample(1000)
    nearest = (samples[:, None] - CENTRES).norm(dim=2)
    shares = nearest.argmin(dim=1).bincount(minlength=3) / 1000
    assert (shares - 1 / 3).abs().max() < 0.1
    # each blob has the data's spread, smoothed by the lowest level
    assert float(nearest.min(dim=1).values.square().mean().sqrt()) == pytest.approx(
        math.sqrt(2) * math.hypot(SPREAD, 0.25), rel=0.15
    )


@pytest.mark.slow
def test_sliced_score_matching_gives_the_data_s_own_score() -> None:
    relative, cosine = agreement(trained(epochs=40, sigma=0.5, objective="sliced"), 0.0, None)
    assert relative <= 0.25
    assert cosine >= 0.97


def test_the_denoising_loss_by_hand() -> None:
    torch.manual_seed(0)
    model = ScoreMatchingAutoencoder((3,), latent_dim=8, sigma=0.7).double()
    x = torch.rand(50, 3, dtype=torch.float64)
    with model.at_step("train", 0):
        noise = model.noise("denoising")
        noise.rand_like(x[:, 0].float())  # the draw of levels comes first
        epsilon = noise.randn_like(x)
    with model.at_step("train", 0):
        loss = model.loss(x, x)["loss"]
    noisy = x + 0.7 * epsilon
    expected = 0.7**2 / 2 * (model.grad_log_density(noisy) + epsilon / 0.7).square().sum(dim=1).mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)


def test_the_sliced_loss_has_the_expectation_of_the_exact_one() -> None:
    torch.manual_seed(0)
    model = ScoreMatchingAutoencoder((3,), latent_dim=8, sigma=0.7, objective="sliced").double()
    x = torch.rand(4, 3, dtype=torch.float64)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda s: model.grad_log_density(s.unsqueeze(0))[0]))(x)
    trace = torch.einsum("bii->b", jacobian)
    expected = (trace + 0.5 * model.grad_log_density(x).square().sum(dim=1)).mean()
    with torch.no_grad():
        many = x.repeat(100, 1)  # draws of their own for each
        losses = torch.stack([model.eval().loss(many, many)["loss"] for _ in range(100)])
    assert abs(losses.mean() - expected) < 5 * losses.std() / 100**0.5


def jacobian_of_the_score(model: ScoreMatchingAutoencoder, x: Tensor, sigma: float | None) -> Tensor:
    def one(sample: Tensor) -> Tensor:
        return model.grad_log_density(sample.unsqueeze(0), sigma).flatten()

    return torch.func.vmap(torch.func.jacrev(one))(x).flatten(2).detach()


def asymmetry(model: ScoreMatchingAutoencoder, x: Tensor, sigma: float | None = None) -> float:
    jacobian = jacobian_of_the_score(model, x, sigma)
    # beside the -1 / sigma^2 of every score's diagonal
    rest = jacobian + torch.eye(jacobian.shape[1]) / model.sigmas[-1 if sigma is None else 0] ** 2
    return float((rest - rest.mT).norm() / rest.norm())


@pytest.mark.parametrize("sigma", [0.7, [1.0, 0.5]], ids=str)
@pytest.mark.parametrize("activation", ["identity", "sigmoid", "tanh", "relu"])
def test_one_tied_layer_has_an_energy(activation: Any, sigma: Any) -> None:
    torch.manual_seed(0)
    model = ScoreMatchingAutoencoder(
        (1, 2, 3), 8, sigma=sigma, architecture=MLP(hidden=(), tied=True), code_activation=activation
    ).double()
    assert model.has_energy
    x = torch.randn(5, 1, 2, 3, dtype=torch.float64, requires_grad=True)
    for level in (None, 1.0 if isinstance(sigma, list) else 0.7):
        assert asymmetry(model, x.detach(), level) < 1e-12
        (slope,) = torch.autograd.grad(model.energy(x, level).sum(), x)
        torch.testing.assert_close(-slope, model.grad_log_density(x, level), rtol=1e-10, atol=1e-12)
    if activation == "sigmoid" and sigma == 0.7:  # as it stands in Vincent 2011
        (layer,), (back,) = model.encoder.linears, model.decoder.linears
        flat = x.flatten(1)
        softplus = torch.nn.functional.softplus(flat @ layer.weight.T + layer.bias).sum(dim=1)
        expected = -(flat @ back.bias - flat.square().sum(dim=1) / 2 + softplus) / model.sigmas[0] ** 2
        torch.testing.assert_close(model.energy(x), expected)


@pytest.mark.parametrize(
    "architecture",
    [
        MLP(activation="softplus"),
        MLP(hidden=(9,), activation="tanh", tied=True),
        MLP(hidden=(), tied=False),
        ResNet(channels=(4, 8)),
    ],
    ids=["default", "two tied layers", "one layer", "residual"],
)
def test_other_architectures_have_none_and_say_so(architecture: Any) -> None:
    torch.manual_seed(0)
    model = ScoreMatchingAutoencoder((1, 8, 8), 32, architecture=architecture, code_activation="sigmoid").double()
    assert asymmetry(model, torch.randn(3, 1, 8, 8, dtype=torch.float64)) > 0.05
    assert not model.has_energy
    with pytest.raises(InputError, match=r"not the gradient of an energy(.|\n)*tied=True"):
        model.energy(torch.randn(3, 1, 8, 8).double())


def test_an_energy_is_the_negative_log_density_of_gaussian_data() -> None:
    """Linear units have quadratic energies; smoothed by sigma, the data's variances are s^2 + sigma^2."""
    pl.seed_everything(0, verbose=False)
    scale = torch.tensor([1.5, 0.5])
    model = ScoreMatchingAutoencoder((2,), 4, sigma=0.5, architecture=MLP(hidden=(), tied=True))
    data = torch.randn(4096, 2) * scale + torch.tensor([1.0, -1.0])
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(1500):
        optimizer.zero_grad()
        model.loss(data, data)["loss"].backward()
        optimizer.step()
    x = torch.randn(200, 2) * 2
    exact = ((x - torch.tensor([1.0, -1.0])).square() / (2 * (scale.square() + 0.25))).sum(dim=1)
    energy = model.energy(x).detach()
    difference = energy - exact - (energy - exact).mean()
    assert float(difference.square().mean().sqrt() / exact.std()) < 0.05


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": [0.5, -1.0]}, "sigma"),
        ({"sigma": []}, "sigma"),
        ({"objective": "exact"}, "objective"),
        ({"code_activation": "softmax"}, "code_activation"),
        ({"objective": "sliced", "sigma": [1.0, 0.5]}, "one sigma"),
    ],
)
def test_refusals(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        ScoreMatchingAutoencoder((2,), **options)
