"""The stream as a discrete-event model (SimPy).

    numbers -> coordinator -> decoders on nodes -> object store -> in order, in turn -> ranks -> a step of all of them
                   ^                                                                        |
                   +------------------ as long as the window has room ----------------------+

What is not in it: the start of a run, held-out micro-batches, repeats, the pool that scales by itself (its size is
given), copies to the device, and anything of Ray's head service: `scale` only compares its load with known limits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from simpy import Environment, Event

from benchmarks.simulation.coordinator import Coordinator
from benchmarks.simulation.costs import Costs
from benchmarks.simulation.parts import Node, Rank, Steps
from benchmarks.simulation.scenario import DrawnWork, Failures, Scenario, Work
from benchmarks.simulation.stations import Cores, Line


@dataclass(frozen=True)
class Outcome:
    """What a simulated run gave, over its window.

    Attributes:
        clips_per_second: that the trainers consumed.
        demand: that they would have consumed if they had never waited.
        wait_share: of the trainers' time.
        in_flight: blocks of all streams, mean over the ends of steps.
        busy: share of the time for which a station was at work: decoders, reading (of that, waiting for the storage),
            coordinator, polls (of that, lost to ranks that wait), storage (its limit of requests), sending and
            receiving (cards; the busiest), window (the coordinator is held back by the limit of blocks in flight).
    """

    clips_per_second: float
    demand: float
    wait_share: float
    in_flight: float
    busy: dict[str, float]


class Trainers:
    """The ranks of all streams as one synchronous group: a step begins when each rank has its block.

    Args:
        env: the simulation.
        scenario: sizes and times.
    """

    def __init__(self, env: Environment, scenario: Scenario) -> None:
        self._env, self._scenario = env, scenario
        self._random = np.random.default_rng((scenario.seed, 1))
        rate = scenario.receiver_bytes_per_second
        hosts = -(-scenario.ranks // scenario.receiver_ranks)
        self.cards = [Line(rate) for _ in range(hosts)] if rate else []
        self.ranks = [self._rank(number) for number in range(scenario.ranks)]
        self._complete: Event | None = None
        self._arrivals = [0] * scenario.ranks
        self._lacking = scenario.ranks
        self._waits_since: float | None = None
        self._waited = 0.0
        self.steps = 0
        self.in_flight_sum = 0.0

    @property
    def waited_seconds(self) -> float:
        """Seconds for which a step could not begin, until now."""
        return self._waited + (0.0 if self._waits_since is None else self._env.now - self._waits_since)

    def run(self, coordinators: Sequence[Coordinator]) -> Steps:
        """Train until the simulation ends."""
        scenario = self._scenario
        while True:
            if self._lacking:
                self._waits_since, self._complete = self._env.now, self._env.event()
                yield self._complete
                self._waited, self._waits_since = self.waited_seconds, None
            self.in_flight_sum += sum(coordinator.in_flight for coordinator in coordinators)
            self._arrivals = [count - 1 for count in self._arrivals]
            self._lacking = self._arrivals.count(0)
            for coordinator in coordinators:
                coordinator.consumed(scenario.ranks // scenario.streams)
            for rank in self.ranks:
                rank.consume()
            yield self._env.timeout(self._step_seconds())
            self.steps += 1

    def _rank(self, number: int) -> Rank:
        scenario = self._scenario
        card = self.cards[number // scenario.receiver_ranks] if self.cards else None
        return Rank(self._env, scenario.ahead, card, scenario.block_bytes, lambda: self._arrived(number))

    def _arrived(self, rank: int) -> None:
        self._arrivals[rank] += 1
        if self._arrivals[rank] == 1:
            self._lacking -= 1
            if not self._lacking and self._complete is not None:
                complete, self._complete = self._complete, None
                complete.succeed()

    def _step_seconds(self) -> float:
        """Return how long the slowest rank computes for the micro-batches of a block."""
        scenario = self._scenario
        seconds = scenario.step_seconds * scenario.block_micro_batches
        if not scenario.step_sigma:
            return seconds
        draws = self._random.standard_normal((scenario.block_micro_batches, scenario.ranks)).max(axis=1)
        return float(scenario.step_seconds * (1 + scenario.step_sigma * np.maximum(draws, 0)).sum())


class Simulation:
    """One run.

    Args:
        scenario: what.
        costs: of its parts.
        works: what decoding a block takes, for each stream.
        one_machine: all on the machine whose costs these are: actors, coordinator, Ray's processes and consumer share
            its cores. Else each decode node has its own, and so has each coordinator.
    """

    def __init__(self, scenario: Scenario, costs: Costs, works: Sequence[Work], *, one_machine: bool = False) -> None:
        self.env = Environment()
        self._scenario, self._costs, self._works = scenario, costs, works
        self._trainers = Trainers(self.env, scenario)
        self._nodes = self._make_nodes(one_machine)
        self._coordinators = [self._coordinator(number, one_machine) for number in range(scenario.streams)]
        self.env.process(self._trainers.run(self._coordinators))
        Fate(self.env, scenario.failures, self._nodes, self._coordinators, scenario.seed)

    def run(self, warm_seconds: float, seconds: float) -> Outcome:
        """Return what happens in a window of so many seconds, after so many that do not count."""
        self.env.run(until=warm_seconds)
        before, steps, waited, held = self._totals(), *self._progress()
        self.env.run(until=warm_seconds + seconds)
        after, all_steps, all_waited, all_held = self._totals(), *self._progress()
        done = all_steps - steps
        scenario = self._scenario
        return Outcome(
            clips_per_second=done * scenario.ranks * scenario.block_clips / seconds,
            demand=scenario.demand,
            wait_share=(all_waited - waited) / seconds,
            in_flight=(all_held - held) / max(1, done),
            busy={name: (after[name] - before[name]) / seconds for name in after},
        )

    def _progress(self) -> tuple[int, float, float]:
        trainers = self._trainers
        return trainers.steps, trainers.waited_seconds, trainers.in_flight_sum

    def _make_nodes(self, one_machine: bool) -> list[Node]:
        scenario, costs = self._scenario, self._costs
        if one_machine:
            cores = Cores(self.env, costs.cores, costs.paired_speed, costs.ray_idle_cores)
            return [Node(cores, Line(float("inf")), None)]
        rate, actors = scenario.sender_bytes_per_second or float("inf"), -(-scenario.decoders // scenario.decode_nodes)
        return [
            Node(Cores(self.env, scenario.node_cores, jobs=actors), Line(rate), Line(rate))
            for _ in range(scenario.decode_nodes)
        ]

    def _coordinator(self, number: int, one_machine: bool) -> Coordinator:
        scenario = self._scenario
        cores = self._nodes[0].cores if one_machine else Cores(self.env, 1, jobs=1)
        decoders = scenario.decoders // scenario.streams
        places = range(number * decoders, (number + 1) * decoders)
        nodes = [self._nodes[place * len(self._nodes) // scenario.decoders] for place in places]
        ranks = self._trainers.ranks[number :: scenario.streams]
        return Coordinator(self.env, self._costs, cores, nodes, self._works[number], scenario.window, ranks)

    def _totals(self) -> dict[str, float]:
        """Return for how many seconds each station was at work, since the start; of several the mean or the busiest."""
        decoders = [decoder for coordinator in self._coordinators for decoder in coordinator.decoders]
        lines = [work.requests.busy_seconds for work in self._works if isinstance(work, DrawnWork)]
        return {
            "decoders": sum(decoder.busy_seconds for decoder in decoders) / len(decoders),
            "reading": sum(decoder.reading_seconds for decoder in decoders) / len(decoders),
            "coordinator": max(coordinator.busy_seconds for coordinator in self._coordinators),
            "polls": max(coordinator.polled_seconds for coordinator in self._coordinators),
            "storage": max(lines, default=0.0),
            "sending": max((node.sending.busy_seconds for node in self._nodes if node.sending), default=0.0),
            "receiving": max((card.busy_seconds for card in self._trainers.cards), default=0.0),
            "window": max(coordinator.held_back_seconds for coordinator in self._coordinators),
        }


class Fate:
    """Lets decoders die and takes decode nodes away.

    Args:
        env: the simulation.
        failures: how often.
        nodes, coordinators: of whom.
        seed: of the moments.
    """

    def __init__(
        self,
        env: Environment,
        failures: Failures,
        nodes: Sequence[Node],
        coordinators: Sequence[Coordinator],
        seed: int,
    ) -> None:
        self._env, self._failures, self._nodes, self._coordinators = env, failures, nodes, coordinators
        self._random = np.random.default_rng((seed, 2))
        self._spare = failures.spare_nodes
        decoders = sum(len(coordinator.decoders) for coordinator in coordinators)
        self._start(self._kill, failures.deaths_per_hour * decoders)
        self._start(self._lose, failures.node_losses_per_hour * len(nodes))
        if failures.node_lost_at is not None:
            env.timeout(failures.node_lost_at).callbacks.append(lambda _: self._lose())

    def _start(self, event: Callable[[], None], per_hour: float) -> None:
        if per_hour:
            self._env.process(self._strike(event, per_hour / 3600))

    def _strike(self, event: Callable[[], None], per_second: float) -> Steps:
        while True:
            yield self._env.timeout(self._random.exponential(1 / per_second))
            event()

    def _kill(self) -> None:
        coordinator = self._coordinators[int(self._random.integers(len(self._coordinators)))]
        decoder = coordinator.decoders[int(self._random.integers(len(coordinator.decoders)))]
        decoder.die(self._failures.start_seconds)

    def _lose(self) -> None:
        """Take a node away; its actors start where CPUs are free, or else on the node that comes in its place."""
        node = self._nodes[int(self._random.integers(len(self._nodes)))]
        away = self._failures.start_seconds + (0.0 if self._spare else self._failures.replace_seconds)
        if self._spare:
            self._spare -= 1
            self._env.process(self._replace())
        for coordinator in self._coordinators:
            coordinator.lost(node)
        for decoder in node.decoders:
            decoder.die(away)

    def _replace(self) -> Steps:
        yield self._env.timeout(self._failures.replace_seconds)
        self._spare += 1
