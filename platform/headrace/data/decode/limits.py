"""How large a sample may be, so that one hostile or mistaken file cannot take a decode actor's memory or time."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import BinaryIO

from headrace.data.failures import TooLarge, TooSlow


@dataclass(frozen=True)
class Limits:
    """What a decoder accepts.

    Attributes:
        pixels_per_frame: width x height of one picture, before scaling. A decoded frame takes 1.5 to 6 bytes
            a pixel and a codec keeps up to 17 of them. The default admits 8K video and 67 megapixel photos.
        frames_per_sample: packets of the video stream. The default is a day at 60 frames a second.
        bytes_per_sample: size of the file.
        bytes_in_memory: size of the video packets that are held while a file is decoded whose packets cannot be
            read one by one.
        seconds_per_sample: wall-clock time for one call of `decode` or `probe`; checked between packets.
    """

    pixels_per_frame: int = 8192 * 8192
    frames_per_sample: int = 24 * 3600 * 60
    bytes_per_sample: int = 2**36
    bytes_in_memory: int = 2**30
    seconds_per_sample: float = 120.0

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

    def start(self) -> Deadline:
        """Return a deadline `seconds_per_sample` from now."""
        return Deadline(self.seconds_per_sample)


class Deadline:
    """A moment by which a sample must be done."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._at = time.monotonic() + seconds

    def check(self) -> None:
        """Do nothing before the deadline.

        Raises:
            TooSlow: it is past.
        """
        if time.monotonic() > self._at:
            raise TooSlow(f"not decoded within {self._seconds:g} s")
