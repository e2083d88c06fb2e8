"""What a run needs, from what a clip costs to decode and what a worker takes: the arithmetic of `jobs/plan.py`.

    c    CPU seconds to decode a clip         d    clips/s that a worker takes when it never waits
    n    workers                              C    cores of the machine

    CPUs for each worker     h d c            with the headroom h of the decode pool
    decoders' cores          C - n            on GPUs: each worker keeps one core
                             C - n threads    on the CPU
    waiting share            1 - S / D        supply S = cores / c, demand D = n d, where S < D
    streams                  D / (b k)        of b clips a block and k blocks/s each, as many as divide the workers

Where the model runs on the CPU and leaves the decoders no core, both take turns on the same ones: a clip then costs
c + threads / d core seconds in all, and S = C / (c + threads / d).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

BLOCKS_PER_SECOND = 200.0
"""That one stream hands out, with some to spare: 270 were measured on one slow core."""


@dataclass(frozen=True)
class Machine:
    """Where the run would be: cores and GPUs, and what trains."""

    cores: int
    workers: int
    threads: int
    device: str

    @property
    def decode_cores(self) -> int:
        """Cores that the workers leave."""
        return max(0, self.cores - self.workers * (self.threads if self.device == "cpu" else 1))


@dataclass(frozen=True)
class Needs:
    """The balance of decoding and training.

    Attributes:
        decode_seconds: CPU seconds for each clip.
        demand: clips/s of one worker.
        block_clips: clips that a decoder gives in one go.
        headroom: spare of the decode pool, at least 1.
    """

    decode_seconds: float
    demand: float
    block_clips: int
    machine: Machine
    headroom: float

    @property
    def clips_per_cpu(self) -> float:
        """Clips/s that one CPU decodes."""
        return 1 / self.decode_seconds

    @property
    def cpus_per_worker(self) -> float:
        """CPUs that decode for one worker."""
        return self.demand * self.decode_seconds * self.headroom

    @property
    def decoders(self) -> int:
        """Decoders for all workers."""
        return max(1, math.ceil(self.machine.workers * self.cpus_per_worker - 1e-9))

    @property
    def supply(self) -> float:
        """Clips/s that this machine can decode beside its training."""
        machine = self.machine
        if machine.decode_cores >= 1:
            return machine.decode_cores / self.decode_seconds
        beside = machine.threads / self.demand if machine.device == "cpu" else 0.0
        return machine.cores / (self.decode_seconds + beside)

    @property
    def streams(self) -> int:
        """Streams that hand out what all workers take: the least number that divides the workers and is enough."""
        workers = self.machine.workers
        wanted = workers * self.demand / self.block_clips / BLOCKS_PER_SECOND
        return next((count for count in range(1, workers) if workers % count == 0 and count >= wanted), workers)

    @property
    def wait_share(self) -> float:
        """Share of the workers' time on this machine that they wait for data."""
        return max(0.0, 1 - self.supply / (self.machine.workers * self.demand))

    def costing(self, decode_seconds: float) -> Needs:
        """Return the same with another cost of a clip."""
        return replace(self, decode_seconds=decode_seconds)
