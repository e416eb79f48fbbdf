"""The distance of spectra against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import signal

from lightning_ae import VQVAE, InputError
from lightning_ae.architectures import SequenceNet
from lightning_ae.parts import MultiScaleSpectral

LONG = 96


def sound(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def magnitudes(x: np.ndarray, length: int) -> np.ndarray:
    window = signal.get_window("hann", length)
    frames = [x[..., i : i + length] for i in range(0, x.shape[-1] - length + 1, length // 4)]
    spectra = np.stack([np.fft.rfft(window * frame) for frame in frames], axis=-1)
    return np.sqrt(np.abs(spectra) ** 2 / (window**2).sum() + 1e-5)


@pytest.mark.parametrize("log_weight", [0.0, 0.7])
def test_spectra_are_those_of_scipy(log_weight: float) -> None:
    a, b, windows = sound(5, 2, LONG), sound(5, 2, LONG, seed=1), (16, 64)
    found = MultiScaleSpectral(windows, log_weight)(a, b)
    expected = np.zeros(5)
    for length in windows:
        one, other = magnitudes(a.numpy(), length), magnitudes(b.numpy(), length)
        each = np.abs(one - other) + log_weight * np.abs(np.log(one) - np.log(other))
        expected += each.reshape(5, -1).mean(axis=1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_noise_has_a_mean_square_of_one_at_every_scale() -> None:
    for length in (16, 64, 256):
        found = MultiScaleSpectral().magnitudes(sound(200, 1024), length)[:, 1:-1].square().mean()
        assert float(found) == pytest.approx(1, rel=0.02)


def test_silence_has_gradients_and_a_phase_costs_nothing() -> None:
    distance = MultiScaleSpectral((16, 32))
    x = torch.zeros(2, 1, LONG, requires_grad=True)
    distance(x, sound(2, 1, LONG).float()).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    t = torch.arange(LONG, dtype=torch.float64)
    wave, moved, other = (torch.sin(f * t + shift).view(1, 1, -1) for f, shift in ((1.0, 0), (1.0, 1.5), (1.3, 0)))
    assert float(distance(wave, wave)) == 0
    assert float(distance(wave, moved)) < 0.2 * float(distance(wave, other))


def test_it_is_a_term_of_the_loss() -> None:
    network = SequenceNet(channels=(4,), dilations=(1,), code="map")
    model = VQVAE((1, LONG), 4, architecture=network, spectral=MultiScaleSpectral((16, 32), weight=2.5)).eval()
    x = sound(3, 1, LONG).float()
    with torch.no_grad():
        terms = model.loss(x, x)
        expected = 2.5 * MultiScaleSpectral((16, 32))(model(x), x).mean()
    torch.testing.assert_close(terms["spectral"], expected)
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + terms["commitment"] + terms["spectral"])
    assert VQVAE(**model.init_args).spectral == model.spectral


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"windows": ()}, "windows of MultiScaleSpectral"),
        ({"windows": (10,)}, "multiples of 4"),
        ({"windows": (16.0,)}, "windows of MultiScaleSpectral"),
        ({"log_weight": -1.0}, "log_weight of MultiScaleSpectral"),
        ({"weight": float("inf")}, "weight of MultiScaleSpectral"),
    ],
)
def test_what_cannot_work_is_refused(options: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        MultiScaleSpectral(**options)
