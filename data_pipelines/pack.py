"""Plans -> shards. Each task writes whole shards, so the shards do not depend on who writes them:

plans  ->  write tasks  ->  shards in a hidden folder  ->  all of them under their names, or none
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray.data
from ray.data import TaskPoolStrategy

from headrace.cluster.context import quiet_context
from headrace.data.packing import Item, Progress, ShardPlan, all_or_nothing, write_plan
from headrace.data.shards import Place
from headrace.errors import RunError

SMALL_BYTES = 4 << 30


def pack(
    source: str,
    output: Place,
    plans: Sequence[ShardPlan],
    *,
    workers: int | None,
    overwrite: bool,
    on_progress: Progress,
) -> int:
    """Write all shards of the plans into `output` and return the bytes of their samples.

    Args:
        source: path or URI of the folder or zip that the plans were made of.
        output: folder for the shards, on disk or in object storage.
        plans: of `headrace.data.packing.plan_shards`.
        workers: most Ray tasks at a time, None for as many as there are CPUs; 0 writes in this process. Every
            node of the cluster must reach `source` and `output`.
        overwrite: replace the shards that `output` holds.
        on_progress: told the number of shards done and to do.

    Raises:
        UserError: `output` holds shards and `overwrite` is false.
        RunError: a file cannot be read; nothing is written then.
    """
    with all_or_nothing(output, overwrite=overwrite) as staging:
        write = _write_here if workers == 0 else functools.partial(_write_over_ray, workers=workers)
        written = 0
        on_progress(0, len(plans))
        for done, size in enumerate(write(source, staging, plans), start=1):
            written += size
            on_progress(done, len(plans))
    return written


def needs_ray(plans: Sequence[ShardPlan]) -> bool:
    """Say whether so much is to be copied that starting Ray pays."""
    return len(plans) > 1 and sum(item.size for plan in plans for item in plan.items) > SMALL_BYTES


def _write_here(source: str, staging: Place, plans: Sequence[ShardPlan]) -> Iterator[int]:
    for plan in plans:
        yield write_plan(source, staging, plan)


def _write_over_ray(source: str, staging: Place, plans: Sequence[ShardPlan], workers: int | None) -> Iterator[int]:
    quiet_context()
    rows = [{"number": plan.number, "items": [vars(item) for item in plan.items]} for plan in plans]
    folder = staging.absolute() if isinstance(staging, Path) else staging
    write = functools.partial(_write_task, source=source, staging=folder)
    written = ray.data.from_items(rows, override_num_blocks=len(rows)).map(write, compute=TaskPoolStrategy(workers))
    for row in written.iter_rows():
        if row["error"]:
            raise RunError(row["error"])
        yield row["bytes"]


def _write_task(row: dict[str, Any], source: str, staging: Place) -> dict[str, Any]:
    plan = ShardPlan(row["number"], tuple(Item(**item) for item in row["items"]))
    try:
        return {"bytes": write_plan(source, staging, plan), "error": ""}
    except RunError as error:  # as a value it arrives as it is; raised, wrapped in Ray's traceback
        return {"bytes": 0, "error": str(error)}
