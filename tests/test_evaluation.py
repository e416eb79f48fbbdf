"""evaluate: its numbers against scikit-learn and by hand, several models side by side, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_ae import VAE, Autoencoder, HFDataModule, InputError, evaluation, get_model, zoo
from lightning_ae.architectures import MLP
from lightning_ae.cli import main
from lightning_ae.data import draw_sprites
from lightning_ae.evaluation import Evaluation, Number, Samples, markdown, table
from lightning_ae.parts import Gaussian


@pytest.fixture(scope="module")
def digits_data() -> HFDataModule:
    return HFDataModule("digits")


def value(found: Evaluation, side: str, name: str) -> float:
    return next(each.value for each in found.numbers[side] if each.name == name)


@torch.no_grad()
def test_numbers_by_hand(digits_data: HFDataModule) -> None:
    torch.manual_seed(0)
    model = VAE(digits_data.input_shape, 3, architecture=MLP((16,)), likelihood=Gaussian(0.4)).eval()
    found, seen = evaluation.evaluate(model, digits_data, "mine", rows=200, draws=4)
    assert found.rows == {"train": 200, "test": 200}
    samples = Samples.read(model, digits_data, ("train", "test"), 200)
    x = samples.inputs["test"]
    made = model(x).flatten(1).double()
    flat = x.flatten(1).double()
    assert value(found, "reconstruction", "squared_error") == pytest.approx(float((made - flat).square().sum(1).mean()))
    r_squared = 1 - (made - flat).square().sum() / (flat - flat.mean(0)).square().sum()
    assert value(found, "reconstruction", "r_squared") == pytest.approx(float(r_squared), abs=1e-5)
    assert value(found, "likelihood", "score") == pytest.approx(float(model.score(x).double().mean()), rel=1e-5)
    evidence = model.log_evidence(x, 4, batch_size=250)
    assert value(found, "likelihood", "log_evidence") == pytest.approx(evidence.mean, rel=1e-6)
    assert not any(each.name == "bits_per_dimension" for each in found.numbers["likelihood"])  # a density
    q = model.infer(x)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(q.mean, (q.log_variance / 2).exp()),
        torch.distributions.Normal(0.0, 1.0),
    )  # fmt: skip
    assert value(found, "likelihood", "kl") == pytest.approx(float(kl.sum(1).mean()), rel=1e-4)
    assert value(found, "likelihood", "informed_units") == int((kl.mean(0) > 0.01).sum())
    assert value(found, "code", "active_units") == int((model.encode(x).double().var(0, correction=0) > 0.01).sum())
    assert seen.units is not None
    torch.testing.assert_close(seen.units[0], kl.double().mean(0), rtol=1e-4, atol=1e-6)
    again, _ = evaluation.evaluate(model, digits_data, "mine", rows=200, draws=4)
    assert again == found
    other, _ = evaluation.evaluate(model, digits_data, "mine", rows=200, draws=4, seed=1)
    assert value(other, "likelihood", "log_evidence") != value(found, "likelihood", "log_evidence")


def test_rows_are_drawn_by_seed_and_in_order(digits_data: HFDataModule) -> None:
    model = Autoencoder(digits_data.input_shape)
    whole = Samples.read(model, digits_data, ("test",))
    assert len(whole.inputs["test"]) == len(digits_data.dataset("test"))
    parts = [Samples.read(model, digits_data, ("test",), 50, seed).inputs["test"] for seed in (0, 0, 1)]
    assert torch.equal(parts[0], parts[1])
    assert not torch.equal(parts[0], parts[2])
    assert whole.labels is not None
    found = Samples.read(model, digits_data, ("test",), 50)
    assert found.labels is not None
    places = [int((whole.inputs["test"] == row).flatten(1).all(1).nonzero()[0]) for row in found.inputs["test"]]
    assert places == sorted(places)
    assert torch.equal(whole.labels["test"][places], found.labels["test"])


@pytest.mark.parametrize("name", ["ladder_vae", "vq_vae", "topk_dictionary", "conditional_vae", "score_matching"])
def test_other_kinds_of_models(name: str, digits_data: HFDataModule) -> None:
    torch.manual_seed(0)
    model: Any = get_model(name)(digits_data.input_shape)
    model.use_columns_of(digits_data)
    if name == "conditional_vae":
        model.seen.fill_(1)
    found, _ = evaluation.evaluate(model, digits_data, rows=60, draws=2)
    assert set(found.numbers) | set(found.left_out) >= {"reconstruction", "likelihood", "code", "classes"}
    assert all(math.isfinite(each.value) for numbers in found.numbers.values() for each in numbers)
    expected = {"factors"} | ({"likelihood"} if name == "score_matching" else set())
    expected |= set() if model.generates else {"samples"}
    assert set(found.left_out) == expected


def test_samples_that_are_the_training_rows(digits_data: HFDataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator that copies is found out, and does not differ from the data otherwise."""
    torch.manual_seed(0)
    model = VAE(digits_data.input_shape, 3, architecture=MLP((16,)))
    train = Samples.read(model, digits_data, ("train",)).inputs["train"]
    copied = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(0))]
    monkeypatch.setattr(model, "sample", lambda n: copied[:n])
    found, seen = evaluation.evaluate(model, digits_data, draws=2)
    values = {each.name: each.value for each in found.numbers["samples"]}
    assert values["precision"] == 1.0
    assert values["nearer"] == 1.0
    assert values["c_t"] < -10
    assert values["frechet_lenet"] < 1.5 * values["frechet_lenet_held_out"]
    assert seen.samples is not None
    assert torch.equal(*seen.samples)  # each beside the training row that it is
    n, m = found.rows["train"], found.rows["test"]
    assert values["coverage_held_out"] == pytest.approx(1 - (n / (n + m)) ** 5, abs=0.1)  # of one distribution


