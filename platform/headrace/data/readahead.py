"""Fetching the next samples from remote storage while one is decoded, so that a decoder does not wait for each.

    decode    [ 0 ][ 1 ][ 2 ][ 3 ]
    fetch   [0][1]
              [ 2 ][3]              `samples` at a time, in threads, at most `most_bytes` ahead

    wanted = [Wanted.of(where, index, times) for ...]
    with ReadAhead(wanted, cache) as ahead:
        for number in range(len(wanted)):
            with ahead.open(number) as file:      # what fetching it raised is raised here
                decoder.decode(file, times, out, index)

On a local disk nothing is done ahead: the kernel does it, and a thread would cost more than it gains.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from headrace.data.cache import Cache
from headrace.data.decode.index import VideoIndex
from headrace.data.ranges import Range
from headrace.data.storage import WINDOW_BYTES, ByteRange, PiecewiseFile, is_remote

SAMPLES_AHEAD = 4
MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class Wanted:
    """A sample that will be read.

    Attributes:
        where: its bytes.
        in_pieces: only some of them, as `ByteRange.open` has it.
        ranges: with `in_pieces`: those that will be asked for, where that is known; else they are fetched when
            they are asked for.
    """

    where: ByteRange
    in_pieces: bool = False
    ranges: tuple[Range, ...] = ()

    @classmethod
    def of(cls, where: ByteRange, index: VideoIndex | None, times_seconds: NDArray[np.float64]) -> Wanted:
        """Return what a sparse decode of the frames on the screen at these times wants of a sample.

        Args:
            where: its bytes.
            index: of a video; None, of which nothing is known, is read as a whole.
            times_seconds: float64, any length.
        """
        in_pieces = index is not None
        ranges = wanted_ranges(index, times_seconds) if index is not None and is_remote(where.location) else ()
        return cls(where, in_pieces, ranges)

    def open(self, cache: Cache | None) -> BinaryIO:
        """Open it now."""
        return self.where.open(in_pieces=self.in_pieces, cache=cache)

    @property
    def fetched_bytes(self) -> int:
        """How much of it is fetched ahead."""
        if self.in_pieces:
            return sum(size for _, size in self.ranges)
        return self.where.size if self.where.size <= WINDOW_BYTES else 0


class ReadAhead:
    """Opens samples in order, and fetches ahead of what was opened last.

    Args:
        wanted: the samples in the order in which they will be opened.
        cache: see `ByteRange.open`.
        samples: how many are fetched at a time.
        most_bytes: bound on what was fetched and not yet opened; a sample that is larger is fetched alone.
    """

    def __init__(
        self,
        wanted: Sequence[Wanted],
        cache: Cache | None = None,
        *,
        samples: int = SAMPLES_AHEAD,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._wanted, self._cache, self._most_bytes = wanted, cache, most_bytes
        self._samples = samples
        self._threads: ThreadPoolExecutor | None = None
        self._fetched: dict[int, Future[BinaryIO]] = {}
        self._next = 0
        self._bytes = 0

    def open(self, number: int) -> BinaryIO:
        """Return sample `number` as `ByteRange.open` would. Numbers ascend; those left out are never fetched twice.

        Raises:
            OSError: the storage failed, when this sample was fetched.
        """
        for passed in [other for other in self._fetched if other < number]:
            self._drop(passed)
        self._next = max(self._next, number)
        self._submit(number)
        if (future := self._fetched.pop(number, None)) is None:
            return self._fetch(self._wanted[number])
        self._bytes -= self._wanted[number].fetched_bytes
        file = future.result()
        self._submit(number)
        return file

    def close(self) -> None:
        """Drop what was fetched and not opened; waits for what is being fetched."""
        for number in list(self._fetched):
            self._drop(number)
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, current: int) -> None:
        """Begin to fetch what fits: `current`, and `samples` behind it."""
        while self._next < min(len(self._wanted), current + 1 + self._samples):
            wanted = self._wanted[self._next]
            if not is_remote(wanted.where.location):
                self._next += 1
                continue
            if self._fetched and self._bytes + wanted.fetched_bytes > self._most_bytes:
                return
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self._samples, "read-ahead")
            self._bytes += wanted.fetched_bytes
            self._fetched[self._next] = self._threads.submit(self._fetch, wanted)
            self._next += 1

    def _fetch(self, wanted: Wanted) -> BinaryIO:
        file = wanted.open(self._cache)
        if wanted.ranges and isinstance(file, PiecewiseFile):
            file.hold(wanted.ranges)
        return file

    def _drop(self, number: int) -> None:
        future = self._fetched.pop(number)
        self._bytes -= self._wanted[number].fetched_bytes
        if not future.cancel():
            future.add_done_callback(_close)


def wanted_ranges(index: VideoIndex, times_seconds: NDArray[np.float64]) -> tuple[Range, ...]:
    """Return the bytes of a video that a sparse decode of the frames on the screen at these times asks for.

    Args:
        index: of the video.
        times_seconds: float64, any length.
    """
    timeline = index.timeline
    frames = set(timeline.ids[timeline.on_screen(times_seconds)].tolist())
    packets = [packet for run in index.runs(frames) for packet in run.packets]
    ranges = zip(index.offset[packets].tolist(), index.size[packets].tolist(), strict=True)
    return tuple((offset, size) for offset, size in ranges if offset >= 0 and size > 0)


def _close(future: Future[BinaryIO]) -> None:
    if future.exception() is None:
        future.result().close()
