"""Objectives of the whole batch against formulas written out, numpy and torchmetrics; and what they refuse."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from lightning_ae import DIPVAE, VAE, BetaVAE, FactorVAE, InfoVAE, InputError, load_model
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.config import to_plain
from lightning_ae.exact import Noise
from lightning_ae.parts import (
    Bernoulli,
    Capacity,
    DisentangledPrior,
    FreeBits,
    Gaussian,
    MaximumMeanDiscrepancy,
    MixturePrior,
    Objective,
    StructuralSimilarity,
    Warmup,
)
from lightning_ae.parts.aggregated import mmd
from lightning_ae.parts.posteriors import DiagonalNormal
from lightning_ae.parts.similarity import ms_ssim, scales_of
from lightning_ae.training.certify import Case, certify

NETWORKS: list[Any] = [MLP((8,)), ConvNet((4, 8), code="map")]
BOTH = pytest.mark.parametrize("network", NETWORKS, ids=["vector", "map"])


def build(objective: Objective, network: Any = NETWORKS[0], **options: Any) -> VAE:
    torch.manual_seed(0)
    options = {"likelihood": Bernoulli(), "latent_dim": 3, "architecture": network} | options
    return VAE((1, 8, 8), objective=objective, **options).double()


def images(n: int = 9) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64).round()


def terms(model: VAE, x: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(3)
    return model.loss(x, x)


def kl_of(model: VAE, x: Tensor) -> Tensor:
    q = model.infer(x)
    assert isinstance(q, DiagonalNormal)
    return kl_divergence(Normal(q.mean, (q.log_variance / 2).exp()), Normal(0.0, 1.0))


# ---- free bits and capacity -----------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("form", ["batch_mean", "per_sample"])
def test_free_bits_are_those_of_the_loops(form: Any, network: Any) -> None:
    x = images()
    plain = build(FreeBits(0.0, form), network)
    each = kl_of(plain, x).flatten(2).sum(2) if network is NETWORKS[1] else kl_of(plain, x)  # a channel is a unit
    threshold = float(each.detach().median())
    model, expected = build(FreeBits(threshold, form), network, beta=2.0), 0.0
    for unit in each.detach().T:
        if form == "batch_mean":
            expected += max(threshold, float(unit.mean()))
        else:
            expected += sum(max(threshold, float(value)) for value in unit) / len(x)
    found = terms(model, x)
    assert float(found["free_kl"]) == pytest.approx(expected, rel=1e-10)
    assert float(found["kl"]) == pytest.approx(float(each.sum(1).mean()), rel=1e-10)
    torch.testing.assert_close(found["loss"], found["reconstruction"] + 2 * found["free_kl"])
    assert found["free_kl"] > found["kl"]
    nothing_free = terms(plain, x)
    torch.testing.assert_close(nothing_free["loss"], nothing_free["reconstruction"] + nothing_free["kl"])


def test_the_two_forms_differ_where_samples_do() -> None:
    """A unit that only some samples use is free in one, and paid for in the other."""
    x = images(40)
    each = kl_of(build(FreeBits()), x)
    threshold = float(each[:, 0].detach().mean())
    mean, sample = (
        float(terms(build(FreeBits(threshold, form)), x)["free_kl"]) for form in ("batch_mean", "per_sample")
    )  # type: ignore[arg-type]
    assert sample > mean + 1e-3


def test_a_free_unit_has_no_gradient() -> None:
    x = images()
    model = build(FreeBits(1e3))
    found = terms(model, x)
    slope = torch.autograd.grad(found["free_kl"], list(model.encoder.parameters()))
    assert all((value == 0).all() for value in slope)


@pytest.mark.parametrize("capacity", [0.0, 1e3])
def test_capacity_pulls_from_both_sides(capacity: float) -> None:
    x = images()
    model = build(Capacity(capacity), beta=10.0)
    found = terms(model, x)
    kl = kl_of(model, x).sum(1).mean()
    torch.testing.assert_close(found["kl"], kl)
    torch.testing.assert_close(found["loss"], found["reconstruction"] + 10 * abs(kl - capacity))
    (up,) = torch.autograd.grad(found["excess"], model.encoder.parameters().__next__())
    (down,) = torch.autograd.grad(kl, model.encoder.parameters().__next__())
    torch.testing.assert_close(up, down if capacity == 0 else -down)


def test_capacity_rises_by_its_schedule(digits: Tensor, fit: Any) -> None:
    """Of a fit's loss, beside what its terms say."""
    capacities = []

    class Seen(BetaVAE):
        def loss(self, x: Tensor, target: Tensor, **given: Tensor) -> dict[str, Tensor]:
            found = super().loss(x, target, **given)
            if self.training:  # below it
                capacities.append(float(found["kl"] + found["excess"]))
            return found

    model = Seen((1, 8, 8), 2, capacity=1e4, capacity_schedule=Warmup(4), architecture=MLP((8,)))
    fit(model, digits[:384], max_epochs=1)
    assert capacities == pytest.approx([2500.0, 5000.0, 7500.0, 1e4, 1e4, 1e4], rel=1e-4)


