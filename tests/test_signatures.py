"""Constructors that state their own arguments only: every way to ask for the others lists them, and none is lost."""

from __future__ import annotations

import inspect
import pydoc
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import pytest
import torch
from asking import given_of
from typing_extensions import Unpack

from lightning_ae import VAE, Autoencoder, InputError, KSparseAutoencoder, get_model, list_models, load_model
from lightning_ae.architectures import MLP
from lightning_ae.autoencoder import LikelihoodOptions, Options, TrainingOptions
from lightning_ae.cli import main
from lightning_ae.cli.training import TrainingCLI
from lightning_ae.config import arguments
from lightning_ae.models.vae import VAEOptions
from lightning_ae.parts import Bernoulli, Warmup
from lightning_ae.zoo.publishing.entry import config_of

SHAPE = (1, 8, 8)
BARE = ["--data", "HFDataModule", "--data.path", "digits", "--trainer.logger", "false", "--trainer.accelerator", "cpu",
        "--trainer.enable_checkpointing", "false"]  # fmt: skip


def parsed(model: str, *words: str) -> Any:
    """The model that the command line builds."""
    return TrainingCLI("fit", ["--model", model, "--model.input_shape", "[1, 8, 8]", *words, *BARE]).model


def taken(cls: type) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(cls).parameters)


# ---- the registry ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_models())
def test_what_follows_latent_dim_is_named(name: str) -> None:
    first, second, *others = taken(get_model(name)).values()
    assert (first.name, second.name) == ("input_shape", "latent_dim")
    assert first.default is inspect.Parameter.empty
    assert {p.kind for p in others} == {inspect.Parameter.KEYWORD_ONLY}
    assert all(p.default is not inspect.Parameter.empty for p in others)
    with pytest.raises(TypeError, match="positional"):
        get_model(name)(SHAPE, 4, 0.5)  # type: ignore[arg-type,misc]


@pytest.mark.parametrize("name", list_models())
def test_the_signature_the_docstring_and_the_hyper_parameters_list_the_same(name: str) -> None:
    cls = get_model(name)
    names = list(taken(cls))
    assert {"input_shape", "latent_dim", "lr", "lr_schedule", "weight_decay"} <= set(names)
    assert names == arguments(cls)
    assert cls.__doc__ is not None
    listed = cls.__doc__.split("Args:\n")[1].split("\n\n")[0]
    assert [name for name in names if f"{name}: " not in listed] == []
    model = cls(SHAPE)
    assert set(model.init_args) <= set(names)
    assert cls(**model.init_args).init_args == model.init_args


@pytest.mark.parametrize("name", list_models())
def test_the_command_line_builds_it_of_its_input_shape_alone(name: str) -> None:
    cls = get_model(name)
    model = parsed(cls.__name__)
    assert type(model) is cls
    assert model.init_args == cls(SHAPE).init_args  # what the parser fills in are the constructor's own defaults
    model.zeros(2)


# ---- how they are found ---------------------------------------------------------------------------------------------


def test_a_class_lists_its_own_and_those_above_without_what_it_settles() -> None:
    assert [*taken(KSparseAutoencoder)] == [
        "input_shape", "latent_dim", "k", "alpha", "k_start", "k_epochs", "likelihood", "lr", "lr_schedule",
        "weight_decay",
    ]  # fmt: skip
    assert taken(KSparseAutoencoder)["lr"].default == taken(Autoencoder)["lr"].default is None


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    text = pydoc.plain(pydoc.render_doc(KSparseAutoencoder))
    assert "weight_decay: 'float' = 0.0" in text or "weight_decay: float = 0.0" in text
    assert "lr: the learning rate of AdamW;" in text
    with pytest.raises(SystemExit):
        main(["fit", "--model.help", "KSparseAutoencoder"])
    out = capsys.readouterr().out
    for name in ("k", "alpha", "likelihood", "lr_schedule", "weight_decay"):
        assert f"--model.{name} " in out
    assert "AdamW's decoupled weight decay" in out
    assert "--model.architecture" not in out


