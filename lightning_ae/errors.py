"""The one error this package raises for input it cannot use."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping


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


def unknown(
    kind: str, name: str, known: Iterable[str], most: int = 40, elsewhere: Mapping[str, str] | None = None
) -> InputError:
    """An `InputError` for a name that is not among those known, with the nearest ones suggested.

    Args:
        kind: what it is a name of.
        name: what was given.
        known: what there is.
        most: how many of them to list.
        elsewhere: what one may know them by, and what that is here.
    """
    names = sorted(known)
    others = elsewhere or {}
    near = list(dict.fromkeys(others.get(each, each) for each in nearest(name, [*names, *others])))
    shown = names[:most]
    hint = f"known: {', '.join(shown) or 'none'}{f' and {len(names) - most} more' if len(names) > most else ''}"
    if near:
        hint = f"did you mean {' or '.join(map(repr, near))}? {hint}"
    return InputError(f"unknown {kind} {name!r}", hint)


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three of those known that a misspelt name may mean, the likeliest first; far from all of them, none."""
    names = {_plain(each): each for each in reversed(list(known))}
    near = difflib.get_close_matches(_plain(name), names, n=3, cutoff=0.5)
    if not near:  # a part of a long name, "digts" of vae_mlp.digits_v1
        parts = {each: [part for part in re.split(r"[._]", each.lower()) if part] for each in names.values()}
        return [each for each, words in parts.items() if difflib.get_close_matches(name.lower(), words, 1, 0.75)][:3]
    best = difflib.SequenceMatcher(None, _plain(name), near[0]).ratio()
    return [names[each] for each in near if difflib.SequenceMatcher(None, _plain(name), each).ratio() > best - 0.05]


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
