"""Whether files of tables have the same columns, of the same types."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
from pyarrow import parquet, types

from lightning_ae.data.signature import listed
from lightning_ae.errors import InputError

ROWS = 10_000  # of a CSV file, of which `datasets` makes types at a time


def make_alike(builder: Any, files: Iterable[str]) -> bool:
    """Whether whole numbers in one place and decimals in another kept `datasets` from reading tables as one, and will
    no more: it takes the types of a file's first rows for those of all.

    What else differs is refused; what it says itself of that names neither file nor column. A column may be missing in
    later files, where it has no values then.

    Args:
        builder: of `datasets`, which reads the files.
        files: of parquet and Arrow the outlines are looked at, of CSV all rows, of others nothing.

    Raises:
        InputError: naming file, row, column and both types.
    """
    from datasets import Features

    wanted: dict[str, pa.DataType] = {}
    before, moved = "", False
    for file in files:
        name = os.path.basename(file)
        for row, table in _outlines(builder, file):
            found = dict(zip(table.schema.names, table.schema.types, strict=True))
            if not wanted:
                wanted, before = found, name
            if new := [each for each in found if each not in wanted]:
                raise InputError(
                    f"{name!r} has the columns {listed(new)}, which {before!r} has not: it has {listed(list(wanted))}",
                    "give all files the same columns, or each kind a folder of its own",
                )
            for column, type_ in found.items():
                if types.is_integer(wanted[column]) and types.is_floating(type_) or types.is_null(wanted[column]):
                    moved |= wanted[column] != type_
                    wanted[column] = type_
                if not _alike(type_, wanted[column]):
                    at = row + _first_unlike(table[column], wanted[column])
                    raise InputError(
                        f"column {column!r} is {type_} in {name!r} (from row {at}), and {wanted[column]} in {before!r}",
                        "bring it to one type in all of the data",
                    )
    if moved:
        features = Features.from_arrow_schema(pa.schema(wanted))
        builder.config.features = builder.info.features = features
    return moved


def _outlines(builder: Any, file: str) -> Iterator[tuple[int, pa.Table]]:
    """Tables of a file's columns, each with the number of its first row; of some formats without rows."""
    if builder.name == "parquet":
        yield 0, parquet.read_schema(file).empty_table()
    elif builder.name == "arrow":
        with pa.memory_map(file) as mapped:
            try:
                yield 0, pa.ipc.open_stream(mapped).schema.empty_table()
            except pa.ArrowInvalid:
                yield 0, pa.ipc.open_file(mapped).schema.empty_table()
    elif builder.name == "csv":
        import pandas as pd  # type: ignore[import-untyped]

        options = builder.config.pd_read_csv_kwargs | {"iterator": True, "chunksize": ROWS}
        for i, frame in enumerate(pd.read_csv(file, **options)):
            yield i * ROWS, pa.Table.from_pandas(frame, preserve_index=False)


def _alike(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of one type can be read as another."""
    numbers = all(types.is_integer(each) or types.is_floating(each) for each in (found, wanted))
    if numbers:
        return types.is_floating(wanted) or types.is_integer(found)
    texts = all(types.is_string(each) or types.is_large_string(each) for each in (found, wanted))
    return found == wanted or types.is_null(found) or texts


def _first_unlike(values: pa.ChunkedArray, wanted: pa.DataType) -> int:
    """The first of these values that is none of a type, where they are texts or numbers."""
    for i, value in enumerate(values.to_pylist()):
        try:
            if value is not None:
                pa.scalar(value).cast(wanted)
        except pa.ArrowInvalid:
            return i
    return 0
