"""The one coordinator of a stream, as Ray Data 2.60 has it: a loop that looks, takes, hands out in order, starts tasks.

    wait until all running tasks have something to give, at most LOOK_SECONDS
    take it                        look_seconds + look_actor_seconds x actors
    hand out what is next          block_seconds / 2 + get_seconds + rank_block_seconds x ranks for each block; one
                                   whose forerunner is missing waits here
    end tasks                      END_SECONDS after its block a task is done; if a look comes before, at the next one
    start tasks                    block_seconds / 2 for each, on the actor with the fewest, TASKS_PER_ACTOR at most,
                                   as long as fewer blocks than the window are in flight, of which an actor counts one
                                   however many it has to do

Ranks whose next block is not there are woken when it is; they also look every POLL_SECONDS, in threads of the same
interpreter: what they take, the loop lacks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from typing import Any

from simpy import Environment, Event

from benchmarks.simulation.costs import Costs
from benchmarks.simulation.parts import Block, Decoder, Node, Rank, Steps
from benchmarks.simulation.scenario import Work
from benchmarks.simulation.stations import Cores
from headrace.cluster.handover import LOOK_SECONDS as LOOK_ALONE_SECONDS

LOOK_SECONDS = 0.1
"""Ray Data's WAIT_FOR_TASK_COMPLETION_TIMEOUT_S."""

REST_SECONDS = 0.05
"""`headrace.cluster.pacing`, from one look to the next while nothing happens."""

POLL_SECONDS = LOOK_ALONE_SECONDS
"""A hundred times as long as Ray Data's own ranks, which nobody wakes."""

TASKS_PER_ACTOR = 2
"""Ray Data's default: one that runs, one that waits."""

END_SECONDS = 0.01
"""From a block to the end of its task, as Ray tells of it; seen where decoding costs nothing, as every second look
takes no block. Nothing else depends on it."""

_BATCH = 16  # tasks that are ended or started between two moments at which others may act


class Coordinator:
    """Hands out a stream's blocks.

    Args:
        env: the simulation.
        costs: what it takes of its core.
        cores: of the machine where it runs.
        nodes: for each decoder, where it runs.
        work: what decoding a block takes.
        window: blocks in flight, at most.
        ranks: those that take this stream's blocks, in turn.

    Attributes:
        in_flight: blocks that were given to decoders and not let go of by ranks.
        busy_seconds, polled_seconds: at work, and of these lost to ranks that ask for what is not there.
        held_back_seconds: in which the window allowed no more tasks.
    """

    def __init__(
        self,
        env: Environment,
        costs: Costs,
        cores: Cores,
        nodes: Sequence[Node],
        work: Work,
        window: int,
        ranks: Sequence[Rank],
    ) -> None:
        self._env, self._costs, self._cores, self._window, self._ranks = env, costs, cores, window, ranks
        self.decoders = [Decoder(env, node, work, costs.actor_block_seconds, self._done) for node in nodes]
        self._free = [deque(self.decoders)] + [deque[Decoder]() for _ in range(TASKS_PER_ACTOR - 1)]
        self._finished: list[Block] = []
        self._ending: list[Decoder] = []
        self._ready: dict[int, Block] = {}
        self._running = self._active = self._next_in = self._next_out = 0
        self._all_done = env.event()
        self.in_flight = 0
        self.busy_seconds = self.polled_seconds = self.held_back_seconds = 0.0
        env.process(self._run())

    def consumed(self, blocks: int) -> None:
        """Take note that ranks let go of so many blocks."""
        self.in_flight -= blocks

    def lost(self, node: Node) -> None:
        """Decode again what lay on a node and was not fetched: the store of a lost node is lost."""
        for rank in self._ranks:
            self._again(rank.lose(node))
        self._again([block for block in self._ready.values() if block.node is node])

    def _again(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            block.node = None
            block.holder.give(block)

    def _run(self) -> Steps:
        while True:
            looked = self._env.now
            if self._running > len(self._ending) + len(self._finished):
                self._all_done = self._env.event()
                yield self._all_done | self._env.timeout(LOOK_SECONDS)
            ended, self._ending = self._ending, []
            taken, self._finished = self._finished, []
            self._end(ended)
            yield from self._take(taken)
            started = yield from self._start_tasks()
            passed = self._env.now - looked
            if not taken and not started and passed < REST_SECONDS:
                yield self._env.timeout(REST_SECONDS - passed)
                passed = REST_SECONDS
            if not self._has_room():
                self.held_back_seconds += passed

    def _take(self, blocks: Sequence[Block]) -> Steps:
        costs, settled = self._costs, self._env.now - END_SECONDS
        each = costs.block_seconds / 2 + costs.get_seconds + costs.rank_block_seconds * len(self._ranks)
        yield self._work(costs.look_seconds + costs.look_actor_seconds * len(self.decoders))
        for first in range(0, len(blocks), _BATCH):
            yield self._work(each * len(blocks[first : first + _BATCH]))
        self._cores.work(costs.block_outside_seconds * len(blocks))  # nobody waits for it, but it takes its share
        self._end([block.holder for block in blocks if block.decoded_at <= settled])
        self._ending = [block.holder for block in blocks if block.decoded_at > settled]
        self._ready |= {block.number: block for block in blocks}
        while self._next_out in self._ready:
            self._ranks[self._next_out % len(self._ranks)].offer(self._ready.pop(self._next_out))
            self._next_out += 1

    def _end(self, decoders: Sequence[Decoder]) -> None:
        for decoder in decoders:
            self._running -= 1
            decoder.in_flight -= 1
            self._active -= decoder.in_flight == 0
            self._free[decoder.in_flight].append(decoder)

    def _start_tasks(self) -> Generator[Event, Any, int]:
        started = 0
        while chosen := self._choose():
            yield self._work(self._costs.block_seconds / 2 * len(chosen))
            for decoder in chosen:
                decoder.give(Block(self._next_in, decoder))
                self._next_in += 1
            started += len(chosen)
        return started

    def _choose(self) -> list[Decoder]:
        """Return decoders that are given a task each, a few at most."""
        chosen: list[Decoder] = []
        while len(chosen) < _BATCH and self._has_room() and (decoder := self._next_decoder()):
            chosen.append(decoder)
            self.in_flight += 1
            self._running += 1
        return chosen

    def _has_room(self) -> bool:
        """Say whether the limit of the object store allows another task."""
        return self.in_flight - max(0, self._running - self._active) < self._window

    def _next_decoder(self) -> Decoder | None:
        """Return the decoder with the fewest tasks, one more of which it now has."""
        for tasks, free in enumerate(self._free):
            while free:
                decoder = free.popleft()
                if decoder.in_flight != tasks:  # it was noted before its last task came or went
                    continue
                decoder.in_flight += 1
                self._active += tasks == 0
                if decoder.in_flight < TASKS_PER_ACTOR:
                    self._free[decoder.in_flight].append(decoder)
                return decoder
        return None

    def _work(self, seconds: float) -> Event:
        polling = sum(rank.polls for rank in self._ranks)
        polled = seconds * polling * self._costs.poll_seconds / POLL_SECONDS
        self.polled_seconds += polled
        self.busy_seconds += seconds + polled
        return self._cores.work(seconds + polled)

    def _done(self, block: Block) -> None:
        if block.wanted is not None:  # its rank came while it was lost
            wanted, block.wanted = block.wanted, None
            wanted(block)
        elif block.number >= self._next_out and block.number not in self._ready:
            self._finished.append(block)
            if self._running == len(self._ending) + len(self._finished) and not self._all_done.triggered:
                self._all_done.succeed()
