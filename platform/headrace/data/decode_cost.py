"""What decoding a sample costs, and how much its pictures changed, before and after it was encoded anew."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from headrace.data.decode.limits import Limits
from headrace.data.decode.probe import probe
from headrace.data.decode.table import build_decoder
from headrace.data.sampling import SamplingConfig, frame_times

_ROUNDS = 5


@dataclass(frozen=True)
class Comparison:
    """Two encodings of one sample.

    Attributes:
        cpu_seconds_before, cpu_seconds_after: to decode the frames, median of 5.
        difference: mean absolute difference of the pixels, of 255 levels.
    """

    cpu_seconds_before: float
    cpu_seconds_after: float
    difference: float


def compare(before: BinaryIO, after: BinaryIO, *, frames: int, size: int, limits: Limits | None = None) -> Comparison:
    """Decode the same moments of both, as training does: spread over the clip, from an index, by the default decoder.

    Args:
        before, after: seekable; hold the whole sample.
        frames: how many.
        size: height and width of the decoded frames.
        limits: how large the samples may be.

    Raises:
        SampleError: one of the two cannot be decoded.
        OSError: the storage failed.
    """
    files = (before, after)
    infos = [probe(file, limits) for file in files]
    times = frame_times(SamplingConfig(frames=frames), infos[0].seconds, seed=0, jitter=False)
    decoder = build_decoder("auto")
    pixels = np.zeros((2, frames, size, size, 3), np.uint8)
    cpu_seconds = np.zeros((_ROUNDS, 2))
    for turn in range(_ROUNDS):  # by turns, so that both meet the same machine
        for number, file in enumerate(files):
            file.seek(0)
            start = time.thread_time()
            decoder.decode(file, times, pixels[number], infos[number].index)
            cpu_seconds[turn, number] = time.thread_time() - start
    median_before, median_after = np.median(cpu_seconds, axis=0).tolist()
    difference = np.abs(pixels[0].astype(np.int16) - pixels[1]).mean()
    return Comparison(median_before, median_after, float(difference))
