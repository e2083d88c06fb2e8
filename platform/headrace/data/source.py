"""From what the user wrote as a source to a manifest that fits it; all that can be wrong is said here, before a run."""

from __future__ import annotations

import os
from pathlib import Path

from headrace.data import storage
from headrace.data.manifest import Manifest
from headrace.data.storage import StoredFile
from headrace.errors import UserError


def locate(source: str) -> str:
    """Return the absolute location of a source.

    Raises:
        UserError: there is no such path.
    """
    if storage.is_remote(source):
        return source.rstrip("/")
    path = Path(os.path.normpath(Path(source).expanduser().absolute()))
    if not path.exists():
        raise UserError(f"there is no file or folder at {source!r}")
    return str(path)


def open_manifest(location: str, shards: list[StoredFile]) -> Manifest | None:
    """Return a located source's manifest, checked against its shards; None where it was never indexed.

    Raises:
        UserError: the source changed since it was indexed.
    """
    manifest = Manifest.load(location)
    if manifest is not None:
        manifest.check_fits({shard.path: shard for shard in shards})
    return manifest
