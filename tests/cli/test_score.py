"""`lightning-ae score`: the files that it writes, its threshold, and what it refuses."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from datasets import Dataset
from pyarrow import parquet
from sklearn.metrics import average_precision_score, roc_auc_score

from lightning_ae import VAE, Autoencoder, HFDataModule, InputError, load_model, zoo
from lightning_ae.architectures import MLP
from lightning_ae.cli.app import main
from lightning_ae.data.kinds import Tabular
from lightning_ae.training.checkpoint_file import METADATA_KEY, read_checkpoint

KIND = Tabular(columns=("a", "b", "c", "kind"), categories=("kind",), missing="masked")


def table(n: int, seed: int) -> pd.DataFrame:
    """Columns on a line, some unknown, and a class; every tenth row is odd, in its column c."""
    g = np.random.default_rng(seed)
    t = g.normal(size=n)
    frame = pd.DataFrame({"a": t, "b": 2 * t + 0.1 * g.normal(size=n), "c": 0.1 * g.normal(size=n) - t})
    frame["kind"] = np.where(t > 0, "high", "low")
    frame.loc[g.random(n) < 0.1, "b"] = np.nan
    frame["status"] = np.where(np.arange(n) % 10 == 3, "odd", "fine")
    frame["score"] = g.normal(size=n)  # another's
    frame.loc[frame.status == "odd", "c"] += 12
    return frame


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a model of the table's plain rows, and the table with odd ones, in the current folder."""
    folder = tmp_path_factory.mktemp("score")
    before = Path.cwd()
    os.chdir(folder)
    try:
        plain = table(600, 0)
        plain[plain.status == "fine"].to_csv("plain.csv", index=False)
        table(200, 1).to_csv("mixed.csv", index=False)
        data = HFDataModule("plain.csv", kind=KIND, label="status", val_fraction=0.2, cache="memory")
        pl.seed_everything(0, verbose=False)
        model = VAE(latent_dim=2, lr=1e-2, **data.suits)
        fit(model, data).save_checkpoint("model.ckpt")
        whole = HFDataModule("plain.csv", kind=KIND, label="status", val_fraction=0.0, cache="memory")
        fit(Autoencoder(latent_dim=2, **whole.suits), whole, 1).save_checkpoint("whole.ckpt")
        Path("far").mkdir()
        table(20, 2).to_csv("far/train.csv", index=False)
        far = table(20, 3)
        far.loc[7, "c"] = 1e30
        far.to_csv("far/test.csv", index=False)
    finally:
        os.chdir(before)
    return folder


def fit(model: Any, data: Any, epochs: int = 12) -> pl.Trainer:
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    trainer = pl.Trainer(
        max_epochs=epochs, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, **options
    )
    trainer.fit(model, datamodule=data)
    return trainer


@pytest.fixture(autouse=True)
def there(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)


