"""What the rows of a Parquet file are: which column holds the media, what the other columns say of them.

    image: struct<bytes, path>   ->   the sample, its path
    label: int64                 ->   its label, by the name that the data set's features give to the number
    any other scalar             ->   its metadata

Hugging Face writes the features as JSON into the schema's metadata, under "huggingface"; without them a column's Arrow
type decides.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from headrace.data import storage
from headrace.data.failures import SampleError, Truncated
from headrace.data.media import media_kind
from headrace.data.parquet import open_table, values_of
from headrace.data.storage import ByteRange
from headrace.errors import UserError, did_you_mean

SUFFIXES = (".parquet", ".pq")

_BATCH_ROWS = 16
_SEARCHED_BYTES = 512 << 20  # a chunk of a column that is larger is not looked through
_HEADS = {
    b"\xff\xd8\xff": "jpg",
    b"\x89PNG": "png",
    b"BM": "bmp",
    b"GIF8": "gif",
    b"II*\0": "tif",
    b"MM\0*": "tif",
    b"\x1aE\xdf\xa3": "mkv",
    b"FLV\x01": "flv",
    b"OggS": "ogv",
    b"\0\0\x01\xba": "mpg",
    b"G": "ts",
}
_RIFF = {b"WEBP": "webp", b"AVI ": "avi"}


@dataclass(frozen=True)
class Cell:
    """A sample in a Parquet file.

    Attributes:
        row: its number in the file.
        where: its bytes.
        data: the same, read.
        extension: what its path, or else its first bytes, claim that it is.
        label, metadata: what the other columns say of it.
        reason, problem: why it cannot be used: a few stable words, and a sentence.
    """

    row: int
    where: ByteRange
    data: bytes = b""
    extension: str = "bin"
    label: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None
    problem: str | None = None


def holds_only_tables(source: str) -> bool:
    """Say whether a source is, or holds, Parquet files, and no other media; false where nothing is."""
    if not storage.is_remote(source) and not Path(source).exists():
        return False
    names = [file.path.lower() for file in storage.list_files(source)]
    return any(name.endswith(SUFFIXES) for name in names) and not any(media_kind(name) for name in names)


class NoMediaColumn(UserError):
    """A Parquet file none of whose columns can hold media."""


def media_leaf(schema: pa.Schema, column: str, location: str) -> str:
    """Return the leaf of a schema that holds the media's bytes: "image.bytes", or "jpg" for a column of plain bytes.

    Args:
        schema: of the file.
        column: the column that the user names, or its leaf; "" for the only one that can be it.
        location: of the file, for the errors.

    Raises:
        NoMediaColumn: none can be it, or none has that name.
        UserError: several can be it.
    """
    leaves = {item.name: leaf for item in schema if (leaf := _bytes_leaf(item)) is not None}
    if column:
        if column in leaves.values():
            return column
        if column not in leaves:
            raise NoMediaColumn(
                f"{location!r} has no column {column!r} of bytes: {did_you_mean(column, leaves or schema.names)}"
            )
        return leaves[column]
    declared = {name for name, kind in _features(schema).items() if kind.get("_type") in ("Image", "Video")}
    structs = {name for name, leaf in leaves.items() if leaf != name}
    candidates = sorted(leaves.keys() & declared or structs or leaves)
    if not candidates:
        there = ", ".join(f"{item.name}: {_short(item.type)}" for item in schema)
        raise NoMediaColumn(f"{location!r} has no column of images' or videos' bytes; it has {there}")
    if len(candidates) > 1:
        raise UserError(
            f"{location!r} has several columns of bytes: choose one with --data.column (--column of jobs/index.py): "
            f"{', '.join(candidates)}"
        )
    return leaves[candidates[0]]


def check_table(location: str, column: str) -> None:
    """Check that a Parquet file holds media, by its footer.

    Raises:
        UserError: it does not; see `media_leaf`.
    """
    try:
        with open_table(location) as table:
            media_leaf(table.schema_arrow, column, location)
    except Truncated as error:
        raise UserError(f"{location!r} is named .parquet but is none ({error}): remove it or write it again") from error


def cells(location: str, column: str) -> Iterator[Cell]:
    """Yield the samples of a Parquet file, in the order of its rows.

    Raises:
        SampleError, NoMediaColumn: none of it can be read.
        OSError: the storage failed.
    """
    with open_table(location) as table:
        columns = _Columns.of(table.schema_arrow, column, location)
        groups = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
    first = 0
    for group, rows in enumerate(groups):
        done = 0
        try:
            for cell in _group_cells(location, group, columns, first):
                yield cell
                done += 1
        except SampleError as error:
            for row in range(first + done, first + rows):
                where = ByteRange(location, row, 0, "parquet", columns.leaf)
                yield Cell(row, where, reason=error.reason, problem=str(error))
        first += rows


@dataclass(frozen=True)
class _Columns:
    """Which columns of a file are read, and what they mean: class names by the column that numbers them."""

    leaf: str
    path: str | None
    label: str | None
    scalars: tuple[str, ...]
    classes: dict[str, list[str]]

    @classmethod
    def of(cls, schema: pa.Schema, column: str, location: str) -> _Columns:
        leaf = media_leaf(schema, column, location)
        kinds = {item.name: item.type for item in schema}
        holder = leaf if leaf in kinds else leaf.rpartition(".")[0]
        has_path = pa.types.is_struct(kinds[holder]) and kinds[holder].get_field_index("path") >= 0
        scalars = tuple(name for name, kind in kinds.items() if name != holder and _is_scalar(kind))
        features = _features(schema)
        classes = {name: features[name]["names"] for name in scalars if _is_class_label(features.get(name, {}))}
        label = "label" if "label" in scalars else next(iter(classes)) if len(classes) == 1 else None
        return cls(leaf, f"{holder}.path" if has_path else None, label, scalars, classes)

    def about(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the metadata of one row, as JSON can hold it, classes by their names."""
        return {name: self._named(name, _plain(value)) for name, value in row.items()}

    def _named(self, name: str, value: Any) -> Any:
        names = self.classes.get(name)
        if names is None or not isinstance(value, int):
            return value
        return names[value] if 0 <= value < len(names) else None  # -1 is Hugging Face's "not labelled"


