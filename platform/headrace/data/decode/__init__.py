"""One decoder a file, one contract, one conformance test (tests/headrace/data/test_decode.py).

    file + times [T] in seconds  ->  frames [T, H, W, 3] uint8 RGB + the times of the frames that were given

**Time** is counted from the first frame in presentation order, which is at 0. The frame at time t is the
one on the screen then: the last whose presentation time is <= t. A time before 0 gives the first frame and
a time past the end the last, so a wrong duration in a header never loses a clip.

**Geometry**: the picture is rotated upright, scaled to cover height x width (short side fits, aspect kept)
and cut to its centre.

**Errors** are subclasses of `headrace.data.failures.SampleError`, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, Literal, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class MediaInfo:
    """What is known of a sample without decoding it (an image is a video of one frame).

    Attributes:
        kind: "video" or "image".
        codec: FFmpeg's or Pillow's lower-case name of the format, e.g. "h264", "jpeg".
        width, height: pixels, upright (after rotation).
        frames: frames counted by demuxing, not the header's claim.
        seconds: from the first frame's start to the last frame's end; 0 for an image.
        key_frame_seconds: presentation times of the key frames, ascending, the first frame at 0.
    """

    kind: Literal["video", "image"]
    codec: str
    width: int
    height: int
    frames: int
    seconds: float
    key_frame_seconds: tuple[float, ...] = (0.0,)


class Decoder(Protocol):
    """Decodes one sample. Stateless between calls; one instance serves one thread."""

    name: str

    def decode(
        self, file: BinaryIO, times_seconds: NDArray[np.float64], out: NDArray[np.uint8]
    ) -> NDArray[np.float64]:
        """Write the frames at the given times into `out`.

        Args:
            file: seekable, at 0; holds the whole sample.
            times_seconds: [T], any order, repeats allowed.
            out: [T, H, W, 3] uint8, C-contiguous; its shape says what size is wanted.

        Returns:
            [T] float64: the presentation times of the frames that were given.

        Raises:
            SampleError: one of its subclasses; `out` is then undefined.
        """
        ...
