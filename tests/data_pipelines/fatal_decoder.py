"""A decoder for tests that ends its process at clips of one size, as hostile files end FFmpeg."""

from __future__ import annotations

import os
import signal
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from headrace.data.decode.index import VideoIndex
from headrace.data.decode.pyav import PyAVDecoder

FATAL_WIDTH = 64


class FatalDecoder(PyAVDecoder):
    """Decodes like its parent, but for what it dies of."""

    def decode(
        self,
        file: BinaryIO,
        times_seconds: NDArray[np.float64],
        out: NDArray[np.uint8],
        index: VideoIndex | None = None,
    ) -> NDArray[np.float64]:
        """See `headrace.data.decode.Decoder.decode`."""
        if index is not None and index.codec.width == FATAL_WIDTH:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().decode(file, times_seconds, out, index)


def build() -> FatalDecoder:
    """Return the decoder."""
    return FatalDecoder()
