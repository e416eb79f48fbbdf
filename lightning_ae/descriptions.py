"""What models and data modules say of themselves: in a line, and as a small table in a notebook."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping
from typing import Any

from torch import nn

from lightning_ae.config import Configurable


class Described:
    """Base of what says of itself what matters: `repr` is a line, and a notebook shows a table."""

    def described(self) -> dict[str, str]:
        """What there is to say, by name, in the order of what matters."""
        return {}

    def __repr__(self) -> str:
        facts = self._facts()
        return f"<{type(self).__name__}>" if facts is None else line(type(self).__name__, facts)

    def _repr_html_(self) -> str:
        return table(type(self).__name__, self._facts() or {})

    def _facts(self) -> dict[str, str] | None:
        try:
            return self.described()
        except Exception:  # half built, say, as a debugger meets it: a repr never fails
            return None


class DescribedModule(Described):
    """The same of torch modules: `print(module)` shows the tree of modules, as of every other."""

    def __str__(self) -> str:
        return nn.Module.__repr__(self)  # type: ignore[arg-type]  # what it stands before is one


def line(name: str, facts: Mapping[str, str]) -> str:
    """VAE(input (1, 8, 8), code (8,), 83 thousand parameters): names are left out where the value has them."""
    return f"{name}({', '.join(value if key in value else f'{key} {value}' for key, value in facts.items())})"


def table(name: str, facts: Mapping[str, str]) -> str:
    """The same as HTML, a row each."""
    left = 'style="text-align:left"'
    head = f'<tr><th colspan="2" {left}>{html.escape(name)}</th></tr>'
    rows = "".join(
        f"<tr><th {left}>{html.escape(key)}</th><td {left}>{html.escape(value)}</td></tr>"
        for key, value in facts.items()
    )
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def brief(part: Any) -> str:
    """A part of a model with those of its fields that are not their defaults: MLP(hidden=(256,))."""
    if not dataclasses.is_dataclass(part):
        return type(part).__name__
    given = []
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        if field.init and value != default:
            given.append(f"{field.name}={brief(value) if isinstance(value, Configurable) else short(value)}")
    return f"{type(part).__name__}({', '.join(given)})"


def short(value: Any, most: int = 60) -> str:
    """A value's repr, or its beginning."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def count(number: int) -> str:
    """950, 83 thousand, 1.2 million."""
    if number < 1000:
        return str(number)
    return f"{number / 1e3:.3g} thousand" if number < 999_500 else f"{number / 1e6:.3g} million"


def parameters(module: nn.Module) -> str:
    """How many a module has."""
    return f"{count(sum(each.numel() for each in module.parameters()))} parameters"
