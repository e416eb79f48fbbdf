"""Published numbers beside ours.

    python benchmarks/reproduce.py --list
    python benchmarks/reproduce.py pca --data FOLDER        one row; without --data from the hub
    python benchmarks/reproduce.py all --data FOLDER        every row
    python benchmarks/reproduce.py iwae --epochs 3280       a row that comes in tiers, as long as the paper's
    python benchmarks/reproduce.py --table                  rewrite benchmarks/RESULTS.md from the results on file
    python benchmarks/reproduce.py --check                  fail where RESULTS.md is not what --table would write

Each row trains by the package's own classes, on the CPU or on a GPU where there is one, and writes what it measured,
with setting, seeds, versions and time, to benchmarks/results/<row>.json. What stands beside it, published or not, is
written beside its code (the files published_*.py), so that the table is made without training. Where the
setting is smaller than the paper's, the row says so.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import warnings
from dataclasses import asdict

import published_autoencoders  # noqa: F401  its rows
import published_bounds  # noqa: F401  its rows
import published_exact  # noqa: F401  its rows
import pytorch_lightning as pl
import torch
from published import HERE, RESULTS, ROWS, Asked, beside, shown, table
from rich.console import Console

import lightning_ae as ae


def measure(name: str, asked: Asked, console: Console) -> None:
    """Writes what a row has found each time that there is more."""
    row, start = ROWS[name], time.perf_counter()
    file = HERE / "results" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    seen: set[str] = set()
    for found in row.measure(asked):
        found.seconds += time.perf_counter() - start
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
        found.versions = {
            "lightning_ae": ae.__version__, "torch": torch.__version__, "pytorch-lightning": pl.__version__,
            "Python": platform.python_version(), "device": device,
        }  # fmt: skip
        if not seen:
            console.print(f"\n[bold]{row.title}[/]\n  {found.setting}; seeds {found.seeds}")
        for figure in row.figures:
            if figure.what in found.figures.keys() - seen:
                number = found.figures[figure.what]
                console.print(f"  {figure.what}: [bold]{shown(number)}[/]")
                console.print(f"    published: {figure.published or 'none'}   {beside(figure, number)}")
        seen = set(found.figures)
        new = file.with_suffix(".new")
        new.write_text(json.dumps(asdict(found), indent=2) + "\n")
        new.replace(file)
        RESULTS.write_text(table())
    console.print(f"  written to {file.relative_to(HERE.parent)} and benchmarks/RESULTS.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="?", choices=[*ROWS, "all"])
    parser.add_argument("--data", help="a folder with mnist/, fashion_mnist/ and frey_faces/; else from the hub")
    parser.add_argument("--epochs", type=int, default=Asked.epochs, help="of the rows that come in tiers")
    parser.add_argument("--keep", help="a folder of checkpoints, from which a longer tier goes on")
    parser.add_argument("--list", action="store_true", help="list the rows")
    parser.add_argument("--table", action="store_true", help="rewrite RESULTS.md")
    parser.add_argument("--check", action="store_true", help="fail where RESULTS.md is stale")
    args = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    if args.list:
        for name, row in ROWS.items():
            console.print(f"  {name:<18} {row.measure.__doc__}")
    for name in ROWS if args.row == "all" else [args.row] if args.row else []:
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        measure(name, Asked(args.data, args.epochs, args.keep), console)
    if args.table:
        RESULTS.write_text(table())
    if args.check and RESULTS.read_text() != table():
        sys.exit("benchmarks/RESULTS.md is stale: python benchmarks/reproduce.py --table")


if __name__ == "__main__":
    main()
