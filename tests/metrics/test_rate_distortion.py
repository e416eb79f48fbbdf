"""Rate and distortion against what they must be."""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_ae import VAE, Autoencoder, KSparseAutoencoder, LinearAutoencoder, SparseAutoencoder
from lightning_ae.metrics.rate_distortion import Point, rate_distortion, rate_distortion_figure, write_rate_distortion


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
        found = model.infer(x)
    q = torch.distributions.Normal(found.mean, (found.log_variance / 2).exp())  # type: ignore[attr-defined]
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    assert point.rate == pytest.approx(float(kl) / math.log(2), rel=1e-5)


def test_rate_of_a_sparse_code_counts_values_and_choices() -> None:
    model, x = KSparseAutoencoder((5,), latent_dim=12, k=3).eval(), torch.rand(40, 5)
    points = rate_distortion(model, x, "test", x)
    assert points[3].rate == pytest.approx(3 * 4 + math.log2(math.comb(12, 3)) + math.log2(13), rel=1e-6)


@torch.no_grad()
def test_a_message_of_that_rate_gives_the_sparse_code_back() -> None:
    torch.manual_seed(0)
    model = SparseAutoencoder((5,), latent_dim=7, penalty="l1").eval()
    x, reference = torch.randn(50, 5), torch.randn(300, 5)
    (point,) = (p for p in rate_distortion(model, x, "test", reference) if p.setting == 3)
    low, high = (model.encode(reference).double().quantile(q, dim=0) for q in (0.001, 0.999))
    step = (high - low).clamp(min=1e-12) / 7
    subsets = {a: list(itertools.combinations(range(7), a)) for a in range(8)}

    def write(code: Tensor) -> tuple[int, int]:
        """The message as a number, and how many messages there could have been when all was known but the sample."""
        units = tuple(i for i, value in enumerate(code.tolist()) if value != 0)
        message, size = len(units), 8
        message, size = message + size * subsets[len(units)].index(units), size * len(subsets[len(units)])
        for unit in units:
            level = round(float((code[unit].clamp(low[unit], high[unit]) - low[unit]) / step[unit]))
            message, size = message + size * level, size * 8
        return message, size

    def read(message: int) -> Tensor:
        code = torch.zeros(7, dtype=torch.float64)
        message, active = divmod(message, 8)
        message, which = divmod(message, len(subsets[active]))
        for unit in subsets[active][which]:
            message, level = divmod(message, 8)
            code[unit] = low[unit] + level * step[unit]
        return code

    messages = [write(code) for code in model.encode(x).double()]
    assert len({size for _, size in messages}) > 3  # the number of active units differs between samples
    assert point.rate == pytest.approx(sum(math.log2(size) for _, size in messages) / 50, rel=1e-9)
    decoded = torch.stack([read(message) for message, _ in messages]).float()
    assert point.distortion == pytest.approx(float((model.decode(decoded) - x).square().sum(1).mean()), rel=1e-5)


@pytest.mark.parametrize("cls", [Autoencoder, VAE, KSparseAutoencoder])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_of_another_type(cls: type[Autoencoder], dtype: torch.dtype, digits: Tensor) -> None:
    torch.manual_seed(0)
    model = cls((1, 8, 8), latent_dim=32).eval()
    expected = rate_distortion(model, digits, "test", digits)
    model.to(dtype)
    found = rate_distortion(model, digits.to(dtype), "test", digits.to(dtype))
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.rate, ours.distortion) == pytest.approx((theirs.rate, theirs.distortion), rel=0.02)


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


def test_variational_models_make_one_curve_over_beta(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.rand(40, 5)
    points: list[Point] = []
    for beta in (0.5, 4.0):
        points += rate_distortion(VAE((5,), latent_dim=3, beta=beta).eval(), x, "test", x, name=f"beta {beta}")
    assert [(p.model, p.setting, p.own) for p in points] == [("beta 0.5", 0.5, True), ("beta 4.0", 4.0, True)]
    points += rate_distortion(Autoencoder((5,), latent_dim=3).eval(), x, "test", x, name="plain")
    (axes,) = rate_distortion_figure(points).axes
    assert [line.get_label() for line in axes.lines] == ["over beta, as written, test", "plain, test"]
    assert sorted(text.get_text() for text in axes.texts) == ["0.5", "4"]
    table, _ = write_rate_distortion(points, tmp_path)
    assert [row["model"] for row in csv.DictReader(table.open())] == ["beta 0.5", "beta 4.0", *["plain"] * 6]
