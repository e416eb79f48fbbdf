"""The arithmetic of the anomaly benchmark: what it divides, how it scores, when it says that a goal is met."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "anomaly.py"))


@pytest.mark.parametrize("levels", [5, 10_000])
def test_auroc_is_scikit_learns(levels: int) -> None:
    rng = np.random.default_rng(0)
    strange, scores = rng.random(200) < 0.2, rng.integers(levels, size=200).astype(float)
    assert SCRIPT["auroc"](strange, scores) == pytest.approx(roc_auc_score(strange, scores), abs=1e-12)


def test_rows_are_divided_as_said() -> None:
    strange = np.random.default_rng(0).random(1000) < 0.3
    fitted, scored = SCRIPT["divide"](strange, "all", 1, 600)
    assert (fitted == scored).all()
    assert len(set(fitted)) == 600
    half, rest = SCRIPT["divide"](strange, "normal", 1, 600)
    assert set(half) | set(rest) == set(fitted)
    assert not set(half) & set(rest)
    assert not strange[half].any()
    assert len(half) == (~strange[fitted]).sum() // 2
    assert set(SCRIPT["divide"](strange, "all", 2, 600)[0]) != set(fitted)


def rows(figures: dict[str, list[list[float]]]) -> list[dict[str, Any]]:
    """Of each contestant a list of tables, each a list of seeds; ours takes 2 seconds, the others 1."""
    return [
        {
            "table": f"t{table}",
            "mode": mode,
            "seed": seed,
            "name": name,
            "auroc": value,
            "seconds": 2.0 if name == "ours" else 1.0,
        }
        for mode in ("all", "normal")
        for name, tables in figures.items()
        for table, seeds in enumerate(tables)
        for seed, value in enumerate(seeds)
    ]


def test_means_and_goals() -> None:
    names = ("ours", "AutoEncoder", "VAE", "PCA")
    figures = {
        "ours": [[0.8, 0.9], [0.7, 0.7], [0.6, 0.6]],
        "AutoEncoder": [[0.7], [0.6], [0.9]],
        "VAE": [[0.84], [0.8], [0.8]],
        "PCA": [[0.1], [0.1], [0.1]],
    }
    found = rows(figures)
    assert SCRIPT["means"](found)["all"]["ours"] == pytest.approx({"t0": 0.85, "t1": 0.7, "t2": 0.6})
    text = SCRIPT["page"](found, names)
    assert "| ours | 71.67 |" in text
    assert "| PyOD VAE | 81.33 | 1 of 3 | 3.0 | 0 |" in text
    assert "- NOT met: ahead of all on the mean (by -9.67 of VAE)" in text
    assert "- met: ahead of AutoEncoder on two thirds of the tables (2 of 3)" in text
    assert "- NOT met: ahead of VAE on two thirds of the tables (1 of 3)" in text
    assert "- NOT met: no more time than AutoEncoder (2.00 of it)" in text


def test_a_table_that_a_contestant_lacks_counts_for_nobody() -> None:
    figures = {"ours": [[0.9], [0.1]], "PCA": [[0.5]]}
    text = SCRIPT["page"](rows(figures), ("ours", "PCA"))
    assert "| ours | 90.00 |" in text
    assert "t1" not in text
