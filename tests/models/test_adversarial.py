"""The adversarial autoencoder, and critics: one backward pass against two optimizers in turn."""

from __future__ import annotations

import math
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_ae import AdversarialAutoencoder, InputError
from lightning_ae.architectures import MLP, ConvNet, Critic, detached
from lightning_ae.cli import main
from lightning_ae.parts import (
    CentredWrappedNormal,
    JointPrior,
    MixturePrior,
    UniformOnCategories,
    UniformOnSphere,
    VampPrior,
)
from lightning_ae.training.certify import Case, certify

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]


def build(**options: Any) -> AdversarialAutoencoder:
    torch.manual_seed(0)
    options = {"architecture": MLP((16,)), "critic": Critic((8,)), "adversarial_weight": 0.7} | options
    return AdversarialAutoencoder((12,), latent_dim=3, **options).double()


def sides(model: AdversarialAutoencoder) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    critic = list(model.critic.parameters())
    return [p for p in model.parameters() if all(p is not other for other in critic)], critic


def by_hand(model: AdversarialAutoencoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """What the autoencoder minimises, and what the critic does, on one draw of the prior and one encoding."""
    bce, ones, zeros = (
        F.binary_cross_entropy_with_logits,
        torch.ones(len(x), 1).double(),
        torch.zeros(len(x), 1).double(),
    )
    z, drawn = model.encode(x), torch.randn(len(x), 3, dtype=x.dtype)
    own = 0.5 * ((model.decode(z) - x) ** 2 + math.log(2 * math.pi)).sum(dim=1).mean()
    return own + 0.7 * bce(model.critic(z), ones), bce(model.critic(drawn), ones) + bce(model.critic(z.detach()), zeros)


def test_gradients_are_those_of_two_losses_apart() -> None:
    model, x = build(), torch.randn(9, 12, dtype=torch.float64)
    autoencoder, critic = sides(model)
    torch.manual_seed(1)
    own, other = by_hand(model, x)
    expected = [*torch.autograd.grad(own, autoencoder), *torch.autograd.grad(other, critic)]
    torch.manual_seed(1)
    terms = model.loss(x, x)
    torch.testing.assert_close(terms["loss"], own + other)
    torch.testing.assert_close(terms["critic"], other)
    found = torch.autograd.grad(terms["loss"], [*autoencoder, *critic])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_fit_is_the_loop_of_two_optimizers_that_reuses_the_codes(accumulate: int) -> None:
    x = torch.randn(24, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model, twin = build(lr=1e-2, critic_lr=3e-3), build()

    class Drawn(pl.Callback):  # the same draws as the loop's
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            torch.manual_seed(100 + batch_idx)

    model.noise = lambda purpose: __import__("lightning_ae.exact").exact.Noise()  # type: ignore[method-assign]
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Drawn()], accumulate_grad_batches=accumulate, precision="64-true",
    )  # fmt: skip
    trainer.fit(model, DataLoader(TensorDataset(x), batch_size=6))
    assert trainer.global_step == 4 // accumulate
    autoencoder, critic = sides(twin)
    optimizers = [torch.optim.Adam(autoencoder, lr=1e-2), torch.optim.Adam(critic, lr=3e-3)]
    for i, part in enumerate(x.split(6)):
        torch.manual_seed(100 + i)
        own, other = by_hand(twin, part)
        for loss, parameters in ((own, autoencoder), (other, critic)):
            for p, gradient in zip(parameters, torch.autograd.grad(loss / accumulate, parameters), strict=True):
                p.grad = gradient if p.grad is None else p.grad + gradient
        if (i + 1) % accumulate == 0:
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_clipping_is_by_the_norm_of_both_sides() -> None:
    x = torch.randn(6, 12, dtype=torch.float64)
    norms: list[Tensor] = []

    class Norm(AdversarialAutoencoder):
        def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            super().optimizer_step(*args, **kwargs)
            norms.append(torch.stack([p.grad.norm() for p in self.parameters() if p.grad is not None]).norm())

    torch.manual_seed(0)
    pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, gradient_clip_val=0.01,
    ).fit(Norm((12,), 3).double(), DataLoader(TensorDataset(x), batch_size=6))  # fmt: skip
    assert float(norms[0]) == pytest.approx(0.01, rel=1e-3)


