"""The explorer's page, by Panel, and the server of it."""

from __future__ import annotations

import html
import socket
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from lightning_ae.errors import InputError
from lightning_ae.explore.state import Explorer, label_of

HOST = "127.0.0.1"
SPAN = 3.0
PICTURES = """
img.ae { image-rendering: pixelated; border-radius: 6px; display: block; outline: 1px solid rgb(128 137 145 / 40%); }
"""
SERVED = """
:root {
  color-scheme: light; --design-background-color: #ffffff; --design-background-text-color: #1b1f24;
  --design-surface-color: #f5f7f9; --design-surface-text-color: #1b1f24;
}
@media (prefers-color-scheme: dark) {
  :root {
    color-scheme: dark; --design-background-color: #0f1216; --design-background-text-color: #e5e9ee;
    --design-surface-color: #1a2027; --design-surface-text-color: #e5e9ee;
  }
}
body {
  font: 15px/1.5 system-ui, sans-serif; margin: 24px;
  color: var(--design-background-text-color); background: var(--design-background-color);
}
"""
"""What the visitor's system prefers, by the names that Panel's own design asks for; a notebook has colours of its own,
which Panel follows."""


def check_extra() -> None:
    """Refuses to serve without what the page is made with.

    Raises:
        InputError: saying what to install.
    """
    if find_spec("panel") is None:
        raise InputError("the explorer needs panel, of the extra 'explore'", "pip install 'lightning_ae[explore]'")


def check_port(port: int) -> None:
    """Refuses a port that is none, or that is taken.

    Raises:
        InputError: naming it.
    """
    if not 0 < port < 65536:
        raise InputError(f"port must be from 1 to 65535, got {port}")
    with socket.socket() as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind((HOST, port))
        except OSError as error:
            raise InputError(
                f"port {port} of {HOST} cannot be had: {error.strerror or error}", f"give another: --port {port + 1}"
            ) from error


def page(explorer: Explorer, title: str = "") -> Any:
    """The page of an explorer, for Panel to serve or to show in a notebook."""
    check_extra()
    pn: Any = import_module("panel")  # whose types want generators

    pn.extension(raw_css=[PICTURES])
    rows = len(explorer.x)

    def picture(uri: str, name: str, width: int = 224) -> str:
        return f'<img class="ae" name="{name}" src="{uri}" width="{width}" alt="{name}">'

    def gallery(numbers: Sequence[int], name: str) -> str:
        shown = "".join(
            f'<figure style="margin: 0">{picture(explorer.image(row), name, 72)}<figcaption style="font-size: 12px">'
            f"{row} {html.escape(explorer.label(row))}</figcaption></figure>"
            for row in numbers
        )
        return f'<div style="display: flex; flex-wrap: wrap; gap: 10px">{shown}</div>'

    def answer(make: Any) -> str:
        try:
            return str(make())
        except InputError as reason:
            return f'<p role="alert">{html.escape(reason.message)}</p>'

    row = pn.widgets.IntSlider(name="row", start=0, end=rows - 1, value=0, width=240)
    upload = pn.widgets.FileInput(accept="image/*", width=240)
    sliders = [
        pn.widgets.IntSlider(name=label_of(way, name), start=0, end=way.classes - 1, value=0, width=220)
        if way.classes
        else pn.widgets.FloatSlider(name=label_of(way, name), start=-SPAN, end=SPAN, step=0.1, value=0.0, width=220)
        for way, name in zip(explorer.ways, explorer.names, strict=True)
    ]

    def given(content: bytes | None) -> Any:
        return None if not content else explorer.read(content)

    def source(number: int, content: bytes | None) -> str:
        def make() -> str:
            x = given(content)
            return picture(explorer.image(number) if x is None else explorer.shown(x), "input")

        return answer(make)

    def decoded(number: int, content: bytes | None, *steps: float) -> str:
        return answer(lambda: picture(explorer.moved(number, steps, given(content)), "decoded"))

    other = pn.widgets.IntSlider(name="to row", start=0, end=rows - 1, value=min(1, rows - 1), width=240)
    t = pn.widgets.FloatSlider(name="at", start=0.0, end=1.0, step=0.05, value=0.5, width=240)
    least = pn.widgets.Checkbox(name="the least strange first", value=False)

    def path(a: int, b: int, at: float) -> str:
        return answer(
            lambda: (
                '<div style="display: flex; gap: 10px">'
                + picture(explorer.image(a), "from", 140)
                + picture(explorer.between(a, b, at), "between", 140)
                + picture(explorer.image(b), "to", 140)
                + "</div>"
            )
        )

    live = pn.Row(
        pn.Column("### A row, or an image of yours", row, upload, pn.pane.HTML(pn.bind(source, row, upload))),
        pn.Column("### What the decoder answers", pn.pane.HTML(pn.bind(decoded, row, upload, *sliders))),
        pn.Column("### Its code", pn.FlexBox(*sliders, width=480)),
    )
    return pn.Column(
        f"# {html.escape(title)}",
        live,
        "### On the way to another row",
        pn.Row(other, t),
        pn.pane.HTML(pn.bind(path, row, other, t)),
        "### Rows of the nearest codes",
        pn.pane.HTML(pn.bind(lambda number: gallery(explorer.neighbours(number), "neighbour"), row)),
        "### Sorted by score",
        least,
        pn.pane.HTML(pn.bind(lambda up: answer(lambda: gallery(explorer.strangest(16, up), "scored")), least)),
    )


def serve(explorer: Explorer, port: int = 5006, title: str = "", show: bool = False, start: bool = True) -> Any:
    """Serves the page to this machine alone until it is interrupted, or, with start=False, makes the server.

    Raises:
        InputError: where the port is taken, or the extra "explore" is not installed.
    """
    check_extra()
    check_port(port)
    pn: Any = import_module("panel")  # whose types want generators

    def served() -> Any:
        pn.extension(raw_css=[SERVED])
        return page(explorer, title)

    return pn.serve(
        {"/": served},
        address=HOST,
        port=port,
        show=show,
        start=start,
        title=title or "lightning_ae",
        websocket_origin=[f"{HOST}:{port}", f"localhost:{port}"],
        threaded=False,
    )
