"""Where links lead: public names by the page that documents them, files of the repository by its address.

A link to a file of the repository leads to the page of the site that is made of it, or to the file at the repository's
address; while there is no address, it is plain text. One to a file that is not there is broken, and fails the build.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

ROOT = Path(__file__).parent.parent.parent


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement) -> nodes.Node | None:
    """The link of a name in the code that Sphinx does not find by itself; None leaves it broken."""
    return _name(app, env, node, content) if node.get("refdomain") == "py" else None


class Files(SphinxPostTransform):
    """Resolves links to files of the repository before myst-parser looks for pages, and leaves the others to it."""

    default_priority = 8

    def run(self, **options: Any) -> None:
        """Goes through a page's links."""
        for node in list(self.document.findall(pending_xref)):
            if node["reftype"] == "myst" and node["refdomain"] != "doc":
                found = _file(self.app, node, node[0].deepcopy())  # type: ignore[arg-type]
                if found is not None:
                    node.replace_self(found)


def _name(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement) -> nodes.Node | None:
    """A name of the package by the last part of its path: types in signatures say where a class is written."""
    target: str = node["reftarget"].removeprefix("~")
    objects = env.domains["py"].objects  # type: ignore[attr-defined]
    last = target.rpartition(".")[2]
    for name, entry in objects.items():
        if name.rpartition(".")[2] == last and name.startswith("lightning_ae.") and entry.objtype != "method":
            return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, name)
    return None


def _file(app: Sphinx, node: pending_xref, content: nodes.TextElement) -> nodes.Node | None:
    path, _, anchor = node["reftarget"].partition("#")
    written: dict[str, str] = app.config.pages_of_files
    for folder in (Path(app.srcdir, node["refdoc"]).parent, ROOT / app.config.folders_of_pages.get(node["refdoc"], "")):
        found = (folder / path).resolve()
        if not found.exists() or not found.is_relative_to(ROOT):
            continue
        place = found.relative_to(ROOT).as_posix()
        if place in written:
            return make_refnode(app.builder, node["refdoc"], written[place], anchor or None, content, place)
        if app.config.repository:
            kind = "tree" if found.is_dir() else "blob"
            address = f"{app.config.repository}/{kind}/main/{place}"
            return nodes.reference("", "", content, refuri=address, internal=False)
        return content
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    """Adds its settings and itself."""
    app.add_config_value("repository", "", "html", types=str)
    app.add_config_value("pages_of_files", {}, "env", types=dict)
    app.add_config_value("folders_of_pages", {}, "env", types=dict)
    app.connect("missing-reference", resolve)
    app.add_post_transform(Files)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
