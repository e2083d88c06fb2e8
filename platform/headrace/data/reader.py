"""Number of a micro-batch -> Batch. All that a decode actor does, in plain Python.

number -> strip -> positions -> order -> rows -> bytes -> frame times -> decoder -> one slot of the strip
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from headrace import keyed
from headrace.batch import Batch, DecodeCost, Failure, Strip
from headrace.data.agenda import is_held_out
from headrace.data.config import DataConfig
from headrace.data.decode.index import VideoIndex
from headrace.data.decode.isolated import IsolatedDecoder
from headrace.data.decode.table import ByKind, build_decoder
from headrace.data.echo import Echo
from headrace.data.failures import SampleError
from headrace.data.manifest import Manifest
from headrace.data.order import Order, SampleOrder
from headrace.data.readahead import ReadAhead, Wanted
from headrace.data.sampling import frame_times, nearest_times
from headrace.data.split import Split
from headrace.errors import RunError

FINGERPRINT_POSITIONS = 256
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
        once: mark also what comes after the last sample, where the order begins again.
        echo: how often, and how far apart, a sample is seen again for one decode.
    """

    order: SampleOrder
    data: DataConfig
    micro_batch: int
    training: bool = True
    once: bool = False
    echo: Echo = field(default_factory=Echo)

    @property
    def micro_batch_bytes(self) -> int:
        """Size of the pixels of one micro-batch."""
        return micro_batch_bytes(self.data, self.micro_batch)

    def held_out(self, samples: int) -> Plan:
        """Return the plan by which so many held-out samples are read: each once, in their order, as it is."""
        return replace(self, order=Order(samples, 0, "none"), training=False, once=True, echo=Echo())

    def fingerprint(self) -> str:
        """Return what tells one sequence of samples from another: that of the run's first positions, as they come.

        Where it is the same, so is the meaning of a run's position. Without repeats the micro-batch has no part in it.
        """
        numbers = range(-(-FINGERPRINT_POSITIONS // self.micro_batch))
        within = np.arange(self.micro_batch)
        positions = np.concatenate([self.echo.strip(number) * self.micro_batch + within for number in numbers])
        ages = np.repeat([self.echo.age(number) for number in numbers], self.micro_batch)
        seeds = [self.order.seed_of(position, "") for position in positions.tolist()]
        sequence = np.stack([self.order.rows(positions), ages, seeds])[:, :FINGERPRINT_POSITIONS].astype("<i8")
        return hashlib.sha256(sequence.tobytes()).hexdigest()[:16]


def micro_batch_bytes(data: DataConfig, micro_batch: int) -> int:
    """Return the size of the pixels of one micro-batch of so many samples."""
    return micro_batch * data.sampling.frames * data.height * data.width * 3


@dataclass(frozen=True)
class _Look:
    """What is to be seen of a sample: the seeds of its clips [R], the times of their frames [R * T], and its bytes."""

    row: int
    position: int
    seeds: list[int]
    times: NDArray[np.float64]
    index: VideoIndex | None
    wanted: Wanted


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
        self._order = self.plan.order.with_weights(self.manifest.weights)
        self._cache = self.plan.data.open_cache()
        self._decoder = ByKind(*(self._isolated or map(build_decoder, names)))

    def close(self) -> None:
        """End the processes that isolated decoding started; it can go on, with others."""
        for decoder in self._isolated:
            decoder.close()

    def read(self, number: int) -> Batch:
        """Return micro-batch `number` of the run; see `read_strip`."""
        return self.read_strip(number).batches()[0]

    def read_strip(self, number: int) -> Strip:
        """Return micro-batch `number` of the run, with those that hold later clips of its samples.

        Raises:
            RunError: a sample failed and so did all of its reserve.
            OSError: the storage failed.
        """
        wall, cpu = time.perf_counter(), time.thread_time()
        plan, data, order = self.plan, self.plan.data, self._order
        numbers = plan.echo.later(number)
        ages = [plan.echo.age(number) for number in numbers]
        positions = plan.echo.strip(number) * plan.micro_batch + np.arange(plan.micro_batch)
        looks = [
            self._look(row, position, ages)
            for row, position in zip(order.rows(positions).tolist(), positions.tolist(), strict=True)
        ]
        shape = (plan.micro_batch, len(numbers), data.sampling.frames)
        pixels = np.zeros((*shape, data.height, data.width, 3), np.uint8)
        seconds = np.zeros(shape)
        valid = np.ones(plan.micro_batch, bool)
        failures: list[Failure] = []

        if plan.once:
            valid[max(0, len(self.manifest) - int(positions[0])) :] = False
        wanted = np.flatnonzero(valid).tolist()  # the first ones
        with ReadAhead([looks[slot].wanted for slot in wanted], self._cache) as ahead:
            for slot in wanted:
                opened = partial(ahead.open, slot)
                for attempt in range(1, RESERVE_ATTEMPTS + 2):
                    look = looks[slot]
                    try:
                        with opened() as file:
                            seconds[slot] = self._decode(look, file, pixels[slot])
                        break
                    except SampleError as error:
                        failures.append(self._failure(look, error))
                    if not plan.training:
                        valid[slot] = False
                        break
                    looks[slot] = self._look(order.reserve(look.position, attempt), look.position, ages)
                    opened = partial(looks[slot].wanted.open, self._cache)
                else:
                    raise RunError(
                        f"{RESERVE_ATTEMPTS + 1} samples in a row could not be decoded, the last "
                        f"{failures[-1].key!r}: {failures[-1].message}"
                    )

        if not plan.echo.is_first_clip(number):
            failures = []  # they were told of when the strip was decoded for an earlier clip
        rows = np.array([look.row for look in looks])
        return Strip(
            numbers=np.array(numbers),
            pixels=pixels,
            seed=np.array([look.seeds for look in looks]),
            label=self.manifest.labels[rows],
            seconds=seconds,
            sample=rows,
            valid=valid,
            keys=tuple(self.manifest.key(row) for row in rows.tolist()),
            failures=tuple(failures),
            cost=DecodeCost(self.actor, time.thread_time() - cpu, time.perf_counter() - wall, time.time()),
        )

    def _look(self, row: int, position: int, ages: Sequence[int]) -> _Look:
        """Return what is to be seen of a sample that stands at a position: the clips of these ages."""
        manifest, config = self.manifest, self.plan.data.sampling
        seed = self._order.seed_of(position, manifest.key(row))
        seeds = [seed if age == 0 else keyed.seed("clip", seed, age) for age in ages]
        length = float(manifest.seconds[row])
        times = np.concatenate([frame_times(config, length, seed, jitter=self.plan.training) for seed in seeds])
        if config.key_frames:
            times = nearest_times(times, manifest.key_frame_seconds(row))
        index = manifest.video_index(row)
        return _Look(row, position, seeds, times, index, Wanted.of(manifest.bytes_of(row), index, times))

    def _decode(self, look: _Look, file: BinaryIO, out: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Write the clips to `out` [R, T, H, W, 3] and return the times of their frames [R, T]."""
        shown = self._decoder.decode(file, look.times, out.reshape(-1, *out.shape[2:]), look.index)
        return shown.reshape(out.shape[:2])

    def _failure(self, look: _Look, error: SampleError) -> Failure:
        key, shard = self.manifest.key(look.row), self.manifest.shard(look.row)
        return Failure(look.position, key, shard, look.wanted.where.offset, error.reason, str(error))


class RunReader:
    """Reads all that a run streams: micro-batches of training, and ~k, the k-th of the held-out samples.

    Args:
        split: the run's samples.
        plan: of training; held-out samples are read by what `Plan.held_out` makes of it.
        isolated: see `BatchReader`.
    """

    def __init__(self, split: Split, plan: Plan, *, isolated: bool = False) -> None:
        self._training = BatchReader(split.training, plan, isolated)
        held_out = split.held_out
        self._held_out = BatchReader(held_out, plan.held_out(len(held_out)), isolated) if len(held_out) else None

    def read_strip(self, number: int) -> Strip:
        """Return the strip that begins with a micro-batch; see `BatchReader.read_strip`."""
        if not is_held_out(number):
            return self._training.read_strip(number)
        assert self._held_out is not None, "nothing is held out"
        strip = self._held_out.read_strip(~number)
        return replace(strip, numbers=~strip.numbers)

    def close(self) -> None:
        """End the processes that isolated decoding started; it can go on, with others."""
        for reader in (self._training, self._held_out):
            if reader is not None:
                reader.close()
