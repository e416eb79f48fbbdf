"""Sequences: windows against a direct loop, gaps, groups, missing steps, ready arrays in either layout."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from datasets import Array2D, Dataset, DatasetDict, Features, Value

from lightning_ae import VAE, HFDataModule, InputError, load_model
from lightning_ae.data import Sequence
from lightning_ae.data.loader import Order
from lightning_ae.data.windows import Series, cut
from lightning_ae.preprocess import SequencePreprocess
from lightning_ae.training.values import Offender
from lightning_ae.zoo.publishing.entry import config_of

RNG = np.random.default_rng(0)
LENGTH, STRIDE = 5, 2
MACHINES = {"b": 31, "a": 24, "c": 4, "d": 17}


def series() -> pd.DataFrame:
    """Machines whose rows are mixed, each in the order of its times, with gaps at some."""
    parts = []
    for name, n in MACHINES.items():
        t = np.arange(n, dtype=float)
        t[n // 2 :] += 3 if name in "ad" else 0.4
        values = RNG.normal([5, -100], [1, 20], (n, 2))
        parts.append(pd.DataFrame({"m": name, "t": t, "u": values[:, 0], "v": values[:, 1], "label": np.arange(n) % 3}))
    frame = pd.concat(parts)
    return frame.iloc[np.argsort(frame["t"].to_numpy(), kind="stable")].reset_index(drop=True)


FRAME = series()
KIND = Sequence(("u", "v"), length=LENGTH, stride=STRIDE, group="m", time="t")


def module(rows: Any = FRAME, kind: Sequence = KIND, **options: Any) -> HFDataModule:
    rows = Dataset.from_pandas(rows, preserve_index=False) if isinstance(rows, pd.DataFrame) else rows
    return HFDataModule(rows, kind=kind, **{"cache": "memory", "val_fraction": 0, "batch_size": 7, **options})


def directly(frame: pd.DataFrame, rows: list[int] | None = None, gap: float = 1.5) -> list[list[int]]:
    """The rows of each window, by a loop over the rows of each machine."""
    found = []
    for name in sorted(set(frame["m"])):
        mine = [row for row in range(len(frame)) if frame["m"][row] == name]
        run: list[int] = []
        runs = [run]
        for i, row in enumerate(mine):
            if run and (frame["t"][row] - frame["t"][run[-1]] > gap or mine[i - 1] != run[-1]):
                runs.append(run := [])
            if rows is None or row in rows:
                run.append(row)
        for run in runs:
            found += [run[i : i + LENGTH] for i in range(0, len(run) - LENGTH + 1, STRIDE)]
    return found


def gathered(data: HFDataModule, split: str = "train") -> dict[str, torch.Tensor]:
    batches = list(data.batches(split))
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def test_windows_are_those_of_a_loop() -> None:
    data = module()
    windows = directly(FRAME)
    found = gathered(data)
    values = FRAME[["u", "v"]].to_numpy()
    scaled = (values - values.mean(axis=0)) / values.std(axis=0)
    expected = np.stack([scaled[rows].T for rows in windows])
    assert expected.shape == (len(windows), 2, LENGTH)
    np.testing.assert_allclose(found["x"].numpy(), expected, atol=1e-6)
    assert data.input_shape == (2, LENGTH)
    last = [rows[-1] for rows in windows]
    assert found["label"].tolist() == data.labels("train").tolist() == FRAME["label"][last].tolist()
    assert data.dataset("train")["t"][:] == FRAME["t"][last].tolist()
    keys = data.keys("train")
    assert keys["row"].tolist() == [rows[0] for rows in windows]
    assert keys["window"].tolist() == list(range(len(windows)))
    assert Offender(0, 3, LENGTH + 2, 9.0).named((2, LENGTH), data.signature) == "row 3 of batch 0, column 'v' at 2: 9"
    some = torch.tensor([3, 0])
    torch.testing.assert_close(data.rows("train", some)["x"], found["x"][some])
    data._counted_by(data._loader("train"), "train")  # as of a trainer, by whose batches rows are counted
    assert data.row_of("train", 0, 3) == f"window 3, from row {windows[3][0]} to row {windows[3][-1]} of split 'train',"


@pytest.mark.parametrize("stride", [1, 2, 9])
def test_how_many_rows_lie_in_no_window_is_said(stride: int, caplog: pytest.LogCaptureFixture) -> None:
    kind = Sequence(("u",), length=LENGTH, stride=stride, group="m", time="t")
    with caplog.at_level(logging.INFO):
        data = module(kind=kind)
        data.setup("fit")
        starts = data.keys("train")["row"]
    rows_of: dict[int, list[int]] = {}
    for name in MACHINES:
        mine = FRAME.index[FRAME["m"] == name].tolist()
        rows_of |= {row: mine[i : i + LENGTH] for i, row in enumerate(mine)}
    covered = {row for start in starts for row in rows_of[int(start)]}
    words = f"{len(starts)} windows of 5 rows train; of {len(FRAME)} rows {len(FRAME) - len(covered)} lie in none"
    assert caplog.text.count(words) == 1
    assert "none with a step of more than 1.5" in caplog.text


@pytest.mark.parametrize(
    "options", [{}, {"split_by": "m", "val_fraction": 0.5}, {"split_time": "t", "val_fraction": 0.4}], ids=str
)
def test_no_window_lies_in_two_splits(options: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        data = module(**{"val_fraction": 0.4, **options})
        data.setup("fit")
        found = {split: gathered(data, split) for split in ("train", "val")}
    if not options:  # the last of each
        held = [row for m, n in MACHINES.items() for row in FRAME.index[FRAME["m"] == m][n - round(0.4 * n) :]]
        assert sorted(held) == data.parts["val"].tolist()
        assert "the last of each series" in caplog.text
    assert sorted(np.concatenate(list(data.parts.values()))) == list(range(len(FRAME)))  # each row in one
    train = data.parts["train"].tolist()
    values = FRAME[["u", "v"]].to_numpy()
    scaled = (values - values[train].mean(axis=0)) / values[train].std(axis=0)  # of the rows that train alone
    for split, rows in data.parts.items():
        if split in found:
            windows = directly(FRAME, rows.tolist())
            assert windows
            np.testing.assert_allclose(found[split]["x"], np.stack([scaled[rows].T for rows in windows]), atol=1e-6)


def test_rows_of_another_part_end_a_window() -> None:
    line = Series(np.zeros(9, np.int64), None, 1.0)
    rows, runs = line.runs(np.array([0, 1, 2, 5, 6, 7, 8]), np.inf, "")
    assert cut(rows, runs, 3, 1).first.tolist() == [0, 5, 6]


def test_two_ranks_take_the_windows_of_one() -> None:
    data = module()
    loader = data._loader("train", training=True, seed=3)
    read, n = loader.read, loader.batch_sampler.samples  # type: ignore[union-attr]
    whole = [batch["x"] for batch in loader]
    ranks = [[read(at)["x"] for at, _ in Order(n, 7, True, 3, 2, rank).batches()] for rank in (0, 1)]
    for one, first, second in zip(whole, *ranks, strict=True):
        assert torch.equal(one[0::2], first)
        assert torch.equal(one[1::2], second)


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_no_window_is_kept_twice(cache: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_AE_CACHE", str(tmp_path))
    data = module(cache=cache, val_fraction=0.4)
    data.setup("fit")
    assert [array.shape for array in data._arrays.values()] == [(len(FRAME), 2)]
    other = module(kind=Sequence(("u", "v"), length=9, group="m", time="t"), cache=cache, val_fraction=0)
    other.setup("fit")
    assert len(list(tmp_path.glob("*/*/entry.json"))) == (cache == "disk")  # the same rows, however they are cut


def test_the_default_stride_and_a_series_without_times() -> None:
    data = module(Dataset.from_dict({"a": np.arange(20.0)}), Sequence(length=6, scaling="none"))
    starts = [0, 3, 6, 9, 12]
    assert data.keys("train")["row"].tolist() == starts
    assert next(data.batches("train"))["a"][:, 0].tolist() == [list(range(i, i + 6)) for i in starts]
    texts = pd.DataFrame({"a": np.arange(9.0), "t": [f"2024-05-01T00:00:{s:02}" for s in [*range(5), *range(9, 13)]]})
    assert module(texts, Sequence(("a",), length=4, stride=1, time="t")).keys("train")["row"].tolist() == [0, 1, 5]
    assert module(texts, Sequence(("a",), length=9, time="t", gap=5)).keys("train")["row"].tolist() == [0]


def test_missing_steps_do_not_count() -> None:
    hidden = RNG.random((len(FRAME), 2)) < 0.2
    frame = FRAME.copy()
    frame[["u", "v"]] = frame[["u", "v"]].mask(hidden)
    data = module(frame, Sequence(("u", "v"), LENGTH, STRIDE, "m", "t", missing="masked"))
    found = gathered(data)
    windows = directly(FRAME)
    shown = np.ma.array(FRAME[["u", "v"]].to_numpy(), mask=hidden)
    scaled = ((shown - shown.mean(axis=0)) / shown.std(axis=0)).filled(0)
    np.testing.assert_array_equal(found["mask"], np.stack([~hidden[rows].T for rows in windows]))
    np.testing.assert_allclose(found["x"], np.stack([scaled[rows].T for rows in windows]), atol=1e-6)


@pytest.fixture(scope="module")
def arrays() -> np.ndarray:
    return RNG.normal([[[3.0], [40.0]]], [[[1.0], [9.0]]], (12, 2, 6)).astype(np.float32)


@pytest.mark.parametrize("form", ["Array2D", "lists", "vectors"])
@pytest.mark.parametrize("layout", ["NCL", "NLC"])
def test_ready_arrays_in_either_layout(arrays: np.ndarray, layout: Any, form: str) -> None:
    given = arrays if layout == "NCL" else arrays.transpose(0, 2, 1)
    if form == "vectors":  # each a channel
        rows = Dataset.from_dict({"p": arrays[:, 0].tolist(), "q": arrays[:, 1].tolist()})
        kind = Sequence(("p", "q"))
        given = arrays
    else:
        feature = Array2D(given.shape[1:], "float32") if form == "Array2D" else [[Value("float32")]]
        rows = Dataset.from_dict({"s": given.tolist()}, features=Features(s=feature))
        kind = Sequence(layout=layout)
    data = module(rows, kind)
    expected = (arrays - arrays.mean((0, 2), keepdims=True)) / arrays.std((0, 2), keepdims=True)
    found = torch.cat([next(iter(batch.values())) for batch in data.batches("train")])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert data.input_shape == (2, 6)
    np.testing.assert_allclose(data.signature.tensor(given), expected, atol=1e-5)
    np.testing.assert_allclose(data.signature.tensor(rows.to_pandas()), expected, atol=1e-5)
    decoded = next(iter(data._arrays.values()))
    assert decoded.shape == (12, 2, 6)
    assert decoded.is_contiguous()


def test_a_trained_model_takes_its_sequences(tmp_path: Any) -> None:
    data = module(FRAME, Sequence(("u", "v"), LENGTH, STRIDE, "m", "t", missing="masked", scaling="quantile"))
    model = VAE(data.input_shape, latent_dim=2)
    trainer = pl.Trainer(
        max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = load_model(tmp_path / "model.ckpt")
    assert isinstance(loaded.signature.preprocess, SequencePreprocess)
    assert loaded.signature.names == ["u", "v"]
    published = config_of("vae_mlp.machines_v1", loaded).preprocess.build()
    assert published == data.signature.preprocess == loaded.signature.preprocess
    x = next(data.batches("train"))
    rows = directly(FRAME)[0]
    expected = loaded.pool(loaded.encode(x["x"][:1], mask=x["mask"][:1]))
    torch.testing.assert_close(loaded.features(FRAME.iloc[rows]), expected)
    torch.testing.assert_close(loaded.features(FRAME[["u", "v"]].to_numpy()[rows].T[None]), expected)
    other = module(FRAME, Sequence(stride=STRIDE, group="m", time="t", length=LENGTH))  # the model says the rest
    other.use_signature(loaded.signature)
    assert torch.equal(gathered(other)["x"], gathered(data)["x"])
    for kind, words in [(None, "kind=Sequence"), (Sequence(length=4, group="m", time="t"), "length=4")]:
        with pytest.raises(InputError, match=words):
            module(FRAME, kind).use_signature(loaded.signature)  # type: ignore[arg-type]


def test_windows_are_cut_in_each_of_the_data_sets_own_splits() -> None:
    rows = Dataset.from_pandas(FRAME, preserve_index=False)
    data = module(DatasetDict(train=rows, test=rows.select(range(50))))
    assert data.labels("test").tolist() == [FRAME["label"][rows[-1]] for rows in directly(FRAME[:50])]
    assert len(gathered(data, "test")["x"]) == len(directly(FRAME[:50]))
