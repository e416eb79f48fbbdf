"""Whether the package installs and works with a Python: run this by the interpreter in question.

    python3.13 benchmarks/pythons.py [--write benchmarks/pythons.md]

Makes a virtual environment elsewhere, installs the wheel of this clone with the pinned versions, imports every module,
computes the numbers of a zoo entry again, and trains for an epoch. Needs nothing but the standard library; downloads.
What was found goes to a JSON file beside the page, a row a version; a version that has none was not run.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
ENTRY = "ae_mlp.digits_v1"
IMPORTS = """
import importlib, json, pkgutil, lightning_ae, torch, pytorch_lightning
assert "site-packages" in lightning_ae.__file__, lightning_ae.__file__
found = pkgutil.walk_packages(lightning_ae.__path__, "lightning_ae.")
names = sorted(module.name for module in found if "__main__" not in module.name)
missing = []
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:  # of an extra, which is named when it is asked for
        if error.name.startswith("lightning_ae"):
            raise
        missing.append(error.name)
print(json.dumps({"modules": len(names), "extras": sorted(set(missing)), "lightning_ae": lightning_ae.__version__,
                  "torch": torch.__version__, "pytorch-lightning": pytorch_lightning.__version__}))
"""


def checked(folder: Path) -> dict[str, object]:
    """What was found, of the interpreter that runs this.

    Raises:
        CalledProcessError: where a step fails, with what it said above.
    """
    python = folder / "env" / "bin" / "python"
    command = str(python.parent / "lightning-ae")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True)
    install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*install, "-c", str(ROOT / "constraints.txt"), str(ROOT)], check=True)
    said = subprocess.run([str(python), "-c", IMPORTS], check=True, cwd=folder, stdout=subprocess.PIPE, text=True)
    subprocess.run([command, "zoo", "verify", ENTRY], check=True, cwd=folder)
    fit = [command, "fit", "-c", "vae", "-c", "digits", "--trainer.max_epochs", "1", "--run_dir", "run"]
    subprocess.run(fit, check=True, cwd=folder)
    found: dict[str, object] = json.loads(said.stdout.splitlines()[-1])
    return {"python": platform.python_version(), **found}


def table(rows: dict[str, dict[str, object]]) -> str:
    """The page."""
    lines = [
        "# Versions of Python",
        "",
        "Made by `python benchmarks/pythons.py --write benchmarks/pythons.md`, run by each Python in turn: the wheel "
        "of a clone in an environment of its own, with the versions of `constraints.txt`; every module imported; the "
        f"numbers of `{ENTRY}` computed again; an epoch of `lightning-ae fit -c vae -c digits`. On pull requests a "
        "workflow runs it by all.",
        "",
        "| Python | lightning_ae | torch | pytorch-lightning | modules | verified, trained |",
        "|---|---|---|---|---|---|",
    ]
    for version in VERSIONS:
        row = rows.get(version)
        if row is None:
            lines.append(f"| {version} | | | | | not run for this page |")
        else:
            values = [row[key] for key in ("python", "lightning_ae", "torch", "pytorch-lightning", "modules")]
            lines.append("| " + " | ".join(map(str, values)) + " | yes |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="the page; what was found goes to a .json beside it")
    args = parser.parse_args()
    version = ".".join(platform.python_version_tuple()[:2])
    with tempfile.TemporaryDirectory() as folder:
        found = checked(Path(folder))
    print(json.dumps(found))
    if args.write:
        known = args.write.with_suffix(".json")
        rows = json.loads(known.read_text()) if known.exists() else {}
        rows[version] = found
        known.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")
        args.write.write_text(table(rows))


if __name__ == "__main__":
    main()
