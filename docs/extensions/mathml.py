"""Formulas as MathML, which browsers draw themselves: no script, no font, no network. TeX it does not know fails."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging

log = logging.getLogger(__name__)


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
    if unknown := re.findall(r">(\\[a-zA-Z|]+)<", found):
        raise ExtensionError(f"TeX with unknown commands {', '.join(unknown)}: {tex!r}")
    return found.replace("<mi>&</mi>", "<mi>&amp;</mi>")


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
