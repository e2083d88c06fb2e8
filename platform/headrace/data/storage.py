"""Byte ranges from disk or object storage, by one set of functions.

A *location* is an absolute local path, s3://bucket/prefix, or a URI that `pyarrow.fs` knows (gs://, hdfs://).
Credentials come from the storage library's standard chain; a location that holds some is refused.

    ByteRange.open  ->  disk: the file         s3.py: S3, boto3        remote.py: the others, and reading on
                                               cache.py: bytes of them on this disk
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, cast

from pyarrow import fs

from headrace.data.cache import Cache
from headrace.data.ranges import LOCAL_GAP_BYTES, Range, Request, cut, plan_requests
from headrace.data.remote import arrow_delete, arrow_move, arrow_path, arrow_upload, read_range, remote_object, s3, stat
from headrace.data.retry import PATIENCE_SECONDS, START_PATIENCE_SECONDS, StorageError
from headrace.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from headrace.data.s3 import Listed

Compression = Literal["stored", "deflate", "parquet"]

WINDOW_BYTES = 64 << 20
"""Samples up to this size are read whole, in one request, where all of them is needed; larger ones as they are read."""

_LOCAL_BUFFER_BYTES, _REMOTE_BUFFER_BYTES = 1 << 20, 8 << 20
_REMOTE_GAP_BYTES = 512 << 10  # what object storage sends in about the time that it takes to answer
_REMOTE_REQUESTS = 8  # at a time, for one sample
_SECRET_QUERY = re.compile(r"[?&](access_key|secret_key|session_token|x-amz-[a-z-]+)=", re.IGNORECASE)

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
    """Where a sample's bytes lie: at an offset in a file, or, "parquet", in a row and a column of a table."""

    location: str
    offset: int
    size: int
    compression: Compression = "stored"
    column: str | None = None

    def open(self, *, in_pieces: bool = False, cache: Cache | None = None) -> BinaryIO:
        """Return a seekable file that holds just these bytes.

        Args:
            in_pieces: only some of the bytes will be read. The file is then a `ranges.RangeFile` that reads just
                them, unless they are compressed; else it is read at once, into memory, if it is not large.
            cache: where bytes from remote storage are looked for, and kept.

        Raises:
            OSError: the storage failed, or holds fewer bytes than the range says.
        """
        if self.compression == "parquet":
            from headrace.data.parquet import read_cell  # which reads through this module

            return io.BytesIO(read_cell(self))
        if self.compression == "stored" and (in_pieces or self.size > WINDOW_BYTES):
            return PiecewiseFile(self, cache)
        with _Window(self, cache) as window:
            data = window.read_at(0, self.size)
        if self.compression == "deflate":
            data = zlib.decompressobj(wbits=-15).decompress(data, MAX_INFLATED_BYTES)
        return io.BytesIO(data)


class PiecewiseFile(io.BufferedReader):
    """A byte range as a file that reads what is asked of it; see `ranges.RangeFile`."""

    def __init__(self, where: ByteRange, cache: Cache | None = None) -> None:
        self._window = _Window(where, cache)
        self._is_remote = is_remote(where.location)
        self._held: dict[Range, bytes] = {}
        super().__init__(self._window, _REMOTE_BUFFER_BYTES if self._is_remote else _LOCAL_BUFFER_BYTES)

    def hold(self, ranges: Sequence[Range]) -> None:
        """Read these ranges now and keep them for when they are asked for."""
        self._held.update(zip(ranges, self._read_ranges(ranges), strict=True))

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """See `ranges.RangeFile`. From object storage, several requests go on at a time."""
        held = self._held
        missing = [wanted for wanted in ranges if wanted not in held] if held else ranges
        pieces = iter(self._read_ranges(missing)) if missing else iter(())
        return [held[wanted] if wanted in held else next(pieces) for wanted in ranges]

    def _read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        if not self._is_remote:
            return cut(ranges, plan_requests(ranges, LOCAL_GAP_BYTES), self._read)
        requests = plan_requests(ranges, _REMOTE_GAP_BYTES)
        if len(requests) == 1:
            return cut(ranges, requests, self._read)
        with ThreadPoolExecutor(min(len(requests), _REMOTE_REQUESTS)) as threads:
            answers = dict(zip(requests, threads.map(self._read, requests), strict=True))
        return cut(ranges, requests, answers.__getitem__)

    def _read(self, request: Request) -> bytes:
        return self._window.read_at(request.offset, request.size)


