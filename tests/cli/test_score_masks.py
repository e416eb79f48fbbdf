"""`lightning-ae score --mask`: the AUROC of pixels against scikit-learn and Pillow, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image as PILImage
from pyarrow import parquet
from sklearn.metrics import roc_auc_score

from lightning_ae import Autoencoder, HFDataModule
from lightning_ae.cli.app import main
from lightning_ae.data import Image
from lightning_ae.metrics.anomalies import PixelAUROC


def rows(n: int = 12) -> dict[str, Any]:
    """Images of 20 x 16 pixels, some with a bright spot, which the mask marks: with 255, with a palette's 1, or not."""
    g = np.random.default_rng(0)
    images, masks = [], []
    for i in range(n):
        image, mask = g.integers(60, 120, (20, 16), dtype=np.uint8), np.zeros((20, 16), np.uint8)
        y, x = g.integers(0, 15), g.integers(0, 11)
        if i % 3:
            image[y : y + 5, x : x + 5] = 250
            mask[y : y + 5, x : x + 5] = 255 if i % 2 else 1
        images.append(PILImage.fromarray(image))
        masks.append(PILImage.fromarray(mask, "L"))
        if i % 4 == 2:
            masks[-1] = PILImage.fromarray(mask // max(mask.max(), 1))
            masks[-1].putpalette([255, 255, 255, 0, 0, 0])  # what is normal is white
        if i == 5:
            masks[-1] = None
    return {"image": images, "mask": masks, "weight": list(range(n))}


FEATURES = Features({"image": ImageFeature(), "mask": ImageFeature(), "weight": Value("int64")})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and a table of images and masks."""
    made = tmp_path_factory.mktemp("masks")
    Dataset.from_dict(rows(), FEATURES).to_parquet(made / "train.parquet")
    kind = Image("image", size=(8, 8), fit="crop")
    data = HFDataModule(str(made / "train.parquet"), kind=kind, val_fraction=0, cache="memory")
    import pytorch_lightning as pl

    pl.seed_everything(0, verbose=False)
    model = Autoencoder((1, 8, 8), 2)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data)
    trainer.save_checkpoint(made / "model.ckpt")
    return made


def run(folder: Path, out: Path, *words: str) -> None:
    main(["score", str(folder / "model.ckpt"), "--output", str(out), "--device", "cpu", "--n", "0", *words])


def test_pixels_are_found_where_masks_say(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lightning_ae import load_model

    run(folder, tmp_path, "--mask", "mask", "--batch_size", "5")
    said = capsys.readouterr().out
    made, model = rows(), load_model(folder / "model.ckpt")
    found, marked = [], []
    for image, mask in zip(made["image"], made["mask"], strict=True):
        if mask is not None:
            found.append(model.score([image], "feature").numpy().reshape(8, 8))
            marked.append(np.asarray(mask.resize((8, 10), PILImage.Resampling.NEAREST))[1:9] != 0)
    expected = roc_auc_score(np.stack(marked).ravel(), np.stack(found).ravel())
    assert 0.6 < expected < 0.999
    assert f"{expected:.3f}, 11 rows with a mask" in said
    assert "AUROC of pixels" in said


def test_the_run_of_a_checkpoint_gets_what_was_found(folder: Path, tmp_path: Path) -> None:
    """In its TensorBoard log, at the checkpoint's step; of its own data alone."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "tensorboard").mkdir()
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    checkpoint.write_bytes((folder / "model.ckpt").read_bytes())
    words = ["score", str(checkpoint), "--device", "cpu", "--n", "2", "--mask", "mask"]
    other = ["--path", str(folder / "train.parquet"), "--splits", "train", "--output", str(tmp_path / "other")]
    main([*words, *other])
    assert not list((tmp_path / "run" / "tensorboard").iterdir())
    main(words)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"images": 0}).Reload()
    scores = parquet.read_table(tmp_path / "run" / "scores" / "train.parquet")["score"].to_numpy()
    (median,) = events.Scalars("train/score_median")
    assert median.value == pytest.approx(np.median(scores), rel=1e-6)
    assert median.step == 1
    assert 0.6 < events.Scalars("train/score_pixel_auroc")[0].value < 0.999
    assert [image.step for image in events.Images("pictures/strangest")] == [1]


