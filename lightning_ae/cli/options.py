"""The words of a command before anything is imported: what they say, and whether it exists."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from lightning_ae import recipes, registry
from lightning_ae.cli.source import TRAINER, Option, names_of, options, place_of, subclasses
from lightning_ae.config import current_path
from lightning_ae.errors import InputError, nearest, unknown
from lightning_ae.strict_yaml import load_yaml


class RunOption(NamedTuple):
    """An option of a command itself."""

    type: Any
    default: Any
    help: str


OPTIONS: dict[str, RunOption] = {
    "ckpt_path": RunOption(str | None, None, "checkpoint to continue or evaluate"),
    "run_dir": RunOption(
        str | None, None, "folder for what this run writes; must be new (default: runs/<recipes>/<command>-<number>)"
    ),
    "compile": RunOption(bool, False, "compile the networks (torch.compile); slower on a CPU"),
    "report": RunOption(bool, True, "write report.html at the end, where the extra 'report' is installed"),
    "channels_last": RunOption(
        bool,
        False,
        "keep the channels of images beside each other in memory, faster for convolutions on most GPUs",
    ),
    "matmul_precision": RunOption(
        Literal["highest", "high", "medium"] | None,
        None,
        "of float32 matrix products: high uses TF32 on recent GPUs, medium bfloat16 (default: highest)",
    ),
}
"""What training commands take besides a model, data and a trainer."""
OF_FIT = ("compile", "report")
"""Those that are `fit`'s alone."""
DATA = "HFDataModule"
"""The data module where an option of one is given, and no class."""
_GROUPS = ("model", "data", "trainer", "optimizer", "lr_scheduler")
_OTHERS = ("config", "seed_everything", "print_config", "help", *_GROUPS)


@dataclass
class Given:
    """What the words of a training command say.

    Args:
        words: with the files of recipes and the classes of models for their names, and lists as lists.
        classes: the class that was named last, by the path of the option: "model", "model.architecture".
        places: where each value stands, an option or a recipe's file, by the option's path.
        values: the last value of each.
        notes: what is to be said of them.
    """

    words: list[str]
    classes: dict[str, str] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def says(self, path: str) -> bool:
        """Whether an option, or one within it, is given."""
        return any(each == path or each.startswith(f"{path}.") for each in (*self.places, *self.classes))


def read(command: str, words: Sequence[str], model: str = "") -> Given:
    """What the words of a training command say.

    Args:
        command: "fit", say.
        words: what follows it.
        model: the class of the model, where it is known without them.

    Raises:
        InputError: for a recipe, an option, a class or a value that there is not, with the nearest one suggested.
    """
    given = Given([])
    for option, value in _pairs(words):
        if option in ("-c", "--config", "--model") and value and re.fullmatch(r"[\w-]+", value):
            given.notes += _another_name(value)
    if model:
        given.classes["model"] = model
    known = [*of_command(command), *_OTHERS]
    evaluates = command != "fit" and checkpoint_of(words) is not None  # which says the class of its model
    for option, value in _pairs(recipes.compose(words, model or ("?" if evaluates else ""))):
        if option is None:
            raise _no_option(value or "")
        path = option.lstrip("-").rstrip("+")
        if option in ("-h", "--help", "--print_config") or path.endswith(".help"):
            given.words += [option, *([] if value is None else [value])]
        elif value is None:
            raise InputError(f"{option} is given no value", f"`lightning-ae {command} --help` lists the options")
        elif option in ("-c", "--config"):
            given.words += [option, value]
            for where, content in _contents(value):
                _follow(given, known, "", content, where)
        else:
            value = _as_list(given, path, value)
            given.words += [option, value]
            plain: Any = value
            try:
                plain = load_yaml(value) if value and not os.path.isfile(value) else value
            except (yaml.YAMLError, InputError):
                plain = value
            _check_name(given, known, path, option)
            if path in _GROUPS and isinstance(plain, str) and os.path.isfile(plain):
                for _, content in _contents(plain):
                    _follow(given, known, path, content, plain)
            else:
                _follow(given, known, path, plain, option)
    if "data" not in given.classes and given.says("data"):
        given.classes["data"] = DATA
        given.words = ["--data", DATA, *given.words]
    return given


def of_command(command: str) -> dict[str, RunOption]:
    """The options of a training command itself."""
    return {name: option for name, option in OPTIONS.items() if command == "fit" or name not in OF_FIT}


