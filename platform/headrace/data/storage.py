"""Byte ranges from disk or object storage, by one set of functions.

A *location* is an absolute local path or a URI that `pyarrow.fs` knows (`s3://bucket/prefix`). Credentials come
from the storage library's standard chain and are never part of a location.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, cast

from pyarrow import fs

from headrace.data.ranges import LOCAL_GAP_BYTES, Range, Request, cut, plan_requests
from headrace.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Buffer

Compression = Literal["stored", "deflate"]

WINDOW_BYTES = 64 << 20
"""Samples up to this size are read whole, in one request, where all of them is needed; larger ones as they are read."""

_LOCAL_BUFFER_BYTES, _REMOTE_BUFFER_BYTES = 1 << 20, 8 << 20
_REMOTE_GAP_BYTES = 512 << 10  # what object storage sends in about the time that it takes to answer
_REMOTE_REQUESTS = 8  # at a time, for one sample

MAX_INFLATED_BYTES = 4 << 30
"""A compressed member may not unpack to more than this, whatever its archive says."""


@dataclass(frozen=True)
class StoredFile:
    """A file below a root: where it lies, and what tells whether it changed."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class ByteRange:
    """Where a sample's bytes lie."""

    location: str
    offset: int
    size: int
    compression: Compression = "stored"

    def open(self, *, in_pieces: bool = False) -> BinaryIO:
        """Return a seekable file that holds just these bytes.

        Args:
            in_pieces: only some of the bytes will be read. The file is then a `ranges.RangeFile` that reads just
                them, unless they are compressed; else it is read at once, into memory, if it is not large.

        Raises:
            OSError: the storage failed, or holds fewer bytes than the range says.
        """
        if self.compression == "stored" and (in_pieces or self.size > WINDOW_BYTES):
            return _PiecewiseFile(self)
        with open_file(self.location) as file:
            file.seek(self.offset)
            data = file.read(self.size)
        _check_whole(self, self.size, len(data))
        if self.compression == "deflate":
            data = zlib.decompressobj(wbits=-15).decompress(data, MAX_INFLATED_BYTES)
        return io.BytesIO(data)


class _PiecewiseFile(io.BufferedReader):
    """A byte range as a file that reads what is asked of it; see `ranges.RangeFile`."""

    def __init__(self, where: ByteRange) -> None:
        self._window = _Window(where)
        self._is_remote = is_remote(where.location)
        super().__init__(self._window, _REMOTE_BUFFER_BYTES if self._is_remote else _LOCAL_BUFFER_BYTES)

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """See `ranges.RangeFile`. From object storage, several requests go on at a time."""
        if not self._is_remote:
            return cut(ranges, plan_requests(ranges, LOCAL_GAP_BYTES), self._read)
        requests = plan_requests(ranges, _REMOTE_GAP_BYTES)
        with ThreadPoolExecutor(_REMOTE_REQUESTS) as threads:
            answers = dict(zip(requests, threads.map(self._read, requests), strict=True))
        return cut(ranges, requests, answers.__getitem__)

    def _read(self, request: Request) -> bytes:
        return self._window.read_at(request.offset, request.size)


class _Window(io.RawIOBase):
    """The bytes of a range, as a file without a buffer."""

    def __init__(self, where: ByteRange) -> None:
        self._where, self._file = where, open_file(where.location, buffered=False)
        self._offset, self._size, self._at = where.offset, where.size, 0

    def read_at(self, offset: int, size: int) -> bytes:
        """Return these bytes, fewer where the range ends; any thread may ask."""
        wanted = max(0, min(size, self._size - offset))
        data = self._read_at(self._offset + offset, wanted)
        _check_whole(self._where, offset + wanted, offset + len(data))
        return data

    def _read_at(self, offset: int, size: int) -> bytes:
        if hasattr(self._file, "read_at"):
            return bytes(self._file.read_at(size, offset))
        pieces = []
        while size and (piece := os.pread(self._file.fileno(), size, offset)):
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read_at(self._at, len(view))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _check_whole(where: ByteRange, expected: int, found: int) -> None:
    if found != expected:
        raise OSError(
            f"{where.location} ends at byte {where.offset + found}, but the manifest expects "
            f"{where.offset + expected}: it changed since it was indexed"
        )


def list_files(root: str) -> list[StoredFile]:
    """Return the files at or below `root`, sorted by path; hidden files and folders are left out.

    Paths are relative to the root; the root itself, if it is a file, is listed under its own name.

    Raises:
        UserError: there is no such path.
    """
    filesystem, path = _filesystem(root)
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        raise UserError(f"there is no file or folder at {root!r}")
    if info.type == fs.FileType.File:
        return [_stored(info, info.base_name)]
    found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    base = path.rstrip("/") + "/"
    files = [(item.path.removeprefix(base), item) for item in found if item.type == fs.FileType.File]
    return [_stored(item, name) for name, item in sorted(files, key=lambda pair: pair[0]) if not _hidden(name)]


def join(root: str, path: str) -> str:
    """Return the location of a file that `list_files(root)` gave."""
    if is_remote(root):
        return root if root.rstrip("/").endswith("/" + path) else f"{root.rstrip('/')}/{path}"
    base = Path(root).absolute()
    return str(base if base.is_file() else base / path)


def is_remote(location: str) -> bool:
    """Say whether a location names object storage rather than this machine's disk."""
    return "://" in location


def open_file(location: str, *, buffered: bool = True) -> BinaryIO:
    """Return a seekable file over a whole location; reads only what is asked of it."""
    if not is_remote(location):
        path = Path(location)
        return path.open("rb") if buffered else cast(BinaryIO, path.open("rb", buffering=0))
    filesystem, name = _filesystem(location)
    file: BinaryIO = filesystem.open_input_file(name)
    return file


def _filesystem(location: str) -> tuple[fs.FileSystem, str]:
    if not is_remote(location):
        return _local(), str(Path(location).absolute())
    scheme, _, rest = location.partition("://")
    bucket, _, path = rest.partition("/")
    try:
        filesystem, base = _remote(f"{scheme}://{bucket}")
    except (ValueError, OSError) as error:
        raise UserError(f"cannot open {location!r}: {error}") from error
    return filesystem, f"{base}/{path}" if path else base


@lru_cache(maxsize=1)
def _local() -> fs.FileSystem:
    return fs.LocalFileSystem()


@lru_cache(maxsize=16)
def _remote(bucket: str) -> tuple[fs.FileSystem, str]:
    filesystem, base = fs.FileSystem.from_uri(bucket)
    return filesystem, base


def _stored(info: fs.FileInfo, path: str) -> StoredFile:
    return StoredFile(path, int(info.size), int(info.mtime_ns or 0))


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))
