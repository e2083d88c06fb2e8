"""Writing WebDataset shards: plain tar files in which the members of one sample stand side by side.

    street/0007.json  street/0007.mp4  street/0008.json  street/0008.mp4  ...
    '---key---' ext

**Keys.** WebDataset splits a member's name at the *first dot of its base name*: "a.b.mp4" is the extension
"b.mp4" of the sample "a". A key whose base name holds a dot is therefore refused, not repaired: the caller
knows what else to call it. Folders in a key may hold dots. A key is a relative path of plain names.

**Bytes.** The same samples give the same file: no dates, no owners, members sorted by extension, POSIX.1-2001
headers (names of any length, members past 8 GB). The `webdataset` package's own writer is not used because
importing it imports torch (3.5 s), and because it writes to the final name: a killed run leaves a shard that
looks whole.

**Places.** Shards go to a folder on disk or to object storage: there a shard is written to a temporary file first, and
its upload is atomic by nature.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeAlias, TypeVar, cast

from headrace.data import storage
from headrace.errors import UserError

DEFAULT_BYTES_PER_SHARD = 512 * 2**20
_EXTENSION = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9][a-z0-9_-]*)*")
_UNSPEAKABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # surrogates: a file name that is not UTF-8


Place: TypeAlias = "Path | str"
"""A path on this machine, or the URI of one in object storage."""

AnyPlace = TypeVar("AnyPlace", bound="Path | str")


def place_of(location: str) -> Place:
    """Return what a person wrote as a place."""
    return location.rstrip("/") if storage.is_remote(location) else Path(location)


def inside(folder: AnyPlace, name: str) -> AnyPlace:
    """Return the place of a name in a folder."""
    return cast(AnyPlace, f"{folder}/{name}" if isinstance(folder, str) else folder / name)


class ShardWriter(Generic[AnyPlace]):
    """Writes samples into numbered shards `<prefix>-000000.tar`, starting a new one when one is full.

    A shard appears under its name only once it is whole. Leaving the `with` block by an exception drops the
    shard then open and keeps those before it.

    Args:
        directory: where the shards go; made if absent.
        prefix: the shards' names before their number.
        samples_per_shard: most samples in a shard.
        bytes_per_shard: a shard that has reached this many bytes of members is closed.
    """

    def __init__(
        self,
        directory: AnyPlace,
        prefix: str = "shard",
        *,
        samples_per_shard: int = 1000,
        bytes_per_shard: int = DEFAULT_BYTES_PER_SHARD,
    ) -> None:
        if samples_per_shard < 1 or bytes_per_shard < 1:
            raise UserError(
                f"a shard must have room for a sample, got samples_per_shard={samples_per_shard}, "
                f"bytes_per_shard={bytes_per_shard}"
            )
        self.directory = directory
        self.prefix = prefix
        self.samples_per_shard = samples_per_shard
        self.bytes_per_shard = bytes_per_shard
        self.paths: list[AnyPlace] = []
        self._keys: set[str] = set()
        self._shard: _OpenShard[AnyPlace] | None = None
        if isinstance(directory, Path):
            directory.mkdir(parents=True, exist_ok=True)

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append one sample: its key and the bytes of each extension, e.g. {"mp4": ..., "json": ...}.

        Raises:
            UserError: the key or an extension is malformed, the key was written before, there is no member,
                or the shard that would begin here exists already.
        """
        check_sample(key, members)
        if key in self._keys:
            raise UserError(f"two samples have the key {key!r}; every key may be written once")
        if self._shard is None:
            self._shard = _OpenShard(inside(self.directory, shard_name(self.prefix, len(self.paths))))
        self._keys.add(key)
        self._shard.write(key, members)
        if self._shard.samples >= self.samples_per_shard or self._shard.bytes >= self.bytes_per_shard:
            self._finish_shard()

    def close(self) -> None:
        """Give the last shard its name."""
        if self._shard is not None:
            self._finish_shard()

    def _finish_shard(self) -> None:
        assert self._shard is not None
        self._shard.publish()
        self.paths.append(self._shard.path)
        self._shard = None

    def __enter__(self) -> ShardWriter[AnyPlace]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._shard is not None:
            self._shard.discard()
            self._shard = None


