"""The scripts of recipes/uses run as they stand, and find something."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "recipes" / "uses"
FOUND: dict[str, tuple[str, Callable[[str], bool]]] = {
    "photographs": (r"embeddings.npz \((\(540, 32\))", lambda said: True),
    "table": (r"price +([\d.]+)", lambda said: float(said) < 0.6),
    "counts": (r"the codes +([\d.]+) %", lambda said: float(said) < 25),
    "sensors": (r"AUROC of windows that end in a fault: ([\d.]+)", lambda said: float(said) > 0.7),
}


def test_all_are_here() -> None:
    assert {file.stem for file in FOLDER.glob("*.py")} == set(FOUND)


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUND)
def test_it_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    pattern, holds = FOUND[name]
    said = re.search(pattern, capsys.readouterr().out)
    assert said is not None
    assert holds(said[1])
    assert any((tmp_path / "uses").iterdir())
