"""`lightning-ae score` in shards: the scores of a job without, ranks in a file of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
from sharded import PROCESS
from test_score import KIND, fails, fit, table

from lightning_ae import VAE, HFDataModule
from lightning_ae.cli.app import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model and two tables."""
    folder = tmp_path_factory.mktemp("scores")
    plain = table(300, 0)
    plain[plain.status == "fine"].to_csv(folder / "plain.csv", index=False)
    table(200, 1).to_csv(folder / "mixed.csv", index=False)
    data = HFDataModule(str(folder / "plain.csv"), kind=KIND, label="status", val_fraction=0.2, cache="memory")
    pl.seed_everything(0, verbose=False)
    fit(VAE(latent_dim=2, lr=1e-2, **data.suits), data, 4).save_checkpoint(folder / "model.ckpt")
    return folder


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for name in PROCESS:
        monkeypatch.delenv(name, raising=False)


def score(output: str, *more: str) -> None:
    main(["score", "model.ckpt", "--path", "mixed.csv", "--output", output, "--device", "cpu", *more])


def last_words(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The table of what was found, in words."""
    return capsys.readouterr().out.partition("split")[2].split()


def test_shards_have_the_scores_of_one_file(capsys: pytest.CaptureFixture[str]) -> None:
    score("whole")
    expected = last_words(capsys)
    score("parts", "--shard_rows", "50")
    assert last_words(capsys) == expected  # the numbers, AUROC and average precision
    for split in ("train", "val"):
        whole = pd.read_parquet(f"whole/{split}.parquet")
        parts = pd.concat(pd.read_parquet(file) for file in sorted(Path("parts", split).glob("*.parquet")))
        assert list(parts.columns) == [name for name in whole.columns if name != "rank"]
        for name in parts.columns:
            if name == "score_":
                np.testing.assert_allclose(parts[name], whole[name], rtol=1e-5, atol=1e-5)
            elif name == "features":
                assert [[one["name"] for one in each] for each in parts[name]] == [
                    [one["name"] for one in each] for each in whole[name]
                ]
            else:
                np.testing.assert_array_equal(parts[name], whole[name])
        ranks = pd.read_parquet(f"parts/{split}-ranks.parquet")
        by_rank = whole.sort_values("rank")
        assert ranks["rank"].tolist() == by_rank["rank"].tolist()
        assert ranks["row"].tolist() == by_rank["row"].tolist()
        np.testing.assert_allclose(ranks["score"], by_rank["score_"], rtol=1e-5, atol=1e-5)
    assert not list(Path("parts").rglob(".*"))


def test_a_job_goes_on_and_another_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--splits", "[train]", "--shard_rows", "50"]
    score("again", *args)
    made = {file: file.stat().st_mtime_ns for file in Path("again").rglob("*.parquet")}
    assert len(made) == 5  # of 160 rows, and the ranks
    score("again", *args)
    assert {file: file.stat().st_mtime_ns for file in Path("again").rglob("*.parquet")} == made
    lost = [Path("again/train/00001-of-00004.parquet"), Path("again/train-ranks.parquet")]
    for file in lost:
        file.unlink()
    capsys.readouterr()
    score("again", *args)
    assert "1 shards made, 3 there already" in capsys.readouterr().out
    assert all(file.exists() for file in lost)
    common = ["model.ckpt", "--path", "mixed.csv", "--output", "again", *args]
    assert "options differ" in fails(capsys, *common, "--seed", "1")
    assert "options differ" in fails(capsys, *common, "--quantile", "0.5")  # another threshold
    assert "without shards" in fails(capsys, *common, "--store", "true")
    score("single", "--splits", "[train]")
    assert "of a job without shards" in fails(capsys, *common[:4], "single", *args)


def test_who_ends_last_writes_the_ranks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from filelock import FileLock

    Path("shared/train").mkdir(parents=True)
    args, found = ["--splits", "[train]", "--shard_rows", "50"], []
    fit_threshold = VAE.fit_threshold

    def counted(*args: Any, **kwargs: Any) -> Any:
        found.append(fit_threshold(*args, **kwargs))
        return found[-1]

    monkeypatch.setattr(VAE, "fit_threshold", counted)
    with FileLock("shared/train/.00000-of-00004.lock"):  # another process is at it
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        score("shared", *args)
    assert "others are at 1 more" in capsys.readouterr().out
    assert not Path("shared/train-ranks.parquet").exists()
    monkeypatch.setenv("RANK", "0")
    score("shared", *args)
    assert len(pd.read_parquet("shared/train-ranks.parquet")) == 160
    assert len(found) == 1  # by the first, for all
    assert json.loads(Path("shared/threshold.json").read_text())["threshold"] == found[0].plain()


def test_ray_actors_score() -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    args = ["--splits", "[train]", "--shard_rows", "50"]
    score("one", *args)
    score("actors", *args, "--actors", "2")
    one, actors = (pd.read_parquet(f"{folder}/train-ranks.parquet") for folder in ("one", "actors"))
    assert actors["row"].tolist() == one["row"].tolist()
    np.testing.assert_allclose(actors["score"], one["score"], rtol=1e-5, atol=1e-5)


def test_images_have_a_picture() -> None:
    args = ["--path", "digits", "--splits", "[test]", "--output", "images", "--shard_rows", "200", "--n", "2"]
    main(["score", "vae_mlp.digits_v1", *args])
    assert Path("images/strangest.png").stat().st_size > 1000
    assert pd.read_parquet("images/test/").columns[0] == "score"


def test_the_run_of_a_checkpoint_gets_what_was_found_once(folder: Path, tmp_path: Path) -> None:
    """By who writes the ranks, as from a job without shards; not again where all is there."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "checkpoints").mkdir()
    log = tmp_path / "tensorboard"
    log.mkdir()
    checkpoint = tmp_path / "checkpoints" / "best.ckpt"
    checkpoint.write_bytes((folder / "model.ckpt").read_bytes())
    words = ["score", str(checkpoint), "--device", "cpu", "--splits", "[val]", "--shard_rows", "20"]
    main([*words, "--path", "mixed.csv", "--output", str(tmp_path / "other")])
    assert not list(log.iterdir())
    for _ in range(2):
        main(words)
    (median,) = EventAccumulator(str(log)).Reload().Scalars("val/score_median")
    scores = pd.read_parquet(tmp_path / "scores" / "val-ranks.parquet")["score"]
    assert median.value == pytest.approx(scores.median(), rel=1e-6)
    assert median.step == 8  # four epochs of two batches
