"""Tables: scaling against scikit-learn, categories by name, missing values, dates, arrays."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, Value
from scipy.stats import norm
from sklearn.preprocessing import QuantileTransformer, RobustScaler, StandardScaler

from lightning_ae import VAE, HFDataModule, InputError, load_model
from lightning_ae.data import Tabular
from lightning_ae.data.scaling import KNOTS, NORMAL_IQR, scaled
from lightning_ae.preprocess import TabularPreprocess

ROWS = 300


def module(rows: Any, kind: Tabular | None = None, **options: Any) -> HFDataModule:
    rows = rows if isinstance(rows, Dataset) else Dataset.from_pandas(pd.DataFrame(rows), preserve_index=False)
    return HFDataModule(rows, kind=kind, **{"cache": "memory", "val_fraction": 0, "batch_size": 1000, **options})


def batch(rows: Any, kind: Tabular | None = None, **options: Any) -> dict[str, torch.Tensor]:
    return next(module(rows, kind, **options).batches("train"))


@pytest.fixture(scope="module")
def numbers() -> np.ndarray:
    rng = np.random.default_rng(0)
    columns = [rng.normal(1e3, 10, ROWS), rng.exponential(2, ROWS), rng.integers(0, 4, ROWS), np.full(ROWS, 7.0)]
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("scaling", ["standard", "robust", "quantile"])
def test_scaling_is_that_of_scikit_learn(numbers: np.ndarray, scaling: Any, missing: bool) -> None:
    values = numbers[:, :2] if missing else numbers
    if missing:
        values = values.copy()
        values[::7, 1] = np.nan
    expected = {
        "standard": StandardScaler(),
        "robust": RobustScaler(unit_variance=True),
        "quantile": QuantileTransformer(n_quantiles=KNOTS, output_distribution="normal", subsample=None),
    }[scaling].fit(values)  # fmt: skip
    parts = torch.from_numpy(values).split(64)
    found = scaled(scaling, lambda: iter(parts))
    given = torch.from_numpy(values)
    wanted = expected.transform(values)
    if scaling == "quantile" and not missing:
        # scikit-learn puts the least and the largest value 5.2 standard deviations away, however many share it
        whole = values[:, 2, None]
        middle = ((values[:, 2] < whole).mean(axis=1) + (values[:, 2] <= whole).mean(axis=1)) / 2
        np.testing.assert_allclose(found(given)[:, 2].numpy(), norm.ppf(middle), atol=0.03)  # by 101 knots
        assert not found(given)[:, 3].any()
        wanted, given, found = wanted[:, :2], given[:, :2], replace(found, mean=None, std=None, knots=found.knots[:2])
    np.testing.assert_allclose(found(given).numpy(), wanted, atol=2e-4 if scaling == "quantile" else 1e-5)
    back = found.inverse(found(given).double())
    np.testing.assert_allclose(back[:, 0].numpy(), values[:, 0], rtol=1e-5 if scaling == "quantile" else 1e-7)


def test_a_column_of_equal_quartiles_is_scaled_by_its_standard_deviation() -> None:
    values = torch.tensor([0.0] * 90 + [1.0] * 10, dtype=torch.float64)[:, None]
    assert scaled("robust", lambda: iter([values])).std == pytest.approx((0.3,))
    assert pytest.approx(2 * torch.distributions.Normal(0, 1).icdf(torch.tensor(0.75)).item()) == NORMAL_IQR


def test_tables_are_standardised_unless_told_otherwise(numbers: np.ndarray) -> None:
    rows = {"pressure": numbers[:, 0], "b": numbers[:, 1]}
    np.testing.assert_allclose(batch(rows)["x"].numpy(), StandardScaler().fit_transform(numbers[:, :2]), atol=1e-5)
    np.testing.assert_array_equal(batch(rows, Tabular(scaling="none"))["x"].numpy(), numbers[:, :2].astype(np.float32))
    stream = HFDataModule(Dataset.from_dict(rows).to_iterable_dataset(), streaming=True, val_fraction=0, batch_size=10)
    np.testing.assert_array_equal(next(stream.batches("train"))["x"].numpy(), numbers[:10, :2].astype(np.float32))


def test_categories_are_numbered_by_name() -> None:
    rows = {"a": [1.0, 2.0, 3.0, 4.0], "city": ["Bonn", "Aachen", None, "Bonn"], "size": ["S", "L", "M", "S"]}
    kind = Tabular(categories={"size": ("S", "M", "L"), "city": ("Aachen", "Bonn", "(missing)")}, scaling="none")
    data = module(rows, kind)
    assert data.input_columns == ["a", "city", "size"]
    assert data.categories == (0, 3, 3)
    assert next(data.batches("train"))["x"].tolist() == [[1, 1, 0], [2, 0, 2], [3, 2, 1], [4, 1, 0]]
    found = module(rows, Tabular(categories=("city",)))
    assert found.signature.classes == {"city": ("Aachen", "Bonn", "(missing)")}
    scaled_batch = next(found.batches("train"))["x"]
    assert scaled_batch[:, 1].tolist() == [1, 0, 2, 1]  # numbers are standardised, categories are not
    assert scaled_batch[:, 0].mean().abs() < 1e-6


def test_whole_numbers_beside_gaps_are_the_same_categories_in_a_frame() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "k": [3, None, 5, 3]})
    rows = Dataset.from_dict({"a": frame["a"], "k": [3, None, 5, 3]})
    data = module(rows, Tabular(categories=("k",)))
    assert data.signature.classes == {"k": ("3", "5", "(missing)")}
    assert torch.equal(data.signature.tensor(frame), next(data.batches("train"))["x"])


def test_auto_takes_texts_of_few_kinds_and_declared_classes() -> None:
    names = [f"name {i}" for i in range(8)]
    rows = Dataset.from_dict(
        {"a": [0.0] * 8, "few": list("xyxyxyxy"), "many": names, "kind": [0, 1] * 4, "user_id": names},
        features=Features(
            a=Value("float32"),
            few=Value("string"),
            many=Value("string"),
            kind=ClassLabel(names=["p", "q"]),
            user_id=Value("string"),
        ),
    )
    assert module(rows, Tabular(categories="auto"), label="a").categories == (2, 3)
    assert module(rows).categories is None
    assert module(rows, Tabular(columns=("a", "kind"))).categories == (0, 3)  # numbers of classes are no numbers


def test_declared_classes_are_read_by_name() -> None:
    def rows(names: list[str], numbers: list[int | None]) -> Dataset:
        features = Features(a=Value("float64"), k=ClassLabel(names=names))
        return Dataset.from_dict({"a": [0.0, 1.0, 2.0], "k": numbers}, features)

    splits = DatasetDict(train=rows(["p", "q"], [1, 0, 1]), test=rows(["q", "p"], [1, None, 0]))
    data = HFDataModule(splits, kind=Tabular(columns=("a", "k"), scaling="none"), val_fraction=0, cache="memory")
    assert data.signature.classes == {"k": ("p", "q", "(missing)")}
    assert next(data.batches("train"))["x"].tolist() == [[0, 1], [1, 0], [2, 1]]
    assert next(data.batches("test"))["x"].tolist() == [[0, 0], [1, 2], [2, 1]]


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        ({"a": [1.0, 2.0], "c": ["x", "y"]}, Tabular(categories={"c": ("x",)}), r"'y' in row 1.*none of the classes"),
        ({"a": [1.0], "c": ["x"]}, Tabular(categories=("d",)), "no column 'd'"),
        ({"a": [1.0], "c": ["x"]}, Tabular(columns=("a", "c")), r"Tabular\(categories=\['c'\]\)"),
        ({"a": [1.0], "c": ["x"]}, Tabular(columns=("a",), categories=("c",)), "not among columns"),
        ({"a": [None, 2.0]}, None, r"missing values.*row 0.*Tabular\(missing='masked'\)"),
        ({"a": [1.0, float("inf")]}, Tabular(missing="masked"), "infinite values, first in row 1"),
        ({"a": [float("nan")] * 3, "b": [1.0] * 3}, Tabular(missing="masked"), "dimension 0 .* has no value"),
    ],
)  # fmt: skip
def test_what_cannot_be_used(rows: Any, kind: Any, message: str) -> None:
    features = Features({name: Value("string" if name == "c" else "float64") for name in rows})
    with pytest.raises(InputError, match=rf"(?s){message}"):
        batch(Dataset.from_dict(rows, features=features), kind)


@pytest.mark.parametrize(
    "given",
    [
        {"categories": "city"}, {"scaling": "minmax"}, {"missing": "mean"},
    ],
)  # fmt: skip
def test_options_that_do_not_exist(given: Any) -> None:
    with pytest.raises(InputError, match=next(iter(given))):
        Tabular(**given)


def test_missing_values_do_not_count() -> None:
    """What stands where a value is missing changes nothing, in statistics, batches, losses and codes."""
    rng = np.random.default_rng(0)
    values = rng.normal(50, 5, (ROWS, 2))
    hidden = rng.random((ROWS, 2)) < 0.2
    frame = pd.DataFrame(np.where(hidden, np.nan, values), columns=["a", "b"])
    data = module(frame, Tabular(missing="masked"))
    found = next(data.batches("train"))
    np.testing.assert_array_equal(found["mask"].numpy(), ~hidden)
    shown = np.ma.array(values, mask=hidden)
    expected = ((shown - shown.mean(axis=0)) / shown.std(axis=0)).filled(0)
    np.testing.assert_allclose(found["x"].numpy(), expected, atol=1e-5)

    pl.seed_everything(0, verbose=False)
    model = VAE(data.input_shape, latent_dim=2)
    trainer = pl.Trainer(
        max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data)
    assert model.given == ("mask",)
    x, _, given = model.read(found)
    other, _, _ = model.read(found | {"x": torch.where(found["mask"], found["x"], 1e9)})
    assert torch.equal(x, other)
    codes = model.features(frame)
    assert torch.equal(codes, model.encode(x, **given))
    assert torch.equal(model.features(frame.fillna(-1.0), mask=~hidden), codes)


def test_a_loaded_model_takes_what_it_was_trained_on(tmp_path: Any) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, None, 4.0] * 8, "b": [3.0, 1.0, 0.0, 2.0] * 8})
    data = module(frame, Tabular(missing="masked", scaling="quantile"))
    model = VAE(data.input_shape, latent_dim=2)
    trainer = pl.Trainer(
        max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = load_model(tmp_path / "model.ckpt")
    assert loaded.given == ("mask",)
    assert torch.equal(loaded.features(frame), model.features(frame))
    other = module(frame)  # says nothing of masks and quantiles: the model does
    other.use_signature(loaded.signature)
    assert torch.equal(next(other.batches("train"))["x"], next(data.batches("train"))["x"])
    assert "mask" in next(other.batches("train"))


def test_a_loss_that_takes_no_mask_is_refused() -> None:
    class Plain(VAE):
        def loss(self, x, target):  # type: ignore[no-untyped-def, override]
            return super().loss(x, target)

    data = module({"a": [1.0, None, 3.0, 4.0]}, Tabular(missing="masked"))
    model = Plain(data.input_shape, latent_dim=2)
    trainer = pl.Trainer(max_steps=1, logger=False, enable_checkpointing=False, accelerator="cpu", barebones=True)
    with pytest.raises(InputError, match="given mask, which its loss does not take"):
        trainer.fit(model, data)


def test_dates_and_durations_are_seconds() -> None:
    when = [dt.datetime(2024, 5, 1, 12, 0, s, tzinfo=dt.UTC) for s in range(3)]
    rows = Dataset.from_dict(
        {"when": when, "took": [dt.timedelta(milliseconds=500 * i) for i in range(3)], "day": [w.date() for w in when]},
        features=Features(when=Value("timestamp[us, tz=UTC]"), took=Value("duration[ms]"), day=Value("date32")),
    )
    data = module(rows, Tabular(columns=("when", "took", "day"), scaling="none"))
    x = next(data.batches("train"))["x"].double()
    assert x[:, 1].tolist() == [0, 0.5, 1]
    assert x[0, 2].item() == dt.datetime(2024, 5, 1, tzinfo=dt.UTC).timestamp()
    model = VAE((3,), latent_dim=1).eval()
    model.signature = data.signature
    frame = pd.DataFrame({name: rows[name] for name in rows.column_names})
    assert torch.equal(model.features(frame), model.encode(x.float()))
    standard = batch(rows, Tabular(columns=("when",)))["when"][:, 0]
    torch.testing.assert_close(standard, torch.tensor([-1.0, 0, 1]) * 1.5**0.5)  # no digit is lost before centring
    assert module(rows).input_columns == ["took"]  # a date is an input by its name only


def test_arrays_of_any_rank_keep_their_shape() -> None:
    values = np.arange(24.0).reshape(4, 2, 3)
    rows = Dataset.from_dict(
        {"a": values, "b": values.tolist()}, features=Features(a=Array2D((2, 3), "float32"), b=[[Value("float32")]])
    )
    for column in ("a", "b"):
        data = module(rows, Tabular(columns=(column,)))
        assert data.input_shape == (2, 3)
        found = next(data.batches("train"))[column].numpy()
        channels = values.transpose(1, 0, 2).reshape(2, -1)
        expected = (values - channels.mean(axis=1)[:, None]) / channels.std(axis=1)[:, None]
        np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(InputError, match="arrays of shape"):
        _ = module(rows.remove_columns("b")).input_columns


def test_quantiles_travel_as_plain_data() -> None:
    found = scaled("quantile", lambda: iter([torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).double()]))
    from lightning_ae.config import from_plain, to_plain
    from lightning_ae.preprocess import Preprocess

    assert from_plain(Preprocess, to_plain(found, "preprocess"), "preprocess") == found
    assert isinstance(found, TabularPreprocess)
