"""The README's blocks run as they stand, in order, in one folder; its tables are up to date."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lightning_ae.cli import main
from lightning_ae.models import table
from lightning_ae.recipes import FOLDERS, names

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CERTIFY = re.compile("lightning-ae certify")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def test_python_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = blocks("python")
    assert len(code) >= 3
    monkeypatch.chdir(tmp_path)
    # as one program, since the second block loads what the first one saved
    program = "\n".join([*code, "assert codes.shape == (16, 8)", "assert MyVAE(input_shape=(4,)).latent_dim == 16"])
    exec(compile(program, "README.md", "exec"), {"__name__": "readme"})


def commands() -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines() if line]


def run(command: str) -> None:
    program, *words = shlex.split(command)
    assert program == "lightning-ae"
    code: object = 0
    try:
        main(words)
    except SystemExit as ended:
        code = ended.code
    assert not code, command


def test_shell_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ours = [command for command in commands() if not CERTIFY.match(command)]
    assert len(ours) >= 9
    for command in ours:
        run(command)
    assert (tmp_path / "runs" / "readme" / "features" / "test.parquet").is_file()
    assert (tmp_path / "runs" / "readme" / "samples.png").is_file()


@pytest.mark.slow
def test_commands_that_start_processes() -> None:
    (command,) = filter(CERTIFY.match, commands())
    run(command)


def test_files_named_in_the_readme_exist() -> None:
    for path in re.findall(r"\]\(((?!https?:|#)[^)]+)\)", README):
        assert (ROOT / path).is_file(), path


def test_recipes_named_in_the_readme_exist() -> None:
    found = [name for kind in FOLDERS for name in names(kind)]
    named = re.findall(r"-c ([\w./-]+)", README)
    assert len(named) > 10
    assert set(named) <= {*found, "constraints.txt"}


def test_table_of_models_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["table", "--check"])
    table.main()
