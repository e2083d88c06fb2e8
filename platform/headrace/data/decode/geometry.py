"""From a picture as it is stored to the picture that is wanted: cut to the centre, scaled, upright.

    stored             its centre, in the         scaled to         upright
                       target's proportions       the target
    +-----------+          +-----+
    |           |    ->    |     |         ->       +---+     ->     +---+
    |           |          |     |                  +---+            |   |
    +-----------+          +-----+                                   +---+

Cutting first means that no pixel is scaled which is then thrown away.

Pixels are taken as square: a sample aspect ratio in the header is not applied, as in torchcodec and decord.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Orientation:
    """How a stored picture becomes upright: transpose first, then flip.

    The eight symmetries of a rectangle are all of this form, so rotation by multiples of 90 degrees and
    mirroring need no angles.
    """

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @property
    def mirrored(self) -> bool:
        """Whether the picture is reflected, not only rotated."""
        return self.transpose ^ self.flip_rows ^ self.flip_columns

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the upright (height, width) of a stored picture, and the stored of an upright."""
        return (width, height) if self.transpose else (height, width)

    def apply(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an upright view of a stored picture [H, W, C]."""
        if self.transpose:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def undo(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a stored view of an upright picture [H, W, C]."""
        picture = picture[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]
        return picture.swapaxes(0, 1) if self.transpose else picture


def orientation_from_matrix(display_matrix: bytes) -> Orientation:
    """Return the orientation that a display matrix asks for (ISO/IEC 14496-12, 6.2.2; FFmpeg's side data).

    The matrix is nine native int32, row by row: a b u, c d v, x y w. It sends the stored point (column x,
    row y) to column a*x + c*y and row b*x + d*y. An angle between the right angles is taken as the nearest.
    """
    a, b, _, c, d, *_ = struct.unpack("9i", display_matrix)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, flip_rows=d < 0, flip_columns=a < 0)
    return Orientation(True, flip_rows=b < 0, flip_columns=c < 0)


@dataclass(frozen=True)
class Box:
    """A rectangle of a picture: rows top ... top + height - 1, columns left ... left + width - 1."""

    top: int
    left: int
    height: int
    width: int


def centre_box(height: int, width: int, target_height: int, target_width: int, step: int = 1) -> Box:
    """Return the largest central box of a picture that has the target's aspect ratio, to the nearest pixel.

    Args:
        height, width: of the picture.
        target_height, target_width: of what the box will be scaled to.
        step: the box begins at multiples of it and ends at one or at the picture's edge; 2 where colour is
            stored at half the resolution.
    """
    scale = max(target_height / height, target_width / width)
    top, box_height = _centre(height, target_height / scale, step)
    left, box_width = _centre(width, target_width / scale, step)
    return Box(top, left, box_height, box_width)


def _centre(length: int, wanted: float, step: int) -> tuple[int, int]:
    inner = max(step, round(wanted / step) * step)
    if inner >= length:
        return 0, length
    return (length - inner) // (2 * step) * step, inner
