"""The rows of `reproduce.py` of deterministic autoencoders, and of the VAE that everyone starts with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from datasets import DatasetDict
from published import Asked, Figure, Found, Number, fit, mean, row, std
from torch.utils.data import DataLoader

import lightning_ae as ae
from lightning_ae.architectures import MLP
from lightning_ae.data.source import load_splits
from lightning_ae.metrics import SquaredErrorPerSample
from lightning_ae.models.stacked import Denoising, Plain
from lightning_ae.parts.likelihoods import Bernoulli


def mnist(path: str, batch_size: int, train: int | None = None) -> ae.HFDataModule:
    """MNIST without a validation part; of the training images the first `train`, or all."""
    splits = load_splits(path)
    if train is not None:
        splits = DatasetDict({"train": splits["train"].select(range(train)), "test": splits["test"]})
    return ae.HFDataModule(splits, val_fraction=0.0, batch_size=batch_size)


@torch.no_grad()
def codes(model: ae.Autoencoder, data: ae.HFDataModule, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    model.eval()
    parts = [
        (model.encode(batch["image"].to(model.device)).cpu(), batch["label"]) for batch in data.batches(split, 1000)
    ]
    return torch.cat([c for c, _ in parts]), torch.cat([y for _, y in parts])


@torch.no_grad()
def squared_error(model: ae.Autoencoder, data: ae.HFDataModule) -> float:
    metric = SquaredErrorPerSample()
    model.eval()
    for batch in data.batches("test", 1000):
        metric.update(model(batch["image"].to(model.device)).cpu(), batch["image"])
    return float(metric.compute())


def classification_error(model: ae.Autoencoder, data: ae.HFDataModule, epochs: int, lr: float = 1e-3) -> float:
    """The test error in percent of the whole encoder, fine-tuned with a softmax layer on top."""
    classifier = ae.FineTuneClassifier(model, num_classes=10, lr=lr)
    trainer = fit(classifier, data, epochs)
    accuracy = trainer.test(classifier, data, verbose=False)[0]["test/accuracy"]
    return 100 * (1 - accuracy)


def cosine(model: pl.LightningModule, epochs: int, **options: Any) -> None:
    """Gives a model an optimizer whose learning rate falls to zero along a cosine, step by step."""
    name = options.pop("optimizer", "Adam")

    def configure() -> Any:
        optimizer = getattr(torch.optim, name)(model.parameters(), **options)
        steps = int(model.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    model.configure_optimizers = configure  # type: ignore[method-assign]


# ---- the rows -----------------------------------------------------------------------------------------------------


@row(
    "Linear autoencoder, k = 30, MNIST",
    "Baldi & Hornik 1989; Hinton & Salakhutdinov 2006, https://doi.org/10.1126/science.1127647",
    [
        Figure(
            "squared error per test image",
            "13.87: PCA in Hinton & Salakhutdinov 2006, caption of figure 2B",
            "{reference}: scikit-learn's PCA on the same images, measured here",
        ),
        Figure("largest principal angle to PCA's subspace, degrees", beside="0: exact, Baldi & Hornik 1989"),
        Figure("smallest absolute cosine of the first ten components with those of PCA", beside="1: exact, by theory"),
    ],
)
def pca(asked: Asked) -> Iterator[Found]:
    """Linear autoencoder against principal component analysis."""
    from scipy.linalg import subspace_angles
    from sklearn.decomposition import PCA

    data = mnist(asked.path("mnist"), batch_size=256)
    images = torch.cat([batch["image"].flatten(1) for batch in data.batches("train", 1000)]).numpy()
    test = torch.cat([batch["image"].flatten(1) for batch in data.batches("test", 1000)]).numpy()
    reference = PCA(30, svd_solver="full").fit(images.astype(np.float64))
    exact = ((test - reference.inverse_transform(reference.transform(test))) ** 2).sum(axis=1).mean()
    errors, angles, alignments = [], [], []
    seeds = [0, 1, 2]
    for seed in seeds:
        pl.seed_everything(seed, verbose=False)
        model = ae.LinearAutoencoder((1, 28, 28), latent_dim=30)
        cosine(model, 20, optimizer="SGD", lr=0.08, momentum=0.9, nesterov=True)
        fit(model, data, 20, gradient_clip_val=3.0)
        errors.append(squared_error(model, data))
        components = model.principal_components().numpy().astype(np.float64)
        angles.append(float(np.degrees(subspace_angles(components.T, reference.components_.T).max())))
        alignments.append(float(np.abs((components[:10] * reference.components_[:10]).sum(axis=1)).min()))
    yield Found(
        "[0, 1], centred, SGD with Nesterov momentum 0.9, lr 0.08 falling to 0, batch 256, 20 epochs, 60 000 images",
        seeds,
        {
            "squared error per test image": Number(mean(errors), std(errors), reference=float(exact)),
            "largest principal angle to PCA's subspace, degrees": Number(max(angles)),
            "smallest absolute cosine of the first ten components with those of PCA": Number(min(alignments)),
        },
    )


@row(
    "Deep autoencoder 784-1000-500-250-30, MNIST",
    "Hinton & Salakhutdinov 2006, https://doi.org/10.1126/science.1127647",
    [
        Figure("squared error per test image", "3.00: Hinton & Salakhutdinov 2006, caption of figure 2B"),
        Figure("squared error per test image of logistic PCA, 30 components", "8.01: the same caption"),
    ],
    differs="the paper pretrains logistic units as Boltzmann machines and trains far longer",
)
def deep(asked: Asked) -> Iterator[Found]:
    """The deep autoencoder of 2006."""
    data = mnist(asked.path("mnist"), batch_size=128)
    epochs = 100 if torch.cuda.is_available() else 20
    pl.seed_everything(0, verbose=False)
    model = ae.Autoencoder((1, 28, 28), latent_dim=30, architecture=MLP(hidden=(1000, 500, 250)))
    cosine(model, epochs, lr=1e-3)
    fit(model, data, epochs)
    yield Found(
        f"ReLU units, squared error, Adam 1e-3 falling to 0, batch 128, {epochs} epochs, 60 000 images",
        [0],
        {"squared error per test image": Number(squared_error(model, data))},
    )


@row(
    "k-sparse features and logistic regression, MNIST",
    "Makhzani & Frey 2014, https://arxiv.org/abs/1312.5663",
    [Figure("test error, %", "1.35: Makhzani & Frey 2014 (unconfirmed)")],
    differs="far fewer epochs than the paper's",
)
def k_sparse(asked: Asked) -> Iterator[Found]:
    """k-sparse features with logistic regression."""
    from scipy.sparse import csr_matrix
    from sklearn.linear_model import LogisticRegression

    data = mnist(asked.path("mnist"), batch_size=128)
    pl.seed_everything(0, verbose=False)
    model = ae.KSparseAutoencoder((1, 28, 28), latent_dim=1000, k=25, alpha=3.0, k_start=100, k_epochs=6)
    fit(model, data, 12)
    (train, labels), (test, truth) = codes(model, data, "train"), codes(model, data, "test")
    # the paper's "+ LR": the features as they are, in a softmax layer
    scale = float(train[train != 0].abs().mean())
    regression = LogisticRegression(C=1.0, max_iter=300, tol=1e-3)
    regression.fit(csr_matrix((train / scale).numpy()), labels.numpy())
    error = 100 * (1 - regression.score(csr_matrix((test / scale).numpy()), truth.numpy()))
    yield Found(
        "1000 units, k = 25 falling from 100 over 6 epochs, alpha = 3, Adam 1e-3, batch 128, 12 epochs; scikit-learn's "
        "LogisticRegression, C = 1, on codes divided by their mean size",
        [0],
        {"test error, %": Number(error)},
    )


@row(
    "Stacked denoising against stacked plain, MNIST 'basic' (10 000 training images)",
    "Vincent et al. 2010, https://jmlr.org/papers/v11/vincent10a.html",
    [
        Figure("test error of stacked plain, %", "3.46: Vincent et al. 2010, table 3, 'basic'"),
        Figure("test error of stacked denoising, %", "2.84: the same table"),
        Figure("plain minus denoising, % points", "0.62: the difference of the two"),
        Figure("test error of stacked plain on all of MNIST, %", "1.40: the same table, 'MNIST'"),
        Figure("test error of stacked denoising on all of MNIST, %", "1.28: the same table"),
    ],
    differs="the paper's 2.84 has 10 % masking, and its 'basic' has 50 000 test images; here 25 % and the usual "
    "10 000. A smaller tier, too: the paper has 1000 or more units and chooses all settings by validation",
)
def stacked_denoising(asked: Asked) -> Iterator[Found]:
    """Stacked denoising against stacked plain autoencoders on 10 000 training images."""
    data = mnist(asked.path("mnist"), batch_size=100, train=10_000)
    seeds = [0, 1, 2]
    errors: dict[str, list[float]] = {"plain": [], "denoising": []}
    for seed in seeds:
        for name, objective in (("plain", Plain()), ("denoising", Denoising())):
            pl.seed_everything(seed, verbose=False)
            model = ae.StackedAutoencoder(
                (1, 28, 28), latent_dim=500, hidden=(500, 500), objective=objective, epochs_per_layer=15,
                likelihood=Bernoulli(), lr=1e-3,
            )  # fmt: skip
            fit(model, data, 45)
            errors[name].append(classification_error(model, data, epochs=25))
    difference = [p - d for p, d in zip(errors["plain"], errors["denoising"], strict=True)]
    yield Found(
        "three layers of 500 sigmoid units, tied, cross-entropy, masking 25 %, Adam 1e-3, 15 epochs for each layer, "
        "then 25 epochs of fine-tuning; the first 10 000 images, tested on the usual 10 000",
        seeds,
        {
            "test error of stacked plain, %": Number(mean(errors["plain"]), std(errors["plain"])),
            "test error of stacked denoising, %": Number(mean(errors["denoising"]), std(errors["denoising"])),
            "plain minus denoising, % points": Number(mean(difference), std(difference)),
        },
    )


@row(
    "Contractive against plain, MNIST",
    "Rifai et al. 2011, https://icml.cc/2011/papers/455_icmlpaper.pdf",
    [
        Figure("mean Jacobian norm, plain over contractive", "24: Rifai et al. 2011 (unconfirmed)"),
        Figure("test error of plain, %", "1.78: Rifai et al. 2011"),
        Figure("test error of contractive, %", "1.14: Rifai et al. 2011"),
    ],
    differs="a smaller tier: the first 20 000 training images; no choice of settings by validation",
)
def contractive(asked: Asked) -> Iterator[Found]:
    """Contractive against plain: the Jacobian, and the error of a network that starts from it."""
    data = mnist(asked.path("mnist"), batch_size=128, train=20_000)
    seeds = [0, 1]
    norms: dict[str, list[float]] = {"plain": [], "contractive": []}
    errors: dict[str, list[float]] = {"plain": [], "contractive": []}
    x = next(data.batches("test", 512))["image"]
    for seed in seeds:
        for name, weight in (("plain", 0.0), ("contractive", 6.0)):
            pl.seed_everything(seed, verbose=False)
            model = ae.ContractiveAutoencoder(
                (1, 28, 28), latent_dim=1000, contraction=weight, architecture=MLP(hidden=(), tied=True),
                likelihood=Bernoulli(), lr=1e-3,
            )  # fmt: skip
            fit(model, data, 20)
            with torch.no_grad():
                norms[name].append(float(model.eval().cpu().jacobian_norm(x).sqrt().mean()))
            errors[name].append(classification_error(model, data, epochs=15))
    ratio = [p / c for p, c in zip(norms["plain"], norms["contractive"], strict=True)]
    yield Found(
        "1000 sigmoid units, tied, cross-entropy, contraction 6, Adam 1e-3, batch 128, 20 epochs, then 15 epochs of "
        "fine-tuning with a softmax layer",
        seeds,
        {
            "mean Jacobian norm, plain over contractive": Number(mean(ratio), std(ratio)),
            "test error of plain, %": Number(mean(errors["plain"]), std(errors["plain"])),
            "test error of contractive, %": Number(mean(errors["contractive"]), std(errors["contractive"])),
        },
    )


@row(
    "Denoising score of a 2-D mixture of three Gaussians, smoothed by sigma = 0.5",
    "Vincent 2011, https://doi.org/10.1162/NECO_a_00142, for the method; the score is known in closed form",
    [
        Figure("relative L2 error of the score", beside="at most 0.10: a threshold of our own"),
        Figure("cosine with the analytic score", beside="at least 0.995: a threshold of our own"),
    ],
)
def score(asked: Asked) -> Iterator[Found]:
    """The score of a smoothed mixture of Gaussians."""
    pl.seed_everything(0, verbose=False)
    centres = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.5]])
    spread, sigma = 0.4, 0.5
    data = centres[torch.randint(3, (20_000,))] + spread * torch.randn(20_000, 2)
    model = ae.ScoreMatchingAutoencoder(
        (2,), latent_dim=128, sigma=sigma, architecture=MLP(hidden=(128, 128), activation="silu")
    )
    cosine(model, 60, lr=2e-3)
    fit(model, DataLoader(data, batch_size=256, shuffle=True), 60)
    x = centres[torch.randint(3, (5000,))] + math.hypot(spread, sigma) * torch.randn(5000, 2)
    x.requires_grad_()
    variance = spread**2 + sigma**2
    log_density = torch.logsumexp(-(x[:, None] - centres).square().sum(-1) / (2 * variance), dim=1)
    (exact,) = torch.autograd.grad(log_density.sum(), x)
    with torch.no_grad():
        ours = model.eval().cpu().grad_log_density(x)
    relative = float((ours - exact).norm() / exact.norm())
    similarity = float(torch.nn.functional.cosine_similarity(ours.flatten(), exact.flatten(), dim=0))
    yield Found(
        "20 000 samples, MLP 2-128-128-128-128-128-2, Adam 2e-3 falling to 0, batch 256, 60 epochs",
        [0],
        {"relative L2 error of the score": Number(relative), "cosine with the analytic score": Number(similarity)},
    )


@row(
    "VAE 784-400-20, grey MNIST",
    "pytorch/examples, https://github.com/pytorch/examples, for the model and its settings",
    [
        Figure(
            "test negative ELBO, nats",
            beside="105.80: the code of pytorch/examples, run here once for 10 epochs, not by this script",
        )
    ],
)
def vae(asked: Asked) -> Iterator[Found]:
    """The VAE of pytorch/examples."""
    data = mnist(asked.path("mnist"), batch_size=128)
    pl.seed_everything(0, verbose=False)
    model = ae.VAE((1, 28, 28), latent_dim=20, architecture=MLP(hidden=(400,)), likelihood=Bernoulli())
    trainer = fit(model, data, 10)
    loss = trainer.test(model, data, verbose=False)[0]["test/loss"]
    yield Found(
        "ReLU, Bernoulli on grey values, Adam 1e-3, batch 128, 10 epochs, 60 000 images",
        [0],
        {"test negative ELBO, nats": Number(loss)},
    )
