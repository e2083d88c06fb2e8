"""Shards -> manifest. Only shards that are new or changed are read:

changed shards  ->  scan tasks  ->  rows, joined with those of unchanged shards
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from headrace.cluster.context import quiet_context
from headrace.data.manifest import Manifest, table_of
from headrace.data.scan import scan_shard
from headrace.data.storage import StoredFile

SMALL_SHARDS = 64
SMALL_BYTES = 512 << 20
TASK_BYTES = 64 << 20
TASK_SHARDS = 64

Progress = Callable[[int, int], None]


def index(
    source: str,
    shards: list[StoredFile],
    known: Manifest | None = None,
    on_progress: Progress | None = None,
    column: str = "",
) -> Manifest:
    """Return the source's manifest, saved.

    Args:
        source: absolute location.
        shards: what `shards_of(source)` gave.
        known: the manifest so far, whose rows are kept where their shard did not change.
        on_progress: told the number of shards done and to do.
        column: of Parquet files, where the media are; see `shards_of`.
    """
    before = known.shards() if known else {}
    changed = [shard for shard in shards if before.get(shard.path) != shard]
    tables = [] if known is None else [_rows_of(known, {shard.path for shard in shards} - _paths(changed))]
    done = 0
    for table, count in _scan(source, changed, column):
        tables.append(table)
        done += count
        if on_progress is not None:
            on_progress(done, len(changed))
    table = pa.concat_tables([table_of([]), *tables]).sort_by([("shard", "ascending"), ("offset", "ascending")])
    manifest = Manifest(source, table)
    manifest.save()
    return manifest


def needs_ray(shards: list[StoredFile]) -> bool:
    """Say whether so much is to be read that starting Ray pays."""
    return len(shards) > SMALL_SHARDS or sum(shard.size for shard in shards) > SMALL_BYTES


def _scan(source: str, shards: list[StoredFile], column: str) -> Iterator[tuple[pa.Table, int]]:
    tasks = list(_tasks(shards))
    if not ray.is_initialized():
        for task in tasks:
            for shard in task:
                yield table_of(scan_shard(source, shard, column)), 1
        return
    quiet_context()
    items = [{"shards": [asdict(shard) for shard in task]} for task in tasks]
    scanned = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        partial(_scan_task, source=source, column=column), batch_size=1, batch_format="pyarrow"
    )
    for table in scanned.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield table, len(pc.unique(table["shard"]))


def _scan_task(task: pa.Table, source: str, column: str) -> pa.Table:
    shards = [StoredFile(**shard) for shard in task["shards"][0].as_py()]
    return table_of(row for shard in shards for row in scan_shard(source, shard, column))


def _tasks(shards: list[StoredFile]) -> Iterator[list[StoredFile]]:
    """Group neighbouring shards so that a task is worth its start and progress is still seen."""
    task: list[StoredFile] = []
    for shard in shards:
        if task and (len(task) == TASK_SHARDS or sum(s.size for s in task) + shard.size > TASK_BYTES):
            yield task
            task = []
        task.append(shard)
    if task:
        yield task


def _rows_of(manifest: Manifest, paths: set[str]) -> pa.Table:
    return manifest.table.filter(pc.is_in(manifest.table["shard"], pa.array(sorted(paths), pa.string())))


def _paths(shards: list[StoredFile]) -> set[str]:
    return {shard.path for shard in shards}
