from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.cluster.handover import LOOK_SECONDS, Handover


class Queue:
    """Blocks by split, and how often somebody looked."""

    def __init__(self) -> None:
        self.blocks: dict[int | None, deque[str]] = defaultdict(deque)
        self.looks = 0

    def has_next(self, split: int | None) -> bool:
        assert split is not None or set(self.blocks) <= {None}, "as Ray's own does where there are several"
        self.looks += 1
        return bool(self.blocks[split])


class State:
    """Of a stream's last operator, as far as it matters."""

    def __init__(self) -> None:
        self.output_queue = Queue()
        self._finished = False
        self._exception: Exception | None = None
        self._waiting_consumers_lock, self._num_waiting_consumers = threading.Lock(), 0

    def mark_finished(self, exception: Exception | None = None) -> None:
        self._finished, self._exception = exception is None, exception

    def get_output_blocking(self, split: int | None) -> str:
        if self._exception is not None:
            raise self._exception
        if not self.output_queue.blocks[split]:
            assert self._finished, "it would look a hundred times a second"
            raise StopIteration
        return self.output_queue.blocks[split].popleft()


class Consumer(threading.Thread):
    """Waits for one block."""

    def __init__(self, state: State, split: int | None) -> None:
        super().__init__(daemon=True)
        self.state, self.split = state, split
        self.block: str | None = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.block = self.state.get_output_blocking(self.split)
        except (StopIteration, ValueError) as error:
            self.error = error


def until(condition: Any) -> None:
    limit = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.001)


@pytest.fixture
def state() -> State:
    return State()


def test_who_has_a_block_is_woken(state: State) -> None:
    state.output_queue.blocks.update({0: deque(), 1: deque()})
    handover = Handover(state)
    first, second = Consumer(state, 0), Consumer(state, 1)
    until(lambda: state._num_waiting_consumers == 2)
    state.output_queue.blocks[1].append("b")
    handover.wake()
    second.join(10)
    assert second.block == "b"
    assert first.is_alive()
    assert state._num_waiting_consumers == 1
    state.output_queue.blocks[0].append("a")
    handover.wake()
    first.join(10)
    assert first.block == "a"
    assert state._num_waiting_consumers == 0


def test_a_consumer_that_waits_hardly_looks(state: State) -> None:
    Handover(state)
    Consumer(state, None)
    until(lambda: state._num_waiting_consumers == 1)
    before = state.output_queue.looks
    time.sleep(2 * LOOK_SECONDS)
    assert state.output_queue.looks - before <= 3
    state.mark_finished()


def test_a_block_that_is_there_is_given_at_once(state: State) -> None:
    Handover(state)
    state.output_queue.blocks[None].append("here")
    assert state.get_output_blocking(None) == "here"
    assert state._num_waiting_consumers == 0


def test_a_block_that_came_while_nobody_was_woken_is_found(state: State) -> None:
    Handover(state)
    consumer = Consumer(state, 3)
    until(lambda: state._num_waiting_consumers == 1)
    state.output_queue.blocks[3].append("late")
    consumer.join(10)
    assert consumer.block == "late"


@pytest.mark.parametrize("error", [None, ValueError("the decoders are lost")])
def test_the_end_reaches_those_who_wait(state: State, error: Exception | None) -> None:
    Handover(state)
    consumer = Consumer(state, None)
    until(lambda: state._num_waiting_consumers == 1)
    state.mark_finished(error)
    consumer.join(LOOK_SECONDS / 2)
    assert isinstance(consumer.error, StopIteration if error is None else ValueError)
    assert state._num_waiting_consumers == 0


def test_another_ray_is_left_as_it_is() -> None:
    other = SimpleNamespace(get_output_blocking=len, mark_finished=print)
    with pytest.raises(AttributeError):
        Handover(other)
    assert (other.get_output_blocking, other.mark_finished) == (len, print)