def checkpoint_of(words: Sequence[str]) -> str | None:
    """The checkpoint that a command names, by an option or in a recipe."""
    found = None
    for option, value in _pairs(words):
        if option == "--ckpt_path":
            found = value
        elif option in ("-c", "--config") and value is not None:
            for _, content in _contents(recipes.find(value)):
                found = content.get("ckpt_path") or found
    return found


def check_complete(given: Given, model: bool = False, data: bool = False) -> None:
    """Refuses a command without a model or data, where nothing else says them.

    Raises:
        InputError: saying how they are given.
    """
    if any(word.endswith(".help") for word in given.words):
        return
    if not model and "model" not in given.classes:
        names = ", ".join(recipes.names("models"))
        raise InputError("a model is required, and none is given", f"add one, by -c NAME or --model CLASS: {names}")
    if not data and "data" not in given.classes:
        names = ", ".join(recipes.names("data"))
        raise InputError("data are required, and none are given", f"add -c NAME ({names}), or --data.path PATH")


# ---- what is said, and whether it exists ----------------------------------------------------------------------------


def _pairs(words: Sequence[str]) -> Iterator[tuple[str | None, str | None]]:
    """Options with their values; a word that belongs to none has no option."""
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("-"):
            yield None, word
        elif "=" in word:
            option, _, value = word.partition("=")
            yield option, value
        elif word in ("-h", "--help", "--print_config"):
            yield word, None
        elif re.match(r"-c.", word):  # -cvae, as argparse takes it
            yield "-c", word[2:]
        elif word.endswith(".help"):
            yield word, left.pop(0) if left and not left[0].startswith("-") else None
        else:
            yield word, left.pop(0) if left else None


def _no_option(word: str) -> InputError:
    names = [name for kind in recipes.FOLDERS for name in recipes.names(kind)]
    near = nearest(word, names)
    hint = f"a recipe is given by -c{f': -c {near[0]}' if near else ' NAME'}"
    return InputError(f"{word!r} belongs to no option", f"{hint}; options begin with --")


def _another_name(name: str) -> list[str]:
    if name in registry.CLASSES or name in [n for kind in recipes.FOLDERS for n in recipes.names(kind)]:
        return []
    try:
        own = registry.variant(name)
    except InputError:
        return []
    text = registry.setting(name)
    return [f"{name} is {own} here{f'; {text}' if text else ''}"] if own != name else []


def _contents(value: str) -> Iterator[tuple[str, Any]]:
    """A recipe's content, and its place; nothing where the parser is to say what is wrong with it."""
    if "://" in value:
        return
    is_file = os.path.isfile(value) if "\n" not in value and len(value) < 4096 else False
    try:
        content = load_yaml(Path(value).read_text() if is_file else value, value if is_file else "")
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return
    if isinstance(content, dict):
        yield (recipes.called(value) if is_file else "-c"), content


def _follow(given: Given, known: list[str], path: str, value: Any, where: str) -> None:
    """Notes a value and what lies in it, and refuses what does not exist."""
    if path in ("optimizer", "lr_scheduler") or path.startswith(("optimizer.", "lr_scheduler.")):
        return  # torch's own classes: the parser knows them
    is_class = isinstance(value, Mapping) and isinstance(value.get("class_path"), str)
    if is_class or (isinstance(value, str) and _takes_class(given, path)):
        name = str(value["class_path"] if is_class else value)
        _check_class(given, path, name, where)
        given.classes[path] = name
        given.places[path] = where
        given.values[path] = name
        value = value.get("init_args") or {} if is_class else {}
    if isinstance(value, Mapping) and (not path or path in _GROUPS or _takes_class(given, path)):
        inner = dict(value)
        init_args = inner.pop("init_args", None) if path else None
        if path and "dict_kwargs" in inner:
            inner.pop("dict_kwargs")
        for key, each in [*inner.items(), *(init_args.items() if isinstance(init_args, Mapping) else ())]:
            if not isinstance(key, str):
                continue
            name = f"{path}.{key.rstrip('+')}" if path else key.rstrip("+")
            _check_name(given, known, name, where)
            _follow(given, known, _without_init_args(name), each, where)
        return
    path = _without_init_args(path)
    given.places[path] = where
    given.values[path] = value
    option = _option(given, path)
    if option is not None and option.choices and isinstance(value, str) and value not in option.choices:
        others = {each for each in option.alternatives if each[:1] not in "'\""} - {"float", "int", "bool", "None"}
        if not others and not (_is_number(value) or value in ("null", "")):
            raise unknown(f"value of {path.rpartition('.')[2]}{_at(path, where)}", value, option.choices)


