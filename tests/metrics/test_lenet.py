"""The bundled classifier: what it knows, what it sees of images, and that another file is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lightning_ae.data import HFDataModule
from lightning_ae.errors import InputError
from lightning_ae.metrics import FrechetLeNetDistance, lenet, load_lenet
from lightning_ae.metrics.lenet.make import accuracy, read


@pytest.fixture(scope="module")
def images() -> Tensor:
    """A thousand images of clothes, (1000, 1, 28, 28) in [0, 1], in a mixed order."""
    data = HFDataModule("fashion")
    x = torch.cat([batch["image"] for batch in data.batches("test", 500)])
    return x.float()[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]


def stated(name: str) -> float:
    """The accuracy on a test split, as the file's metadata have it."""
    data = lenet.WEIGHTS.read_bytes()
    header: Any = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return float(json.loads(header["__metadata__"]["about"])["accuracy"][name])


def test_it_knows_clothes() -> None:
    data = HFDataModule("fashion")
    batches = list(data.batches("test", 500))
    x, labels = torch.cat([b["image"] for b in batches]).float(), torch.cat([b["label"] for b in batches])
    share = stated("fashion_mnist")
    # a thousand of the ten thousand that were measured
    assert accuracy(load_lenet(), x, labels + 10) == pytest.approx(share, abs=3 * (share * (1 - share) / 1000) ** 0.5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "first"), [("mnist", 0), ("fashion_mnist", 10)])
def test_it_knows_what_its_file_and_its_words_state(name: str, first: int, shared_data: Path) -> None:
    found = accuracy(load_lenet(), *read(str(shared_data / name), "test", first))
    assert round(found, 4) == stated(name)
    for text in (load_lenet.__doc__, (lenet.WEIGHTS.parent / "README.md").read_text()):
        assert f"{100 * found:.2f} %" in str(text)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_floor_is_what_its_words_state(name: str, shared_data: Path) -> None:
    metric = FrechetLeNetDistance()
    for split, kind in (("train", "real"), ("test", "held_out")):
        for part in read(str(shared_data / name), split, 0)[0].split(2000):
            metric.update(part, kind)
    assert f" {float(metric.compute()['floor']):.2f}" in str(FrechetLeNetDistance.__doc__)


@pytest.mark.parametrize("place", [3, 20_000, -1])
def test_a_flipped_byte_is_refused(place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_lenet()
    data = bytearray(lenet.WEIGHTS.read_bytes())
    data[place] ^= 1
    (tmp_path / "model.safetensors").write_bytes(data)
    monkeypatch.setattr(lenet, "WEIGHTS", tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=f"have the hash .* instead of {lenet.SHA256[:12]}.*\n.*install"):
        load_lenet()


def test_it_is_small_and_computes_without_training() -> None:
    model = load_lenet()
    assert lenet.WEIGHTS.stat().st_size < 260_000
    assert sum(weight.numel() for weight in model.parameters()) == 62_556
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())


def test_features_by_numpy(images: Tensor) -> None:
    """The network written out once more, with loops."""
    weights = {name: value.numpy() for name, value in load_lenet().state_dict().items()}

    def convolved(x: np.ndarray, name: str) -> np.ndarray:
        kernel, (height, width) = weights[f"{name}.weight"], (x.shape[1] - 4, x.shape[2] - 4)
        out = np.zeros((len(kernel), height, width)) + weights[f"{name}.bias"][:, None, None]
        for i in range(5):
            for j in range(5):
                out += np.tensordot(kernel[:, :, i, j], x[:, i : i + height, j : j + width], axes=1)
        out = np.maximum(out, 0).reshape(len(kernel), height // 2, 2, width // 2, 2)
        return np.asarray(out.max(axis=(2, 4)))

    x = np.pad(images[0].double().numpy(), ((0, 0), (2, 2), (2, 2)))
    h = convolved(convolved(x, "conv1"), "conv2").reshape(-1)
    for name in ("hidden1", "hidden2"):
        h = np.maximum(weights[f"{name}.weight"] @ h + weights[f"{name}.bias"], 0)
    assert load_lenet()(images[:1])[0].numpy() == pytest.approx(h, rel=1e-9, abs=1e-9)


def test_colours_and_other_sizes(images: Tensor) -> None:
    model, x = load_lenet(), images[:20]
    colour = torch.rand(20, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    red, green, blue = colour.double().unbind(1)
    grey = (0.299 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)  # ITU-R BT.601
    assert torch.allclose(model(colour), model(grey), atol=1e-5)
    assert torch.allclose(model(x.expand(-1, 3, -1, -1)), model(x), atol=1e-5)
    # pillow's bilinear filter is antialiased, too
    large = torch.rand(1, 1, 40, 61, generator=torch.Generator().manual_seed(0))
    pixels = Image.fromarray(large[0, 0].numpy()).resize((28, 28), Image.Resampling.BILINEAR)
    by_pillow = torch.from_numpy(np.asarray(pixels).copy()).clamp(0, 1)[None, None]
    assert torch.allclose(model(large), model(by_pillow), atol=1e-4)


def test_autocast_and_half_precision_leave_its_arithmetic(images: Tensor) -> None:
    model, expected = load_lenet(), load_lenet()(images[:9])
    assert expected.dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(images[:9]), expected)
        assert model.logits(images[:9]).dtype == torch.float64
    halved = (images[:9] * 8).round() / 8  # which half precision holds
    assert torch.equal(model(halved.bfloat16()), model(halved))


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (torch.zeros(1, 28, 28), r"images must have the shape \(B, 1, H, W\) or \(B, 3, H, W\), got \(1, 28, 28\)"),
        (torch.zeros(1, 2, 28, 28), r"got \(1, 2, 28, 28\)"),
        (torch.zeros(1, 1, 28, 28, dtype=torch.uint8), r"floats in \[0, 1\], got torch.uint8\n.*255"),
        (torch.full((1, 1, 2, 2), 1.5), r"4 of the 4 values of images lie outside \[0, 1\], between 1.5 and 1.5"),
        (torch.full((1, 1, 2, 2), -0.1), r"outside \[0, 1\], between -0.1"),
        (torch.full((1, 1, 2, 2), torch.nan), "^4 of the 4 values of images are NaN or infinite"),
    ],
)
def test_what_is_no_image_is_refused(x: Tensor, match: str) -> None:
    with pytest.raises(InputError, match=match):
        load_lenet()(x)
    with pytest.raises(InputError, match=match):
        FrechetLeNetDistance().update(x, "real")


def test_the_distance_grows_with_noise_and_blur(images: Tensor) -> None:
    halves, generator = images.split(500), torch.Generator().manual_seed(0)
    found = []
    for noise in (0.0, 0.1, 0.2, 0.4):
        metric = FrechetLeNetDistance()
        metric.update(halves[0], "real")
        metric.update((halves[1] + noise * torch.randn(halves[1].shape, generator=generator)).clamp(0, 1), "generated")
        metric.update(halves[1], "held_out")
        values = metric.compute()
        found.append(float(values["distance"]))
        assert float(values["floor"]) == pytest.approx(found[0])
    assert found == sorted(found)
    assert found[1] > 1.5 * found[0]
    metric.reset()
    metric.update(halves[0], "real")
    metric.update(torch.nn.functional.avg_pool2d(halves[1], 5, 1, 2), "generated")
    assert float(metric.compute()["distance"]) > 1.5 * found[0]
