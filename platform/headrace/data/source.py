"""From what the user wrote as a source to a manifest that fits it; all that can be wrong is said here, before a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from headrace.data import storage
from headrace.data.demo import DemoConfig, make_demo_shards
from headrace.data.manifest import Manifest
from headrace.data.scan import shards_of
from headrace.errors import UserError, did_you_mean

DEMO_FOLDER = Path("demo_shards")

Progress = Callable[[int, int], None]
"""Told what is done and what there is to do."""


def locate(source: str, on_progress: Progress | None = None) -> str:
    """Return the absolute location of a source, made first if it is `demo://street?clips=64&seed=0`.

    Raises:
        UserError: there is no such path or no such demo.
    """
    if source.startswith("demo://"):
        return str(_demo(source, on_progress))
    if storage.is_remote(source):
        return source.rstrip("/")
    path = Path(os.path.normpath(Path(source).expanduser().absolute()))
    if not path.exists():
        raise UserError(f"there is no file or folder at {source!r}")
    return str(path)


def open_manifest(location: str) -> Manifest | None:
    """Return a located source's manifest, checked against its shards; None where it was never indexed.

    Raises:
        UserError: the source holds nothing usable, is not what it says, or changed since it was indexed.
    """
    shards = {shard.path: shard for shard in shards_of(location)}
    manifest = Manifest.load(location)
    if manifest is not None:
        manifest.check_fits(shards)
    return manifest


def _demo(source: str, on_progress: Progress | None) -> Path:
    parts = urlsplit(source)
    if parts.netloc != "street":
        raise UserError(f"there is no demo {parts.netloc!r}: demo://street is the one there is")
    config = DemoConfig()
    for name, value in parse_qsl(parts.query):
        if name not in ("clips", "seed", "width", "height"):
            raise UserError(f"{source!r} sets {name!r}: {did_you_mean(name, ['clips', 'seed', 'width', 'height'])}")
        if not value.isdigit():
            raise UserError(f"{source!r}: {name} is a whole number, got {value!r}")
        config = replace(config, **{name: int(value)})
    folder = DEMO_FOLDER / f"street-{config.clips}x{config.width}x{config.height}-{config.seed}"
    make_demo_shards(folder, config, on_progress)
    return folder.absolute()
