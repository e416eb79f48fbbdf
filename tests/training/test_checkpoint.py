"""Checkpoints: nothing in one runs, damage is named, and what can be saved loads."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import resource
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LightningCLI
from torch import nn

from lightning_ae import VAE, VQVAE, Autoencoder, FineTuneClassifier, HFDataModule, InputError, load_model
from lightning_ae.architectures import MLP, ConvNet, ResNet
from lightning_ae.cli import main
from lightning_ae.config import to_plain
from lightning_ae.training.checkpoint_file import METADATA_KEY

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "max_steps": 1, "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "limit_val_batches": 0, "enable_checkpointing": False,
}  # fmt: skip
SMALL = MLP(hidden=(8,))
DIGITS = (1, 8, 8)

pytestmark = pytest.mark.filterwarnings("ignore:.*number of training batches.*", "ignore:.*fast_dev_run.*")


def fitted(model: Any, file: Path) -> dict[str, Any]:
    """What a checkpoint of the model holds after one step on the digits; written to a file, too."""
    trainer = pl.Trainer(**QUIET, default_root_dir=file.parent)
    trainer.fit(model, HFDataModule("digits", batch_size=64))
    trainer.save_checkpoint(file)
    return torch.load(file, weights_only=True)


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Of sound checkpoints: of a VAE, and of a classifier on one."""
    folder = tmp_path_factory.mktemp("sound")
    vae = VAE(DIGITS, 3, architecture=SMALL)
    found = {"vae": fitted(vae, folder / "vae.ckpt")}
    return found | {"classifier": fitted(FineTuneClassifier(str(folder / "vae.ckpt")), folder / "classifier.ckpt")}


# ---- files that act -------------------------------------------------------------------------------------------------

INSTANTIATOR = "pytorch_lightning.cli.instantiate_module"
Content = dict[str, Any]


def shell(folder: Path) -> dict[str, Any]:
    """What jsonargparse would make of it: a process that leaves a mark."""
    return {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(folder / "mark")]}}


def truncating(folder: Path) -> dict[str, Any]:
    return {"class_path": "logging.FileHandler", "init_args": {"filename": str(folder / "precious"), "mode": "w"}}


FOO = {"class_path": "evilmod.Foo"}


def _in_pretrained(content: Content, value: Any) -> None:
    content["hyper_parameters"]["pretrained"] = value


def _architecture(content: Content, value: Any, where: str = "hyper_parameters") -> None:
    content.setdefault(where, {})["architecture"] = value


def _instantiate(content: Content, where: str = "hyper_parameters", **more: Any) -> None:
    content.setdefault(where, {}).update({"_instantiator": INSTANTIATOR, **more})


ATTACKS: dict[str, tuple[str, Callable[[Content, Path], Any]]] = {
    "a process in pretrained": (
        "classifier", lambda c, f: (_instantiate(c), _in_pretrained(c, {"x": shell(f)})),
    ),
    "a process as pretrained": ("classifier", lambda c, f: _in_pretrained(c, shell(f))),
    "a process in the architecture of pretrained": (
        "classifier", lambda c, f: c["hyper_parameters"]["pretrained"]["init_args"].update(architecture=shell(f)),
    ),
    "another file as pretrained": ("classifier", lambda c, f: _in_pretrained(c, str(f / "precious"))),
    "a truncated file": ("classifier", lambda c, f: (_instantiate(c), _in_pretrained(c, {"x": truncating(f)}))),
    "the instantiator": ("vae", lambda c, f: (_instantiate(c), _architecture(c, shell(f)))),
    "the instantiator and a module": ("vae", lambda c, f: (_instantiate(c), _architecture(c, FOO))),
    "the instantiator and a class": ("vae", lambda c, f: _instantiate(c, _class_path="evilmod.Foo")),
    "a class": ("vae", lambda c, f: c["hyper_parameters"].update(_class_path="evilmod.Foo")),
    "the legacy key hparams": (
        "vae", lambda c, f: (_instantiate(c, "hparams"), _architecture(c, shell(f), "hparams")),
    ),
    "the legacy key module_arguments": ("vae", lambda c, f: _instantiate(c, "module_arguments")),
    "all in one argument": ("vae", lambda c, f: c.update(hparams_name="input_shape")),
    "a type of hyper-parameters": ("vae", lambda c, f: c.update(hparams_type="evilmod.Foo")),
    "a module in the architecture": ("vae", lambda c, f: _architecture(c, FOO)),
    "a process as the architecture": ("vae", lambda c, f: _architecture(c, shell(f))),
    "a process inside of the likelihood": (
        "vae", lambda c, f: c["hyper_parameters"]["likelihood"]["init_args"].update(scale=shell(f)),
    ),
    "a process as preprocessing": ("vae", lambda c, f: c["lightning_ae"]["signature"].update(preprocess=shell(f))),
    "a module as preprocessing": ("vae", lambda c, f: c["lightning_ae"]["signature"].update(preprocess=FOO)),
    "a process as an earlier version's preprocessing": (
        "vae", lambda c, f: c["lightning_ae"].update(signature=None, preprocess=shell(f)),
    ),
    "a process as the class": ("vae", lambda c, f: c["lightning_ae"].update(class_path="subprocess.Popen")),
    "a module as the class": ("vae", lambda c, f: c["lightning_ae"].update(class_path="evilmod.Foo")),
    "a function as the class": ("vae", lambda c, f: c["lightning_ae"].update(class_path="os.system")),
    "no path as the class": ("vae", lambda c, f: c["lightning_ae"].update(class_path="lightning_ae.VAE.x..y")),
    "an argument by another name": ("vae", lambda c, f: c["lightning_ae"]["arguments"].append("latent")),
}  # fmt: skip