def test_samples_of_vectors_are_compared_by_their_values() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(300, 3)).astype("float32")
    data = HFDataModule({"train": {"x": rows[:200]}, "test": {"x": rows[200:]}})
    torch.manual_seed(0)
    found, _ = evaluation.evaluate(VAE((3,), 2, architecture=MLP((4,))), data, draws=2)
    names = {each.name for each in found.numbers["samples"]}
    assert names >= {"precision", "recall", "density", "coverage", "nearer"}
    assert "frechet_lenet" not in names


@pytest.mark.slow
def test_factors_of_sprites() -> None:
    data = HFDataModule(draw_sprites(train=40, test=4000, size=8), val_fraction=0)
    found, _ = evaluation.evaluate(Autoencoder(data.input_shape, 4, architecture=MLP((8,))), data, rows=100)
    values = {each.name: each for each in found.numbers["factors"]}
    assert values["mig"].better == "higher"
    assert values["mig_shuffled"].better is None


def test_vectors_without_labels() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 5)).astype("float32")
    data = HFDataModule({"train": {"x": rows[:40]}, "test": {"x": rows[40:]}})
    found, seen = evaluation.evaluate(Autoencoder((5,), 1, architecture=MLP((4,))), data)
    assert found.left_out["classes"] == "the data have no label that names classes"
    assert seen.pairs is None
    assert seen.plane is None
    evaluation.sheet([seen])


def test_data_without_a_test_split() -> None:
    data = HFDataModule({"train": {"x": np.zeros((30, 5), "float32")}})
    with pytest.raises(InputError, match="the data have no test split, and an evaluation compares both"):
        evaluation.evaluate(Autoencoder((5,), 2), data)


def test_codes_that_are_no_numbers(digits_data: HFDataModule) -> None:
    model = Autoencoder(digits_data.input_shape, 2, architecture=MLP((4,)))
    model.encoder.linears[0].weight.data[0, 0] = math.nan  # type: ignore[union-attr, index]
    with pytest.raises(InputError, match="of the 50 codes of the train split are NaN or infinite, the first of row 0"):
        evaluation.evaluate(model, digits_data, rows=50)


@pytest.mark.parametrize(("argument", "value"), [("rows", 0), ("draws", 1), ("rows", 2.5), ("draws", True)])
def test_bad_numbers(argument: str, value: Any, digits_data: HFDataModule) -> None:
    with pytest.raises(InputError, match=f"{argument} must be a whole number from"):
        evaluation.evaluate(Autoencoder(digits_data.input_shape), digits_data, **{argument: value})


def test_table_marks_the_best() -> None:
    def one(name: str, *numbers: Number) -> Evaluation:
        return Evaluation(name, "data", {"test": 3}, {"seed": 0}, {"side": numbers}, {"samples": "it draws none"})

    found = [
        one("a", Number("error", 2.0, 0.031, "lower"), Number("size", 3.0), Number("share", 0.5, better="higher")),
        one("b", Number("error", 1.0, 0.5, "lower"), Number("size", 2.0), Number("share", math.nan, better="higher")),
        one("c", Number("share", 0.75, better="higher")),
    ]
    rows = {row.name: row for row in table(found)}
    assert rows["error"].cells == ("2.000 ± 0.031", "1.00 ± 0.50", "")
    assert rows["error"].best == (False, True, False)
    assert rows["size"].best == (False, False, False)
    assert rows["share"].best == (False, False, True)
    text = markdown(found)
    assert "| side | `error` | 2.000 ± 0.031 | **1.00 ± 0.50** |  |" in text
    assert "- b has no samples: it draws none" in text
    assert json.loads(json.dumps(found[1].plain(), allow_nan=False))["numbers"]["side"]["share"]["value"] is None


ENTRIES = ["vae_mlp.digits_v1", "ae_mlp.digits_v1"]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--rows", "100", "--draws", "3", "--output", str(tmp_path / "out")]
    main(["evaluate", *ENTRIES, *words])
    printed = capsys.readouterr().out
    assert "knn_error" in printed
    assert all(str(tmp_path / "out" / name) in printed for name in ("evaluation.json", "evaluation.png"))
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [each["model"] for each in found] == ENTRIES
    data = HFDataModule("digits")
    model = zoo.load(ENTRIES[1])
    assert model.signature is not None
    data.use_signature(model.signature)
    alone, _ = evaluation.evaluate(model, data, rows=100)
    error = found[1]["numbers"]["reconstruction"]["squared_error"]["value"]
    assert error == pytest.approx(value(alone, "reconstruction", "squared_error"))
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", *ENTRIES, *words])
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "checkpoint"),
        (["nowhere.ckpt"], "there is no checkpoint at 'nowhere.ckpt'"),
        ([ENTRIES[0], ENTRIES[0]], "is named twice"),
        ([ENTRIES[0], "--draws", "1"], "draws must be a whole number from 2 on, got 1"),
        ([ENTRIES[0], "--rows", "0"], "rows must be a positive integer, got 0"),
    ],
)
def test_bad_words(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", *words])
    assert reason in capsys.readouterr().err


def test_interrupted_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluation.evaluate

    def stopped(model: Any, data: Any, name: str, **options: Any) -> Any:
        if name == ENTRIES[1]:
            raise KeyboardInterrupt
        return first(model, data, name, **options)

    monkeypatch.setattr(evaluation, "evaluate", stopped)
    with pytest.raises(SystemExit, match="130"):
        main(["evaluate", *ENTRIES, "--rows", "50", "--draws", "2", "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
