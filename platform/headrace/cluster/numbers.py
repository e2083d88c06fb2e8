"""The stream's source: numbers of strips, made as they are asked for.

Each becomes an object of Ray's with its records, so `cluster.pacing` sees to it that few of them wait at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from headrace.data.agenda import Agenda
from headrace.data.echo import Echo

NUMBERS_PER_TASK = 1 << 16
NAME = "StripNumbers"
"""Of the source among a stream's operators."""


class StripNumbers(Datasource):
    """The numbers, of those on an agenda, at which a strip is decoded, one row each.

    Args:
        agenda: what the run consumes.
        echo: which of it is decoded for itself.
        step, first: completed steps, and the next micro-batch of training.
        stream, streams: which of how many this is; they share the agenda in turn.
    """

    def __init__(self, agenda: Agenda, echo: Echo, step: int, first: int, stream: int = 0, streams: int = 1) -> None:
        super().__init__()
        self._agenda, self._echo, self._step, self._first = agenda, echo, step, first
        self._stream, self._streams = stream, streams

    def get_name(self) -> str:
        return NAME

    def estimate_inmemory_data_size(self) -> int:
        return 8 * self._rows(self._step, self._agenda.steps)

    def get_read_tasks(self, *_: object, **__: object) -> list[ReadTask]:
        """Return few tasks that each give many blocks: their number must not grow with the run."""
        steps = range(self._step, self._agenda.steps, max(1, NUMBERS_PER_TASK // self._agenda.lanes))
        return [self._task(step, min(step + steps.step, self._agenda.steps)) for step in steps]

    def _task(self, step: int, stop: int) -> ReadTask:
        agenda, echo, first = self._agenda, self._echo, self._first
        stream, streams = self._stream, self._streams
        here = first + (step - self._step) * agenda.lanes

        def numbers() -> Iterator[pa.Table]:
            for number in echo.decoded(agenda.numbers_of(stream, streams, step, here, stop), first):
                yield pa.table({"number": [number]})

        rows = self._rows(step, stop)
        return ReadTask(numbers, BlockMetadata(num_rows=rows, size_bytes=8 * rows, input_files=None, exec_stats=None))

    def _rows(self, step: int, stop: int) -> int:
        """Return about how many there are from one step to another."""
        return (stop - step) * self._agenda.lanes // (self._echo.repeats * self._streams)
