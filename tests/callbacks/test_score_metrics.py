"""ScoreMetrics: what it logs is that of all the rows, on any number of ranks; what it draws, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from sklearn.metrics import average_precision_score, roc_auc_score
from torch.utils.data import DataLoader, TensorDataset

from lightning_ae import VAE, Autoencoder, HFDataModule, InputError, get_model
from lightning_ae.callbacks import ScoreMetrics, scores
from lightning_ae.metrics.anomalies import separation
from lightning_ae.thresholds import Threshold
from lightning_ae.training import processes


def trainer(folder: Path, callback: pl.Callback, **options: Any) -> pl.Trainer:
    options = {"logger": CSVLogger(folder, name="", version="run"), "max_epochs": 1} | options
    return pl.Trainer(
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, callbacks=[callback],
        default_root_dir=folder, **options,
    )  # fmt: skip


def test_it_logs_the_scores_of_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of `score`, by numpy and scikit-learn; the images at the ends are theirs."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    drawn: list[Any] = []
    figure, data = scores.unit_figure, HFDataModule("digits", cache="memory", batch_size=70)
    monkeypatch.setattr(scores, "unit_figure", lambda rows, *rest: drawn.append(rows) or figure(rows, *rest))
    torch.manual_seed(0)
    model = VAE((1, 8, 8), 4)
    x = torch.cat([batch["image"] for batch in data.batches("test")])
    value = float(model.score(x).quantile(0.7))
    model.threshold = Threshold(value, 0.9, 10)
    loggers = [CSVLogger(tmp_path, name="", version="run"), TensorBoardLogger(tmp_path, name="", version="run")]
    callback = ScoreMetrics(anomaly=["8", 3], quantile=0.9, n=3)
    (logged,) = trainer(tmp_path, callback, logger=loggers).test(model, data, verbose=False)
    found, odd = model.score(x).numpy(), np.isin(data.labels("test"), [3, 8])
    expected = {
        "median": np.median(found), "quantile": np.quantile(found, 0.9), "exceeds": (found > value).mean(),
        "auroc": roc_auc_score(odd, found), "average_precision": average_precision_score(odd, found),
    }  # fmt: skip
    assert expected["exceeds"] == pytest.approx(0.3, abs=0.01)
    for name, value in expected.items():
        assert logged[f"test/score_{name}"] == pytest.approx(value, rel=1e-5), name
    order = found.argsort()
    (rows,) = drawn
    for images, positions in ((rows[0], order[::-1][:3]), (rows[2], order[:3])):
        torch.testing.assert_close(images, x[positions.copy()])
    where = torch.cat([model.score(x[order[::-1][:3].copy()], "feature"), model.score(x[order[:3].copy()], "feature")])
    scaled = (where - where.min()) / (where.max() - where.min())
    torch.testing.assert_close(torch.cat([rows[1], rows[3]]), scaled, rtol=1e-4, atol=1e-5)
    assert (tmp_path / "run" / "pictures" / "strangest_test.png").is_file()
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["pictures/strangest"]
    assert "test/score_auroc" in events.Tags()["scalars"]
    assert "test/score_auroc" in (tmp_path / "run" / "metrics.csv").read_text()


def test_its_quantile_is_the_threshold_and_a_run_stays_as_it_is(tmp_path: Path) -> None:
    class Dropping(VAE):  # draws from the global generator
        def infer(self, x: torch.Tensor, **given: torch.Tensor) -> Any:
            return super().infer(torch.nn.functional.dropout(x, 0.2, self.training))

    weights = []
    for callback in (ScoreMetrics(every_n_epochs=2), pl.Callback()):
        pl.seed_everything(5, verbose=False)
        data, model = HFDataModule("digits", cache="memory"), Dropping((1, 8, 8), 4)
        run = trainer(tmp_path / str(len(weights)), callback, max_epochs=2)
        run.fit(model, data)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        if isinstance(callback, ScoreMetrics):
            found = model.fit_threshold(data).value
            assert run.callback_metrics["val/score_quantile"] == pytest.approx(found, rel=1e-5)
            assert "val/score_auroc" not in run.callback_metrics  # of ten classes, none was named
    assert torch.equal(*weights)
    lines = (tmp_path / "0" / "run" / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("val/score_median")
    assert sum(line.split(",")[column] != "" for line in lines[1:]) == 1  # in the second epoch alone


class Recorded(VAE):
    """A model outside of a trainer's run."""

    def log_dict(self, values: Any, **options: Any) -> None:  # type: ignore[override]
        self.logged = values


