"""The table of published numbers is what its script makes of the results on file."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import published
import reproduce
from published import ROWS, table
from reproduce import main


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the results, in place of those on file."""
    for file in (published.HERE / "results").iterdir():
        (tmp_path / "results").mkdir(exist_ok=True)
        (tmp_path / "results" / file.name).write_text(file.read_text())
    for module in (published, reproduce):
        monkeypatch.setattr(module, "HERE", tmp_path)
    return tmp_path / "results"


def test_the_table_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["reproduce.py", "--check"])
    main()


def test_a_stale_table_is_noticed(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["reproduce.py", "--check"])
    file = results / "vae.json"
    file.write_text(file.read_text().replace("105.4", "104.4"))
    with pytest.raises(SystemExit, match="stale"):
        main()


def test_published_is_what_a_paper_prints() -> None:
    rows = [[cell.strip() for cell in line.split("|")] for line in table().splitlines() if line.count("|") == 5]
    cells = [row[3] for row in rows if row[3] not in ("published", "---")]
    assert cells == [figure.published or "none" for row in ROWS.values() for figure in row.figures]
    for cell in cells:
        assert cell == "none" or re.match(r"[\d.]+: .*(\d{4}|same|difference)", cell), cell
        assert not re.search("scikit-learn|here|own|at most|at least", cell), cell


def test_what_was_not_measured_says_so(results: Path) -> None:
    before = table()
    (results / "deep.json").unlink()
    content = json.loads((results / "pca.json").read_text())
    content["figures"]["squared error per test image"]["reference"] = None
    (results / "pca.json").write_text(json.dumps(content))
    after = table()
    assert "| 3.00: Hinton" in after
    assert "| 13.866: " in before
    assert "| 13.866: " not in after
    assert after.lower().count("not measured") == before.lower().count("not measured") + 3


def test_a_measured_figure_is_never_lost(results: Path) -> None:
    file = results / "vae.json"
    file.write_text(file.read_text().replace("test negative ELBO", "negative ELBO"))
    with pytest.raises(KeyError, match="vae"):
        table()
