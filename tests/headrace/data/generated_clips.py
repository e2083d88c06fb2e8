"""Clips whose every frame shows its own number, in blocks that survive scaling, rotation and lossy coding.

+----+----+----+----+
| b0 | b1 | b2 | b3 |     four by two blocks, white for 1 and black for 0: the frame number's bits,
+----+----+----+----+     b0 the lowest; b7 is always white, so that black, mirrored and upside-down
| b4 | b5 | b6 | 1  |     pictures are told from right ones for most numbers.
+----+----+----+----+
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

_ROWS, _COLUMNS = 2, 4


@dataclass(frozen=True)
class ClipSpec:
    """How a clip is made; everything that a decoder may stumble over is a field."""

    container: str = "mp4"
    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=dict)
    frames: int = 60
    height: int = 64
    width: int = 96
    times: Sequence[int] | None = None  # presentation times in 1/1000 s; every 40 ms where None
    rotation: int = 0  # degrees the decoder has to turn the picture counterclockwise
    mirrored: bool = False
    audio: bool = False
    container_options: dict[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> NDArray[np.float64]:
        """When each frame is shown, from the first."""
        times = self.times or [40 * number for number in range(self.frames)]
        return (np.array(times) - times[0]) / 1000


def numbered_picture(number: int, height: int, width: int) -> NDArray[np.uint8]:
    """Return the upright picture [H, W, 3] that shows a number below 128."""
    bits = [(number >> bit) & 1 for bit in range(_ROWS * _COLUMNS - 1)] + [1]
    blocks = np.array(bits, np.uint8).reshape(_ROWS, _COLUMNS) * 255
    rows = np.arange(height) * _ROWS // height
    columns = np.arange(width) * _COLUMNS // width
    return np.repeat(blocks[rows][:, columns][..., None], 3, axis=2)


def read_number(picture: NDArray[np.uint8]) -> int:
    """Return the number that an upright picture shows.

    Raises:
        ValueError: a block is neither black nor white, or the last one is not white.
    """
    height, width = picture.shape[:2]
    number = 0
    for bit in range(_ROWS * _COLUMNS):
        row, column = divmod(bit, _COLUMNS)
        y, x = int((row + 0.5) * height / _ROWS), int((column + 0.5) * width / _COLUMNS)
        level = float(picture[y - 1 : y + 2, x - 1 : x + 2].mean())
        if 80 < level < 175:
            raise ValueError(f"block {bit} is grey: {level:.0f}")
        number |= int(level >= 175) << bit
    if not number & 128:
        raise ValueError("the last block is black")
    return number & 127


def encode_clip(spec: ClipSpec) -> bytes:
    """Return the clip as a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip"  # a true file: to move its index to the front, FFmpeg opens it again
        _write_clip(spec, path)
        return path.read_bytes()


def _write_clip(spec: ClipSpec, path: Path) -> None:
    with av.open(str(path), "w", format=spec.container, container_options=spec.container_options) as output:
        video = output.add_stream(spec.codec, rate=25, options=spec.options)
        upright = spec.rotation % 180 == 0
        video.height, video.width = (spec.height, spec.width) if upright else (spec.width, spec.height)
        video.pix_fmt = "yuv444p" if spec.width % 2 or spec.height % 2 else "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000 if spec.times else 25)
        video.codec_context.thread_count = 1
        if spec.rotation or spec.mirrored:
            video.set_display_rotation(spec.rotation, hflip=spec.mirrored)
        audio = output.add_stream("aac", rate=16000) if spec.audio else None
        for number in range(spec.frames):
            picture = numbered_picture(number, spec.height, spec.width)
            stored = picture[:, ::-1] if spec.mirrored else picture
            stored = np.rot90(stored, -spec.rotation // 90)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(stored))
            frame.pts = spec.times[number] if spec.times else number
            frame.time_base = video.codec_context.time_base
            output.mux(video.encode(frame))
            if audio is not None:
                sound = av.AudioFrame.from_ndarray(np.zeros((1, 640), np.float32), "fltp", "mono")
                sound.sample_rate, sound.pts = 16000, 640 * number
                output.mux(audio.encode(sound))
        output.mux(video.encode(None))
        if audio is not None:
            output.mux(audio.encode(None))
