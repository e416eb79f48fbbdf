"""Constructors that state their own arguments only, and still list them all.

A variant's constructor names what is its own, and passes on the rest as `**options: Unpack[...]`, a TypedDict of the
arguments that it leaves to the class above. Here such a class gets the signature and the docstring that say all of
them, so that the command line, `help()` and the errors of unknown arguments know each with its type, default and text.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, get_args, get_origin, get_type_hints

from typing_extensions import Unpack


def complete(cls: type) -> None:
    """Gives a class whose constructor takes `**options: Unpack[...]` the signature and docstring without them.

    One that has its constructor from the class above gets the docstring of all arguments.

    Raises:
        TypeError: when the TypedDict names an argument that the class above does not take, or one of the class's own.
    """
    init = vars(cls).get("__init__")
    if init is None:
        inherited = [p for p in inspect.signature(_init_above(cls)).parameters.values() if p.name != "self"]
        first = [p.name for p in inherited if p.kind is p.POSITIONAL_OR_KEYWORD]
        _complete_docstring(cls, first, [p.name for p in inherited if p.kind is p.KEYWORD_ONLY])
        return
    if not (options := _options(init)):
        return
    own = [p for p in inspect.signature(init).parameters.values() if p.kind is not p.VAR_KEYWORD]
    above = {name: p for name, p in _parameters_above(cls).items() if name in options}
    if lacking := options - above.keys():
        raise TypeError(f"{cls.__name__} passes on {', '.join(sorted(lacking))}, which no class above it takes")
    if twice := options & {p.name for p in own}:
        raise TypeError(f"{cls.__name__} has {', '.join(sorted(twice))} of its own, and passes it on")
    passed = [p.replace(kind=p.KEYWORD_ONLY) for p in above.values()]
    init.__signature__ = inspect.Signature([*own, *passed])
    init.__passed_on__ = frozenset(options)
    _complete_docstring(cls, [p.name for p in own], [p.name for p in passed])


def passed_on(cls: type) -> frozenset[str]:
    """The names of the arguments that a class's constructor leaves to the class above by `**options: Unpack[...]`."""
    return getattr(inspect.getattr_static(cls, "__init__"), "__passed_on__", frozenset())


def _options(init: Any) -> set[str]:
    """The names in the TypedDict of a constructor's `**options: Unpack[...]`; none where it has no such thing."""
    if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(init).parameters.values()):
        return set()
    variadic = next(p.name for p in inspect.signature(init).parameters.values() if p.kind is p.VAR_KEYWORD)
    try:
        annotation = get_type_hints(init).get(variadic)
    except NameError:  # a user's own, imported for type checkers only
        return set()
    return set(get_type_hints(get_args(annotation)[0])) if get_origin(annotation) is Unpack else set()


def _init_above(cls: type) -> Any:
    return next(vars(c)["__init__"] for c in cls.__mro__[1:] if "__init__" in vars(c))


def _parameters_above(cls: type) -> dict[str, inspect.Parameter]:
    """What the next constructor above takes, each with its type resolved."""
    init = _init_above(cls)
    hints = get_type_hints(init)
    return {
        name: p.replace(annotation=hints.get(name, p.annotation))
        for name, p in inspect.signature(init).parameters.items()
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }


_ARGS = re.compile(r"^Args:\n((?:[ ]{4}.*\n|\n)*)", re.MULTILINE)
_ENTRY = re.compile(r"^[ ]{4}(\w+): .*\n(?:[ ]{8}.*\n)*", re.MULTILINE)


def _complete_docstring(cls: type, own: list[str], passed: list[str]) -> None:
    text = f"{inspect.cleandoc(cls.__doc__ or '')}\n"
    block = _ARGS.search(text)
    if block is None:
        return
    written = {match[1] for match in _ENTRY.finditer(block[1])}
    above: dict[str, str] = {}
    for base in cls.__mro__[1:]:
        found = _ARGS.search(f"{inspect.cleandoc(vars(base).get('__doc__') or '')}\n")
        for match in _ENTRY.finditer(found[1]) if found else ():
            above.setdefault(match[1], match[0])
    first = "".join(above[name] for name in own if name in above and name not in written)
    last = "".join(above[name] for name in passed if name in above and name not in written)
    entries = block[1].rstrip("\n")
    rest = text[block.start() + len("Args:\n") + len(entries) + 1 :]
    cls.__doc__ = f"{text[: block.start()]}Args:\n{first}{entries}\n{last}{rest}".rstrip("\n")
