"""What is true: every frame of a video, decoded one after the other from its start, with nothing clever.

The pixels of headrace must be these, bit for bit. Those of the other contenders come from other versions of FFmpeg
and from other filters, so they are compared with the frame that was wanted and with its neighbours.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from benchmarks.decoders import Request
from headrace.data.decode.limits import Limits
from headrace.data.decode.scale import Scaler, frame_orientation

_SAME_LEVELS = 1.0  # of 255: filters and colour conversions alone differ by this much,
_NEARER_LEVELS = 0.25  # and where little moves by chance a little less from a neighbour


@dataclass(frozen=True)
class Timing:
    """When the frames of a video are shown, in presentation order.

    Attributes:
        pts: [N] ticks, ascending.
        tick_seconds: length of a tick.
    """

    pts: tuple[int, ...]
    tick_seconds: float


@dataclass(frozen=True)
class Truth:
    """The wanted frames of a video.

    Attributes:
        exact: [T, H, W, 3] uint8, as headrace must give them: cut to the centre, then scaled.
        stretched: [T, 3, H, W, 3] uint8, as the others give them; the frame before, the wanted one, the one after.
        checksums: [T] of the frames' planes as they leave the decoder.
    """

    exact: NDArray[np.uint8]
    stretched: NDArray[np.uint8]
    checksums: tuple[int, ...]


class Reference:
    """Decodes whole videos plainly."""

    def __init__(self) -> None:
        self._scaler = Scaler(Limits())
        self._reformatter = VideoReformatter()
        self._timings: dict[str, Timing] = {}

    def timing(self, path: str) -> Timing:
        """Return when the frames are shown; the answer is remembered.

        Raises:
            ValueError: it is not certain which frame is which.
        """
        if path in self._timings:
            return self._timings[path]
        with av.open(path) as container:
            tick_seconds = float(container.streams.video[0].time_base or 0)
        pts = [frame.pts for frame in _frames(path)]
        known = {ticks for ticks in pts if ticks is not None}
        if not known or len(known) < len(pts):
            raise ValueError("its frames have no times, or share them")
        self._timings[path] = Timing(tuple(sorted(known)), tick_seconds)
        return self._timings[path]

    def truth(self, request: Request) -> Truth:
        """Return the wanted frames."""
        shape = (len(request.frames), request.height, request.width, 3)
        exact, stretched = np.zeros(shape, np.uint8), np.zeros((shape[0], 3, *shape[1:]), np.uint8)
        checksums = [0] * shape[0]
        # Where a stream reorders further than it says, a frame may leave the decoder late: its time counts.
        number_of = {pts: number for number, pts in enumerate(self.timing(request.path).pts)}
        for frame in _frames(request.path):
            number = number_of[frame.pts or 0]
            for slot, wanted in enumerate(request.frames):
                if abs(number - wanted) <= 1:
                    self._stretch(frame, stretched[slot, number - wanted + 1])
                if number == wanted:
                    self._scaler.write(frame, exact[slot], frame_orientation(frame))
                    checksums[slot] = checksum(frame)
        return Truth(exact, stretched, tuple(checksums))

    def _stretch(self, frame: VideoFrame, out: NDArray[np.uint8]) -> None:
        orientation = frame_orientation(frame)
        height, width = orientation.size(*out.shape[:2])
        scaled = self._reformatter.reformat(frame, width, height, "rgb24")
        out[:] = orientation.apply(np.asarray(scaled.to_ndarray(), np.uint8))


def checksum(frame: VideoFrame) -> int:
    """Return a checksum of a frame's pixels as they are stored."""
    return zlib.crc32(frame.to_ndarray().tobytes())


def wrong_frames(pixels: NDArray[np.uint8], truth: Truth) -> str | None:
    """Return what is wrong with the frames [T, H, W, 3] that another library gave, or None if they are the wanted.

    A frame is taken as the wanted one unless it is clearly nearer to one of its neighbours (at the ends of a video,
    where there is none, to black).
    """
    if pixels.shape != truth.exact.shape:
        return f"gives {list(pixels.shape)} for {list(truth.exact.shape)}"
    for slot, (frame, candidates) in enumerate(zip(pixels, truth.stretched, strict=True)):
        before, same, after = (float(np.abs(frame - candidate.astype(np.int16)).mean()) for candidate in candidates)
        nearest = min(before, after)
        if same > _SAME_LEVELS and same > nearest + _NEARER_LEVELS:
            which = f"frame {slot + 1} of {len(pixels)}"
            return f"{which} is another one ({same:.1f} levels from the right one, {nearest:.1f} from its neighbour)"
    return None


def _frames(path: str) -> Iterator[VideoFrame]:
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count, stream.codec_context.thread_type = 1, "NONE"
        yield from container.decode(stream)
