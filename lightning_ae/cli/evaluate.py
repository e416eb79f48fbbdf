"""evaluate: all that can be said of trained models, in one table and one picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from lightning_ae.errors import InputError

if TYPE_CHECKING:
    from lightning_ae.evaluation import Evaluation

FILES = ("evaluation.json", "evaluation.md", "evaluation.png")


def evaluate(
    checkpoints: Sequence[str],
    path: str | None = None,
    rows: int = 10_000,
    draws: int = 100,
    seed: int = 0,
    output: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> list[Path]:
    """Measure all that applies to a trained model, or to several side by side: a table, JSON and one picture.

    How near reconstructions are; how likely the data are to the model, by importance sampling where it draws codes;
    how many values of the code are in use, and how well they tell classes apart, beside raw inputs and principal
    components; how well they tell the factors apart that data were made of, where these are known; and how good samples
    are, beside held-out rows. What does not apply is left out, and why is said. Of one model the numbers and the
    picture are also added to its run's TensorBoard log, where it has one.

    Args:
        checkpoints: one or more checkpoints, or names of zoo entries: evaluate A B C.
        path: the data set: a hub id, a local folder or file, "digits", "fashion" or "sprites" (default: what each model
            was trained on).
        rows: how many rows of the training and of the test split are looked at, at most; drawn by seed.
        draws: how many importance samples the evidence takes of each row.
        seed: of all draws.
        output: the folder to write to (default: "evaluation" beside the folder of the checkpoint; of several, here).
        device: cpu, cuda, mps, or auto for the fastest there is.
        overwrite: replace files that exist.

    Returns:
        The files: JSON, the table as Markdown, and the picture.

    Raises:
        InputError: when a file exists, or the data cannot be read.
    """
    from lightning_ae.cli import tools

    tools.check_models(checkpoints)
    tools.check_positive(rows=rows)
    if draws < 2:
        raise InputError(f"draws must be a whole number from 2 on, got {draws}")
    from lightning_ae import evaluation
    from lightning_ae.cli import trained, written
    from lightning_ae.files import whole_file

    one = len(checkpoints) == 1
    folder = Path(output) if output else (written.beside(checkpoints[0]) if one else Path()) / "evaluation"
    files = [folder / name for name in FILES]
    written.check_free(files, overwrite)
    found, seen = [], []
    for checkpoint in checkpoints:
        model = trained.load(checkpoint, device)
        data = trained.data_of(model, checkpoint, path)
        data.prepare_data()
        each, shown = evaluation.evaluate(model, data, checkpoint, rows=rows, draws=draws, seed=seed)
        found.append(each)
        seen.append(shown)
    figure = evaluation.sheet(seen)
    texts = {
        files[0]: json.dumps([each.plain() for each in found], indent=2, allow_nan=False) + "\n",
        files[1]: evaluation.markdown(found),
    }
    for file, text in texts.items():
        with whole_file(file, overwrite) as part:
            part.write_text(text)
    with whole_file(files[2], overwrite) as part:
        figure.savefig(part)
    log = written.log_beside(checkpoints[0], found[0].logged(), {"evaluation": figure}) if one and not path else None
    _print(found)
    console = Console(highlight=False, soft_wrap=True)
    console.print("[bold]Written[/]")
    for file in files:
        console.print(f"  {file}")
    if log is not None:
        console.print(f"  {log}  (added to what is there)")
    return files


def _print(found: Sequence[Evaluation]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from lightning_ae import evaluation

    lines = Table("", *(escape(each.model) for each in found))
    lines.columns[0].no_wrap = True
    for column in lines.columns[1:]:
        column.justify = "right"
    side = ""
    for row in evaluation.table(found):
        if row.side != side:
            side = row.side
            lines.add_section()
            lines.add_row(f"[bold]{side}[/]")
        cells = [f"[bold]{cell}[/]" if best else cell for cell, best in zip(row.cells, row.best, strict=True)]
        lines.add_row(f"  {row.name}", *cells)
    console = Console(highlight=False)
    console.print(lines)
    for each in found:
        for side, why in each.left_out.items():
            console.print(f"{escape(each.model)}: no {side}: {escape(why)}", soft_wrap=True)
