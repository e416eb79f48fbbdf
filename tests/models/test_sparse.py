"""Sparse autoencoders against closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_ae import InputError, KSparseAutoencoder, SparseAutoencoder
from lightning_ae.penalties import kl_sparsity


def test_kl_against_torch_distributions() -> None:
    q = torch.rand(20) * 0.98 + 0.01
    p = torch.distributions.Bernoulli(torch.tensor(0.05))
    expected = torch.distributions.kl_divergence(p, torch.distributions.Bernoulli(q)).sum()
    torch.testing.assert_close(kl_sparsity(q, 0.05), expected)
    assert float(kl_sparsity(torch.full((3,), 0.2), 0.2)) == pytest.approx(0, abs=1e-6)


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
