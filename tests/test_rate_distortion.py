"""Rate and distortion against what they must be."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_ae import VAE, Autoencoder, KSparseAutoencoder, LinearAutoencoder
from lightning_ae.rate_distortion import Point, rate_distortion, write_rate_distortion


@torch.no_grad()
def test_distortion_falls_to_that_of_the_code_itself(digits: Tensor) -> None:
    model = LinearAutoencoder((1, 8, 8), latent_dim=6)
    model.initialize_from(digits)
    points = rate_distortion(model, digits, "train", digits)
    assert [p.rate for p in points] == [6.0, 12.0, 18.0, 24.0, 36.0, 48.0]
    values = [p.distortion for p in points]
    assert values == sorted(values, reverse=True)
    unquantised = float((model(digits) - digits).square().sum(dim=(1, 2, 3)).mean())
    assert values[-1] == pytest.approx(unquantised, rel=0.01)
    # orthonormal decoder: the extra distortion is the codes' own quantisation error, by Pythagoras
    code = model.encode(digits)
    low, high = code.quantile(0.001, dim=0), code.quantile(0.999, dim=0)
    step = (high - low) / 7
    quantised = low + ((code.clamp(low, high) - low) / step).round() * step
    assert values[2] == pytest.approx(unquantised + float((quantised - code).square().sum(1).mean()), rel=1e-3)


def test_rate_of_a_variational_code_is_its_divergence() -> None:
    torch.manual_seed(0)
    model, x = VAE((5,), latent_dim=3).eval(), torch.rand(40, 5)
    (point,) = rate_distortion(model, x, "test", x)
    with torch.no_grad():
        mean, log_variance = model.posterior(x)
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    assert point.rate == pytest.approx(float(kl) / math.log(2), rel=1e-5)


def test_rate_of_a_sparse_code_counts_values_and_choices() -> None:
    model, x = KSparseAutoencoder((5,), latent_dim=12, k=3).eval(), torch.rand(40, 5)
    points = rate_distortion(model, x, "test", x)
    assert points[3].rate == pytest.approx(3 * 4 + math.log2(math.comb(12, 3)), rel=1e-6)


def test_files(tmp_path: Path, digits: Tensor) -> None:
    from PIL import Image

    model = Autoencoder((1, 8, 8), 4).eval()
    points = [p for s in ("train", "test") for p in rate_distortion(model, digits[:100], s, digits)]
    table, picture = write_rate_distortion(points, tmp_path)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [Point(r["split"], float(r["setting"]), float(r["rate_bits"]), 0.0) for r in rows] == [
        Point(p.split, p.setting, p.rate, 0.0) for p in points
    ]
    with Image.open(picture) as image:
        assert min(image.size) > 300
