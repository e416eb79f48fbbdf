"""A conditional VAE of classes, numbers and several columns, of which values may be missing; and the data's columns."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_ae import ConditionalVAE, HFDataModule, InputError, load_model
from lightning_ae.architectures import MLP, ConvNet
from lightning_ae.data import Counts, Tabular
from lightning_ae.export import export
from lightning_ae.training.certify import Case, certify

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False,
    "enable_checkpointing": False,
}  # fmt: skip
NAN = math.nan

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]


def seen_by(model: Any) -> dict[str, Tensor]:
    """What encoder and decoder were given last."""
    seen: dict[str, Tensor] = {}
    for name in ("encoder", "decoder"):
        getattr(model, name).register_forward_pre_hook(lambda module, args, name=name: seen.update({name: args[0]}))
    return seen


# ---- the model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (2, 8, 8)], ids=str)
def test_columns_stand_beside_input_and_code(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    architecture: Any = MLP((16,)) if len(shape) == 1 else ConvNet(channels=(4, 8), code="map")
    model = ConditionalVAE(shape, latent_dim=3, num_classes=3, conditions=(2, 0), architecture=architecture).eval()
    seen = seen_by(model)
    x, label = torch.rand(3, *shape), torch.tensor([2, 0, 1])
    condition = torch.tensor([[1.0, -0.5], [0.0, 2.0], [1.0, 0.0]])
    code = model.encode(x, label=label, condition=condition)
    model.decode(code, label=label, condition=condition)
    wanted = torch.tensor([[0, 0, 1, 0, 1, -0.5], [1, 0, 0, 1, 0, 2.0], [0, 1, 0, 0, 1, 0.0]])
    for name, before in (("encoder", x), ("decoder", code)):
        assert torch.equal(seen[name][:, : before.shape[1]], before)
        planes = (
            seen[name][:, before.shape[1] :].flatten(2) if len(shape) > 1 else seen[name][:, before.shape[1] :, None]
        )
        assert torch.equal(planes, wanted[..., None].expand_as(planes))


def test_what_is_missing_is_zeros() -> None:
    torch.manual_seed(0)
    model = ConditionalVAE((5,), latent_dim=2, num_classes=2, conditions=(3, 0), condition_dropout=0.0).eval()
    seen = seen_by(model)
    given = {"label": torch.tensor([-1, 1]), "condition": torch.tensor([[2.0, NAN], [NAN, 0.5]])}
    model(torch.rand(2, 5), **given)
    # the label, the class, the number, and whether the number is known
    wanted = torch.tensor([[0, 0, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0.5, 1]])
    assert torch.equal(seen["encoder"][:, 5:], wanted)
    assert torch.equal(seen["decoder"][:, 2:], wanted)


def test_conditions_alone_and_for_the_decoder_alone() -> None:
    torch.manual_seed(0)
    model = ConditionalVAE((5,), latent_dim=2, num_classes=0, conditions=(2, 0), condition_encoder=False).eval()
    assert model.given == ("condition",)
    x = torch.rand(4, 5)
    here, there = torch.tensor([[0.0, 1.0]] * 4), torch.tensor([[1.0, -1.0]] * 4)
    code = model.encode(x, condition=here)
    assert torch.equal(code, model.encode(x, condition=there))
    assert not torch.allclose(model.decode(code, condition=here), model.decode(code, condition=there))
    assert model.read((x, here))[2].keys() == {"condition"}
    assert model.sample(3, condition=[1, 0.5]).shape == (3, 5)


def test_a_step_hides_what_it_says_and_counts_what_it_shows() -> None:
    torch.manual_seed(0)
    model = ConditionalVAE((4,), latent_dim=2, num_classes=2, conditions=(3, 0), condition_dropout=0.25)
    x, n = torch.rand(4000, 4), 4000
    given = {"label": torch.arange(n) % 2, "condition": torch.stack([torch.arange(n) % 3, torch.randn(n)], dim=1)}
    seen = seen_by(model)
    model.train().loss(x, x, **given)
    assert torch.equal(seen["encoder"][:, 4:], seen["decoder"][:, 2:])  # both see the same
    hidden = [seen["encoder"][:, 4:6].sum(1) == 0, seen["encoder"][:, 6:9].sum(1) == 0, seen["encoder"][:, -1] == 0]
    for each in hidden:
        assert abs(float(each.float().mean()) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / n)
    assert abs(float((hidden[0] & hidden[1]).float().mean()) - 0.0625) < 0.02  # each by itself
    assert model.seen[-3:].tolist() == [int(each.sum()) for each in hidden]
    assert model.seen[:2].sum() + model.seen[-3] == n
    before = model.seen.clone()
    model.eval().loss(x, x, **given)
    assert torch.equal(seen["encoder"][:, -1], torch.ones(n))
    assert torch.equal(model.seen, before)


def test_a_model_that_is_told_half_of_the_time_knows_both() -> None:
    # two classes at -1 and 1, a code of nothing: the decoder's mean is the class's, and without it that of both
    pl.seed_everything(0, verbose=False)
    label = torch.arange(256) % 2
    x = (2.0 * label - 1)[:, None] + 0.1 * torch.randn(256, 1)
    model = ConditionalVAE((1,), latent_dim=1, num_classes=2, condition_dropout=0.5, beta=100.0, lr=1e-2,
                           architecture=MLP((16,)))  # fmt: skip
    loader = DataLoader(TensorDataset(x, label), batch_size=64, shuffle=True)
    pl.Trainer(max_epochs=30, **QUIET).fit(model, loader)
    with torch.no_grad():
        means = [float(model.eval().sample(200, label=c).mean()) for c in (0, 1, -1)]
    assert means == pytest.approx([-1, 1, 0], abs=0.2)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ([[2.0, 0.0]], r"row 0 of a batch, column 0 of its condition: 2, where ConditionalVAE takes one of 2 classes"),
        ([[0.5, 0.0]], "one of 2 classes, 0 to 1"),
        ([[NAN, 0.0]], "nan, where ConditionalVAE takes one of 2 classes"),
        ([[1.0, NAN]], "nan, where ConditionalVAE takes a finite number"),
        ([[1.0, math.inf]], "takes a finite number"),
        ([[1.0]], r"takes a condition of shape \(1, 2\)"),
    ],
)
def test_conditions_that_cannot_be_are_refused(condition: Any, message: str) -> None:
    model = ConditionalVAE((3,), latent_dim=1, num_classes=0, conditions=(2, 0))
    with pytest.raises(InputError, match=message):
        model.loss(torch.rand(1, 3), torch.rand(1, 3), condition=torch.tensor(condition))
    assert not model.seen.any()


def test_arguments_that_cannot_be_are_refused() -> None:
    for options, message in (
        ({"num_classes": 0}, "num_classes must be a positive integer"),
        ({"conditions": (-1,)}, "conditions must be a number for each column"),
        ({"condition_dropout": 1.0}, r"condition_dropout must lie in \[0, 1\)"),
        ({"conditions": (0,), "architecture": MLP((8,), log1p=True)}, "give condition_encoder=False"),
    ):
        with pytest.raises(InputError, match=message):
            ConditionalVAE((3,), **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="takes label, condition besides the input, got label"):
        ConditionalVAE((3,), conditions=(2,)).sample(2, label=1)
    wide = ConditionalVAE((3,), conditions=(300,), num_classes=0).bfloat16()
    with pytest.raises(InputError, match="cannot tell 300 classes apart"):
        wide.loss(torch.rand(1, 3).bfloat16(), torch.rand(1, 3).bfloat16(), condition=torch.zeros(1, 1).bfloat16())


def test_missing_values_are_refused_by_a_model_that_met_none() -> None:
    torch.manual_seed(0)
    model = ConditionalVAE((3,), latent_dim=1, num_classes=2, conditions=(2,), condition_dropout=0.0)
    x, label = torch.rand(4, 3), torch.tensor([0, 1, 1, -1])
    model.train().loss(x, x, label=label, condition=torch.zeros(4, 1))
    model.eval()
    with pytest.raises(InputError, match="trained on no sample without column 0 of the condition"):
        model.encode(x, label=label, condition=torch.full((4, 1), NAN))
    with pytest.raises(InputError, match=r"no sample of the classes \[1\] of column 0 of the condition, only on \[0\]"):
        model.encode(x, label=label, condition=torch.ones(4, 1))
    assert model.encode(x, label=label, condition=torch.zeros(4, 1)).shape == (4, 1)
    with pytest.raises(InputError, match="-1: it has none.*\n?.*condition_dropout"):
        ConditionalVAE((3,), num_classes=2).encode(x, label=label)


def test_a_checkpoint_of_labels_alone_is_as_it_was() -> None:
    # what an earlier version saved: the classes' numbers, and networks of input and classes
    model = ConditionalVAE((5,), latent_dim=2, num_classes=4)
    assert model.seen.shape == (4,)
    first = next(module for module in model.encoder.modules() if isinstance(module, nn.Linear))
    assert first.in_features == 9


def test_certified_on_two_ranks() -> None:
    options = {"num_classes": 3, "conditions": [2, 0], "latent_dim": 4}
    cases = [
        Case("conditional_vae", {**options, "condition_dropout": 0.3}),
        Case("conditional_vae", {**options, "condition_encoder": False}),
    ]
    for certificate in certify(cases, worlds=[2]):
        assert certificate.passed, certificate


# ---- the data -------------------------------------------------------------------------------------------------------


def frame(n: int = 120, missing: bool = False) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 2, n)
    age = rng.integers(20, 80, n)
    rows = pd.DataFrame({
        "a": rng.normal(size=n) + 3 * batch, "b": rng.normal(size=n) + age / 40,
        "batch": np.array(["first", "second"])[batch], "age": age.astype(float), "treated": rng.random(n) < 0.5,
        "kind": np.array(list("xyz"))[rng.integers(0, 3, n)],
    })  # fmt: skip
    if missing:
        rows.loc[[0, 3], "age"] = np.nan
        rows.loc[[3, 5], "batch"] = None
    return rows


def data_of(rows: pd.DataFrame, **options: Any) -> HFDataModule:
    named = {"condition": ["batch", "age", "treated"], "label": "kind", **options}
    return HFDataModule(rows, val_fraction=0.25, cache="memory", batch_size=30, **named)


def test_a_data_module_gives_the_columns_and_keeps_them_out_of_the_input() -> None:
    rows = frame(missing=True)
    data = data_of(rows)
    data.setup("fit")
    assert data.input_columns == ["a", "b"]
    assert data.conditions == (2, 0, 2)
    batch = torch.cat([each["condition"] for each in data.batches("train")])
    numbers = data.parts["train"]
    own = rows.iloc[numbers]
    age = own["age"].to_numpy()
    scaled = (age - np.nanmean(age)) / np.nanstd(age)
    wanted = np.stack([own["batch"].map({"first": 0, "second": 1}).to_numpy(float), scaled, own["treated"]], axis=1)
    torch.testing.assert_close(batch, torch.from_numpy(wanted.astype(float)).float(), equal_nan=True)
    assert data.signature.condition is not None
    plain = data.signature.plain()
    assert type(data.signature).from_plain(plain) == data.signature
    on_the_fly = data_of(rows)
    on_the_fly.cache = "none"
    again = torch.cat([each["condition"] for each in on_the_fly.batches("train")])
    torch.testing.assert_close(again, batch, equal_nan=True)


def test_from_the_fit_to_samples_by_names(tmp_path: Path) -> None:
    pl.seed_everything(0, verbose=False)
    rows = frame(missing=True)
    data = data_of(rows)
    model = ConditionalVAE(**data.suits, latent_dim=2, num_classes=3, conditions=data.conditions, condition_dropout=0.1)
    trainer = pl.Trainer(max_epochs=2, num_sanity_val_steps=0, **QUIET)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    loaded = load_model(tmp_path / "m.ckpt").eval()
    assert loaded.columns == {"condition": "condition", "label": "kind"}
    natural = {"batch": "second", "age": 40, "treated": True}
    torch.manual_seed(1)
    by_name = loaded.sample(3, label=1, condition=natural)
    ages = rows["age"].to_numpy()[data.parts["train"]]
    torch.manual_seed(1)
    scaled = (40 - np.nanmean(ages)) / np.nanstd(ages)
    torch.testing.assert_close(by_name, loaded.sample(3, label=1, condition=[1, float(scaled), 1]))
    assert loaded.sample(2, label=-1, condition={"batch": "first"}).shape == (2, 2)
    some = rows.iloc[:4]
    label = torch.tensor(["xyz".index(each) for each in some["kind"]])
    columns = some[["batch", "age", "treated"]]
    features = loaded.features(some[["a", "b"]], label=label, condition=columns)
    assert torch.isfinite(features).all()
    assert loaded.score(some[["a", "b"]], label=label, condition=columns).shape == (4,)
    other = {"batch": "third", "age": 40, "treated": True}
    with pytest.raises(InputError, match="'batch' holds 'third', which is none of the classes"):
        loaded.sample(3, label=1, condition=other)
    with pytest.raises(InputError, match="the condition has no column 'site'"):
        loaded.sample(3, label=1, condition={"site": 1})


@pytest.mark.parametrize("what", ["encode", "decode", "score"])
def test_a_graph_takes_a_condition_in_natural_units(what: Any, tmp_path: Path) -> None:
    """`export` compares the graph with what the model makes of natural units."""
    pl.seed_everything(0, verbose=False)
    rows = frame()
    data = data_of(rows)
    model = ConditionalVAE(**data.suits, latent_dim=2, num_classes=3, conditions=data.conditions)
    pl.Trainer(max_epochs=1, **QUIET).fit(model, data)
    file = export(model.eval(), tmp_path / "graph.pt2", what, "torch")
    about = {"export.json": ""}
    graph = torch.export.load(file, extra_files=about)
    (described,) = (each for each in json.loads(about["export.json"])["inputs"] if each["name"] == "condition")
    assert described["type"] == "float64"
    assert [column["name"] for column in described["columns"]] == ["batch", "age", "treated"]
    if what != "encode":
        return
    some = rows.iloc[:4]
    label = torch.tensor(["xyz".index(each) for each in some["kind"]])
    natural = torch.tensor([[float(b == "second"), age, float(t)] for b, age, t in zip(
        some["batch"], some["age"], some["treated"], strict=True)], dtype=torch.float64)  # fmt: skip
    found = graph.module()(torch.from_numpy(some[["a", "b"]].to_numpy()), label, natural)
    expected = model.features(some[["a", "b"]], label=label, condition=some[["batch", "age", "treated"]])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_other_data_are_read_as_the_model_says() -> None:
    pl.seed_everything(0, verbose=False)
    data = data_of(frame())
    model = ConditionalVAE(**data.suits, latent_dim=2, num_classes=3, conditions=data.conditions)
    pl.Trainer(max_epochs=1, num_sanity_val_steps=0, **QUIET).fit(model, data)
    rows = frame().iloc[:30].assign(batch="second", age=50.0)
    other = HFDataModule({"test": rows}, cache="memory")
    other.use_signature(model.signature)
    (found,) = [batch["condition"] for batch in other.batches("test")]
    assert (found[:, 0] == 1).all()  # by the training data's classes
    ages = frame()["age"].to_numpy()[data.parts["train"]]
    assert float(found[0, 1]) == pytest.approx((50 - ages.mean()) / ages.std(), rel=1e-5)
    strange = HFDataModule({"test": rows.assign(batch="third")}, cache="memory")
    strange.use_signature(model.signature)
    with pytest.raises(InputError, match="condition 'batch' of split 'test' holds 'third' in row 0"):
        next(iter(strange.batches("test")))
    lacking = HFDataModule({"test": rows.drop(columns="age")}, cache="memory")
    with pytest.raises(InputError, match="lack.*age"):
        lacking.use_signature(model.signature)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"condition": ["site"]}, "no column 'site'"),
        ({"condition": "batch"}, "must be names of columns"),
        ({"condition": Counts()}, "must be names of columns"),
    ],
)
def test_conditions_of_data_that_cannot_be_are_refused(options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        data_of(frame(), **options).setup("fit")


def test_a_model_of_other_conditions_is_refused() -> None:
    trainer = pl.Trainer(max_epochs=1, num_sanity_val_steps=0, **QUIET)
    for options, conditions, message in (
        ({}, (2, 0), r"have .*2, 0, 2.* classes \(0 for numbers\), where ConditionalVAE takes .*2, 0"),
        ({"condition": None}, (2,), "names no columns of it"),
    ):
        data = data_of(frame()[["a", "b", "batch", "age", "treated", "kind"]], **options)
        model = ConditionalVAE(data.input_shape, num_classes=3, conditions=conditions)
        with pytest.raises(InputError, match=message):
            trainer.fit(model, data)


def test_whole_numbers_are_classes_where_they_are_named_so() -> None:
    rows = frame().assign(plate=np.arange(120) % 3)
    assert data_of(rows, condition=["plate"]).conditions == (0,)
    assert data_of(rows, condition=Tabular(columns=["plate", "batch"], categories=["plate"])).conditions == (3, 2)