class _Window(io.RawIOBase):
    """The bytes of a range, as a file without a buffer."""

    def __init__(self, where: ByteRange, cache: Cache | None = None) -> None:
        self._where, self._cache = where, cache
        self._remote = remote_object(where.location) if is_remote(where.location) else None
        self._file = None if self._remote else open_file(where.location, buffered=False)
        self._offset, self._size, self._at = where.offset, where.size, 0

    def read_at(self, offset: int, size: int) -> bytes:
        """Return these bytes, fewer where the range ends; any thread may ask."""
        wanted = max(0, min(size, self._size - offset))
        data = self._read_at(self._offset + offset, wanted)
        _check_whole(self._where, offset + wanted, offset + len(data))
        return data

    def _read_at(self, offset: int, size: int) -> bytes:
        if self._remote is not None:
            cache = self._cache
            return cache.read(self._remote, offset, size) if cache else read_range(self._remote, offset, size)
        assert self._file is not None
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
        if self._file is not None:
            self._file.close()
        super().close()


def _check_whole(where: ByteRange, expected: int, found: int) -> None:
    if found != expected:
        raise StorageError(
            f"{where.location} ends at byte {where.offset + found}, but the manifest expects "
            f"{where.offset + expected}: it changed since it was indexed"
        )


def list_files(root: str, *, missing: bool = False, patient: bool = False) -> list[StoredFile]:
    """Return the files at or below `root`, sorted by path; hidden files and folders are left out.

    Paths are relative to the root; the root itself, if it is a file, is listed under its own name.

    Args:
        root: a location.
        missing: it need not exist; then there are none.
        patient: a run has begun, so a storage that does not answer is waited for.

    Raises:
        UserError: there is no such path, or the storage refuses or does not answer within seconds.
        StorageError: the same where it was waited for.
    """
    _refuse_credentials(root)
    with _user_errors(not patient):
        files = _s3_files(root, patient) if _is_s3(root) else _arrow_files(root)
    if files is None and missing:
        return []
    if files is None:
        raise UserError(f"there is no file or folder at {root!r}")
    return [file for file in sorted(files, key=lambda file: file.path) if not _hidden(file.path)]


def names_in(folder: str, *, patient: bool = False) -> list[str]:
    """Return the names of what a folder holds itself, sorted; none where there is no such folder.

    Args:
        folder: a location.
        patient: as of `list_files`.

    Raises:
        UserError, StorageError: the storage refuses, or does not answer.
    """
    if not is_remote(folder):
        return sorted(path.name for path in Path(folder).iterdir()) if Path(folder).is_dir() else []
    _refuse_credentials(folder)
    with _user_errors(not patient):
        if not _is_s3(folder):
            return sorted(file.path for file in _arrow_files(folder) or [] if "/" not in file.path)
        _, path = s3().split(folder)
        found = (item.key.removeprefix(f"{path}/" if path else "") for item in _s3_objects(folder, patient))
        return sorted(name for name in found if "/" not in name)


def exists(location: str, *, patient: bool = False) -> bool:
    """Say whether there is a file at a location in object storage; raises as `names_in`."""
    folder, _, name = location.rpartition("/")
    return name in names_in(folder, patient=patient)


def upload(path: Path, location: str) -> None:
    """Store a file in object storage; it appears whole or not at all.

    Raises:
        StorageError: it could not be stored.
    """
    if _is_s3(location):
        s3().upload(path, location)
    else:
        arrow_upload(path, location)


