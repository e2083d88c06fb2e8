"""How large a sample may be, so that one hostile or mistaken file cannot take a decode actor's memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import BinaryIO

from headrace.data.failures import TooLarge


@dataclass(frozen=True)
class Limits:
    """What a decoder accepts.

    Attributes:
        pixels_per_frame: width x height of one picture, before scaling. A decoded frame takes 1.5 to 6 bytes
            a pixel and a codec keeps up to 17 of them. The default admits 8K video and 67 megapixel photos.
        bytes_per_sample: size of the file; its video packets are held in memory while it is decoded.
    """

    pixels_per_frame: int = 8192 * 8192
    bytes_per_sample: int = 2**30

    def check_bytes(self, file: BinaryIO) -> int:
        """Return the size of `file` in bytes and leave it at 0.

        Raises:
            TooLarge: the file is larger than `bytes_per_sample`.
        """
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size > self.bytes_per_sample:
            raise TooLarge(f"{size} bytes; the limit is {self.bytes_per_sample}")
        return size

    def check_picture(self, width: int, height: int) -> None:
        """Do nothing if a picture of this many pixels is accepted.

        Raises:
            TooLarge: it has more pixels than `pixels_per_frame`.
        """
        if width * height > self.pixels_per_frame:
            raise TooLarge(f"a picture of {width}x{height}; the limit is {self.pixels_per_frame} pixels")
