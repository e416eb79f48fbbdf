"""The README's table of variants, made from the registry: `python -m lightning_ae.models.table [--check]`."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from lightning_ae.registry import get_model, list_models

BEGIN, END = "<!-- models: made by make format -->", "<!-- /models -->"


def table() -> str:
    """A Markdown table with a row for each variant."""
    rows = ["| name | class | what it does | source |", "|---|---|---|---|"]
    for name in list_models():
        cls = get_model(name)
        summary = inspect.cleandoc(cls.__doc__ or "").split("\n", 1)[0].rstrip(".")
        source, _, link = cls.reference.rpartition(", ")
        rows.append(f"| `{name}` | `{cls.__name__}` | {summary} | [{source}]({link}) |")
    return "\n".join(rows)


def main() -> None:
    """Rewrites the table in README.md; with --check, only says whether it is up to date."""
    readme = Path("README.md")
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    fresh = f"{before}{BEGIN}\n{table()}\n{END}{after}"
    if fresh == text:
        return
    if "--check" in sys.argv:
        sys.exit("README.md: the table of models is out of date; run `make format`")
    readme.write_text(fresh)


if __name__ == "__main__":
    main()
