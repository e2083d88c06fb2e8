"""Reading several pieces of a file in as few requests as pay.

wanted     [--]  [---]            [-]
read       [---------]            [-]       a gap that costs less than a request is read along
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol, TypeAlias, runtime_checkable

Range: TypeAlias = tuple[int, int]
"""Offset and size in bytes."""

LOCAL_GAP_BYTES = 64 << 10


@runtime_checkable
class RangeFile(Protocol):
    """A file that knows how its storage is best asked for several pieces."""

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return the bytes of each range; fewer where the file ends before."""
        ...


@dataclass(frozen=True)
class Request:
    """One contiguous read that serves the ranges whose numbers are in `serves`."""

    offset: int
    size: int
    serves: tuple[int, ...]


def read_ranges(file: BinaryIO, ranges: Sequence[Range]) -> list[bytes]:
    """Return the bytes of each range of a seekable file; fewer where the file ends before."""
    if isinstance(file, RangeFile):
        return file.read_ranges(ranges)

    def read(request: Request) -> bytes:
        file.seek(request.offset)
        return file.read(request.size)

    return cut(ranges, plan_requests(ranges, LOCAL_GAP_BYTES), read)


def plan_requests(ranges: Sequence[Range], gap_bytes: int, most_bytes: int = 8 << 20) -> list[Request]:
    """Return the reads that cover all ranges, in order of their offset.

    Args:
        ranges: in any order; they may overlap.
        gap_bytes: ranges that lie no farther apart are read together.
        most_bytes: a read that has this size takes no further range, so that several can go on at a time.
    """
    requests: list[Request] = []
    for number in sorted(range(len(ranges)), key=lambda number: ranges[number]):
        offset, size = ranges[number]
        if requests:
            last = requests[-1]
            joined = max(last.size, offset + size - last.offset)
            if offset <= last.offset + last.size + gap_bytes and last.size < most_bytes:
                requests[-1] = Request(last.offset, joined, (*last.serves, number))
                continue
        requests.append(Request(offset, size, (number,)))
    return requests


def cut(ranges: Sequence[Range], requests: Sequence[Request], read: Callable[[Request], bytes]) -> list[bytes]:
    """Return the bytes of each range, cut from what `read` gives for each request."""
    pieces = [b""] * len(ranges)
    for request in requests:
        data = read(request)
        for number in request.serves:
            offset, size = ranges[number]
            pieces[number] = data[offset - request.offset : offset - request.offset + size]
    return pieces
