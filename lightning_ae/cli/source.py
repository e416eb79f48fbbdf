"""What the classes that a command names take, read from their source: importing them would take seconds."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from lightning_ae.config import current_path
from lightning_ae.registry import CLASSES

TRAINER = "pytorch_lightning.trainer.trainer.Trainer"
_PACKAGE = Path(__file__).parents[1]
_PARTS = ("architectures", "parts", "models", "data")


class Place(NamedTuple):
    """A class: the module that defines it, and its name."""

    module: str
    name: str


@dataclass(frozen=True)
class Option:
    """What a class takes.

    Args:
        name: of the argument.
        type: its annotation, as it is written.
        default: as it is written, or None where it must be given.
        help: what its class says of it.
        owner: the module in which the annotation stands.
    """

    name: str
    type: str
    default: str | None
    help: str
    owner: str

    @property
    def alternatives(self) -> list[str]:
        """The members of a union, with the names of literals' unions resolved; choices as they are written."""
        return list(_members(ast.parse(self.type, mode="eval").body, self.owner))

    @property
    def choices(self) -> list[str]:
        """The texts among which a value is, where the type says so."""
        return [str(ast.literal_eval(each)) for each in self.alternatives if each[:1] in "'\""]

    @property
    def is_list(self) -> bool:
        """Whether it takes a list of something."""
        others = [each for each in self.alternatives if each != "None"]
        return bool(others) and all(re.match(r"(Sequence|tuple|list)\[", each) for each in others)


def place_of(path: str) -> Place | None:
    """Where a class is defined, by its import path, or by its bare name among those of this package."""
    if "." in path:
        module, _, name = current_path(path).rpartition(".")
        return _resolved(module, name)
    if path in CLASSES:
        return Place(CLASSES[path], path)
    return next((place for place in _own() if place.name == path), None)


def options(place: Place | None, all_of_it: bool = True) -> dict[str, Option] | None:
    """What a class takes, by name, in order; None where its source does not say all of it.

    Args:
        place: of the class.
        all_of_it: otherwise what it says, with what an untyped `**options` is likely to pass on.
    """
    if place is None or (found := _class(place)) is None:
        return None
    init = _init(found)
    above = [base for each in found.bases if (base := _place(each, place.module)) is not None]
    text = _described(ast.get_docstring(found)) | (_described(ast.get_docstring(init)) if init is not None else {})
    if init is None and not any("dataclass" in ast.unparse(each) for each in found.decorator_list):
        return options(above[0], all_of_it) if above else None
    if len(above) > 1:  # the one whose constructor Python calls; what lies before it has docstrings alone
        lineage = _lineage(place)
        caller = next((each for each in lineage if (cls := _class(each)) and _init(cls)), above[0])
        for each in lineage[: lineage.index(caller)]:
            text = (_described(ast.get_docstring(cls)) if (cls := _class(each)) is not None else {}) | text
        above = [caller]
    inherited = (options(above[0], all_of_it) if above else None) or {}
    if init is None:
        own = {}
        for field in found.body:
            if isinstance(field, ast.AnnAssign) and not ast.unparse(field.annotation).startswith("ClassVar"):
                name = ast.unparse(field.target)
                own[name] = _option(name, field.annotation, field.value, text, place.module)
        return {**inherited, **own}
    own = _arguments(init, {name: option.help for name, option in inherited.items()} | text, place.module)
    own.pop("self", None)
    if init.args.kwarg is None:
        return own
    passed = _passed_on(init.args.kwarg.annotation, place.module)
    if passed is None or not passed <= inherited.keys():
        return None if all_of_it else {**inherited, **own}
    return own | {name: each for name, each in inherited.items() if name in passed and name not in own}


def arguments_of(module: str, name: str) -> dict[str, Option]:
    """What a function of this package takes, by name, in order."""
    place = _resolved(module, name) or Place(module, name)
    function = getattr(_module(place.module), "functions", {})[place.name]
    return _arguments(function, _described(ast.get_docstring(function)), place.module)


def names_of(module: str) -> list[str] | None:
    """The classes that a module has or imports, and what it assigns; None where there is no source of it."""
    found = _module(module)
    return None if found is None else [*found.classes, *found.imported, *found.assigned]


def subclasses(base: str, module: str) -> list[str] | None:
    """The names of this package's classes of a kind, by the kind's name in a module; None where it is no such kind."""
    kind = _resolved(module, base)
    if kind is None or not kind.module.startswith("lightning_ae.") or _class(kind) is None:
        return None
    found = [place.name for place in _own() if place != kind and kind in _ancestors(place)]
    return [name for name in found if not name.startswith("_")] or None


def first_line(place: Place) -> str:
    """The first line of a class's text."""
    found = _class(place)
    return (found and ast.get_docstring(found) or "").split("\n")[0]


def attribute(place: Place | None, name: str) -> str | None:
    """What a class or one above it assigns to a name, as it is written."""
    for each in () if place is None else (place, *_ancestors(place)):
        for line in getattr(_class(each), "body", ()):
            if isinstance(line, ast.AnnAssign) and ast.unparse(line.target) == name and line.value is not None:
                return ast.unparse(line.value)
    return None


# ---- how a source is read -------------------------------------------------------------------------------------------


class _Module(NamedTuple):
    classes: dict[str, ast.ClassDef]
    functions: dict[str, ast.FunctionDef]
    imported: dict[str, Place]
    assigned: dict[str, ast.expr]


