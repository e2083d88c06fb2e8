"""Where work waits its turn: the cores of a machine, a line that passes so much a second, a storage.

Cores    all jobs at once, each at its share (processor sharing)
Line     one after the other, at a rate (a network card, a limit on requests)
Storage  latency, bandwidth of a connection, and a Line of requests
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray
from simpy import Environment, Event


class Cores:
    """The cores of one machine, shared equally by the jobs that run.

    Each job has a virtual finish: what one job has been served since the start, plus its work. So only the next one to
    finish needs an alarm, however many there are.

    Args:
        env: the simulation.
        cores: how many.
        full_speed: of a core while all are busy; between one busy core and all it falls evenly.
        taken: cores that others take all the time.
        jobs: how many there will be at a time, at most; where cores are enough for them, no job slows another.
    """

    def __init__(
        self, env: Environment, cores: int, full_speed: float = 1.0, taken: float = 0.0, jobs: float = math.inf
    ) -> None:
        self._env, self._cores, self._full_speed, self._taken = env, cores, full_speed, taken
        self._shared = jobs + taken > cores or full_speed < 1
        self._served, self._at = 0.0, 0.0
        self._waiting: list[tuple[float, int, Event]] = []
        self._number = count()
        self._alarm = 0
        self.busy_seconds = 0.0

    def work(self, seconds: float) -> Event:
        """Return what happens when so many seconds of one core's work are done."""
        self.busy_seconds += seconds
        if not self._shared:
            return self._env.timeout(seconds)
        self._serve()
        done = self._env.event()
        heapq.heappush(self._waiting, (self._served + seconds, next(self._number), done))
        self._set_alarm()
        return done

    def speed(self, jobs: int) -> float:
        """Return at which share of a core's speed each of so many jobs runs."""
        busy = min(jobs + self._taken, self._cores)
        slowed = (1 - self._full_speed) * max(0.0, busy - 1) / max(1, self._cores - 1)
        return (1 - slowed) * min(1.0, (self._cores - self._taken) / jobs)

    def _serve(self) -> None:
        passed, self._at = self._env.now - self._at, self._env.now
        if self._waiting:
            self._served += passed * self.speed(len(self._waiting))

    def _set_alarm(self) -> None:
        self._alarm += 1
        if not self._waiting:
            return
        left = max(0.0, self._waiting[0][0] - self._served)
        alarm, number = self._env.timeout(left / self.speed(len(self._waiting))), self._alarm
        alarm.callbacks.append(lambda _: self._finish(number))

    def _finish(self, alarm: int) -> None:
        if alarm != self._alarm:  # jobs came or went since it was set
            return
        self._serve()
        first = self._waiting[0][0]
        while self._waiting and self._waiting[0][0] <= max(first, self._served):
            heapq.heappop(self._waiting)[2].succeed()
        self._set_alarm()


class Line:
    """What passes so much a second, in the order in which it comes.

    Args:
        rate: units a second.
    """

    def __init__(self, rate: float) -> None:
        self._rate, self._free_at = rate, 0.0
        self.busy_seconds = 0.0

    def delay(self, now: float, units: float) -> float:
        """Let units in and return the seconds until the last of them has passed."""
        takes = units / self._rate
        self.busy_seconds += takes
        self._free_at = max(self._free_at, now) + takes
        return self._free_at - now

    def wait(self, now: float, units: float) -> float:
        """Let units in and return the seconds until the first of them passes."""
        return self.delay(now, units) - units / self._rate


@dataclass(frozen=True)
class StorageModel:
    """An object storage, as one request sees it.

    Attributes:
        latency_seconds: median until the first byte; 0: a local disk, of which nothing is waited for.
        latency_sigma: of its logarithm.
        connection_bytes_per_second: what one answer comes at.
        requests_per_second: of all readers together.
        requests_per_clip, bytes_per_clip: what a sparse read of a clip asks for.
        ahead: clips that an actor fetches while it decodes.
    """

    latency_seconds: float = 0.030
    latency_sigma: float = 0.5
    connection_bytes_per_second: float = 90e6
    requests_per_second: float = 5500.0
    requests_per_clip: float = 1.0
    bytes_per_clip: float = 1.5e6
    ahead: int = 4

    def fetch_seconds(self, random: np.random.Generator, clips: int) -> NDArray[np.float64]:
        """Draw how long each of so many clips takes to come [clips]; its requests are sent one after the other."""
        drawn = self.latency_seconds * np.exp(self.latency_sigma * random.standard_normal(clips))
        return self.requests_per_clip * drawn + self.bytes_per_clip / self.connection_bytes_per_second


def read_ahead_wait(fetch_seconds: NDArray[np.float64], clip_seconds: float, ahead: int) -> float:
    """Return the seconds for which a decoder waits for its storage over one micro-batch.

    Clip i is asked for when the decoder turns to clip i - ahead, and decoded when it is there and clip i - 1 is done;
    nothing is fetched beyond the micro-batch (`headrace.data.readahead`).

    Args:
        fetch_seconds: [clips] how long each takes to come.
        clip_seconds: of decoding one.
        ahead: clips that are fetched besides the one that is decoded.
    """
    turned: list[float] = []
    free = waited = 0.0
    if ahead and float(fetch_seconds.max()) <= ahead * clip_seconds:  # all but the first few come in time
        fetch_seconds = fetch_seconds[:ahead]
    for place, seconds in enumerate(fetch_seconds.tolist()):
        turned.append(free)
        there = turned[max(0, place - ahead)] + seconds
        waited += max(0.0, there - free)
        free = max(free, there) + clip_seconds
    return waited
