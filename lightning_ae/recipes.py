"""Recipes: where they lie, what they are called, and how the words of a command compose them.

`recipes/models/vae.yaml` holds a model and how it is trained, `recipes/data/digits.yaml` a data set and the shape of
its samples; loggers, precision and strategies have folders, too. Each is called by its bare name. What a model wants
otherwise on one data set, such as a smaller code, stands in `recipes/data/digits/vae.yaml`.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

import lightning_ae
from lightning_ae import registry
from lightning_ae.errors import InputError, nearest, unknown
from lightning_ae.strict_yaml import load_yaml

FOLDERS = ("models", "data", "loggers", "precision", "strategies")
_OPTION = re.compile(r"(-c|--config|--model)(?:=(.*))?", re.DOTALL)


def recipes_folder() -> Path:
    """The folder of the recipes: in the package, or beside it in a checkout."""
    package = Path(lightning_ae.__file__).parent
    inside = package / "bundled" / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def names(kind: str) -> list[str]:
    """The names of the recipes in one of `FOLDERS`."""
    return sorted(file.stem for file in (recipes_folder() / kind).glob("*.yaml"))


def overview() -> str:
    """One line that names all recipes."""
    return "; ".join(f"{kind}: {', '.join(names(kind))}" for kind in FOLDERS)


def find(given: str) -> str:
    """The file of a recipe.

    Args:
        given: a recipe's name, or another name of a variant, "vqvae" say; anything else (a file, an address, the text
            of a recipe) is given back as it is.

    Raises:
        InputError: when there is no recipe of that name, or more than one, or no such file.
    """
    if not re.fullmatch(r"[\w-]+", given):
        if re.fullmatch(r"[^\n{}]+\.ya?ml", given) and "://" not in given and not os.path.exists(given):
            raise InputError(
                f"there is no file {given!r}", f"{_nearest_file(given)}recipes have names, too; {overview()}"
            )
        return given
    found = [file for kind in FOLDERS if (file := recipes_folder() / kind / f"{given}.yaml").is_file()]
    found += [Path(given)] if os.path.isfile(given) else []
    if not found:
        with contextlib.suppress(InputError):  # a variant by another name
            known = recipes_folder() / "models" / f"{registry.variant(given)}.yaml"
            found = [known] if known.is_file() else []
    if not found:
        if registry.lacking(given):
            registry.variant(given)
        raise unknown("recipe", given, (name for kind in FOLDERS for name in names(kind)))
    if len(found) > 1:
        raise InputError(f"the recipe {given!r} may be any of {', '.join(map(str, found))}", "give a path: ./NAME")
    return str(found[0])


def compose(words: Sequence[str], of_checkpoint: str = "") -> list[str]:
    """The words of a command with files for the names of recipes, so that the order of those does not matter.

    A recipe of data states the model's `input_shape` and leaves its class to others. So the first class that is named
    goes ahead of a recipe that has none; and what a model wants otherwise on the data is read after both.

    Args:
        words: what follows `lightning-ae fit`, say.
        of_checkpoint: the class of the model, where a checkpoint says it.

    Raises:
        InputError: for an unknown recipe, or one of data without a model.
    """
    composed: list[str] = []
    chosen, waiting = of_checkpoint, ""  # the first class of a model, and the recipe that came before it without one
    last: dict[str, tuple[Path, int]] = {}  # of each kind the recipe, and where in `composed` it ends
    given = iter(words)
    for word in given:
        match = _OPTION.fullmatch(word)
        value = None if match is None else match[2] if match[2] is not None else next(given, None)
        if match is None or value is None:
            composed.append(word)
            continue
        named = value
        if match[1] != "--model":
            value = find(value)
            named = _class_of_model(value)
            composed += ["-c", value]
            if os.path.isfile(value):
                last[_kind(Path(value))] = Path(value).resolve(), len(composed)
        else:
            value = named = class_of(value)
            composed += ["--model", value]
        if named is not None:
            chosen, waiting = (chosen or named), (waiting if chosen or named else value)
    if "models" in last and "data" in last:
        (model, first), (data, second) = last["models"], last["data"]
        both = data.with_suffix("") / model.name
        if model.parent.parent == data.parent.parent and both.is_file():
            composed[max(first, second) : max(first, second)] = ["-c", str(both)]
    if waiting and not chosen:
        hint = f"add one, by -c NAME or --model CLASS: {', '.join(names('models'))}"
        raise InputError(f"the recipe {Path(waiting).stem!r} goes with a model, and none is given", hint)
    return ["--model", chosen, *composed] if waiting else composed


def class_of(name: str) -> str:
    """The class of a variant by any of its names; what may be a class's own name or path is given back as it is.

    Raises:
        InputError: when there is no such variant.
    """
    classes = [*registry.CLASSES, "FineTuneClassifier"]
    if name in classes or not re.fullmatch(r"[\w-]+", name) or os.path.isfile(name):
        return name
    try:
        return registry.class_path(registry.variant(name))
    except InputError as error:
        if registry.lacking(name):
            raise
        raise unknown("model", name, classes) from error


def called(file: str) -> str:
    """What a message calls a recipe's file: one of this package's by its name."""
    path, folder = Path(file).absolute(), recipes_folder().absolute()
    if not path.is_relative_to(folder):
        return file
    return f"the recipe {path.stem}{f' on {path.parent.name}' if _is_pair(path) else ''}"


def pairs(files: Iterable[object]) -> list[Path]:
    """Of files that `compose` gave, those of a model on one data set."""
    return [file for file in _paths(files) if _is_pair(file)]


def title(files: Iterable[object]) -> str:
    """What a run of these files is called: "vae-digits" of `-c vae -c digits -c wandb`.

    The configuration of an earlier run, runs/<title>/<command>-<number>/config.yaml, gives that run's.
    """
    parts = []
    for file in _paths(files):
        if file.name == "config.yaml":
            return file.parent.parent.name
        if _kind(file) in ("models", "data", "") and not _is_pair(file):
            parts.append(file.stem)
    return "-".join(parts)


def _nearest_file(given: str) -> str:
    """The beginning of a hint: a file beside one that is not there, or a recipe, whose name is nearly the same."""
    path = Path(given)
    beside = [file.name for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    files = [str(path.with_name(name)) for name in nearest(path.name, beside)]
    found = files or nearest(path.stem, [name for kind in FOLDERS for name in names(kind)])
    return f"did you mean {' or '.join(f'-c {name}' for name in found)}? " if found else ""


def _paths(files: Iterable[object]) -> list[Path]:
    return [Path(str(file)).absolute() for file in files if file is not None]


def _kind(file: Path) -> str:
    """The folder of recipes in which a file lies, by its name; "" for any other."""
    folder = file.absolute().parent.name
    return folder if folder in FOLDERS else ""


def _is_pair(file: Path) -> bool:
    data = file.parent.with_suffix(".yaml")
    return _kind(data) == "data" and data.is_file()


def _class_of_model(file: str) -> str | None:
    """The class of a recipe's model: "" where it states a model without a class, none where it states no model."""
    content: Any = None
    with contextlib.suppress(OSError, UnicodeDecodeError, yaml.YAMLError):  # the parser says what is wrong with it
        content = load_yaml(Path(file).read_text(), file)
    model = content.get("model") if isinstance(content, dict) else None
    if isinstance(model, dict):
        return str(model.get("class_path", ""))
    return model if isinstance(model, str) else None
