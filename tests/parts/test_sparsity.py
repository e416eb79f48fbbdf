"""Sparsities against written-out formulas, on vectors and on maps; the variants made of them against what they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_ae import Autoencoder, InputError, KSparseAutoencoder, SparseAutoencoder
from lightning_ae.architectures import ConvNet
from lightning_ae.config import from_plain, to_plain
from lightning_ae.models.stacked import Layerwise
from lightning_ae.parts import KLSparsity, L1Sparsity, Sparsity, TopK
from lightning_ae.parts.penalties import kl_sparsity

SHAPES = [(11,), (6, 3, 2), (5, 4)]
SPARSITIES = [KLSparsity(0.3, 0.1), L1Sparsity(0.3), TopK(2), TopK(2, rectified=True)]
MAP: dict[str, Any] = {"architecture": ConvNet(channels=(4,), code="map")}


def drawn(shape: tuple[int, ...], n: int = 9) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def terms(part: Sparsity, pre: Tensor) -> dict[str, Tensor]:
    return part.terms(Autoencoder((3,), 2), torch.zeros(len(pre), 3), pre, part(pre))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kl_is_the_divergence_of_coins(shape: tuple[int, ...]) -> None:
    pre = drawn(shape)
    found = terms(KLSparsity(weight=3.0, rho=0.1), pre)
    target = torch.distributions.Bernoulli(torch.tensor(0.1, dtype=torch.float64))
    means = torch.distributions.Bernoulli(pre.sigmoid().mean(dim=0))  # each unit's, at each position
    expected = torch.distributions.kl_divergence(target, means).sum()
    torch.testing.assert_close(found["sparsity"], expected)
    torch.testing.assert_close(found["loss"], 3 * expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_l1_is_the_sum_of_a_rectified_code(shape: tuple[int, ...]) -> None:
    pre = drawn(shape)
    assert (L1Sparsity()(pre) == pre.clamp(min=0)).all()
    expected = sum(float(value) for value in pre.flatten() if value > 0) / len(pre)
    found = terms(L1Sparsity(weight=3.0), pre)
    assert float(found["sparsity"]) == pytest.approx(expected)
    assert float(found["loss"]) == pytest.approx(3 * expected)


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_top_k_by_sorting(shape: tuple[int, ...], rectified: bool) -> None:
    pre, part = drawn(shape).requires_grad_(), TopK(3, rectified)
    code = part(pre)
    expected = torch.zeros_like(pre)
    for sample in range(len(pre)):
        for place in torch.cartesian_prod(*[torch.arange(n) for n in shape[1:]]) if shape[1:] else [()]:
            place = tuple(int(i) for i in torch.as_tensor(place).reshape(-1))
            column = [float(pre[(sample, unit, *place)].detach()) for unit in range(shape[0])]
            for unit in sorted(range(shape[0]), key=lambda unit: -column[unit])[:3]:
                expected[(sample, unit, *place)] = max(column[unit], 0.0) if rectified else column[unit]
    torch.testing.assert_close(code.detach(), expected.detach(), rtol=0, atol=0)
    (slope,) = torch.autograd.grad(code.sum(), pre)
    assert torch.equal(slope, (expected != 0).to(slope.dtype)), "the gradient flows through what stays"
    assert terms(part, pre) == {}


def test_which_units_are_in_use() -> None:
    code = torch.tensor([[0.0, 0.05, 0.2, -0.2]])
    assert KLSparsity().active(code).tolist() == [[False, False, True, True]]
    for part in (L1Sparsity(), TopK(2)):
        assert part.active(code).tolist() == [[False, True, True, True]]


@pytest.mark.parametrize(
    ("model", "limit"),
    [
        (SparseAutoencoder((6,), 8), 0.1),
        (SparseAutoencoder((6,), 8, penalty="l1"), 0.0),
        (KSparseAutoencoder((6,), 8, k=3), 0.0),
        (SparseAutoencoder((1, 8, 8), 8, **MAP), 0.1),
    ],
)
def test_variants_say_which_units_are_in_use(model: Autoencoder, limit: float) -> None:
    code = model.encode(torch.rand(5, *model.input_shape))
    active = model.active(code)
    assert active is not None
    assert torch.equal(active, code.abs() > limit)
    if isinstance(model, KSparseAutoencoder):
        assert (active.sum(dim=1) == 3).all()


@pytest.mark.parametrize("options", [{"input_shape": (7,)}, {"input_shape": (1, 8, 8), **MAP}], ids=["vector", "map"])
@pytest.mark.parametrize("penalty", ["kl", "l1"])
def test_sparse_autoencoders_are_bit_for_bit_what_they_were(penalty: Any, options: dict[str, Any]) -> None:
    """As they computed it themselves, before there were parts."""
    torch.manual_seed(0)
    model = SparseAutoencoder(latent_dim=9, penalty=penalty, sparsity_weight=0.7, rho=0.1, **options)
    x = torch.rand(12, *model.input_shape)
    pre = model.encoder(x).float()
    code = pre.sigmoid() if penalty == "kl" else pre.relu()
    reconstruction = model.reconstruction_loss(code, x)
    sparsity = kl_sparsity(pre, 0.1) if penalty == "kl" else model.units(code).abs().sum(1).mean()
    loss = reconstruction + 0.7 * sparsity
    found = model.loss(x, x)
    assert list(found) == ["loss", "reconstruction", "sparsity"]
    for value, expected in zip(found.values(), (loss, reconstruction, sparsity), strict=True):
        assert torch.equal(value, expected)
    parameters = list(model.parameters())
    for slope, expected in zip(
        torch.autograd.grad(found["loss"], parameters), torch.autograd.grad(loss, parameters), strict=True
    ):
        assert torch.equal(slope, expected)
    assert torch.equal(model.encode(x), code)


@pytest.mark.parametrize("part", SPARSITIES, ids=repr)
def test_parts_are_plain_data(part: Sparsity) -> None:
    plain = to_plain(part, "sparsity")
    assert plain["class_path"] == f"lightning_ae.parts.{type(part).__name__}"
    assert from_plain(Sparsity, plain, "sparsity") == part  # type: ignore[type-abstract]
    bare = {"class_path": type(part).__name__, "init_args": plain["init_args"]}
    assert from_plain(Sparsity, bare, "sparsity") == part  # type: ignore[type-abstract]


@pytest.mark.parametrize("name", ["Plain", "Denoising", "Sparse", "Contractive"])
def test_layers_of_earlier_checkpoints_are_found(name: str) -> None:
    found = from_plain(Layerwise, {"class_path": f"lightning_ae.models.stacked.{name}"}, "objective")
    assert type(found).__name__ == name


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: KLSparsity(rho=0.0), r"rho, .* \(0, 1\), got 0.0"),
        (lambda: KLSparsity(rho=1.0), r"rho, .* \(0, 1\), got 1.0"),
        (lambda: KLSparsity(weight=-1.0), "weight of KLSparsity"),
        (lambda: L1Sparsity(weight=-1.0), "weight of L1Sparsity"),
        (lambda: TopK(0), "k of TopK .* got 0"),
        (lambda: TopK(2.0), "k of TopK"),  # type: ignore[arg-type]
        (lambda: from_plain(Layerwise, {"class_path": "Sparse", "init_args": {"rho": 2.0}}, "objective"), "rho"),
        (lambda: from_plain(Layerwise, {"class_path": "Contractive", "init_args": {"weight": -1.0}}, "o"), "weight"),
    ],
)
def test_refusals(build: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        build()
