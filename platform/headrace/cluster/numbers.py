"""The stream's source: numbers of strips, made as they are asked for.

A number is so small that Ray Data's own limits, which are in bytes, never hold it back, and so much of an object, with
all its records, that the numbers of a long run would take a core for minutes and gigabytes for good. So the executor is
told how many may wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from headrace.data.echo import Echo

NUMBERS_PER_TASK = 1 << 16
NUMBERS_AHEAD = 256
"""Numbers that wait to be given to decode actors, at most; the executor looks many times a second."""

_NAME = "StripNumbers"
_NUMBER_BYTES = 1024  # about what Ray counts for one


class StripNumbers(Datasource):
    """The numbers, out of first ... last - 1, at which a strip is decoded, one row each."""

    def __init__(self, echo: Echo, first: int, last: int) -> None:
        super().__init__()
        self._echo, self._first, self._last = echo, first, last

    def get_name(self) -> str:
        return _NAME

    def estimate_inmemory_data_size(self) -> int:
        return 8 * (self._last - self._first) // self._echo.repeats

    def get_read_tasks(self, *_: object, **__: object) -> list[ReadTask]:
        """Return few tasks that each give many blocks: their number must not grow with the run."""
        starts = range(self._first, self._last, NUMBERS_PER_TASK)
        return [_task(self._echo, self._first, start, min(start + NUMBERS_PER_TASK, self._last)) for start in starts]


class HoldNumbers:
    """Holds an execution's source back while enough numbers wait.

    Ray Data has no public door for this. It is a callback (`DataContext.custom_execution_callback_classes`) that joins
    the executor's backpressure policies and its guard against deadlocks: whenever the decoders pause, because training
    is slower, the guard would let a number through at each look. Where a Ray lacks these, nothing is held back.
    """

    name = "HoldNumbers"

    def before_execution_starts(self, executor: Any) -> None:
        """Take part in what the executor decides."""
        try:
            self._topology = executor._topology
            guard = executor._output_backpressure_guard
            self._unblock = guard.should_unblock
            executor._backpressure_policies.append(self)
            guard.should_unblock = self.should_unblock
        except AttributeError:
            return

    def can_add_input(self, op: Any) -> bool:
        """Let every operator start tasks."""
        return True

    def max_task_output_bytes_to_read(self, op: Any) -> int | None:
        """Return how much may be taken of what an operator's tasks give; None for all but the source."""
        if not op.name.startswith(f"Read{_NAME}"):
            return None
        waiting: int = self._topology[op].output_queue.num_blocks
        return _NUMBER_BYTES * max(0, NUMBERS_AHEAD - waiting)

    def should_unblock(self, op: Any) -> bool:
        """Say whether an operator that is held back must go on lest all stand still; no number is that urgent."""
        return self.max_task_output_bytes_to_read(op) is None and bool(self._unblock(op))

    def on_execution_step(self, executor: Any) -> None:
        """Nothing to do: the executor asks by itself."""

    def after_execution_succeeds(self, executor: Any) -> None:
        """Nothing to do."""

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Nothing to do."""


def _task(echo: Echo, first: int, start: int, stop: int) -> ReadTask:
    def numbers() -> Iterator[pa.Table]:
        for number in range(start, stop):
            if echo.is_decoded(number, first):
                yield pa.table({"number": [number]})

    rows = (stop - start) // echo.repeats
    return ReadTask(numbers, BlockMetadata(num_rows=rows, size_bytes=8 * rows, input_files=None, exec_stats=None))
