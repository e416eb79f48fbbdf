"""The command line's parsers: what they refuse is one line with a hint."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, get_loader, set_loader

from lightning_ae.config import current_path
from lightning_ae.errors import InputError, nearest, unknown
from lightning_ae.strict_yaml import load_yaml

_plain = get_loader("yaml")


def _strict(text: str, path: str | os.PathLike[str] = "") -> Any:
    """What jsonargparse makes of a recipe or of an option's value, where nothing in it would be dropped."""
    load_yaml(text, os.fspath(path))
    return _renamed(_plain(text))


def _renamed(value: Any) -> Any:
    """The same with the paths that classes have now: a run of an earlier version goes on by its config.yaml."""
    if isinstance(value, dict):
        return {
            key: current_path(item) if key == "class_path" and isinstance(item, str) else _renamed(item)
            for key, item in value.items()
        }
    return [_renamed(item) for item in value] if isinstance(value, list) else value


MODE = "strict yaml"
set_loader(MODE, _strict, (yaml.YAMLError,))  # a mode of our own: other programs' parsers stay as they are


class ToolParser(ArgumentParser):
    """Parses the options of a function."""

    def __init__(self, *args: Any, parser_mode: str = MODE, **kwargs: Any) -> None:
        super().__init__(*args, parser_mode=parser_mode, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: D102
        if not self.exit_on_error:  # a parser inside the parser, whose message becomes part of another
            super().error(message, ex)
        known = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        raise one_line(message, str(self.prog), known) from ex


def one_line(message: str, prog: str, known: Iterable[str] = ()) -> InputError:
    """The part of a parser's message that says what is wrong, out of the tree of types that were tried.

    Args:
        message: the parser's.
        prog: the command.
        known: the options that there are.
    """
    prog = re.sub(r" \[[^]]*\]", "", prog)
    if match := re.match(r"unrecognized arguments: (\S+)", message, re.IGNORECASE):
        word, _, _ = match[1].partition("=")
        names = [name.lstrip("-") for name in known if name not in ("--help", "--print_shtab") and name[-1] != "+"]
        if word.startswith("-"):
            return unknown(f"option of {prog}", word.lstrip("-"), names)
        near = "".join(f"did you mean --{name}? " for name in nearest(word, names)[:1])
        return InputError(f"{word!r} belongs to no option", f"{near}`{prog} --help` lists the options")
    if match := re.match(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message):
        kind = f"command of {prog}" if match[1] == "subcommand" else f"value of {match[1].lstrip('-')}"
        return unknown(kind, match[2], re.findall(r"'([^']*)'", match[3]), elsewhere=_ELSEWHERE)
    message = re.sub(r"(?<=arguments are required: )[\w-]+\.", "", message)
    message = re.sub(r"Problem with given class_path '[^']*':\s*", "", message)
    lines = [line.strip() for line in message.splitlines()]
    reasons = [line[2:] for line in lines if line.startswith("- ") and not line.startswith(_NO_REASON)]
    text = reasons[0] if reasons else " ".join(line for line in lines if not line.startswith("Given value"))
    key = lines[0].split(":")[0].removeprefix("Parser key ") if lines[0].startswith("Parser key") else ""
    where = f"{key}: " if key and key not in text else ""
    if match := re.fullmatch(
        r"""(?:Parser key )?"(\S+)": Expected a typing\.Literal\[(.*)\]\. Got value: (.*)""", where + text
    ):
        return unknown(f"value of {match[1]}", match[3], re.findall(r"'([^']*)'", match[2]))
    return InputError(where + text.removeprefix("Parser key "), f"`{prog} --help` lists the options")


_ELSEWHERE = {"show": "info", "card": "info", "ls": "list", "get": "download", "check": "verify", "test": "load-test"}
"""What commands of the zoo are called elsewhere."""
_NO_REASON = ("- Expected a <class 'NoneType'>", "- Parser key", "- Does not validate")
