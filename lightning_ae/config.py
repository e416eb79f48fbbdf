"""Plain data in, plain data out: how architectures, likelihoods and the like travel in checkpoints.

A `Configurable` is a frozen dataclass. Its plain form, `{"class_path": ..., "init_args": {...}}`, is what the command
line reads from YAML, what `hparams` hold, and what loads under `weights_only=True`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import inspect
import os
import sys
from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

from lightning_ae.errors import InputError, unknown

C = TypeVar("C", bound="Configurable")

MOVED = {
    "lightning_ae.likelihoods": "lightning_ae.parts",
    "lightning_ae.corruptions": "lightning_ae.parts",
    "lightning_ae.models": "lightning_ae",
    "lightning_ae.finetune": "lightning_ae",
    "lightning_ae.run_folder": "lightning_ae.cli.run_folder",
}
"""Where classes are that checkpoints, entries and recipes of earlier versions name by another module."""


class Configurable(ABC):  # noqa: B024  its own base classes have the abstract methods
    """Base of the frozen dataclasses that describe a part of a model as plain data.

    The base classes are no dataclasses themselves, so that the command line lets one choose among their subclasses.
    """

    @classmethod
    def of_earlier(cls, init_args: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments in a file, which name every field that there was, with those that came later.

        A class whose later fields were something else than their defaults says so in `earlier`.
        """
        fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
        known = {f.name: f.default for f in fields if f.init and f.default is not dataclasses.MISSING}
        later = {name: to_plain(default, name) for name, default in known.items()}
        # no annotation in this class: it would be resolved in the modules of subclasses, which may lack its names
        return {**later, **getattr(cls, "earlier", {}), **init_args}

    def __post_init__(self) -> None:
        # YAML and checkpoints know lists only; a frozen dataclass should compare and hash
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))


def class_path(cls: type) -> str:
    """The import path of a class; for this package's own, the path of the public subpackage."""
    if len(cls.__mro__) > 2 and cls.__mro__[1].__name__ == "FSDPModule":
        cls = cls.__mro__[2]  # what fully_shard makes of a class
    module = cls.__module__
    if module.startswith("lightning_ae."):
        parts = module.split(".")
        for depth in range(1, len(parts)):
            package = ".".join(parts[:depth])
            if getattr(importlib.import_module(package), cls.__name__, None) is cls:
                return f"{package}.{cls.__name__}"
    return f"{module}.{cls.__qualname__}"


def current_path(path: str) -> str:
    """The import path that a class of this package has now, whatever an earlier version called its module."""
    module, _, name = path.rpartition(".")
    return f"{MOVED[module]}.{name}" if module in MOVED else path


def import_own() -> None:
    """Imports what this package has to choose from, so that each is known by its bare name."""
    from lightning_ae.registry import CLASSES

    packages = ("architectures", "parts", "samplers", "models.finetune")
    for module in (*(f"lightning_ae.{package}" for package in packages), *CLASSES.values()):
        importlib.import_module(module)


def import_class(path: str, base: type, argument: str) -> type:
    """The class at an import path, or by its bare name among the subclasses of `base`.

    The path may come from a file, so it is looked up among the modules that are imported already (and this package's
    own): a file cannot make Python run a module.

    Raises:
        InputError: when there is no such class, or it is no subclass of `base`.
    """
    if not isinstance(path, str) or not all(part.isidentifier() for part in path.split(".")):
        raise InputError(f"{argument} names a class by {path!r}, which is no import path")
    if "." not in path:
        import_own()
        own = [base] if hasattr(base, "__dataclass_fields__") else []  # one that stands for itself, such as Critic
        known = {cls.__name__: cls for cls in (*own, *_subclasses(base))}
        if path not in known:
            raise unknown(argument, path, known)
        return known[path]
    parts = current_path(path).split(".")
    for depth in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:depth])
        if parts[0] == "lightning_ae" and _has_module(module_name):
            importlib.import_module(module_name)
        found: Any = sys.modules.get(module_name)
        for name in parts[depth:]:
            found = getattr(found, name, None)
        if isinstance(found, type) and issubclass(found, base):
            return found
        if found is not None:
            raise InputError(f"{argument} names {path!r}, which is no subclass of {base.__name__}")
    raise InputError(
        f"{argument} names the class {path!r}, which is not imported",
        f"import the module that defines {parts[-1]!r} first; files never import modules by themselves",
    )


