"""What demuxing a video teaches: each packet's bytes, when its frame is shown, and who needs it.

Written into the manifest, it lets a few frames be read and decoded without opening the file again, from only the
bytes that they need:

    packets in decoding order   K r . r w . r . K r r . r . K . w
    wanted w, references r      ^ ^   ^ ^                   ^   ^     these are read and decoded
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Collection
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from headrace.data.decode.geometry import Orientation
from headrace.data.decode.roles import ENTRY, LAYER_SHIFT, REFERENCE, SHOWN
from headrace.data.failures import Truncated

# A time computed as index / fps may fall short of the frame's own time by the rounding of a float.
_ROUNDING_SECONDS = 1e-6


@dataclass(frozen=True)
class Timeline:
    """The frames of a video in presentation order.

    Attributes:
        seconds: [N] float64, ascending, the first at 0: when each frame appears.
        ids: [N] int64: which frame that is, as whoever made the timeline counts them.
        complete_seconds: up to here no frame is missing; infinite if the file is whole.
    """

    seconds: NDArray[np.float64]
    ids: NDArray[np.int64]
    complete_seconds: float = np.inf

    def on_screen(self, times_seconds: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the index [T] of the frame on the screen at each time [T].

        Raises:
            Truncated: the file breaks before one of the times.
        """
        latest = float(np.max(times_seconds, initial=0.0))
        if latest > self.complete_seconds + _ROUNDING_SECONDS:
            raise Truncated(f"the file breaks at {self.complete_seconds:.3f} s, before {latest:.3f} s")
        index = np.searchsorted(self.seconds, times_seconds + _ROUNDING_SECONDS, side="right") - 1
        return np.clip(index, 0, len(self.seconds) - 1)


@dataclass(frozen=True)
class CodecParameters:
    """All that a decoder must be told before its first packet, as FFmpeg names and numbers it."""

    name: str
    extradata: bytes
    width: int
    height: int
    pix_fmt: str | None
    reorder_depth: int
    color_range: int
    colorspace: int
    color_primaries: int
    color_trc: int


