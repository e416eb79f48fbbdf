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
from lightning_ae.architectures import MLP

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


def test_denoising_gives_the_smoothed_density_s_score() -> None:
    relative, cosine = agreement(trained(sigma=0.5), 0.5, None)
    assert relative <= 0.10
    assert cosine >= 0.995


def test_several_noise_levels_and_langevin_samples() -> None:
    model = trained(epochs=40, sigma=[1.0, 0.5, 0.25])
    for sigma in (1.0, 0.5, 0.25):
        relative, cosine = agreement(model, sigma, sigma)
        assert relative <= 0.2, sigma
        assert cosine >= 0.98, sigma
    samples = model.sample(3000)
    nearest = (samples[:, None] - CENTRES).norm(dim=2)
    shares = nearest.argmin(dim=1).bincount(minlength=3) / 3000
    assert (shares - 1 / 3).abs().max() < 0.1
    # each blob has the data's spread, smoothed by the lowest level
    assert float(nearest.min(dim=1).values.square().mean().sqrt()) == pytest.approx(
        math.sqrt(2) * math.hypot(SPREAD, 0.25), rel=0.15
    )


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
        losses = torch.stack([model.eval().loss(x, x)["loss"] for _ in range(4000)])
    assert abs(losses.mean() - expected) < 5 * losses.std() / 4000**0.5


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": [0.5, -1.0]}, "sigma"),
        ({"sigma": []}, "sigma"),
        ({"objective": "exact"}, "objective"),
        ({"objective": "sliced", "sigma": [1.0, 0.5]}, "one sigma"),
    ],
)
def test_refusals(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        ScoreMatchingAutoencoder((2,), **options)
