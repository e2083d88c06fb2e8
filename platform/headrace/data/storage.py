"""Byte ranges from disk or object storage, by one set of functions.

A *location* is an absolute local path or a URI that `pyarrow.fs` knows (`s3://bucket/prefix`). Credentials come
from the storage library's standard chain and are never part of a location.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from pyarrow import fs

from headrace.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Buffer

Compression = Literal["stored", "deflate"]

WINDOW_BYTES = 64 << 20
"""Samples up to this size are read whole, in one request; larger ones piece by piece as they are decoded."""

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

    def open(self) -> BinaryIO:
        """Return a seekable file that holds just these bytes: in memory, or a window if they are many.

        Raises:
            OSError: the storage failed, or holds fewer bytes than the range says.
        """
        file = open_file(self.location)
        if self.compression == "stored" and self.size > WINDOW_BYTES:
            return io.BufferedReader(_Window(file, self.offset, self.size), buffer_size=1 << 20)
        with file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise OSError(
                f"{self.location} ends at byte {self.offset + len(data)}, but the manifest expects "
                f"{self.offset + self.size}: it changed since it was indexed"
            )
        if self.compression == "deflate":
            data = zlib.decompressobj(wbits=-15).decompress(data, MAX_INFLATED_BYTES)
        return io.BytesIO(data)


class _Window(io.RawIOBase):
    """The bytes offset ... offset + size of a file, as a file."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._at = file, offset, size, 0

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
        self._file.seek(self._offset + self._at)
        data = self._file.read(max(0, min(len(view), self._size - self._at)))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


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


def open_file(location: str) -> BinaryIO:
    """Return a seekable file over a whole location; reads only what is asked of it."""
    if not is_remote(location):
        return Path(location).open("rb")
    filesystem, path = _filesystem(location)
    file: BinaryIO = filesystem.open_input_file(path)
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
