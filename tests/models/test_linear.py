"""The linear autoencoder against scikit-learn's principal component analysis."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA
from torch import Tensor

from lightning_ae import HFDataModule, InputError, LinearAutoencoder


@pytest.fixture(scope="module")
def digits_data() -> tuple[HFDataModule, np.ndarray, np.ndarray]:
    data = HFDataModule("digits", val_fraction=0.0, batch_size=64)
    train, test = (torch.cat([b["image"] for b in data.batches(s)]).flatten(1).numpy() for s in ("train", "test"))
    return data, train.astype(np.float64), test.astype(np.float64)


def check_against_pca(model: LinearAutoencoder, train: np.ndarray, test: np.ndarray, k: int) -> None:
    pca = PCA(k, svd_solver="full").fit(train)
    expected = ((test - pca.inverse_transform(pca.transform(test))) ** 2).sum(axis=1).mean()
    x = torch.from_numpy(test).float().view(-1, 1, 8, 8)
    with torch.no_grad():
        error = float((model.eval()(x) - x).square().sum(dim=(1, 2, 3)).mean())
    assert error == pytest.approx(expected, rel=0.005)
    components = model.principal_components().double().numpy()
    np.testing.assert_allclose(components @ components.T, np.eye(k), atol=1e-5)
    assert np.degrees(subspace_angles(components.T, pca.components_.T).max()) < 2
    # in order: each is the principal component of its rank, up to its sign
    assert (np.abs((components * pca.components_).sum(axis=1)) > 0.98).all()


def trainer(epochs: int) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, gradient_clip_val=3.0,
    )  # fmt: skip


@pytest.mark.slow
def test_gradient_descent_reaches_pca(digits_data: Any) -> None:
    class Descent(LinearAutoencoder):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.08, momentum=0.9, nesterov=True)
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 150)]

    data, train, test = digits_data
    pl.seed_everything(0, verbose=False)
    model = Descent((1, 8, 8), latent_dim=6)
    trainer(150).fit(model, data)
    check_against_pca(model, train, test, 6)


def test_initialization_from_pca(digits_data: Any) -> None:
    data, train, test = digits_data
    model = LinearAutoencoder((1, 8, 8), latent_dim=6, initialization="pca", lr=1e-9)
    trainer(1).fit(model, data)
    check_against_pca(model, train, test, 6)


def test_components_are_read_off_whatever_the_factors(digits_data: Any) -> None:
    _, train, _ = digits_data
    x = torch.from_numpy(train).float().view(-1, 1, 8, 8)
    model = LinearAutoencoder((1, 8, 8), latent_dim=4)
    model.initialize_from(x)
    expected = model.principal_components()
    # the same map through other codes: W -> A W, V -> V A^-1
    torch.manual_seed(0)
    mix = torch.randn(4, 4)
    encoder, decoder = model._linear(model.encoder), model._linear(model.decoder)
    with torch.no_grad():
        encoder.weight.copy_(mix @ encoder.weight)
        decoder.weight.copy_(decoder.weight @ torch.linalg.inv(mix))
    again = model.principal_components(x)
    torch.testing.assert_close((expected * again).sum(dim=1).abs(), torch.ones(4), atol=1e-3, rtol=0)


def test_refusals(fit: Any) -> None:
    with pytest.raises(InputError, match="latent_dim 5 exceeds"):
        LinearAutoencoder((4,), latent_dim=5)
    with pytest.raises(InputError, match="initialization"):
        LinearAutoencoder((4,), latent_dim=2, initialization="PCA")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="seen no data"):
        LinearAutoencoder((4,), latent_dim=2).principal_components()
    with pytest.raises(InputError, match="do not determine"):
        LinearAutoencoder((4,), latent_dim=2).initialize_from(torch.rand(2, 4))
    with pytest.raises(InputError, match="batches"):
        fit(LinearAutoencoder((4,), latent_dim=2, initialization="pca"), torch.rand(64, 4))


def test_gaussian_likelihood_and_squared_error_have_the_same_optimum() -> None:
    # least squares in closed form, against both objectives minimised by L-BFGS from the same start
    torch.manual_seed(0)
    x = torch.randn(400, 5, dtype=torch.float64) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.2], dtype=torch.float64)
    x = x - x.mean(dim=0)
    _, s, _ = torch.linalg.svd(x, full_matrices=False)
    optimum = float((s[2:] ** 2).sum() / 400)

    def minimum(objective: str) -> Tensor:
        torch.manual_seed(1)
        model = LinearAutoencoder((5,), latent_dim=2).double()
        options = {"line_search_fn": "strong_wolfe", "max_iter": 500, "tolerance_change": 1e-14}
        optimizer = torch.optim.LBFGS(model.parameters(), **options)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = model.loss(x, x)["loss"] if objective == "likelihood" else (model(x) - x).square().sum(1).mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        return model(x).detach()

    by_likelihood, by_error = minimum("likelihood"), minimum("squared error")
    torch.testing.assert_close(by_likelihood, by_error, atol=1e-4, rtol=0)
    assert float((by_likelihood - x).square().sum(1).mean()) == pytest.approx(optimum, rel=1e-6)
