"""The semi-supervised VAE: its bounds by hand, batches of which few have labels, ranks without any."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_ae import ConditionalVAE, HFDataModule, InputError, SemiSupervisedVAE, load_model
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.exact import GLOBAL_BATCH_SIZE, rank, world_size
from lightning_ae.parts import Bernoulli, Gaussian
from lightning_ae.training.certify import Case, certify
from lightning_ae.training.processes import run

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False,
    "enable_checkpointing": False,
}  # fmt: skip
K, N = 3, 6

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]


def model_of(**options: Any) -> SemiSupervisedVAE:
    torch.manual_seed(0)
    shared: dict[str, Any] = {"latent_dim": 2, "num_classes": K, "likelihood": Gaussian(scale=0.5)}
    return SemiSupervisedVAE((5,), **{**shared, **options}).double()


def samples(n: int = N) -> Tensor:
    return torch.rand(n, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@contextmanager
def draws_of(model: Any, epsilon: Tensor) -> Iterator[None]:
    """Draws (N, K, units) for each sample and class."""

    class Fixed:
        def randn_like(self, x: Tensor) -> Tensor:
            return epsilon.reshape(x.shape)

    own, model.noise = model.noise, lambda purpose: Fixed()
    try:
        yield
    finally:
        model.noise = own


def by_hand(model: SemiSupervisedVAE, x: Tensor, y: int, epsilon: Tensor) -> Tensor:
    """L(x, y) of each sample, by the networks themselves, (N,)."""
    one_hot = F.one_hot(torch.tensor(y), K).to(x).expand(len(x), -1)
    mean, log_variance = model.encoder(torch.cat([x, one_hot], dim=1)).chunk(2, dim=1)
    z = mean + (0.5 * log_variance).exp() * epsilon
    located = model.decoder(torch.cat([z, one_hot], dim=1))
    log_p = torch.distributions.Normal(located, 0.5).log_prob(x).sum(dim=1)
    kl = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=1)
    return -log_p + kl + math.log(K)


# ---- what it computes -----------------------------------------------------------------------------------------------


def test_its_loss_is_the_papers_by_a_loop_over_classes() -> None:
    model, x = model_of(alpha=0.7), samples()
    label = torch.tensor([-1, 2, -1, 0, -1, -1])
    epsilon = torch.randn(N, K, 2, dtype=torch.float64)
    log_q = model.classifier(x).log_softmax(dim=1)
    each = torch.stack([by_hand(model, x, y, epsilon[:, y]) for y in range(K)], dim=1)
    total = torch.zeros((), dtype=torch.float64)
    for i, y in enumerate(label.tolist()):
        if y >= 0:
            total = total + each[i, y]
        else:
            q = log_q[i].exp()
            total = total + sum(q[c] * each[i, c] for c in range(K)) - torch.distributions.Categorical(q).entropy()
    expected = total / N + 0.7 * (-log_q[1, 2] - log_q[3, 0]) / 2
    with draws_of(model, epsilon):
        terms = model.loss(x, x, label=label)
    torch.testing.assert_close(terms["loss"], expected)
    terms["loss"].backward()
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    expected.backward()
    torch.testing.assert_close(found, [p.grad for p in model.parameters() if p.grad is not None])


def test_with_all_labels_it_is_the_conditional_bound_and_the_classifiers_error() -> None:
    model, x, label = model_of(alpha=2.0), samples(), torch.arange(N) % K
    conditional = ConditionalVAE((5,), latent_dim=2, num_classes=K, likelihood=Gaussian(scale=0.5)).double()
    conditional.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("classifier")})
    epsilon = torch.randn(N, K, 2, dtype=torch.float64)
    with draws_of(model, epsilon):
        found = model.loss(x, x, label=label)
    with draws_of(conditional, epsilon[torch.arange(N), label]):
        bound = conditional.loss(x, x, label=label)
    torch.testing.assert_close(found["reconstruction"], bound["reconstruction"])
    torch.testing.assert_close(found["kl"], bound["kl"])
    error = F.cross_entropy(model.classifier(x), label)
    torch.testing.assert_close(found["classification"], error)
    torch.testing.assert_close(found["loss"], bound["loss"] + math.log(K) + 2.0 * error)


def test_its_score_is_the_marginal_bound_and_tightens() -> None:
    model, x = model_of(), samples()
    model.eval()
    score = model.score(x)
    assert torch.equal(score, model.score(x, label=torch.arange(N) % K))  # whatever the label
    each = torch.stack([model.score(x, seed=seed) for seed in range(100)])
    epsilon = torch.randn(300 * N, K, 2, dtype=torch.float64)
    many = x.repeat(300, 1)
    with torch.no_grad(), draws_of(model.eval(), epsilon):
        bound = model.loss(many, many)
    expected = bound["reconstruction"] + bound["kl"] + bound["label_kl"]
    assert float(each.mean()) == pytest.approx(float(expected), abs=0.15)
    # -log p(x), by many draws from the prior of z for each class
    with torch.no_grad():
        z = torch.randn(20_000, 2, dtype=torch.float64)
        log_p = []
        for y in range(K):
            located = model.decode(z, label=torch.full((len(z),), y))
            log_p.append(torch.distributions.Normal(located, 0.5).log_prob(x[:, None]).sum(dim=2))
        exact = -(torch.cat(log_p, dim=1).logsumexp(dim=1) - math.log(K * len(z)))
    tight = model.score(x, draws=500)
    torch.testing.assert_close(tight, exact, atol=0.05, rtol=0)
    assert (each.mean(dim=0) > exact).all()
    shares = model.score(x, "feature")
    assert shares.shape == x.shape


def test_the_fitted_scale_counts_a_class_as_it_is_probable() -> None:
    model, x = model_of(likelihood=Gaussian(scale="optimal")), samples()
    label = torch.tensor([0, -1, 2, -1, 1, -1])
    epsilon = torch.randn(N, K, 2, dtype=torch.float64)
    with torch.no_grad(), draws_of(model.train(), epsilon):
        model.loss(x, x, label=label)
    weights = model.classifier(x).softmax(dim=1)
    weights[label >= 0] = F.one_hot(label[label >= 0], K).to(x)
    squared = torch.zeros((), dtype=torch.float64)
    for y in range(K):
        one_hot = F.one_hot(torch.tensor(y), K).to(x).expand(N, -1)
        mean, log_variance = model.encoder(torch.cat([x, one_hot], dim=1)).chunk(2, dim=1)
        z = mean + (0.5 * log_variance).exp() * epsilon[:, y]
        error = (model.decoder(torch.cat([z, one_hot], dim=1)) - x).square().sum(dim=1)
        squared = squared + (weights[:, y] * error).sum()
    assert float(model.head.fitted) == pytest.approx(0.5 * math.log(float(squared.detach()) / x.numel()))


def test_codes_and_means_without_labels() -> None:
    model, x = model_of(), samples()
    model.eval()
    likeliest = model.class_log_probabilities(x).argmax(dim=1)
    label = torch.where(torch.arange(N) < 3, -1, 1)
    told = torch.where(label < 0, likeliest, label)
    with torch.no_grad():
        torch.testing.assert_close(model.encode(x), model.encode(x, label=likeliest))
        torch.testing.assert_close(model.encode(x, label=label), model.encode(x, label=told))
        torch.testing.assert_close(model(x, label=label), model(x, label=told))
        z = model.encode(x)
        mean = torch.stack([model.decode(z, label=torch.full((N,), c)) for c in range(K)]).mean(dim=0)
        torch.testing.assert_close(model.decode(z), mean)
        torch.testing.assert_close(model.decode(z, label=label)[:3], mean[:3])
        torch.testing.assert_close(model.decode(z, label=label)[3:], model.decode(z, label=told)[3:])
    torch.testing.assert_close(model.predict_proba(x).sum(dim=1), torch.ones(N, dtype=torch.float64))
    assert model.sample(4).shape == (4, 5)
    predicted = model.predict_step((x,), 0)
    assert predicted["probability"].shape == (N, K)


def test_maps_and_images() -> None:
    torch.manual_seed(0)
    architecture = ConvNet(channels=(4, 8), code="map")
    model = SemiSupervisedVAE((1, 8, 8), latent_dim=2, num_classes=K, architecture=architecture)
    x, label = torch.rand(4, 1, 8, 8), torch.tensor([0, -1, 2, -1])
    assert model.class_log_probabilities(x).shape == (4, K)
    model.loss(x, x, label=label)["loss"].backward()
    assert model.eval().score(x).shape == (4,)


# ---- what it refuses ------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="alpha must not be negative"):
        model_of(alpha=-1.0)
    model, x = model_of(), samples()
    for label, message in ((torch.full((N,), K), "labels of SemiSupervisedVAE are 0 to 2"),
                           (torch.full((N,), -2), "labels of SemiSupervisedVAE are 0 to 2"),
                           (torch.zeros(N), "whole numbers")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            model.loss(x, x, label=label)
    with pytest.raises(InputError, match="takes 'label' besides the input, and the batch has none"):
        model.train().loss(x, x)
    with pytest.raises(InputError, match="needs a label for each sample"):
        model.log_likelihood(model.encode(x), x)
    model.train().loss(x, x, label=torch.tensor([0, 0, 1, -1, -1, 1]))
    assert model.seen.tolist() == [2, 2, 0]
    model.eval()
    for call in (lambda: model.sample(2, label=2), lambda: model.encode(x, label=torch.full((N,), 2))):
        with pytest.raises(InputError, match=r"no sample of the classes \[2\]"):
            call()
    assert model.score(x).isfinite().all()  # which asks for all


# ---- on ranks -------------------------------------------------------------------------------------------------------


def gradients(model: Any, x: Tensor, label: Tensor) -> list[Tensor]:
    """After the mean over ranks, of which each has every second sample, the last fewer."""
    own = slice(rank(), None, world_size())
    batch = {"x": x[own], "label": label[own], GLOBAL_BATCH_SIZE: len(x)}
    with model.at_step("train", 0, batch):
        terms = model.loss(x[own], x[own], label=label[own])
    (terms["loss"] * model.share(batch)).backward()
    found = []
    for parameter in model.parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        if world_size() > 1:
            torch.distributed.all_reduce(gradient)
        found.append(gradient / world_size())
    return found


def two(index: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=index, world_size=2)
    for name, label in LABELS.items():
        found = gradients(model_of(alpha=5.0), samples(7), label)
        if index == 0:
            torch.save(found, f"{folder}/{name}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


LABELS = {
    "on one rank": torch.tensor([0, -1, 2, -1, 1, -1, 0]),  # every second: the other rank has none
    "nowhere": torch.full((7,), -1),
    "everywhere on the other": torch.tensor([-1, 0, -1, 1, -1, 2, -1]),
}


def test_two_ranks_of_which_one_has_no_label_are_one_process(tmp_path: Path) -> None:
    run(two, (str(tmp_path),), 2)
    for name, label in LABELS.items():
        found = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        for one, other in zip(found, gradients(model_of(alpha=5.0), samples(7), label), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_certified_on_two_ranks_with_labels_that_are_missing() -> None:
    options = {"num_classes": 3, "latent_dim": 4, "architecture": {"class_path": "MLP", "init_args": {"hidden": [16]}}}
    (certificate,) = certify([Case("semi_supervised_vae", options)], worlds=[2])
    assert certificate.passed, certificate


# ---- on the digits --------------------------------------------------------------------------------------------------


def accuracies(digits: Tensor, target: Tensor, epochs: int, seed: int = 0, alpha: float = 10.0) -> tuple[float, float]:
    """On a held-out third, with 5 % of the other labels: of the model, and of its classifier trained on those alone."""
    pl.seed_everything(seed, verbose=False)
    order = torch.randperm(len(digits))
    train, test = order[600:], order[:600]
    label = torch.full((len(train),), -1)
    few = int(0.05 * len(train))
    label[:few] = target[train[:few]]
    model = SemiSupervisedVAE((1, 8, 8), latent_dim=8, architecture=MLP((128,)), likelihood=Bernoulli(), lr=3e-3,
                              alpha=alpha)  # fmt: skip
    loader = DataLoader(TensorDataset(digits[train], label), batch_size=128, shuffle=True)
    pl.Trainer(max_epochs=epochs, **QUIET).fit(model, loader)
    found = (model.eval().predict_proba(digits[test]).argmax(dim=1) == target[test]).float().mean()
    alone = MLP((128,)).encoder((1, 8, 8), 10)
    optimizer = torch.optim.Adam(alone.parameters(), 3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(alone(digits[train[:few]]), label[:few]).backward()
        optimizer.step()
    with torch.no_grad():
        other = (alone(digits[test]).argmax(dim=1) == target[test]).float().mean()
    return float(found), float(other)


@pytest.mark.slow
def test_with_few_labels_it_tells_more_than_a_classifier_of_those(digits: Tensor) -> None:
    from sklearn.datasets import load_digits

    target = torch.from_numpy(load_digits().target)
    found, other = zip(*(accuracies(digits, target, 60, seed) for seed in range(2)), strict=True)
    print(f"accuracy {found}, of a classifier of the labelled rows alone {other}")
    assert sum(found) > sum(other)


def test_from_a_fit_with_few_labels_to_tools_that_have_none(digits: Tensor, tmp_path: Path) -> None:
    import numpy as np
    import pandas as pd

    pl.seed_everything(0, verbose=False)
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 90)
    frame = pd.DataFrame({"a": kind + rng.normal(0, 0.1, 90), "b": rng.normal(size=90)})
    names = np.array(["red", "green", "blue"], dtype=object)[kind]
    frame["colour"] = [name if i % 4 == 0 else None for i, name in enumerate(names)]
    data = HFDataModule(frame, label="colour", cache="memory", batch_size=30)
    model = SemiSupervisedVAE((2,), latent_dim=2, num_classes=3, architecture=MLP((16,)))
    trainer = pl.Trainer(max_epochs=2, num_sanity_val_steps=0, **QUIET)
    trainer.fit(model, data)
    assert 0 < int(model.seen.sum()) < 2 * 90 / 3
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    loaded = load_model(tmp_path / "m.ckpt")
    assert loaded.features(frame[["a", "b"]]).shape == (90, 2)
    assert loaded.score(frame[["a", "b"]]).isfinite().all()
    without = HFDataModule({"test": frame[["a", "b"]]}, cache="memory")
    without.use_signature(loaded.signature)
    loaded.use_columns_of(without)
    assert sum(len(each.score) for each in loaded.score_rows(without, "test")) == 90
    with pytest.raises(InputError, match="takes labels, but the data set has no label column"):
        pl.Trainer(max_epochs=1, **QUIET).fit(
            SemiSupervisedVAE((2,), num_classes=3), HFDataModule(frame[["a", "b"]], cache="memory")
        )
