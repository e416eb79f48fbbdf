"""Draws the house from its imports: `python docs/architecture.py [--check]` writes docs/architecture.md.

A folder or a file of lightning_ae/ is a room. An arrow says that one imports another when it is itself imported; what a
function imports when it is called is a dotted arrow, unless there is a plain one. Types alone are no arrow.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lightning_ae"
PAGE = ROOT / "docs" / "architecture.md"

LAYERS = (
    ("errors", "shapes", "files", "shards", "lazy", "signatures", "strict_yaml", "thresholds", "figures", "colours"),
    ("registry", "config", "recipes", "descriptions"),
    ("exact",),
    ("parts", "natural", "preprocess", "counts"),
    ("architectures", "data"),
    ("training",),
    ("evidence", "batches", "scores", "generation", "pretrained", "autoencoder"),
    ("models", "metrics", "samplers", "export", "estimator"),
    ("callbacks", "evaluation", "uses", "zoo", "report", "explore"),
    ("cli",),
)
"""From the ground up: a room imports those below it only, or its neighbours to the left."""


def room(module: str) -> str:
    """The room of a module lightning_ae.x.y."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """The modules of this package that a file imports, and whether it does so at once."""

    def visit(node: ast.AST, at_once: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.ImportFrom) and (child.module or "").startswith("lightning_ae"):
                if child.module == "lightning_ae":
                    yield from ((f"lightning_ae.{alias.name}", at_once) for alias in child.names)
                else:
                    yield child.module or "", at_once
            elif isinstance(child, ast.Import):
                yield from ((a.name, at_once) for a in child.names if a.name.startswith("lightning_ae."))
            inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from visit(child, at_once and not inner)

    return visit(tree, True)


def house() -> tuple[dict[str, list[Path]], dict[tuple[str, str], bool]]:
    """The files of each room, and which imports which: at once, or when a function is called."""
    rooms: dict[str, list[Path]] = {}
    arrows: dict[tuple[str, str], bool] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        place = file.relative_to(PACKAGE)
        name = place.parts[0].removesuffix(".py")
        if name == "__init__":
            continue
        rooms.setdefault(name, []).append(file)
        for module, at_once in imports(ast.parse(file.read_text())):
            target = room(module)
            if target and target != name and ((PACKAGE / target).is_dir() or (PACKAGE / f"{target}.py").is_file()):
                arrows[name, target] = arrows.get((name, target), False) or at_once
    return rooms, arrows


def upward(arrows: dict[tuple[str, str], bool]) -> list[str]:
    """The imports, at once, of a room that does not lie below."""
    height = {name: (level, place) for level, layer in enumerate(LAYERS) for place, name in enumerate(layer)}
    return [f"{a} imports {b}" for (a, b), at_once in sorted(arrows.items()) if at_once and height[b] >= height[a]]


def page() -> str:
    """The page as Markdown, with a drawing in Mermaid."""
    rooms, arrows = house()
    lines = [
        "# The house",
        "",
        "Made by `python docs/architecture.py` from the imports of the package, and checked by `make lint`.",
        "An arrow says that a room imports another when it is imported itself; dotted, when a function is called.",
        "A room imports only what lies below it: a test says so.",
        "",
        "```mermaid",
        "flowchart TB",
    ]
    for level, layer in reversed(list(enumerate(LAYERS))):
        lines.append(f"    subgraph layer{level}[ ]")
        lines += [f"        {name}" for name in layer]
        lines.append("    end")
    for (a, b), at_once in sorted(arrows.items()):
        if a not in LAYERS[0] and b not in LAYERS[0]:  # what everybody uses would hide the rest
            lines.append(f"    {a} {'-->' if at_once else '-.->'} {b}")
    lines += ["```", "", "`" + "`, `".join(LAYERS[0]) + "` are used by all, so their arrows are left out.", ""]
    lines += ["| room | file | what it holds |", "|---|---|---|"]
    for name in (name for layer in reversed(LAYERS) for name in layer):
        for i, file in enumerate(sorted(rooms[name], key=lambda file: (file.name != "__init__.py", file))):
            text = file.read_text()
            about = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
            place = file.relative_to(PACKAGE).as_posix()
            lines.append(f"| {f'**{name}**' if i == 0 else ''} | `{place}` | {about} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes the page; with --check, only says whether it is up to date."""
    fresh = page()
    if "--check" not in sys.argv:
        PAGE.write_text(fresh)
    elif not PAGE.is_file() or PAGE.read_text() != fresh:
        sys.exit("docs/architecture.md is out of date; run `make format`")


if __name__ == "__main__":
    main()