@pytest.mark.parametrize("name", ["nonsense", "architecture"])
def test_what_it_does_not_take_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown argument, and one that the class settles; in Python, on the command line, and in a recipe."""
    with pytest.raises(TypeError, match=name):
        KSparseAutoencoder(SHAPE, **{name: MLP()})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=name):
        parsed("KSparseAutoencoder", f"--model.{name}", "MLP")
    monkeypatch.chdir(tmp_path)
    recipe = f"model: {{class_path: KSparseAutoencoder, init_args: {{input_shape: [1, 8, 8], {name}: MLP}}}}\n"
    Path("recipe.yaml").write_text(recipe)
    with pytest.raises(InputError, match=name):
        TrainingCLI("fit", ["-c", "recipe.yaml", *BARE])
    if name == "nonsense":
        with pytest.raises(InputError, match="unknown argument of KSparseAutoencoder 'nonsense'"):
            KSparseAutoencoder.from_init_args({"input_shape": SHAPE, "nonsense": 1})


def test_parts_from_the_command_line() -> None:
    words = ["--model.lr_schedule", "Warmup", "--model.lr_schedule.steps", "7", "--model.likelihood", "Bernoulli"]
    model = parsed("KSparseAutoencoder", *words)
    assert model.lr_schedule == Warmup(7)
    assert model.likelihood == Bernoulli()


# ---- classes of one's own -------------------------------------------------------------------------------------------


class GammaOptions(TrainingOptions, total=False):
    beta: float
    gamma: float


class Passing(VAE):
    """Passes on whatever comes."""

    def __init__(self, *args: Any, gamma: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gamma = gamma


class Stating(VAE):
    """States its own.

    Args:
        gamma: of its own.
    """

    def __init__(
        self, input_shape: Sequence[int], latent_dim: int = 16, *, gamma: float = 1.0, **options: Unpack[VAEOptions]
    ) -> None:
        super().__init__(input_shape, latent_dim, **options)
        self.gamma = gamma


class Above(Stating):
    """Passes on an argument of a class that passes on others, and settles one."""

    def __init__(self, input_shape: Sequence[int], latent_dim: int = 4, **options: Unpack[GammaOptions]) -> None:
        super().__init__(input_shape, latent_dim, architecture=MLP(hidden=(9,)), **options)


class Written(VAE):
    """Writes all of its arguments out."""

    def __init__(self, input_shape: Sequence[int], gamma: float = 1.0, beta: float = 1.0, lr: float = 1e-3) -> None:
        super().__init__(input_shape, 4, beta=beta, lr=lr)
        self.gamma = gamma


class Saving(VAE):
    """Calls save_hyperparameters, as is usual in Lightning."""

    def __init__(
        self, input_shape: Sequence[int], latent_dim: int = 16, *, gamma: float = 1.0, **options: Unpack[VAEOptions]
    ) -> None:
        super().__init__(input_shape, latent_dim, **options)
        self.save_hyperparameters()
        self.gamma = gamma


OWN = [Passing, Stating, Above, Written, Saving]


@pytest.mark.parametrize("cls", OWN, ids=lambda cls: cls.__name__)
def test_a_class_of_ones_own(
    cls: Any, tmp_path: Path, fit: Any, digits: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoint holds each argument and loads; the command line and publishing know them too."""
    model = cls(SHAPE, gamma=0.25, beta=0.5, lr=0.01)
    fit(model, digits, max_steps=1).save_checkpoint(tmp_path / "m.ckpt")
    loaded = load_model(tmp_path / "m.ckpt")
    assert type(loaded) is cls
    assert (loaded.gamma, loaded.beta, loaded.lr) == (0.25, 0.5, 0.01)
    assert loaded.init_args == model.init_args
    assert {"gamma", "beta", "lr"} <= model.init_args.keys() <= set(arguments(cls)) <= model.hparams.keys()
    assert torch.equal(loaded(digits[:3]), model.eval()(digits[:3]))

    words = ["--model.gamma", "0.25", "--model.beta", "0.5", "--model.lr", "0.01"]
    assert parsed(f"{__name__}.{cls.__name__}", *words)._plain_hparams() == model._plain_hparams()

    monkeypatch.setattr("lightning_ae.zoo.publishing.entry.model_name", lambda cls: ("vae", None))
    assert config_of("vae_mlp.digits_v9", model).config == model.init_args


