"""The simulated stream against what queueing theory says of it, and the parts of its benchmark that need no Ray."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simpy import Environment

from benchmarks.simulate import main
from benchmarks.simulation.compared import STREAMS, VALIDATION_FILE, Compared, load
from benchmarks.simulation.coordinator import LOOK_SECONDS, TASKS_PER_ACTOR
from benchmarks.simulation.costs import COSTS_FILE, Costs, fit_looks
from benchmarks.simulation.model import Outcome, Simulation
from benchmarks.simulation.report import chart, summary
from benchmarks.simulation.scale import (
    AS_IT_IS,
    OR_WIDER,
    Cluster,
    Lost,
    Training,
    bends_at,
    limit_of,
    relieve,
    stages,
)
from benchmarks.simulation.scale import simulate as simulate_cluster
from benchmarks.simulation.scenario import DrawnWork, Failures, MeasuredWork, Scenario, Work
from benchmarks.simulation.stations import Cores, Line, StorageModel, read_ahead_wait
from headrace.errors import UserError

BLOCK_SECONDS = 0.5
FREE = Costs(
    cores=2,
    paired_speed=1.0,
    ray_idle_cores=0.0,
    look_seconds=0.0,
    look_actor_seconds=0.0,
    block_seconds=0.0,
    get_seconds=0.0,
    block_outside_seconds=0.0,
    actor_block_seconds=0.0,
    poll_seconds=0.0,
    rank_block_seconds=0.0,
    store_share=1.0,
    start_seconds=5.0,
    head_actor_seconds=0.0,
    manifest_row_bytes=0.0,
    manifest_index_bytes=0.0,
    manifest_row_seconds=0.0,
    order_seconds=0.0,
    machine="none: all but decoding is free",
)


def simulate(
    costs: Costs = FREE,
    work: Work | None = None,
    seconds: float = 200.0,
    one_machine: bool = False,
    **settings: Any,
) -> Outcome:
    """Return what a run gives whose blocks are of one clip and take half a second."""
    defaults = {"ranks": 1, "decoders": 1, "micro_batch": 1, "step_seconds": 0.0}
    scenario = Scenario(**(defaults | settings))
    works = [work or DrawnWork(1, BLOCK_SECONDS) for _ in range(scenario.streams)]
    return Simulation(scenario, costs, works, one_machine=one_machine).run(30.0, seconds)


def test_one_decoder_gives_what_it_decodes() -> None:
    found = simulate()
    assert found.clips_per_second == pytest.approx(1 / BLOCK_SECONDS, rel=0.01)
    assert found.busy["decoders"] == pytest.approx(1, abs=0.01)
    assert found.wait_share == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("decoders", [2, 5, 16])
def test_decoders_add_up(decoders: int) -> None:
    assert simulate(decoders=decoders).clips_per_second == pytest.approx(decoders / BLOCK_SECONDS, rel=0.01)


def test_trainers_are_the_limit_where_decoders_could_give_more() -> None:
    found = simulate(decoders=8, step_seconds=0.1)
    assert found.clips_per_second == pytest.approx(found.demand, rel=0.01) == pytest.approx(10, rel=0.01)
    assert found.wait_share == pytest.approx(0, abs=0.002)
    assert found.busy["decoders"] == pytest.approx(10 * BLOCK_SECONDS / 8, rel=0.03)


def test_waiting_is_what_the_decoders_lack() -> None:
    found = simulate(decoders=4, step_seconds=0.05)
    assert found.wait_share == pytest.approx(1 - 4 / BLOCK_SECONDS * 0.05, abs=0.01)


@pytest.mark.parametrize("decoders", [2, 4])
def test_a_machine_gives_its_cores_and_no_more(decoders: int) -> None:
    found = simulate(decoders=decoders, one_machine=True)
    assert found.clips_per_second == pytest.approx(2 / BLOCK_SECONDS, rel=0.02)


def test_what_ray_takes_and_cores_that_share_a_core_lower_it() -> None:
    costs = replace(FREE, ray_idle_cores=0.2, paired_speed=0.7)
    found = simulate(costs, decoders=3, one_machine=True)
    assert found.clips_per_second == pytest.approx((2 - 0.2) * 0.7 / BLOCK_SECONDS, rel=0.02)


def test_littles_law_holds() -> None:
    """Blocks in flight are their rate times the time that each is there: here all of the window."""
    found = simulate(decoders=4, step_seconds=0.2, window=20)
    assert found.in_flight == pytest.approx(20, abs=1.1)
    assert found.busy["window"] > 0.9


def test_a_small_window_is_a_bound() -> None:
    """A window of W blocks gives W in the time of a block, which ends at a look and is consumed before the next."""
    found = simulate(decoders=16, window=4)
    slowest = BLOCK_SECONDS + 2 * LOOK_SECONDS
    assert 4 / slowest <= found.clips_per_second <= 4 / BLOCK_SECONDS


def test_the_coordinator_is_a_bound() -> None:
    found = simulate(replace(FREE, block_seconds=0.05), decoders=64, window=1000)
    assert found.clips_per_second == pytest.approx(1 / 0.05, rel=0.04)
    assert found.busy["coordinator"] > 0.95


def test_two_coordinators_give_twice_as_much() -> None:
    found = simulate(replace(FREE, block_seconds=0.05), decoders=128, window=1000, streams=2, ranks=2)
    assert found.clips_per_second == pytest.approx(2 / 0.05, rel=0.04)


def test_an_actor_starves_where_two_of_its_tasks_end_between_looks() -> None:
    found = simulate(work=DrawnWork(1, 0.001), decoders=2, seconds=2.0)
    assert found.clips_per_second == pytest.approx(1000 * 2, rel=0.01)  # all done: looks follow at once
    mixed = simulate(work=MeasuredWork([(0.0, 0.001)] * 3 + [(0.0, 5.0)]), decoders=2, seconds=40.0)
    assert mixed.clips_per_second <= 2 * TASKS_PER_ACTOR / LOOK_SECONDS


def test_ranks_that_wait_slow_the_coordinator() -> None:
    costs = replace(FREE, block_seconds=0.05, poll_seconds=0.1)
    alone = simulate(costs, decoders=64, window=1000)
    many = simulate(costs, decoders=64, window=1000, ranks=10)
    assert many.clips_per_second < 0.7 * alone.clips_per_second


def test_a_slow_block_holds_back_those_behind_it() -> None:
    """With 4 decoders, one block in 40 takes 10 s: a large window goes on meanwhile, one of 8 does not."""
    slow = MeasuredWork([(0.0, BLOCK_SECONDS)] * 39 + [(0.0, 10.0)])
    free = simulate(work=slow, decoders=4, window=400, seconds=1000.0)
    held = simulate(work=slow, decoders=4, window=8, seconds=1000.0)
    assert free.clips_per_second == pytest.approx(4 * 40 / (39 * BLOCK_SECONDS + 10), rel=0.03)
    around = 10 + (40 - 8) * BLOCK_SECONDS / 4  # seconds for 40 blocks: no more than the window passes meanwhile
    assert held.clips_per_second == pytest.approx(40 / around, rel=0.2)
    assert held.clips_per_second < 0.6 * free.clips_per_second


def test_deaths_cost_the_share_of_time_that_they_take() -> None:
    """Each death costs the start of the next actor and half of a block that is decoded again."""
    failures = Failures(deaths_per_hour=60.0, start_seconds=10.0)
    rates = [simulate(seconds=2000.0, failures=failures, seed=seed).clips_per_second for seed in range(4)]
    there = np.exp(-60 / 3600 * 10) * (1 - 60 / 3600 * BLOCK_SECONDS / 2)  # who dies while away begins again
    assert np.mean(rates) == pytest.approx(there / BLOCK_SECONDS, rel=0.05)


def test_a_lost_node_stalls_the_order_unless_another_is_ready() -> None:
    settings = {"decoders": 8, "node_cores": 4, "step_seconds": 0.25, "seconds": 2500.0}
    losses = Failures(node_losses_per_hour=8.0, replace_seconds=60.0, start_seconds=5.0)
    stalled = simulate(failures=losses, **settings)
    spared = simulate(failures=replace(losses, spare_nodes=2), **settings)
    assert stalled.wait_share == pytest.approx(16 / 3600 * 60, rel=0.5)
    assert spared.wait_share < 0.3 * stalled.wait_share


def test_the_same_seed_gives_the_same_run() -> None:
    settings = {"decoders": 4, "step_seconds": 0.1, "step_sigma": 0.2, "failures": Failures(deaths_per_hour=100.0)}

    def once(seed: int) -> Outcome:
        return simulate(work=DrawnWork(1, 0.5, 0.7, StorageModel(), seed), seed=seed, **settings)

    assert once(1) == once(1) != once(2)


def test_a_step_ends_with_its_slowest_rank() -> None:
    found = simulate(ranks=64, decoders=400, window=2000, step_seconds=0.2, step_sigma=0.1, seconds=40.0)
    slowest = np.random.default_rng(0).standard_normal((1000, 64)).max(axis=1).mean()
    assert found.clips_per_second == pytest.approx(64 / (0.2 * (1 + 0.1 * slowest)), rel=0.02)


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_cores_are_shared_equally(jobs: int) -> None:
    environment = Environment()
    cores = Cores(environment, 2)
    done = [cores.work(1.0) for _ in range(jobs)]
    environment.run(environment.all_of(done))
    assert environment.now == pytest.approx(max(1, jobs / 2))


def test_a_job_that_comes_later_slows_the_first() -> None:
    environment = Environment()
    cores = Cores(environment, 1)
    first = cores.work(1.0)
    environment.run(0.5)
    second = cores.work(1.0)
    environment.run(first)
    assert environment.now == pytest.approx(1.5)
    environment.run(second)
    assert environment.now == pytest.approx(2.0)


def test_a_line_lets_one_after_the_other_pass() -> None:
    line = Line(10.0)
    assert line.delay(0.0, 5) == pytest.approx(0.5)
    assert line.wait(0.0, 5) == pytest.approx(0.5)
    assert line.delay(2.0, 5) == pytest.approx(0.5)


@pytest.mark.parametrize(("ahead", "waited"), [(0, 8 * 0.4), (1, 0.4 + 3 * 0.3), (4, 0.4), (7, 0.4)])
def test_read_ahead_hides_the_storage(ahead: int, waited: float) -> None:
    """8 clips that take 0.4 s to come and 0.1 s to decode: one by one, in pairs, or only the first late."""
    assert read_ahead_wait(np.full(8, 0.4), 0.1, ahead) == pytest.approx(waited, rel=0.01)


def test_requests_are_a_bound() -> None:
    storage = StorageModel(requests_per_second=5.0)
    found = simulate(work=DrawnWork(1, BLOCK_SECONDS, storage=storage), decoders=16, window=200)
    assert found.clips_per_second == pytest.approx(5, rel=0.02)
    assert found.busy["storage"] == pytest.approx(1, abs=0.02)


def test_a_network_card_is_a_bound() -> None:
    cards = {"block_bytes": 1e9, "sender_bytes_per_second": 1e10, "receiver_bytes_per_second": 5e9}
    found = simulate(decoders=16, window=200, **cards)
    assert found.clips_per_second == pytest.approx(5, rel=0.02)
    assert found.busy["receiving"] == pytest.approx(1, abs=0.02)


def test_costs_are_kept(tmp_path: Path) -> None:
    FREE.save(tmp_path / "costs.json")
    assert Costs.load(tmp_path / "costs.json") == FREE


def outcome(wait_share: float = 0.5, **busy: float) -> Outcome:
    """Return what a run gave whose stations are idle, but for these."""
    idle = dict.fromkeys(
        ("decoders", "reading", "coordinator", "polls", "storage", "sending", "receiving", "window"), 0.0
    )
    return Outcome(50.0, 100.0, wait_share, 10.0, idle | busy)


@pytest.mark.parametrize(
    ("busy", "limit"),
    [
        ({"coordinator": 0.9, "decoders": 1.0}, "coordinator"),
        ({"storage": 1.0, "decoders": 1.0, "reading": 0.9}, "storage"),
        ({"storage": 1.0, "coordinator": 1.0, "polls": 0.5}, "storage"),
        ({"sending": 0.9, "window": 1.0}, "sending"),
        ({"window": 1.0, "decoders": 0.9}, "object store"),
        ({"decoders": 1.0, "reading": 0.4}, "reading"),
        ({"decoders": 1.0}, "decoders"),
    ],
)
def test_the_limit_is_what_makes_the_others_look_busy(busy: dict[str, float], limit: str) -> None:
    assert limit_of(outcome(**busy)) == limit
    assert limit_of(outcome(0.01, **busy)) == "trainers"


COSTLY = replace(FREE, block_seconds=0.02, look_seconds=0.002)
SMALL = Training("small", clips_per_second=80.0, micro_batch=8, clip_seconds=0.1, clip_bytes=1e5)


def test_a_scale_is_relieved_until_training_hardly_waits() -> None:
    """Eight ranks take 80 blocks/s; a coordinator gives 50."""
    found = list(stages(SMALL, 8, COSTLY, seconds=10.0))
    assert found[0].limit == "coordinator"
    assert bends_at(found) == (8, "coordinator")
    assert [stage.remedy for stage in found[:3]] == [AS_IT_IS, OR_WIDER, "4 streams"]
    assert found[-1].fed
    assert bends_at([found[-1]]) is None


def test_every_limit_has_a_remedy_that_changes_something() -> None:
    stage = simulate_cluster(SMALL, Cluster(8), FREE, seconds=1.0)
    for limit in ("coordinator", "storage", "reading", "sending", "object store", "decoders"):
        words, changed = relieve(replace(stage, limit=limit), SMALL, COSTLY)
        assert words
        assert changed != stage.cluster


def test_looks_are_taken_apart() -> None:
    """What a look costs is found again from looks of several pools."""
    random = np.random.default_rng(0)
    pools = []
    for actors in (1, 4, 16):
        blocks = random.integers(0, 20, 400)
        cpu = 0.004 + 0.0001 * actors + 0.002 * blocks
        pools.append(np.column_stack([cpu * random.uniform(0.9, 1.1, 400), blocks, np.full(400, actors)]))
    assert fit_looks(pools) == pytest.approx((0.004, 0.0001, 0.002), rel=0.1)


def test_the_report_says_what_was_found() -> None:
    compared = [Compared("decoding", 1, 10.0, 11.0, 0.9, 0.9, [(10.0, 11.0)])]
    found = list(stages(SMALL, 8, COSTLY, seconds=5.0))
    lost = [Lost(64, 1.0, 0.2, 0.01)]
    result = summary(compared, found, lost, replace(COSTLY, manifest_row_bytes=100.0))
    assert result["worst_error"] == pytest.approx(0.1)
    assert result["met"] == {"worst_error": True}
    assert result["bends_at"] == {"gpus": 8, "limit": "coordinator"}
    assert result["huge"]["manifest_terabytes"] == pytest.approx(1.0)
    assert "the coordinator" in chart(compared, found, lost)
    ElementTree.fromstring(chart(compared, found, lost))


@pytest.mark.skipif(not VALIDATION_FILE.is_file(), reason="streams of this machine were not compared yet")
def test_what_is_kept_is_within_what_is_allowed() -> None:
    assert Costs.load(COSTS_FILE).block_seconds > 0
    assert {row.workload for row in load()} <= set(STREAMS)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--streams", "decodign"], "no stream 'decodign'"),
        (["--gpus", "0"], "gpus must be"),
        (["--seconds", "0"], "seconds must be"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        main(arguments)
