"""The README's blocks run as they stand, in order, in one folder; its tables are up to date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import ROOT, blocks, commands, run, run_page

from lightning_ae.models import table
from lightning_ae.recipes import FOLDERS, names

PAGE = ROOT / "README.md"
README = PAGE.read_text()
CERTIFY = re.compile("lightning-ae certify")


def test_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = blocks(PAGE)
    assert sum(block.language == "python" for block in found) >= 3
    assert sum(len(commands(block)) for block in found if block.language == "bash") >= 9
    names = run_page(PAGE, tmp_path, monkeypatch)
    assert names["codes"].shape == (16, 8)
    assert names["MyVAE"](input_shape=(4,)).latent_dim == 16
    assert (tmp_path / "runs" / "readme" / "features" / "test.parquet").is_file()
    assert (tmp_path / "runs" / "readme" / "samples.png").is_file()


@pytest.mark.slow
def test_commands_that_start_processes() -> None:
    every = [command for block in blocks(PAGE) if block.language == "bash" for command in commands(block)]
    (command,) = filter(CERTIFY.match, every)
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
