"""What a run consumes, in which order, for any number of workers and from any step."""

from __future__ import annotations

from itertools import chain, zip_longest

import hypothesis.strategies as st
from hypothesis import given

from headrace.cluster.numbers import NUMBERS_PER_TASK, StripNumbers
from headrace.data.agenda import Agenda, is_held_out
from headrace.data.echo import Echo

WORKERS = st.sampled_from([1, 2, 4])


@st.composite
def agendas(draw: st.DrawFn) -> Agenda:
    return Agenda(
        steps=draw(st.integers(1, 40)),
        lanes=4 * draw(st.integers(1, 3)),
        every=draw(st.integers(1, 12)),
        held_out=4 * draw(st.integers(0, 3)),
    )


def test_the_picture() -> None:
    agenda = Agenda(steps=4, lanes=2, every=2, held_out=2)
    assert list(agenda.numbers(0, 0)) == [0, 1, 2, 3, -1, -2, 4, 5, 6, 7, -1, -2]
    assert list(agenda.numbers_of(1, 2, 0, 0)) == [1, 3, -2, 5, 7, -2]


def test_the_last_step_is_evaluated_too() -> None:
    agenda = Agenda(steps=5, lanes=1, every=2, held_out=1)
    assert [step for step in range(6) if agenda.is_evaluated(step)] == [2, 4, 5]
    assert not any(Agenda(steps=5).is_evaluated(step) for step in range(6)), "where nothing is held out"


@given(agenda=agendas(), workers=WORKERS, done=st.integers(0, 40))
def test_the_shares_of_all_workers_in_turn_are_the_whole(agenda: Agenda, workers: int, done: int) -> None:
    step = min(done, agenda.steps)
    first = 100 + step * agenda.lanes
    shares = [agenda.numbers_of(rank, workers, step, first) for rank in range(workers)]
    assert list(chain.from_iterable(zip_longest(*shares))) == list(agenda.numbers(step, first))


@given(agenda=agendas(), done=st.integers(0, 40))
def test_a_run_that_goes_on_consumes_the_rest(agenda: Agenda, done: int) -> None:
    step = min(done, agenda.steps)
    before = list(agenda.numbers(0, 0, stop=step))
    assert before + list(agenda.numbers(step, step * agenda.lanes)) == list(agenda.numbers(0, 0))


def test_the_source_gives_what_is_decoded_whatever_its_tasks() -> None:
    agenda, echo = Agenda(steps=NUMBERS_PER_TASK, lanes=2, every=50_000, held_out=4), Echo.of(2, 8, lanes=2)
    tasks = StripNumbers(agenda, echo, step=1000, first=2000).get_read_tasks()
    assert len(tasks) == 2
    given_out = [block["number"][0].as_py() for task in tasks for block in task()]
    assert given_out == list(echo.decoded(agenda.numbers(1000, 2000), 2000))
    assert sum(map(is_held_out, given_out)) == 2 * 4


@given(agenda=agendas(), repeats=st.integers(1, 3), streams=st.sampled_from([1, 2]), done=st.integers(0, 40))
def test_each_stream_carries_what_its_workers_take(agenda: Agenda, repeats: int, streams: int, done: int) -> None:
    workers, step = 4, min(done, agenda.steps - 1)
    echo, first = Echo.of(repeats, 3, agenda.lanes), step * agenda.lanes
    for stream in range(streams):
        tasks = StripNumbers(agenda, echo, step, first, stream, streams).get_read_tasks()
        carried = [block["number"][0].as_py() for task in tasks for block in task()]
        takes = [
            echo.decoded(agenda.numbers_of(rank, workers, step, first), first)
            for rank in range(stream, workers, streams)
        ]
        assert carried == [number for round_ in zip(*takes, strict=True) for number in round_]
