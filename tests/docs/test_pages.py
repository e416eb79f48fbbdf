"""The site's pages: blocks of code run as they stand, fits cut short; every page is in a table of contents."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import pytorch_lightning as pl
from pages import ROOT, blocks, run_page

import lightning_ae
from lightning_ae import architectures, data, parts, samplers
from lightning_ae.recipes import FOLDERS, names
from lightning_ae.registry import variant

DOCS = ROOT / "docs"
MADE = ("variants", "benchmarks", "auto_gallery", "_build", "gallery")
"""Folders that a build makes, or that are run by it."""
PAGES = sorted(
    page for page in DOCS.rglob("*.md") if page.relative_to(DOCS).parts[0] not in (*MADE, "README.md")
)  # fmt: skip
SLOW = ("howto/publish.md", "howto/photographs.md")
"""They evaluate a model, and encode photographs."""
WITH_CODE = [page for page in PAGES if any(block.why is None for block in blocks(page))]


def name(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


def test_blocks_are_found() -> None:
    assert len(WITH_CODE) >= 13
    assert sum(len(blocks(page)) for page in PAGES) >= 35


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=name(page), marks=pytest.mark.slow if name(page) in SLOW else ()) for page in WITH_CODE],
)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_page(page, tmp_path, monkeypatch, steps=2)


def test_a_block_that_fails_fails_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n<!-- not run: would fail -->\n```python\nx = 2 / 0\n```\n")
    assert run_page(page, tmp_path, monkeypatch)["x"] == 1
    page.write_text("```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError):
        run_page(page, tmp_path, monkeypatch)


def listed(page: Path) -> list[Path]:
    """The pages in a page's tables of contents."""
    found = []
    for text in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        entries = [line for line in text.splitlines() if line and not line.startswith(":")]
        found += [(page.parent / f"{entry}.md").resolve() for entry in entries]
    return found


def test_every_page_is_in_a_table_of_contents() -> None:
    inside = {each for page in PAGES for each in listed(page)}
    assert {name(page) for page in PAGES if page not in inside} == {"index.md"}


def test_recipes_named_in_the_pages_exist() -> None:
    found = {each for kind in FOLDERS for each in names(kind)}
    for page in PAGES:
        named = re.findall(r"(?<!python )-c ([a-z]\w*)", page.read_text())
        assert set(named) <= found, name(page)


def test_models_of_pythae_are_found_by_the_names_that_the_page_gives() -> None:
    rows = re.findall(r"^\| (`.*?) \| (.*?variants/.*?) \|$", (DOCS / "howto/migrate.md").read_text(), re.MULTILINE)
    assert len(rows) >= 14
    for there, here in rows:
        pages = re.findall(r"variants/(\w+)\.md", here)
        models = [each for each in re.findall(r"`(\w+)`", there) if each != "MIWAE" and "_LinNF" not in each]
        for each in models:
            try:
                own = variant(each)
            except Exception as error:  # of what is not here, the nearest is named
                own = re.search(r"the nearest is '(\w+)'", str(error))[1]  # type: ignore[index]
            assert own in pages, each


def test_what_the_guide_of_migration_names_is_there() -> None:
    rooms = (lightning_ae, parts, architectures, samplers, data, pl)
    rows = [line.split("|")[2] for line in (DOCS / "howto" / "migrate.md").read_text().splitlines() if "|" in line]
    found = {name for row in rows for code in re.findall(r"`([^`]+)`", row) for name in re.findall(r"\b[A-Z]\w+", code)}
    assert len(found) > 20
    lacking = {name for name in found if not any(hasattr(room, name) for room in rooms)}
    assert lacking == {"True", "False", "DATA"}