@functools.cache
def _module(name: str) -> _Module | None:
    parts = name.split(".")
    spec = find_spec(parts[0]) if parts[0].isidentifier() else None  # of a package without its parts: imports nothing
    if spec is None:
        return None
    file = Path(spec.origin or "")
    if spec.submodule_search_locations:
        file = Path(spec.submodule_search_locations[0], *parts[1:])
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    try:
        tree = ast.parse(file.read_text())
    except (OSError, SyntaxError, UnicodeDecodeError):  # who imports it says what is wrong
        return None
    imported = {
        alias.asname or alias.name: Place(node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    assigned = {
        ast.unparse(node.targets[0]): node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and len(node.targets) == 1
    }
    classes = {each.name: each for each in tree.body if isinstance(each, ast.ClassDef)}
    functions = {each.name: each for each in tree.body if isinstance(each, ast.FunctionDef)}
    return _Module(classes, functions, imported, assigned)


@functools.cache
def _resolved(module: str, name: str) -> Place | None:
    """Where a name of a module comes from; None where no class or function of that name is found."""
    place = Place(module, name)
    for _ in range(5):
        found = _module(place.module)
        if found is None or place.name in found.classes or place.name in found.functions:
            return None if found is None else place
        if place.name not in found.imported:
            return None
        place = found.imported[place.name]
    return None


@functools.cache
def _own() -> list[Place]:
    """The classes of this package that an option may name."""
    files = [file for part in _PARTS for file in sorted((_PACKAGE / part).glob("*.py"))]
    names = [f"lightning_ae.{file.parent.name}.{file.stem}" for file in files if file.stem != "__init__"]
    return [Place(name, cls) for name in names if (found := _module(name)) is not None for cls in found.classes]


def _class(place: Place) -> ast.ClassDef | None:
    found = _module(place.module)
    return None if found is None else found.classes.get(place.name)


def _place(base: ast.expr, module: str) -> Place | None:
    return _resolved(module, base.id) if isinstance(base, ast.Name) else None


def _ancestors(place: Place) -> Iterator[Place]:
    found = _class(place)
    for base in found.bases if found is not None else ():
        if (above := _place(base, place.module)) is not None:
            yield above
            yield from _ancestors(above)


def _lineage(place: Place) -> list[Place]:
    """The classes above, in the order in which Python looks them through."""
    found = list(_ancestors(place))
    return [each for i, each in enumerate(found) if each not in found[i + 1 :]]


def _init(found: ast.ClassDef) -> ast.FunctionDef | None:
    return next((each for each in found.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"), None)


def _arguments(function: ast.FunctionDef, text: dict[str, str], module: str) -> dict[str, Option]:
    given = function.args
    names = [*given.posonlyargs, *given.args]
    defaults = [*[None] * (len(names) - len(given.defaults)), *given.defaults]
    pairs = [*zip(names, defaults, strict=True), *zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return {name.arg: _option(name.arg, name.annotation, value, text, module) for name, value in pairs}


def _option(name: str, annotation: ast.expr | None, value: ast.expr | None, text: dict[str, str], owner: str) -> Option:
    kind = "Any" if annotation is None else ast.unparse(annotation)
    return Option(name, kind, None if value is None else ast.unparse(value), text.get(name, ""), owner)


def _passed_on(annotation: ast.expr | None, module: str) -> set[str] | None:
    """The keys of the TypedDict of `**options: Unpack[...]`."""
    if not (isinstance(annotation, ast.Subscript) and isinstance(annotation.slice, ast.Name)):
        return None
    place = _resolved(module, annotation.slice.id)
    if place is None:
        return None
    kinds = [found for each in (place, *_ancestors(place)) if (found := _class(each)) is not None]
    return {ast.unparse(key.target) for kind in kinds for key in kind.body if isinstance(key, ast.AnnAssign)}


def _members(node: ast.expr, module: str) -> Iterator[str]:
    if isinstance(node, ast.BinOp):
        yield from _members(node.left, module)
        yield from _members(node.right, module)
    elif isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("Union", "Optional"):
        yield from (["None"] if ast.unparse(node.value) == "Optional" else [])
        for each in node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]:
            yield from _members(each, module)
    elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
        yield from map(ast.unparse, node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice])
    elif isinstance(node, ast.Name) and (found := _alias(node.id, module)) is not None:
        yield from _members(*found)
    else:
        yield ast.unparse(node)


def _alias(name: str, module: str) -> tuple[ast.expr, str] | None:
    for _ in range(5):
        found = _module(module)
        if found is None:
            return None
        if name in found.assigned:
            return found.assigned[name], module
        if name not in found.imported:
            return None
        module, name = found.imported[name]
    return None


_ENTRY = re.compile(r"^(\s+)\*{0,2}(\w+):[ \n](.*\n?(?:\1[ ]+.*\n?|[ ]*\n)*)", re.MULTILINE)


def _described(text: str | None) -> dict[str, str]:
    """What a docstring says of each argument."""
    block = re.search(r"^Args:\n((?:[ ]+.*(?:\n|$)|\n)*)", inspect.cleandoc(text or ""), re.MULTILINE)
    return {match[2]: " ".join(match[3].split()) for match in _ENTRY.finditer(block[1])} if block else {}
