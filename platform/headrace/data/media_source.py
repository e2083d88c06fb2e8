"""A folder or a zip full of videos and images, as one list of files and one way to read them.

Hidden files and folders, macOS's resource forks and everything that is no media by its name are left out.
Nothing is ever unpacked: a name in an archive is a label, not a path.
"""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Protocol

from headrace.data import storage
from headrace.data.media import media_kind
from headrace.errors import RunError, UserError


@dataclass(frozen=True, order=True)
class MediaFile:
    """A file by its name inside the source ("train/cat/01.jpg", always with "/") and its size in bytes."""

    path: str
    size: int


class MediaSource(Protocol):
    """What packing needs of a place where media lie."""

    def files(self) -> list[MediaFile]:
        """Return all media, sorted by path.

        Raises:
            UserError: there is none, or one of them cannot be read.
        """
        ...

    def read(self, path: str) -> bytes:
        """Return the bytes of one file.

        Raises:
            RunError: it cannot be read.
        """
        ...


@lru_cache(maxsize=1)
def open_source(location: str) -> MediaSource:
    """Return the folder or zip at a path or URI; a process reads the index of a zip only once.

    Raises:
        UserError: there is no such folder or zip.
    """
    if not storage.is_remote(location) and Path(location).is_dir():
        return _Folder(location)
    try:
        return _Zip(location)
    except FileNotFoundError as error:
        raise UserError(f"there is no folder or zip at {location!r}") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"{location!r} is neither a folder nor a sound zip ({error})") from error


class _Folder:
    def __init__(self, root: str) -> None:
        self._root = root

    def files(self) -> list[MediaFile]:
        sizes = {file.path: file.size for file in storage.list_files(self._root)}
        return [MediaFile(name, sizes[name]) for name in _media_names(sizes, self._root)]

    def read(self, path: str) -> bytes:
        try:
            with storage.open_file(storage.join(self._root, path)) as file:
                return file.read()
        except OSError as error:
            raise RunError(f"{path!r} in {self._root!r} cannot be read: {error}") from error


class _Zip:
    def __init__(self, location: str) -> None:
        self._location = location
        self._zip = zipfile.ZipFile(storage.open_file(location))

    def files(self) -> list[MediaFile]:
        entries = {entry.filename: entry for entry in self._zip.infolist() if not entry.is_dir()}
        names = _media_names(entries, self._location)
        locked = [name for name in names if entries[name].flag_bits & 1]
        if locked:
            raise UserError(f"{self._location!r} is encrypted ({locked[0]!r}); unpack it into a folder first")
        return [MediaFile(name, entries[name].file_size) for name in names]

    def read(self, path: str) -> bytes:
        try:
            return self._zip.read(path)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            raise RunError(f"{path!r} in {self._location!r} cannot be read: {error}") from error


def _media_names(names: Iterable[str], source: str) -> list[str]:
    """Return the names that are media, sorted; complain with what is there instead when there is none."""
    shown = [name for name in names if not _is_hidden(name)]
    media = sorted(name for name in shown if media_kind(name))
    if not media:
        found = Counter(PurePosixPath(name).suffix or "no extension" for name in shown).most_common(3)
        there = ", ".join(f"{count} with {suffix}" for suffix, count in found) or "no files"
        raise UserError(f"{source!r} holds no videos or images by their extensions; it holds {there}")
    return media


def _is_hidden(name: str) -> bool:
    return any(part == "__MACOSX" or (part[:1] == "." and part.strip(".")) for part in name.split("/"))
