"""The training stream, for videos and for images (clips of one frame):

numbers of micro-batches  ->  decode actors  ->  micro-batches, in order
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray

from headrace.batch import Batch
from headrace.cluster.blocks import MicroBatchNumbers, from_row, to_row
from headrace.cluster.ingest import stream_context
from headrace.data.config import PoolSize
from headrace.data.manifest import Manifest
from headrace.data.reader import BatchReader, Plan


class Decode:
    """A decode actor: one process, one CPU, the manifest in shared memory."""

    def __init__(self, manifest: ray.ObjectRef[Manifest], plan: Plan) -> None:
        self._reader = BatchReader(ray.get(manifest), plan)

    def __call__(self, numbers: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
        return to_row(self._reader.read(int(numbers["number"][0])))


def micro_batches(
    manifest: ray.ObjectRef[Manifest], plan: Plan, first: int, last: int, pool: PoolSize, ranks: int = 1
) -> ray.data.Dataset:
    """Return the stream of micro-batches first ... last - 1, one row and one block each.

    Args:
        manifest: reference to the `Manifest` that the plan's order counts.
        plan: which samples stand where, and how they are read.
        first, last: numbers of micro-batches.
        pool: bounds of the decode pool.
        ranks: how many will share the stream.
    """
    stream_context(in_flight_bytes=ranks * plan.data.read_ahead * plan.micro_batch_bytes)
    actors = ray.data.ActorPoolStrategy(min_size=pool.least, max_size=pool.most)
    numbers = ray.data.read_datasource(MicroBatchNumbers(first, last), num_cpus=0, concurrency=1)
    decoded: ray.data.Dataset = numbers.map_batches(
        Decode, fn_constructor_args=(manifest, plan), batch_size=1, compute=actors, num_cpus=1
    )
    return decoded


def batches(dataset: ray.data.Dataset) -> Iterator[Batch]:
    """Iterate over a stream's micro-batches in this process."""
    for block in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2):
        yield from_row(block)
