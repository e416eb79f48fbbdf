"""Every recipe is parsed through the real command line; those for digits also run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lightning_ae import list_models
from lightning_ae.cli import main
from lightning_ae.cli.training import training_parser

RECIPES = Path(__file__).parent.parent / "recipes"
DATA_SETS = ["digits", "mnist", "fashion_mnist"]
FULL = sorted(p for name in DATA_SETS for p in (RECIPES / name).glob("*.yaml") if p.stem != "finetune")
FINETUNE = [RECIPES / name / "finetune.yaml" for name in DATA_SETS]
OVERLAYS = sorted(p for p in RECIPES.glob("*/*.yaml") if p not in FULL + FINETUNE and p.parent.name != "launch")


def name(path: Path) -> str:
    return str(path.relative_to(RECIPES))


@pytest.mark.parametrize("model", list_models())
@pytest.mark.parametrize("data_set", DATA_SETS)
def test_each_variant_has_a_recipe(model: str, data_set: str) -> None:
    assert (RECIPES / data_set / f"{model}.yaml").is_file()


@pytest.mark.parametrize("recipe", FULL, ids=name)
def test_recipes_build(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parser = training_parser("fit")
    config = parser.parse_args(["-c", str(recipe)])
    # the objects themselves, so that a wrong width or option shows here
    built = parser.instantiate_classes(config)
    assert built.model.input_shape == tuple(yaml.safe_load(recipe.read_text())["model"]["init_args"]["input_shape"])
    assert recipe.read_text().startswith("# ")
    assert f"lightning-ae fit -c recipes/{name(recipe)}" in recipe.read_text()


@pytest.mark.parametrize("overlay", OVERLAYS, ids=name)
def test_overlays_parse(overlay: Path) -> None:
    config = training_parser("fit").parse_args(["-c", str(RECIPES / "digits" / "vae.yaml"), "-c", str(overlay)])
    for key, value in yaml.safe_load(overlay.read_text())["trainer"].items():
        given = config.trainer[key]
        if isinstance(value, dict):  # a class, whose other arguments are filled in
            assert given.class_path.endswith(value["class_path"])
            assert given.init_args.as_dict().items() >= value["init_args"].items()
        elif key != "logger":
            assert given == value


@pytest.mark.parametrize("recipe", [p for p in FULL if p.parent.name == "digits"], ids=name)
def test_digits_recipes_run(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loggers = ["-c", str(RECIPES / "loggers" / "tensorboard.yaml")]
    main(["fit", "-c", str(recipe), *loggers, "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu",
          "--run_dir", "r", "--trainer.enable_progress_bar", "false"])  # fmt: skip
    assert Path("r/checkpoints/best.ckpt").is_file()
    assert list(Path("r/tensorboard").glob("events.*"))
