"""AutoencoderKL and VQGAN: the game, its weight and its beginning, the scale of codes, distances between images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_ae import VQGAN, AutoencoderKL, HFDataModule, InputError, load_model
from lightning_ae.architectures import ConvNet, LatentDiffusionNet, PatchCritic
from lightning_ae.parts import (
    FeatureDistance,
    FiniteScalarQuantizer,
    GradientVectorQuantizer,
    LookupFreeQuantizer,
    ResidualQuantizer,
    StructuralDistance,
    VectorQuantizer,
)
from lightning_ae.parts.similarity import ms_ssim
from lightning_ae.training.certify import Case, certify

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]
NET = LatentDiffusionNet(channels=(4, 8), groups=2)
CRITIC = PatchCritic(channels=(4, 6))
QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False,
    "enable_model_summary": False,
}  # fmt: skip
CLASSES = [AutoencoderKL, VQGAN]


def build(cls: Any, shape: tuple[int, ...] = (1, 8, 8), **options: Any) -> Any:
    torch.manual_seed(0)
    more = {"quantizer": VectorQuantizer(codes=16)} if cls is VQGAN else {}
    return cls(shape, 2, **{"architecture": NET, "critic": CRITIC, **more, **options})


def images(n: int = 6, shape: tuple[int, ...] = (1, 8, 8)) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(1))


def fit(model: Any, x: Tensor, size: int = 6, callbacks: Any = (), **options: Any) -> pl.Trainer:
    trainer = pl.Trainer(**{**QUIET, "max_epochs": 1, "callbacks": list(callbacks), **options})
    trainer.fit(model, DataLoader(TensorDataset(x), batch_size=size))
    return trainer


# ---- the game -------------------------------------------------------------------------------------------------------


def by_hand(model: Any, x: Tensor) -> tuple[Tensor, Tensor, float]:
    """What the autoencoder minimises, what the critic does, and the weight between them."""
    torch.manual_seed(1)
    if isinstance(model, VQGAN):
        h = model.hidden(x)
        e = model.codebook.lookup(model.codebook.nearest(h))
        z, further = h + (e - h).detach(), model.codebook.commitment * (h - e.detach()).square().sum() / len(x)
    else:
        mean, log_variance = model.encoder(x).chunk(2, dim=1)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        kl = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum() / len(x)
        further = 0.3 * kl
    made = model.decoder(z)
    errors = (made - x).square()
    sigma2 = errors.mean().detach() if model.likelihood.scale == "optimal" else torch.tensor(1.0).double()
    own = (0.5 * errors / sigma2 + 0.5 * (2 * math.pi * sigma2).log()).flatten(1).sum(dim=1).mean()
    own = own + 0.7 * 64 * (1 - ms_ssim(made, x, 1.0)).mean()
    adversarial = -model.critic(made).mean()
    last = model.decoder.conv_out.weight
    strengths = [torch.autograd.grad(side, last, retain_graph=True)[0].norm().item() for side in (own, adversarial)]
    weight = min(strengths[0] / (strengths[1] + 1e-4), 1e4)
    critic = 0.5 * F.relu(1 - model.critic(x)).mean() + 0.5 * F.relu(1 + model.critic(made.detach())).mean()
    return own + further + 0.6 * weight * adversarial, critic, weight


@pytest.mark.parametrize("cls", CLASSES)
def test_gradients_are_those_of_two_losses_apart(cls: Any) -> None:
    options = {"beta": 0.3} if cls is AutoencoderKL else {}
    model = build(cls, critic_weight=0.6, perceptual_weight=0.7, **options).double()
    x = images().double()
    critic = list(model.critic.parameters())
    rest = [p for p in model.parameters() if all(p is not other for other in critic)]
    own, other, weight = by_hand(model, x)
    expected = [*torch.autograd.grad(own, rest), *torch.autograd.grad(other, critic)]
    torch.manual_seed(1)
    terms = model.loss(x, x)
    assert float(terms["adaptive_weight"]) == pytest.approx(weight, rel=1e-6)
    assert 1e-3 < weight < 1e4
    torch.testing.assert_close(terms["loss"], own + other)
    found = torch.autograd.grad(terms["loss"], [*rest, *critic])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_weight_is_clamped_where_the_critic_says_nothing() -> None:
    model = build(AutoencoderKL).double()
    for p in model.critic.parameters():
        nn.init.zeros_(p)
    terms = model.loss(images().double(), images().double())
    assert float(terms["adaptive_weight"]) == 1e4  # |grad n| / 1e-4 is more
    assert float(terms["critic"]) == pytest.approx(1.0)


@pytest.mark.parametrize("cls", CLASSES)
def test_evaluation_is_without_the_game(cls: Any) -> None:
    model, x = build(cls).eval(), images()
    terms = model.loss(x, x)
    assert {"adversarial", "critic"} <= terms.keys()
    assert "adaptive_weight" not in terms
    further = 1e-6 * terms["kl"] if cls is AutoencoderKL else terms["commitment"]
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + 64 * terms["perceptual"] + further)


class Watch(pl.Callback):
    """The critic's first weight after each step of the optimizer."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        self.seen.append((trainer.global_step, float(next(pl_module.critic.parameters()).flatten()[0])))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_game_begins_after_so_many_steps_of_the_optimizer(accumulate: int) -> None:
    model, watch = build(AutoencoderKL, critic_start=2, weight_decay=0.1), Watch()
    before = float(next(model.critic.parameters()).flatten()[0])
    trainer = fit(model, images(24), 24 // (4 * accumulate), [watch], accumulate_grad_batches=accumulate)
    assert trainer.global_step == 4
    after = dict(watch.seen)
    assert after[1] == after[2] == before  # not decayed either
    assert len({after[2], after[3], after[4]}) == 3
    # its optimizer has seen two gradients, and no zeros before
    state = trainer.optimizers[0].state
    steps = {int(state[p]["step"]) for p in model.critic.parameters()}
    assert steps == {2}
    assert int(state[model.decoder.conv_out.weight]["step"]) == 4


def test_terms_of_the_game_are_missing_before_it() -> None:
    seen: list[set[str]] = []

    class Terms(AutoencoderKL):
        def loss(self, x: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
            terms = super().loss(x, target, **given)
            seen.append(set(terms))
            return terms

    fit(build(Terms, critic_start=2), images(24))
    assert ["critic" in names for names in seen] == [False, False, True, True]
    assert seen[2] - seen[0] == {"adversarial", "critic", "adaptive_weight"}


@pytest.mark.parametrize("at", [1, 4])
def test_a_run_goes_on_bit_for_bit(at: int, tmp_path: Path) -> None:
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            if trainer.global_step == at:
                trainer.save_checkpoint(tmp_path / "stopped.ckpt")

    def run(**options: Any) -> Any:
        pl.seed_everything(3, verbose=False)
        model = build(AutoencoderKL, critic_start=2)
        trainer = pl.Trainer(**QUIET, max_epochs=2, callbacks=[Stop()], limit_train_batches=3, limit_val_batches=0)
        trainer.fit(model, datamodule=HFDataModule("digits", batch_size=8), **options)
        assert trainer.global_step == 6
        return model.state_dict()

    whole = run()
    again = run(ckpt_path=tmp_path / "stopped.ckpt", weights_only=True)
    for name, value in whole.items():
        assert torch.equal(again[name], value), name


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_game_after_the_end_is_refused(accumulate: int) -> None:
    start = 4 // accumulate
    with pytest.raises(InputError, match=f"critic_start = {start} is after the end: the fit has {start} steps"):
        fit(build(VQGAN, critic_start=start), images(24), accumulate_grad_batches=accumulate)
    fit(build(VQGAN, critic_start=start - 1), images(24), accumulate_grad_batches=accumulate)
    fit(build(VQGAN, critic_start=start, critic=None), images(24), accumulate_grad_batches=accumulate)
    fit(build(VQGAN, critic_start=50_000), images(24), fast_dev_run=True)


def test_a_critic_has_a_learning_rate_of_its_own() -> None:
    groups = build(VQGAN, lr=1e-2, critic_lr=1e-3).configure_optimizers().param_groups
    assert [group["lr"] for group in groups] == [1e-2, 1e-3]
    assert len(build(VQGAN, critic=None).configure_optimizers().param_groups) == 1


@pytest.mark.parametrize("cls", CLASSES)
def test_bf16_mixed(cls: Any) -> None:
    model = build(cls, critic_start=1)
    fit(model, images(24), precision="bf16-mixed")
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert model.code_scale.factor.dtype == torch.float32
    assert model.bfloat16().code_scale.sums.dtype == torch.float64


# ---- ranks ----------------------------------------------------------------------------------------------------------

PLAIN = {
    "latent_dim": 2,
    "architecture": {"class_path": "LatentDiffusionNet", "init_args": {"channels": [4, 8], "groups": 2}},
    "critic": {"class_path": "PatchCritic", "init_args": {"channels": [4, 6]}},
}
CODES = {"class_path": "VectorQuantizer", "init_args": {"codes": 24, "decay": 0.5, "revive": 0.5}}
CASES = [
    Case("AutoencoderKL", PLAIN, title="kl"),
    Case("VQGAN", {**PLAIN, "quantizer": CODES, "critic_start": 3}, title="vqgan, later"),
    Case("VQGAN", {**PLAIN, "critic_start": 2}, {"accumulate_grad_batches": 2}, title="vqgan, accumulated"),
    Case("AutoencoderKL", {**PLAIN, "critic": None}, title="kl without a critic"),
    Case("AutoencoderKL", {**PLAIN, "perceptual": {"class_path": f"{__name__}.Edges"}}, title="kl, a frozen network"),
]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_the_same_run_on_several_ranks(strategy: Any) -> None:
    for found in certify(CASES, worlds=(2, 3), strategy=strategy):
        assert found.passed, found


# ---- the scale of codes ---------------------------------------------------------------------------------------------


def test_the_scale_is_that_of_the_training_data_and_travels(tmp_path: Path) -> None:
    model, x = build(VQGAN, lr=1e-30), images(20) * 3  # the weights stay
    trainer = fit(model, x, 6, max_epochs=2)  # the last batch of an epoch has two
    h = model.eval().hidden(x).double()
    scale = model.code_scale
    torch.testing.assert_close(scale.shift.double(), h.mean().expand(2), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scale.factor.double(), (1 / h.std(correction=0)).expand(2), rtol=1e-5, atol=0)
    u = model.scaled(model.hidden(x))
    assert abs(float(u.mean())) < 1e-5
    assert float(u.std(correction=0)) == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(model.unscaled(u), model.hidden(x))
    torch.testing.assert_close(model.decode(model.quantised(model.unscaled(u))), model(x), rtol=1e-4, atol=1e-5)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = load_model(tmp_path / "model.ckpt")
    assert torch.equal(loaded.scaled(h.float()), model.scaled(h.float()))


def test_the_scale_of_a_distribution_is_that_of_its_draws() -> None:
    model, x = build(AutoencoderKL, lr=1e-30), images(256)
    fit(model, x, 64)
    q = model.infer(x)
    variance = q.mean.var(correction=0) + q.log_variance.exp().mean()
    assert float(model.code_scale.factor[0]) == pytest.approx(float(variance.rsqrt()), rel=0.02)


def test_the_scale_is_of_the_last_epoch() -> None:
    first, last = build(VQGAN, lr=1e-2), build(VQGAN, lr=1e-2)
    fit(first, images(24), max_epochs=1)
    fit(last, images(24), max_epochs=3)
    assert not torch.equal(first.code_scale.factor, last.code_scale.factor)
    assert float(last.code_scale.sums[:, 0].sum()) == 24 * 2 * 16  # one epoch's values: two channels, 4 x 4


# ---- distances between images ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edges(FeatureDistance):
    """Differences of neighbours, in two layers."""

    strength: float = 2.0

    def build(self) -> nn.Module:
        return _Edges(self.strength)


class _Edges(nn.Module):
    def __init__(self, strength: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, strength]))
        self.dropout = nn.Dropout(0.9)  # in evaluation mode there is none

    def forward(self, x: Tensor) -> list[Tensor]:
        across, down = x[..., :-1, 1:] - x[..., :-1, :-1], x[..., 1:, :-1] - x[..., :-1, :-1]
        maps = torch.cat([self.weight[0] * across, self.weight[1] * down], dim=1)
        return [self.dropout(maps), F.avg_pool2d(maps, 2)]


