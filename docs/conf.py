"""The site, built by `make docs`; README.md beside this says what is used and why."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

from lightning_ae import __version__

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

import variants  # noqa: E402  beside this file
from extensions import included  # noqa: E402

project = "lightning_ae"
author = "lightning_ae developers"
copyright = author
version = release = __version__
repository = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["lightning_ae"]["repository"].rstrip("/")
"""The repository's address; while it is empty, whatever is made from it is left out."""

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "sphinx_design",
    "sphinx_copybutton",
    "extensions.docstrings",
    "extensions.flowchart",
    "extensions.included",
    "extensions.mathml",
    "extensions.references",
]
exclude_patterns = ["_build", "README.md", "gallery", "**.ipynb"]
templates_path: list[str] = []
nitpicky = True
nitpick_ignore_regex = [  # what other packages document; their indices would need a network
    (
        "py:.*",
        r"(~)?(torch|numpy|np|pandas|PIL|datasets|pytorch_lightning|pl|torchmetrics|sklearn|matplotlib|collections|"
        r"typing|pathlib|scipy|rich|pydantic|types|typing_extensions|pyarrow|pa|lightning_fabric|pooch|safetensors|jsonargparse|nn|F|os)(\..*)?",
    ),
    ("py:class", r"lightning_ae\..*\.([A-Z]|_\w+)|annotated_types\..*"),  # type variables, what is private
    ("py:.*", r"[A-Za-z_ ]+|.*[\[\]{}()'\",|:= ].*"),  # builtins, and what a signature says in words
]
default_role = "code"
suppress_warnings = ["config.cache", "myst.header"]  # what is included may begin at a lower level

myst_enable_extensions = ["dollarmath", "colon_fence", "attrs_inline", "deflist"]
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]

autodoc_member_order = "alphabetical"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False
napoleon_use_rtype = False

sphinx_gallery_conf = {
    "image_scrapers": ("matplotlib", "extensions.figures.scraper"),
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "filename_pattern": r".*\.py",
    "abort_on_example_error": True,
    "reset_modules": ("matplotlib",),
    "matplotlib_animations": True,
    "remove_config_comments": True,
    "min_reported_time": 0,
    "show_memory": False,
    "show_signature": False,
    "download_all_examples": False,
}

html_theme = "pydata_sphinx_theme"
html_title = "lightning_ae"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "use_edit_page_button": bool(repository),
    "navigation_with_keys": False,
    "show_prev_next": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc", "edit-this-page"] if repository else ["page-toc"],
    **({"github_url": repository} if repository else {}),
}
html_context = {"default_mode": "auto"}
if repository:
    host, owner, name = repository.rsplit("/", 2)
    html_context |= {"github_url": host, "github_user": owner, "github_repo": name}
    html_context |= {"github_version": "main", "doc_path": "docs"}
copybutton_prompt_text = "$ "

pages_of_files: dict[str, str] = {
    "README.md": "index",
    "CHANGELOG.md": "changelog",
    "zoo/README.md": "zoo",
    "recipes/README.md": "recipes",
    "recipes/launch/README.md": "howto/distributed",
    "docs/howto_weights.md": "howto_weights",
    "docs/architecture.md": "architecture",
    **included.pages(),
}
"""The page of the site that is made of a file."""
folders_of_pages: dict[str, str] = {
    "zoo": "zoo",
    "recipes": "recipes",
    "howto/distributed": "recipes/launch",
    "benchmarks/index": "benchmarks",
    **dict.fromkeys(included.pages().values(), "benchmarks"),
}
"""Where the files lie that pages include, from which their links lead."""


def leave_out_edit(app: object, page: str, template: str, context: dict[str, object], tree: object) -> None:
    """Pages that the build makes have no file to edit."""
    if page.partition("/")[0] in ("variants", "benchmarks", "auto_gallery"):
        context["page_source_suffix"] = ""


def setup(app: Any) -> None:
    """Makes the variants' pages before Sphinx looks for pages."""
    app.connect("builder-inited", lambda app: variants.write())
    app.connect("html-page-context", leave_out_edit)
