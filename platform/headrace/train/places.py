"""Where a checkpoint lies: written beside its name, completed at once, deleted.

disk              .step-00000200.partial/  ->  all ranks have written  ->  step-00000200/, by a rename
object storage    step-00000200/           ->  all ranks have written  ->  + progress.json, which makes it complete
"""

from __future__ import annotations

import json
import os
import shutil
from abc import ABC, abstractmethod
from dataclasses import asdict
from pathlib import Path

import torch.distributed.checkpoint as dcp

from headrace.data import storage
from headrace.train.progress import PROGRESS_FILE, CheckpointPath, Progress
from headrace.train.remote_files import RemoteFiles, RemoteReader, RemoteWriter


class Place(ABC):
    """The place of one checkpoint. Storage that fails raises OSError."""

    @abstractmethod
    def make_room(self) -> None:
        """Take away what an earlier attempt left; one rank does."""

    @abstractmethod
    def writer(self) -> dcp.StorageWriter:
        """Return what writes a rank's share."""

    @abstractmethod
    def complete(self, progress: Progress) -> None:
        """Make a checkpoint of what all ranks have written; one rank does."""

    @abstractmethod
    def reader(self) -> dcp.StorageReader:
        """Return what reads a complete checkpoint."""

    @abstractmethod
    def remove(self) -> None:
        """Delete the checkpoint."""


def place_of(path: CheckpointPath) -> Place:
    """Return the place that a path or a location names."""
    return RemotePlace(path) if isinstance(path, str) else LocalPlace(path)


class LocalPlace(Place):
    """A folder on a disk, or on one that all nodes share."""

    def __init__(self, path: Path) -> None:
        self._path, self._partial = path, path.with_name(f".{path.name}.partial")

    def make_room(self) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)

    def writer(self) -> dcp.StorageWriter:
        return dcp.FileSystemWriter(self._partial)

    def complete(self, progress: Progress) -> None:
        (self._partial / PROGRESS_FILE).write_text(_text(progress))
        flush(self._partial)
        shutil.rmtree(self._path, ignore_errors=True)
        self._partial.rename(self._path)
        flush(self._path.parent)

    def reader(self) -> dcp.StorageReader:
        return dcp.FileSystemReader(self._path)

    def remove(self) -> None:
        shutil.rmtree(self._path)


class RemotePlace(Place):
    """A prefix in object storage, where nothing can be renamed as a whole."""

    def __init__(self, location: str) -> None:
        self._location = location

    def make_room(self) -> None:
        self.remove()

    def writer(self) -> dcp.StorageWriter:
        return RemoteWriter(self._location)

    def complete(self, progress: Progress) -> None:
        with RemoteFiles().create_stream(f"{self._location}/{PROGRESS_FILE}", "wb") as file:
            file.write(_text(progress).encode())

    def reader(self) -> dcp.StorageReader:
        return RemoteReader(self._location)

    def remove(self) -> None:
        names = storage.names_in(self._location, patient=True)
        for name in sorted(names, key=lambda name: name != PROGRESS_FILE):  # first what makes it complete
            storage.delete(f"{self._location}/{name}")


def flush(folder: Path) -> None:
    """Make a folder's files and names durable, so that a power cut cannot leave a complete name on torn files."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_file() or path == folder:
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _text(progress: Progress) -> str:
    return json.dumps(asdict(progress)) + "\n"
