"""The benchmarks' pages are the files of benchmarks/: a page each in docs/benchmarks/, made before each build."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "docs" / "benchmarks"


def pages() -> dict[str, str]:
    """The page of each file, by the file's path in the repository."""
    return {f"benchmarks/{file.name}": f"benchmarks/{file.stem}" for file in sorted((ROOT / "benchmarks").glob("*.md"))}


def write(app: Sphinx) -> None:
    """Writes a page for each, and one that lists them."""
    FOLDER.mkdir(exist_ok=True)
    texts, titles = {}, {}
    for file, page in pages().items():
        name = page.rpartition("/")[2]
        texts[name] = f"```{{include}} ../../{file}\n:relative-images:\n```\n"
        titles[name] = re.sub("^# ", "", (ROOT / file).read_text().split("\n", 1)[0])
    names = sorted(texts, key=lambda name: (name != "RESULTS", titles[name]))
    texts["index"] = "\n".join(
        [
            "# Benchmarks", "", "Each from a committed command, which the page names, with its setting and seeds.", "",
            "```{toctree}", ":maxdepth: 1", "", *names, "```", "",
        ]
    )  # fmt: skip
    for old in FOLDER.glob("*.md"):
        if old.stem not in texts:
            old.unlink()
    for name, text in texts.items():
        file = FOLDER / f"{name}.md"
        if not file.is_file() or file.read_text() != text:
            file.write_text(text)


def setup(app: Sphinx) -> dict[str, Any]:
    """Comes before Sphinx looks for pages."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
