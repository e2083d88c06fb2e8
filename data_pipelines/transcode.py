"""Shards -> shards, their videos encoded anew. Samples keep their order, so the shards do not depend on who did it:

samples, a few a task  ->  transcode tasks  ->  samples, in order  ->  shards in a hidden folder
                                                                   ->  all of them under their names, or none
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import TaskPoolStrategy

from headrace.cluster.context import quiet_context
from headrace.data.decode.limits import Limits
from headrace.data.decode_cost import Comparison
from headrace.data.members import Item
from headrace.data.packing import Progress, all_or_nothing
from headrace.data.shards import Place, ShardWriter
from headrace.data.storage import ByteRange
from headrace.data.transcode import Encoding
from headrace.data.transcode_sample import Measure, Transcoded, transcode_sample
from headrace.errors import RunError

SMALL_BYTES = 64 << 20
TASK_SAMPLES = 8
TASK_BYTES = 64 << 20

_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("extensions", pa.list_(pa.string())),
        ("data", pa.list_(pa.large_binary())),
        ("bytes_before", pa.int64()),
        ("bytes_after", pa.int64()),
        ("comparison", pa.list_(pa.float64())),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("stop", pa.string()),  # why the whole run cannot go on
    ]
)


@dataclass(frozen=True)
class Work:
    """What is done with each sample.

    Attributes:
        encoding: of the videos.
        limits: how large a sample may be, and how long it may take.
        measure: how decoding is measured, on the samples whose numbers are in `measured`.
        measured: numbers of samples.
    """

    encoding: Encoding
    limits: Limits
    measure: Measure
    measured: frozenset[int]

    def on(self, number: int, item: Item) -> Transcoded:
        """Transcode sample number `number`."""
        return transcode_sample(item, self.encoding, self.limits, self.measure if number in self.measured else None)


@dataclass
class Outcome:
    """What became of the samples.

    Attributes:
        samples, shards: that were written.
        bytes_before, bytes_after: of the media of the samples that were written.
        left_out: the samples that were not, without members.
        comparisons: of those that were measured.
    """

    samples: int = 0
    shards: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    left_out: list[Transcoded] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)

    def count(self, sample: Transcoded) -> None:
        """Take in what became of one sample."""
        if sample.reason:
            self.left_out.append(sample)
            return
        self.samples += 1
        self.bytes_before += sample.bytes_before
        self.bytes_after += sample.bytes_after
        if sample.comparison is not None:
            self.comparisons.append(sample.comparison)


def transcode(
    items: Sequence[Item],
    output: Place,
    work: Work,
    *,
    samples_per_shard: int,
    bytes_per_shard: int,
    workers: int | None,
    overwrite: bool,
    on_progress: Progress,
) -> Outcome:
    """Transcode all samples into shards in `output`, in order.

    Args:
        items: of `headrace.data.members.plan_items`.
        output: folder for the shards, on disk or in object storage; only this process writes to it.
        work: what is done with each.
        samples_per_shard, bytes_per_shard: a shard that has reached one of them takes no further sample.
        workers: most Ray tasks at a time, None for as many as there are CPUs; 0 transcodes in this process.
        overwrite: replace the shards that `output` holds.
        on_progress: told the number of samples done and to do.

    Raises:
        UserError: `output` holds shards and `overwrite` is false, or a shard would have room for nothing.
        RunError: the storage failed, or no sample is left; nothing is written then.
    """
    outcome = Outcome()
    run = _transcode_here if workers == 0 else functools.partial(_transcode_over_ray, workers=workers)
    with all_or_nothing(output, overwrite=overwrite) as staging:
        on_progress(0, len(items))
        with ShardWriter(staging, samples_per_shard=samples_per_shard, bytes_per_shard=bytes_per_shard) as shards:
            for done, sample in enumerate(run(items, work), start=1):
                outcome.count(sample)
                if not sample.reason:
                    shards.write(sample.key, sample.members)
                on_progress(done, len(items))
        if not outcome.samples:
            first = outcome.left_out[0]
            raise RunError(
                f"not one of {len(items):,} samples could be transcoded; the first, {first.key!r}: {first.reason} "
                f"({first.message})"
            )
        outcome.shards = len(shards.paths)
    return outcome


def needs_ray(size: int) -> bool:
    """Say whether so many bytes are to be transcoded that starting Ray pays."""
    return size > SMALL_BYTES


def _transcode_here(items: Sequence[Item], work: Work) -> Iterator[Transcoded]:
    return (work.on(number, item) for number, item in enumerate(items))


def _transcode_over_ray(items: Sequence[Item], work: Work, workers: int | None) -> Iterator[Transcoded]:
    quiet_context().execution_options.preserve_order = True
    tasks = [{"first": first, "items": json.dumps([asdict(item) for item in part])} for first, part in _tasks(items)]
    transcoded = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        functools.partial(_task, work=work), batch_size=1, batch_format="pyarrow", compute=TaskPoolStrategy(workers)
    )
    for block in transcoded.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in pa.Table.to_pylist(block):
            if row["stop"]:
                raise RunError(row["stop"])
            yield _from_row(row)


def _tasks(items: Sequence[Item]) -> Iterator[tuple[int, Sequence[Item]]]:
    """Yield runs of neighbouring samples, each with the number of its first."""
    first, size = 0, 0
    for number, item in enumerate(items):
        if number > first and (number - first == TASK_SAMPLES or size + item.media.size > TASK_BYTES):
            yield first, items[first:number]
            first, size = number, 0
        size += item.media.size
    yield first, items[first:]


def _task(task: pa.Table, work: Work) -> pa.Table:
    (row,) = task.to_pylist()
    rows: list[dict[str, Any]] = []
    try:
        for number, fields in enumerate(json.loads(row["items"]), start=row["first"]):
            item = Item(**{**fields, "media": ByteRange(**fields["media"])})
            rows.append(_to_row(work.on(number, item)))
    except RunError as error:  # as a value it arrives as it is; raised, wrapped in Ray's traceback
        rows = [{"stop": str(error)}]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _to_row(sample: Transcoded) -> dict[str, Any]:
    return {
        "key": sample.key,
        "extensions": list(sample.members),
        "data": list(sample.members.values()),
        "bytes_before": sample.bytes_before,
        "bytes_after": sample.bytes_after,
        "comparison": None if sample.comparison is None else list(asdict(sample.comparison).values()),
        "reason": sample.reason,
        "message": sample.message,
        "stop": "",
    }


def _from_row(row: dict[str, Any]) -> Transcoded:
    return Transcoded(
        key=row["key"],
        members=dict(zip(row["extensions"], row["data"], strict=True)),
        bytes_before=row["bytes_before"],
        bytes_after=row["bytes_after"],
        comparison=None if row["comparison"] is None else Comparison(*row["comparison"]),
        reason=row["reason"],
        message=row["message"],
    )
