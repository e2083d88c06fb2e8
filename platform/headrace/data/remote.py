"""Objects in remote storage, whatever holds them: ranges of them, read until they are whole.

A read that breaks off is gone on with where it broke. S3 has its own module; other schemes (gs://, hdfs://) are read
through `pyarrow.fs`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from pyarrow import fs

from headrace.data import retry
from headrace.data.retry import StorageError, Transient
from headrace.errors import UserError


class RemoteObject(Protocol):
    """One object, of which any thread may read ranges."""

    location: str

    def stat(self) -> tuple[int, str]:
        """Return the size in bytes, and what tells this version from others; raises as `fetch`."""
        ...

    def fetch(self, offset: int, size: int) -> Iterator[bytes]:
        """Yield the bytes of a range as they come, up to the end of the object.

        Raises:
            Transient: it broke off; what was yielded until then is right.
            OSError: it will not go better another time.
        """
        ...


def s3() -> ModuleType:
    """Return the module for S3. It imports boto3, for which those who read from a disk shall not wait."""
    from headrace.data import s3 as module

    return module


@lru_cache(maxsize=4096)
def remote_object(location: str) -> RemoteObject:
    """Return the object at an URI; in one process always the same, so that its version is pinned."""
    return s3().S3Object(location) if location.startswith("s3://") else _ArrowObject(location)


def read_range(where: RemoteObject, offset: int, size: int) -> bytes:
    """Return the bytes of a range, fewer only where the object ends.

    Raises:
        StorageError: the storage failed for good, or for longer than `retry.PATIENCE_SECONDS`.
    """
    if size <= 0:
        return b""
    pieces, came = list[bytes](), 0

    def go_on() -> None:
        nonlocal came
        for piece in where.fetch(offset + came, size - came):
            pieces.append(piece)
            came += len(piece)

    retry.retry(go_on, where.location, retry.PATIENCE_SECONDS)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def stat(where: RemoteObject) -> tuple[int, str]:
    """Return an object's size in bytes, and what tells this version from others.

    Raises:
        StorageError: as `read_range`.
    """
    return retry.retry(where.stat, where.location, retry.PATIENCE_SECONDS)


def arrow_upload(path: Path, location: str) -> None:
    """Store a file under an URI that is not S3's."""
    filesystem, target = arrow_path(location)
    with path.open("rb") as file, filesystem.open_output_stream(target) as stream:
        shutil.copyfileobj(file, stream, 8 << 20)


def arrow_move(source: str, target: str) -> None:
    """Give a file another name in the same file system."""
    filesystem, path = arrow_path(source)
    filesystem.move(path, arrow_path(target)[1])


def arrow_delete(location: str) -> None:
    """Delete a file."""
    filesystem, path = arrow_path(location)
    filesystem.delete_file(path)


def arrow_path(location: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of an URI that is not S3's, and the path in it.

    Raises:
        UserError: pyarrow cannot open it.
    """
    scheme, _, rest = location.partition("://")
    bucket, _, path = rest.partition("/")
    try:
        filesystem, base = _arrow_filesystem(f"{scheme}://{bucket}")
    except (ValueError, OSError) as error:
        raise UserError(f"cannot open {location!r}: {error}") from error
    return filesystem, f"{base}/{path}" if path else base


@lru_cache(maxsize=16)
def _arrow_filesystem(bucket: str) -> tuple[fs.FileSystem, str]:
    filesystem, base = fs.FileSystem.from_uri(bucket)
    return filesystem, base


class _ArrowObject:
    def __init__(self, location: str) -> None:
        self.location = location
        self._open: Any = None

    def stat(self) -> tuple[int, str]:
        filesystem, path = arrow_path(self.location)
        with _ArrowErrors(self.location):
            info = filesystem.get_file_info(path)
        if info.type != fs.FileType.File:
            raise StorageError(f"there is nothing at {self.location!r}")
        return int(info.size), f"{info.size}-{info.mtime_ns}"

    def fetch(self, offset: int, size: int) -> Iterator[bytes]:
        filesystem, path = arrow_path(self.location)
        with _ArrowErrors(self.location):
            if self._open is None:
                self._open = filesystem.open_input_file(path)
            data = bytes(self._open.read_at(size, offset))
            expected = max(0, min(size, self._open.size() - offset))
        yield data
        if len(data) != expected:
            raise Transient(f"an answer ended after {len(data):,} of {expected:,} bytes")


class _ArrowErrors:
    """Tells what pyarrow raises for good from what may go better."""

    def __init__(self, location: str) -> None:
        self._location = location

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError)):
            raise StorageError(f"{self._location!r} cannot be read: {error.strerror or error}") from error
        if isinstance(error, OSError):
            raise Transient(str(error)) from error
