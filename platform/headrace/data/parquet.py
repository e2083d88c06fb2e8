"""A Parquet file as a shard: a sample a row, its media's bytes in a column. Hugging Face's image data sets are such.

    row group 0   image.bytes | image.path | label | ...      one sample is read with its neighbours: the chunk of
    row group 1   image.bytes | image.path | label | ...      the column `image.bytes` in its row group

Where a chunk is not compressed, indexing finds where each sample's bytes lie in the file (`parquet_scan`), and it is
read as any other byte range. Else the last row groups are kept in memory, so that samples that are read near each other
are cheap, and those that a full shuffle reads far apart are not: `bytes_read_for_each` says how dear.

Format: https://parquet.apache.org/docs/file-format/
"""

from __future__ import annotations

import io
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from headrace.data import storage
from headrace.data.failures import Truncated
from headrace.data.storage import ByteRange

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from headrace.data.manifest import Manifest

CACHE_BYTES = 256 << 20
"""Row groups that a process keeps have so many bytes at most; the newest is kept whatever its size."""

_FOOTERS = 64
_ESTIMATED_SHARDS = 4


@contextmanager
def open_table(location: str, metadata: pq.FileMetaData | None = None) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file.

    Args:
        location: of the file.
        metadata: its footer, if it was read before.

    Raises:
        Truncated: what the file holds is no sound Parquet; also for errors inside the `with`.
        OSError: the storage failed; likewise.
    """
    with storage.open_file(location) as raw:
        file = _Watched(raw)
        try:
            yield pq.ParquetFile(file, metadata=metadata)
        except (OSError, pa.ArrowException) as error:  # Arrow has one error for what it reads and for how
            if file.error is not None:
                raise file.error from None
            raise Truncated(f"{location} is no sound Parquet file: {str(error).splitlines()[0]}") from error


def values_of(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the bytes of a column that was read by its leaf alone, out of the structs around it; null stays null."""
    while pa.types.is_struct(column.type):
        column = pc.struct_field(column, 0)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column


def read_cell(where: ByteRange) -> bytes:
    """Return the bytes of one cell.

    Raises:
        Truncated: its row group cannot be read.
        OSError: the storage failed, or the file changed since it was indexed.
    """
    location, leaf = where.location, str(where.column)
    metadata, ends = _footer(location)
    group = bisect_right(ends, where.offset)
    data = None
    if group < len(ends):
        first = ends[group - 1] if group else 0
        values = _row_groups.get((location, leaf, group), lambda: _read_values(location, metadata, leaf, group))
        data = values[where.offset - first].as_py()
    if data is None or len(data) != where.size:
        raise OSError(
            f"{location} does not hold {where.size:,} bytes in column {leaf!r} of row {where.offset:,}: it changed "
            f"since it was indexed"
        )
    return bytes(data)


def indexed_column(manifest: Manifest | None) -> str:
    """Return the column of media for which the Parquet files of a source were indexed; "" where there are none."""
    leaves = [] if manifest is None else pc.unique(manifest.table["column"]).drop_null().to_pylist()
    return str(leaves[0]) if leaves else ""


def is_of_column(manifest: Manifest, column: str) -> bool:
    """Say whether the Parquet files of a source, if it has any, were indexed for this column."""
    return indexed_column(manifest) in ("", column, f"{column}.bytes")


def bytes_read_for_each(manifest: Manifest) -> float:
    """Return how many bytes a full shuffle reads for each that it wants, as the footers of a few shards tell.

    1 is the best. A source whose row groups all fit the memory that is kept for them is read once.
    """
    table = manifest.table.filter(pc.equal(manifest.table["compression"], "parquet"))
    if not table.num_rows or pc.sum(table["size"]).as_py() <= CACHE_BYTES:
        return 1.0
    rows, sizes = list[int](), list[int]()
    for shard in pc.unique(table["shard"]).slice(0, _ESTIMATED_SHARDS).to_pylist():
        first = manifest.bytes_of(pc.index(manifest.table["shard"], shard).as_py())
        metadata, _ = _footer(first.location)
        for group in (metadata.row_group(number) for number in range(metadata.num_row_groups)):
            columns = (group.column(number) for number in range(group.num_columns))
            sizes += [column.total_compressed_size for column in columns if column.path_in_schema == first.column]
            rows.append(group.num_rows)
    share, of_all = len(table) / len(manifest), float(np.dot(rows, sizes)) / max(sum(sizes), 1)
    return share * of_all + (1 - share)


_Key: TypeAlias = "tuple[str, str, int]"


class _RowGroups:
    """The newest row groups, by (location, leaf, number). Threads that want the same one wait for one read."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Key, Future[pa.ChunkedArray]] = OrderedDict()

    def get(self, key: _Key, read: Callable[[], pa.ChunkedArray]) -> pa.ChunkedArray:
        with self._lock:
            future = self._kept.get(key)
            mine = future is None
            if future is None:
                future = self._kept[key] = Future()
            self._kept.move_to_end(key)
        if mine:
            try:
                future.set_result(read())
            except BaseException as error:  # for whoever waits as well; the next one tries again
                with self._lock:
                    del self._kept[key]
                future.set_exception(error)
            else:
                self._forget_oldest()
        return future.result()

    def _forget_oldest(self) -> None:
        with self._lock:
            read = {key: future.result().nbytes for key, future in self._kept.items() if future.done()}
            total = sum(read.values())
            for key in list(read)[:-1]:
                if total <= self._most_bytes:
                    return
                del self._kept[key]
                total -= read[key]


_row_groups = _RowGroups(CACHE_BYTES)


def _read_values(location: str, metadata: pq.FileMetaData, leaf: str, group: int) -> pa.ChunkedArray:
    with open_table(location, metadata) as table:
        return values_of(table.read_row_group(group, columns=[leaf], use_threads=False).column(0))


@lru_cache(maxsize=_FOOTERS)
def _footer(location: str) -> tuple[pq.FileMetaData, list[int]]:
    """Return a file's footer, and the number of the first row behind each row group."""
    with open_table(location) as table:
        metadata = table.metadata
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return metadata, np.cumsum(rows, dtype=np.int64).tolist()


class _Watched(io.RawIOBase):
    """A file that remembers what its storage raised: Arrow turns that into an error of its own.

    Attributes:
        error: the first thing that was raised.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: BaseException | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except BaseException as error:
            self.error = self.error or error
            raise

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)
