"""Imports run one way, and names are imported when they are asked for."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lightning_ae
from lightning_ae import registry

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def drawing() -> Any:
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "docs" / "architecture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_room_has_its_place(drawing: Any) -> None:
    rooms, _ = drawing.house()
    assert sorted(rooms) == sorted(name for layer in drawing.LAYERS for name in layer)


def test_imports_run_one_way(drawing: Any) -> None:
    _, arrows = drawing.house()
    assert drawing.upward(arrows) == []
    assert drawing.upward({("exact", "models"): True}) == ["exact imports models"]  # it can fail


def test_every_public_name_is_there_and_typed() -> None:
    text = (ROOT / "lightning_ae" / "__init__.py").read_text()
    text = text.partition("if TYPE_CHECKING:")[2].partition("__version__")[0]
    for name in lightning_ae.__all__:
        assert getattr(lightning_ae, name).__name__ == name
        assert name in text  # for type checkers and editors
    assert registry.CLASSES.keys() <= set(lightning_ae.__all__)


WITHOUT_TORCH = [
    "--help", "--version", "fitt", "zoo list", "zoo info vae_mlp.digits_v1", "zoo info nope", "features --help",
    "sample --help", "certify --help", "rate-distortion --help", "cache --help", "features", "features no.ckpt --nope",
    "cache", "fit --help", "fit -c vae -c digits --help", "fit -c vea", "fit --model VEA",
    "fit -c vae --model.latent_dmi 8",
]  # fmt: skip


def test_help_lists_and_errors_answer_without_torch() -> None:
    program = f"""
import contextlib, io, sys
import lightning_ae
from lightning_ae.cli import main
lightning_ae.list_models()
for words in {WITHOUT_TORCH!r}:
    out, err = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with contextlib.suppress(SystemExit), out, err:
        main(words.split())
    found = [name for name in ("torch", "pytorch_lightning", "datasets") if name in sys.modules]
    assert not found, f"{{words}} imports {{found}}"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


OLD = """
model:
  class_path: lightning_ae.models.VAE
  init_args:
    input_shape: [1, 8, 8]
    likelihood: {class_path: lightning_ae.likelihoods.Bernoulli}
data: {class_path: lightning_ae.data.HFDataModule, init_args: {path: digits}}
"""


def test_a_recipe_of_an_earlier_version_names_classes_where_they_were(tmp_path: Path) -> None:
    from lightning_ae.cli.training import training_parser

    (tmp_path / "config.yaml").write_text(OLD)
    config = training_parser("fit").parse_args(["-c", str(tmp_path / "config.yaml")])
    assert config.model.class_path == "lightning_ae.VAE"
    assert config.model.init_args.likelihood.class_path == "lightning_ae.parts.Bernoulli"