def move(source: str, target: str) -> None:
    """Give a file another name in the same storage, replacing what has it.

    Raises:
        OSError: it could not be done.
    """
    if _is_s3(source):
        s3().move(source, target)
    elif is_remote(source):
        arrow_move(source, target)
    else:
        Path(source).replace(target)


def delete(location: str) -> None:
    """Delete a file.

    Raises:
        OSError: it could not be done.
    """
    if _is_s3(location):
        s3().delete(location)
    elif is_remote(location):
        arrow_delete(location)
    else:
        Path(location).unlink()


def join(root: str, path: str) -> str:
    """Return the location of a file that `list_files(root)` gave."""
    if is_remote(root):
        return root if root.rstrip("/").endswith("/" + path) else f"{root.rstrip('/')}/{path}"
    base = Path(root).absolute()
    return str(base if base.is_file() else base / path)


def is_remote(location: str) -> bool:
    """Say whether a location names object storage rather than this machine's disk."""
    return "://" in location


def _is_s3(location: str) -> bool:
    return location.startswith("s3://")


def read_text(location: str) -> str:
    """Return what a small file holds now.

    Raises:
        OSError: there is none, or the storage failed.
    """
    if not is_remote(location):
        return Path(location).read_text(encoding="utf-8")
    now = remote_object.__wrapped__(location)  # another than the one that reads go on with: that one is of a version
    size, _ = stat(now)
    return read_range(now, 0, size).decode()


def open_file(location: str, *, buffered: bool = True) -> BinaryIO:
    """Return a seekable file over a whole location; reads only what is asked of it."""
    if not is_remote(location):
        path = Path(location)
        return path.open("rb") if buffered else cast(BinaryIO, path.open("rb", buffering=0))
    size, _ = stat(remote_object(location))
    window = _Window(ByteRange(location, 0, size))
    return io.BufferedReader(window, _LOCAL_BUFFER_BYTES) if buffered else cast(BinaryIO, window)


def _refuse_credentials(location: str) -> None:
    """Refuse a location that holds a password or a key; the sentence does not repeat it."""
    scheme, _, rest = location.partition("://")
    host = rest.partition("/")[0]
    if is_remote(location) and (_SECRET_QUERY.search(rest) or ("@" in host and (scheme == "s3" or ":" in host))):
        raise UserError(
            f"a location in {scheme}:// must not hold credentials: leave them to the environment (AWS_ACCESS_KEY_ID, "
            f"AWS_PROFILE, ...) or to ~/.aws, and write {scheme}://BUCKET/PATH"
        )


@contextlib.contextmanager
def _user_errors(wanted: bool) -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        if not wanted:
            raise
        raise UserError(str(error)) from None


def _s3_objects(location: str, patient: bool) -> list[Listed]:
    found: list[Listed] = s3().list_objects(location, PATIENCE_SECONDS if patient else START_PATIENCE_SECONDS)
    return found


def _s3_files(root: str, patient: bool) -> list[StoredFile] | None:
    _, path = s3().split(root.rstrip("/"))
    folder = f"{path}/" if path else ""
    found = _s3_objects(root, patient)
    files = [
        StoredFile(Path(path).name if item.key == path else item.key.removeprefix(folder), item.size, item.mtime_ns)
        for item in found
    ]
    return files if files or not path else None


def _arrow_files(root: str) -> list[StoredFile] | None:
    filesystem, path = arrow_path(root) if is_remote(root) else (fs.LocalFileSystem(), str(Path(root).absolute()))
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        return None
    if info.type == fs.FileType.File:
        return [_stored(info, info.base_name)]
    found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    base = path.rstrip("/") + "/"
    return [_stored(item, item.path.removeprefix(base)) for item in found if item.type == fs.FileType.File]


def _stored(info: fs.FileInfo, path: str) -> StoredFile:
    return StoredFile(path, int(info.size), int(info.mtime_ns or 0))


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))
