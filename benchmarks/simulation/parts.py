"""The parts of the simulated stream that only do as they are told: blocks, nodes, decoders, ranks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from simpy import Environment, Event, Interrupt, Process

from benchmarks.simulation.scenario import Work
from benchmarks.simulation.stations import Cores, Line

Steps: TypeAlias = Generator[Event, Any, None]


@dataclass
class Node:
    """A machine that decodes.

    Attributes:
        reading: its network card, of what comes from the storage.
        sending: the same, of what goes to the trainers; None: nothing is sent.
    """

    cores: Cores
    reading: Line
    sending: Line | None
    decoders: list[Decoder] = field(default_factory=list)


@dataclass
class Block:
    """Micro-batches that are decoded in one go.

    Attributes:
        number: in its stream.
        holder: who decodes it, and does it again where it is lost.
        node: where it lies; None: not decoded yet, or lost with its node.
        decoded_at: when it came to lie there.
        wanted: called when it is there, by a rank that came for it while it was lost.
    """

    number: int
    holder: Decoder
    node: Node | None = None
    decoded_at: float = 0.0
    wanted: Callable[[Block], None] | None = None


class Decoder:
    """A decode actor: does what it was given, one after the other, also after it died.

    Args:
        env: the simulation.
        node: where it runs.
        work: what a block takes.
        block_seconds: CPU for each block besides.
        done: called with each block when it lies in the object store.

    Attributes:
        in_flight: tasks that it has, as the coordinator knows it.
        busy_seconds, reading_seconds: with a block, and of these waiting for the storage.
    """

    def __init__(
        self, env: Environment, node: Node, work: Work, block_seconds: float, done: Callable[[Block], None]
    ) -> None:
        self._env, self._node, self._work, self._block_seconds, self._done = env, node, work, block_seconds, done
        self._given: deque[Block] = deque()
        self._wake: Event | None = None
        self.in_flight = 0
        self.busy_seconds = self.reading_seconds = 0.0
        self.process: Process = env.process(self._run())
        node.decoders.append(self)

    def give(self, block: Block) -> None:
        """Add a block to what it has to do."""
        self._given.append(block)
        if self._wake is not None:
            wake, self._wake = self._wake, None
            wake.succeed()

    def die(self, seconds: float) -> None:
        """Lose what is being decoded, and be away for so long."""
        self.process.interrupt(seconds)

    def _run(self) -> Steps:
        away = 0.0
        while True:
            try:
                if away:
                    yield self._env.timeout(away)
                    away = 0.0
                while not self._given:
                    self._wake = self._env.event()
                    yield self._wake
                yield from self._decode(self._given[0])
            except Interrupt as death:
                away, self._wake = float(death.cause or 0.0), None

    def _decode(self, block: Block) -> Steps:
        began = self._env.now
        waited, cpu = self._work.draw(block.number, began, self._node.reading)
        if waited:
            self.reading_seconds += waited
            yield self._env.timeout(waited)
        yield self._node.cores.work(cpu + self._block_seconds)
        self.busy_seconds += self._env.now - began
        self._given.popleft()
        block.node, block.decoded_at = self._node, self._env.now
        self._done(block)


class Rank:
    """A training worker's end of the stream: holds a few blocks, and comes for the next as soon as it has room.

    Args:
        env: the simulation.
        ahead: blocks that it holds, those on their way included.
        card: its node's network card; None: blocks need no time to come.
        block_bytes: of a block.
        arrived: called for each block that came.
    """

    def __init__(
        self, env: Environment, ahead: int, card: Line | None, block_bytes: float, arrived: Callable[[], None]
    ) -> None:
        self._env, self._ahead, self._card, self._block_bytes, self._arrived = env, ahead, card, block_bytes, arrived
        self._held = 0
        self._offered: deque[Block] = deque()

    @property
    def polls(self) -> bool:
        """Whether it asks again and again if its next block is there."""
        return self._held < self._ahead and not self._offered

    def offer(self, block: Block) -> None:
        """Leave a block in its queue."""
        self._offered.append(block)
        self._fetch()

    def consume(self) -> None:
        """Let go of a block that arrived."""
        self._held -= 1
        self._fetch()

    def lose(self, node: Node) -> list[Block]:
        """Return the blocks in its queue that lay on a node which is lost."""
        return [block for block in self._offered if block.node is node]

    def _fetch(self) -> None:
        while self._held < self._ahead and self._offered:
            self._held += 1
            block = self._offered.popleft()
            if block.node is None:
                block.wanted = self._take
            else:
                self._take(block)

    def _take(self, block: Block) -> None:
        now, seconds = self._env.now, 0.0
        if self._card is not None:
            assert block.node is not None
            assert block.node.sending is not None
            seconds = max(line.delay(now, self._block_bytes) for line in (block.node.sending, self._card))
        there = self._env.timeout(seconds)
        there.callbacks.append(lambda _: self._arrived())
