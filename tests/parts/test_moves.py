"""What a traversal shows are codes: on the sphere, of categories, in the ball, and of parts beside each other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_ae import VAE, CategoricalVAE, HypersphericalVAE, JointVAE, PoincareVAE
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.callbacks.pictures import traversals
from lightning_ae.parts import Concrete, DiagonalGaussian, JointPosterior, VonMisesFisher, WrappedNormal
from lightning_ae.parts.hyperbolic import origin_exp

BY = torch.linspace(-3, 3, 9)


def codes(d: int) -> Tensor:
    return torch.randn(1, d, generator=torch.Generator().manual_seed(0)).expand(9, d)


def test_on_the_sphere_by_an_angle() -> None:
    z = torch.nn.functional.normalize(codes(5), dim=1)
    for feature in range(5):
        moved = VonMisesFisher().move(z, feature, BY)
        torch.testing.assert_close(moved.norm(dim=1), torch.ones(9))
        torch.testing.assert_close((moved * z).sum(dim=1), BY.cos())
        torch.testing.assert_close(moved[:, feature], (z[:, feature].asin() + BY).sin())  # towards the pole
        plane = torch.linalg.qr(torch.stack([z[0], torch.eye(5)[feature]], dim=1)).Q  # of the great circle
        torch.testing.assert_close(moved @ plane @ plane.T, moved)
    for pole in (1.0, -1.0):
        start = pole * torch.eye(5)[2].expand(9, 5)
        moved = VonMisesFisher().move(start, 2, BY)
        torch.testing.assert_close(moved.norm(dim=1), torch.ones(9))
        torch.testing.assert_close(moved[:, 2], pole * BY.cos())


@pytest.mark.parametrize("shape", [(), (2, 3)], ids=str)
def test_of_categories_class_by_class(shape: tuple[int, ...]) -> None:
    logits = torch.randn(4, 3, 4, *shape, generator=torch.Generator().manual_seed(0))
    z, posterior = logits.softmax(dim=2).flatten(1, 2), Concrete(4)
    moved = posterior.move(z, 4, torch.arange(4)).unflatten(1, (3, 4))
    torch.testing.assert_close(moved[:, [0, 2]], z.unflatten(1, (3, 4))[:, [0, 2]])
    assert torch.equal(moved[:, 1], torch.eye(4).view(4, 4, *[1] * len(shape)).expand(4, 4, *shape))
    turned = posterior.move(z, 6, torch.tensor([-1.2, 0.0, 1.0, 2.0])).unflatten(1, (3, 4))[:, 1]
    assert torch.equal(turned.argmax(dim=1).view(4, -1)[:, 0], torch.tensor([1, 2, 3, 0]))
    ways = posterior.ways(z.flatten(2).mean(dim=2) if shape else z)
    assert [(way.feature, way.classes, len(way.steps(9, 3.0))) for way in ways] == [(0, 4, 4), (4, 4, 4), (8, 4, 4)]


@pytest.mark.parametrize("c", [0.1, 1.0, 3.0])
def test_in_the_ball_by_what_the_decoder_sees(c: float) -> None:
    z = origin_exp(0.7 * codes(4).double() / math.sqrt(c), c)
    posterior = WrappedNormal(c)
    for feature in range(4):
        moved = posterior.move(z.float(), feature, BY / math.sqrt(c))
        assert moved.dtype == torch.float32
        assert (c * moved.square().sum(dim=1) < 1).all()
        step = posterior.unfold(posterior.move(z, feature, BY / math.sqrt(c))) - posterior.unfold(z)
        expected = BY.double().unsqueeze(1) / math.sqrt(c) * torch.eye(4).double()[feature]
        torch.testing.assert_close(step, expected, rtol=1e-6, atol=1e-6)
    spread = posterior.ways(origin_exp(torch.randn(5000, 2), c))[1].spread
    assert spread == pytest.approx(1, abs=0.05)


def test_the_part_moves_that_has_the_feature() -> None:
    posterior = JointPosterior((DiagonalGaussian(), VonMisesFisher(), Concrete(3)), (3, 2))
    z = torch.cat([codes(2), torch.nn.functional.normalize(codes(3), dim=1), codes(6)], dim=1)
    for feature, part in ((0, slice(0, 2)), (3, slice(2, 5)), (8, slice(5, 11))):
        moved = posterior.move(z, feature, BY)
        other = torch.ones(11, dtype=torch.bool)
        other[part] = False
        assert torch.equal(moved[:, other], z[:, other])
    assert torch.equal(posterior.move(z, 1, BY), DiagonalGaussian().move(z, 1, BY))
    torch.testing.assert_close(posterior.move(z, 3, BY)[:, 2:5], VonMisesFisher().move(z[:, 2:5], 1, BY))
    assert torch.equal(posterior.move(z, 8, BY)[:, 5:], Concrete(3).move(z[:, 5:], 3, BY))
    assert [way.feature for way in posterior.ways(z)] == [0, 1, 2, 3, 4, 5, 8]


MAP: Any = ConvNet((4, 8), code="map")
MODELS = [
    (VAE, {}, 9), (HypersphericalVAE, {}, 9), (PoincareVAE, {}, 9), (CategoricalVAE, {"classes": 6}, 6),
    (JointVAE, {"classes": 6}, 9), (CategoricalVAE, {"classes": 6, "architecture": MAP}, 6),
    (JointVAE, {"classes": 11, "architecture": MAP}, 9),
]  # fmt: skip


@pytest.mark.parametrize(("cls", "options", "columns"), MODELS, ids=lambda v: getattr(v, "__name__", ""))
@torch.no_grad()
def test_rows_of_each_model(
    cls: type[VAE], options: dict[str, Any], columns: int, digits: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_ae.callbacks.pictures.THRESHOLD", 0.0)  # units of untrained models hardly vary
    torch.manual_seed(0)
    model = cls((1, 8, 8), 4, **{"architecture": MLP((8,)), **options}).eval()
    rows, names = traversals(model, digits[:50], 9, 3.0, 8)
    assert len(rows) == len(names) == 4  # the units, of which one may be categorical
    lengths = {len(row) for row in rows}
    assert lengths == {columns} | ({options["classes"]} if cls is JointVAE else set())
    assert all((row[0] != row[-1]).any() for row in rows)
