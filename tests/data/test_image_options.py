"""Images of other proportions, and what training draws of them."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import pytorch_lightning as pl
import torch
from datasets import Dataset, DatasetDict

from lightning_ae import VAE, Autoencoder, HFDataModule, InputError
from lightning_ae.data import Image
from lightning_ae.exact import Noise
from lightning_ae.parts import Bernoulli
from lightning_ae.preprocess import ImagePreprocess
from lightning_ae.training import processes


def photo(width: int, height: int) -> PIL.Image.Image:
    """One that is smooth, and different everywhere."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 17 + k) * np.cos(y / 13 - k) for k in range(3)]
    return PIL.Image.fromarray((127.5 + 120 * np.stack(waves, axis=-1)).astype(np.uint8))


@pytest.mark.parametrize(("given", "wanted"), [((90, 40), (20, 20)), ((40, 90), (20, 20)), ((64, 48), (24, 36))])
def test_a_crop_keeps_proportions_as_pillow_does(given: tuple[int, int], wanted: tuple[int, int]) -> None:
    image = photo(*given)
    height, width = wanted
    scale = max(width / given[0], height / given[1])
    whole = image.resize((round(given[0] * scale), round(given[1] * scale)), PIL.Image.Resampling.BILINEAR)
    left, top = (whole.width - width) // 2, (whole.height - height) // 2
    expected = np.asarray(whole.crop((left, top, left + width, top + height))).transpose(2, 0, 1)
    found = ImagePreprocess(wanted, fit="crop").resize(torch.tensor(np.asarray(image)).permute(2, 0, 1)[None])
    assert np.abs(found[0].numpy().astype(int) - expected).max() <= 2  # levels of 255
    stretched = ImagePreprocess(wanted).resize(torch.tensor(np.asarray(image)).permute(2, 0, 1)[None])
    assert np.abs(stretched[0].numpy().astype(int) - expected).max() > 20


def test_mixed_sizes_reach_a_model_as_they_reached_training(tmp_path: Path) -> None:
    images = [photo(30, 20), photo(20, 50), photo(8, 6), photo(33, 33)]
    rows = DatasetDict(train=Dataset.from_dict({"image": images}), test=Dataset.from_dict({"image": images}))
    with pytest.raises(InputError, match="fit='crop'"):
        next(iter(HFDataModule(rows, cache="memory", val_fraction=0).batches("test", 8)))
    data = HFDataModule(rows, kind=Image(size=(12, 16), fit="crop"), cache="memory", val_fraction=0)
    (batch,) = data.batches("test", 8)
    model = Autoencoder(data.input_shape)
    model.signature = data.signature
    assert torch.equal(model.features(images), model.pool(model.encode(batch["image"])))
    loaded = type(data.signature).from_plain(data.signature.plain())
    assert loaded.preprocess == data.signature.preprocess
    assert loaded.hash == data.signature.hash
    plainly = HFDataModule(rows, kind=Image(size=(12, 16)), cache="memory", val_fraction=0).signature
    assert "fit" not in plainly.plain()["preprocess"]["init_args"]
    assert plainly.hash != loaded.hash
    other = HFDataModule(rows, cache="memory", val_fraction=0)  # which says nothing of it
    other.use_signature(loaded)
    assert torch.equal(next(iter(other.batches("test", 8)))["image"], batch["image"])
    stretched = ImagePreprocess((12, 16), 3)
    stretching = replace(data.signature, preprocess=stretched)
    with pytest.raises(InputError, match="fit='crop'.* otherwise than the model"):
        HFDataModule(rows, kind=Image(size=(12, 16), fit="crop"), cache="memory").use_signature(stretching)


def test_an_entry_says_how_images_are_fitted() -> None:
    from lightning_ae.zoo.publishing.entry import config_of
    from lightning_ae.zoo.schema import Config

    model = VAE((1, 6, 8), 4)
    model.signature = HFDataModule("digits", kind=Image(size=(6, 8), fit="crop"), cache="memory").signature
    config = config_of("vae_mlp.digits_v9", model)
    assert Config.model_validate_json(config.model_dump_json(by_alias=True)).read_signature() == model.signature


