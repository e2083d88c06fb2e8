"""JPEG by libjpeg-turbo, at the resolution that is needed.

A JPEG is a grid of 8x8 blocks of frequencies. From the lowest 4x4, 2x2 or 1x1 of each, the picture comes out at 1/2,
1/4 or 1/8 of its size for a fraction of the cost. Between those, at other eighths, libjpeg-turbo has no vector code:
7/8 of a picture takes longer than all of it.

Why not Pillow, which is built upon the same library: it keeps four bytes a pixel and copies them twice, and it hides
libjpeg's warnings, so that a picture whose data end in the middle comes out half grey.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from headrace.data.decode.exif import exif_orientation
from headrace.data.decode.geometry import centre_box
from headrace.data.decode.limits import Limits
from headrace.data.decode.picture import Picture, pixel_memory
from headrace.data.failures import TooLarge, Truncated

MAGIC = b"\xff\xd8\xff"
_SPARE = 1.5
"""A picture is decoded at no less than this times the wanted size, so that the filter after it has enough to work on.
Photographs then differ from an exact reduction by 0.4 of 255 levels at most; by 0.8 at 1, by 0.3 at 2."""

_MAX_SCANS = 500  # cameras and encoders write about 10; each costs a pass over the whole picture, however few its bytes
_SCAN = b"\xff\xda"
_FILL, _EXIF, _PROGRESSIVE = 0xFF, 0xE1, (0xC2, 0xC6, 0xCA, 0xCE)


def decode_jpeg(data: bytes, target_height: int, target_width: int, limits: Limits) -> Picture | None:
    """Return the picture of a JPEG file, or None where another decoder has to decide.

    That is for a kind of JPEG which libjpeg-turbo does not convert to RGB (CMYK), a header that it does not
    understand, and a file that does not end as it should.

    Args:
        data: the whole file.
        target_height, target_width: to what the centre of the upright picture will be scaled.
        limits: how large it may be.

    Raises:
        Truncated: a part of the picture is missing or damaged.
        TooLarge: beyond the limits.
    """
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if space in ("CMYK", "YCCK"):
        return None
    limits.check_picture(width, height)
    exif, progressive = _read_segments(data)
    if progressive and (scans := data.count(_SCAN)) > _MAX_SCANS:
        raise TooLarge(f"a progressive JPEG of {scans} scans; the limit is {_MAX_SCANS}")

    orientation = exif_orientation(exif)
    reduction = _reduction(height, width, *orientation.size(target_height, target_width))
    try:
        pixels = _decode(data, -(-height // reduction), -(-width // reduction), grey=space == "Gray")
    except ValueError as error:
        if _is_damage(str(error)):
            raise Truncated(f"the picture cannot be decoded: {error}") from error
        return None
    return Picture(pixels, orientation, height, width, reduction)


def _decode(data: bytes, height: int, width: int, grey: bool) -> NDArray[np.uint8]:
    """Return pixels of this height and width, which is that of the picture or an eighth, quarter or half of it.

    Raises:
        ValueError: libjpeg raises an error, or so much as a warning.
    """
    memory = pixel_memory(height * width * (1 if grey else 3))
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        data, "GRAY" if grey else "RGB", min_height=height, min_width=width, buffer=memory, strict=True
    )
    return pixels[..., 0] if grey else pixels


def _reduction(height: int, width: int, target_height: int, target_width: int) -> int:
    """Return by how much a picture may be shrunk while it is decoded: 8, 4, 2 or 1."""
    box = centre_box(height, width, target_height, target_width)
    most = min(box.height / target_height, box.width / target_width) / _SPARE
    return next((reduction for reduction in (8, 4, 2) if reduction <= most), 1)


def _is_damage(warning: str) -> bool:
    """Whether a warning of libjpeg says that pixels are wrong. Superfluous bytes and odd headers change none."""
    return warning.startswith("Corrupt JPEG data") and "extraneous" not in warning


def _read_segments(data: bytes) -> tuple[bytes | None, bool]:
    """Return a JPEG's EXIF block, if there is one, and whether it is progressive."""
    exif, progressive = None, False
    for marker, segment in _segments(data):
        if marker == _EXIF and exif is None and segment.startswith(b"Exif\0\0"):
            exif = segment
        progressive |= marker in _PROGRESSIVE
    return exif, progressive


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of each segment before the first scan (ITU-T T.81, B.1.1.4)."""
    start = 2
    while start + 4 <= len(data) and data[start] == 0xFF and data[start : start + 2] != _SCAN:
        if data[start + 1] == _FILL:
            start += 1
            continue
        stop = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        yield data[start + 1], data[start + 4 : stop]
        start = stop