def test_features_of_a_network_of_ones_own(tmp_path: Path) -> None:
    model, x = build(AutoencoderKL, perceptual=Edges(3.0)), images(24)
    trainer = fit(model, x)
    network = model.perceptual_network.network
    assert network.weight.tolist() == [1.0, 3.0]  # never trained
    assert model.perceptual_network.training  # the model's mode, which the network inside does not take
    assert not network.training
    a, b = x[:2], x[2:4]
    found = model.perceptual(a, b, model.perceptual_network)
    expected = torch.zeros(2)
    for fa, fb in zip(network(a), network(b), strict=True):
        for i in range(2):
            cosines = F.cosine_similarity(fa[i].flatten(1), fb[i].flatten(1), dim=0)
            expected[i] += (2 - 2 * cosines).mean()  # |u - v|^2 of unit vectors
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert float(model.perceptual(a, a, model.perceptual_network).abs().max()) == 0
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = load_model(tmp_path / "model.ckpt")
    assert loaded.perceptual == Edges(3.0)
    assert torch.equal(loaded.perceptual(a, b, loaded.perceptual_network), found)


def test_gradients_of_equal_images_are_finite() -> None:
    for distance in (StructuralDistance(), Edges()):
        x = torch.zeros(2, 1, 8, 8).requires_grad_()
        distance(x, x.detach(), distance.build()).sum().backward()
        assert torch.isfinite(x.grad).all()


