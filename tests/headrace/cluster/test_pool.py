"""The decode pool's size: the policy on simulated pools, and what it is told."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from headrace.cluster.pool import Blocks, Trainers, rates, to_release
from headrace.cluster.pool_policy import PATIENCE_SECONDS, Change, PoolPolicy, Reading
from headrace.cluster.trainer import DECODERS_PER_WORKER, Resources, spare_cpus
from headrace.data.config import PoolSize

START_SECONDS = 5


@dataclass
class Simulated:
    """A pool and trainers, a second at a time.

    Attributes:
        take: clips/s of trainers that never wait.
        cost: seconds of a decoder for a clip; overhead: its time beside that, as a share.
        room: decoders for which there are CPUs.
    """

    policy: PoolPolicy
    take: float
    cost: float
    decoders: int
    overhead: float = 0.0
    room: int = 1000
    noise: float = 0.0
    now: float = 0.0
    changes: list[tuple[float, Change]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.draws = random.Random(0)
        self.running = self.decoders
        self.starts: list[float] = []
        self.running_since = 0.0

    def live(self, seconds: int) -> None:
        for _ in range(seconds):
            self._second()

    def _second(self) -> None:
        self.now += 1
        up = [at for at in self.starts if at <= self.now][: max(0, self.room - self.running)]
        for at in up:
            self.starts.remove(at)
        if up:
            self.running += len(up)
            self.running_since = self.now
        supply = self.running / (self.cost * (1 + self.overhead))
        given = min(supply, self.take)
        wait = max(0.0, 1 - given / self.take)
        noisy = 1 + self.noise * self.draws.gauss(0, 1)
        fresh = self.now - self.running_since >= 2
        reading = Reading(
            self.now,
            self.running,
            len(self.starts),
            demand=self.take * noisy,
            given=given,
            wait_share=wait if fresh else math.nan,
            seconds_per_clip=self.cost,
        )
        change = self.policy.decide(reading)
        if change is not None:
            self.changes.append((self.now, change))
            while change.decoders < self.running + len(self.starts):
                if self.starts:
                    self.starts.pop()
                else:
                    self.running -= 1
            more = change.decoders - self.running - len(self.starts)
            self.starts += [self.now + START_SECONDS] * more
        self.sizes.append(self.running)
        self.waits.append(wait)


def test_it_grows_to_what_the_trainers_take_and_stays_there() -> None:
    pool = Simulated(PoolPolicy(PoolSize(1, 64)), take=100.0, cost=0.1, decoders=1)
    pool.live(300)
    assert pool.sizes[-1] == 11, "10 decoders decode 100 clips/s at 0.1 s each, and a little is spare"
    assert pool.waits[40] == 0, "1, 2, 4, 8, 11: four times five seconds"
    assert [change.decoders for _, change in pool.changes] == [2, 4, 8, 11]
    assert pool.changes[0][1].reason == (
        "training waits 90 % of its time: 1 decoder gives 10 clips/s, 100 clips/s take 11"
    )


def test_what_is_asked_for_at_once_is_bounded_by_what_runs() -> None:
    pool = Simulated(PoolPolicy(PoolSize(2, 64)), take=1000.0, cost=0.1, decoders=2, room=4)
    pool.live(600)
    assert pool.sizes[-1] == 4
    assert len(pool.starts) == 4, "no more than double: the rest would only stand in the queue"


def test_it_never_leaves_its_bounds() -> None:
    busy = Simulated(PoolPolicy(PoolSize(2, 5)), take=1000.0, cost=0.1, decoders=2)
    busy.live(100)
    assert busy.sizes[-1] == 5
    said = [change for _, change in busy.changes if change.decoders == 5]
    assert said[-1].needed == 110
    assert said[-1].reason.endswith("5 decoders give 50 clips/s, 1,000 clips/s take 110; 5 are allowed")
    assert len(said) == 2, "that it came to its bound, and that it is held back: once"
    busy.take = 0.1
    busy.live(100)
    assert busy.sizes[-1] == 2


def test_trainers_that_become_slower_give_decoders_back_slowly_and_at_once_faster_again() -> None:
    pool = Simulated(PoolPolicy(PoolSize(1, 64)), take=100.0, cost=0.1, decoders=11)
    pool.live(60)
    pool.take = 30.0
    pool.live(int(PATIENCE_SECONDS) - 5)
    assert pool.sizes[-1] == 11, "a pause of half a minute costs nothing"
    pool.live(15)
    assert pool.sizes[-1] == 4
    assert pool.changes[-1][1].reason == "training takes 30 clips/s, for which 4 decoders do"
    pool.take = 60.0
    pool.live(1 + START_SECONDS)
    assert pool.sizes[-1] == 7


@pytest.mark.parametrize("take", [3.0, 95.0, 401.0])
def test_noise_does_not_make_it_swing(take: float) -> None:
    pool = Simulated(PoolPolicy(PoolSize(1, 200)), take=take, cost=0.1, decoders=1, noise=0.05)
    pool.live(1200)
    late = pool.sizes[300:]
    assert max(late) - min(late) <= max(1, 0.2 * max(late))
    assert max(pool.waits[300:]) == 0
    assert len([at for at, _ in pool.changes if at > 300]) <= 45, "in 900 seconds"


def test_decoders_that_give_less_than_they_should_are_made_up_for_without_swinging() -> None:
    pool = Simulated(PoolPolicy(PoolSize(1, 64)), take=100.0, cost=0.1, decoders=1, overhead=0.5)
    pool.live(600)
    assert pool.sizes[100] >= 15
    assert max(pool.waits[100:]) < 0.1
    assert len([at for at, _ in pool.changes if at > 100]) <= 6


def test_nothing_known_changes_nothing() -> None:
    policy = PoolPolicy(PoolSize(1, 8))
    for second in range(100):
        assert policy.decide(Reading(float(second), 3, 0)) is None
        assert policy.decide(Reading(second + 0.5, 3, 0, demand=10.0)) is None


def step(time: float, wait: float, *, seconds: float = 1.0, clips: float = 8.0) -> str:
    record = {"kind": "step", "time": time, "step": 1, "steps": 9, "step_seconds": seconds, "wait_seconds": wait}
    return json.dumps({**record, "clips_per_second": clips / seconds}) + "\n"


def test_only_what_this_execution_saw_counts_and_not_its_first_record(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(step(1.0, 0.9) + step(2.0, 0.9))
    trainers = Trainers(metrics)
    with metrics.open("a") as file:
        file.write(step(10.0, 0.8) + step(11.0, 0.5) + '{"kind":"pool","time":11,"from":1,"to":2}\n' + step(12.0, 0.0))
    trainers.poll()
    assert [record["time"] for record in trainers.since(0.0)] == [11.0, 12.0]
    assert [record["time"] for record in trainers.since(10.5)] == [12.0], "a record counts whose steps began later"
    assert [record["time"] for record in trainers.last()] == [12.0]
    given, demand, waits = rates(trainers.since(0.0))
    assert (given, demand, waits) == (8.0, pytest.approx(16 / 1.5), 0.25)
    assert math.isnan(rates([])[0])


def test_the_cost_of_a_clip_is_that_of_the_last_blocks() -> None:
    blocks = Blocks(clips_per_block=4)
    blocks.see(0.0, 0.0, 0)
    assert math.isnan(blocks.seconds_per_clip)
    for second in range(1, 101):
        blocks.see(float(second), 2.0 * second, second)
    assert blocks.seconds_per_clip == 0.5
    for second in range(101, 141):
        blocks.see(float(second), 200.0 + 4.0 * (second - 100), second)
    assert blocks.seconds_per_clip == 1.0
    blocks.see(1000.0, 360.0, 140)
    assert blocks.seconds_per_clip == 1.0, "a pause forgets nothing"


def test_decoders_are_given_back_node_by_node_from_the_one_that_holds_fewest() -> None:
    nodes = {"a": "one", "b": "one", "c": "head", "d": "two", "e": "one", "f": "two"}
    head = frozenset(["head"])
    assert to_release(nodes, "abcdef", 1, head) == ["d"]
    assert to_release(nodes, "abcdef", 3, head) == ["d", "f"], "and no other before it is empty"
    assert to_release(nodes, "abc", 3, head) == [], "a busy node is waited for"
    assert to_release(nodes, "abcdef", 1, frozenset()) == ["c"]
    assert to_release({"a": "head", "b": "one", "c": "one"}, "abc", 2, head) == ["b", "c"]
    assert to_release({"a": "one", "b": "two"}, "ab", 1, head) == ["b"], "of equals the node that came last"
    assert to_release({}, "", 1, head) == []


def test_decoders_may_use_what_the_workers_leave_or_what_an_autoscaler_brings() -> None:
    resources = Resources("cuda", {"CPU": 1.0, "GPU": 1.0}, cpus=4)
    assert spare_cpus(resources, {"CPU": 48.0, "GPU": 4.0}) == 44
    assert spare_cpus(resources, {"object_store_memory": 1e9}) == 4 * DECODERS_PER_WORKER
    assert spare_cpus(resources, {"CPU": 48.0, "decode": 32.0}, "decode") == 32
    assert spare_cpus(resources, {"CPU": 20.0, "decode": 32.0}, "decode") == 16
    assert spare_cpus(resources, {"CPU": 48.0}, "decode") == 4 * DECODERS_PER_WORKER, "nodes that have it are to come"
