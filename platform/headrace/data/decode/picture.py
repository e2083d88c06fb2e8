"""A still picture as its decoder left it in memory -> its centre, scaled and upright, where it belongs.

Pictures of full resolution are scaled by swscale, as videos are: in 0.4 of Pillow's time and within 0.2 of 255 levels
of it. It cuts between pixels only. The centre of a picture that was shrunk while it was decoded begins within one,
and is left to Pillow; so is what is a few pixels high or wide, which swscale blurs or repeats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from headrace.data.decode.geometry import Box, Orientation, centre_box

# As for videos (see `scale`), and colour taken from every pixel, where swscale would skip every second.
_BILINEAR, _FULL_CHROMA_INTERPOLATION, _FULL_CHROMA_INPUT = 0x2, 0x2000, 0x4000
_ACCURATE_ROUNDING, _BIT_EXACT = 0x40000, 0x80000
_FILTER = _BILINEAR | _FULL_CHROMA_INTERPOLATION | _FULL_CHROMA_INPUT | _ACCURATE_ROUNDING | _BIT_EXACT

_PADDING_BYTES = 64
_FEW_PIXELS = 16


@dataclass(frozen=True)
class Picture:
    """A decoded picture as it lies in its file, perhaps at a lower resolution.

    Attributes:
        pixels: uint8, [h, w, 3] RGB or [h, w] grey, in memory of `pixel_memory`.
        orientation: how it becomes upright.
        height, width: of the picture at its full resolution.
        reduction: by how much h and w are smaller, rounded up; 1 if they are not.
    """

    pixels: NDArray[np.uint8]
    orientation: Orientation
    height: int
    width: int
    reduction: int = 1


def pixel_memory(size: int) -> NDArray[np.uint8]:
    """Return [size + some] uint8, uninitialized: swscale's vector code reads on behind the last pixel."""
    return np.empty(size + _PADDING_BYTES, np.uint8)


class PictureScaler:
    """Scales decoded pictures. One instance serves one thread."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()  # keeps swscale's tables from one picture to the next of its size

    def write(self, picture: Picture, out: NDArray[np.uint8]) -> None:
        """Write the centre of a picture, scaled and turned upright, to `out` [H, W, 3]."""
        stored = picture.orientation.undo(out)
        height, width = stored.shape[:2]
        box = centre_box(picture.height, picture.width, height, width)
        if picture.reduction == 1 and (box.height, box.width) == (height, width):
            stored[:] = _rgb(_cut(picture.pixels, box))
        elif picture.reduction == 1 and min(box.height, box.width, height, width) >= _FEW_PIXELS:
            self._scale(_cut(picture.pixels, box), stored)
        else:
            stored[:] = _rgb(_scale_with_pillow(picture, box, height, width))

    def _scale(self, pixels: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        source, target, channels = ("gray", "gray", _GREY) if pixels.ndim == 2 else ("rgb24", "gbrp", _GBR)
        height, width = out.shape[:2]
        scaled: Any = self._reformatter.reformat(
            VideoFrame.from_numpy_buffer(pixels, source), width, height, target, interpolation=_FILTER, threads=1
        )
        for plane, channel in zip(scaled.planes, channels, strict=True):
            lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
            out[..., channel] = lines[:height, :width, np.newaxis]


# The channels of RGB that a plane of swscale's grey or planar RGB goes to.
_GREY = (slice(0, 3),)
_GBR = (slice(1, 2), slice(2, 3), slice(0, 1))


def _scale_with_pillow(picture: Picture, box: Box, height: int, width: int) -> NDArray[np.uint8]:
    edges = (box.left, box.top, box.left + box.width, box.top + box.height)
    left, top, right, bottom = (edge / picture.reduction for edge in edges)
    scaled = Image.fromarray(picture.pixels).resize(
        (width, height), Image.Resampling.BILINEAR, (left, top, right, bottom)
    )
    return np.asarray(scaled)


def _cut(pixels: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    return pixels[box.top : box.top + box.height, box.left : box.left + box.width]


def _rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return grey [h, w] as [h, w, 1], which broadcasts to RGB, and RGB as it is."""
    return pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