def from_plain(base: type[C], value: C | Mapping[str, Any], argument: str) -> C:
    """A `Configurable` from its plain form; one that is already built is returned as it is.

    Args:
        base: the class that `class_path` must be a subclass of.
        value: `{"class_path": str, "init_args": {...}}` or an instance.
        argument: the argument's name, for errors.

    Raises:
        InputError: on any other value, an unknown class or an unknown key.
    """
    if isinstance(value, base):
        return value
    if not isinstance(value, Mapping) or "class_path" not in value or set(value) - {"class_path", "init_args"}:
        raise InputError(
            f"{argument} must be a {base.__name__} or its plain form, got {value!r}",
            'the plain form is {"class_path": "...", "init_args": {...}}',
        )
    cls: Any = import_class(value["class_path"], base, argument)
    if not hasattr(cls, "__dataclass_fields__"):
        raise InputError(f"{argument} names {value['class_path']!r}, a base class", "name one of its subclasses")
    given = value.get("init_args") or {}
    if not isinstance(given, Mapping):
        raise InputError(f"init_args of {argument} must be a dict, got {given!r}")
    init_args = dict(given)
    fields = {f.name for f in dataclasses.fields(cls) if f.init}
    for key, item in init_args.items():
        if key not in fields:
            raise unknown(f"option of {cls.__name__} ({argument})", str(key), fields)
        if isinstance(item, Mapping) and "class_path" in item:
            init_args[key] = from_plain(Configurable, item, f"{argument}.{key}")
    result: C = cls(**init_args)
    return result


def from_earlier(plain: Any) -> Any:
    """Plain data of a file, as this version would write them: each class says what its arguments were (`of_earlier`).

    A user's own `{"class_path": ...}` is not a file's: what it leaves out is the default of today.
    """
    if isinstance(plain, list | tuple):
        return [from_earlier(item) for item in plain]
    if not isinstance(plain, Mapping):
        return plain
    found = {key: from_earlier(item) for key, item in plain.items()}
    path, init_args = found.get("class_path"), found.get("init_args") or {}
    if isinstance(path, str) and isinstance(init_args, Mapping):
        with contextlib.suppress(InputError):  # a class that is not imported, which whoever asks for it will say
            cls: Any = import_class(path, object if "." in path else Configurable, "a file")
            if hasattr(cls, "of_earlier"):
                found["init_args"] = cls.of_earlier(init_args)
    return found


def to_plain(value: Any, argument: str) -> Any:
    """The plain form of a hyper-parameter: numbers, strings, lists and dicts all the way down.

    Of a `Configurable` it names every field, also where it was given as plain data that leave some to their defaults:
    what is written today must mean the same under the defaults of a later version.

    Raises:
        InputError: when the value has no plain form.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # of an enumeration's member, too
    if isinstance(value, Integral):  # numpy's, too
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, Configurable):
        init_args = {
            f.name: to_plain(getattr(value, f.name), f"{argument}.{f.name}")
            for f in dataclasses.fields(value)  # type: ignore[arg-type]
            if f.init
        }
        return {"class_path": class_path(type(value)), "init_args": init_args}
    if hasattr(type(value), "from_init_args"):  # a model that another is made of
        return {"class_path": class_path(type(value)), "init_args": value.init_args}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        if "class_path" in value:
            with contextlib.suppress(InputError):  # a model's; or whoever takes it says what is wrong with it
                return to_plain(from_plain(Configurable, value, argument), argument)
        return {str(k): to_plain(v, f"{argument}[{k!r}]") for k, v in value.items()}
    if isinstance(value, Sequence):
        return [to_plain(v, f"{argument}[{i}]") for i, v in enumerate(value)]
    raise InputError(
        f"the hyper-parameter {argument} is a {type(value).__name__}, which a checkpoint cannot hold as plain data",
        "pass numbers, strings, lists or dicts, or a frozen dataclass that inherits lightning_ae.config.Configurable",
    )


def arguments(cls: type) -> list[str]:
    """The names of the arguments that a class takes, those too that its `**options` pass on to the class above it."""
    names: list[str] = []
    for parameters in _signatures(cls):
        names += [p.name for p in parameters if p.kind not in _VARIADIC and p.name not in names]
    return names


def bind_arguments(cls: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call of a class by their names, with its own defaults; for calls that succeed.

    What `*args` and `**options` take has the names that the class above gives it. What a class settles for that one is
    not among them, so that the class called with the result is the same again.
    """
    found: dict[str, Any] = {}
    rest, first = list(args), True
    for parameters in _signatures(cls):
        for parameter in parameters:
            if parameter.kind in _VARIADIC:
                continue
            if rest and parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
                found.setdefault(parameter.name, rest.pop(0))
            elif parameter.name in kwargs:
                found.setdefault(parameter.name, kwargs[parameter.name])
            elif first and parameter.default is not inspect.Parameter.empty:
                found[parameter.name] = parameter.default
        first = False
    return found | {name: value for name, value in kwargs.items() if name not in found}


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _signatures(cls: type) -> Iterator[list[inspect.Parameter]]:
    """The parameters of a class's `__init__`, and of those above it as far as each passes some on."""
    for owner in cls.__mro__:
        if "__init__" in vars(owner) and owner is not object:
            parameters = list(inspect.signature(vars(owner)["__init__"]).parameters.values())[1:]
            yield parameters
            if not any(parameter.kind in _VARIADIC for parameter in parameters):
                return


def _has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the part before the last dot is no package
        return False


def _subclasses(base: type) -> list[type]:
    found: list[type] = []
    cls: type
    for cls in base.__subclasses__():
        found += [cls, *_subclasses(cls)]
    return found
