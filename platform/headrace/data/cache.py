"""Bytes of remote objects kept on this machine's disk, shared by its processes, never more than a bound.

    read  ->  granules of the object  ->  on disk?  yes: read, checked       no: neighbours fetched in one request, kept

A *granule* is an aligned piece of an object. Small images are therefore fetched with their neighbours in the shard,
which an order that goes through shards in chunks reads next; of a long video, only the granules around the wanted
frames are kept. A granule is a file whose name is derived from location, version (ETag, or size and time) and number,
so a changed object is another object. It is written under another name first, and begins with its own checksum:
whatever a crash leaves is noticed, and fetched again.

Reading takes no lock. Writing takes one for the whole folder (`flock`, which ends with its process): it counts, drops
those least recently used, and writes. Use a folder on a local disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from headrace.data.remote import RemoteObject, read_range, stat
from headrace.errors import UserError

GRANULE_BYTES = 512 << 10
"""What storage sends in about the time that it takes to answer. Measured with 30 ms to an answer and pictures of 100 KB
in windows of 64: 4 MiB cost 4.2 ms of CPU a hit and 52 times the wanted bytes of a sparse video, 256 KiB 0.4 ms and 5
times, but three times the requests of 1 MiB."""

LEAST_BYTES = 16 * GRANULE_BYTES
_MOST_GRANULES = 16  # in one request
_HEADER = struct.Struct("<4sIQ")  # magic, CRC-32 of the data, their size
_MAGIC = b"hrg1"
_KEPT_SHARE = 0.9  # what is left when room is made, so that not every write must look at the whole folder


def default_folder() -> Path:
    """Return where granules are kept if nothing else is said."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace" / "granules"


@dataclass(frozen=True)
class Cache:
    """A folder of granules. Pickles; every process that is given the same folder shares it.

    Attributes:
        folder: made if absent; nothing else may lie in it.
        most_bytes: bound on the sizes of all its files.
    """

    folder: Path
    most_bytes: int

    def __post_init__(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked() as total:
                total.write(self._make_room(self.most_bytes))  # it may have been larger, or a run may have crashed
        except OSError as error:
            raise UserError(f"the cache cannot be kept in {str(self.folder)!r}: {error}") from error

    def read(self, where: RemoteObject, offset: int, size: int) -> bytes:
        """Return the bytes of a range, fewer only where the object ends.

        Raises:
            StorageError: as `remote.read_range`.
        """
        end, version = stat(where)
        size = max(0, min(size, end - offset))
        if not size:
            return b""
        first, last = offset // GRANULE_BYTES, (offset + size - 1) // GRANULE_BYTES
        name = hashlib.sha256(f"{where.location}\n{version}\n{end}".encode())
        paths = {number: self._path(name, number) for number in range(first, last + 1)}
        granules = {number: data for number, path in paths.items() if (data := _load(path)) is not None}
        for run in _runs(sorted(paths.keys() - granules.keys())):
            data = read_range(where, run[0] * GRANULE_BYTES, len(run) * GRANULE_BYTES)
            for place, number in enumerate(run):
                granules[number] = data[place * GRANULE_BYTES : (place + 1) * GRANULE_BYTES]
                self._keep(paths[number], granules[number])
        whole = granules[first] if first == last else b"".join(granules[number] for number in paths)
        return whole[offset - first * GRANULE_BYTES :][:size]

    def _path(self, name: hashlib._Hash, number: int) -> Path:
        granule = name.copy()
        granule.update(f"\n{number}".encode())
        return self.folder / granule.hexdigest()

    def _keep(self, path: Path, data: bytes) -> None:
        size = _HEADER.size + len(data)
        if size > self.most_bytes:
            return
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with suppress(OSError), self._locked() as total:  # a full disk costs the cache, not the run
            held = total.read()
            if held + size > self.most_bytes:
                held = self._make_room(min(int(_KEPT_SHARE * self.most_bytes), self.most_bytes - size))
            total.write(held + size)  # first, so that after a crash it is too much rather than too little
            try:
                partial.write_bytes(_HEADER.pack(_MAGIC, zlib.crc32(data), len(data)) + data)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)

    def _make_room(self, target: int) -> int:
        """Delete what was used least recently until no more than `target` bytes are left; return what is left."""
        found = []
        for entry in os.scandir(self.folder):
            if not entry.name.startswith("."):
                status = entry.stat()
                found.append((status.st_mtime_ns, entry.name, status.st_size))
        held = sum(size for _, _, size in found)
        for _, name, size in sorted(found):
            if held <= target:
                break
            (self.folder / name).unlink()
            held -= size
        return held

    @contextmanager
    def _locked(self) -> Iterator[_Total]:
        """Hold the folder's lock, which is also where the bytes that it holds are written down."""
        with (self.folder / ".lock").open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield _Total(file)


class _Total:
    """The bytes that a folder holds, in its lock file; never less than the truth."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self) -> int:
        """Return them; where they cannot be told, more than fit into any folder."""
        self._file.seek(0)
        text = self._file.read()
        return int(text) if text.isdigit() else 1 << 62

    def write(self, held: int) -> None:
        self._file.truncate(0)  # opened for appending: what is written stands at the start
        self._file.write(str(held).encode())
        self._file.flush()


def _load(path: Path) -> bytes | None:
    """Return a granule, None if it is not there or is not what was written."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        content = file.read()
        data = content[_HEADER.size :]
        if content[: _HEADER.size] == _HEADER.pack(_MAGIC, zlib.crc32(data), len(data)):
            os.utime(file.fileno())  # used just now
            return data
    return None


def _runs(numbers: list[int]) -> Iterator[list[int]]:
    """Group numbers that follow one another, as many as are fetched in one request."""
    run: list[int] = []
    for number in numbers:
        if run and (number != run[-1] + 1 or len(run) == _MOST_GRANULES):
            yield run
            run = []
        run.append(number)
    if run:
        yield run
