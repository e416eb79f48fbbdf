"""From which score on a row counts as strange: plain data that a model's checkpoints carry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lightning_ae.errors import InputError


@dataclass(frozen=True)
class Threshold:
    """A quantile of the scores of rows that a model was not fitted to.

    Args:
        value: in nats; what scores more is strange.
        quantile: which, in (0, 1): the share of such rows that score less.
        rows: of how many rows.
        draws: of how many draws the scores are: those of others do not compare with it.
    """

    value: float
    quantile: float
    rows: int
    draws: int = 1

    def plain(self) -> dict[str, Any]:
        """Numbers by name, from which `from_plain` makes it again."""
        return asdict(self)

    @classmethod
    def from_plain(cls, value: Any) -> Threshold:
        """The threshold that plain data of a file describe.

        Raises:
            InputError: when they do not.
        """
        kinds = {"value": float, "quantile": float, "rows": int, "draws": int}
        if not isinstance(value, Mapping) or {name: type(each) for name, each in value.items()} != kinds:
            raise InputError(f"its threshold is not what it should be, but {value!r}", "the file is damaged")
        found = cls(**value)
        if not math.isfinite(found.value) or found.rows < 1 or found.draws < 1:
            raise InputError(f"its threshold is not what it should be, but {found}", "the file is damaged")
        check_quantile(found.quantile)
        return found


def check_quantile(quantile: float) -> None:
    """Raises InputError for what is no number between 0 and 1."""
    if isinstance(quantile, bool) or not isinstance(quantile, int | float) or not 0 < quantile < 1:
        raise InputError(f"quantile must lie in (0, 1), got {quantile!r}", "0.99 lets one of a hundred exceed it")
