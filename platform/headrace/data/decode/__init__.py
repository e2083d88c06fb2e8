"""One decoder a file, one contract, one conformance test (tests/headrace/data/test_decode.py).

    file + times [T] in seconds  ->  frames [T, H, W, 3] uint8 RGB + the times of the frames that were given

**Time** is counted from the first frame in presentation order, which is at 0. The frame at time t is the
one on the screen then: the last whose presentation time is <= t. A time before 0 gives the first frame and
a time past the end the last, so a wrong duration in a header never loses a clip. Times are compared to the
microsecond, so that index / fps finds its frame. Frames that an edit list hides do not exist.

**Exactness**: frames are those of a decode of the whole file from its start; never a neighbour, never a
picture with its damage painted over.

**Geometry**: the picture is cut to the largest central box of the proportions of height x width (aspect kept,
pixels taken as square; see `geometry`), scaled to height x width with an antialiased bilinear filter, and turned
upright. Transparency is dropped.

**Errors** about the sample are subclasses of `headrace.data.failures.SampleError`. A file that ends early,
but after the wanted frames, is no error; a wanted frame behind the damage is `Truncated`. What the storage
raises while the file is read passes through: that is no bad sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.data.decode.index import VideoIndex


@dataclass(frozen=True)
class MediaInfo:
    """What is known of a sample without decoding it (an image is a video of one frame).

    Attributes:
        kind: "video" or "image".
        codec: FFmpeg's or Pillow's lower-case name of the format, e.g. "h264", "jpeg".
        width, height: pixels, upright (after rotation).
        frames: frames counted by demuxing, not the header's claim.
        seconds: from the first frame's start to the last frame's end; 0 for an image.
        key_frame_seconds: presentation times of the frames at which decoding may begin, ascending, the first at 0.
        index: where each frame's data lie, so that wanted frames can be read and decoded without opening the
            file; None for images and where that would not be certain to give the same frames.
    """

    kind: Literal["video", "image"]
    codec: str
    width: int
    height: int
    frames: int
    seconds: float
    key_frame_seconds: tuple[float, ...] = (0.0,)
    index: VideoIndex | None = None


class Decoder(Protocol):
    """Decodes one sample. Stateless between calls; one instance serves one thread."""

    name: str

    def decode(
        self,
        file: BinaryIO,
        times_seconds: NDArray[np.float64],
        out: NDArray[np.uint8],
        index: VideoIndex | None = None,
    ) -> NDArray[np.float64]:
        """Write the frames at the given times into `out`.

        Args:
            file: seekable, at 0; holds the whole sample.
            times_seconds: [T], any order, repeats allowed.
            out: [T, H, W, 3] uint8, C-contiguous; its shape says what size is wanted.
            index: what `probe` learnt of this very file, for decoders that can use it; the frames are the same
                without.

        Returns:
            [T] float64: the presentation times of the frames that were given.

        Raises:
            SampleError: one of its subclasses; `out` is then undefined.
        """
        ...
