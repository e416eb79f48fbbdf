"""YAML as every file and option here is read: nothing in it is dropped, and nothing short becomes large.

Plain YAML keeps the last of two equal keys without a word, lets nine lines stand for a billion values, and nests until
the process ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node, ScalarNode

from lightning_ae.errors import InputError

DEEPEST = 100
MOST_COPIES = 10_000  # values that aliases add to those written

MERGE = "tag:yaml.org,2002:merge"
NO_TEXT = [f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "null")]


def load_yaml(text: str, where: str = "") -> Any:
    """The plain data in a YAML document, or in a JSON one.

    Args:
        text: the document.
        where: its file, for errors.

    Raises:
        InputError: when a key stands twice in a mapping, aliases stand for too much or for themselves, or it nests too
            deep, naming the line.
        yaml.YAMLError: when it is no YAML.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except InputError as error:
        raise InputError(f"{where}: {error.message}" if where else error.message, error.hint) from error
    except ValueError as error:  # such as a date in month 13
        raise yaml.YAMLError(str(error)) from error
    finally:
        loader.dispose()


_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Base: Any = _Safe if issubclass(_Safe, Composer) else type("_Base", (Composer, _Safe), {})


class _Loader(_Base):
    """Gives plain data only, and counts what its nodes are as a tree, in which an alias stands for a copy.

    libyaml splits the text, where it is there; its own composer would overrun the stack.
    """

    def __init__(self, text: str) -> None:
        Composer.__init__(self)
        _Safe.__init__(self, text)
        self.depth = self.values = self.copies = 0
        self.sizes: dict[int, int] = {}

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event = self.peek_event()
        line = event.start_mark.line + 1
        if isinstance(event, AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self.sizes:
                raise InputError(f"line {line}: *{event.anchor} stands inside of what it names")
            self.values += self.sizes[id(node)]
            self.copies += self.sizes[id(node)]
            if self.copies > MOST_COPIES:
                raise InputError(f"line {line}: with *{event.anchor}, aliases stand for more than {MOST_COPIES} values")
            return node
        if self.depth == DEEPEST:
            raise InputError(f"line {line}: it nests deeper than {DEEPEST} levels")
        before = self.values
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        self.values += 1 + (len(node.value) // 100 if isinstance(node, ScalarNode) else 0)
        self.sizes[id(node)] = self.values - before
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node: MappingNode = super().compose_mapping_node(anchor)
        keys: dict[Any, ScalarNode] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode) or key.tag == MERGE:
                continue  # the constructor refuses other keys; merges add up
            name = self.construct_object(key) if key.tag in NO_TEXT else key.value  # 1 and 0x1 are one key
            if name in keys:
                raise _twice(key, keys[name])
            keys[name] = key
        for name, key in keys.items():
            for other in _leading(node, name.split(".")) if isinstance(name, str) and "." in name else ():
                if other is not key:  # trainer.max_epochs, and trainer: {max_epochs: ...}
                    raise _twice(key, other)
        return node


def _leading(node: Node, path: list[str]) -> Iterator[ScalarNode]:
    """The last keys of all ways to write a path from a mapping, such as a.b.c, a: {b.c: ...} and a: {b: {c: ...}}."""
    for key, value in node.value if isinstance(node, MappingNode) else ():
        for length in range(1, len(path) + 1):
            if key.value == ".".join(path[:length]) and key.tag not in NO_TEXT:
                yield from [key] if length == len(path) else _leading(value, path[length:])


def _twice(key: ScalarNode, other: ScalarNode) -> InputError:
    first, last = sorted(node.start_mark.line + 1 for node in (key, other))
    return InputError(f"line {last}: the key {key.value!r} stands twice (first in line {first}); only one would count")
