"""The columns that a model is given besides its input, as numbers beside each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from lightning_ae.config import from_plain
from lightning_ae.data.columns import is_text
from lightning_ae.data.decoding import decode_rows
from lightning_ae.data.kinds import Kind, Tabular
from lightning_ae.data.kinds.tabular import named, numbered
from lightning_ae.data.labels import texts
from lightning_ae.data.signature import Column, Signature
from lightning_ae.errors import InputError
from lightning_ae.natural import MISSING

if TYPE_CHECKING:
    from collections.abc import Sequence

CONDITION = "condition"


@dataclass(frozen=True)
class Conditions(Tabular):
    """Columns as of `Tabular`, of which texts, booleans and declared classes are categories, and others if named so.

    A row holds the number of a class, and other numbers scaled as of the input; what is missing is NaN, of classes too.
    """

    missing: Literal["refused", "masked"] = "masked"

    @classmethod
    def of(cls, columns: Any) -> Conditions:
        """Of the names of columns, or a `Tabular` that says how they are read.

        Raises:
            InputError: when it is neither.
        """
        if isinstance(columns, str):
            raise InputError(f"condition must be names of columns, got {columns!r}", f"condition=[{columns!r}]")
        if isinstance(columns, list | tuple):
            return cls(columns=tuple(map(str, columns)))
        kind = from_plain(Kind, columns, CONDITION)
        if not isinstance(kind, Tabular) or not kind.columns:
            raise InputError(
                f"condition must be names of columns, or Tabular(columns=[...]) that says how they are read, got {kind}"
            )
        return cls(columns=kind.columns, scaling=kind.scaling, categories=kind.categories)

    def _classes_of(self, rows: Any, label: str | None, streaming: bool) -> dict[str, tuple[str, ...]] | None:
        own = [name for name in self.columns or () if is_text(feature := rows.features[name]) or
               getattr(feature, "dtype", "") == "bool"]  # fmt: skip
        more = () if self.categories is None or isinstance(self.categories, str) else tuple(self.categories)
        stated = self.categories if isinstance(self.categories, dict) else {}
        found = replace(self, categories=tuple(dict.fromkeys((*own, *more))))
        classes = Tabular._classes_of(found, rows, None, streaming) or {}
        return {
            name: tuple(each for each in one if each != MISSING) for name, one in (classes | stated).items()
        } or None

    def decode(self, rows: pa.Table, columns: list[str], split: str, first: int) -> np.ndarray:
        """(N, columns), float64."""
        found = []
        for column in columns:
            if column not in self.classes:
                one = replace(self, scaling="standard", categories=None)
                found.append(Tabular.decode(one, rows, [column], split, first).astype(np.float64))
                continue
            values = texts(named(rows[column], self._declared[column]) if column in self._declared else rows[column])
            where = f"condition {column!r} of split {split!r}"
            classes = self.classes[column]
            at = numbered(values.fill_null(classes[0]), classes, where, first).astype(np.float64)
            at[pc.is_null(values).to_numpy()] = np.nan
            found.append(at[:, None])
        return np.concatenate(found, axis=1)

    def described(self, columns: list[Column], first: pa.Table) -> list[Column]:
        """The columns with the classes of categories; what is missing stays so."""
        return [replace(column, missing="masked") for column in super().described(columns, first)]


@dataclass(frozen=True)
class Given:
    """Reads the condition of rows as a model takes it.

    Args:
        name: of the entry of batches.
        kind: how its columns are read.
        signature: its columns, with their statistics.
        split: the data set's own, for errors.
    """

    name: str
    kind: Tabular
    signature: Signature
    split: str

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in order."""
        return self.signature.names

    def __call__(self, rows: pa.Table, numbers: Sequence[int]) -> Tensor:
        """(N, columns), float32, NaN where a value is missing; `numbers` are the data set's own of the rows.

        Raises:
            InputError: naming row, column and value of a class that is not known.
        """
        return self.signature.preprocess(
            torch.from_numpy(decode_rows(self.kind, rows, self.columns, self.split, numbers))
        )
