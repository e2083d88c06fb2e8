"""Decoders by which the stream itself is measured: one that costs nothing, one that waits as for a slow storage."""

from __future__ import annotations

import time
import zlib
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from headrace.data.decode.index import VideoIndex
from headrace.data.decode.pyav import PyAVDecoder

INSTANT, RESTING, WAITING = (f"{__name__}:{name}" for name in ("instant", "resting", "waiting"))

REST_SECONDS = 0.4
WAIT_SECONDS, WAIT_SIGMA = 0.1, 0.5


class Blank:
    """Gives black frames after a while.

    Args:
        seconds: it sleeps for each clip.
    """

    name = "blank"

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def decode(
        self,
        file: BinaryIO,
        times_seconds: NDArray[np.float64],
        out: NDArray[np.uint8],
        index: VideoIndex | None = None,
    ) -> NDArray[np.float64]:
        """See `headrace.data.decode.Decoder.decode`."""
        if self._seconds:
            time.sleep(self._seconds)
        return times_seconds


class Waiting(PyAVDecoder):
    """Sleeps before each clip, as long as the clip's times say: median WAIT_SECONDS."""

    def decode(
        self,
        file: BinaryIO,
        times_seconds: NDArray[np.float64],
        out: NDArray[np.uint8],
        index: VideoIndex | None = None,
    ) -> NDArray[np.float64]:
        """See `headrace.data.decode.Decoder.decode`."""
        random = np.random.default_rng(zlib.crc32(times_seconds.tobytes()))
        time.sleep(WAIT_SECONDS * np.exp(WAIT_SIGMA * random.standard_normal()))
        return super().decode(file, times_seconds, out, index)


def instant() -> Blank:
    """Return a decoder that costs nothing."""
    return Blank(0.0)


def resting() -> Blank:
    """Return a decoder that sleeps and takes no CPU, so that many actors fit on few cores."""
    return Blank(REST_SECONDS)


def waiting() -> Waiting:
    """Return a decoder that waits, then decodes."""
    return Waiting()