def test_what_cannot_work() -> None:
    with pytest.raises(InputError, match=r"LatentDiffusionNet with 2 stages cannot serve .*multiples of 2"):
        build(AutoencoderKL, (1, 9, 8))
    with pytest.raises(InputError, match="PatchCritic cannot serve"):
        build(VQGAN, (9,), architecture=None, perceptual=None)
    with pytest.raises(InputError, match="PatchCritic with 2 stages cannot serve"):
        build(VQGAN, (1, 3, 4), architecture=ConvNet((4,), code="map"))
    with pytest.raises(InputError, match="StructuralDistance cannot serve"):
        build(VQGAN, (9,), architecture=None, critic=None)
    for name, value in (("critic_weight", -1.0), ("perceptual_weight", math.inf), ("critic_start", 0.5)):
        with pytest.raises(InputError, match=name):
            build(VQGAN, **{name: value})
    with pytest.raises(InputError, match="critic_lr must be positive"):
        build(VQGAN, critic_lr=0.0)


def test_a_codebook_that_is_trained() -> None:
    model = build(VQGAN, quantizer=GradientVectorQuantizer(codes=8, commitment=0.25)).double()
    x = images().double()
    terms = model.loss(x, x)
    # beta is on the commitment, not on the codebook's term
    torch.testing.assert_close(terms["commitment"], 0.25 * terms["codebook"])
    (of_codes,) = torch.autograd.grad(terms["codebook"], model.codebook.vectors, retain_graph=True)
    assert of_codes.abs().sum() > 0
    assert torch.autograd.grad(terms["commitment"], model.codebook.vectors, allow_unused=True) == (None,)


