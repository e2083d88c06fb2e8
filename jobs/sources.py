"""What the entry points share: a source that is checked, and indexed if nobody did it before."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from data_pipelines.index import index
from headrace.data.manifest import Manifest
from headrace.data.scan import shards_of
from headrace.data.source import locate, open_manifest
from headrace.data.storage import StoredFile
from headrace.demo import SCHEME, make_demo


@dataclass(frozen=True)
class Source:
    """A source that exists and is what it says.

    Attributes:
        location: absolute path or URI.
        shards: the files that hold its samples.
        known: its manifest, None where it was never indexed.
    """

    location: str
    shards: list[StoredFile]
    known: Manifest | None

    def manifest(self) -> Manifest:
        """Return the manifest; index first if there is none. Runs over Ray if Ray is up."""
        if self.known is not None:
            return self.known
        with Bar("indexing") as bar:
            return index(self.location, self.shards, None, bar)


def open_source(source: str) -> Source:
    """Return a source, checked.

    Raises:
        UserError: it does not exist, holds nothing usable, or changed since it was indexed.
    """
    location = locate_or_make(source)
    shards = shards_of(location)
    return Source(location, shards, open_manifest(location, shards))


def locate_or_make(source: str) -> str:
    """Return a source's absolute location; a demo:// source is made first.

    Raises:
        UserError: there is no such path or demo.
    """
    if not source.startswith(SCHEME):
        return locate(source)
    with Bar("drawing street scenes") as bar:
        return str(make_demo(source, bar))


def cores() -> int:
    """Return the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Bar:
    """A progress bar that shows itself once there is progress, on a terminal; else one line at the end."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: TaskID | None = None
        self._progress = Progress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(file=sys.stderr),
            transient=True,
        )

    def __enter__(self) -> Bar:
        return self

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            self._progress.start()
            self._bar = self._progress.add_task(self._title, total=total)
        self._progress.update(self._bar, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._progress.stop()
