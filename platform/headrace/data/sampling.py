"""Which moments of a clip are looked at: a pure function of a configuration, the clip's length and a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from headrace.errors import UserError, did_you_mean
from headrace.keyed import uniform

Mode = Literal["uniform", "clip"]


@dataclass(frozen=True)
class SamplingConfig:
    """How many frames are taken from a clip, and from where.

        uniform, frames=4    |----.----|----.----|----.----|----.----|    one in each of 4 equal segments
        clip, frames=4       |          .---.---.---.                |    4 in a row, stride_seconds apart

    `uniform` sees the whole clip at a low rate (what happens in it); `clip` sees a moment at a fixed rate
    (how things move).
    """

    frames: int = 8
    """Frames taken from a clip, T."""

    mode: Mode = "uniform"
    """uniform: spread over the whole clip. clip: in a row, `stride_seconds` apart."""

    stride_seconds: float = 0.1
    """Seconds from one frame to the next in mode clip; has no effect in mode uniform."""

    key_frames: bool = False
    """Take the key frame nearest to each time instead of the frame at it. Far cheaper to decode, and not exact: times
    are no longer evenly spread, and where key frames are rare, frames repeat."""

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise UserError(f"frames must be at least 1, got {self.frames}")
        if self.mode not in get_args(Mode):
            nearest = did_you_mean(self.mode, get_args(Mode))
            raise UserError(f"there is no sampling mode {self.mode!r}: {nearest}")
        if not (math.isfinite(self.stride_seconds) and self.stride_seconds > 0):
            raise UserError(f"stride_seconds must be a positive number, got {self.stride_seconds}")


def frame_times(config: SamplingConfig, seconds: float, seed: int, *, jitter: bool) -> NDArray[np.float64]:
    """Return the times [T] in seconds, ascending in [0, seconds], at which a clip is looked at.

    uniform, T = 3: T segments of equal length, one time in each.

        0         seconds/3      2*seconds/3     seconds
        |------x------|------x------|------x------|      jitter=False: the middle of each
        |--x----------|---------x---|-----x-------|      jitter=True: anywhere in each, independently

    clip, T = 3: times `stride_seconds` apart; they span s = (T - 1) * stride_seconds.

        0                                     seconds
        |            x-----x-----x            |          jitter=False: centred
        |    x-----x-----x                    |          jitter=True: starts anywhere in [0, seconds - s)
                |<---- s ---->|

        0        seconds
        |x-----x-|---x                                   a clip shorter than s: starts at 0, and the times
        |x-----x-x                                       past its end are its end: the last frame repeats

    A time on the end of the clip shows its last frame, by the contract of `headrace.data.decode`. An image,
    whose length is 0, is looked at T times at 0.

    Args:
        config: how many and from where.
        seconds: length of the clip, not negative.
        seed: of this look at this clip; the same seed gives the same times on every machine.
        jitter: random times, for training; else the same, central ones whatever the seed.
    """
    if config.mode == "uniform":
        return _uniform_times(config.frames, seconds, seed, jitter=jitter)
    return _clip_times(config.frames, config.stride_seconds, seconds, seed, jitter=jitter)


def _uniform_times(frames: int, seconds: float, seed: int, *, jitter: bool) -> NDArray[np.float64]:
    segment = np.arange(frames)
    within = uniform("frame_times", seed, segment) if jitter else np.full(frames, 0.5)
    times: NDArray[np.float64] = np.minimum((segment + within) * (seconds / frames), seconds)
    return times


def _clip_times(frames: int, stride_seconds: float, seconds: float, seed: int, *, jitter: bool) -> NDArray[np.float64]:
    room = max(0.0, seconds - (frames - 1) * stride_seconds)
    start = room * (float(uniform("frame_times", seed)) if jitter else 0.5)
    times: NDArray[np.float64] = np.minimum(start + np.arange(frames) * stride_seconds, seconds)
    return times


def nearest_times(times_seconds: NDArray[np.float64], choices_seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each time [T] the nearest of the choices [K], which are ascending; of two as near, the earlier."""
    after = np.searchsorted(choices_seconds, times_seconds).clip(1, max(1, len(choices_seconds) - 1))
    before = choices_seconds[after - 1]
    after = choices_seconds[np.minimum(after, len(choices_seconds) - 1)]
    nearest: NDArray[np.float64] = np.where(times_seconds - before <= after - times_seconds, before, after)
    return nearest