def test_a_capacity_goes_on_from_a_checkpoint(digits: Tensor, fit: Any, tmp_path: Path) -> None:
    """Its schedule is plain data there."""
    model = BetaVAE((1, 8, 8), 2, capacity=9.0, capacity_schedule=Warmup(40), architecture=MLP((8,)))
    fit(model, digits[:128]).save_checkpoint(tmp_path / "m.ckpt")
    loaded = load_model(tmp_path / "m.ckpt")
    assert loaded.objective == model.objective == Capacity(9.0, Warmup(40))
    fit(loaded, digits[:128])


# ---- moments and distances ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "diagonal"), [("I", None), ("II", None), ("I", 3.0), ("II", 7.0)])
@BOTH
def test_the_covariance_is_numpys(kind: Any, diagonal: float | None, network: Any) -> None:
    x = images(20)
    model = build(DisentangledPrior(kind, 2.0, diagonal), network, beta=0.5)
    q = model.infer(x)
    assert isinstance(q, DiagonalNormal)
    mean, variance = (value.detach().flatten(1).numpy() for value in (q.mean, q.log_variance.exp()))
    c = np.cov(mean.T, bias=True) + (np.diag(variance.mean(axis=0)) if kind == "II" else 0)
    on = diagonal if diagonal is not None else 20.0 if kind == "I" else 2.0
    off = c - np.diag(np.diag(c))
    expected = 2 * (off**2).sum() + on * ((np.diag(c) - 1) ** 2).sum()
    found = terms(model, x)
    assert float(found["covariance"]) == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(found["loss"], found["reconstruction"] + 0.5 * found["kl"] + found["covariance"])


def test_the_discrepancy_is_that_of_the_loops() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 7, 3))

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        squared, width = float(((x - y) ** 2).sum()), 2 * 3
        return sum(width * s / (width * s + squared) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))

    pairs = [(i, j) for i in range(7) for j in range(7)]
    within = sum(kernel(a[i], a[j]) + kernel(b[i], b[j]) for i, j in pairs if i != j) / 42
    expected = within - 2 * sum(kernel(a[i], b[j]) for i, j in pairs) / 49
    assert float(mmd(torch.tensor(a), torch.tensor(b))) == pytest.approx(expected, rel=1e-10)


def test_the_discrepancy_has_no_bias() -> None:
    """Of two samples of one distribution its mean is zero; of others it is not."""
    noise = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 400, 32, 2, generator=noise, dtype=torch.float64)
    same = torch.stack([mmd(x, y) for x, y in zip(a, b, strict=True)])
    other = torch.stack([mmd(x, 0.5 * y) for x, y in zip(a, b, strict=True)])
    assert abs(same.mean()) < 5 * same.std() / 20
    assert other.mean() > 5 * other.std() / 20
    assert mmd(a[0, :1], b[0, :1]) == 0


def test_info_vae_has_the_papers_weights() -> None:
    model = InfoVAE((1, 8, 8), 3, alpha=0.25, marginal_weight=10.0, likelihood=Bernoulli()).double()
    found = terms(model, images())
    expected = found["reconstruction"] + 0.75 * found["kl"] + 9.25 * found["mmd"]
    torch.testing.assert_close(found["loss"], expected)
    assert model.objective == MaximumMeanDiscrepancy(9.25)


# ---- the critic -----------------------------------------------------------------------------------------------------


def factor(**options: Any) -> FactorVAE:
    torch.manual_seed(0)
    return FactorVAE((1, 8, 8), 2, architecture=MLP((8,)), likelihood=Bernoulli(), **options).double()


