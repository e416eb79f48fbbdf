"""report: a page about a trained model and its run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lightning_ae.errors import InputError

FILE = "report.html"


def report(
    checkpoint: str,
    path: str | None = None,
    rows: int | None = None,
    full: bool = False,
    seed: int = 0,
    output: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Write one page of HTML about a trained model and its run, which needs no other file and no network.

    What was trained on what; the curves of every term; numbers beside baselines; the best and the worst
    reconstructions; samples; the map of codes; traversals as sliders; the units in use; the configuration, and how to
    load the model. What does not apply is left out, and why is said. `fit` writes the same at its end; see its option
    --report.

    Args:
        checkpoint: a run's folder, a checkpoint, or the name of a zoo entry.
        path: the data set: a hub id, a local folder or file, "digits", "fashion" or "sprites" (default: what the model
            was trained on).
        rows: how many rows of the training and of the test split are looked at, at most; drawn by seed (default: 1000,
            and fewer of rows with more than 8192 values).
        full: measure what takes longer, too: the evidence, the factors, how good samples are.
        seed: of all draws.
        output: the file to write (default: "report.html" in the run's folder, or beside the checkpoint).
        device: cpu, cuda, mps, or auto for the fastest there is.
        overwrite: replace a file that exists.

    Returns:
        The file.

    Raises:
        InputError: when the file exists or cannot be written, the run has no checkpoint, the model is no autoencoder,
            or the extra "report" is not installed.
    """
    from lightning_ae.cli import tools, written
    from lightning_ae.report import check_extra, find_run

    tools.check_model(checkpoint)
    tools.check_positive(**({} if rows is None else {"rows": rows}))
    check_extra()
    run = find_run(checkpoint)
    folder = run.folder if run.folder is not None else written.beside(checkpoint)
    file = Path(output) if output else folder / FILE
    written.check_free([file], overwrite)
    page = _page(run, path, rows, full, seed, device)
    page.write(file, overwrite)
    console = Console(highlight=False, soft_wrap=True)
    for name, why in page.left_out.items():
        console.print(f"left out: {name}: {why}", markup=False)
    console.print("[bold]Written[/]")
    console.print(f"  {file}  ({file.stat().st_size / 2**20:.1f} MB)", markup=False)
    return file


def _page(run: Any, path: str | None, rows: int | None, full: bool, seed: int, device: str) -> Any:
    from pytorch_lightning.utilities import rank_zero_warn

    from lightning_ae.cli import trained
    from lightning_ae.report import report_of

    model = trained.load(run.checkpoint, device)
    data = None
    try:
        data = trained.data_of(model, run.checkpoint, path)
        data.prepare_data()
    except InputError as reason:
        if path is not None:
            raise
        data = None
        rank_zero_warn(f"the page is without data: {reason.message}")
    title = f"{type(model).__name__} on {_name(data)}" if data is not None else type(model).__name__
    return report_of(model, data, run=run, title=title, rows=rows, seed=seed, full=full)


def _name(data: Any) -> str:
    return Path(data.path).name if isinstance(data.path, str) else type(data.path).__name__


def at_the_end(run_dir: Path, best: str, loggers: Sequence[Any], step: int) -> Path | None:
    """The page of a fit that has just ended, in its folder and in its loggers; or None, and why is said.

    Args:
        run_dir: the run's folder.
        best: the best checkpoint, or "".
        loggers: those of the fit.
        step: at which it ended.
    """
    from dataclasses import replace

    from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

    from lightning_ae.report import check_extra, find_run
    from lightning_ae.report.loggers import log

    try:
        check_extra()
    except InputError as reason:
        rank_zero_info(f"no report is written: {reason.message} ({reason.hint}); --report false says no more of it")
        return None
    try:
        run = find_run(run_dir)
        run = replace(run, checkpoint=best) if best and Path(best).is_file() else run
        page = _page(run, None, None, False, 0, "auto")
        file: Path = page.write(run_dir / FILE, overwrite=True)
        log(page, file, loggers, step)
        return file
    except Exception as reason:  # whatever it is, the run has come to its end, and is whole
        why = reason.message if isinstance(reason, InputError) else f"{type(reason).__name__}: {reason}"
        rank_zero_warn(
            f"no report is written: {why}. The run is complete; `lightning-ae report {run_dir}` tries again, and "
            "--report false leaves it out"
        )
        return None