def _group_cells(location: str, group: int, columns: _Columns, first: int) -> Iterator[Cell]:
    """Yield the samples of one row group, whose first row has this number in the file."""
    row = first
    with open_table(location) as table:
        find = _Finder(location, table.metadata.row_group(group), columns.leaf)
        wanted = [columns.leaf, *([columns.path] if columns.path else []), *columns.scalars]
        for batch in table.iter_batches(_BATCH_ROWS, [group], wanted, use_threads=False):
            for data, path, about in _rows_of(batch, columns):
                yield _cell(row, data, path, columns.about(about), columns, find)
                row += 1


def _rows_of(batch: pa.RecordBatch, columns: _Columns) -> Iterator[tuple[bytes | None, str | None, dict[str, Any]]]:
    holder = columns.leaf if columns.leaf in batch.schema.names else columns.leaf.rpartition(".")[0]
    media = pa.chunked_array([batch.column(holder)])
    paths = [None] * len(batch)
    if columns.path is not None:
        paths = pc.struct_field(media, "path").to_pylist()
        media = pc.struct_field(media, "bytes")
    about = batch.select(list(columns.scalars)).to_pylist() or [{}] * len(batch)
    values = values_of(media)
    for number in range(len(batch)):
        yield values[number].as_py(), paths[number], about[number]


def _cell(
    row: int, data: bytes | None, path: str | None, about: dict[str, Any], columns: _Columns, find: _Finder
) -> Cell:
    label = None if columns.label is None else about[columns.label]
    label = None if label is None else str(label)
    metadata = about | ({} if path is None else {"path": path})
    where = ByteRange(find.location, row, len(data or b""), "parquet", columns.leaf)
    if not data:
        problem = f"row {row:,} has no bytes in {columns.leaf!r}"
        if path is not None:
            problem += f", only the name {path!r}: write the data set anew with its files embedded"
        return Cell(row, where, label=label, metadata=metadata, reason="no bytes", problem=problem)
    offset = find(data)
    if offset is not None:
        where = ByteRange(find.location, offset, len(data), column=columns.leaf)
    return Cell(row, where, data, _extension(path, data), label, metadata)


class _Finder:
    """Finds where the bytes of one row group's samples lie in the file; called with one after the other.

    Pages that are not compressed hold the bytes as they are, so no knowledge of the pages is needed: equal bytes are
    the bytes. A value that a dictionary holds once for several rows lies before the last one found.
    """

    def __init__(self, location: str, group: pq.RowGroupMetaData, leaf: str) -> None:
        self.location = location
        self._start, self._at, self._chunk = 0, 0, b""
        columns = (group.column(number) for number in range(group.num_columns))
        (column,) = (column for column in columns if column.path_in_schema == leaf)
        if column.compression == "UNCOMPRESSED" and column.total_compressed_size <= _SEARCHED_BYTES:
            offsets = [column.data_page_offset]
            if column.has_dictionary_page:
                offsets.append(column.dictionary_page_offset)
            self._start = min(offsets)
            with storage.open_file(location) as file:
                file.seek(self._start)
                self._chunk = file.read(column.total_compressed_size)

    def __call__(self, data: bytes) -> int | None:
        """Return the offset of these bytes in the file, None where they do not stand there as they are."""
        if not self._chunk:
            return None
        found = self._chunk.find(data, self._at)
        if found < 0:
            found = self._chunk.find(data)
        if found < 0:
            self._chunk = b""  # in another encoding, then so are those that follow
            return None
        self._at = found
        return self._start + found


def _bytes_leaf(item: pa.Field) -> str | None:
    """Return the leaf that holds bytes in a column of bytes, or of structs with a field "bytes"."""
    if _is_bytes(item.type):
        return str(item.name)
    if pa.types.is_struct(item.type):
        index = item.type.get_field_index("bytes")
        if index >= 0 and _is_bytes(item.type.field(index).type):
            return f"{item.name}.bytes"
    return None


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_scalar(kind: pa.DataType) -> bool:
    return not (pa.types.is_nested(kind) or _is_bytes(kind) or pa.types.is_fixed_size_binary(kind))


def _short(kind: pa.DataType) -> str:
    text = str(kind)
    return text if len(text) <= 60 else text[:57] + "..."


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Return what Hugging Face's `datasets` wrote about each column; nothing where it wrote nothing."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: kind for name, kind in features.items() if isinstance(kind, dict)}


def _is_class_label(feature: dict[str, Any]) -> bool:
    return feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list)


def _extension(path: str | None, data: bytes) -> str:
    if path is not None and media_kind(path):
        return path.rpartition(".")[2].lower()
    if data[:4] == b"RIFF":
        return _RIFF.get(data[8:12], "bin")
    if data[4:8] == b"ftyp":
        return {b"qt  ": "mov", b"avif": "avif"}.get(data[8:12], "mp4")
    return next((extension for head, extension in _HEADS.items() if data.startswith(head)), "bin")


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (datetime.date, datetime.time)):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    return str(value) if isinstance(value, decimal.Decimal) else value