def test_each_side_has_its_own_gradient() -> None:
    """The critic's weights only the critic's loss, and no other weight that loss."""
    model, x = factor(gamma=5.0), images(12)
    found = terms(model, x)
    critic, others = list(model.critic.parameters()), [*model.encoder.parameters(), *model.decoder.parameters()]
    whole = torch.autograd.grad(found["loss"], critic, retain_graph=True)
    own = torch.autograd.grad(found["critic"], critic, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(whole, own, strict=True))
    leaked = torch.autograd.grad(found["critic"], others, retain_graph=True, allow_unused=True)
    assert all(value is None for value in leaked)
    pulled = torch.autograd.grad(found["total_correlation"], others, allow_unused=True)
    assert any(value is not None and value.abs().max() > 0 for value in pulled)


class LogRatio(torch.nn.Module):
    """log q(z) - sum_j log q(z_j) of two Gaussians of correlation 0.8, times a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, z: Tensor) -> Tensor:
        covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
        joint = torch.distributions.MultivariateNormal(z.new_zeros(2), covariance).log_prob(z)
        return self.factor * (joint - Normal(0.0, 1.0).log_prob(z).sum(1)).unsqueeze(1)


def test_the_best_critic_gives_the_total_correlation() -> None:
    """Of correlated Gaussians, -log(1 - rho^2) / 2: the log-ratio of the densities has it, and the least loss."""
    model, noise = factor(), torch.Generator().manual_seed(0)
    mix = torch.tensor([[1.0, 0.0], [0.8, 0.6]], dtype=torch.float64)
    z = torch.randn(40_000, 2, generator=noise, dtype=torch.float64) @ mix.T
    losses = {}
    for number in (0.9, 1.0, 1.1):
        model.critic = LogRatio(number)
        torch.manual_seed(0)
        losses[number] = float(model._critic_loss(z))
    assert losses[1.0] < min(losses[0.9], losses[1.1])
    each = LogRatio(1.0)(z)
    assert abs(float(each.mean()) + 0.5 * math.log(1 - 0.8**2)) < 5 * float(each.std()) / 200


def test_each_unit_is_shuffled_by_itself_in_the_second_half() -> None:
    model, z = factor(), torch.arange(20.0, dtype=torch.float64).view(10, 2)
    seen: list[Tensor] = []
    model.critic.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model._critic_loss(z)
    real, shuffled = seen
    assert torch.equal(real, z[:5])
    assert torch.equal(shuffled.sort(dim=0).values, z[5:])
    assert not torch.equal(shuffled[:, 0] + 1, shuffled[:, 1])
    assert model._critic_loss(z[:1]).isfinite()


# ---- structural similarity ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "scales", "window"), [
    ((8, 8), 1, 7), ((3, 30), 1, 3), ((28, 28), 2, 11), ((32, 64), 2, 11), ((160, 160), 4, 11), ((176, 176), 5, 11),
    ((1024, 512), 5, 11),
])  # fmt: skip
def test_scales_follow_the_size(size: tuple[int, int], scales: int, window: int) -> None:
    assert scales_of(size) == (scales, window)
    x = torch.rand(1, 2, *size)
    assert float(ms_ssim(x, x, 1.0)) == pytest.approx(1)


def halved(image: np.ndarray) -> np.ndarray:
    """A quarter of it, without a last row that has no partner."""
    return image[: len(image) // 2 * 2, : image.shape[1] // 2 * 2] / 4


def blurred(image: np.ndarray) -> np.ndarray:
    return gaussian_filter(image, 1.5, truncate=3.5)[5:-5, 5:-5]  # where the window of 11 lies within


@pytest.mark.parametrize("side", [20, 48, 180])
def test_it_is_that_of_scipys_filters(side: int) -> None:
    """Each scale written out; of one scale, scikit-image's."""
    noise = torch.Generator().manual_seed(0)
    x = torch.rand(3, 2, side, side, generator=noise, dtype=torch.float64).cumsum(dim=2).cumsum(dim=3)
    x = x / x.amax()
    y = (x + 0.05 * torch.randn(x.shape, generator=noise, dtype=torch.float64)).clamp(0, 1)
    scales = scales_of((side, side))[0]
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:scales]
    for mine, image, other in zip(ms_ssim(x, y, 1.0), x.numpy(), y.numpy(), strict=True):
        each = []
        for a, b in zip(image, other, strict=True):
            product = 1.0
            for scale, weight in enumerate(weights / weights.sum()):
                ma, mb = blurred(a), blurred(b)
                va, vb, ab = blurred(a * a) - ma**2, blurred(b * b) - mb**2, blurred(a * b) - ma * mb
                similar = (2 * ab + 0.03**2) / (va + vb + 0.03**2)
                if scale == scales - 1:
                    similar = similar * (2 * ma * mb + 0.01**2) / (ma**2 + mb**2 + 0.01**2)
                product *= similar.mean() ** weight
                a, b = (v[0::2, 0::2] + v[0::2, 1::2] + v[1::2, 0::2] + v[1::2, 1::2] for v in (halved(a), halved(b)))
            each.append(product)
            if scales == 1:
                options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
                assert product == pytest.approx(
                    structural_similarity(image[len(each) - 1], other[len(each) - 1], **options)
                )
        assert float(mine) == pytest.approx(np.mean(each), rel=1e-10)


