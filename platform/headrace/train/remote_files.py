"""Checkpoints in object storage, by torch.distributed.checkpoint's own readers and writers over `data.storage`.

Each rank writes its share to this machine's temporary folder and sends it from there, in several parts at a time; what
is read is read in ranges. Both try again for minutes when the storage is away.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import FileSystem

from headrace.data import storage

_Name = str | os.PathLike[str]


class RemoteFiles(FileSystem):
    """Files of object storage, as far as checkpoints need them. Names are locations, which `Path` would spoil."""

    @contextlib.contextmanager
    def create_stream(self, path: _Name, mode: str) -> Iterator[io.IOBase]:
        """Open a file to be read, or to be written; it appears when it is closed, whole."""
        if "w" not in mode:
            with storage.open_file(str(path)) as file:
                yield cast(io.IOBase, file)
            return
        with tempfile.TemporaryDirectory(prefix="headrace-checkpoint-") as folder:
            written = Path(folder) / "file"
            with written.open("wb") as stream:  # which the caller may close, too
                yield cast(io.IOBase, stream)
            storage.upload(written, str(path))

    def concat_path(self, path: _Name, suffix: str) -> str:
        """Return the location of a file in a folder."""
        return f"{path}/{suffix}"

    def rename(self, path: _Name, new_path: _Name) -> None:
        """Give a file another name."""
        storage.move(str(path), str(new_path))

    def init_path(self, path: _Name) -> str:
        """Return a location as it is."""
        return str(path)

    def mkdir(self, path: _Name) -> None:
        """Do nothing: object storage has no folders."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: _Name) -> bool:
        """Say whether this is for a location."""
        return storage.is_remote(str(checkpoint_id))

    def exists(self, path: _Name) -> bool:
        """Say whether there is such a file."""
        return storage.exists(str(path), patient=True)

    def rm_file(self, path: _Name) -> None:
        """Delete a file."""
        storage.delete(str(path))


class RemoteWriter(dcp.FileSystemWriter):
    """Writes a checkpoint to a location."""

    def __init__(self, location: str) -> None:
        super().__init__(location, sync_files=False)
        self.fs = RemoteFiles()
        self.path = self.fs.init_path(location)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: _Name) -> bool:
        """See `RemoteFiles`."""
        return RemoteFiles.validate_checkpoint_id(checkpoint_id)


class RemoteReader(dcp.FileSystemReader):
    """Reads a checkpoint from a location."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.fs = RemoteFiles()
        self.path = self.fs.init_path(location)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: _Name) -> bool:
        """See `RemoteFiles`."""
        return RemoteFiles.validate_checkpoint_id(checkpoint_id)
