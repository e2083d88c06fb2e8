"""What a CSV says about media files: reading it, choosing rows, and finding the file that each row is about.

A row names its file in one column, the key column, as the path inside the source with or without extension
or, where only one file has it, as the bare name with or without extension. A value with a folder in it is
never matched by its bare name: "test/1.jpg" is not "train/1.jpg".
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from headrace.errors import UserError, did_you_mean

Value: TypeAlias = "str | int | float | None"
Row: TypeAlias = dict[str, str]

_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
_DECIMAL = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d+)?([eE][+-]?\d{1,2})?")
_PROBED_ROWS = 1000


@dataclass(frozen=True)
class Table:
    """The rows of a CSV as text, and the type that each column has over all of them."""

    path: Path
    rows: list[Row]
    types: dict[str, type[int] | type[float] | type[str]]

    def values(self, row: Row) -> dict[str, Value]:
        """Return a row with its numbers as numbers. An empty field is None."""
        return {name: self.types[name](text) if text else None for name, text in row.items()}

    def require(self, column: str) -> None:
        """Raise a UserError if there is no such column."""
        if column not in self.types:
            raise UserError(f"{self.path} has no column {column!r}; {did_you_mean(column, self.types)}")


@dataclass(frozen=True)
class Join:
    """Which row is about which file.

    Attributes:
        key_column: the column that names the files.
        rows: the row of each file that has one, by the file's path.
        without_file: what the other rows have in the key column.
    """

    key_column: str
    rows: dict[str, Row]
    without_file: list[str]


def read_table(path: Path) -> Table:
    """Read a CSV with a header, in UTF-8. Columns without a name (an index that pandas wrote) are left out.

    A column holds integers or decimals if every field of it that is not empty is one in its plain form;
    "0012" is text. The type is that of the whole file, so that all shards made of it agree.

    Raises:
        UserError: the file is missing or no such table; the message names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            rows = [_checked(fields, header, path, reader.line_num) for fields in reader if fields]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV in UTF-8: {error}") from error
    repeated = [name for name, count in Counter(header).items() if count > 1 and name]
    if repeated or not any(header):
        problem = f"names the column {repeated[0]!r} twice" if repeated else "has no header"
        raise UserError(f"{path} {problem}; the first line must name each column once")
    return Table(path, rows, {name: _type_of(row[name] for row in rows) for name in header if name})


def filter_rows(table: Table, where: Sequence[str]) -> list[Row]:
    """Return the rows that satisfy every condition, each a COLUMN=VALUE compared as text.

    Raises:
        UserError: a condition is malformed, its column unknown, or no row is left.
    """
    rows = table.rows
    for condition in where:
        column, equals, value = condition.partition("=")
        if not equals:
            raise UserError(f"--where takes COLUMN=VALUE, got {condition!r}")
        table.require(column)
        kept = [row for row in rows if row[column].strip() == value]
        if not kept:
            common = [repr(text) for text, _ in Counter(row[column] for row in rows).most_common(5)]
            raise UserError(f"--where {condition} leaves no row of {table.path}; there is {', '.join(common)}")
        rows = kept
    if not rows:
        raise UserError(f"{table.path} has a header but no rows")
    return rows


def join_rows(table: Table, rows: Sequence[Row], paths: Iterable[str], key_column: str | None = None) -> Join:
    """Find the file of each row.

    Args:
        table: where the rows come from.
        rows: those to be joined.
        paths: of all files in the source.
        key_column: names the files; without it the column that fits the most files.

    Raises:
        UserError: a row fits several files, a file several rows, no row any file, or two columns fit equally.
    """
    names = _Names(paths)
    if key_column is None:
        key_column = _guess_key_column(table, rows, names)
    table.require(key_column)

    joined: dict[str, Row] = {}
    without_file: list[str] = []
    for row in rows:
        found = names.find(row[key_column])
        if len(found) > 1:
            raise UserError(
                f"{key_column}={row[key_column]!r} in {table.path} fits {len(found)} files ({found[0]}, "
                f"{found[1]}, ...); the key column must hold paths that tell them apart"
            )
        if not found:
            without_file.append(row[key_column])
        elif found[0] in joined:
            raise UserError(f"two rows of {table.path} are about {found[0]}; keep one, or choose rows with --where")
        else:
            joined[found[0]] = row
    if not joined:
        raise UserError(
            f"no row of {table.path} names a file: its {key_column} is like {rows[0][key_column]!r}, "
            f"the files are like {names.example!r}; choose another --key-column or start from another folder"
        )
    return Join(key_column, joined, without_file)


class _Names:
    """The files under all names that a row may call them by; the more exact name comes first."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.example = ""
        self._files_by: tuple[dict[str, list[str]], ...] = ({}, {}, {}, {})
        for path in paths:
            plain = _plain(path)
            name = plain.rpartition("/")[2]
            self.example = self.example or plain
            aliases = (plain, plain.rpartition(".")[0], name, name.rpartition(".")[0])
            for files, alias in zip(self._files_by, aliases, strict=True):
                files.setdefault(alias, []).append(path)

    def find(self, value: str) -> Sequence[str]:
        """Return the files that a value of the key column may mean."""
        value = _plain(value)
        return next((files[value] for files in self._files_by if value in files), ())


def _guess_key_column(table: Table, rows: Sequence[Row], names: _Names) -> str:
    probed = rows[:: max(1, len(rows) // _PROBED_ROWS)]
    fits: dict[str, tuple[int, int]] = {}  # rows that fit one file, and rows that fit any
    for name in table.types:
        found = [len(names.find(row[name])) for row in probed]
        fits[name] = found.count(1), len(found) - found.count(0)
    best = max(fits.values())
    winners = [name for name, count in fits.items() if count == best]
    if best == (0, 0):
        raise UserError(
            f"no column of {table.path} names the files (they are like {names.example!r}); its columns are "
            f"{', '.join(table.types)}: give --key-column, or start from the folder that its paths begin in"
        )
    if len(winners) > 1:
        raise UserError(f"both {winners[0]!r} and {winners[1]!r} name the files; give one as --key-column")
    return winners[0]


def _plain(path: str) -> str:
    return path.strip().replace("\\", "/").removeprefix("./").lstrip("/")


def _checked(fields: list[str], header: list[str], path: Path, line: int) -> Row:
    if len(fields) != len(header):
        raise UserError(f"line {line} of {path} has {len(fields)} fields, the header {len(header)}")
    return {name: field for name, field in zip(header, fields, strict=True) if name}


def _type_of(fields: Iterable[str]) -> type[int] | type[float] | type[str]:
    filled = [field for field in fields if field]
    if not filled:
        return str
    if all(_INTEGER.fullmatch(field) for field in filled):
        return int
    return float if all(_DECIMAL.fullmatch(field) for field in filled) else str