@pytest.mark.parametrize("reason", [ModuleNotFoundError("no tensorboard"), PermissionError("not yours")])
def test_a_log_that_cannot_be_written_is_said(
    reason: Exception, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **options: Any) -> None:
        raise reason

    for name in ("checkpoints", "tensorboard"):
        (tmp_path / "run" / name).mkdir(parents=True)
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    checkpoint.write_bytes((folder / "model.ckpt").read_bytes())
    monkeypatch.setattr("pytorch_lightning.loggers.TensorBoardLogger.__init__", broken)
    with pytest.warns(UserWarning, match=f"nothing is added to .*: {reason}"):
        main(["score", str(checkpoint), "--device", "cpu", "--n", "0"])
    assert (tmp_path / "run" / "scores" / "train.parquet").exists()


@pytest.mark.parametrize("ties", [False, True])
def test_the_auroc_of_pixels_is_the_exact_one(ties: bool) -> None:
    g = torch.Generator().manual_seed(0)
    scores, strange = torch.randn(3, 40, 30, generator=g), torch.rand(3, 40, 30, generator=g) < 0.05
    scores += strange
    scores = (3 * scores).round() if ties else scores
    counted = PixelAUROC(scores[strange])
    for each, marked in zip(scores, strange, strict=True):
        counted.update(each[~marked])
    assert counted.compute() == pytest.approx(roc_auc_score(strange.flatten(), scores.flatten()), abs=1e-12)


def changed(folder: Path, tmp_path: Path, at: int, mask: PILImage.Image | None) -> str:
    made = rows()
    made["mask"] = [mask if i == at or at < 0 else each for i, each in enumerate(made["mask"])]
    Dataset.from_dict(made, FEATURES).to_parquet(tmp_path / "train.parquet")
    return str(tmp_path / "train.parquet")


@pytest.mark.parametrize(
    ("mask", "words", "expected"),
    [
        (PILImage.new("L", (16, 19)), [], "mask 'mask': row 3 of split 'train' has 19 x 16 pixels, and its image 20 x"),
        (PILImage.new("LA", (16, 20)), [], "mask 'mask': row 3 of split 'train' has transparency (mode LA)"),
        (None, ["--mask", "weight"], "unknown column of masks 'weight'"),
        (None, ["--mask", "masks"], "the data set has no column 'masks'"),
        (None, ["--draws", "2"], "mask takes one draw, got draws=2"),
        (None, ["--shard_rows", "4"], "mask is not looked at in shards"),
    ],
)
def test_what_is_refused_leaves_nothing(
    mask: Any, words: list[str], expected: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = changed(folder, tmp_path, 3, mask)
    with pytest.raises(SystemExit):
        run(folder, tmp_path / "none", "--path", path, "--splits", "train", "--mask", "mask", *words)
    assert expected in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "none").exists()


def test_masks_of_one_kind_are_said(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = changed(folder, tmp_path, -1, PILImage.new("L", (16, 20)))
    run(folder, tmp_path / "none", "--path", path, "--splits", "train", "--mask", "mask")
    assert "no pixels are marked" in " ".join(capsys.readouterr().out.split())


def test_a_zoo_entry_that_names_no_column_reads_the_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Dataset.from_dict(rows(), FEATURES).to_parquet(tmp_path / "test.parquet")
    words = ["--path", str(tmp_path / "test.parquet"), "--device", "cpu", "--n", "0", "--output", str(tmp_path / "out")]
    main(["score", "vae_mlp.digits_v1", *words, "--mask", "mask"])
    assert "AUROC of pixels" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["score", "vae_mlp.digits_v1", *words, "--mask", "image"])
