"""How many decoders a run needs: a pure function of what was measured, with a memory of its last minute.

    demand   D   clips/s that the trainers take when they never wait
    cost     s   seconds of wall time that one decoder takes for a clip
    spare    h   what a decoder does beside decoding, learnt; at least HEADROOM
    needed   N = ceil(D s h)

The pool grows as soon as N exceeds it, to twice its running size at most in one go: decoders that are still starting
have not been measured. It shrinks to the largest N of the last PATIENCE_SECONDS, so that a dip costs nothing, and not
while training waits.

h is learnt: where trainers wait although there are N decoders, each gives less than 1 / s (its next order comes late,
its clips stand behind a slow one, it waits for a core), and h rises to what would have been enough. It decays, because
the reason may pass.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from headrace.data.config import PoolSize
from headrace.observe.advice import LITTLE_WAIT, MUCH_WAIT
from headrace.observe.figures import figure, percent, plural

HEADROOM = 1.1
MOST_HEADROOM = 3.0
HEADROOM_HALF_LIFE_SECONDS = 300.0
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Reading:
    """What is known of a pool and its trainers at one moment. NaN where nothing is known.

    Attributes:
        seconds: of any clock that only grows.
        running, starting: decoders that decode, and those that wait for a CPU or load.
        demand, given: clips/s that the trainers take when they never wait, and that they get.
        wait_share: of the trainers' time lately, and since the number of running decoders last changed.
        seconds_per_clip: wall time of one decoder.
    """

    seconds: float
    running: int
    starting: int
    demand: float = math.nan
    given: float = math.nan
    wait_share: float = math.nan
    seconds_per_clip: float = math.nan

    @property
    def decoders(self) -> int:
        """Decoders that were asked for."""
        return self.running + self.starting


@dataclass(frozen=True)
class Change:
    """Another size for the pool, or the word that its bounds hold it back.

    Attributes:
        decoders: the size.
        needed: decoders that the trainers could use, within the bounds or not.
        reason: why, as a sentence that begins small and ends without a stop.
    """

    decoders: int
    needed: int
    reason: str


class PoolPolicy:
    """Decides the size of a decode pool within its bounds. No clock, no I/O.

    Args:
        size: the bounds.
    """

    def __init__(self, size: PoolSize) -> None:
        self._size = size
        self._headroom = HEADROOM
        self._recent: deque[tuple[float, int]] = deque()  # when, and how many decoders were needed
        self._now = math.nan
        self._held_back = False  # and it was said

    def decide(self, reading: Reading) -> Change | None:
        """Return the change that a reading calls for, if any. Readings come in order of time, about one a second."""
        load = reading.demand * reading.seconds_per_clip
        self._decay(reading.seconds)
        if not load > 0:
            return None
        self._learn_headroom(reading, load)
        needed = math.ceil(load * self._headroom - 1e-9)
        bounded = min(self._size.most, max(self._size.least, needed))
        self._remember(reading.seconds, bounded)

        if bounded > reading.decoders:
            target = min(bounded, max(2 * reading.running, self._size.least))
            return Change(target, needed, _why_more(reading, needed)) if target > reading.decoders else None
        target = max(decoders for _, decoders in self._recent)
        if target < reading.decoders and reading.wait_share < MUCH_WAIT and self._remembers_enough(reading.seconds):
            self._held_back = False
            reason = f"training takes {_rate(reading.demand)}, for which {_do(target)}"
            return Change(target, needed, reason)
        held_back = needed > self._size.most and reading.starting == 0 and reading.wait_share >= LITTLE_WAIT
        if held_back and not self._held_back:
            self._held_back = True
            return Change(self._size.most, needed, f"{_why_more(reading, needed)}; {self._size.most} are allowed")
        return None

    def _decay(self, now: float) -> None:
        if not math.isnan(self._now):
            kept = 0.5 ** ((now - self._now) / HEADROOM_HALF_LIFE_SECONDS)
            self._headroom = HEADROOM + (self._headroom - HEADROOM) * kept
        self._now = now

    def _learn_headroom(self, reading: Reading, load: float) -> None:
        waits = reading.wait_share
        if LITTLE_WAIT <= waits < 1 and reading.starting == 0 and reading.running >= load:
            enough = reading.running / (1 - waits)
            self._headroom = min(MOST_HEADROOM, max(self._headroom, enough / load))

    def _remember(self, now: float, needed: int) -> None:
        self._recent.append((now, needed))
        while len(self._recent) > 1 and self._recent[1][0] <= now - PATIENCE_SECONDS:
            self._recent.popleft()

    def _remembers_enough(self, now: float) -> bool:
        return self._recent[0][0] <= now - PATIENCE_SECONDS


def _why_more(reading: Reading, needed: int) -> str:
    waits = 1 - reading.given / reading.demand  # over the same steps
    wanted = f"{_rate(reading.demand)} take {needed}"
    if not waits >= LITTLE_WAIT:
        return f"at {figure(reading.seconds_per_clip, 2)} s a clip {wanted}"
    gives = "gives" if reading.running == 1 else "give"
    return (
        f"training waits {percent(waits)} of its time: {plural(reading.running, 'decoder')} {gives} "
        f"{figure(reading.given, 2)} clips/s, {wanted}"
    )


def _rate(clips_per_second: float) -> str:
    return f"{figure(clips_per_second, 2)} clips/s"


def _do(decoders: int) -> str:
    return "1 decoder does" if decoders == 1 else f"{decoders} decoders do"
