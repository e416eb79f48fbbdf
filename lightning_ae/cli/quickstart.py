"""quickstart: the first two minutes, with nothing but the installed package."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

RECIPES = ("vae", "fashion")


def quickstart(output: str | None = None, epochs: int | None = None, show: bool = True) -> Path:
    """Train a VAE on 6000 images of clothes that the package brings, and show what it learned.

    As `lightning-ae fit -c vae -c fashion`, then `reconstruct`, `sample` and `neighbours`, one after the other; needs
    no network, and some two minutes on two cores. Ctrl-C says what is written by then, and what is left to do.

    Args:
        output: the run's folder, which must not exist yet (default: runs/quickstart-<date>-<time>).
        epochs: how long to train (default: what the recipe says).
        show: show the pictures in the terminal, too.

    Returns:
        The run's folder.

    Raises:
        InputError: when the folder exists, or cannot be written.
    """
    from lightning_ae.cli import app
    from lightning_ae.cli.tools import neighbours, reconstruct, sample
    from lightning_ae.errors import InputError

    if epochs is not None and epochs < 1:
        raise InputError(f"epochs must be positive, got {epochs}")
    run = Path(output) if output else Path("runs") / time.strftime("quickstart-%Y%m%d-%H%M%S")
    if run.exists():
        raise InputError(f"{run} exists", "name another folder: --output FOLDER")
    words = [word for recipe in RECIPES for word in ("-c", recipe)]
    length = [] if epochs is None else ["--trainer.max_epochs", str(epochs)]
    best, pictures = str(run / "checkpoints" / "best.ckpt"), run / "pictures"
    files = [str(pictures / f"test_{name}.png") for name in ("reconstructions", "samples")]
    steps: dict[str, Callable[[], Any]] = {
        "fit": lambda: app.run("fit", [*words, "--run_dir", str(run), *length]),
        "reconstruct": lambda: reconstruct(best, n=10, show=show, output=files[0]),
        "sample": lambda: sample(best, n=100, show=show, output=files[1]),
        "neighbours": lambda: neighbours(best),
    }
    for name, step in steps.items():
        try:
            step()
        except BaseException as end:
            if isinstance(end, KeyboardInterrupt) or app.interrupted():
                _say_where(name, steps, [str(run), best, *files])
            raise
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\nThe pictures are in {pictures}. Next, try")
    console.print(f"  lightning-ae features {best}\n  lightning-ae evaluate {best}\n  lightning-ae --help")
    return run


def _say_where(stopped: str, steps: Mapping[str, Any], files: list[str]) -> None:
    """Says in which step Ctrl-C came, what is there by then, and, where a model is, what makes the rest of it."""
    names, best = list(steps), files[1]
    place, there = names.index(stopped), [file for file in files if Path(file).exists()]
    lines = [f"\nquickstart stopped in {stopped}, step {place + 1} of {len(names)}"]
    lines += ["written so far:", *(f"  {file}" for file in there)] if there else ["nothing is written"]
    if place and best in there:
        lines += ["the rest of it:", *(f"  lightning-ae {name} {shlex.quote(best)}" for name in names[place:])]
    print("\n".join(lines), file=sys.stderr)
