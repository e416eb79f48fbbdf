"""What a user's kind does, as a digest: by what the cache knows that its code was edited."""

from __future__ import annotations

import sys
import types
from collections import deque
from contextlib import suppress
from enum import Enum
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import xxhash
from pytorch_lightning.utilities import rank_zero_warn

if TYPE_CHECKING:
    from lightning_ae.data.kinds import Kind

DECODING = 2
"""Of this package's own kinds, whose code is not looked into: a digest of it would throw every cache away with each
release. One more wherever the same rows give other samples: after a change of what `Image.decode` or `Tabular.decode`
make, of `natural.pixels` (orientation, modes, alpha), or of `ImagePreprocess.resize`. What happens to samples later,
`freeze` and scaling, is not in the cache, or has its own place in the key. The samples of some odd images are pinned
beside this number in tests/data/inputs_cache.py."""


class Code:
    """A digest of what a kind does: the code of its class, of its bases, and of what these name, as far as it is the
    user's own; not that of Python, of installed packages or of this one.

    Of code as it runs, not of its text, so that comments and an edited file that is not loaded yet do not count.
    """

    def __init__(self) -> None:
        self.digest = xxhash.xxh3_128()
        self.packages: set[str] = set()
        self.seen: dict[int, Any] = {}
        self.left: deque[Any] = deque()  # functions and classes, which may refer to each other

    def of(self, kind: Kind) -> str | None:
        """For an instance of a class outside this package, with its fields; None for one of its own."""
        cls = type(kind)
        if _package(cls.__module__) == "lightning_ae":
            return None
        self.packages = {_package(base.__module__) for base in cls.__mro__} - sys.stdlib_module_names - {"lightning_ae"}
        self._add([DECODING, cls])
        names = {*getattr(kind, "__dataclass_fields__", ()), *getattr(kind, "__dict__", ())}
        for name in sorted(names):
            if not isinstance(getattr(cls, name, None), cached_property):
                self._word(name)
                self._add(getattr(kind, name))
        while self.left:
            value = self.left.popleft()
            self._class(value) if isinstance(value, type) else self._function(value)
        return self.digest.hexdigest()

    def _word(self, text: str) -> None:
        self.digest.update(f"{text}\0".encode(errors="surrogateescape"))

    def _is_own(self, module: str | None) -> bool:
        package = _package(module)
        file = getattr(sys.modules.get(package), "__file__", None) or ""
        known = package == "lightning_ae" or package in sys.stdlib_module_names - {"__main__"}
        return package in self.packages or not (known or "site-packages" in file or "dist-packages" in file)

    def _add(self, value: Any) -> None:
        if isinstance(value, types.FunctionType | type):
            self._word(f"{named(value.__module__)}.{value.__qualname__}")
            if self._is_new(value):
                self.left.append(value)
        elif isinstance(value, staticmethod | classmethod):
            self._add(value.__func__)
        elif isinstance(value, property):
            self._add(value.fget)
        elif isinstance(value, cached_property):
            self._add(value.func)
        elif isinstance(value, types.MethodType):
            self._add([value.__func__, value.__self__])
        elif isinstance(value, partial):
            self._add([value.func, value.args, value.keywords])
        elif isinstance(value, types.ModuleType):
            self._word(named(value.__name__))
        elif isinstance(value, list | tuple | dict):
            self._word(f"{type(value).__name__} {len(value)}")
            if isinstance(value, tuple) or self._is_new(value):  # it may hold itself
                for each in value.items() if isinstance(value, dict) else value:
                    self._add(each)
        elif isinstance(value, set | frozenset):  # in another order in each process
            self._add(sorted(value, key=repr))
        elif value is None or isinstance(value, str | bytes | bool | int | float | complex):
            self._word(repr(value))
        elif hasattr(value, "__wrapped__"):  # of functools.lru_cache
            self._add(value.__wrapped__)
        else:
            self._object(value)

    def _is_new(self, value: Any) -> bool:
        seen = id(value) in self.seen
        self.seen[id(value)] = value  # kept, so that no other gets its number
        return not seen

    def _function(self, function: types.FunctionType) -> None:
        if self._is_own(function.__module__):
            self._code(function.__code__, function.__globals__)
            self._add([function.__defaults__, function.__kwdefaults__])
            for cell in function.__closure__ or ():
                with suppress(ValueError):  # it is empty yet
                    self._add(cell.cell_contents)

    def _class(self, cls: type) -> None:
        for base in cls.__mro__:
            self._word(f"{named(base.__module__)}.{base.__qualname__}")
            for name, value in sorted(vars(base).items()) if self._is_own(base.__module__) else ():
                code = isinstance(value, types.FunctionType | staticmethod | classmethod | property)
                slot = isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType)
                if code or not (slot or name.startswith("__") or name == "_abc_impl"):
                    self._word(name)
                    self._add(value)

    def _code(self, code: types.CodeType, names: dict[str, Any]) -> None:
        self.digest.update(code.co_code + getattr(code, "co_exceptiontable", b""))
        self._word(f"{code.co_names} {code.co_varnames} {code.co_freevars} {code.co_flags}")
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._code(constant, names)
            else:
                self._add(constant)
        self._referred(code.co_names, names, set())

    def _referred(self, wanted: tuple[str, ...], names: dict[str, Any], modules: set[int]) -> None:
        """What code refers to by these names, also in modules that it names."""
        for name in wanted:
            if name in names:
                self._word(name)
                self._add(value := names[name])
                if isinstance(value, types.ModuleType) and self._is_own(value.__name__) and id(value) not in modules:
                    modules.add(id(value))
                    self._referred(wanted, vars(value), modules)

    def _object(self, value: Any) -> None:
        from datasets.fingerprint import Hasher

        cls = type(value)
        self._add(cls)
        try:
            if isinstance(value, Enum):
                self._add([value.name, value.value])
            elif self._is_own(cls.__module__) and cls.__reduce__ is object.__reduce__:
                if self._is_new(value):  # its state; pickled, it would name a script as each process does
                    self._add(value.__reduce_ex__(2)[1:3])
            else:
                self._word(Hasher.hash(value))
        except Exception:  # each type that has no bytes to show says so in its own way
            rank_zero_warn(
                f"the code that decodes uses a {type(value).__name__}, which cannot be looked into: after a change of "
                "it, the cache goes on giving samples as they were (lightning-ae cache --clear true)"
            )


def _package(module: str | None) -> str:
    return named(module).partition(".")[0]


def named(module: str | None) -> str:
    """A module's name, or a path that begins with it; of a script, the same in processes that were spawned."""
    return (module or "__main__").replace("__mp_main__", "__main__")