def test_weights_are_constants_to_a_detached_call() -> None:
    torch.manual_seed(0)
    critic, z = Critic((8,)).build((2, 3, 3)), torch.randn(5, 2, 3, 3).requires_grad_()
    found = detached(critic, z)
    assert found.shape == (5, 1)
    assert torch.equal(found, critic(z))
    (gradient,) = torch.autograd.grad(critic(z).sum(), z)
    found.sum().backward()
    assert z.grad is not None
    assert torch.equal(z.grad, gradient)
    assert all(p.grad is None and p.requires_grad for p in critic.parameters())


def test_at_a_critic_that_cannot_tell_the_terms_are_those_of_a_coin() -> None:
    model = build()
    for p in model.critic.parameters():
        nn.init.zeros_(p)
    terms = model.loss(torch.randn(5, 12).double(), torch.randn(5, 12).double())
    assert float(terms["adversarial"]) == pytest.approx(math.log(2))
    assert float(terms["critic"]) == pytest.approx(2 * math.log(2))


def test_logits_are_in_float32_under_autocast() -> None:
    model = AdversarialAutoencoder((12,), latent_dim=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = model.loss(torch.randn(5, 12), torch.randn(5, 12))
    assert {terms[name].dtype for name in ("adversarial", "critic")} == {torch.float32}


@pytest.mark.slow
def test_codes_come_to_be_distributed_as_the_prior(digits: Tensor, fit: Any) -> None:
    def distance(model: AdversarialAutoencoder) -> float:
        with torch.no_grad():
            z = model.eval().encode(digits)
        return float(z.mean(dim=0).norm() + (torch.cov(z.T) - torch.eye(2)).norm())

    def trained(weight: float) -> AdversarialAutoencoder:
        torch.manual_seed(0)
        options: dict[str, Any] = {"architecture": MLP((64,)), "critic": Critic((128, 128)), "critic_lr": 4e-3}
        model = AdversarialAutoencoder((1, 8, 8), 2, adversarial_weight=weight, **options)
        fit(model, digits, max_epochs=25, enable_checkpointing=False)
        return model

    assert distance(trained(1.0)) < 0.5 < 1 < distance(trained(0.0))


def test_codes_of_maps_and_a_fixed_mixture() -> None:
    model = AdversarialAutoencoder(
        (1, 8, 8), latent_dim=2, architecture=ConvNet(channels=(4, 8), code="map"), lr=1e-2, critic_lr=1e-3
    )
    x = torch.rand(3, 1, 8, 8)
    model.loss(x, x)["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.sample(4).shape == (4, 1, 8, 8)
    groups = model.configure_optimizers().param_groups
    assert [group["lr"] for group in groups] == [1e-2, 1e-3]
    counts = [sum(p.numel() for p in group["params"]) for group in groups]
    assert counts[1] == sum(p.numel() for p in model.critic.parameters())
    assert sum(counts) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adversarial_weight": -1.0}, "adversarial_weight must not be negative"),
        ({"critic_lr": 0.0}, "critic_lr must be positive"),
        ({"prior": MixturePrior()}, "MixturePrior has weights"),
        ({"prior": VampPrior()}, "VampPrior"),
        ({"critic": MLP()}, "critic must be a Critic"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AdversarialAutoencoder((12,), latent_dim=3, **options)


@pytest.mark.parametrize("options", [{"hidden": (0,)}, {"hidden": 3}, {"activation": "rellu"}], ids=str)
def test_critics_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        Critic(**options)


@pytest.mark.slow
def test_sharded_and_accumulated_it_is_the_same_on_any_number_of_ranks() -> None:
    cases = [
        Case("adversarial", {"critic_lr": 1e-4}),
        Case("adversarial", trainer={"accumulate_grad_batches": 2}),
        Case("conditional_vae"),
    ]
    for found in [*certify(cases[1:2], worlds=(2,)), *certify([cases[0], cases[2]], worlds=(2,), strategy="fsdp")]:
        assert found.passed, found


def test_a_certificate_from_the_command_line_says_what_it_is() -> None:
    with pytest.raises(SystemExit):
        main(["certify", "adversarial", "--init_args", '{"critic_lr": -1.0}', "--worlds", "[2]"])


@pytest.mark.parametrize("prior", [UniformOnCategories(), CentredWrappedNormal(), JointPrior()], ids=str)
def test_a_prior_that_asks_for_a_posterior_is_refused(prior: Any) -> None:
    with pytest.raises(InputError, match="gives others|for each part"):
        AdversarialAutoencoder((4,), 6, prior=prior)
    AdversarialAutoencoder((4,), 6, prior=UniformOnSphere())
