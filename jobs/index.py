"""Index a source: learn once what its samples are and where they lie.

    python jobs/index.py my_videos          a folder of videos, images, WebDataset tars or Parquet files; a zip; a file
    python jobs/index.py s3://bucket/shards

A second run reads only what is new or changed. Samples that cannot be read are named, and left out of training.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from data_pipelines.index import index, needs_ray
from headrace.cluster.launch import ray_cluster
from headrace.data.manifest import Manifest
from headrace.data.parquet import indexed_column, is_of_column
from headrace.data.scan import shards_of
from headrace.errors import exit_with_sentence
from jobs.sources import Bar, cores, locate_or_make, say_exclusions

NAMED_ERRORS = 20


@dataclass(frozen=True)
class Options:
    """Index a source: learn once what its samples are and where they lie."""

    source: Annotated[str, tyro.conf.Positional]
    """Folder of WebDataset tars, of Parquet files, of videos or of images, a zip of images, or one such file; local or
    s3://."""

    column: str = ""
    """Column of Parquet files that holds the images' or videos' bytes; the only one that can be it if not given."""

    anew: bool = False
    """Forget what is known and read everything again."""

    all_errors: bool = False
    """Name every sample that cannot be read, however many."""


def main(arguments: Sequence[str]) -> int:
    """Index, and say what was found."""
    options = tyro.cli(Options, prog="index.py", args=arguments)
    location = locate_or_make(options.source)
    known = None if options.anew else Manifest.load(location)
    column = options.column or indexed_column(known)
    shards = shards_of(location, column)
    if known is not None and not is_of_column(known, column):
        known = None
    before = known.shards() if known else {}
    changed = [shard for shard in shards if before.get(shard.path) != shard]
    with Bar("indexing") as bar:
        if needs_ray(changed):
            with ray_cluster(cpus=cores(), dashboard=False):
                manifest = index(location, shards, known, bar, column)
        else:
            manifest = index(location, shards, known, bar, column)
    _say(manifest, len(shards), len(changed), options.all_errors)
    say_exclusions(manifest)
    manifest.usable()
    return 0


def _say(manifest: Manifest, shards: int, changed: int, all_errors: bool) -> None:
    good = manifest.table.filter(manifest.table["error"].is_null())
    broken = manifest.table.filter(manifest.table["error"].is_valid())
    hours = sum(good["seconds"].to_pylist()) / 3600
    kinds = {kind: good["kind"].to_pylist().count(kind) for kind in sorted(set(good["kind"].to_pylist()))}
    what = (
        ", ".join(f"{count:,} {kind}{'s' if count != 1 else ''}" for kind, count in kinds.items()) or "nothing usable"
    )
    print(f"{manifest.source}: {what} in {shards:,} shards, {hours:.2f} hours ({changed:,} read, the rest was known)")
    labels = len(set(good["label"].drop_null().to_pylist()))
    if labels:
        print(f"labels: {labels} classes")
    if not broken.num_rows:
        return
    print(f"{broken.num_rows:,} cannot be read and are left out:")
    rows = broken.select(["key", "error", "error_message"]).to_pylist()
    for row in rows if all_errors else rows[:NAMED_ERRORS]:
        print(f"  {row['key']}: {row['error']} ({row['error_message']})")
    if len(rows) > NAMED_ERRORS and not all_errors:
        print(f"  ... and {len(rows) - NAMED_ERRORS:,} more: --all-errors names them")


def run() -> None:
    """Run as a command."""
    exit_with_sentence(lambda: main(sys.argv[1:]))


if __name__ == "__main__":
    run()
