"""Docstrings are prose with formulas: shapes, sizes and names in them, (B, *shape), |u|, x_, are as they are written.

What is inherited from another package, whose pages say it, is left out.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature

STAR = re.compile(r"(?<![\w*\\])\*(?=[\w.])(?!\w[\w -]*\*(?!\w))")
KEPT = re.compile(
    r"(`[^`]*`|^ *\.\. math::.*?(?=\n\s*\n|\Z)|::\n\n(?:[ ]+[^\n]*(?:\n|\Z)|\n)+)", re.DOTALL | re.MULTILINE
)
"""Code and formulas, which are taken as they are."""


def plain(text: str) -> str:
    """The text, of which no star, bar or last underscore of a word is taken for markup; emphasis of words stays."""
    parts = KEPT.split(text)
    for i in range(0, len(parts), 2):
        part = STAR.sub(r"\\*", parts[i]).replace("|", r"\|")
        part = re.sub(r"(?<=\w)_(?!\w)", r"\\_", part)
        parts[i] = rf"\ {part}" if i and parts[i - 1].endswith("`") and re.match(r"\w", part) else part
    return "".join(parts)


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrites a docstring's lines in place."""
    lines[:] = plain("\n".join(lines)).split("\n")


def skip(app: Sphinx, what: str, name: str, obj: Any, would: bool, options: Any) -> bool | None:
    """Leaves out what another package has written."""
    function = getattr(obj, "fget", None) or getattr(obj, "__func__", obj)
    module = getattr(function, "__module__", None)
    return True if isinstance(module, str) and not module.startswith("lightning_ae") else None


def signature(app: Sphinx, what: str, name: str, obj: Any, options: Any, given: str | None, back: str | None) -> Any:
    """The constructor's own arguments; classes here are built by a `__new__` that takes any."""
    if what not in ("class", "exception") or not isinstance(obj, type) or given in (None, "", "()"):
        return None
    try:
        own = inspect.signature(obj.__init__)  # type: ignore[misc]
    except (TypeError, ValueError):
        return None
    parameters = [p for p in own.parameters.values() if p.name != "self"]
    if own.parameters.keys() <= {"self", "args", "kwargs"}:
        return None
    return stringify_signature(own.replace(parameters=parameters), unqualified_typehints=True), back


def setup(app: Sphinx) -> dict[str, Any]:
    """Comes before napoleon, which reads sections."""
    app.connect("autodoc-process-docstring", process, priority=100)
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-signature", signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