def fails(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["score", *args, "--device", "cpu"])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_a_table_of_odd_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """Scores are the model's own, ranks theirs; the threshold is of the validation rows; the odd column is named."""
    main(["score", "model.ckpt", "--path", "mixed.csv", "--output", "out", "--device", "cpu", "--batch_size", "64"])
    said = capsys.readouterr().out
    file = parquet.read_table("out/train.parquet")  # by default a part of other data validates, too
    rows = pd.concat([pd.read_parquet(f"out/{split}.parquet") for split in ("train", "val")])
    assert file.column_names[:5] == ["score_", "rank", "exceeds", "features", "row"]
    mixed, model = table(200, 1), load_model("model.ckpt")
    assert sorted(rows.row) == list(range(200))
    one = parquet.read_table("out/train.parquet").to_pandas()
    again = model.score(mixed.loc[one.row].reset_index(drop=True))
    np.testing.assert_allclose(one.score_, again, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(one["score"], mixed.loc[one.row, "score"])
    assert one.score_.to_numpy()[one["rank"].to_numpy().argsort()].tolist() == sorted(one.score_, reverse=True)
    own = HFDataModule.load_from_checkpoint("model.ckpt", cache="memory")
    own.use_signature(model.signature)
    model.use_columns_of(own)
    held_out = torch.cat([found.score for found in model.score_rows(own, "val")]).double().numpy()
    threshold = np.quantile(held_out, 0.99)
    assert float(file.schema.metadata[b"lightning_ae.threshold"]) == pytest.approx(threshold)
    assert (one.exceeds == (one.score_ > threshold)).all()
    odd = mixed.loc[one.row, "status"].to_numpy() == "odd"
    assert {each[0]["name"] for each in one.features[odd]} == {"c"}
    shares = model.score(mixed.loc[one.row].reset_index(drop=True), per="feature")
    found = [each["share"] for each in one.features[0]]
    np.testing.assert_allclose(found, shares[0].topk(3).values, rtol=1e-4, atol=1e-4)
    auroc, precision = roc_auc_score(odd, one.score_), average_precision_score(odd, one.score_)
    assert auroc > 0.95
    assert f"{auroc:.3f}" in said
    assert f"{precision:.3f}" in said
    assert "AUROC of 'odd'" in " ".join(said.split())


def test_a_threshold_is_kept_in_the_checkpoint_and_its_children(capsys: pytest.CaptureFixture[str]) -> None:
    Path("kept.ckpt").write_bytes(Path("model.ckpt").read_bytes())
    assert load_model("kept.ckpt").threshold is None
    args = ["kept.ckpt", "--splits", "val", "--device", "cpu", "--overwrite", "--output", "kept"]
    main(["score", *args, "--quantile", "0.9", "--store"])
    model = load_model("kept.ckpt")
    assert (model.threshold.quantile, model.threshold.draws) == (0.9, 1)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), load_model("model.ckpt").parameters(), strict=True)
    )
    assert pd.read_parquet("kept/val.parquet").exceeds.sum() == math.ceil(0.1 * 107)
    capsys.readouterr()
    main(["score", *args])
    assert "the 0.9 quantile" in capsys.readouterr().out
    main(["score", *args, "--draws", "5"])  # of other scores
    assert "the 0.99 quantile" in capsys.readouterr().out
    assert "features" not in parquet.read_schema("kept/val.parquet").names
    data = HFDataModule.load_from_checkpoint("kept.ckpt", cache="memory")
    trainer = fit(model, data, 1)
    assert model.threshold is None  # the weights have moved
    trainer.save_checkpoint("further.ckpt")
    assert "threshold" not in read_checkpoint("further.ckpt")[METADATA_KEY]


