from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.cluster.numbers import StripNumbers
from headrace.cluster.pacing import NUMBERS_AHEAD, REST_SECONDS, Pacing
from headrace.data.agenda import Agenda
from headrace.data.echo import Echo


class Op:
    def __init__(self, name: str) -> None:
        self.name = name


class Guard:
    def should_unblock(self, op: Op) -> bool:
        return True


@pytest.mark.parametrize("waiting", [0, NUMBERS_AHEAD - 1, NUMBERS_AHEAD, 10**6])
def test_the_source_is_held_while_enough_numbers_wait(waiting: int) -> None:
    source, decode, guard = Op("ReadStripNumbers"), Op("MapBatches(Decode)"), Guard()
    topology = {source: SimpleNamespace(output_queue=SimpleNamespace(num_blocks=waiting))}
    executor: Any = SimpleNamespace(
        _topology=topology, _output_backpressure_guard=guard, _backpressure_policies=["Ray's own"]
    )
    pacing = Pacing()
    pacing.before_execution_starts(executor)
    assert executor._backpressure_policies == ["Ray's own", pacing]
    room = pacing.max_task_output_bytes_to_read(source)
    assert room is not None
    assert (room > 0) == (waiting < NUMBERS_AHEAD)
    assert pacing.max_task_output_bytes_to_read(decode) is None
    assert not guard.should_unblock(source), "no number is urgent"
    assert guard.should_unblock(decode), "what Ray lets go on goes on"


def test_with_another_ray_nothing_is_held_back() -> None:
    guard, policies = Guard(), list[Any]()
    executor: Any = SimpleNamespace(_output_backpressure_guard=guard, _backpressure_policies=policies)
    pacing = Pacing()
    pacing.before_execution_starts(executor)
    pacing.on_execution_step(executor)
    assert not policies
    assert guard.should_unblock(Op("ReadStripNumbers"))


def test_the_loop_rests_only_while_nothing_happens() -> None:
    op: Any = Op("MapBatches(Decode)")
    op.metrics = SimpleNamespace(num_task_outputs_generated=0, num_tasks_submitted=0)
    executor: Any = SimpleNamespace(_topology={op: None}, _output_backpressure_guard=Guard(), _backpressure_policies=[])
    pacing = Pacing()
    pacing.before_execution_starts(executor)
    pacing.on_execution_step(executor)

    def look() -> float:
        began = time.perf_counter()
        pacing.on_execution_step(executor)
        return time.perf_counter() - began

    assert look() > 0.8 * REST_SECONDS
    op.metrics.num_task_outputs_generated += 1
    assert look() < 0.5 * REST_SECONDS
    op.metrics.num_tasks_submitted += 1
    assert look() < 0.5 * REST_SECONDS
    time.sleep(REST_SECONDS)
    assert look() < 0.5 * REST_SECONDS, "Ray itself has waited"


def test_few_tasks_whatever_the_length_of_the_run() -> None:
    assert len(StripNumbers(Agenda(steps=10**6), Echo(), 0, 0).get_read_tasks()) == 16
