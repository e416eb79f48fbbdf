"""The scripts of docs/gallery: each says what it is of, holds its figure to a number, and runs, here in a short form.

In the short form (Lightning's own variable, PL_TRAINER_MAX_STEPS) a model takes three steps, so a number need not be
better than what it stands beside; `make docs` runs them whole, where it has to be.
"""

from __future__ import annotations

import ast
import json
import re
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lightning_ae.figures
from lightning_ae.figures import Figure, NotBetterError

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "gallery"
SCRIPTS = {file.stem.removeprefix("plot_"): file for file in sorted(FOLDER.glob("plot_*.py"))}
FAST = ("linear", "adversarial")
"""What runs with the fast tests, a second or two each."""
COVERED = {
    "Family": (
        "linear", "undercomplete", "deep", "stacked", "sparse", "k-sparse", "dictionary", "denoising", "contractive",
        "score matching", "variational", "disentangling", "discrete", "adversarial", "latent diffusion",
    ),
    "Use": (
        "denoising", "visualisation", "features for a classifier", "generation", "anomaly scores", "compression",
        "interpolation", "attribute vectors", "imputation", "dimension reduction",
    ),
    "Data": (
        "images", "table", "table with mixed columns", "counts", "time series", "sequences", "sound",
        "photographs of any size", "vectors",
    ),
}  # fmt: skip
"""Of what there has to be a script at least."""


def fields(script: str) -> dict[str, list[str]]:
    """What a script says that it is of."""
    said = ast.get_docstring(ast.parse(SCRIPTS[script].read_text())) or ""
    return {name: values.split(", ") for name, values in re.findall(r"^:(\w+): (.+)$", said, flags=re.MULTILINE)}


def test_there_is_one_of_each() -> None:
    for field, wanted in COVERED.items():
        there = {value for script in SCRIPTS for value in fields(script)[field]}
        assert set(wanted) <= there, f"{field}: no script of {sorted(set(wanted) - there)}"


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_is_a_page(script: str) -> None:
    """A title, what it is of, cells of text and code that both sphinx-gallery and jupytext read, a checked figure."""
    text = SCRIPTS[script].read_text()
    title = (ast.get_docstring(ast.parse(text)) or "").splitlines()
    assert len(title[0]) == len(title[1])
    assert set(title[1]) == {"="}
    assert set(fields(script)) == {"Family", "Use", "Data"}
    assert text.startswith('# %% [markdown]\n"""\n')
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)[1:]
    assert len(cells) >= 6
    for cell in cells[1:]:  # the first is the docstring
        head, *lines = cell.rstrip("\n").split("\n")
        assert head in ("", " [markdown]")
        if head:
            assert all(line.startswith("# ") for line in lines), lines
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    assert any(isinstance(call.func, ast.Name) and call.func.id == "caption" for call in calls)
    assert "pyplot" not in text
    assert "NotBetterError" not in text
    assert not re.search(r"enable_progress_bar|enable_model_summary|warnings|environ", text)  # as a user writes it


def run(
    script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, held: bool = False
) -> tuple[list[Figure], list[str]]:
    """The figures with a caption of a script in its short form, and the warnings that it gave."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_TRAINER_MAX_STEPS", "3")
    monkeypatch.setenv("PL_TRAINER_ENABLE_PROGRESS_BAR", "False")
    monkeypatch.setenv("PL_TRAINER_ENABLE_MODEL_SUMMARY", "False")
    drawn: list[Figure] = []
    caption: Callable[..., Figure] = lightning_ae.figures.caption

    def noted(figure: Figure, *args: Any, **options: Any) -> Figure:
        drawn.append(figure)
        try:
            return caption(figure, *args, **options)
        except NotBetterError:
            if held:
                raise
            return figure

    monkeypatch.setattr(lightning_ae.figures, "caption", noted)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        runpy.run_path(str(SCRIPTS[script]), run_name="__main__")
    ours = [str(each.message) for each in seen if not issubclass(each.category, PREVENTED_BY_OTHERS)]
    return drawn, ours


PREVENTED_BY_OTHERS = (DeprecationWarning, FutureWarning, PendingDeprecationWarning, ResourceWarning, ImportWarning)
"""Of what packages call in each other."""


@pytest.mark.parametrize("script", [pytest.param(s, marks=[] if s in FAST else pytest.mark.slow) for s in SCRIPTS])
def test_it_runs(script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn, said = run(script, monkeypatch, tmp_path)
    assert drawn
    for figure in drawn:
        assert figure.caption is not None
        assert re.fullmatch(r".+: \S+.*, beside .+ \(.+\)", figure.caption)
        assert "nan" not in figure.caption
        assert figure._repr_html_()
    assert not [text for text in said if not CAUSED_BY_FEW_STEPS.search(text)]
    assert not any(tmp_path.iterdir())  # nothing is left where one stands


CAUSED_BY_FEW_STEPS = re.compile("did not converge|Liblinear failed|units are idle|batches?.* log_every_n_steps")


def test_a_model_that_learned_nothing_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As three steps are too few for a map of digits, its script ends where the build would."""
    with pytest.raises(NotBetterError, match=r"error of the five .*not lower than"):
        run("visualisation", monkeypatch, tmp_path, held=True)


def test_notebooks_have_the_cells_of_their_scripts() -> None:
    """And no outputs; `python docs/notebooks.py --check`, which needs the extra docs, compares every byte."""
    files = list((ROOT / "docs" / "notebooks").glob("*.ipynb"))
    assert len(files) == 3
    for file in files:
        script = (FOLDER / f"{file.stem}.py").read_text()
        cells = json.loads(file.read_text())["cells"]
        assert len(cells) == len(re.findall("^# %%", script, flags=re.MULTILINE))
        text = script.replace("\n# ", "\n")
        for cell in cells:
            source = "".join(cell["source"])
            there = script if cell["cell_type"] == "code" else text
            assert source in there, f"{source[:60]!r} of {file.name} is not in the script: python docs/notebooks.py"
            assert not cell.get("outputs")


@pytest.mark.slow
def test_notebooks_are_in_step_and_show_no_floods(tmp_path: Path) -> None:
    """Executed as a reader would: bars render, nothing warns, figures and their captions are there."""
    for package in ("jupytext", "nbclient", "ipykernel", "ipywidgets"):
        pytest.importorskip(package, reason='pip install "lightning_ae[docs]"')
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "notebooks.py"), "--check", "--run", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    executed = list(tmp_path.glob("*.ipynb"))
    assert len(executed) == 3
    for file in executed:
        assert "<figcaption>" in file.read_text()
