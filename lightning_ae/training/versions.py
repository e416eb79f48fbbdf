"""What a file says where it does not load because a later version of this package wrote it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from packaging.version import InvalidVersion, Version

from lightning_ae.errors import InputError


def of_later(version: Any) -> str:
    """What helps where a file that does not load was written by a later version than this; else nothing.

    Args:
        version: of this package, as the file says it; None where it does not.
    """
    from lightning_ae import __version__

    try:
        later = Version(str(version)) > Version(__version__)
    except InvalidVersion:
        return ""
    return (
        f"it was written by lightning_ae {version}, and this is {__version__}: pip install --upgrade lightning_ae"
        if later
        else ""
    )


@contextlib.contextmanager
def written_by(version: Any) -> Iterator[None]:
    """Refusals of what a file holds say so, where a later version of this package wrote it."""
    try:
        yield
    except InputError as error:
        if hint := of_later(version):
            raise InputError(error.message, hint) from error
        raise
