"""Batch <-> Ray's block. A row is a micro-batch and a block is a row, so Ray counts what the run counts.

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

from headrace.batch import Batch, DecodeCost, Failure

_ARRAYS = ("pixels", "seed", "label", "seconds", "sample", "valid")
NUMBERS_PER_TASK = 1 << 16


def to_row(batch: Batch) -> dict[str, NDArray[Any]]:
    """Return a batch as the columns of a block of one row."""
    row: dict[str, NDArray[Any]] = {name: getattr(batch, name)[None] for name in _ARRAYS}
    notes = {"failures": [asdict(failure) for failure in batch.failures], "cost": asdict(batch.cost)}
    return {"number": np.array([batch.number]), "notes": np.array([json.dumps(notes)]), **row}


def from_row(row: dict[str, NDArray[Any]]) -> Batch:
    """Return the batch of a block of one row, as views of the block's memory."""
    notes = json.loads(str(row["notes"][0]))
    return Batch(
        number=int(row["number"][0]),
        failures=tuple(Failure(**failure) for failure in notes["failures"]),
        cost=DecodeCost(**notes["cost"]),
        **{name: np.asarray(row[name][0]) for name in _ARRAYS},
    )


class MicroBatchNumbers(Datasource):
    """The numbers first ... last - 1 of a run's micro-batches, one row each, made as they are asked for."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__()
        self._first, self._last = first, last

    def get_name(self) -> str:
        return "MicroBatchNumbers"

    def estimate_inmemory_data_size(self) -> int:
        return 8 * (self._last - self._first)

    def get_read_tasks(self, *_: object, **__: object) -> list[ReadTask]:
        """Return few tasks that each give many blocks: their number must not grow with the run."""
        starts = range(self._first, self._last, NUMBERS_PER_TASK)
        return [self._task(start, min(start + NUMBERS_PER_TASK, self._last)) for start in starts]

    @staticmethod
    def _task(start: int, stop: int) -> ReadTask:
        def numbers() -> Iterator[pa.Table]:
            for number in range(start, stop):
                yield pa.table({"number": [number]})

        metadata = BlockMetadata(
            num_rows=stop - start, size_bytes=8 * (stop - start), input_files=None, exec_stats=None
        )
        return ReadTask(numbers, metadata)
