"""The training stream, for videos and for images (clips of one frame):

numbers of micro-batches  ->  decode actors  ->  strips of micro-batches, in order
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray

from headrace.batch import BatchStream
from headrace.cluster.blocks import from_row, to_row
from headrace.cluster.context import HOLD_NONE, died_before, stream_context
from headrace.cluster.numbers import StripNumbers
from headrace.data.agenda import Agenda
from headrace.data.config import PoolSize
from headrace.data.echo import unfold
from headrace.data.reader import Plan, RunReader
from headrace.data.split import Split

_CAREFUL_MICRO_BATCHES = 16
"""More than Ray gives to an actor at a time: whatever an actor died of is among as many that its successor reads."""


class Decode:
    """A decode actor: one process, one CPU, the manifests in shared memory.

    One that stands in for an actor that died decodes its first micro-batches in isolation: if it was a clip that
    killed the decoder, this costs the clip, and not one actor after the other.
    """

    def __init__(self, split: ray.ObjectRef[Split], plan: Plan) -> None:
        samples = ray.get(split)
        self._reader = RunReader(samples, plan)
        self._careful = RunReader(samples, plan, isolated=True)
        self._careful_for = _CAREFUL_MICRO_BATCHES if died_before() else 0

    def __call__(self, numbers: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
        number = int(numbers["number"][0])
        if self._careful_for == 0:
            return to_row(self._reader.read_strip(number))
        strip = self._careful.read_strip(number)
        self._careful_for -= 1
        if self._careful_for == 0:
            self._careful.close()
        return to_row(strip)


def micro_batches(
    split: ray.ObjectRef[Split],
    plan: Plan,
    agenda: Agenda,
    pool: PoolSize,
    ranks: int = 1,
    *,
    step: int = 0,
    first: int = 0,
    stream: int = 0,
    store_bytes: float = math.inf,
) -> ray.data.Dataset:
    """Return a stream of a run's micro-batches as strips, one row and one block each.

    Args:
        split: reference to the samples; the plan's order counts those of training.
        plan: which samples stand where, and how they are read.
        agenda: which micro-batches are consumed, and when.
        pool: bounds of the decode pool, of all streams together.
        ranks: how many will share the streams.
        step, first: completed steps, and the next micro-batch of training.
        stream: which of `plan.data.streams`.
        store_bytes: of the object store for all streams together, which keep half of it at most.
    """
    streams = plan.data.streams
    ahead = ranks // streams * plan.data.read_ahead * plan.micro_batch_bytes
    stream_context(in_flight_bytes=int(min(ahead, store_bytes / 2 / streams)))
    size = pool.of_stream(stream, streams)
    actors = ray.data.ActorPoolStrategy(min_size=size.least, max_size=size.most)
    source = StripNumbers(agenda, plan.echo, step, first, stream, streams)
    numbers = ray.data.read_datasource(source, num_cpus=0, concurrency=1, override_num_blocks=1)
    decoded: ray.data.Dataset = numbers.map_batches(
        Decode,
        fn_constructor_args=(split, plan),
        batch_size=1,
        compute=actors,
        num_cpus=1,
        num_gpus=plan.data.decoder_gpus,
        resources={name: 1.0} if (name := plan.data.decoder_resource) else None,
        memory=0,  # else Ray sets it to the size of a block, and nodes that name no memory are never asked for
    )
    return decoded


def batches(dataset: ray.data.Dataset, agenda: Agenda) -> BatchStream:
    """Iterate over all micro-batches of a stream in this process."""
    blocks = iter(dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=HOLD_NONE))
    yield from unfold(map(from_row, blocks), agenda.numbers(step=0, first=0))
    next(blocks, None)  # there is none: Ray Data ends the stream when somebody asks for more
