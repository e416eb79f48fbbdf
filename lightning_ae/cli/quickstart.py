"""quickstart: the first two minutes, with nothing but the installed package."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

RECIPES = ("vae", "fashion")


def quickstart(output: str | None = None, epochs: int | None = None, show: bool = True) -> Path:
    """Train a VAE on 6000 images of clothes that the package brings, and show what it learned.

    As `lightning-ae fit -c vae -c fashion`, then `reconstruct`, `sample` and `neighbours`, one after the other; needs
    no network, and some two minutes on two cores.

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
    app.run("fit", [*words, "--run_dir", str(run), *length])
    best, pictures = str(run / "checkpoints" / "best.ckpt"), run / "pictures"
    reconstruct(best, n=10, show=show, output=str(pictures / "test_reconstructions.png"))
    sample(best, n=100, show=show, output=str(pictures / "test_samples.png"))
    neighbours(best)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\nThe pictures are in {pictures}. Next, try")
    console.print(f"  lightning-ae features {best}\n  lightning-ae evaluate {best}\n  lightning-ae --help")
    return run
