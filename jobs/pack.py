"""Pack a folder or zip of videos or images, and a CSV about them, or Parquet files, into WebDataset shards.

    python jobs/pack.py my_videos shards
    python jobs/pack.py images.zip shards --metadata index.csv --label-column label --where split=train
    python jobs/pack.py hugging_face_dataset shards

The media are copied as they are, never encoded again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from data_pipelines.pack import needs_ray, pack
from headrace.data.media_source import open_source
from headrace.data.members import plan_items as plan_indexed
from headrace.data.metadata_csv import Join, Table, read_table
from headrace.data.packing import check_output, join_table, plan_items, plan_shards
from headrace.data.parquet_scan import holds_only_tables
from headrace.data.repack import repack
from headrace.data.shards import place_of
from headrace.errors import UserError, exit_with_sentence
from headrace.observe.figures import plural
from jobs.sources import Bar, cores
from jobs.sources import open_source as open_indexed

NAMED_ROWS = 5


@dataclass(frozen=True)
class Options:
    """Pack a folder or zip of videos or images, and a CSV about them, into WebDataset shards."""

    source: Annotated[str, tyro.conf.Positional]
    """Folder, searched to the bottom, or zip; or Parquet files, whose other columns become metadata and label, and
    whose rows stay in their order; local or s3://."""

    output: Annotated[str, tyro.conf.Positional]
    """Folder for the shards, shard-000000.tar and so on; local or s3://."""

    metadata: Path | None = None
    """CSV with a row for each file to pack; every column goes into the sample's json."""

    key_column: str | None = None
    """Column that names the file: its path inside the source, or its name if only one file has it; with or
    without extension. By default the column that fits the most files."""

    label_column: str | None = None
    """Column that is also the sample's label."""

    where: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """COLUMN=VALUE: take only such rows. Given several times, all must hold."""

    samples_per_shard: int = 1000
    """Most samples in a shard."""

    megabytes_per_shard: int = 512
    """A shard that has reached this size takes no further sample."""

    column: str = ""
    """Column of Parquet files that holds the media; the only one that can be it if not given."""

    seed: int | None = 0
    """Deals the samples to shards in a random order; None keeps the order of their paths."""

    workers: int | None = None
    """Ray tasks at a time on this machine; 0 packs in this process. By default only large jobs start Ray."""

    overwrite: bool = False
    """Replace the shards that OUTPUT holds."""


def main(arguments: Sequence[str]) -> int:
    """Plan, write, and say what was left out."""
    options = tyro.cli(Options, prog="pack.py", args=arguments)
    _check(options)
    if holds_only_tables(options.source):
        _pack_tables(options)
        return 0
    files = open_source(options.source).files()
    table, join = None, None
    if options.metadata is not None:
        table = read_table(options.metadata)
        join = join_table(files, table, key_column=options.key_column, where=options.where)
        _say_join(len(files), table, join)
    plans = plan_shards(
        plan_items(files, table, join, options.label_column),
        samples_per_shard=options.samples_per_shard,
        bytes_per_shard=options.megabytes_per_shard << 20,
        seed=options.seed,
    )
    workers = 0 if options.workers is None and not needs_ray(plans) else options.workers
    with Bar("packing") as bar, _cluster(workers):
        size = pack(
            options.source,
            place_of(options.output),
            plans,
            workers=workers,
            overwrite=options.overwrite,
            on_progress=bar,
        )
    samples = sum(len(plan.items) for plan in plans)
    print(f"{options.output}: {samples:,} samples in {plural(len(plans), 'shard')}, {size / 2**20:,.1f} MB")
    return 0


def _pack_tables(options: Options) -> None:
    """Pack Parquet files: they are indexed first, and bring their metadata and labels with them."""
    if options.metadata is not None:
        raise UserError("--metadata is about a folder or a zip: Parquet files bring their own columns")
    manifest = open_indexed(options.source, options.column).manifest()
    with Bar("packing") as bar:
        done = repack(
            plan_indexed(manifest.usable()),
            place_of(options.output),
            samples_per_shard=options.samples_per_shard,
            bytes_per_shard=options.megabytes_per_shard << 20,
            overwrite=options.overwrite,
            on_progress=bar,
        )
    for reason, count in manifest.errors().most_common():
        print(f"  {count:,} rows are left out: {reason}")
    if done.left_out:
        print(f"  {len(done.left_out):,} rows are of a format that has no name in a shard: {done.left_out[0]} ...")
    size = done.media_bytes / 2**20
    print(f"{options.output}: {done.samples:,} samples in {plural(done.shards, 'shard')}, {size:,.1f} MB")


def _cluster(workers: int | None) -> AbstractContextManager[object]:
    if workers == 0:
        return nullcontext()
    from headrace.cluster.launch import ray_cluster  # imports torch, which takes longer than most packing

    return ray_cluster(cpus=workers or cores(), dashboard=False)


def _check(options: Options) -> None:
    """Complain of what can be known before anything is read."""
    check_output(place_of(options.output), overwrite=options.overwrite)
    if options.workers is not None and options.workers < 0:
        raise UserError(f"--workers counts Ray tasks, or is 0 for none, got {options.workers}")
    if options.metadata is None:
        for name in ("key_column", "label_column", "where"):
            if getattr(options, name):
                raise UserError(f"--{name.replace('_', '-')} is about a CSV; give one with --metadata")


def _say_join(files: int, table: Table, join: Join) -> None:
    print(f"{table.path}: column {join.key_column!r} names {len(join.rows):,} of {files:,} files")
    if len(join.rows) < files:
        print(f"  {files - len(join.rows):,} files without a row are left out")
    if join.without_file:
        named = ", ".join(join.without_file[:NAMED_ROWS])
        more = ", ..." if len(join.without_file) > NAMED_ROWS else ""
        print(f"  {len(join.without_file):,} rows have no file: {named}{more}")


def run() -> None:
    """Run as a command."""
    exit_with_sentence(lambda: main(sys.argv[1:]))


if __name__ == "__main__":
    run()
