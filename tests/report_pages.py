"""What a page of HTML holds, for tests."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "img", "input", "br", "link"}


class Page(HTMLParser):
    """A page as tags, tables and scripts; refuses tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[tuple[dict[str, str | None], list[str]]] = []
        self.words: list[str] = []
        self.scripts: dict[str, str] = {}
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append((dict(attrs), []))
        elif tag in ("td", "th"):
            self.rows[-1][1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag, tag

    def handle_data(self, data: str) -> None:
        inside = [tag for tag, _ in self._open]
        if inside[-1:] == ["script"]:
            self.scripts[self._open[-1][1].get("id") or f"script {len(self.scripts)}"] = data
        elif inside[-1:] != ["style"]:
            self.words.append(data)
            if any(tag in ("td", "th") for tag in inside):
                self.rows[-1][1][-1] += data

    @property
    def text(self) -> str:
        """What is read on it."""
        return " ".join(" ".join(self.words).split())

    @property
    def parts(self) -> set[str]:
        """The names of its sections."""
        return {str(attrs["id"]) for tag, attrs in self.tags if tag == "section"}

    def data(self, name: str) -> Any:
        """What a script of plain data holds."""
        return json.loads(self.scripts[f"data-{name}"])

    def of(self, tag: str, cls: str = "") -> list[dict[str, str | None]]:
        """The attributes of all tags of a name, and of a class."""
        found = [attrs for name, attrs in self.tags if name == tag]
        return [attrs for attrs in found if not cls or cls in (attrs.get("class") or "").split()]
