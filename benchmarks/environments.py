"""Environments of their own for peers, which pin against each other."""

from __future__ import annotations

import os
import subprocess
import venv
from pathlib import Path

HERE = Path(__file__).parent


def environment(folder: Path, requirements: str, *further: str) -> str:
    """The Python of an environment, made in a folder where it is not there.

    Args:
        folder: where it lies.
        requirements: the file beside this one that says what is in it.
        further: words for pip.
    """
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    ready = folder / ".ready"
    if not ready.exists():
        print(f"Installing {requirements} into {folder} (once; some minutes)", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        wanted = ["-c", str(HERE.parent / "constraints.txt"), "-r", str(HERE / requirements)]
        subprocess.run([*pip, *wanted, *further], check=True)
        ready.touch()
    return str(python)
