"""Formulas as MathML, which browsers draw themselves: no script, no font, no network. TeX it does not know fails."""

from __future__ import annotations

import contextlib
import re
import unicodedata
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging

log = logging.getLogger(__name__)

LETTERS = re.compile(r'<mi mathvariant="double-struck">([A-Z])</mi>')
FUNCTIONS = re.compile(r"<mi>(log|exp|tanh|sinh|cosh|sin|cos|tan|det|dim)</mi>(<mo[^>]*>&#x00028;</mo>)?")
"""What is upright and stands apart from what it is of, but from a bracket."""


def mathml(tex: str, block: bool = False) -> str:
    """A formula in MathML.

    Raises:
        ExtensionError: when it is empty or holds a command that is not known.
    """
    plain = re.sub(r"(\\[bB]ig+[lr]?)\s*\\\|", r"\1‖", tex.strip())  # the converter knows no \Big\|
    plain = re.sub(r"\\arg\b", r"\\operatorname{arg}", plain)
    if not plain:
        raise ExtensionError("a formula without content")
    try:
        found: str = convert(plain, display="block" if block else "inline")
    except Exception as error:  # it has no class of errors of its own
        raise ExtensionError(f"TeX that cannot be read: {tex!r}: {error!r}") from error
    if lacking := set(re.findall(r'mathvariant="([\w-]+)"', found)) - {"double-struck", "normal"}:
        raise ExtensionError(f"letters that browsers do not draw, {', '.join(sorted(lacking))}: {tex!r}")
    if unknown := re.findall(r">(\\[a-zA-Z|]+)<", found):
        raise ExtensionError(f"TeX with unknown commands {', '.join(unknown)}: {tex!r}")
    found = LETTERS.sub(_letter, found).replace("<mi>&#x0007E;</mi>", "<mo>∼</mo>")
    return FUNCTIONS.sub(
        lambda m: f'<mo lspace="0.17em" rspace="{0 if m[2] else 0.17}em">{m[1]}</mo>{m[2] or ""}', found
    )


def _letter(match: re.Match[str]) -> str:
    """Browsers know double-struck letters by their code points alone."""
    name = f"DOUBLE-STRUCK CAPITAL {match[1]}"
    with contextlib.suppress(KeyError):  # C, H, N, P, Q, R and Z are older, and named without
        return f"<mi>{unicodedata.lookup(f'MATHEMATICAL {name}')}</mi>"
    return f"<mi>{unicodedata.lookup(name)}</mi>"


def _visit(block: bool) -> Any:
    def visit(self: Any, node: nodes.math | nodes.math_block) -> None:
        try:
            text = mathml(node.astext(), block)
        except ExtensionError as error:
            log.warning(str(error), location=node)
            raise nodes.SkipNode from error
        self.body.append(f'<div class="formula">{text}</div>' if block else text)
        raise nodes.SkipNode

    return visit


def setup(app: Sphinx) -> dict[str, Any]:
    """Makes it the way in which formulas are drawn."""
    app.add_html_math_renderer("mathml", (_visit(False), None), (_visit(True), None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
