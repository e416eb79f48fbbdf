"""Sparse autoencoders against closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_ae import InputError, KSparseAutoencoder, SparseAutoencoder
from lightning_ae.parts.penalties import kl_sparsity


def test_kl_against_torch_distributions() -> None:
    a = torch.randn(30, 20, dtype=torch.float64) * 3
    p, q = (torch.distributions.Bernoulli(mean) for mean in (torch.tensor(0.05).double(), a.sigmoid().mean(dim=0)))
    expected = torch.distributions.kl_divergence(p, q).sum()
    torch.testing.assert_close(kl_sparsity(a, 0.05), expected, rtol=1e-7, atol=0)  # 0.05 itself is of float32 there
    torch.testing.assert_close(kl_sparsity(a.float(), 0.05), expected.float())
    even = torch.full((4, 3), 0.2).logit()
    assert float(kl_sparsity(even, 0.2)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("level", [-30.0, -8.0, 0.0, 8.0, 30.0])
def test_dead_and_saturated_units_have_their_gradient(level: float, dtype: torch.dtype) -> None:
    """Against the closed form in float64, in which 1 - s(a) is s(-a)."""
    generator = torch.Generator().manual_seed(0)
    a = (level + torch.randn(50, 4, generator=generator)).to(dtype).requires_grad_()
    (slope,) = torch.autograd.grad(kl_sparsity(a, 0.05), a)
    on, off = a.detach().double().sigmoid(), (-a.detach().double()).sigmoid()
    expected = on * off * (0.95 / off.sum(dim=0) - 0.05 / on.sum(dim=0))
    assert kl_sparsity(a, 0.05).dtype == (dtype if dtype == torch.float64 else torch.float32)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(slope.double(), expected, rtol=tolerance, atol=1e-30)


def test_saturated_units_come_back_under_bf16(digits: torch.Tensor) -> None:
    """From a pre-activation of 6 on, the sigmoid of bfloat16 is 1."""
    torch.manual_seed(0)
    digits = digits[:256]
    model = SparseAutoencoder((1, 8, 8), latent_dim=32, sparsity_weight=3.0)
    with torch.no_grad():
        model.encoder.linears[-1].bias.fill_(8.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.encode(digits).dtype == torch.float32
        model.loss(digits, digits)["loss"].backward()
    assert (model.encoder.linears[-1].bias.grad > 0.5).all()
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    for _ in range(150):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.loss(digits, digits)["loss"]
        loss.backward()
        optimizer.step()
    assert (model.encode(digits).mean(dim=0) < 0.2).all()


def test_kl_is_of_the_mean_over_the_batch() -> None:
    torch.manual_seed(0)
    model, x = SparseAutoencoder((7,), latent_dim=9, rho=0.1, sparsity_weight=2.0), torch.rand(30, 7)
    terms = model.loss(x, x)
    mean = model.encode(x).mean(dim=0)
    expected = (0.1 * (0.1 / mean).log() + 0.9 * (0.9 / (1 - mean)).log()).sum()
    torch.testing.assert_close(terms["sparsity"], expected)
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + 2 * terms["sparsity"])


def test_l1_is_of_rectified_codes() -> None:
    model, x = SparseAutoencoder((7,), latent_dim=9, penalty="l1"), torch.rand(30, 7)
    code = model.encode(x)
    assert (code >= 0).all()
    torch.testing.assert_close(model.loss(x, x)["sparsity"], code.sum(dim=1).mean())


@pytest.mark.parametrize("penalty", ["kl", "l1"])
def test_the_penalty_makes_codes_sparse(penalty: Any, digits: torch.Tensor, fit: Any) -> None:
    activity = []
    for weight in (0.0, 3.0):
        torch.manual_seed(0)
        model = SparseAutoencoder((1, 8, 8), latent_dim=32, penalty=penalty, sparsity_weight=weight)
        fit(model, digits, max_epochs=15)
        with torch.no_grad():
            activity.append(float(model.eval().encode(digits).mean()))
    assert activity[1] < 0.5 * activity[0]


def test_k_sparse_keeps_the_largest() -> None:
    torch.manual_seed(0)
    model, x = KSparseAutoencoder((20,), latent_dim=50, k=5, alpha=2.0), torch.rand(8, 20)
    dense = model.encoder(x)
    for kept, mode in ((5, True), (10, False)):
        code = model.train(mode).encode(x)
        assert ((code != 0).sum(dim=1) == kept).all()
        smallest = dense.sort(dim=1, descending=True).values[:, kept - 1 : kept]
        torch.testing.assert_close(code, torch.where(dense >= smallest, dense, 0.0))
    # linear and tied: the reconstruction is W^T z + b'
    weight = next(m for m in model.encoder.modules() if isinstance(m, torch.nn.Linear)).weight
    zero = model.decode(torch.zeros(1, 50))
    torch.testing.assert_close(model.decode(code), code @ weight + zero)


def test_k_falls_by_schedule(fit: Any) -> None:
    seen = []

    class Watched(KSparseAutoencoder):
        def on_train_epoch_start(self) -> None:
            seen.append(self.kept)

    fit(Watched((4,), latent_dim=40, k=4, k_start=40, k_epochs=4), torch.rand(64, 4), max_epochs=6)
    assert seen == [40, 31, 22, 13, 4, 4]


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: KSparseAutoencoder((4,), latent_dim=16, k=17), "k must lie between 1 and .* latent_dim = 16"),
        (lambda: KSparseAutoencoder((4,), latent_dim=16, k=3, k_start=20), "k_start"),
        (lambda: KSparseAutoencoder((4,), alpha=0.0), "alpha"),
        (lambda: SparseAutoencoder((4,), rho=0.0), "rho"),
        (lambda: SparseAutoencoder((4,), rho=1.0), "rho"),
        (lambda: SparseAutoencoder((4,), sparsity_weight=-1.0), "sparsity_weight"),
        (lambda: SparseAutoencoder((4,), penalty="l2"), "penalty"),  # type: ignore[arg-type]
    ],
)
def test_refusals(build: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        build()


def test_another_code_must_reach_the_loss() -> None:
    class Doubled(SparseAutoencoder):
        def encode(self, x: Tensor) -> Tensor:
            return 2 * super().encode(x)

    class Shifted(SparseAutoencoder):
        def pre_activation(self, x: Tensor) -> Tensor:
            return super().pre_activation(x) + 1

    with pytest.raises(InputError, match="Doubled overrides encode, of which the loss would see nothing"):
        Doubled((6,), 3)
    torch.manual_seed(0)
    plain = SparseAutoencoder((6,), 3)
    torch.manual_seed(0)
    shifted, x = Shifted((6,), 3), torch.rand(4, 6)
    assert shifted.loss(x, x)["loss"] != plain.loss(x, x)["loss"]