def run_by_hand(rank: int, world: int, folder: str) -> None:
    """What the callback makes of this rank's batches, of which the second rank has fewer rows."""
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.manual_seed(0)
    model = Recorded((1, 8, 8), 2).double()
    x, y = torch.rand(23, 1, 8, 8, dtype=torch.float64), torch.arange(23) % 3
    batches = [(x[i : i + 4][rank::world], y[i : i + 4][rank::world]) for i in range(0, 23, 4)]
    run: Any = SimpleNamespace(
        datamodule=None, log_dir=folder, state=SimpleNamespace(fn="test"), is_global_zero=True, loggers=[],
        fast_dev_run=False, sanity_checking=False,
    )  # fmt: skip
    drawn: list[Any] = []
    scores.show = lambda trainer, figure, *rest: drawn.append(figure)
    scores.extremes_figure = lambda *rows: rows[:4]
    callback = ScoreMetrics(anomaly=[2], n=5)
    callback.setup(run, model, "test")
    callback.start(run, model, "test")
    for i, batch in enumerate(batches):
        callback.see(run, model, batch, i, "test")
    callback.finish(run, model, "test")
    torch.save({"logged": model.logged, "drawn": drawn[0]}, f"{folder}/{world}-{rank}.pt")
    if world > 1:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("show", "extremes_figure"):
        monkeypatch.setattr(scores, name, getattr(scores, name))  # put back afterwards
    run_by_hand(0, 1, str(tmp_path))
    processes.run(run_by_hand, (2, str(tmp_path)), 2)
    one, *two = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert set(one["logged"]) == {f"test/score_{name}" for name in
                                  ("median", "quantile", "auroc", "average_precision")}  # fmt: skip
    for each in two:
        assert each["logged"] == pytest.approx(one["logged"], rel=1e-10)
        for there, alone in zip(each["drawn"], one["drawn"], strict=True):
            torch.testing.assert_close(there, alone)


def test_what_labels_do_not_tell_is_said(tmp_path: Path) -> None:
    x, y = torch.rand(20, 5), torch.zeros(20, dtype=torch.long)
    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    run = trainer(tmp_path, ScoreMetrics(anomaly=[1]))
    with pytest.warns(UserWarning, match="no val/score_auroc: all labelled rows are of one kind"):
        (logged,) = run.validate(Autoencoder((5,), 2), loader, verbose=False)
    assert {name for name in logged if "score" in name} == {"val/score_median", "val/score_quantile"}
    assert not list(tmp_path.rglob("*.png"))  # no images
    assert all(math.isnan(each) for each in separation(torch.tensor([0, 1]), torch.tensor([1.0, math.inf])) or [])
    assert separation(torch.tensor([0, 1, -1]), torch.tensor([1.0, 2.0, 0.0])) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("model", "callback", "words"),
    [
        ("score_matching", ScoreMetrics(), "has no likelihood"),
        ("vae", ScoreMetrics(anomaly=["nine"]), "unknown class of the label 'label' 'nine'"),
        ("vae", ScoreMetrics(anomaly=list(range(10))), "anomaly names all classes"),
    ],
)
def test_what_is_refused(model: str, callback: ScoreMetrics, words: str, tmp_path: Path) -> None:
    data = HFDataModule("digits", cache="memory")
    with pytest.raises(InputError, match=words):
        trainer(tmp_path, callback).test(get_model(model)((1, 8, 8), 4), data, verbose=False)


def test_what_cannot_be_is_refused_at_once(tmp_path: Path) -> None:
    for options in ({"quantile": 1.0}, {"n": -1}, {"every_n_epochs": 0}):
        with pytest.raises(InputError):
            ScoreMetrics(**options)  # type: ignore[arg-type]
    loader = DataLoader(TensorDataset(torch.rand(4, 5), torch.zeros(4)))
    with pytest.raises(InputError, match="anomaly 'odd' is no number of a class"):
        trainer(tmp_path, ScoreMetrics(anomaly=["odd"])).test(Autoencoder((5,), 2), loader, verbose=False)
