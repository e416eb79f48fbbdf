"""The scripts of recipes/uses run as they stand, and find something."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_ae import HFDataModule

FOLDER = Path(__file__).parent.parent / "recipes" / "uses"
FOUND: dict[str, tuple[str, Callable[[str], bool]]] = {
    "photographs": (r"embeddings.npz \((\(540, 32\))", lambda said: True),
    "table": (r"price +([\d.]+)", lambda said: float(said) < 0.6),
    "counts": (r"the codes +([\d.]+) %", lambda said: float(said) < 25),
    "batches": (r"told of batches +([\d.]+) % of the neighbours", lambda said: float(said) < 70),
    "neighbours": (r"([\d.]+) % of the 8 nearest are of the class", lambda said: float(said) > 60),
    "latents": (r"a half of the pixels by the others: (\d+) %", lambda said: int(said) < 80),
    "traversals": (r"(\d+) variants", lambda said: int(said) == 9),
    "rate_distortion": (r"beta 10 +([\d.]+) bits", lambda said: float(said) < 3),
    "codec": (r"4 of 4 layers +\d+ bits/s +([\d.]+) dB", lambda said: float(said) > 10),
    "compression": (r"ae_tiny.taef2_v1, 8 bits +([\d.]+) bits per pixel", lambda said: 1 < float(said) < 6),
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


@pytest.mark.slow
def test_the_class_that_was_left_out_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """recipes/zoo/anomaly.py, of a class that the others are not like."""
    monkeypatch.setattr(sys, "argv", ["anomaly", "--held_out", "0", "--epochs", "20"])
    runpy.run_path(str(FOLDER.parent / "zoo" / "anomaly.py"), run_name="__main__")
    said = re.findall(r"(\d+) draws? +AUROC ([\d.]+)", capsys.readouterr().out)
    assert [draws for draws, _ in said] == ["1", "16"]
    assert all(float(auroc) > 0.8 for _, auroc in said)


@pytest.mark.parametrize("by", ["scikit-learn", "faiss"])
def test_neighbours_are_the_nearest(
    by: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of a sort of all distances in float64, of codes far from zero too, without the code itself."""
    if by == "faiss":
        pytest.importorskip("faiss")
    else:
        monkeypatch.setitem(sys.modules, "faiss", None)
    search = runpy.run_path(str(FOLDER / "neighbours.py"))["search"]
    codes = (100 + np.random.default_rng(0).normal(size=(300, 5))).astype(np.float32)
    codes[7] = codes[5]  # twice the same
    asked = np.array([5, 7, 80, 299])
    apart = np.square(codes[asked][:, None].astype(float) - codes).sum(axis=2)
    apart[range(4), asked] = np.inf
    assert search(codes, asked, 6).tolist() == apart.argsort(axis=1, kind="stable")[:, :6].tolist()
    assert search(codes[:3], np.array([1]), 6).shape == (1, 2)  # there are no more
    assert capsys.readouterr().out == 2 * f"searched by {by}\n"


def test_a_key_leads_back_to_its_image(tmp_path: Path) -> None:
    image = runpy.run_path(str(FOLDER / "neighbours.py"))["image"]
    for i, name in enumerate("abcdef"):
        (tmp_path / "kind").mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 4), 40 * i, np.uint8)).save(tmp_path / "kind" / f"{name}.png")
    data = HFDataModule(str(tmp_path), val_fraction=0.4, cache="memory")
    rows = data.dataset("val")
    for i, (row, path) in enumerate(zip(*(data.keys("val")[name] for name in ("row", "path")), strict=True)):
        for key in ({"path": path}, {}):
            found = image(data, {"_split": "val", "row": row, **key})
            assert np.array_equal(found, rows[i]["image"])
            assert np.asarray(found)[0, 0] == 40 * row
