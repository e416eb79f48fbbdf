"""The README's blocks run as they stand, in order, in one folder; its tables are up to date."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from lightning_ae.recipes import FOLDERS, names

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def test_python_blocks(tmp_path: Path) -> None:
    code = blocks("python")
    assert len(code) >= 3
    # as one program, since the second block loads what the first one saved
    program = "\n".join([*code, "assert codes.shape == (16, 8)", "assert MyVAE(input_shape=(4,)).latent_dim == 16"])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_shell_blocks(tmp_path: Path) -> None:
    commands = blocks("bash")
    assert commands
    done = subprocess.run(
        ["bash", "-euc", "\n".join(commands)], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "readme" / "features" / "test.parquet").is_file()
    assert (tmp_path / "runs" / "readme" / "samples.png").is_file()


def test_files_named_in_the_readme_exist() -> None:
    for path in re.findall(r"\]\(((?!https?:|#)[^)]+)\)", README):
        assert (ROOT / path).is_file(), path


def test_recipes_named_in_the_readme_exist() -> None:
    found = [name for kind in FOLDERS for name in names(kind)]
    named = re.findall(r"-c ([\w./-]+)", README)
    assert len(named) > 10
    assert set(named) <= {*found, "constraints.txt"}


def test_table_of_models_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, "-m", "lightning_ae.models.table", "--check"], cwd=ROOT)
    assert done.returncode == 0
