"""The one error this package raises for input it cannot use."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something given by the user cannot be used.

    Args:
        message: What was given, by the name of the argument, and why it does not work.
        hint: What would work.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An `InputError` for a name that is not among those known, with the nearest one suggested."""
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.5)
    hint = f"known: {', '.join(names) or 'none'}"
    if near:
        match = next(n for n in names if n.lower() == near[0])
        hint = f"did you mean {match!r}? {hint}"
    return InputError(f"unknown {kind} {name!r}", hint)
