"""What is simulated: a stream, its decoders, its trainers, and what happens to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from benchmarks.simulation.stations import Line, StorageModel, read_ahead_wait


class Work(Protocol):
    """What decoding a block takes."""

    def draw(self, number: int, now: float, card: Line) -> tuple[float, float]:
        """Return the seconds waited for storage, and those of a core.

        Args:
            number: of the block in its stream.
            now: seconds.
            card: the network card of the decoder's node.
        """
        ...


@dataclass(frozen=True)
class MeasuredWork:
    """Blocks as they were seen in a real run, in their order and again from the start.

    Attributes:
        blocks: seconds waited, and seconds of a core.
    """

    blocks: Sequence[tuple[float, float]]

    def draw(self, number: int, now: float, card: Line) -> tuple[float, float]:
        """See `Work.draw`."""
        return self.blocks[number % len(self.blocks)]


class DrawnWork:
    """Clips whose cost is drawn, read from an object storage.

    Args:
        clips: of a block.
        clip_seconds: CPU of one, mean.
        sigma: of the logarithm of a clip's CPU.
        storage: from where; None: a local disk, of which nothing is waited for.
        seed: of the draws.
    """

    def __init__(
        self, clips: int, clip_seconds: float, sigma: float = 0.0, storage: StorageModel | None = None, seed: int = 0
    ) -> None:
        self._clips, self._clip_seconds, self._sigma, self._storage = clips, clip_seconds, sigma, storage
        self._random = np.random.default_rng(seed)
        self.requests = Line(storage.requests_per_second if storage is not None else 1.0)

    def draw(self, number: int, now: float, card: Line) -> tuple[float, float]:
        """See `Work.draw`."""
        cpu = self._clips * self._clip_seconds
        if self._sigma:
            logs = self._sigma * self._random.standard_normal(self._clips) - self._sigma**2 / 2
            cpu = float(self._clip_seconds * np.exp(logs).sum())
        if self._storage is None:
            return 0.0, cpu
        fetch = self._storage.fetch_seconds(self._random, self._clips)
        waited = read_ahead_wait(fetch, cpu / self._clips, self._storage.ahead)
        held_up = self.requests.wait(now, self._storage.requests_per_clip * self._clips)
        return waited + held_up + card.wait(now, self._storage.bytes_per_clip * self._clips), cpu


@dataclass(frozen=True)
class Failures:
    """What goes wrong.

    Attributes:
        deaths_per_hour: of each decode actor, at random moments.
        node_losses_per_hour: of each decode node, likewise.
        node_lost_at: seconds at which one is lost in any case; None: never.
        replace_seconds: until another node stands in for a lost one.
        spare_nodes: that stand idle, so that a lost node's actors start there at once.
        start_seconds: from the death of an actor to its next block.
    """

    deaths_per_hour: float = 0.0
    node_losses_per_hour: float = 0.0
    node_lost_at: float | None = None
    replace_seconds: float = 180.0
    spare_nodes: int = 0
    start_seconds: float = 5.0


@dataclass(frozen=True)
class Scenario:
    """A run's stream on a cluster.

    Attributes:
        ranks: training workers.
        streams: coordinators, each with as many of the ranks and of the decoders.
        micro_batch: clips.
        block_micro_batches: of one rank, that are decoded and handed out as one block.
        step_seconds: that a rank computes for a micro-batch; a step ends with its slowest rank.
        step_sigma: of a rank's step, as a share.
        decoders: actors.
        node_cores: of each decode node; as many actors are on it, or all where `nodes` is 1.
        nodes: decode nodes; 0: as many as the actors fill.
        window: blocks in flight, at most, for each stream: being decoded, in the store, or with a rank.
        ahead: blocks that a rank holds beside the one it computes on.
        block_bytes: of one block's pixels.
        sender_bytes_per_second, receiver_bytes_per_second: of a node's network card; None: nothing is sent.
        receiver_ranks: ranks that share a card.
        failures: what goes wrong.
        seed: of what is random.
    """

    ranks: int
    decoders: int
    micro_batch: int
    step_seconds: float
    streams: int = 1
    block_micro_batches: int = 1
    step_sigma: float = 0.0
    node_cores: int = 32
    nodes: int = 0
    window: int = 64
    ahead: int = 2
    block_bytes: float = 0.0
    sender_bytes_per_second: float | None = None
    receiver_bytes_per_second: float | None = None
    receiver_ranks: int = 8
    failures: Failures = field(default_factory=Failures)
    seed: int = 0

    @property
    def block_clips(self) -> int:
        """Clips of a block."""
        return self.micro_batch * self.block_micro_batches

    @property
    def demand(self) -> float:
        """Clips/s that the trainers take when they never wait; infinite where a step takes no time."""
        return self.ranks * self.micro_batch / self.step_seconds if self.step_seconds else float("inf")

    @property
    def decode_nodes(self) -> int:
        """Nodes on which the actors are."""
        return self.nodes or -(-self.decoders // self.node_cores)
