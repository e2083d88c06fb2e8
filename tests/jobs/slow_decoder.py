"""A decoder for tests that takes as long for a clip as a file says: how slow a pool is can be changed while it runs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from headrace.data.decode.index import VideoIndex
from headrace.data.decode.pyav import PyAVDecoder

SECONDS_FILE = "HEADRACE_TEST_SECONDS_A_CLIP"


class SlowDecoder(PyAVDecoder):
    """Decodes like its parent, and then waits."""

    def decode(
        self,
        file: BinaryIO,
        times_seconds: NDArray[np.float64],
        out: NDArray[np.uint8],
        index: VideoIndex | None = None,
    ) -> NDArray[np.float64]:
        """See `headrace.data.decode.Decoder.decode`."""
        time.sleep(float(Path(os.environ[SECONDS_FILE]).read_text()))
        return super().decode(file, times_seconds, out, index)


def build() -> SlowDecoder:
    """Return the decoder."""
    return SlowDecoder()