def test_its_gradient_is_finite_where_there_is_no_likeness() -> None:
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for y in (1 - x, torch.zeros_like(x), x.flip(2)):
        made = y.clone().requires_grad_()
        value = ms_ssim(made, x, 1.0)
        assert ((value > 0) & (value < 1)).all()
        assert torch.autograd.grad(value.sum(), made)[0].isfinite().all()


def test_the_objective_costs_what_is_unlike() -> None:
    x = images()
    model = build(StructuralSimilarity(50.0))
    found = terms(model, x)
    torch.testing.assert_close(found["loss"], found["reconstruction"] + found["kl"] + 50 * found["dissimilarity"])
    torch.manual_seed(3)
    made = model.decode(model.infer(x).draw(Noise()))
    assert float(found["dissimilarity"]) == pytest.approx(float(1 - ms_ssim(made, x, 1.0).mean()), rel=1e-6)


# ---- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FreeBits(-1), "threshold of FreeBits must not be negative, got -1"),
        (lambda: FreeBits(form="batchmean"), "did you mean 'batch_mean'"),
        (lambda: Capacity(math.inf), "capacity of Capacity"),
        (lambda: DisentangledPrior("III"), "unknown kind"),
        (lambda: DisentangledPrior(diagonal=-2.0), "diagonal of DisentangledPrior"),
        (lambda: MaximumMeanDiscrepancy(math.nan), "weight of MaximumMeanDiscrepancy"),
        (lambda: StructuralSimilarity(value_range=0.0), "value_range of StructuralSimilarity must be positive"),
        (lambda: build(FreeBits(), prior=MixturePrior(2)), "(?s)divergence of each unit.*StandardNormal"),
        (lambda: build(StructuralSimilarity(), likelihood=Gaussian()), "(?s)asks for the range.*value_range"),
        (lambda: VAE((12,), objective=StructuralSimilarity(), likelihood=Bernoulli()), "compares images"),
        (lambda: BetaVAE((4,), capacity_schedule=Warmup(3)), "(?s)capacity_schedule is of a capacity.*give capacity"),
        (lambda: InfoVAE((4,), alpha=1.5), "alpha must be at most 1"),
        (lambda: InfoVAE((4,), alpha=0.0, marginal_weight=0.5), "marginal_weight must be at least 1 - alpha = 1"),
        (lambda: FactorVAE((4,), gamma=-1.0), "gamma must not be negative"),
        (lambda: FactorVAE((4,), critic_lr=0.0), "critic_lr must be positive"),
        (lambda: DIPVAE((4,), kind="i"), "kind of DisentangledPrior"),
    ],
)  # fmt: skip
def test_what_is_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


PARTS: dict[str, Objective] = {
    "free bits": FreeBits(0.05), "capacity": Capacity(3.0), "dip i": DisentangledPrior("I"),
    "dip ii": DisentangledPrior("II"), "mmd": MaximumMeanDiscrepancy(), "ms-ssim": StructuralSimilarity(),
}  # fmt: skip


@pytest.mark.slow
def test_two_ranks_are_one() -> None:
    """With Bernoulli on images, whose last batch is shared unevenly."""
    cases = [
        Case("VAE", {"objective": to_plain(part, "objective"), "likelihood": {"class_path": "Bernoulli"}}, title=title)
        for title, part in PARTS.items()
    ]
    for found in certify(cases, worlds=[2]):
        assert found.passed, found
