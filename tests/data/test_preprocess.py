"""Preprocessing against PIL, scikit-learn and autograd."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from lightning_ae import InputError
from lightning_ae.config import from_plain, to_plain
from lightning_ae.natural import batch_of, pixels
from lightning_ae.preprocess import ImagePreprocess, Preprocess, TabularPreprocess


@pytest.fixture
def photo() -> PIL.Image.Image:
    """A smooth colour image of 24x32 pixels."""
    y, x = np.mgrid[0:24, 0:32]
    channels = [128 + 100 * np.sin(x / 5 + y / 9), 128 + 90 * np.cos(y / 4), 3 * x + 5 * y]
    return PIL.Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def test_bytes_become_unit_floats() -> None:
    x = torch.arange(256, dtype=torch.uint8).view(4, 8, 8)
    expected = x.numpy()[:, None].astype(np.float64) / 255
    np.testing.assert_allclose(ImagePreprocess()(x).numpy(), expected, rtol=1e-6)
    floats = torch.from_numpy(expected)
    assert ImagePreprocess()(floats).dtype == torch.float32
    torch.testing.assert_close(ImagePreprocess()(floats), ImagePreprocess()(x))


def test_grey_is_the_luma_of_pil(photo: PIL.Image.Image) -> None:
    grey = ImagePreprocess(channels=1)(batch_of([photo]))
    expected = np.asarray(photo.convert("L")) / 255
    assert grey.shape == (1, 1, 24, 32)
    np.testing.assert_allclose(grey[0, 0].numpy(), expected, atol=1 / 255)


def test_grey_to_colour_repeats(photo: PIL.Image.Image) -> None:
    grey = batch_of([photo.convert("L")])
    colour = ImagePreprocess(channels=3)(grey)
    assert colour.shape == (1, 3, 24, 32)
    for channel in range(3):
        torch.testing.assert_close(colour[:, channel : channel + 1], ImagePreprocess()(grey))


@pytest.mark.parametrize("size", [(12, 10), (48, 40)])
def test_resize_is_that_of_pil(photo: PIL.Image.Image, size: tuple[int, int]) -> None:
    resized = ImagePreprocess(size=size)(batch_of([photo]))
    expected = photo.resize(size[::-1], PIL.Image.Resampling.BILINEAR)
    np.testing.assert_allclose(resized.numpy(), batch_of([expected]).numpy() / 255, atol=1.5 / 255)


def test_normalisation_and_inverse() -> None:
    preprocess = ImagePreprocess(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5))
    x = torch.rand(5, 3, 4, 4)
    out = preprocess(x)
    np.testing.assert_allclose(out[:, 1].numpy(), (x[:, 1].numpy() - 0.4) / 0.25, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(preprocess.inverse(out), x)


def test_tabular_inverse_and_types() -> None:
    preprocess = TabularPreprocess(mean=(1.0, -2.0), std=(3.0, 0.5))
    x = torch.tensor([[4, 0], [1, -2], [-2, 1]])
    expected = [[1.0, 4.0], [0.0, 0.0], [-1.0, 6.0]]
    for dtype in (torch.int64, torch.float16, torch.float32, torch.float64):
        out = preprocess(x.to(dtype))
        assert out.dtype == torch.float32
        torch.testing.assert_close(out, torch.tensor(expected))
        torch.testing.assert_close(preprocess.inverse(out), x.float())


def test_large_offsets_keep_their_digits() -> None:
    x = np.random.default_rng(0).normal(1.6e9, 10, (200, 1))
    scaler = StandardScaler().fit(x)
    preprocess = TabularPreprocess(tuple(scaler.mean_), tuple(scaler.scale_))
    np.testing.assert_allclose(preprocess(torch.from_numpy(x)).numpy(), scaler.transform(x), atol=1e-5)


@pytest.mark.parametrize(
    ("preprocess", "shape"),
    [(ImagePreprocess((6, 5), 1, (0.3,), (0.2,)), (2, 3, 8, 8)), (TabularPreprocess((1.0,) * 4, (2.0,) * 4), (3, 4))],
)
def test_gradient_reaches_float_input(preprocess: Preprocess, shape: tuple[int, ...]) -> None:
    x = torch.rand(shape, requires_grad=True)
    # both maps are affine: the gradient times a displacement is the exact change
    direction = torch.randn(shape)
    (gradient,) = torch.autograd.grad(preprocess(x).sum(), x)
    change = (preprocess(x + direction) - preprocess(x)).sum()
    torch.testing.assert_close((gradient * direction).sum(), change, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("preprocess", [ImagePreprocess((8, 6), 3, (0.1,) * 3, None), TabularPreprocess(None, (2.0,))])
def test_plain_form_round_trip(preprocess: Preprocess) -> None:
    plain = to_plain(preprocess, "preprocess")
    assert plain["class_path"].startswith("lightning_ae.preprocess.")
    assert from_plain(Preprocess, plain, "preprocess") == preprocess


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ImagePreprocess(size=32), "size"),
        (lambda: ImagePreprocess(size=(0, 4)), "size"),
        (lambda: ImagePreprocess(channels=2), "channels"),
        (lambda: ImagePreprocess(mean=0.5), "mean"),
        (lambda: ImagePreprocess(std=(0.0,)), "std"),
        (lambda: TabularPreprocess(std=(-1.0,)), "std"),
        (lambda: ImagePreprocess(mean=(0.1, 0.2, 0.3))(torch.rand(2, 1, 4, 4)), "3 values.*1 channels"),
        (lambda: TabularPreprocess(mean=(0.1,))(torch.rand(2, 3)), "1 values.*3 dimensions"),
        (lambda: ImagePreprocess()(torch.rand(4, 4)), "images must be"),
        (lambda: ImagePreprocess()(torch.ones(2, 4, 4, dtype=torch.int64)), "int64"),
        (lambda: ImagePreprocess(channels=3)(torch.rand(2, 2, 4, 4)), "2 channels"),
        (lambda: batch_of([np.zeros((2, 2)), np.zeros((2, 3))]), "one shape"),
    ],
)
def test_refused(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_pil_modes(photo: PIL.Image.Image) -> None:
    colour = np.asarray(photo).transpose(2, 0, 1)
    np.testing.assert_array_equal(pixels(photo), colour)
    np.testing.assert_array_equal(pixels(photo.convert("RGBA")), colour)
    grey = photo.convert("L")
    np.testing.assert_array_equal(pixels(grey), np.asarray(grey)[None])
    np.testing.assert_array_equal(pixels(grey.convert("LA")), np.asarray(grey)[None])
    assert set(np.unique(pixels(grey.convert("1")))) == {0, 255}
    palette = photo.convert("P")
    np.testing.assert_array_equal(pixels(palette), np.asarray(palette.convert("RGB")).transpose(2, 0, 1))
    with pytest.raises(InputError, match="8 bits"):
        pixels(PIL.Image.fromarray(np.zeros((4, 4), np.int32)))