def _check_name(given: Given, known: list[str], path: str, where: str) -> None:
    """Refuses an option that there is not."""
    parts = _without_init_args(path).split(".")
    if parts[0] not in known:
        everything = [*known, *(f"trainer.{name}" for name in options(place_of(TRAINER)) or ())]
        shown = [name for name in known if name not in ("help", "config")]
        error = unknown(f"option{_at(path, where)}", path, shown)
        near = [f"--{name}" for name in nearest(path, everything)]
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise InputError(error.message, hint + error.hint.rpartition("? ")[2])
    for depth in range(1, len(parts)):
        outer, name = ".".join(parts[:depth]), parts[depth]
        there = _options(given, outer)
        if there is None:
            return
        if name not in there and name not in ("class_path", "help", "dict_kwargs"):
            cls = "Trainer" if outer == "trainer" else _class(given, outer)
            raise unknown(f"option of {str(cls).rpartition('.')[2]}{_at(path, where)}", name, there, most=20)


def _check_class(given: Given, path: str, name: str, where: str) -> None:
    """Refuses a bare name that no class here has, or one that its module has not."""
    if "." in name:
        module, _, cls = current_path(name).rpartition(".")
        there = names_of(module)
        if there is not None and cls not in there:
            classes = [each for each in there if each[:1].isupper() and not each.isupper()]
            raise unknown(f"class of {module}{_at(path, where)}", cls, classes, most=20)
        if there is None and path in ("model", "data") and find_spec(module.partition(".")[0]) is None:
            near = [f"{each}.{cls}" for each in nearest(module, [file.stem for file in Path.cwd().glob("*.py")])]
            raise InputError(
                f"{path} is to be {name!r}, and there is no module {module!r}",
                (f"did you mean {' or '.join(near)}? " if near else "")
                + "a class of your own is named by module.Class, of a module.py where one stands",
            )
        return
    if not name.isidentifier():
        return
    if path == "model":
        known: list[str] | None = [*registry.CLASSES, "FineTuneClassifier"]
    elif path == "data":
        known = [DATA]
    else:
        option = _option(given, path)
        known = None if option is None else _kinds(option)
    if known is not None and name not in known:
        raise unknown(f"{path}{f' in {where}' if not where.startswith('-') else ''}", name, known)


def _takes_class(given: Given, path: str) -> bool:
    if path in ("model", "data"):
        return True
    option = _option(given, path)
    return option is not None and _kinds(option) is not None


def _kinds(option: Option) -> list[str] | None:
    """The names of the classes that an option takes."""
    for each in option.alternatives:
        if each.isidentifier() and (found := subclasses(each, option.owner)) is not None:
            return found
    return None


def _option(given: Given, path: str) -> Option | None:
    outer, _, name = path.rpartition(".")
    there = _options(given, outer) if outer else None
    return None if there is None else there.get(name)


def _options(given: Given, path: str) -> dict[str, Option] | None:
    """What lies in an option, by name; None where nobody knows before classes are imported."""
    if path == "trainer":
        return options(place_of(TRAINER))
    cls = _class(given, path)
    return None if cls is None else options(place_of(cls))


def _class(given: Given, path: str) -> str | None:
    """The class of an option: as it is given, or as it is by default."""
    if path in given.classes:
        return given.classes[path]
    if path == "data":
        return DATA
    option = _option(given, path) if "." in path else None
    match = re.match(r"(\w+)\(", (option and option.default) or "")
    return match[1] if match else None


def _as_list(given: Given, path: str, value: str) -> str:
    """8,8 for [8,8], of an option that takes a list."""
    option = _option(given, _without_init_args(path))
    return as_list(value) if option is not None and option.is_list else value


def as_list(value: str) -> str:
    """The text of a list, for one item or several with commas between them: 8,8 or train."""
    return f"[{value}]" if re.fullmatch(r"[^\[\]{},\s]+(,\s*[^\[\]{},\s]+)*", value) and value != "null" else value


def _without_init_args(path: str) -> str:
    return re.sub(r"\.init_args(?=\.|$)", "", path)


def _at(path: str, where: str) -> str:
    return f" (--{path})" if where.startswith("-") and "." in path else "" if where.startswith("-") else f" in {where}"


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
