"""The notebooks of the gallery, each paired with a script: `python docs/notebooks.py` writes docs/notebooks.

    python docs/notebooks.py --check              # says which are not in step with their scripts, and fails
    python docs/notebooks.py --run FOLDER         # executes them, and writes what they show there

A script is the source, and its notebook has no outputs. `jupytext --sync docs/notebooks/*.ipynb` keeps both in step
while one of them is edited. Needs the extra "docs".
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import jupytext
import nbformat

GALLERY = Path(__file__).parent / "gallery"
FOLDER = Path(__file__).parent / "notebooks"
NAMES = ("plot_visualisation", "plot_imputation", "plot_photographs")
PAIRED = {
    "formats": "notebooks//ipynb,gallery//py:percent",
    "cell_metadata_filter": "cell_marker,-all",
    "notebook_metadata_filter": "-all",
}
SECONDS = 600  # that a cell may take
LINES = 60
"""That a cell may print: of a bar that is written anew on a line of its own each time there are more."""


def notebook(name: str) -> Any:
    """What a script is as a notebook, the same each time."""
    found = jupytext.read(GALLERY / f"{name}.py", fmt="py:percent")
    for number, cell in enumerate(found.cells):
        cell["id"] = f"cell-{number}"
    found.metadata = nbformat.from_dict(
        {
            "jupytext": PAIRED,
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    found.nbformat, found.nbformat_minor = 4, 5
    nbformat.validate(found)
    return found


def executed(name: str, folder: Path) -> Any:
    """The notebook after a run in a folder, with what it shows.

    Raises:
        CellExecutionError: where a cell fails, a figure's number too (`lightning_ae.figures.caption`).
    """
    from nbclient import NotebookClient

    found = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    NotebookClient(found, timeout=SECONDS, resources={"metadata": {"path": str(folder)}}).execute()
    return found


def faults(found: Any) -> list[str]:
    """What an executed notebook shows that it should not: warnings, and bars that flood the page."""
    said = []
    for cell in found.cells:
        printed = "".join(
            output.get("text", "") for output in cell.get("outputs", ()) if output.output_type == "stream"
        )
        said += [line for line in printed.splitlines() if "Warning" in line or "IProgress" in line]
        if (lines := printed.count("\n") + printed.count("\r")) > LINES:
            said.append(f"{lines} lines below {cell.source.splitlines()[0]!r}")
    return said


def main() -> None:
    """Writes, checks or executes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where one is not in step")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="execute them, and write them there")
    args = parser.parse_args()

    FOLDER.mkdir(exist_ok=True)
    behind = []
    for name in NAMES:
        file, text = FOLDER / f"{name}.ipynb", nbformat.writes(notebook(name)) + "\n"
        if file.exists() and file.read_text() == text:
            continue
        behind.append(name)
        if not args.check:
            file.write_text(text)
            print(f"written: {file}")
    if args.check and behind:
        sys.exit(f"{', '.join(behind)} not in step with the scripts: python docs/notebooks.py")
    if args.run is None:
        return
    args.run.mkdir(parents=True, exist_ok=True)
    wrong = []
    for name in NAMES:
        began = time.monotonic()
        found = executed(name, args.run)
        nbformat.write(found, args.run / f"{name}.ipynb")
        wrong += [f"{name}: {each}" for each in faults(found)]
        print(f"executed: {args.run / name}.ipynb, {time.monotonic() - began:.0f} s")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
