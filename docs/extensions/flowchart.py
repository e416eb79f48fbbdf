"""Draws the flowchart of a Mermaid block as SVG in the page: rows of boxes and arrows down, no script, no network.

It knows what docs/architecture.py writes: `flowchart TB`, a `subgraph ... end` for each row, `a --> b` and `a -.-> b`;
any other line is an error. Arrows of the box under the pointer stand out, and so does what they lead to.
"""

from __future__ import annotations

import re
from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

WIDTH, HEIGHT, ROW, GAP, LETTER = 1000, 34, 92, 14, 8.2
ARROW = re.compile(r"(\w+) (-->|-\.->) (\w+)")


def read(text: str) -> tuple[list[list[str]], list[tuple[str, str, bool]]]:
    """The rows of names, and the arrows: from, to, whether it is a plain one.

    Raises:
        ValueError: for a line that it does not know, or an arrow of a name that is in no row.
    """
    rows: list[list[str]] = []
    arrows: list[tuple[str, str, bool]] = []
    inside = False
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("subgraph "):
            rows.append([])
            inside = True
        elif line == "end":
            inside = False
        elif inside and re.fullmatch(r"\w+", line):
            rows[-1].append(line)
        elif found := ARROW.fullmatch(line):
            arrows.append((found[1], found[3], found[2] == "-->"))
        elif line != "flowchart TB":
            raise ValueError(f"a flowchart with a line that is not known: {line!r}")
    if strangers := {name for a, b, _ in arrows for name in (a, b)} - {name for row in rows for name in row}:
        raise ValueError(f"arrows of {', '.join(sorted(strangers))}, which no row has")
    return rows, arrows


def svg(text: str) -> str:
    """The drawing."""
    rows, arrows = read(text)
    boxes: dict[str, tuple[float, float, float]] = {}  # the middle, the top, the width
    for level, row in enumerate(rows):
        widths = [len(name) * LETTER + 22 for name in row]
        gap = min(60.0, (WIDTH - sum(widths)) / (len(row) + 1))
        left = (WIDTH - sum(widths) - gap * (len(row) - 1)) / 2
        for name, width in zip(row, widths, strict=True):
            boxes[name] = (left + width / 2, level * ROW + 24, width)
            left += width + gap
    lines = [
        f'<svg class="flowchart" viewBox="0 0 {WIDTH} {len(rows) * ROW}" role="img" aria-label="rooms and imports">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="context-stroke"/></marker></defs>',
    ]
    order = sorted(boxes)
    for name in order:
        lines.append(f'<g class="room"><title>{escape(_words(name, arrows))}</title>')
        for a, b, plain in arrows:
            if a == name:
                dashes = "" if plain else ' stroke-dasharray="4 3"'
                lines.append(f'<path class="arrow" d="{_curve(boxes[a], boxes[b])}"{dashes} marker-end="url(#tip)"/>')
        middle, top, width = boxes[name]
        lines.append(f'<rect x="{middle - width / 2:.1f}" y="{top}" width="{width:.1f}" height="{HEIGHT}" rx="6"/>')
        lines.append(f'<text x="{middle:.1f}" y="{top + 22}">{escape(name)}</text></g>')
    return "\n".join([*lines, "</svg>"])


def _words(name: str, arrows: list[tuple[str, str, bool]]) -> str:
    to = ", ".join(b for a, b, _ in arrows if a == name)
    by = ", ".join(a for a, b, _ in arrows if b == name)
    return f"{name} imports {to or 'nothing here'}; it is imported by {by or 'nobody here'}"


def _curve(a: tuple[float, float, float], b: tuple[float, float, float]) -> str:
    (x, y, _), (to, top, _) = a, b
    if y == top:  # neighbours in a row: a bow above it
        return f"M{x:.1f} {y} C{x:.1f} {y - 24} {to:.1f} {y - 24} {to:.1f} {y - 2}"
    start, end = (y + HEIGHT, top - 2) if top > y else (y, top + HEIGHT + 2)
    half = (start + end) / 2
    return f"M{x:.1f} {start} C{x:.1f} {half} {to:.1f} {half} {to:.1f} {end}"


class Flowchart(SphinxDirective):
    """A block of Mermaid."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """The drawing, as it stands in the page."""
        try:
            drawn = svg("\n".join(self.content))
        except ValueError as error:
            raise self.error(str(error)) from error
        return [nodes.raw("", f'<div class="drawn">{drawn}</div>', format="html")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Adds the directive."""
    app.add_directive("mermaid", Flowchart)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
