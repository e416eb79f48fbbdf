"""What makes a shell complete commands, options and names.

A class within a class within a class has too many options to list: the training commands' are those of the models, the
data and the trainer, one level deep, with the names of the classes that they take.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from lightning_ae import recipes, registry
from lightning_ae.cli.options import DATA, of_command
from lightning_ae.cli.source import TRAINER, Option, arguments_of, options, place_of, subclasses

_FILES = ("ckpt_path", "run_dir", "path", "checkpoint", "output", "to")
_NAMES = [name for kind in recipes.FOLDERS for name in recipes.names(kind)]
_RECIPE = {"bash": "_lightning_ae_recipes", "zsh": "_lightning_ae_recipes", "tcsh": "f:*"}
_PREAMBLE = {
    "bash": f'_lightning_ae_recipes() {{ compgen -W "{" ".join(_NAMES)}" -- "$1"; compgen -f -- "$1"; }}',
    "zsh": f"_lightning_ae_recipes() {{ _alternative 'recipes:recipe:({' '.join(_NAMES)})' 'files:file:_files'; }}",
}


def script(shell: str, commands: Mapping[str, str], training: Sequence[str]) -> str:
    """The script for a shell, without importing torch.

    Args:
        shell: bash, zsh or tcsh.
        commands: what each does.
        training: those that take a model, data and a trainer.
    """
    import shtab

    parser = ArgumentParser(prog="lightning-ae")
    inner = parser.add_subparsers()
    for name, text in commands.items():
        each = inner.add_parser(name, help=_escaped(text))
        if name in training:
            _training(each, name)
        elif name == "zoo":
            _zoo(each)
        elif name != "completion":
            _tool(each, name)
    return str(shtab.complete(parser, shell, preamble=_PREAMBLE.get(shell, "")))


def _training(parser: ArgumentParser, command: str) -> None:
    recipe: Any = parser.add_argument("-c", "--config", help="a recipe: its name, or a file")
    recipe.complete = _RECIPE
    classes = [*registry.CLASSES, "FineTuneClassifier"]
    parser.add_argument("--model", choices=classes, help="a class of models")
    parser.add_argument("--data", choices=[DATA], help="a class of data")
    for name, own in of_command(command).items():
        _add(parser, f"--{name}", own.help, ["true", "false"] if own.type is bool else _literals(own.type))
    parser.add_argument("--seed_everything", help="the run's seed")
    parser.add_argument("--print_config", action="store_true", help="print the configuration, and end")
    models: dict[str, Option] = {}
    for cls in classes:
        models = (options(place_of(cls), all_of_it=False) or {}) | models
    groups = {"model": models, "data": options(place_of(DATA)) or {}, "trainer": options(place_of(TRAINER)) or {}}
    for group, there in groups.items():
        for option in there.values():
            if option.name != "input_shape":
                _add(parser, f"--{group}.{option.name}", option.help, _values(option))
    for group in ("optimizer", "lr_scheduler"):
        parser.add_argument(f"--{group}", help="a class of torch.optim")


def _tool(parser: ArgumentParser, command: str) -> None:
    module = "lightning_ae.cli.score" if command == "score" else "lightning_ae.cli.tools"
    for option in arguments_of(module, command.replace("-", "_")).values():
        _add(parser, option.name if option.default is None else f"--{option.name}", option.help, _values(option))


def _zoo(parser: ArgumentParser) -> None:
    from lightning_ae.cli import zoo
    from lightning_ae.cli.parsing import ToolParser

    known = ToolParser()
    zoo.add_commands(known)
    inner = parser.add_subparsers()
    (commands,) = [action.choices for action in known._actions if isinstance(action.choices, Mapping)]
    for name, each in commands.items():
        own = inner.add_parser(name, help=_escaped(zoo.COMMANDS[name]))
        for action in each._actions:
            for option in action.option_strings[-1:]:
                if option not in ("-h", "--help"):
                    _add(own, option, action.help or "", None)


def _add(parser: ArgumentParser, name: str, text: str, values: Sequence[str] | None) -> None:
    added: Any = parser.add_argument(name, choices=values or None, help=_escaped(text.split(". ")[0]))
    if not values and name.rpartition(".")[2].strip("-") in _FILES:
        added.complete = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}


def _values(option: Option) -> list[str]:
    """The texts that an option takes: choices, true and false, names of classes."""
    found = option.choices
    for each in option.alternatives:
        if each == "bool":
            found += ["true", "false"]
        elif each.isidentifier():
            found += subclasses(each, option.owner) or []
    return found


def _literals(kind: Any) -> list[str]:
    return [value for each in get_args(kind) for value in (each, *get_args(each)) if isinstance(value, str)]


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
