"""From a picture as it is stored to the picture that is wanted: upright, covering, cut to the centre.

    stored            upright            scaled to cover      cut to its centre
    +--------+        +----+             +------+             +------+
    |        |  ->    |    |      ->     |      |      ->     |      |
    +--------+        |    |             |      |             |      |
                      +----+             |      |             +------+
                                         +------+

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


def orientation_from_matrix(display_matrix: bytes) -> Orientation:
    """Return the orientation that a display matrix asks for (ISO/IEC 14496-12, 6.2.2; FFmpeg's side data).

    The matrix is nine native int32, row by row: a b u, c d v, x y w. It sends the stored point (column x,
    row y) to column a*x + c*y and row b*x + d*y. An angle between the right angles is taken as the nearest.
    """
    a, b, _, c, d, *_ = struct.unpack("9i", display_matrix)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, flip_rows=d < 0, flip_columns=a < 0)
    return Orientation(True, flip_rows=b < 0, flip_columns=c < 0)


def cover_size(height: int, width: int, target_height: int, target_width: int) -> tuple[int, int]:
    """Return the (height, width) to which a picture is scaled so that it just covers the target."""
    scale = max(target_height / height, target_width / width)
    return max(target_height, round(height * scale)), max(target_width, round(width * scale))


def crop_centre(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Return a view of the central height x width of a picture [H, W, C] that covers it."""
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]
