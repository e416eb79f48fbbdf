"""Pages in Markdown whose blocks of code are run: README.md, and those of docs/."""

from __future__ import annotations

import re
import shlex
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

ROOT = Path(__file__).parent.parent
LANGUAGES = ("python", "bash")
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
STARTS_PROCESSES = re.compile(r"lightning-ae certify|.* -c (cpu2|ddp|fsdp)|torchrun")


@dataclass(frozen=True)
class Block:
    """A block of code of a page, and why it is not run, where a comment above it says so."""

    language: str
    text: str
    line: int
    why: str | None


def blocks(page: Path) -> list[Block]:
    """The blocks of Python and of commands, in order."""
    text = page.read_text()
    found = [
        Block(match["language"], match["text"], text.count("\n", 0, match.start("text")), match["why"])
        for match in BLOCK.finditer(text)
    ]
    return [block for block in found if block.language in LANGUAGES]


def commands(block: Block) -> list[str]:
    """The commands of a block."""
    return [line for line in block.text.splitlines() if line]


def run(command: str) -> None:
    """Runs a command by the package's own command line."""
    from lightning_ae.cli import main

    program, *words = shlex.split(command, comments=True)
    assert program == "lightning-ae", command
    code: object = 0
    try:
        main(words)
    except SystemExit as ended:
        code = ended.code
    assert not code, command


def run_page(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, steps: int | None = None) -> dict[str, Any]:
    """Runs a page's blocks in order, in a folder, and gives the names that its Python has set.

    Commands that start processes are left out; `test_readme.py` runs README's by itself.

    Args:
        page: the file.
        folder: where files are written.
        monkeypatch: undone when the test ends.
        steps: of each fit and validation at most; by default as many as the page says.
    """
    monkeypatch.chdir(folder)
    if steps is not None:
        shorten(monkeypatch, steps)
    module = types.ModuleType(f"page_{page.stem}")  # classes are pickled by name, and found again when loaded
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks(page):
        if block.why is not None:
            continue
        if block.language == "python":
            exec(compile("\n" * block.line + block.text, str(page), "exec"), vars(module))
        else:
            for command in commands(block):
                if not STARTS_PROCESSES.match(command):
                    run(command)
    return vars(module)


def shorten(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Cuts each fit short: one epoch of so many batches, and validation, too."""
    fit = pl.Trainer.fit

    def short(self: pl.Trainer, *args: Any, **options: Any) -> Any:
        self.fit_loop.max_epochs = 1
        self.limit_train_batches = self.limit_val_batches = steps
        return fit(self, *args, **options)

    monkeypatch.setattr(pl.Trainer, "fit", short)
