"""The stream's source: numbers of strips, made as they are asked for.

Each becomes an object of Ray's with its records, so `cluster.pacing` sees to it that few of them wait at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from headrace.data.echo import Echo

NUMBERS_PER_TASK = 1 << 16
NAME = "StripNumbers"
"""Of the source among a stream's operators."""


class StripNumbers(Datasource):
    """The numbers, out of first ... last - 1, at which a strip is decoded, one row each."""

    def __init__(self, echo: Echo, first: int, last: int) -> None:
        super().__init__()
        self._echo, self._first, self._last = echo, first, last

    def get_name(self) -> str:
        return NAME

    def estimate_inmemory_data_size(self) -> int:
        return 8 * (self._last - self._first) // self._echo.repeats

    def get_read_tasks(self, *_: object, **__: object) -> list[ReadTask]:
        """Return few tasks that each give many blocks: their number must not grow with the run."""
        starts = range(self._first, self._last, NUMBERS_PER_TASK)
        return [_task(self._echo, self._first, start, min(start + NUMBERS_PER_TASK, self._last)) for start in starts]


def _task(echo: Echo, first: int, start: int, stop: int) -> ReadTask:
    def numbers() -> Iterator[pa.Table]:
        for number in range(start, stop):
            if echo.is_decoded(number, first):
                yield pa.table({"number": [number]})

    rows = (stop - start) // echo.repeats
    return ReadTask(numbers, BlockMetadata(num_rows=rows, size_bytes=8 * rows, input_files=None, exec_stats=None))
