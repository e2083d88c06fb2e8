"""Number of a micro-batch -> Batch. All that a decode actor does, in plain Python.

number -> positions -> order -> rows -> bytes -> frame times -> decoder -> one slot of the batch
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field

import numpy as np

from headrace.batch import Batch, DecodeCost, Failure
from headrace.data.config import DataConfig
from headrace.data.decode.isolated import IsolatedDecoder
from headrace.data.decode.table import ByKind, build_decoder
from headrace.data.failures import SampleError
from headrace.data.manifest import Manifest
from headrace.data.order import Order
from headrace.data.sampling import frame_times, nearest_times
from headrace.errors import RunError

RESERVE_ATTEMPTS = 16
"""Samples of the reserve that may fail one after the other before the source is called unreadable."""


@dataclass(frozen=True)
class Plan:
    """Which samples stand where, and how they are read: all that decides what a micro-batch holds.

    Attributes:
        order: the run's order over the rows of the manifest.
        data: size, frames and decoder.
        micro_batch: samples in a micro-batch.
        training: draw times at random and replace what fails; else take the middles and mark it invalid.
    """

    order: Order
    data: DataConfig
    micro_batch: int
    training: bool = True

    @property
    def micro_batch_bytes(self) -> int:
        """Size of the pixels of one micro-batch."""
        return self.micro_batch * self.data.sampling.frames * self.data.height * self.data.width * 3


@dataclass
class BatchReader:
    """Reads micro-batches of one plan from one manifest.

    Attributes:
        isolated: decode in another process, so that a sample which ends its decoder's process is one bad sample.
        actor: who decodes, for the records.
    """

    manifest: Manifest
    plan: Plan
    isolated: bool = False
    actor: str = field(default_factory=lambda: f"{os.uname().nodename}:{os.getpid()}")

    def __post_init__(self) -> None:
        names = ("image", self.plan.data.decoder)
        self._isolated = [IsolatedDecoder(name) for name in names] if self.isolated else []
        self._decoder = ByKind(*(self._isolated or map(build_decoder, names)))

    def close(self) -> None:
        """End the processes that isolated decoding started; it can go on, with others."""
        for decoder in self._isolated:
            decoder.close()

    def read(self, number: int) -> Batch:
        """Return micro-batch `number` of the run.

        Raises:
            RunError: a sample failed and so did all of its reserve.
            OSError: the storage failed.
        """
        wall, cpu = time.perf_counter(), time.thread_time()
        plan, data = self.plan, self.plan.data
        shape = (plan.micro_batch, data.sampling.frames)
        positions = np.arange(number * plan.micro_batch, (number + 1) * plan.micro_batch)
        rows = plan.order.rows(positions)
        pixels = np.zeros((*shape, data.height, data.width, 3), np.uint8)
        seconds = np.zeros(shape)
        seeds = np.zeros(plan.micro_batch, np.int64)
        valid = np.ones(plan.micro_batch, bool)
        failures: list[Failure] = []

        for slot, position in enumerate(positions.tolist()):
            for attempt in range(RESERVE_ATTEMPTS + 1):
                row = int(rows[slot]) if attempt == 0 else plan.order.reserve(position, attempt)
                try:
                    seeds[slot], seconds[slot] = self._read_sample(row, position, pixels[slot])
                    rows[slot] = row
                    break
                except SampleError as error:
                    failures.append(self._failure(row, position, error))
                if not plan.training:
                    valid[slot] = False
                    break
            else:
                raise RunError(
                    f"{RESERVE_ATTEMPTS + 1} samples in a row could not be decoded, the last "
                    f"{failures[-1].key!r}: {failures[-1].message}"
                )

        cost = DecodeCost(self.actor, time.thread_time() - cpu, time.perf_counter() - wall)
        labels = self.manifest.labels[rows]
        return Batch(number, pixels, seeds, labels, seconds, rows, valid, tuple(failures), cost)

    def _read_sample(self, row: int, position: int, out: np.ndarray) -> tuple[int, np.ndarray]:
        plan = self.plan
        seed = plan.order.seed_of(position, self.manifest.key(row))
        length = float(self.manifest.seconds[row])
        times = frame_times(plan.data.sampling, length, seed, jitter=plan.training)
        if plan.data.sampling.key_frames:
            times = nearest_times(times, self.manifest.key_frame_seconds(row))
        index = self.manifest.video_index(row)
        with self.manifest.bytes_of(row).open(in_pieces=index is not None) as file:
            return seed, self._decoder.decode(file, times, out, index)

    def _failure(self, row: int, position: int, error: SampleError) -> Failure:
        where = self.manifest.bytes_of(row)
        return Failure(
            position, self.manifest.key(row), self.manifest.shard(row), where.offset, error.reason, str(error)
        )