class Attack:
    """A hostile checkpoint in a folder where anything that it does leaves a trace."""

    def __init__(self, name: str, contents: dict[str, Content], folder: Path) -> None:
        self.folder, self.file = folder, folder / "evil.ckpt"
        (folder / "precious").write_text("precious")
        (folder / "evilmod.py").write_text(f"open({str(folder / 'mark')!r}, 'w')\nclass Foo: pass\n")
        self.sound, change = ATTACKS[name]
        content = copy.deepcopy(contents[self.sound])
        change(content, folder)
        torch.save(content, self.file)

    def did_nothing(self) -> bool:
        return (
            "evilmod" not in sys.modules
            and not (self.folder / "mark").exists()
            and (self.folder / "precious").read_text() == "precious"
        )


@pytest.fixture(params=ATTACKS)
def attack(request: pytest.FixtureRequest, contents: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attack:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return Attack(request.param, contents, tmp_path)


def test_nothing_that_a_checkpoint_says_runs(attack: Attack) -> None:
    """Wherever a model is made of one."""
    model: Any = {"vae": VAE, "classifier": FineTuneClassifier}[attack.sound]
    ways: list[Callable[[], Any]] = [
        lambda: load_model(attack.file),
        lambda: model.load_from_checkpoint(attack.file),
        lambda: FineTuneClassifier(str(attack.file)),
        lambda: main(["features", str(attack.file), "--path", "digits"]),
    ]
    for way in ways:
        with pytest.raises((InputError, SystemExit)):
            way()
        assert attack.did_nothing()


def test_nothing_that_a_checkpoint_says_runs_where_a_fit_goes_on(attack: Attack) -> None:
    """Or is evaluated: the model is there, but the file is read."""
    model = VAE(DIGITS, 3, architecture=SMALL)
    data = HFDataModule("digits", batch_size=64)
    for stage in ("fit", "validate", "test", "predict"):
        trainer = pl.Trainer(accelerator="cpu", fast_dev_run=True, enable_progress_bar=False)
        # what is not needed there may pass: it is not looked at
        with contextlib.suppress(InputError):
            getattr(trainer, stage)(copy.deepcopy(model), datamodule=data, ckpt_path=str(attack.file))
        assert attack.did_nothing()


@pytest.mark.parametrize("attack", ["a process in pretrained", "the instantiator and a module"], indirect=True)
@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_nor_by_the_command_line(attack: Attack, command: str) -> None:
    args = ["--model", "VAE", "--model.input_shape", "[1,8,8]", "--model.latent_dim", "3", "--data", "HFDataModule"]
    args += ["--data.path", "digits", "--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu"]
    with pytest.raises(SystemExit):
        main([command, *args, "--ckpt_path", str(attack.file)])
    assert attack.did_nothing()


@pytest.mark.parametrize("text", ["x:\n  {shell}", "{shell}", '{{"class_path": "VAE", "init_args": {foo}}}'])
def test_a_recipe_under_a_checkpoints_name_is_none(
    text: str, contents: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parser would open a file that is given for a class, and obey it."""
    monkeypatch.syspath_prepend(tmp_path)
    attack = Attack("a class", contents, tmp_path)
    foo = json.dumps({"input_shape": [1, 8, 8], "architecture": FOO})
    attack.file.write_text(text.format(shell=json.dumps(shell(tmp_path)), foo=foo))
    with pytest.raises(SystemExit):
        main(["fit", "--model", "FineTuneClassifier", "--model.pretrained", str(attack.file), "--data", "HFDataModule",
              "--data.path", "digits", "--trainer.fast_dev_run", "true"])  # fmt: skip
    assert attack.did_nothing()


def test_lightning_never_builds_from_a_file(
    contents: dict[str, Content], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pytorch_lightning.core.saving as saving

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("Lightning's own loading was called")

    monkeypatch.setattr(saving, "_load_state", never)
    monkeypatch.setattr(saving, "_load_from_checkpoint", never)
    monkeypatch.setattr("pytorch_lightning.core.module._load_from_checkpoint", never)
    for name, content in contents.items():
        torch.save(content, tmp_path / f"{name}.ckpt")
        loaded = load_model(tmp_path / f"{name}.ckpt")
        type(loaded).load_from_checkpoint(tmp_path / f"{name}.ckpt")
    FineTuneClassifier(str(tmp_path / "vae.ckpt"))


def test_options_that_would_read_otherwise(contents: dict[str, Content], tmp_path: Path) -> None:
    torch.save(contents["vae"], tmp_path / "vae.ckpt")
    for options in ({"hparams_file": "hparams.yaml"}, {"weights_only": False}):
        with pytest.raises(InputError, match="is no option here"):
            VAE.load_from_checkpoint(tmp_path / "vae.ckpt", **options)
    with pytest.raises(InputError, match="unknown argument of VAE 'latents'"):
        VAE.load_from_checkpoint(tmp_path / "vae.ckpt", latents=3)


# ---- damage ---------------------------------------------------------------------------------------------------------


def _deep(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def _bomb() -> list[Any]:
    value: list[Any] = [0] * 10
    for _ in range(9):
        value = [value] * 10
    return value


DAMAGES: dict[str, tuple[str, Callable[[Content], Any]]] = {
    "a list for the hyper-parameters": ("hyper_parameters is a list", lambda c: c.update(hyper_parameters=[])),
    "a text for the weights": ("state_dict is a str", lambda c: c.update(state_dict="x")),
    "no weights": ("state_dict is missing", lambda c: c.pop("state_dict")),
    "a number among the weights": ("more than tensors", lambda c: c["state_dict"].update(x=1)),
    "no hyper-parameter": ("lack input_shape", lambda c: c["hyper_parameters"].pop("input_shape")),
    "no hyper-parameters": ("lack", lambda c: c.pop("hyper_parameters")),
    "a dict for a shape": ("input_shape", lambda c: c["hyper_parameters"].update(input_shape={"a": 1})),
    "a text for a number": ("not what the class takes", lambda c: c["hyper_parameters"].update(beta="much")),
    "a list for the architecture": ("architecture must be", lambda c: _architecture(c, [])),
    "an unknown option": ("unknown option", lambda c: _architecture(c, {"class_path": "MLP", "init_args": {"x": 1}})),
    "options that are none": ("must be a dict", lambda c: _architecture(c, {"class_path": "MLP", "init_args": [1]})),
    "a base class": (
        "a base class", lambda c: _architecture(c, {"class_path": "lightning_ae.architectures.Architecture"}),
    ),
    "a number for a class": ("no import path", lambda c: _architecture(c, {"class_path": 3})),
    "a module that is no package": (
        "not imported|no subclass", lambda c: _architecture(c, {"class_path": "lightning_ae.autoencoder.X.Y"}),
    ),
    "no class": ("which autoencoder", lambda c: c["lightning_ae"].pop("class_path")),
    "a list for what is ours": ("which autoencoder", lambda c: c.update(lightning_ae=[])),
    "a number for the preprocessing": (
        "preprocess must be", lambda c: c["lightning_ae"].update(signature=None, preprocess=3),
    ),
    "a number for the signature": (
        "signature is not what it should be", lambda c: c["lightning_ae"].update(signature=3),
    ),
    "another signature": (
        "another hash", lambda c: c["lightning_ae"]["signature"]["preprocess"]["init_args"].update(mean=[0.5]),
    ),
    "a text for the data": ("what data", lambda c: c["lightning_ae"].update(data="digits")),
    "data without a class": ("what data", lambda c: c["lightning_ae"]["data"].pop("class_path")),
    "a dict for the arguments": ("list of arguments", lambda c: c["lightning_ae"].update(arguments={})),
    "deep lists": ("nests deeper", lambda c: c["hyper_parameters"].update(input_shape=_deep(100))),
    "lists of lists": ("more than", lambda c: c["hyper_parameters"].update(input_shape=_bomb())),
    "a weight too many": ("add x", lambda c: c["state_dict"].update(x=torch.zeros(1))),
    "a weight too few": ("lack encoder", lambda c: c["state_dict"].pop("encoder.linears.0.weight")),
    "a weight of another shape": (
        r"shape \(3,\), but", lambda c: c["state_dict"].update({"encoder.linears.0.bias": torch.zeros(3)}),
    ),
    "NaN": ("not finite: encoder.linears.0.bias", lambda c: c["state_dict"]["encoder.linears.0.bias"].fill_(torch.nan)),
    "infinity": ("not finite", lambda c: c["state_dict"]["encoder.linears.0.bias"][0].fill_(torch.inf)),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(damage: str, contents: dict[str, Content], tmp_path: Path) -> None:
    reason, change = DAMAGES[damage]
    content = copy.deepcopy(contents["vae"])
    change(content)
    torch.save(content, tmp_path / "damaged.ckpt")
    with pytest.raises(InputError, match=reason):
        load_model(tmp_path / "damaged.ckpt")


@pytest.mark.parametrize(
    "damage",
    ["a list for the hyper-parameters", "no weights", "NaN", "no class", "a number for the preprocessing"],
)
def test_damage_is_named_where_a_fit_goes_on(damage: str, contents: dict[str, Content], tmp_path: Path) -> None:
    content = copy.deepcopy(contents["vae"])
    DAMAGES[damage][1](content)
    torch.save(content, tmp_path / "damaged.ckpt")
    with pytest.raises(InputError, match=DAMAGES[damage][0]):
        pl.Trainer(**QUIET | {"max_steps": 2}).fit(
            VAE(DIGITS, 3, architecture=SMALL), HFDataModule("digits"), ckpt_path=str(tmp_path / "damaged.ckpt")
        )


def peak() -> float:
    """The most memory that this process has taken so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize(
    ("width", "weights"),
    [*((width, "of another size") for width in (30_000, 1_000_000, 10**15)), (30_000, "strides of zero")],
)
def test_no_file_takes_more_memory_than_its_size(
    width: int, weights: str, contents: dict[str, Content], tmp_path: Path
) -> None:
    content = copy.deepcopy(contents["vae"])
    content["hyper_parameters"]["architecture"]["init_args"]["hidden"] = [width, width]
    if weights != "of another size":
        with torch.device("meta"):
            wide = VAE(DIGITS, 3, architecture=MLP(hidden=(width, width)))
        one = torch.zeros(())
        content["state_dict"] = {name: one.expand(p.shape) for name, p in wide.state_dict().items()}
    torch.save(content, tmp_path / "wide.ckpt")
    before = peak()
    with pytest.raises(InputError, match="shape|weights|claims|overflow"):
        load_model(tmp_path / "wide.ckpt")
    assert peak() < before + 200


def test_packed_parts_are_refused(contents: dict[str, Content], tmp_path: Path) -> None:
    torch.save(contents["vae"], tmp_path / "plain.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "plain.ckpt") as source,
        zipfile.ZipFile(tmp_path / "packed.ckpt", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for part in source.infolist():
            target.writestr(part.filename, source.read(part))
    with pytest.raises(InputError, match="cannot be read"):
        load_model(tmp_path / "packed.ckpt")


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ckpt")
    with pytest.raises(InputError, match="no checkpoint at"):
        load_model(tmp_path / "pipe.ckpt")


# ---- what can be saved loads ----------------------------------------------------------------------------------------


class Settled(VAE):
    """Settles an argument, and passes on the rest."""

    def __init__(self, input_shape: Any, **options: Any) -> None:
        super().__init__(input_shape, latent_dim=5, **options)


class Positional(VAE):
    """Passes on what comes, by position too."""

    def __init__(self, *args: Any, extra: int = 1, **options: Any) -> None:
        super().__init__(*args, **options)
        self.extra = extra


class Twice(Settled):
    """A subclass of one that settles an argument, which settles another."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, architecture=SMALL, **options)


class Saving(VAE):
    """Calls save_hyperparameters, as is usual in Lightning, and notes something else besides."""

    def __init__(self, input_shape: Any, architecture: Any = SMALL, width: float = 1.0) -> None:
        super().__init__(input_shape, 2, architecture=architecture)
        self.save_hyperparameters()
        self.save_hyperparameters({"note": "mine"})


class Mixed:
    """A mixin with an argument of its own."""

    def __init__(self, *args: Any, strength: float = 0.5, **options: Any) -> None:
        super().__init__(*args, **options)
        self.strength = strength


class WithMixin(Mixed, VAE):
    """A mixin before the model."""


class Eager(Autoencoder):
    """A constructor that cannot run without memory."""

    def __init__(self, input_shape: Any, scale: float = 2.0) -> None:
        super().__init__(input_shape, 2, architecture=SMALL)
        self.largest = float(torch.linspace(0, scale, 3).max())
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))


class Lazy(Autoencoder):
    """A layer of which the first batch says the size."""

    def build_encoder(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(self.latent_dim))


MAKERS: dict[str, Callable[[], Any]] = {
    "settled": lambda: Settled(DIGITS, beta=2.0),
    "positional": lambda: Positional(DIGITS, 3, architecture=SMALL, extra=4, beta=0.5),
    "settled twice": lambda: Twice(DIGITS, lr=0.01),
    "save_hyperparameters": lambda: Saving(DIGITS, width=0.25),
    "a mixin": lambda: WithMixin(DIGITS, 3, strength=0.1),
    "eager": lambda: Eager(DIGITS, scale=3.0),
    "lazy": lambda: Lazy(DIGITS, 4),
    "numpy's numbers": lambda: VAE(tuple(np.array(DIGITS)), np.int64(3), beta=np.float64(0.5), lr=np.float32(0.01)),
    "a classifier": lambda: FineTuneClassifier(Settled(DIGITS, beta=2.0), 10),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_what_can_be_saved_loads(maker: str, tmp_path: Path) -> None:
    model = MAKERS[maker]()
    fitted(model, tmp_path / "m.ckpt")
    for loaded in (type(model).load_from_checkpoint(tmp_path / "m.ckpt"), load_model(tmp_path / "m.ckpt")):
        assert type(loaded) is type(model)
        assert dict(loaded.hparams) == dict(model.hparams) or maker == "save_hyperparameters"
        assert loaded.init_args == model.init_args
        x = torch.rand(3, *DIGITS)
        with torch.no_grad():
            assert torch.equal(loaded.eval()(x), model.eval()(x))
    if maker == "save_hyperparameters":
        assert loaded.hparams["note"] == "mine"


def test_hyper_parameters_changed_after_construction(tmp_path: Path) -> None:
    model = VAE(DIGITS, 3, architecture=SMALL)
    model.hparams.lr = 0.5  # as Lightning's tuner does
    fitted(model, tmp_path / "m.ckpt")
    assert load_model(tmp_path / "m.ckpt").lr == 0.5
    assert VAE.load_from_checkpoint(tmp_path / "m.ckpt", lr=0.25).lr == 0.25


# ---- files of before ------------------------------------------------------------------------------------------------


class Unsaid(Autoencoder):
    """Of a user, who never said how borders are padded."""

    padding: Any = "replicate"

    def __init__(self, input_shape: Any, **options: Any) -> None:
        super().__init__(input_shape, architecture=ResNet(channels=(4,), padding=self.padding), **options)


def without_later_fields(plain: Any) -> Any:
    """What an earlier version wrote of hyper-parameters."""
    later = {*ConvNet.earlier, "categories", "embedding_dim", "log1p"}
    return (
        {k: without_later_fields(v) for k, v in plain.items() if k not in later} if isinstance(plain, dict) else plain
    )


OF_BEFORE: dict[str, Callable[[], Any]] = {
    "ConvNet": lambda: VAE(DIGITS, 3, architecture=ConvNet(channels=(4, 8), **ConvNet.earlier)),
    "ResNet": lambda: Autoencoder(DIGITS, 3, architecture=ResNet(channels=(4, 8), **ResNet.earlier)),
    "MLP": lambda: VAE(DIGITS, 3, architecture=SMALL),
    "what the class chose": lambda: VQVAE(DIGITS, 3, architecture=ConvNet(code="map", **ConvNet.earlier)),
    "inside a classifier": lambda: FineTuneClassifier(OF_BEFORE["ResNet"]()),
}


@pytest.mark.parametrize("maker", OF_BEFORE)
def test_a_file_of_before_an_option_loads_as_what_it_was(maker: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, file, older = OF_BEFORE[maker](), tmp_path / "m.ckpt", tmp_path / "older.ckpt"
    content = fitted(model, file)
    content["hyper_parameters"] = without_later_fields(content["hyper_parameters"])
    if isinstance(model, VQVAE):
        content["hyper_parameters"]["architecture"] = None
    torch.save(content, older)
    loaded, x = load_model(older), torch.rand(3, *DIGITS)
    assert loaded.hparams == load_model(file).hparams
    with torch.no_grad():
        assert torch.equal(loaded(x), model.eval()(x))
    # what is saved of it now says everything
    assert fitted(loaded.train(), tmp_path / "again.ckpt")["hyper_parameters"] == loaded.hparams
    # it goes on as what it was, too, and as nothing else
    trainer = pl.Trainer(**QUIET | {"max_steps": 2}, default_root_dir=tmp_path)
    trainer.fit(OF_BEFORE[maker](), HFDataModule("digits", batch_size=64), ckpt_path=older, weights_only=True)
    if maker == "ResNet":
        other = Autoencoder(DIGITS, 3, architecture=ResNet(channels=(4, 8)))
        with pytest.raises(InputError, match=r"trained with architecture = .*'zeros'.*\(here .*'replicate'"):
            trainer.fit(other, HFDataModule("digits", batch_size=64), ckpt_path=older, weights_only=True)


@pytest.mark.parametrize("change", ["an option", "a class"])
@pytest.mark.parametrize(("version", "later"), [("99.0", True), ("0.0.1", False), ("none", False), ([1], False)])
def test_what_a_later_version_wrote_says_so_where_it_does_not_load(
    change: str, version: Any, later: bool, contents: dict[str, Content], tmp_path: Path
) -> None:
    content = copy.deepcopy(contents["vae"])
    content[METADATA_KEY]["version"] = version
    if change == "a class":
        content[METADATA_KEY]["class_path"] = "lightning_ae.NovelAutoencoder"
    else:
        content["hyper_parameters"]["novelty"] = 1.0
        content[METADATA_KEY]["arguments"] = [*content[METADATA_KEY]["arguments"], "novelty"]
    torch.save(content, tmp_path / "m.ckpt")
    with pytest.raises(InputError) as caught:
        load_model(tmp_path / "m.ckpt")
    assert ("it was written by lightning_ae 99.0" in caught.value.hint) == later


@pytest.mark.parametrize(("version", "later"), [("99.0", True), ("0.0.1", False)])
@pytest.mark.parametrize("stage", ["fit", "validate"])
@pytest.mark.parametrize("change", ["a type", "a class", "a signature", "nothing"])
def test_what_a_later_version_wrote_says_so_where_a_run_goes_on_from_it(
    change: str, stage: str, version: str, later: bool, contents: dict[str, Content], tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
) -> None:  # fmt: skip
    content, file = copy.deepcopy(contents["vae"]), tmp_path / "m.ckpt"
    saved = content[METADATA_KEY]
    saved["version"] = version
    if change == "a type":
        saved["data"] = "digits"
    elif change == "a class":
        saved["class_path"] = "lightning_ae.NovelAutoencoder"
    elif change == "a signature":
        saved["signature_hash"] = "0" * 32
    torch.save(content, file)
    trainer = pl.Trainer(**QUIET | {"max_steps": 2}, default_root_dir=tmp_path)
    model, said = VAE(DIGITS, 3, architecture=SMALL), "it was written by lightning_ae 99.0"
    data = HFDataModule("digits", batch_size=64)
    with contextlib.nullcontext() if change == "nothing" else pytest.raises(InputError) as caught:
        getattr(trainer, stage)(model, data, ckpt_path=file, weights_only=True)
    if change == "nothing":  # what Lightning then restores, nobody here has looked at
        assert (said in "".join(str(w.message) for w in recwarn)) == later
    else:
        assert (said in caught.value.hint) == later


@pytest.mark.parametrize(("version", "hint"), [("99.0", "written by lightning_ae 99.0"), ("0.0.1", "use the recipe")])
def test_on_the_command_line_so_does_a_state_that_cannot_be_restored(
    version: str, hint: str, contents: dict[str, Content], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    content = copy.deepcopy(contents["vae"])
    content[METADATA_KEY]["version"] = version
    content["optimizer_states"][0]["param_groups"] = []
    torch.save(content, tmp_path / "m.ckpt")
    model = ["--model", "VAE", "--model.latent_dim", "3", "--model.architecture", "MLP"]
    model += ["--model.architecture.hidden", json.dumps(SMALL.hidden)]
    model += ["--data.path", "digits", "--data.batch_size", "64"]
    with pytest.raises(SystemExit):
        main(["fit", *model, "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--ckpt_path", "m.ckpt"])
    said = capsys.readouterr().err
    assert "the run cannot go on from 'm.ckpt'" in said
    assert hint in said


def test_what_a_class_settles_otherwise_than_its_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, older = tmp_path / "m.ckpt", tmp_path / "older.ckpt"
    content = fitted(Unsaid(DIGITS), file)
    assert isinstance(load_model(file), Unsaid)
    content["hyper_parameters"] = without_later_fields(content["hyper_parameters"])
    torch.save(content, older)
    with pytest.raises(InputError, match=r"trained with architecture = .*'zeros'.*\(here .*'replicate'"):
        load_model(older)
    monkeypatch.setattr(Unsaid, "padding", "zeros")
    assert load_model(older).architecture.padding == "zeros"


def test_what_is_given_as_plain_data_is_kept_with_every_field() -> None:
    model = Autoencoder(DIGITS, 3, architecture={"class_path": "ConvNet", "init_args": {"channels": [4]}})  # type: ignore[arg-type]
    kept = model.hparams["architecture"]
    assert kept["class_path"] == "lightning_ae.architectures.ConvNet"
    assert kept["init_args"]["upsampling"] == "nearest"
    assert kept == to_plain(model.architecture, "architecture")


def test_lightnings_own_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has hyper-parameters say how they are to be instantiated; what it saves must load all the same."""
    monkeypatch.chdir(tmp_path)
    args = ["--model.input_shape", "[1,8,8]", "--model.latent_dim", "3", "--data.path", "digits"]
    args += ["--trainer.max_steps=1", "--trainer.accelerator=cpu", "--trainer.logger=false"]
    args += ["--trainer.enable_progress_bar=false", "--trainer.limit_val_batches=0"]
    cli = LightningCLI(VAE, HFDataModule, args=args, run=False)
    cli.trainer.fit(cli.model, cli.datamodule)
    cli.trainer.save_checkpoint(tmp_path / "m.ckpt")
    loaded = load_model(tmp_path / "m.ckpt")
    assert loaded.latent_dim == 3
    assert not [name for name in loaded.hparams if name.startswith("_")]


def _compiled(model: Any) -> None:
    model.encoder = torch.compile(model.encoder)


CHANGES: dict[str, Callable[[Any], None]] = {
    "another encoder": lambda m: setattr(m, "encoder", nn.Sequential(nn.Flatten(), nn.Linear(64, 6))),
    "another layer": lambda m: m.decoder.linears.append(nn.Linear(2, 2)),
    "one more module": lambda m: setattr(m, "critic", nn.Linear(3, 1)),
    "compiled from outside": _compiled,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_would_never_load_is_not_trained(change: str, tmp_path: Path) -> None:
    model = VAE(DIGITS, 3, architecture=SMALL)
    CHANGES[change](model)
    trainer = pl.Trainer(**QUIET | {"enable_checkpointing": True}, default_root_dir=tmp_path)
    with pytest.raises(InputError, match="would never load"):
        trainer.fit(model, HFDataModule("digits"))
    assert trainer.global_step == 0
    if change == "one more module":  # who saves nothing may change what he likes
        free = pl.Trainer(**QUIET)
        free.fit(model, HFDataModule("digits"))
        with pytest.raises(InputError, match="would never load"):
            free.save_checkpoint(tmp_path / "m.ckpt")


def test_loading_draws_nothing(contents: dict[str, Content], tmp_path: Path) -> None:
    torch.save(contents["vae"], tmp_path / "m.ckpt")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load_model(tmp_path / "m.ckpt")
    assert torch.equal(torch.rand(2), expected)


def test_many_layers_of_one_storage(contents: dict[str, Content], tmp_path: Path) -> None:
    content = copy.deepcopy(contents["vae"])
    content["hyper_parameters"]["architecture"]["init_args"]["hidden"] = [2000] * 60
    one = torch.zeros(2000 * 2000)
    with torch.device("meta"):
        deep = VAE(DIGITS, 3, architecture=MLP(hidden=(2000,) * 60))
    content["state_dict"] = {name: one[: p.numel()].view(p.shape) for name, p in deep.state_dict().items()}
    torch.save(content, tmp_path / "deep.ckpt")
    before = peak()
    with pytest.raises(InputError, match="its weights are fewer"):
        load_model(tmp_path / "deep.ckpt")
    assert peak() < before + 200


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"class_path": "subprocess.Popen"}, "subprocess.Popen"),
        ({"class_path": "evilmod.Foo"}, "not imported"),
        ({"class_path": "lightning_ae.VAE"}, "no subclass of HFDataModule"),
        ({"init_args": {"path": "digits", "_instantiator": INSTANTIATOR}}, "unknown argument"),
        ({"init_args": {"path": "digits", "kind": shell(Path())}}, "subprocess.Popen"),
        ({"init_args": {"path": "digits", "kind": FOO}}, "not imported"),
        ({"init_args": {}}, "missing 1 required"),
        ({"init_args": {"path": "digits", "batch_size": "many"}}, "batch_size"),
    ],
)
def test_data_that_a_checkpoint_names(
    config: dict[str, Any], reason: str, contents: dict[str, Content], tmp_path: Path
) -> None:
    content = copy.deepcopy(contents["vae"])
    content["lightning_ae"]["data"] |= config
    torch.save(content, tmp_path / "m.ckpt")
    for load in (HFDataModule.load_from_checkpoint, lambda path: main(["features", str(path)])):
        with pytest.raises((InputError, SystemExit)) as refused:
            load(tmp_path / "m.ckpt")
        assert reason in str(refused.value) or isinstance(refused.value, SystemExit)
    assert not (tmp_path / "mark").exists()


def test_a_data_module_does_not_obey_lightnings_keys(contents: dict[str, Content], tmp_path: Path) -> None:
    content = copy.deepcopy(contents["vae"])
    content["datamodule_hyper_parameters"] = {"_instantiator": INSTANTIATOR, "path": shell(tmp_path)}
    torch.save(content, tmp_path / "m.ckpt")
    assert HFDataModule.load_from_checkpoint(tmp_path / "m.ckpt").path == "digits"
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("part", ["loops", "optimizer_states", "lr_schedulers", "state_dict"])
def test_damaged_state_is_named_by_the_command_line(
    part: str, contents: dict[str, Content], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    content = copy.deepcopy(contents["vae"])
    content[part] = {"loops": {"fit_loop": {}}, "optimizer_states": [{}], "lr_schedulers": 3}.get(part, {})
    torch.save(content, tmp_path / "damaged.ckpt")
    monkeypatch.chdir(tmp_path)
    options = ["--model.input_shape", "[1,8,8]", "--model.latent_dim", "3", "--model.architecture", "MLP"]
    options += ["--model.architecture.hidden", "[8]", "--data", "HFDataModule", "--data.path", "digits"]
    options += ["--data.batch_size", "64"]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--model", "VAE", *options, "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu",
              "--ckpt_path", str(tmp_path / "damaged.ckpt")])  # fmt: skip
    assert stopped.value.code == 2
    assert "damaged.ckpt" in capsys.readouterr().err