def write_shard(path: Place, samples: Iterable[tuple[str, Mapping[str, bytes]]], *, replace: bool = False) -> int:
    """Write one whole shard of (key, members) pairs under the given name, or nothing at all.

    Returns:
        The bytes of all members.

    Raises:
        UserError: as `ShardWriter.write`.
    """
    shard = _OpenShard(path, replace=replace)
    keys: set[str] = set()
    try:
        for key, members in samples:
            check_sample(key, members)
            if key in keys:
                raise UserError(f"two samples have the key {key!r}; every key may be written once")
            keys.add(key)
            shard.write(key, members)
        shard.publish()
    except BaseException:
        shard.discard()
        raise
    return shard.bytes


def shard_name(prefix: str, number: int) -> str:
    """Return the file name of a shard, e.g. "shard-000012.tar"."""
    return f"{prefix}-{number:06d}.tar"


def check_sample(key: str, members: Mapping[str, bytes]) -> None:
    """Refuse what a WebDataset reader would misread or a tar must not hold.

    Raises:
        UserError: with the key or the extension, and what is wrong with it.
    """
    check_key(key)
    if not members:
        raise UserError(f"the sample {key!r} has no members")
    for extension in members:
        if not _EXTENSION.fullmatch(extension):
            raise UserError(
                f"the sample {key!r} has a member {extension!r}; an extension is lower-case letters, digits, "
                "'_' and '-', without the leading dot"
            )


def check_key(key: str) -> None:
    """Refuse a key that is not a relative path of plain names or whose base name holds a dot.

    Raises:
        UserError: with the key and what is wrong with it.
    """
    names = key.split("/")
    if any(name in ("", ".", "..") for name in names) or "\\" in key:
        raise UserError(f"the key {key!r} is not a plain relative path such as 'street/0007'")
    if _UNSPEAKABLE.search(key):
        raise UserError(f"the key {key!r} holds a control character or is not UTF-8; rename the file")
    if "." in names[-1]:
        raise UserError(
            f"the key {key!r} has a dot in its base name, which WebDataset takes for the start of an "
            f"extension; use {names[-1].replace('.', '_')!r}"
        )


class _OpenShard(Generic[AnyPlace]):
    """A shard under a temporary name beside its final one, so that giving it its name is one rename, or one upload."""

    def __init__(self, path: AnyPlace, *, replace: bool = False) -> None:
        if not replace and (path.exists() if isinstance(path, Path) else storage.exists(path)):
            raise UserError(f"{path} exists already; remove it or write into another folder")
        self.path = path
        self.samples = 0
        self.bytes = 0
        self._partial = _partial_of(path)
        self._open = contextlib.ExitStack()
        self._file = self._open.enter_context(self._partial.open("wb"))
        self._tar = self._open.enter_context(tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT))

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        for extension in sorted(members):
            data = members[extension]
            info = tarfile.TarInfo(f"{key}.{extension}")  # mtime, uid and gid are 0 and the owner empty
            info.size, info.mode = len(data), 0o644
            self._tar.addfile(info, io.BytesIO(data))
            self.bytes += len(data)
        self.samples += 1

    def publish(self) -> None:
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())  # or a power cut could leave the name without the bytes
        self._open.close()
        if isinstance(self.path, Path):
            self._partial.replace(self.path)
        else:
            storage.upload(self._partial, self.path)
            self._partial.unlink()

    def discard(self) -> None:
        try:
            self._open.close()
        finally:
            self._partial.unlink(missing_ok=True)


def _partial_of(path: Place) -> Path:
    if isinstance(path, Path):
        return path.with_name(f".{path.name}.{os.getpid()}.partial")
    handle, name = tempfile.mkstemp(prefix="headrace-", suffix=".tar")
    os.close(handle)
    return Path(name)