def test_a_settled_argument_is_not_kept_and_not_taken() -> None:
    model = Above(SHAPE)
    assert "architecture" not in taken(Above)
    assert "architecture" not in model.init_args
    assert "gamma" in taken(Above)
    assert Above.__doc__ == "Passes on an argument of a class that passes on others, and settles one."
    with pytest.raises(TypeError, match="architecture"):
        Above(SHAPE, architecture=MLP())  # type: ignore[call-arg]


def test_the_docstring_takes_the_text_of_those_above() -> None:
    assert Stating.__doc__ is not None
    entries = Stating.__doc__.split("Args:\n")[1]
    assert "    gamma: of its own.\n" in entries
    assert "    beta: the weight of the divergence.\n" in entries
    assert entries.count("    lr: ") == entries.count("    latent_dim: ") == 1


class Unknown(TypedDict, total=False):
    nonsense: int


def test_options_that_no_class_above_takes_are_refused_where_the_class_is_made() -> None:
    with pytest.raises(TypeError, match="Wrong passes on nonsense, which no class above it takes"):

        class Wrong(Autoencoder):
            def __init__(self, input_shape: Sequence[int], **options: Unpack[Unknown]) -> None: ...


def test_options_that_are_ones_own_are_refused_where_the_class_is_made() -> None:
    with pytest.raises(TypeError, match="Twice has lr of its own, and passes it on"):

        class Twice(Autoencoder):
            def __init__(self, input_shape: Sequence[int], lr: float = 1.0, **options: Unpack[Options]) -> None: ...  # type: ignore[misc]


def test_what_a_class_settles_must_not_be_among_its_options() -> None:
    """Its checkpoints would hold the argument, and never load: said when one is built, whatever it is called with."""

    class Both(Autoencoder):
        def __init__(self, input_shape: Sequence[int], latent_dim: int = 16, **options: Unpack[Options]) -> None:
            super().__init__(input_shape, latent_dim, architecture=MLP(), **options)  # type: ignore[misc]

    with pytest.raises(TypeError, match="Both settles architecture, which its options name: leave it out"):
        Both(SHAPE)
    with pytest.raises(TypeError, match=r"multiple values .*architecture"):
        Both(SHAPE, architecture=MLP())


def test_names_that_only_a_type_checker_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Annotations that cannot be looked up leave the class as it is."""
    text = """from __future__ import annotations
from typing import TYPE_CHECKING
from typing_extensions import Unpack
from lightning_ae import VAE
if TYPE_CHECKING:
    from nowhere import Hidden
class Mine(VAE):
    def __init__(self, input_shape, **options: Unpack[Hidden]):
        super().__init__(input_shape, **options)
class Below(Mine):
    '''A class that takes what that one takes.

    Args:
        beta: a weight.
    '''
"""
    (tmp_path / "hidden_options.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    from hidden_options import Mine  # type: ignore[import-not-found]

    try:
        assert Mine(SHAPE, beta=0.5).init_args["beta"] == 0.5
    finally:
        del sys.modules["hidden_options"]


def test_options_by_their_groups() -> None:
    assert TrainingOptions.__annotations__.keys() == {"lr", "lr_schedule", "weight_decay"}
    assert "likelihood" in LikelihoodOptions.__annotations__
    assert given_of(VAE(SHAPE), 3) == {}
