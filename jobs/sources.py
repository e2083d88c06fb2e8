"""What the entry points share: a source that is checked, and indexed if nobody did it before."""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from data_pipelines.index import index
from headrace.data.config import DataConfig
from headrace.data.manifest import Manifest
from headrace.data.mixture import Part, format_mixture, parse_mixture
from headrace.data.parquet import bytes_read_for_each, indexed_column, is_of_column
from headrace.data.scan import shards_of
from headrace.data.source import locate
from headrace.data.split import Split, split_samples
from headrace.data.storage import StoredFile
from headrace.demo import SCHEME, make_demo
from headrace.errors import UserError
from headrace.recipe import Recipe, replace_all

SLOW_SHUFFLE = 4.0
"""Bytes that a full shuffle may read for each that it wants before a run says so."""


@dataclass(frozen=True)
class Source:
    """A source that exists and is what it says.

    Attributes:
        location: absolute path or URI.
        shards: the files that hold its samples.
        known: its manifest, None where it was never indexed.
        column: of Parquet files, where the media are; "" for the only one that can be it.
    """

    location: str
    shards: list[StoredFile]
    known: Manifest | None
    column: str = ""

    def manifest(self) -> Manifest:
        """Return the manifest; index first if there is none. Runs over Ray if Ray is up. Says what is excluded."""
        manifest = self.known
        if manifest is None:
            with Bar("indexing") as bar:
                manifest = index(self.location, self.shards, None, bar, self.column)
        say_exclusions(manifest)
        return manifest


def open_source(source: str, column: str = "") -> Source:
    """Return a source, checked.

    Args:
        source: what the user wrote.
        column: of Parquet files, where the media are; "" for the one that was indexed, or the only one that can be it.

    Raises:
        UserError: it does not exist, holds nothing usable, or changed since it was indexed.
    """
    location = locate_or_make(source)
    known = Manifest.load(location)
    column = column or indexed_column(known)
    shards = shards_of(location, column)
    if known is not None and is_of_column(known, column):
        known.check_fits({shard.path: shard for shard in shards})
    else:
        known = None
    return Source(location, shards, known, column)


@dataclass(frozen=True)
class RunSource:
    """What a run reads: a source, or a mixture of several.

    Attributes:
        data: how its samples are split and weighted.
        location: as `Source.location`; of a mixture, those of its sources with their weights.
        parts: the sources.
        validation: what is held out in place of a share of these.
    """

    data: DataConfig
    location: str
    parts: tuple[Source, ...]
    validation: RunSource | None = None

    @property
    def all_parts(self) -> tuple[Source, ...]:
        """The sources, and those that are held out."""
        return self.parts + (self.validation.parts if self.validation else ())

    def split(self) -> Split:
        """Return the samples to train on and those held out, and say how many; index first what was never indexed.

        Raises:
            UserError: no sample can be used, or the settings do not fit the samples.
        """
        validation = self.validation.split().training if self.validation else None
        manifests = [part.manifest().usable() for part in self.parts]
        split = split_samples(self.location, manifests, self.data, validation)
        if self.data.holds_out:
            print(split)
        return split


def open_sources(data: DataConfig) -> RunSource:
    """Return the source of a run, or the mixture of several, checked; see `open_source`.

    Raises:
        UserError: also, a source is to be trained on and held out.
    """
    mixture = parse_mixture(data.source)
    sources = tuple(open_source(part.source, data.column) for part in mixture)
    located = [Part(source.location, part.weight) for source, part in zip(sources, mixture, strict=True)]
    if data.validation is None:
        return RunSource(data, format_mixture(located), sources)
    validation = open_sources(DataConfig(source=data.validation, column=data.column))
    both = {part.location for part in sources} & {part.location for part in validation.parts}
    if both:
        raise UserError(f"--data.validation names {min(both)!r}, which is trained on: name what training never sees")
    return RunSource(data, format_mixture(located), sources, validation)


def open_for(recipe: Recipe) -> tuple[Recipe, RunSource]:
    """Return the recipe with its sources' absolute locations, which mean the same anywhere, and these, checked."""
    source = open_sources(recipe.data)
    located = {"data.source": source.location}
    if source.validation is not None:
        located["data.validation"] = source.validation.location
    return replace_all(recipe, located), source


def locate_or_make(source: str) -> str:
    """Return a source's absolute location; a demo:// source is made first.

    Raises:
        UserError: there is no such path or demo.
    """
    if not source.startswith(SCHEME):
        return locate(source)
    with Bar("drawing street scenes") as bar:
        return str(make_demo(source, bar))


def say_exclusions(manifest: Manifest) -> None:
    """Say how many samples somebody took out, if any."""
    excluded = manifest.exclusions().read()
    count = manifest.count_of(excluded)
    if count:
        reasons = Counter(excluded[key].reason for key in excluded).most_common(3)
        named = ", ".join(f"{number:,} x {reason}" for reason, number in reasons)
        print(
            f"{manifest.source}: {count:,} samples are excluded ({named}); jobs/quarantine.py RUN --include undoes it"
        )


def say_slow_shuffle(manifest: Manifest, shuffle: str) -> None:
    """Say so if a full shuffle reads much more of a Parquet source than it wants, and what helps."""
    times = bytes_read_for_each(manifest) if shuffle == "full" else 1.0
    if times > SLOW_SHUFFLE:
        print(
            f"{manifest.source}: its row groups are so large that a full shuffle reads {times:,.0f} bytes for each "
            f"that it wants: pack it once (`python jobs/pack.py {manifest.source} SHARDS`), or take "
            f"--data.shuffle chunk"
        )


def cores() -> int:
    """Return the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Bar:
    """A progress bar that shows itself once there is progress, on a terminal; else a line then, and one at the end."""

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
            if not self._progress.console.is_terminal:
                print(f"{self._title}: {total:,}", file=sys.stderr, flush=True)
            self._progress.start()
            self._bar = self._progress.add_task(self._title, total=total)
        self._progress.update(self._bar, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._progress.stop()
