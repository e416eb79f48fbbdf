"""Shows a script's figures on its page: those that a notebook would show, with their captions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from weakref import WeakSet

from sphinx_gallery.scrapers import figure_rst

from lightning_ae.figures import Figure

_shown: WeakSet[Figure] = WeakSet()


def scraper(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """The figure that is the last value of a block, once, for sphinx-gallery's `image_scrapers`."""
    figure = block_vars["example_globals"].get("___")  # what sphinx-gallery calls the value of a block's last line
    if not isinstance(figure, Figure) or figure in _shown:
        return ""
    _shown.add(figure)
    file = next(block_vars["image_path_iterator"])
    figure.savefig(file)
    if figure.caption is None:
        return figure_rst([file], gallery_conf["src_dir"])
    place = "/" + Path(file).relative_to(gallery_conf["src_dir"]).as_posix()
    words = re.sub(r"([\\*`|_])", r"\\\1", figure.caption)  # none of it is markup
    return f"\n.. figure:: {place}\n   :alt: {figure.caption}\n   :class: sphx-glr-single-img\n\n   {words}\n\n"