# ---- images of any size ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES)
def test_images_of_any_size(cls: Any) -> None:
    model = build(cls, (3, None, None)).double()
    for size in ((8, 12), (16, 8)):
        fixed = build(cls, (3, *size)).double()
        fixed.load_state_dict(model.state_dict())
        x, found = images(4, (3, *size)).double(), []
        for each in (model, fixed):
            torch.manual_seed(1)
            terms = each.loss(x, x)
            terms["loss"].backward()
            found.append(({k: v.item() for k, v in terms.items()}, [p.grad for p in each.parameters()]))
            each.zero_grad()
        assert found[0][0] == found[1][0]
        for a, b in zip(found[0][1], found[1][1], strict=True):
            torch.testing.assert_close(a, b)
        assert model.code_shape_of((3, *size)) == fixed.code_shape == (2, size[0] // 2, size[1] // 2)
        model.load_state_dict(fixed.state_dict())  # what training mode changed in buffers
    with pytest.raises(InputError, match="multiples of 2"):
        model.encode(torch.rand(2, 3, 7, 8).double())
    with pytest.raises(InputError, match="images of 2 x 8 pixels, where the critic takes at least 4"):
        model.loss(images(4, (3, 2, 8)).double(), images(4, (3, 2, 8)).double())


@pytest.mark.parametrize(
    "quantizer",
    [ResidualQuantizer(2, VectorQuantizer(codes=8)), FiniteScalarQuantizer(levels=(5, 5)), LookupFreeQuantizer(bits=2)],
    ids=lambda quantizer: type(quantizer).__name__,
)
def test_other_quantizers(quantizer: Any) -> None:
    model, x = build(VQGAN, quantizer=quantizer), images()
    terms = model.loss(x, x)
    terms["loss"].backward()
    assert torch.isfinite(terms["loss"])
    assert {"perceptual", "adversarial", "critic", "adaptive_weight"} <= terms.keys()
    model.eval()
    torch.testing.assert_close(model.decode(model.quantised(model.hidden(x))), model(x), rtol=0, atol=0)
