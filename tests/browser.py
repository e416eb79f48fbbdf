"""A real browser for slow tests: an installed Chromium, headless, driven by playwright (the extra "browser")."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser; a test is skipped, with the reason, where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="needs the extra 'browser'")
    if not CHROMIUM.is_file():
        pytest.skip(f"needs Chromium at {CHROMIUM}")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """A page in a browser that notes what goes wrong in it, and what it asks of a network.

    Args:
        browser: of `chromium`.
        width: of its window, in pixels.
        scheme: "light" or "dark", what the system prefers.
    """

    def __init__(self, browser: Any, width: int = 1200, scheme: str = "light") -> None:
        # a page that still scrolls takes what is pointed at away from the mouse
        calm = {"color_scheme": scheme, "reduced_motion": "reduce"}
        context = browser.new_context(viewport={"width": width, "height": 900}, **calm)
        self.page = context.new_page()
        self.errors: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, file: Path) -> Tab:
        """Opens a file, and waits until its charts are drawn."""
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("html[data-drawn=true]", state="attached", timeout=120_000)
        return self