def test_images_have_a_picture_and_no_features(capsys: pytest.CaptureFixture[str]) -> None:
    import PIL.Image

    main(["score", "vae_mlp.digits_v1", "--path", "digits", "--splits", "test", "--output", "digits", "--n", "3",
          "--anomaly", "8", "--device", "cpu"])  # fmt: skip
    said = capsys.readouterr().out
    assert "No threshold: " in said
    found = Dataset.from_parquet("digits/test.parquet")
    assert found.column_names == ["score", "rank", "row", "label"]
    assert PIL.Image.open("digits/strangest.png").width > 100
    assert f"{roc_auc_score(np.array(found['label']) == 8, found['score'][:]):.3f}" in said
    assert "exists already" in fails(
        capsys, "vae_mlp.digits_v1", "--path", "digits", "--splits", "test", "--output", "digits"
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["model.ckpt", "--draws", "0"], "draws must be a positive integer, got 0"),
        (["model.ckpt", "--quantile", "1"], "quantile must lie in (0, 1), got 1.0"),
        (["model.ckpt", "--quantile", "0"], "quantile must lie in (0, 1), got 0.0"),
        (["whole.ckpt", "--quantile", "0.9"], "the data have no validation split"),
        (["whole.ckpt", "--draws", "3"], "Autoencoder gives one code for an input, and no 3 draws"),
        (["model.ckpt", "--path", "mixed.csv", "--anomaly", "old"], "unknown class of the label 'status' 'old'"),
        (["model.ckpt", "--path", "mixed.csv", "--anomaly", "odd,fine"], "anomaly names all classes"),
        (["vae_mlp.digits_v1", "--store"], "store writes into a checkpoint"),
        (["whole.ckpt", "--store"], "the data have no validation split"),
        (["model.ckpt", "--n", "-1"], "n must not be negative"),
        (["model.ckpt", "--path", "far"], "row 7 of the test split has the score inf"),
    ],
)
def test_what_is_refused_leaves_nothing(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in " ".join(fails(capsys, *words, "--output", "none").split())
    assert not Path("none").exists()


def test_a_stream_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    content = read_checkpoint("whole.ckpt", mmap=False)
    content[METADATA_KEY]["data"]["init_args"] |= {"streaming": True, "cache": "none"}
    torch.save(content, "stream.ckpt")
    assert "model's data are a stream" in fails(capsys, "stream.ckpt", "--output", "none")
    assert not Path("none").exists()


def test_one_pass_over_a_stream_scores_as_what_is_held() -> None:
    """Scores, shares and the threshold."""
    model = zoo.load("vae_mlp.digits_v1")
    splits = HFDataModule("digits").splits
    held, streamed = (HFDataModule(splits, val_split="test", streaming=each, cache="none") for each in (False, True))
    for shares in (False, True):
        one, other = (list(model.score_rows(data, "val", shares, batch_size=100)) for data in (held, streamed))
        assert [len(found.score) for found in other] == [100, 100, 100, 60]
        for name in ("score", "shares") if shares else ("score",):
            both = [torch.cat([getattr(found, name) for found in each]) for each in (one, other)]
            torch.testing.assert_close(*both, rtol=1e-5, atol=1e-4)
    assert model.fit_threshold(streamed).value == pytest.approx(model.fit_threshold(held).value, rel=1e-5)
    assert model.threshold is not None
    assert model.threshold.rows == 360


def test_what_is_interrupted_leaves_nothing_half_written(monkeypatch: pytest.MonkeyPatch) -> None:
    write = parquet.ParquetWriter.write_table

    def cut(*args: Any, **options: Any) -> None:
        write(*args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(parquet.ParquetWriter, "write_table", cut)
    with pytest.raises(SystemExit):
        main(["score", "model.ckpt", "--output", "cut", "--device", "cpu"])
    assert not [file for file in Path("cut").rglob("*") if file.is_file()]


def test_labels_of_one_class_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    main(["score", "model.ckpt", "--splits", "val", "--output", "one", "--device", "cpu"])
    said = capsys.readouterr().out
    assert "AUROC" not in said  # the model knows one class
    Path("whole.csv").write_text(table(40, 2).assign(status="odd").to_csv(index=False))
    Path("both.csv").write_text(table(60, 2).to_csv(index=False))
    data = HFDataModule("both.csv", kind=KIND, label="status", val_fraction=0.2, cache="memory")
    fit(VAE(latent_dim=1, **data.suits), data, 1).save_checkpoint("both.ckpt")
    main(["score", "both.ckpt", "--path", "whole.csv", "--splits", "train", "--output", "odd", "--device", "cpu"])
    assert "all rows are of it" in " ".join(capsys.readouterr().out.split())
    words = ["both.ckpt", "--path", "whole.csv", "--splits", "train", "--output", "none", "--anomaly", "odd"]
    assert "has one class only in what is scored" in fails(capsys, *words)
    assert not Path("none").exists()


def test_a_threshold_is_never_of_rows_that_were_fitted() -> None:
    model = load_model("model.ckpt")
    data = HFDataModule.load_from_checkpoint("model.ckpt", cache="memory", split_seed=5)
    with pytest.raises(InputError, match=r"divided otherwise \(split_seed\)"):
        model.fit_threshold(data)
    with pytest.raises(InputError, match="no validation split"):
        model.fit_threshold(HFDataModule("plain.csv", kind=KIND, val_fraction=0, cache="memory"))
    with pytest.raises(InputError, match="quantile must lie"):
        model.fit_threshold(data, 1.0)
    assert model.threshold is None


def test_scores_that_are_no_numbers_name_their_row() -> None:
    frame = pd.DataFrame({"a": [0.0, 1.0, 1e30], "b": [0.0, 1.0, 2.0]})
    data = HFDataModule(frame, val_fraction=0, cache="memory", kind=Tabular(scaling="none"))
    model = Autoencoder((2,), 1, architecture=MLP(hidden=()))
    with pytest.raises(InputError, match="row 2 of the train split has the score (inf|nan)"):
        list(model.score_rows(data, "train"))