@dataclass(frozen=True)
class Run:
    """Packets that are decoded in one go, by index and in this order, for the wanted among their frames."""

    packets: list[int]
    wanted: frozenset[int]


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """The packets of a video stream in decoding order, from the first key frame on.

    Attributes:
        codec: what the decoder must be told.
        time_base: seconds in a tick.
        orientation: how its pictures become upright.
        pts: [N] int64: when each packet's frame is shown, in ticks; no two alike.
        offset, size: [N] int64: where the packet's bytes lie in the file; -1 where they lie not in one piece.
        role: [N] uint8: see `roles`.
        complete_seconds: up to here no frame is missing; infinite if the file is whole.
    """

    codec: CodecParameters
    time_base: Fraction
    orientation: Orientation
    pts: NDArray[np.int64]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    role: NDArray[np.uint8]
    complete_seconds: float = np.inf

    @cached_property
    def timeline(self) -> Timeline:
        """The frames; `ids` count the packets."""
        shown = np.flatnonzero(self.role & SHOWN)
        order = shown[np.argsort(self.pts[shown], kind="stable")]
        ticks = self.pts[order]
        return Timeline((ticks - ticks[0]) * float(self.time_base), order, self.complete_seconds)

    @cached_property
    def entries(self) -> NDArray[np.int64]:
        """The packets at which decoding may begin, in decoding order; always the first."""
        may_begin = self.role & (ENTRY | SHOWN) == (ENTRY | SHOWN)
        may_begin[0] = True
        return np.flatnonzero(may_begin)

    def entry_of(self, packet: int) -> int:
        """Return where decoding must begin for a packet's frame.

        That is the last entry both decoded and shown no later: a frame that is shown before its key frame may
        refer to frames from before it (an open group of pictures).
        """
        before = self.entries[: np.searchsorted(self.entries, packet, side="right")]
        fit = np.flatnonzero(self.pts[before] <= self.pts[packet])
        return int(before[fit[-1]]) if len(fit) else 0

    def runs(self, wanted: Collection[int], *, discard: bool = True) -> list[Run]:
        """Return what to decode for the wanted packets' frames: the fewest packets, in runs that do not overlap.

        Args:
            wanted: packets whose frames are wanted.
            discard: leave out what no wanted frame refers to; else everything from the entry on is decoded.
        """
        spans: list[tuple[int, int, set[int]]] = []
        for start, packet in sorted((self.entry_of(packet), packet) for packet in wanted):
            if spans and start <= spans[-1][1]:
                first, last, inside = spans.pop()
                spans.append((first, max(last, packet), inside | {packet}))
            else:
                spans.append((start, packet, {packet}))
        return [self._run(first, last, inside, discard) for first, last, inside in spans]

    def from_start(self, wanted: Collection[int]) -> Run:
        """Return the run that decodes everything from the start to the last wanted packet."""
        return Run(list(range(max(wanted) + 1)), frozenset(wanted))

    def _run(self, first: int, last: int, wanted: set[int], discard: bool) -> Run:
        if not discard:
            return Run(list(range(first, last + 1)), frozenset(wanted))
        role = self.role[first : last + 1]
        layer = (role >> LAYER_SHIFT).astype(np.int64)
        is_wanted = np.zeros(len(role), bool)
        is_wanted[[packet - first for packet in wanted]] = True
        # Of each packet: the highest layer of a wanted frame that comes later. A frame refers to frames of lower
        # layers, and to the reference frames of its own.
        highest = np.maximum.accumulate(np.where(is_wanted, layer, -1)[::-1])[::-1]
        needed = is_wanted | (layer < highest) | ((layer == highest) & (role & REFERENCE > 0))
        needed[0] = True
        return Run((np.flatnonzero(needed) + first).tolist(), frozenset(wanted))

    def to_bytes(self) -> bytes:
        """Return the index of a whole file packed, some 3 bytes a packet; `from_bytes` reads it."""
        assert np.isinf(self.complete_seconds)
        codec = {**asdict(self.codec), "extradata": self.codec.extradata.hex()}
        gap = self.offset - np.concatenate([[0], self.offset[:-1] + self.size[:-1]])
        columns = [_pack(np.diff(self.pts, prepend=0)), _pack(gap), _pack(self.size), _pack(self.role)]
        header = json.dumps(
            {
                "codec": codec,
                "time_base": [self.time_base.numerator, self.time_base.denominator],
                "orientation": asdict(self.orientation),
                "columns": [(kind, len(data)) for kind, data in columns],
            },
            separators=(",", ":"),
        ).encode()
        body = b"".join([struct.pack("<I", len(header)), header, *(data for _, data in columns)])
        return zlib.compress(body, level=9)

    @classmethod
    def from_bytes(cls, packed: bytes) -> VideoIndex:
        """Return the index that `to_bytes` packed.

        Raises:
            ValueError: these are no such bytes.
        """
        try:
            body = zlib.decompress(packed)
            (size,) = struct.unpack_from("<I", body)
            header = json.loads(body[4 : 4 + size])
            at, columns = 4 + size, []
            for kind, length in header["columns"]:
                columns.append(np.frombuffer(body[at : at + length], kind))
                at += length
            pts, gap, sizes, role = columns
            sizes = sizes.astype(np.int64)
            ends = np.cumsum(gap.astype(np.int64) + sizes)
            codec = {**header["codec"], "extradata": bytes.fromhex(header["codec"]["extradata"])}
            if not (0 < len(pts) == len(sizes) == len(role) and min(sizes) > 0 <= min(ends - sizes)):
                raise ValueError("its columns do not fit each other")
            return cls(
                codec=CodecParameters(**codec),
                time_base=Fraction(*header["time_base"]),
                orientation=Orientation(**header["orientation"]),
                pts=np.cumsum(pts.astype(np.int64)),
                offset=ends - sizes,
                size=sizes,
                role=role.astype(np.uint8),
            )
        except (zlib.error, struct.error, KeyError, TypeError, AttributeError, ArithmeticError, ValueError) as error:
            raise ValueError(f"no packed video index: {error}") from error


def _pack(column: NDArray[np.integer]) -> tuple[str, bytes]:
    """Return a column as its narrowest type and its bytes."""
    kind = np.result_type(np.min_scalar_type(column.min()), np.min_scalar_type(column.max())).newbyteorder("<")
    return kind.str, column.astype(kind).tobytes()
