"""Strip <-> Ray's block. A row is a strip, which mostly is one micro-batch, and a block is a row, so Ray counts what
the run counts.

The pixels are one C-contiguous tensor: they are copied once, into the object store, and read as a view of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from headrace.batch import DecodeCost, Failure, Strip
from headrace.data.echo import Echo

_ARRAYS = ("numbers", "pixels", "seed", "label", "seconds", "sample", "valid")
NUMBERS_PER_TASK = 1 << 16


def to_row(strip: Strip) -> dict[str, NDArray[Any]]:
    """Return a strip as the columns of a block of one row."""
    row: dict[str, NDArray[Any]] = {name: getattr(strip, name)[None] for name in _ARRAYS}
    failures = [asdict(failure) for failure in strip.failures]
    notes = {"keys": strip.keys, "failures": failures, "cost": asdict(strip.cost)}
    return {"notes": np.array([json.dumps(notes)]), **row}


def from_row(row: dict[str, NDArray[Any]]) -> Strip:
    """Return the strip of a block of one row, as views of the block's memory."""
    notes = json.loads(str(row["notes"][0]))
    return Strip(
        keys=tuple(notes["keys"]),
        failures=tuple(Failure(**failure) for failure in notes["failures"]),
        cost=DecodeCost(**notes["cost"]),
        **{name: np.asarray(row[name][0]) for name in _ARRAYS},
    )


class StripNumbers(Datasource):
    """The numbers, out of first ... last - 1, at which a strip is decoded, one row each, made as they are asked for."""

    def __init__(self, echo: Echo, first: int, last: int) -> None:
        super().__init__()
        self._echo, self._first, self._last = echo, first, last

    def get_name(self) -> str:
        return "StripNumbers"

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
