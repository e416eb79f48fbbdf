"""What the index says is true: files, golden values, every stated number, cards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_ae import InputError, get_model, list_models, zoo
from lightning_ae.cli import main
from lightning_ae.cli.training import training_parser
from lightning_ae.recipes import compose, find
from lightning_ae.zoo import index
from lightning_ae.zoo.publishing import cards
from lightning_ae.zoo.publishing.cards import beats_both
from lightning_ae.zoo.schema import Entry, parse

IMPORTED = [name for name in index.names() if zoo.info(name).imported is not None]
TRAINED = [name for name in index.names() if name not in IMPORTED]
DIGITS = [name for name in TRAINED if name.endswith("digits_v1")]
OTHERS = [name for name in TRAINED if name not in DIGITS]
BUNDLED = 45_000_000


def test_an_entry_of_each_family_within_forty_five_megabytes() -> None:
    entries = [zoo.info(name) for name in TRAINED]
    # a paper that settles a part of a family has the family's loss
    families = {name: get_model(name).loss.__qualname__ for name in list_models()}
    assert set(families.values()) == {families[entry.model] for entry in entries}
    assert {entry.dataset for entry in entries} == {"digits", "mnist", "fashion_mnist", "cifar10"}
    bundled = sum(file.stat().st_size for file in (index.zoo_folder() / "weights").rglob("*") if file.is_file())
    assert bundled <= BUNDLED
    for entry in entries:
        assert None not in [entry.metric(f"{p}{m}_error") for p in ("", "raw_", "pca_") for m in ("probe", "knn")]


def test_three_entries_whose_features_beat_raw_pixels_and_pca() -> None:
    def clearly(name: str) -> bool:
        entry = zoo.info(name)
        values = [entry.metric(f"{prefix}probe_error") or 1.0 for prefix in ("", "raw_", "pca_")]
        return values[0] < 0.8 * min(values[1:]) and beats_both(entry, "knn_error")

    assert sum(clearly(name) for name in TRAINED) >= 3


@pytest.mark.parametrize("name", index.names())
def test_verified(name: str) -> None:
    assert zoo.verify([name]) == [name]


def test_verify_notices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = "linear_mlp.digits_v1"
    entry = yaml.safe_load((index.zoo_folder() / "entries" / f"{name}.yaml").read_text())
    weights = index.zoo_folder() / "weights"
    folder = tmp_path / "zoo"
    (folder / "entries").mkdir(parents=True)
    (folder / "weights").symlink_to(weights)
    monkeypatch.setattr(index, "zoo_folder", lambda: folder)
    for what, reason in (
        ("code", "golden code 0"),
        ("config", "is not what the entry says"),
        ("sha256", "another hash"),
    ):
        changed: dict[str, Any] = json.loads(json.dumps(entry))
        if what == "code":
            changed["golden"]["code"][0] += 10 * changed["golden"]["atol"]
        elif what == "config":
            changed["config"]["lr"] = 0.5
        else:
            changed["files"][0]["sha256"] = "0" * 64
        (folder / "entries" / f"{name}.yaml").write_text(yaml.safe_dump(changed))
        index.read_entry.cache_clear()
        with pytest.raises(InputError, match=reason):
            zoo.verify([name])
    index.read_entry.cache_clear()


@pytest.mark.parametrize("name", DIGITS)
def test_stated_numbers_are_measured_again(name: str) -> None:
    checks = zoo.reproduce(name).checks
    assert len(checks) >= 8
    assert [check for check in checks if not check.passed] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_stated_numbers_of_the_larger_entries(name: str, shared_data: Path) -> None:
    checks = zoo.reproduce(name, str(shared_data / zoo.info(name).dataset)).checks
    assert len(checks) >= 8
    assert [check for check in checks if not check.passed] == []


def test_reproduce_notices(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from lightning_ae.zoo.publishing import evaluate

    real = evaluate.load_with_config

    def worse(name: str) -> Any:
        model, config = real(name)
        with torch.no_grad():
            model.encoder.linears[-1].weight.mul_(1.02)
        return model, config

    monkeypatch.setattr(evaluate, "load_with_config", worse)
    with pytest.raises(SystemExit, match="1"):
        main(["zoo", "reproduce", "ae_mlp.digits_v1"])
    assert "not reproduced" in capsys.readouterr().out


@pytest.mark.slow
def test_trained_again(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["zoo", "reproduce", "linear_mlp.digits_v1", "--train", "--json"])
    output = capsys.readouterr().out
    found = json.loads(output[output.index("{\n") :])
    assert found["digest"]["measured"] == found["digest"]["stated"] or found["digest"]["stated"] is None
    assert len(found["checks"]) >= 8
    assert all(check["passed"] for check in found["checks"])


def test_cards_and_schema_are_up_to_date() -> None:
    stale = [file for file, text in cards.generated().items() if not file.is_file() or file.read_text() != text]
    assert stale == []


@pytest.mark.parametrize("name", index.names())
def test_cards_are_model_cards(name: str) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(index.zoo_folder() / "weights" / name / "README.md")
    stated = {metric.name: metric.value for metric in zoo.info(name).metrics}
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == stated
    assert card.data.license == zoo.info(name).licence.weights.lower()


def test_recipes_exist() -> None:
    for name in TRAINED:
        recipe = zoo.info(name).recipe
        assert recipe is not None
        model, data = recipe.paths
        assert Path(find(model)).parent.name == "models"
        assert (data, Path(find(data)).parent.name) == (zoo.info(name).dataset, "data")
        assert recipe.seed is not None
        assert recipe.checkpoint == "best"


@pytest.mark.parametrize("name", [name for name in TRAINED if "_conv." in name])
def test_recipes_build_the_networks_of_their_entries(name: str) -> None:
    entry = zoo.info(name)
    assert entry.recipe is not None
    words = [word for path in entry.recipe.paths for word in ("-c", path)]
    words += [word for key, value in entry.recipe.overrides.items() for word in (f"--{key}", str(value))]
    parser = training_parser("fit")
    built = parser.instantiate_classes(parser.parse_args(compose(words))).model
    assert built.architecture == zoo.load(name).architecture
    assert built.architecture.upsampling == ("nearest" if entry.dataset == "cifar10" else "transposed")


def test_an_entry_of_before_recipes_composed() -> None:
    entry = zoo.info("vae_mlp.digits_v1").model_dump(by_alias=True, mode="json")
    del entry["recipe"]["paths"]
    for path, paths in (("mine/vae.yaml", ["mine/vae.yaml"]), (None, [])):
        older = entry | {"recipe": entry["recipe"] | {"path": path}}
        assert parse(Entry, older, "older").recipe.paths == paths
    with pytest.raises(InputError, match=r"recipe\.path"):
        parse(Entry, entry | {"recipe": entry["recipe"] | {"path": "a.yaml", "paths": ["b.yaml"]}}, "both")
    with pytest.raises(InputError, match=r"recipe\.paths"):
        parse(Entry, entry, "neither")


def test_list() -> None:
    assert zoo.list_models("vae_*", dataset="digits") == ["vae_mlp.digits_v1"]
    assert zoo.list_models(model="k_sparse", dataset="digits") == ["k_sparse_mlp.digits_v1"]
    assert set(zoo.list_models(licence="MIT")) == {n for n in index.names() if ".fashion_mnist_" in n or n in IMPORTED}
    *by_error, last = [zoo.info(name).metric("knn_error") for name in zoo.list_models(sort="knn_error")]
    assert last is None  # of photographs without classes
    assert by_error == sorted(by_error)  # type: ignore[type-var]
    with pytest.raises(InputError, match="unknown sort 'sise'"):
        zoo.list_models(sort="sise")  # type: ignore[arg-type]


def test_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def run(*words: str, status: int | None = None) -> str:
        if status is None:
            main(["zoo", *words])
        else:
            with pytest.raises(SystemExit, match=str(status)):
                main(["zoo", *words])
        return capsys.readouterr().out

    assert "vae_mlp.digits_v1" in run("list")
    assert [entry["name"] for entry in json.loads(run("list", "vae*digits*", "--json"))] == ["vae_mlp.digits_v1"]
    assert "negative_elbo" in run("info", "vae_mlp.digits_v1")
    assert json.loads(run("info", "vae_mlp.digits_v1", "--json"))["schema"] == 1
    assert "golden values agree" in run("load-test", "vae_mlp.digits_v1", status=0)
    assert json.loads(run("verify", "vae_mlp.digits_v1", "--json", status=0)) == [
        {"name": "vae_mlp.digits_v1", "error": None}
    ]
    assert "reproduced" in run("reproduce", "linear_mlp.digits_v1", status=0)
    run("download", "linear_mlp.digits_v1", "--to", str(tmp_path))
    assert (tmp_path / "linear_mlp.digits_v1" / "config.json").is_file()
    run("verify", status=2)
    run("info", "vae", status=2)


def test_tools_take_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["sample", "vae_mlp.digits_v1", "--n", "4"])
    main(["reconstruct", "vae_mlp.digits_v1", "--n", "4"])
    main(["features", "vae_mlp.digits_v1", "--splits", "[test]"])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["features", "reconstructions.png", "samples.png"]


def test_the_supervised_stage_takes_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--model.pretrained", "stacked_mlp.digits_v1", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
    main(["fit", "-c", "finetune", "-c", "digits", *words, "--run_dir", "r"])
    assert list((tmp_path / "r" / "checkpoints").glob("*.ckpt"))
