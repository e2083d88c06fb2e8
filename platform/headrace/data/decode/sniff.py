"""What the bytes of a file say by themselves, before a media library reads them.

A library that cannot open a file says only "invalid data". Whether the file is no video at all, a video cut
short, or an encrypted one decides what a person does next, and a few bytes tell it.
"""

from __future__ import annotations

import os
import re
from typing import BinaryIO

HEAD_BYTES = 512

_ISO_BOXES = {
    b"ftyp",
    b"styp",
    b"moov",
    b"moof",
    b"mdat",
    b"sidx",
    b"free",
    b"skip",
    b"wide",
    b"uuid",
    b"pnot",
}
_ISO_MEDIA_BOXES = {b"moov", b"moof", b"mdat"}
_STILL_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"avif"}
_IMAGE_MAGIC = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"BM",
    b"II*\0",  # TIFF
    b"MM\0*",
    b"\0\0\0\x0cjP  \r\n\x87\n",  # JPEG 2000
    b"\xff\x4f\xff\x51",
    b"P5\n",  # PGM, PPM
    b"P6\n",
)
_VIDEO_MAGIC = (
    b"FLV\x01",
    b"OggS",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF, WMV
    b"\0\0\x01\xba",  # MPEG program stream
    b"\0\0\x01\xb3",  # MPEG-1, MPEG-2
    b"\0\0\0\x01\x67",  # H.264 without a container: a parameter set or a delimiter comes first
    b"\0\0\0\x01\x27",
    b"\0\0\0\x01\x09",
    b"\0\0\0\x01\x40",  # HEVC without a container
    b"\0\0\0\x01\x46",
    b"GIF8",
)
_EBML = b"\x1aE\xdf\xa3"
_EBML_SEGMENT = b"\x18S\x80g"
# ContentEncodings > ContentEncoding > ContentEncryption (RFC 9559, 5.1.4.1.31)
_MATROSKA_ENCRYPTION = re.compile(rb"\x6d\x80.{1,8}\x62\x40.{1,64}\x50\x35", re.DOTALL)
# An encrypted sample entry, or the protection scheme inside one (ISO/IEC 14496-12, 8.12)
_ISO_ENCRYPTION = re.compile(rb"encv\0{6}|\0\0\0\x14schm\0{4}(cenc|cbcs|cens|cbc1)")


def read_head(file: BinaryIO) -> bytes:
    """Return the first bytes of `file` and leave it at 0."""
    file.seek(0)
    head = file.read(HEAD_BYTES)
    file.seek(0)
    return head


def is_image(head: bytes) -> bool:
    """Whether a file that begins so is a still picture. An animated GIF counts as a video."""
    return head.startswith(_IMAGE_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or is_heif(head)


def is_heif(head: bytes) -> bool:
    """Whether a file that begins so is a HEIF or AVIF picture.

    Its box structure is that of mp4: a video decoder would open it and give one tile for the whole.
    """
    return head[4:8] == b"ftyp" and head[8:12] in _STILL_BRANDS


def is_video(head: bytes) -> bool:
    """Whether a file that begins so is meant to be a video, whole or not."""
    return (
        (head[4:8] in _ISO_BOXES and not is_heif(head))
        or head.startswith((*_VIDEO_MAGIC, _EBML))
        or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")
        or (head[:1] == b"G" and head[188:189] == b"G" and head[376:377] == b"G")  # MPEG transport stream
    )


def is_encrypted(file: BinaryIO) -> bool:
    """Whether an mp4 or Matroska file declares its pictures encrypted. Reads all of it; leaves it at 0."""
    head = read_head(file)
    pattern = _MATROSKA_ENCRYPTION if head.startswith(_EBML) else _ISO_ENCRYPTION
    found = pattern.search(file.read()) is not None
    file.seek(0)
    return found


def ends_early(file: BinaryIO) -> bool:
    """Whether the file ends before its own container says, as after a download that broke off.

    Known for mp4/mov, Matroska/WebM and AVI. A transport stream, a FLV or a live WebM does not say where it
    ends, and is taken to end where it ends. Leaves the file at 0.
    """
    size = file.seek(0, os.SEEK_END)
    head = read_head(file)
    if head[4:8] in _ISO_BOXES:
        early = _iso_ends_early(file, size)
    elif head.startswith(_EBML):
        early = _matroska_end(head) > size
    elif head[:4] == b"RIFF":
        early = 8 + int.from_bytes(head[4:8], "little") > size
    else:
        early = False
    file.seek(0)
    return early


def _iso_ends_early(file: BinaryIO, size: int) -> bool:
    """Walk the top-level boxes: [size: 4][type: 4][size, if the first is 1: 8]."""
    start = 0
    while start + 8 <= size:
        file.seek(start)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length == 0:  # up to the end, wherever that is
            return False
        if length < 8:  # not a box: bytes after the last one
            return False
        if start + length > size:
            return kind in _ISO_MEDIA_BOXES
        start += length
    return False


def _matroska_end(head: bytes) -> int:
    """Return where the Segment says it ends, 0 where it does not say."""
    start = head.find(_EBML_SEGMENT)
    if start < 0 or start + 12 > len(head):
        return 0
    start += len(_EBML_SEGMENT)
    octets = 9 - head[start].bit_length()  # a variable-length integer: its leading zero bits count its bytes
    unknown = (1 << 7 * octets) - 1
    length = int.from_bytes(head[start : start + octets], "big") & unknown
    return 0 if length == unknown else start + octets + length
