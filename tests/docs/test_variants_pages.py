"""The variants' pages: each class has its objective, its recipe and its pictures' code, each benchmark its classes."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT

from lightning_ae import get_model
from lightning_ae.registry import MODELS


def load(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def variants() -> Any:
    return load(ROOT / "docs" / "variants.py")


@pytest.mark.parametrize("name", MODELS)
def test_every_class_states_its_objective(name: str) -> None:
    text = get_model(name).__doc__ or ""
    assert ".. math::" in text.partition("Args:")[0]
    assert get_model(name).reference


@pytest.mark.parametrize("name", MODELS)
def test_every_class_has_a_page(name: str, variants: Any) -> None:
    page = variants.page(name, variants.picture_code(name), variants.sections())
    cls = get_model(name)
    assert page.startswith(f"# {cls.__name__}\n")
    assert f".. autoclass:: {cls.__name__}" in page
    for part in ("figure", cls.reference.rpartition(", ")[2], "Published numbers beside ours", "In the zoo"):
        assert part in page
    assert (ROOT / "recipes" / "models" / f"{name}.yaml").is_file()
    assert ("_samples.png" in page) == cls.generates


def test_every_published_row_is_on_a_page(variants: Any) -> None:
    rows = variants.sections()
    assert set(rows) == set(variants.PUBLISHED)
    assert {name for names in variants.PUBLISHED.values() for name in names} <= set(MODELS)
    assert "13.867" in variants.published("linear", rows)
    assert "No published number" in variants.published("joint_vae", rows)


def test_other_benchmarks_are_there(variants: Any) -> None:
    assert all((ROOT / "benchmarks" / f"{file}.md").is_file() for file in variants.MEASURED)
    assert {name for names in variants.MEASURED.values() for name in names} <= set(MODELS)
    assert set(variants.SETTINGS) <= set(MODELS)


def test_pictures_are_of_the_zoo_where_it_can_be(variants: Any) -> None:
    assert 'zoo.load("vae_mlp.digits_v1")' in variants.picture_code("vae")
    assert ".fit(model, data)" in variants.picture_code("iwae")


def test_a_picture_is_made_by_its_code(variants: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "FOLDER", tmp_path)
    variants.draw_here(["vae"])
    for file in ("vae.png", "vae_samples.png"):
        assert (tmp_path / file).read_bytes().startswith(b"\x89PNG")


def test_the_digest_is_of_code_alone(variants: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "ROOT", tmp_path)
    file = tmp_path / "lightning_ae" / "a.py"
    file.parent.mkdir()
    digests = []
    for text in ('"""One."""\nx = 1\n', '"""Two."""\n# a comment\nx = 1\n', '"""One."""\nx = 2\n'):
        file.write_text(text)
        digests.append(variants.code_digest())
    assert digests[0] == digests[1] != digests[2]


def test_the_house_is_drawn_and_what_is_not_known_is_refused() -> None:
    pytest.importorskip("sphinx")
    flowchart = load(ROOT / "docs" / "extensions" / "flowchart.py")
    (text,) = re.findall(
        r"^```mermaid\n(.*?)^```", (ROOT / "docs/architecture.md").read_text(), re.DOTALL | re.MULTILINE
    )
    rows, arrows = flowchart.read(text)
    drawn = flowchart.svg(text)
    assert drawn.count("<rect") == sum(map(len, rows))
    assert drawn.count('class="arrow"') == len(arrows)
    for wrong in ("flowchart TB\n  a ==> b\n", "flowchart TB\nsubgraph x\na\nend\na --> b\n"):
        with pytest.raises(ValueError, match="not known|no row"):
            flowchart.read(wrong)


def test_formulas_become_mathml_or_fail() -> None:
    pytest.importorskip("sphinx")
    pytest.importorskip("latex2mathml")
    mathml = load(ROOT / "docs" / "extensions" / "mathml.py").mathml
    assert "<mn>1</mn><mn>2</mn>" in mathml(r"\tfrac12 \sum_j x_j", block=True)
    assert "<mi>𝔼</mi>" in mathml(r"\mathbb E_q")
    assert "<mi>ℝ</mi>" in mathml(r"\mathbb R")
    assert ">log</mo><mi>p</mi>" in mathml(r"\log p")
    assert "‖" in mathml(r"\Big\| x \Big\|")
    for wrong in ("", r"\nosuchcommand x", r"\mathfrak g"):
        with pytest.raises(Exception, match="without content|unknown commands|do not draw"):
            mathml(wrong)


def test_signatures_are_those_of_constructors() -> None:
    pytest.importorskip("sphinx")
    signature = load(ROOT / "docs" / "extensions" / "docstrings.py").signature
    said, _ = signature(None, "class", "", get_model("beta_vae"), None, "(*args, **kwargs)", None)
    assert "latent_dim: int = 16" in said
    assert "capacity" in said
    assert "self" not in said


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("(B, *shape) to (B, *code)", r"(B, \*shape) to (B, \*code)"),
        ("*undercomplete* and |u|", r"*undercomplete* and \|u\|"),
        ("x_ or `x_` and `Module`s", "x\\_ or `x_` and `Module`\\ s"),
        (".. math:: a^*b |u|_F\n\n*.onnx", ".. math:: a^*b |u|_F\n\n\\*.onnx"),
    ],
)
def test_docstrings_are_taken_as_written(text: str, plain: str) -> None:
    pytest.importorskip("sphinx")
    assert load(ROOT / "docs" / "extensions" / "docstrings.py").plain(text) == plain
