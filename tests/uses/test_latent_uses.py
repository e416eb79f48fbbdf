"""What codes are used for, against closed forms: ends of paths, great circles, linear shifts, conditional means."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_ae import VAE, HFDataModule, InputError, LinearAutoencoder, MissingDataIWAE, get_model
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.data.signature import Signature
from lightning_ae.parts import Bernoulli, FullCovarianceGaussian, Gaussian
from lightning_ae.parts.hyperbolic import log_at
from lightning_ae.parts.moves import slerp
from lightning_ae.preprocess import ImagePreprocess, TabularPreprocess
from lightning_ae.uses import (
    add_attribute,
    arithmetic,
    arithmetic_figure,
    attribute_figure,
    attribute_vector,
    class_figure,
    class_samples,
    imputation_figure,
    impute,
    interpolate,
    interpolation_figure,
)

SHAPE = (1, 8, 8)


def made(name: str, shape: tuple[int, ...] = SHAPE, latent_dim: int = 4, **options: Any) -> Any:
    torch.manual_seed(0)
    return get_model(name)(shape, latent_dim, **options).eval()


def images(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


# ---- paths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ae", {}),
        ("ae", {"architecture": ConvNet(channels=(8, 8), code="map")}),
        ("ladder_vae", {}),
        ("top_down_vae", {}),
        ("hyperspherical_vae", {}),
        ("poincare_vae", {}),
        ("categorical_vae", {"classes": 3}),
        ("joint_vae", {}),
        ("k_sparse", {"k": 2}),
    ],
)
@torch.no_grad()
def test_the_ends_are_the_reconstructions(name: str, options: Any) -> None:
    model = made(name, **options)
    a, b = images(3), images(3, 1)
    found = interpolate(model, a, b, 5)
    assert found.shape == (3, 5, *SHAPE)
    torch.testing.assert_close(found[:, 0], model(a), rtol=0, atol=1e-6)
    torch.testing.assert_close(found[:, -1], model(b), rtol=0, atol=1e-6)
    assert not torch.allclose(found[:, 2], found[:, 0])


@torch.no_grad()
def test_a_line_is_decoded_place_by_place() -> None:
    model, a, b = made("ae"), images(2), images(2, 1)
    first, second = model.encode(a), model.encode(b)
    for path in ("shortest", "linear"):
        found = interpolate(model, a, b, 3, path)  # type: ignore[arg-type]
        torch.testing.assert_close(found[:, 1], model.decode((first + second) / 2))


def test_a_great_circle_keeps_the_length_and_the_angle() -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.randn(6, 5, generator=g)
    b = torch.randn(6, 5, generator=g)
    b = b * (a.norm(dim=1) / b.norm(dim=1)).unsqueeze(1)
    a[5] = b[5] * (1 + 1e-6)  # nearly the same
    whole = torch.acos(torch.nn.functional.cosine_similarity(a[:5].double(), b[:5].double(), dim=1))
    for t in (0.0, 0.25, 0.7, 1.0):
        found = slerp(a, b, torch.full((6,), t))
        torch.testing.assert_close(found.norm(dim=1), a.norm(dim=1), rtol=1e-5, atol=0)
        angle = torch.acos(
            torch.nn.functional.cosine_similarity(a[:5].double(), found[:5].double(), dim=1).clamp(-1, 1)
        )
        torch.testing.assert_close(angle, t * whole, rtol=0, atol=2e-4)
    assert torch.equal(slerp(a, b, torch.zeros(6)), a)
    torch.testing.assert_close(slerp(a, b, torch.ones(6)), b, rtol=1e-6, atol=0)
    # halfway between axes, by hand; of other lengths as the formula says
    axes = torch.eye(2) * torch.tensor([[1.0], [3.0]])
    half = slerp(axes[:1], axes[1:], torch.tensor([0.5]))
    torch.testing.assert_close(half, torch.tensor([[1.0, 3.0]]) / math.sqrt(2))
    with pytest.raises(InputError, match="row 1 point in opposite directions"):
        slerp(a[:2], torch.stack([b[0], -2 * a[1]]), torch.full((2,), 0.5))


@torch.no_grad()
def test_on_curved_spaces_the_shortest_path_is_theirs() -> None:
    a, b = images(4), images(4, 1)
    sphere = made("hyperspherical_vae")
    first, second = sphere.encode(a), sphere.encode(b)
    t = torch.full((4,), 0.3)
    between = sphere.between(first, second, t)
    torch.testing.assert_close(between.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(between, slerp(first, second, t))

    ball = made("poincare_vae", curvature=0.5)
    first, second = ball.encode(a) * 3, ball.encode(b) * 3
    between = ball.between(first, second, t)

    def distance(x: Tensor, y: Tensor) -> Tensor:
        """In closed form, by the inverse hyperbolic cosine."""
        x, y, c = x.double(), y.double(), 0.5
        gap = (1 - c * x.square().sum(1)) * (1 - c * y.square().sum(1))
        return torch.acosh(1 + 2 * c * (x - y).square().sum(1) / gap) / math.sqrt(c)

    whole = distance(first, second)
    torch.testing.assert_close(distance(first, between), 0.3 * whole, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(distance(between, second), 0.7 * whole, rtol=1e-4, atol=1e-6)
    assert log_at(first.double(), second.double(), 0.5).norm() > 0.1  # they are apart
    for path in ("linear", "spherical"):
        with pytest.raises(InputError, match="take path='shortest'|shortest in theirs"):
            interpolate(ball, a, b, 3, path)  # type: ignore[arg-type]


def test_paths_that_there_are_not() -> None:
    model = made("ae")
    with pytest.raises(InputError, match="unknown path 'cubic'"):
        interpolate(model, images(1), images(1), path="cubic")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="steps must be an integer of 2 or more"):
        interpolate(model, images(1), images(1), 1)
    with pytest.raises(InputError, match="as many rows, got 1 and 2"):
        interpolate(model, images(1), images(2))
    with pytest.raises(InputError, match="codes of VQVAE are indices"):
        interpolate(made("vq_vae"), images(1), images(1))


# ---- attributes and sums --------------------------------------------------------------------------------------------


def linear() -> tuple[LinearAutoencoder, Tensor]:
    """A linear autoencoder at its optimum, of vectors that a preprocessing scales, and its projection."""
    torch.manual_seed(0)
    model = LinearAutoencoder((6,), 3).double()
    preprocess = TabularPreprocess(mean=(1.0, 2, 3, 4, 5, 6), std=(2.0, 1, 1, 3, 1, 0.5))
    rows = torch.randn(300, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) @ torch.randn(
        6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    model.initialize_from(preprocess(rows).double())
    model.signature = Signature(preprocess)
    components = model.decoder.linears[0].weight.data  # type: ignore[union-attr,index]
    return model.eval(), components @ components.T


def test_of_a_linear_model_an_attribute_shifts_exactly_so() -> None:
    model, projection = linear()
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(3)).double() * 5
    has = torch.arange(40) % 3 == 0
    vector = attribute_vector(model, rows, has)
    # by hand: the difference of the means in scaled units, projected, and scaled back
    std = torch.tensor([2.0, 1, 1, 3, 1, 0.5], dtype=torch.float64)
    shift = projection @ ((rows[has].mean(0) - rows[~has].mean(0)) / std)
    for strength in (0.0, 1.0, -2.5):
        moved = add_attribute(model, rows, vector, strength) - add_attribute(model, rows, vector, 0.0)
        torch.testing.assert_close(moved, (strength * shift * std).expand(40, 6), rtol=1e-5, atol=1e-5)
    several = add_attribute(model, rows, vector, [0.0, 1.0, -2.5])
    assert several.shape == (40, 3, 6)
    torch.testing.assert_close(several[:, 2], add_attribute(model, rows, vector, -2.5))
    torch.testing.assert_close(
        several[:, 0], model.signature.preprocess.inverse(model(model.signature.tensor(rows).double()))
    )  # type: ignore[union-attr]


def test_of_a_linear_model_sums_of_codes_are_sums_of_reconstructions() -> None:
    model, _ = linear()
    a, minus, plus = (torch.randn(5, 6, generator=torch.Generator().manual_seed(i)).double() for i in range(3))

    def again(rows: Tensor) -> Tensor:
        with torch.no_grad():
            x: Tensor = model.signature.preprocess.inverse(model(model.signature.tensor(rows).double()))  # type: ignore[union-attr]
            return x

    expected = again(a) - again(minus) + again(plus)
    torch.testing.assert_close(arithmetic(model, a, minus, plus), expected, rtol=1e-5, atol=1e-5)
    one = arithmetic(model, a, minus[:1], plus[:1])
    torch.testing.assert_close(one, again(a) - again(minus[:1]) + again(plus[:1]), rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="minus must have 5 rows as a, or one for all, got 2"):
        arithmetic(model, a, minus[:2], plus)


@torch.no_grad()
def test_sums_stay_where_codes_lie() -> None:
    x, has = images(20), torch.arange(20) < 8
    for name in ("hyperspherical_vae", "poincare_vae"):
        model = made(name)
        vector = attribute_vector(model, x, has)
        seen: list[Tensor] = []
        decode = model.decode
        model.decode = lambda z, **given: (seen.append(z), decode(z, **given))[1]  # noqa: B023
        assert add_attribute(model, x, vector, 3.0).shape == x.shape
        arithmetic(model, x, x[:1], x[1:2])
        norms = torch.cat(seen).norm(dim=1)
        assert ((norms - 1).abs() < 1e-5).all() if name == "hyperspherical_vae" else (norms < 1).all()
    # of a hierarchy all levels move
    ladder = made("ladder_vae")
    vector = attribute_vector(ladder, x, has)
    codes = ladder.units(ladder.encode(x)).double()
    torch.testing.assert_close(vector, codes[has].mean(0) - codes[~has].mean(0))


def test_attributes_that_cannot_be() -> None:
    model, x = made("ae"), images(6)
    for has, said in (
        (torch.ones(6, dtype=torch.bool), "all rows have the attribute"),
        ([False] * 6, "no row has the attribute"),
        (torch.ones(5, dtype=torch.bool), "has must be true or false of each of the 6 rows"),
        (torch.arange(6), r"got torch.int64"),
    ):
        with pytest.raises(InputError, match=said):
            attribute_vector(model, x, has)
    with pytest.raises(InputError, match="vector must have the 4 values of a code of Autoencoder"):
        add_attribute(model, x, torch.zeros(3))
    with pytest.raises(InputError, match="strength must be a number or several"):
        add_attribute(model, x, torch.zeros(4), [])
    for name in ("vq_vae", "categorical_vae", "joint_vae"):
        with pytest.raises(InputError, match="do not add up"):
            attribute_vector(made(name), x, [True] * 3 + [False] * 3)


# ---- missing values -------------------------------------------------------------------------------------------------


def linear_gaussian(cls: Any = VAE, **options: Any) -> tuple[Any, Tensor, Tensor]:
    r"""z ~ N(0, I), x | z ~ N(W z + b, s^2 I), with its exact posterior; and the mean and covariance of x."""
    torch.manual_seed(0)
    s, W = 0.6, torch.tensor([[1.0, 0.0], [0.5, -1.0], [-0.7, 0.8]], dtype=torch.float64)
    b = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    model = cls(
        (3,),
        2,
        architecture=MLP(hidden=()),
        likelihood=Gaussian(scale=s),
        posterior=FullCovarianceGaussian(),
        **options,
    ).double()
    precision = torch.eye(2).double() + W.T @ W / s**2
    covariance = torch.linalg.inv(precision)
    factor = torch.linalg.cholesky(covariance)
    gain = covariance @ W.T / s**2
    encoder, decoder = model.encoder.linears[0], model.decoder.linears[0]
    with torch.no_grad():
        decoder.weight.copy_(W)
        decoder.bias.copy_(b)
        encoder.weight.zero_()
        encoder.weight[:2, :3].copy_(gain)
        encoder.bias.copy_(torch.cat([-gain @ b, 2 * factor.diagonal().log(), factor[1:, 0]]))
    return model.eval(), b, W @ W.T + s**2 * torch.eye(3).double()


def conditional(row: Tensor, known: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """The mean of what is not known, given the rest, in closed form."""
    missing = ~known
    gain = covariance[missing][:, known] @ torch.linalg.inv(covariance[known][:, known])
    return mean[missing] + gain @ (row[known] - mean[known])


@pytest.mark.parametrize("known", [(True, False, True), (False, True, False), (False, False, False)])
def test_a_chain_tends_to_the_conditional_mean(known: tuple[bool, ...]) -> None:
    model, mean, covariance = linear_gaussian()
    row, chosen = torch.tensor([1.5, 0.4, -1.0], dtype=torch.float64), torch.tensor(known)
    chains = torch.where(chosen, row, torch.nan).expand(400, 3)
    found = impute(model, chains, steps=80, burn_in=30)
    assert torch.equal(found[:, chosen], chains[:, chosen])
    each = found[:, ~chosen]  # a mean of every chain, which are independent of each other
    expected = conditional(row, chosen, mean, covariance)
    error = each.std(dim=0) / math.sqrt(len(each))
    assert ((each.mean(dim=0) - expected).abs() < 4 * error).all()
    assert (error < 0.03).all()
    assert torch.equal(found, impute(model, chains, steps=80, burn_in=30))
    assert not torch.equal(found, impute(model, chains, steps=80, burn_in=30, seed=1))


def test_the_chain_is_as_wide_as_the_posterior() -> None:
    """Its means of single steps vary as W z does given what is known, in closed form; means fed back would not."""
    model, *_ = linear_gaussian()
    row = torch.tensor([1.5, torch.nan, -1.0], dtype=torch.float64)
    found = impute(model, row.expand(4000, 3), steps=31, burn_in=30)[:, 1]
    W = model.decoder.linears[0].weight.detach()
    seen = W[[0, 2]]
    posterior = torch.linalg.inv(torch.eye(2).double() + seen.T @ seen / 0.6**2)
    assert float(found.var()) == pytest.approx(float(W[1] @ posterior @ W[1]), rel=4 * math.sqrt(2 / 4000))


def test_what_is_known_stays_bit_for_bit() -> None:
    model, *_ = linear_gaussian()
    model.signature = Signature(TabularPreprocess(mean=(0.1, 1e3, -7.0), std=(0.3, 11.0, 1.7)))
    rows = np.random.default_rng(0).normal(size=(50, 3)) * 3 + [0.1, 1e3, -7]
    gaps = rows.copy()
    gaps[::2, 1] = np.nan
    found = impute(model, gaps, steps=5, burn_in=1)
    assert found.dtype == torch.float64
    there = ~np.isnan(gaps)
    assert np.array_equal(found.numpy()[there], rows[there])
    assert torch.isfinite(found).all()
    # by a mask, whatever stands in the gaps
    assert torch.equal(impute(model, np.where(there, rows, 5.0), there, steps=5, burn_in=1), found)


def test_images_with_gaps() -> None:
    model = made("vae", likelihood=Bernoulli())
    model.signature = Signature(ImagePreprocess((8, 8), 1))
    x = (images(4) * 255).to(torch.uint8)
    mask = torch.ones(4, 8, 8, dtype=torch.bool)
    mask[:, 4:] = False
    found = impute(model, x, mask, steps=6, burn_in=2)
    assert torch.equal(found[:, :, :4], x[:, :, :4].float() / 255)
    assert (found >= 0).all()
    assert (found <= 1).all()
    # of floats, by NaN, and by a mask of NaN's places; with a channel and without
    gaps = torch.where(mask.unsqueeze(1), x.float() / 255, torch.nan)
    for data, where in ((gaps, None), (gaps[:, 0], None), (gaps, mask), (gaps, mask.unsqueeze(1)), (gaps[:, 0], mask)):
        torch.testing.assert_close(impute(model, data, where, steps=6, burn_in=2), found, rtol=0, atol=0)
    figure = imputation_figure(model, x, mask, x.float() / 255, steps=6, burn_in=2)
    assert len(figure.axes) == 12
    with pytest.raises(InputError, match="the mask has the shape"):
        impute(model, x, torch.ones(4, 9, 9, dtype=torch.bool), steps=2, burn_in=1)


def test_a_model_of_its_own_has_its_own_way(fit: Any) -> None:
    torch.manual_seed(0)
    model = MissingDataIWAE((3,), 2, architecture=MLP(hidden=(16,)), samples=5).eval()
    x = torch.randn(30, 3)
    x[::3, 1] = torch.nan
    found = impute(model, x, steps=300, burn_in=100)
    torch.manual_seed(0)
    expected = model.impute(x, samples=4000)
    assert torch.equal(found[~x.isnan()], x[~x.isnan()])
    torch.testing.assert_close(found, expected, rtol=0, atol=0.3)  # of other draws


def test_what_cannot_be_imputed() -> None:
    vae, x = made("vae"), images(2)
    for make, said in (
        (lambda: impute(made("ae"), x), "Autoencoder gives one code for an input"),
        (lambda: impute(vae, x, steps=0), "steps must be an integer of 1 or more"),
        (lambda: impute(vae, x, steps=5, burn_in=5), "burn_in must be less than steps"),
    ):
        with pytest.raises(InputError, match=said):
            make()
    from lightning_ae.parts import Mixed

    mixed = VAE((2,), 2, architecture=MLP(hidden=(8,), categories=(0, 3)), likelihood=Mixed((0, 3)))
    with pytest.raises(InputError, match="the classes of"):
        impute(mixed, torch.zeros(2, 2))


# ---- classes --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_row_has_one_code() -> None:
    model = made("conditional_vae", num_classes=4)
    found = class_samples(model, 3, seed=5)
    assert found.shape == (3, 4, *SHAPE)
    torch.manual_seed(5)
    code = model.draw_codes(3)
    for label in range(4):
        torch.testing.assert_close(found[:, label], model.decode(code, label=torch.full((3,), label)))
    assert torch.equal(class_samples(model, 3, [2], seed=5)[:, 0], found[:, 2])
    state = torch.get_rng_state()
    class_samples(model, 2)
    assert torch.equal(torch.get_rng_state(), state)
    for make, said in (
        (lambda: class_samples(made("vae")), "VAE is given no label"),
        (lambda: class_samples(model, 0), "n must be a positive integer"),
        (lambda: class_samples(model, 2, [7]), "labels of ConditionalVAE are 0 to 3"),
    ):
        with pytest.raises(InputError, match=said):
            make()


# ---- data modules and pictures --------------------------------------------------------------------------------------


def test_pictures(fit: Any, digits: Tensor) -> None:
    data = HFDataModule("digits", val_fraction=0)
    model = made("vae")
    model.signature = data.signature
    x = data.dataset("train")[:6]["image"]  # PIL images, as `features` takes them
    assert len(interpolation_figure(model, x[:2], x[2:4], 4, ("linear", "spherical")).axes) == 16
    vector = attribute_vector(model, x, [True, True, False, False, False, False])
    assert len(attribute_figure(model, x[:2], vector).axes) == 10
    assert len(arithmetic_figure(model, x[:2], x[2:3], x[4:6]).axes) == 8
    assert len(class_figure(made("conditional_vae", num_classes=3), 2).axes) == 6
    vectors, _ = linear()
    figure = interpolation_figure(vectors, torch.randn(2, 6), torch.randn(2, 6), 5)
    assert [len(axis.lines) for axis in figure.axes] == [5, 5]
