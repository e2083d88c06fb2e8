"""EXIF orientation, and nothing else of EXIF.

Read by hand because decoding needs one number: Pillow parses all tags, for as long as a small picture takes to decode,
and warns on the console of each damaged one.
"""

from __future__ import annotations

import struct

from headrace.data.decode.geometry import Orientation

_HEADER = b"Exif\0\0"  # of JPEG; some writers of WebP and PNG keep it
_ORIENTATION_TAG = 0x0112
_SHORT = 3
_ORIENTATIONS = {  # EXIF 2.32, 4.6.4: which side of the scene the stored row 0 and column 0 are
    1: Orientation(),
    2: Orientation(flip_columns=True),
    3: Orientation(flip_rows=True, flip_columns=True),
    4: Orientation(flip_rows=True),
    5: Orientation(transpose=True),
    6: Orientation(transpose=True, flip_columns=True),
    7: Orientation(transpose=True, flip_rows=True, flip_columns=True),
    8: Orientation(transpose=True, flip_rows=True),
}


def exif_orientation(exif: bytes | None) -> Orientation:
    """Return how a picture with this EXIF block becomes upright; damaged EXIF says nothing, and costs no picture."""
    if not exif:
        return Orientation()
    try:
        return _ORIENTATIONS.get(_stated(exif.removeprefix(_HEADER)), Orientation())
    except struct.error:
        return Orientation()


def _stated(tiff: bytes) -> int:
    """Return the orientation in the first directory of a TIFF structure (TIFF 6.0, section 2), 1 if there is none."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
    (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
    for entry in range(entries):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, directory + 2 + 12 * entry)
        if tag == _ORIENTATION_TAG:
            return int(value) if kind == _SHORT else 1
    return 1