def test_flips_are_of_half_the_training_images() -> None:
    data = HFDataModule("digits", kind=Image(flip=True), cache="memory", batch_size=1000)
    plain = HFDataModule("digits", cache="memory", batch_size=1000)
    torch.manual_seed(0)
    (batch, *_), (same, *_) = list(data.train_dataloader()), list(plain.train_dataloader())
    used = [data.on_after_batch_transfer(dict(batch), 0)["image"] for _ in range(2)]
    whole = plain.on_after_batch_transfer(dict(same), 0)["image"]
    kept = [(x == whole).flatten(1).all(1) for x in used]
    mirrored = [(x == whole.flip(3)).flatten(1).all(1) for x in used]
    assert all((a | b).all() for a, b in zip(kept, mirrored, strict=True))
    assert all(abs(each.float().mean() - 0.5) < 5 * 0.5 / 1000**0.5 for each in kept)
    assert (kept[0] != kept[1]).any()
    shown = [torch.cat([batch["image"] for batch in each.batches("val", 50)]) for each in (data, plain)]
    assert torch.equal(*shown)  # evaluation sees them as they are


def test_a_crop_shows_a_share_of_the_area() -> None:
    n, size = 400, 32
    ramp = torch.linspace(-1, 1, size).expand(n, 1, size, size)  # linear from left to right
    both = torch.cat([ramp, ramp.transpose(2, 3)], dim=1)
    x = Image(crop=(0.25, 0.64)).augment(both, Noise("key", samples=n))
    assert x.shape == both.shape
    slopes = [part[:, size // 2] for part in (x[:, 0], x[:, 1].transpose(1, 2))]
    inner = [(line[:, -4] - line[:, 3]) / (ramp[0, 0, 0, -4] - ramp[0, 0, 0, 3]) for line in slopes]
    torch.testing.assert_close(inner[0], inner[1], atol=1e-4, rtol=0)  # both sides alike
    area = inner[0] * inner[1]
    assert area.min() > 0.25 - 1e-3
    assert area.max() < 0.64 + 1e-3
    assert area.min() < 0.27
    assert area.max() > 0.62
    assert abs(area.mean() - 0.445) < 5 * 0.39 / 12**0.5 / n**0.5
    for line in slopes:
        edge = 1 - inner[0]  # how far a centre can lie
        centre = line.mean(dim=1)
        assert (centre.abs() <= edge + 0.02).all()
        assert (centre / edge).abs().max() > 0.9
    torch.testing.assert_close(Image(crop=(1.0, 1.0)).augment(both, Noise("key", samples=n)), both)


@pytest.mark.parametrize("world", [2, 3])
def test_what_is_drawn_is_the_same_on_any_number_of_ranks(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_ae.exact import noise

    kind, x = Image(flip=True, crop=(0.3, 1.0), binarize="dynamic"), torch.rand(11, 1, 8, 8)
    whole = kind.augment(x, Noise(0, "train", samples=11))
    monkeypatch.setattr(noise, "world_size", lambda: world)
    for rank in range(world):
        monkeypatch.setattr(noise, "rank", lambda rank=rank: rank)
        part = kind.augment(x[rank::world], Noise(0, "train", samples=11))
        torch.testing.assert_close(part, whole[rank::world])


class Seen(pl.Callback):
    """The training images, batch by batch, as the model gets them."""

    def __init__(self) -> None:
        self.batches: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, *args: Any) -> None:
        self.batches.append(batch["image"].clone())


def trained(folder: Path, **options: Any) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """The weights after two epochs on 61 digits that are mirrored, cut and drawn, in batches of 8; and what they saw.

    The last batch of an epoch has fewer: 5.
    """
    pl.seed_everything(0, verbose=False)
    rows = HFDataModule("digits").splits["train"].select(range(61))
    kind = Image(flip=True, crop=(0.3, 1.0), binarize="dynamic")
    data = HFDataModule(rows, kind=kind, cache="memory", val_fraction=0, batch_size=8)
    model, seen = VAE((1, 8, 8), 4, likelihood=Bernoulli()).double(), Seen()
    pl.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder, callbacks=[seen], precision="64-true", **options,
    ).fit(model, data)  # fmt: skip
    return dict(model.state_dict()), seen.batches


def _rank(rank: int, port: int, folder: str) -> None:
    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GROUP_RANK": "0"})
    os.environ["TORCHELASTIC_RUN_ID"] = "images"
    torch.set_num_threads(1)
    torch.save(trained(Path(folder), devices=2, strategy="ddp"), Path(folder) / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_on_the_images_of_one(tmp_path: Path) -> None:
    weights, seen = trained(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes.run(_rank, (port, str(tmp_path)), 2)
    assert len(seen) == 2 * 8
    for rank in range(2):
        of_it, part = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert all(torch.equal(own, whole[rank::2]) for own, whole in zip(part, seen, strict=True))
        torch.testing.assert_close(of_it, weights, rtol=1e-6, atol=1e-9)


def deep(n: int = 6) -> np.ndarray:
    """Arrays (n, 7, 9) of 12 bits, from black to white."""
    return np.linspace(0, 4095, n * 63).round().reshape(n, 7, 9)


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ([PIL.Image.fromarray(each.astype(np.uint16)) for each in deep()], {}),
        ([PIL.Image.fromarray(each.astype(np.int32)) for each in deep()], {}),
        ([PIL.Image.fromarray(each.astype(np.float32)) for each in deep()], {}),
        (deep().astype(np.uint16), {}),
        (deep().astype(np.float32), {}),
        (deep()[:, None], {"layout": "CHW"}),
        (deep()[..., None], {"layout": "HWC"}),
    ],
    ids=["I;16", "I", "F", "uint16", "float32", "CHW", "HWC"],
)
def test_what_is_no_bytes_has_a_stated_range(path: Any, options: dict[str, Any]) -> None:
    rows = {"image": path} if isinstance(path, list) else path
    with pytest.raises(InputError, match=r"range=\(|kind=Tabular"):
        next(iter(HFDataModule(rows, cache="memory", val_fraction=0).batches("train", 9)))
    data = HFDataModule(rows, kind=Image(range=(0, 4095), **options), cache="memory", val_fraction=0)
    (batch,) = data.batches("train", 9)
    (x,) = (value for value in batch.values() if value.ndim == 4)
    torch.testing.assert_close(x[:, 0], torch.tensor(deep() / 4095).float())
    model = Autoencoder(data.input_shape)
    model.signature = type(data.signature).from_plain(data.signature.plain())
    expected = model.pool(model.encode(x))
    assert torch.equal(model.features(list(path)), expected)
    if not isinstance(path, list):
        assert torch.equal(model.features(path), expected)
    with pytest.raises(InputError, match="row 1, channel 0, pixel .* holds 5000"):
        model.features([deep()[0], np.full((7, 9), 5000)])


@pytest.mark.parametrize("channels", [2, 4, 5, 13])
def test_images_of_any_number_of_channels(channels: int, tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((5, channels, 8, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", x.transpose(0, 2, 3, 1))
    for path, layout in ((x, "CHW"), (x.transpose(0, 2, 3, 1), "HWC"), (str(tmp_path / "x.npy"), "HWC")):
        data = HFDataModule(path, kind=Image(range=(0, 1), layout=layout), cache="memory", val_fraction=0)
        assert data.input_shape == (channels, 8, 6)
        (batch,) = data.batches("train", 9)
        torch.testing.assert_close(batch[data.input_columns[0]], torch.tensor(x))
    model = Autoencoder(data.input_shape)
    model.signature = data.signature
    given = x.transpose(0, 2, 3, 1)  # as in training
    expected = model.pool(model.encode(torch.tensor(x)))
    for natural in (given, list(given), torch.tensor(given)):
        assert torch.equal(model.features(natural), expected)
    assert torch.equal(model.features(given[0]), model.pool(model.encode(torch.tensor(x[:1]))))
    resized = HFDataModule(x, kind=Image(range=(0, 1), layout="CHW", size=(4, 4), fit="crop"), val_fraction=0)
    assert resized.input_shape == (channels, 4, 4)


@pytest.mark.parametrize("shape", [(5, 6, 5), (5, 5, 5), (1, 6, 5), (3, 4, 3)])
def test_a_stated_layout_is_never_guessed_again(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).random((4, *shape)).astype(np.float32)
    data = HFDataModule(x, kind=Image(range=(0, 1), layout="HWC"), cache="memory", val_fraction=0)
    (batch,) = data.batches("train", 9)
    expected = torch.tensor(x).permute(0, 3, 1, 2)
    assert torch.equal(batch["x"], expected)
    model = Autoencoder(data.input_shape)
    model.signature = type(data.signature).from_plain(data.signature.plain())
    for given in (x, list(x)):
        assert torch.equal(model.features(given), model.pool(model.encode(expected)))


@pytest.mark.parametrize(
    ("shape", "options"),
    [((6, 8, 9), {}), ((6, 13, 8, 9), {"layout": "CHW"}), ((6, 8, 9, 3), {"layout": "HWC"})],
    ids=["grey", "13 channels", "colour"],
)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_arrays_feed_a_model_that_was_trained_on_such(
    shape: tuple[int, ...], options: dict[str, Any], dtype: Any
) -> None:
    def data(rows: np.ndarray) -> HFDataModule:
        return HFDataModule(rows, kind=Image(range=(0, 255), **options), cache="memory", val_fraction=0)

    x = np.random.default_rng(0).integers(256, size=shape).astype(dtype)
    of_training = data(x)
    model = Autoencoder(of_training.input_shape, 2)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(model, of_training)
    other = data(x[::-1].copy())
    trainer.fit(model, other)  # goes on with it
    assert other.signature == model.signature == of_training.signature
    expected = next(of_training.batches("train"))["x"].flip(0)
    assert torch.equal(next(other.batches("train"))["x"], expected)
    larger = data(x.repeat(2, axis=-2 if len(shape) == 4 else -1))  # which are brought to its size
    larger.use_signature(of_training.signature)
    assert larger.input_shape == of_training.input_shape


@pytest.mark.parametrize("channels", [2, 5])
def test_bytes_of_any_number_of_channels(channels: int, tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(256, size=(4, channels, 8, 6), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    for path in (x, str(tmp_path / "x.npy")):
        data = HFDataModule(path, kind=Image(range=(0, 255), layout="CHW"), cache="memory", val_fraction=0)
        torch.testing.assert_close(next(iter(data.batches("train", 9)))["x"], torch.tensor(x) / 255)
    with pytest.raises(InputError, match=r"kind=Image\(range="):
        HFDataModule(x, cache="memory")


def test_the_ends_of_a_range_are_inside_of_it() -> None:
    x = np.full((3, 4, 4), np.float32(0.1))
    x[:, 0] = 0
    data = HFDataModule(x, kind=Image(range=(0, 0.1)), cache="memory", val_fraction=0)
    model = Autoencoder(data.input_shape)
    model.signature = data.signature
    assert torch.equal(model.features(x), model.pool(model.encode(next(iter(data.batches("train", 9)))["x"])))
    x[1, 2, 3] = 0.2
    with pytest.raises(InputError, match="row 1, channel 0, pixel .2, 3. holds 0.2"):
        model.features(x)


def test_bytes_among_images_of_12_bits_are_refused_by_row() -> None:
    images = [PIL.Image.fromarray(deep()[0].astype(np.uint16)), PIL.Image.new("L", (9, 7), 255)]
    data = HFDataModule({"image": images}, kind=Image(range=(0, 4095)), cache="memory", val_fraction=0)
    with pytest.raises(InputError, match="row 1 of split 'train': an image of mode 'L' has 8 bits"):
        next(iter(data.batches("train", 9)))
    bytes_ = HFDataModule({"image": images[1:] * 2}, kind=Image(range=(0, 255)), cache="memory", val_fraction=0)
    assert (next(iter(bytes_.batches("train", 9)))["image"] == 1).all()


@pytest.mark.parametrize(
    ("channels", "said"), [(1, "some"), (3, "some"), (2, "some: channel 1 of 2"), (5, "some: channels 1 to 3 of 5")]
)
def test_a_picture_says_which_channels_it_shows(channels: int, said: str) -> None:
    from lightning_ae.callbacks.pictures import unit_figure

    x = torch.rand(2, channels, 4, 4)
    figure = unit_figure([x, x], ["a", "b"], "some")
    assert figure.get_suptitle() == said
    first = np.asarray(figure.axes[0].images[0].get_array())
    expected = x[0, 0] if channels < 3 else x[0, :3].permute(1, 2, 0)
    np.testing.assert_array_equal(first, expected.numpy())
