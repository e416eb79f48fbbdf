"""Plain data in, plain data out: how architectures, likelihoods and the like travel in checkpoints.

A `Configurable` is a frozen dataclass. Its plain form, `{"class_path": ..., "init_args": {...}}`, is what the command
line reads from YAML, what `hparams` hold, and what loads under `weights_only=True`.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import os
import sys
from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from lightning_ae.errors import InputError, unknown

C = TypeVar("C", bound="Configurable")


class Configurable(ABC):  # noqa: B024  its own base classes have the abstract methods
    """Base of the frozen dataclasses that describe a part of a model as plain data.

    The base classes are no dataclasses themselves, so that the command line lets one choose among their subclasses.
    """

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


def import_class(path: str, base: type, argument: str) -> type:
    """The class at an import path, or by its bare name among the subclasses of `base`.

    The path may come from a file, so it is looked up among the modules that are imported already (and this package's
    own): a file cannot make Python run a module.

    Raises:
        InputError: when there is no such class, or it is no subclass of `base`.
    """
    if "." not in path:
        known = {cls.__name__: cls for cls in _subclasses(base)}
        if path not in known:
            raise unknown(argument, path, known)
        return known[path]
    parts = path.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:depth])
        if parts[0] == "lightning_ae" and importlib.util.find_spec(module_name):
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
    cls = import_class(value["class_path"], base, argument)
    init_args = dict(value.get("init_args") or {})
    fields = {f.name for f in dataclasses.fields(cls) if f.init}
    for key, item in init_args.items():
        if key not in fields:
            raise unknown(f"option of {cls.__name__} ({argument})", key, fields)
        if isinstance(item, Mapping) and "class_path" in item:
            init_args[key] = from_plain(Configurable, item, f"{argument}.{key}")
    result: C = cls(**init_args)
    return result


def to_plain(value: Any, argument: str) -> Any:
    """The plain form of a hyper-parameter: numbers, strings, lists and dicts all the way down.

    Raises:
        InputError: when the value has no plain form.
    """
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, Configurable):
        init_args = {
            f.name: to_plain(getattr(value, f.name), f"{argument}.{f.name}")
            for f in dataclasses.fields(value)  # type: ignore[arg-type]
            if f.init
        }
        return {"class_path": class_path(type(value)), "init_args": init_args}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(k): to_plain(v, f"{argument}[{k!r}]") for k, v in value.items()}
    if isinstance(value, Sequence):
        return [to_plain(v, f"{argument}[{i}]") for i, v in enumerate(value)]
    raise InputError(
        f"the hyper-parameter {argument} is a {type(value).__name__}, which a checkpoint cannot hold as plain data",
        "pass numbers, strings, lists or dicts, or a frozen dataclass that inherits lightning_ae.config.Configurable",
    )


def _subclasses(base: type) -> list[type]:
    found: list[type] = []
    cls: type
    for cls in base.__subclasses__():
        found += [cls, *_subclasses(cls)]
    return found
