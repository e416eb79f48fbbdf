"""Recipes by name: every model goes with every data set, in any order; those for the digits also run."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from asking import variants

from lightning_ae import InputError, list_models, recipes, registry
from lightning_ae.cli import main
from lightning_ae.cli.training import TrainingParser, training_parser
from lightning_ae.zoo.publishing.entry import DATASETS

RECIPES = Path(__file__).parent.parent / "recipes"
MODELS = [name for name in recipes.names("models") if name != "finetune"]
DATA_SETS = recipes.names("data")
OVERLAYS = [name for kind in ("loggers", "precision", "strategies") for name in recipes.names(kind)]
PAIRS = sorted(file for name in DATA_SETS for file in (RECIPES / "data" / name).glob("*.yaml"))


def content(kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((RECIPES / kind / f"{name}.yaml").read_text())
    return found


def variant_of(recipe: str) -> str:
    """The variant that a recipe trains."""
    return registry.variant(content("models", recipe)["model"]["class_path"])


def leaves(value: Any, at: str = "") -> set[str]:
    """The settings of a recipe: each path of keys to what is no mapping."""
    if not isinstance(value, dict):
        return {at}
    return {leaf for key, inner in value.items() for leaf in leaves(inner, f"{at}.{key}")}


@pytest.fixture(scope="module")
def parser() -> TrainingParser:
    return training_parser("fit")


def parsed(parser: TrainingParser, *words: str) -> Any:
    return parser.parse_args(recipes.compose(words))


# ---- what there is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", list_models())
def test_each_variant_has_a_recipe(model: str) -> None:
    assert (RECIPES / "models" / f"{model}.yaml").is_file()


def test_no_name_stands_twice() -> None:
    names = [name for kind in recipes.FOLDERS for name in recipes.names(kind)]
    assert len(names) == len(set(names))
    assert recipes.recipes_folder() == RECIPES
    assert set(DATA_SETS) == set(DATASETS)


def test_each_recipe_says_what_it_is_and_how_it_is_called() -> None:
    for name in [*MODELS, "finetune"]:
        assert f"#   lightning-ae fit -c {name} -c " in (RECIPES / "models" / f"{name}.yaml").read_text(), name
    for name in DATA_SETS:
        assert f" -c {name}\n" in (RECIPES / "data" / f"{name}.yaml").read_text(), name
    assert all(file.read_text().startswith("# ") for file in RECIPES.rglob("*.yaml"))
    about = (RECIPES / "README.md").read_text()
    assert all(f"`{name}`" in about for name in (*DATA_SETS, *OVERLAYS))


def test_no_setting_of_a_model_stands_in_data_too() -> None:
    """Else the order of the two would matter."""
    for model, data in itertools.product([*MODELS, "finetune"], DATA_SETS):
        assert not leaves(content("models", model)) & leaves(content("data", data)), (model, data)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.stem}-{pair.parent.name}")
def test_what_a_model_wants_otherwise_is_otherwise(pair: Path, parser: TrainingParser) -> None:
    """Every setting of such a file replaces another one: none repeats the model's, or the data set's."""
    model, data = RECIPES / "models" / pair.name, pair.parent.with_suffix(".yaml")
    assert model.is_file()
    words = ["-c", str(model), "-c", str(data)]
    without, with_it = (parser.parse_args([*words, *more]) for more in ([], ["-c", str(pair)]))
    for leaf in leaves(yaml.safe_load(pair.read_text())):
        assert without.get(leaf[1:]) != with_it[leaf[1:]], leaf  # or it was not there at all


# ---- how they compose -----------------------------------------------------------------------------------------------


def every_pair() -> list[Any]:
    """Each model with a data set, and each data set with a model; the other pairs are slow."""
    pairs = itertools.product(enumerate(MODELS), enumerate(DATA_SETS))
    return [
        pytest.param(model, data, marks=[] if i % len(DATA_SETS) == j else pytest.mark.slow)
        for (i, model), (j, data) in pairs
    ]


@pytest.mark.parametrize(("model", "data"), every_pair())
def test_every_pair_builds_in_any_order(
    model: str, data: str, parser: TrainingParser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = parsed(parser, "-c", model, "-c", data)
    config.pop("config")
    other = parsed(parser, "-c", data, "-c", model)
    other.pop("config")
    assert config == other
    # the objects themselves, so that a wrong width or option shows here
    built = parser.instantiate_classes(config)
    assert built.model.input_shape == tuple(content("data", data)["model"]["init_args"]["input_shape"])
    assert built.data.path == DATASETS[data]["id"]


def test_the_digits_and_mnist_differ_where_a_file_says_so(parser: TrainingParser) -> None:
    ways = [parsed(parser, "-c", "vae", "-c", data) for data in ("digits", "mnist")]
    assert [way.model.init_args.latent_dim for way in ways] == [8, 20]
    assert [way.trainer.max_epochs for way in ways] == [200, 10]
    by_file = [str(RECIPES / "models" / "vae.yaml"), str(RECIPES / "data" / "digits.yaml")]
    assert parsed(parser, "-c", by_file[0], f"--config={by_file[1]}") == ways[0]
    # what comes later still wins, be it an option or a recipe; what comes before does not
    assert parsed(parser, "-c", "vae", "-c", "digits", "--trainer.max_epochs", "3").trainer.max_epochs == 3
    later = parsed(parser, "-c", "vae", "-c", "digits", "-c", "{trainer: {max_epochs: 4}}")
    assert (later.trainer.max_epochs, later.model.init_args.latent_dim) == (4, 8)
    # the last of two models, and what that one wants
    last = parsed(parser, "-c", "vae", "-c", "denoising", "-c", "digits")
    assert (last.model.class_path, last.model.init_args.latent_dim) == ("lightning_ae.DenoisingAutoencoder", 32)


def test_a_model_by_its_class_or_in_a_file_of_ones_own(parser: TrainingParser, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("model: {class_path: VAE, init_args: {latent_dim: 3}}\ndata: {init_args: {batch_size: 7}}\n")
    for words in (["--model", "VAE", "-c", "digits"], ["-c", "digits", "--model=VAE"], ["-c=digits", "-c", str(own)]):
        config = parsed(parser, *words, "--model.latent_dim", "3")
        assert config.model.class_path == "lightning_ae.VAE"
        assert config.model.init_args.input_shape == [1, 8, 8]
        assert config.model.init_args.latent_dim == 3
        assert config.data.init_args.path == "digits"
    assert config.data.init_args.batch_size == 7  # the file comes after the data's recipe
    own.write_text("model: VAE\n")
    assert parsed(parser, "-c", "digits", "-c", str(own)).model.class_path == "lightning_ae.VAE"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_parse(overlay: str, parser: TrainingParser) -> None:
    config = parsed(parser, "-c", "vae", "-c", "digits", "-c", overlay)
    (kind,) = (kind for kind in recipes.FOLDERS if overlay in recipes.names(kind))
    for key, value in content(kind, overlay)["trainer"].items():
        given = config.trainer[key]
        if isinstance(value, dict):  # a class, whose other arguments are filled in
            assert given.class_path.endswith(value["class_path"])
            assert given.init_args.as_dict().items() >= value["init_args"].items()
        elif key != "logger":
            assert given == value


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (["-c", "vea", "-c", "digits"], "unknown recipe 'vea'", "did you mean 'vae'"),
        (["-c", "digits"], "the recipe 'digits' goes with a model", "score_matching"),
        (["-c", "recipes/digits/vae.yaml"], "there is no file 'recipes/digits/vae.yaml'", "models: adversarial, ae, "),
        (["-c", "ae", "-c", "mine"], "the recipe 'mine' may be any of", "./NAME"),
    ],
)
def test_what_there_is_not(
    words: list[str], said: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "mine" in words:
        for kind in ("models", "data"):
            (tmp_path / "recipes" / kind).mkdir(parents=True)
            (tmp_path / "recipes" / kind / "mine.yaml").write_text("")
        (tmp_path / "recipes" / "models" / "ae.yaml").write_text("model: Autoencoder\n")
        monkeypatch.setattr(recipes, "recipes_folder", lambda: tmp_path / "recipes")
    with pytest.raises(InputError, match=said) as refused:
        recipes.compose(words)
    assert hint in refused.value.hint


def test_a_file_that_is_called_as_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own").write_text("model: VAE\n")
    Path("digits").mkdir()  # a folder is none
    assert recipes.compose(["-c", "own", "-c", "digits"])[:2] == ["-c", "own"]
    Path("vae").write_text("model: VAE\n")
    with pytest.raises(InputError, match="the recipe 'vae' may be any of .*vae.yaml, vae"):
        recipes.compose(["-c", "vae"])
    assert recipes.compose(["-c", "./vae"]) == ["-c", "./vae"]


@pytest.mark.parametrize(
    ("words", "title"),
    [
        (["vae", "digits"], "vae-digits"),
        (["digits", "vae", "wandb", "bf16", "ddp"], "digits-vae"),
        (["vae", "{trainer: {max_epochs: 1}}", "mnist"], "vae-mnist"),
        (["own.yaml", "mnist"], "own-mnist"),
        (["runs/vae-digits/fit-1/config.yaml", "bf16"], "vae-digits"),
    ],
)
def test_the_name_of_a_run(
    words: list[str], title: str, parser: TrainingParser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("own.yaml", "runs/vae-digits/fit-1/config.yaml"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text("model: VAE\n")
    config = parsed(parser, *(word for given in words for word in ("-c", given)), "--model.input_shape", "[4]",
                    "--data", "HFDataModule", "--data.path", "digits")  # fmt: skip
    assert recipes.title(config.config) == title


# ---- what they do ---------------------------------------------------------------------------------------------------


# a warm-up that an epoch of the digits has steps for
SHORTER = {
    "topk_dictionary": ["--model.lr_schedule.init_args.warmup", "10"],
    "autoencoder_kl": ["--model.critic_start", "5"],
    "vqgan": ["--model.critic_start", "5"],
}


@pytest.mark.parametrize("model", variants(MODELS, of=variant_of))
def test_recipes_run_on_the_digits(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO"):
        main(["fit", "-c", model, "-c", "digits", "-c", "tensorboard", "--trainer.max_epochs", "1",
              "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
              *SHORTER.get(model, [])])  # fmt: skip
    run = Path("runs", f"{model}-digits", "fit-1")
    assert (run / "checkpoints" / "best.ckpt").is_file()
    assert list((run / "tensorboard").glob("events.*"))
    otherwise = RECIPES / "data" / "digits" / f"{model}.yaml"
    said = [message for message in caplog.messages if "is read from" in message]
    assert [message.rpartition(" ")[2] for message in said] == [str(otherwise)] * otherwise.is_file()
