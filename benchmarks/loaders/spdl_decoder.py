"""SPDL's own decoding, by its own FFmpeg: demux all packets, decode the groups of pictures that hold wanted frames.

`sample_decode_video` decodes in each group up to the last wanted frame, and decoders have one thread by default
(https://facebookresearch.github.io/spdl/main/generated/spdl.io.sample_decode_video.html). Frames go into the batch in
one copy, without arrays of their own between (https://facebookresearch.github.io/spdl/main/best_practice.html).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.loaders.contract import SIZE, Pixels, Wanted
from benchmarks.loaders.decoding import Source


class Spdl:
    """SPDL's decoders; one instance serves any number of threads."""

    def __init__(self) -> None:
        self._io: Any = import_module("spdl.io")
        describe = self._io.get_video_filter_desc
        self._stretch = describe(
            scale_width=SIZE, scale_height=SIZE, scale_algo="bilinear", scale_mode=None, pix_fmt="rgb24"
        )
        self._cover = describe(
            scale_width=SIZE,
            scale_height=SIZE,
            scale_algo="bilinear",
            scale_mode="crop",
            crop_width=SIZE,
            crop_height=SIZE,
            pix_fmt="rgb24",
        )

    def video(self, source: Source, wanted: Wanted) -> list[Any]:
        """Return a video's wanted frames, as SPDL holds them."""
        packets = self._io.demux_video(source)
        frames: list[Any] = self._io.sample_decode_video(packets, list(wanted.frames), filter_desc=self._stretch)
        return frames

    def image(self, source: Source) -> list[Any]:
        """Return an image, as SPDL holds it."""
        return [self._io.decode_packets(self._io.demux_image(source), filter_desc=self._cover)]

    def pixels(self, frames: Sequence[Any]) -> Pixels:
        """Return frames as pixels [frames, H, W, 3]."""
        pixels: Pixels = np.asarray(self._io.to_numpy(self._io.convert_frames(list(frames))))
        return pixels

    def decode(self, source: Source, wanted: Wanted) -> Pixels:
        """See `PeerDecoder.decode`."""
        return self.pixels(self.video(source, wanted))
