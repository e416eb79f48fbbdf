"""The links of the package's page, made of one setting: `repository` of [tool.lightning_ae] in pyproject.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class Links(MetadataHookInterface):
    """Fills in `urls`; while the setting is empty there are none."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling, with the [project] table."""
        settings = tomllib.loads((Path(self.root) / "pyproject.toml").read_text())
        metadata["urls"] = links(settings["tool"]["lightning_ae"]["repository"])


def links(repository: str) -> dict[str, str]:
    """What a package index shows beside the package, of the address of the repository."""
    if not repository:
        return {}
    home = repository.rstrip("/")
    return {"Repository": home, "Issues": f"{home}/issues", "Changelog": f"{home}/blob/main/CHANGELOG.md"}
