"""CSV files: how they are written, and what cannot be read in them, by line and column."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_info

from lightning_ae.data.signature import listed
from lightning_ae.errors import InputError

SEPARATORS = (",", ";", "\t", "|")
LOOKED_AT = 50  # lines by which a file's way of writing is told
_COMMA, _POINT = re.compile(r"[-+]?\d+,\d+"), re.compile(r"[-+]?\d*\.\d+")


def dialect(files: Sequence[Path]) -> dict[str, Any]:
    """The options by which `pandas.read_csv` reads these files; said where they are not the usual ones.

    Fields are separated as the file's ending says, where its first lines agree with that, else by the one of comma,
    semicolon, tab and bar that makes them agree. Decimals have commas where none has a point.

    Raises:
        InputError: when files are written in different ways, or a header names a column twice.
    """
    found: dict[str, Path] = {}
    commas = points = False
    for file in files:
        separator, rows = _separator(file)
        if twice := [name for i, name in enumerate(rows[0]) if name in rows[0][:i]] if rows else []:
            raise InputError(f"{str(file)!r} has the column {twice[0]!r} more than once", "rename them in its header")
        values = [value.strip() for row in rows[1:] for value in row]
        commas |= separator != "," and any(map(_COMMA.fullmatch, values))
        points |= any(map(_POINT.fullmatch, values))
        found.setdefault(separator, file)
    if len(found) > 1:
        (one, first), (other, second) = list(found.items())[:2]
        raise InputError(
            f"{first.name!r} is separated by {one!r}, and {second.name!r} by {other!r}", "write the files in one way"
        )
    for separator, file in found.items():
        decimal = "," if commas and not points else "."
        if separator != _usual(file) or decimal == ",":
            said = ", with decimal commas" if decimal == "," else ""
            rank_zero_info(f"{file.name!r} is read as separated by {separator!r}{said}")
        return {"sep": separator, "decimal": decimal}
    return {}


def check(files: Iterable[Path], separator: str) -> None:
    """Reads files through, which `pandas` fills up where rows are short, and shifts where they are long.

    Raises:
        InputError: naming the line of a row that has more or fewer values than the header, or is not text in UTF-8.
    """
    for file in files:
        _check(file, separator)


def _check(file: Path, separator: str) -> None:
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.reader(opened, delimiter=separator)
            names = next(reader, [])
            for fields in reader:
                if len(fields) != len(names) and fields:
                    raise InputError(
                        f"{file.name!r}: line {reader.line_num} has {len(fields)} values, where the header names "
                        f"{len(names)} columns: {listed(names)}",
                        "give every row as many values as the header names; a text that holds the separator stands in "
                        'double quotes: "a, b"',
                    )
    except UnicodeDecodeError as error:
        raise _no_text(file, separator) from error
    except csv.Error as error:
        raise InputError(f"{file.name!r}: line {reader.line_num} cannot be read: {error}") from error


def _separator(file: Path) -> tuple[str, list[list[str]]]:
    """What separates the values of a file, and its first rows."""
    with file.open(newline="", encoding="utf-8-sig", errors="replace") as opened:
        lines = list(islice(opened, LOOKED_AT))
    usual = _usual(file)
    rows = {each: _fields(lines, each) for each in (usual, *SEPARATORS)}
    widths = {each: {len(row) for row in fields} for each, fields in rows.items()}
    agree = [each for each, found in widths.items() if len(found) == 1 and found != {1}]
    separator = usual if usual in agree or not agree else max(agree, key=lambda each: len(rows[each][0]))
    return separator, rows[separator]


def _fields(lines: list[str], separator: str) -> list[list[str]]:
    try:
        return [row for row in csv.reader(lines, delimiter=separator) if row]
    except csv.Error:
        return []


def _usual(file: Path) -> str:
    return "\t" if file.suffix.lower() == ".tsv" else ","


def _no_text(file: Path, separator: str) -> InputError:
    names: list[str] = []
    with file.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            try:
                text = line.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                column = line[: error.start].count(separator.encode())
                where = f", column {names[column]!r}," if column < len(names) else ""
                encoding = "utf-16" if number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
                return InputError(
                    f"{file.name!r}: line {number}{where} holds {line[error.start : error.end]!r}, which is no text in "
                    "utf-8",
                    f"write it in UTF-8: iconv -f {encoding} -t utf-8, where that is its encoding",
                )
            names = names or next(csv.reader([text], delimiter=separator), [])
    return InputError(f"{file.name!r} is no text in utf-8")
