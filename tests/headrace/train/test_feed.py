from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from headrace.batch import Batch, DecodeCost, fake_batch
from headrace.errors import RunError
from headrace.train.feed import Feed

CPU = torch.device("cpu")


def numbered(*numbers: int) -> Iterator[Batch]:
    for number in numbers:
        yield fake_batch(2, 1, 4, 4, number=number)


def test_hands_out_what_it_was_given() -> None:
    with Feed(numbered(1, 4, 7), numbers=itertools.count(1, 3), device=CPU, depth=2) as feed:
        for number in (1, 4, 7):
            fed = feed.next()
            assert fed.batch.number == number
            assert np.array_equal(fed.pixels.numpy(), fed.batch.pixels)


@pytest.mark.parametrize(("good", "bad"), [((), 1), ((0,), 2), ((0,), 0), ((0, 1), 3)])
def test_refuses_another_order(good: tuple[int, ...], bad: int) -> None:
    with Feed(numbered(*good, bad), numbers=itertools.count(), device=CPU, depth=4) as feed:
        for number in good:
            assert feed.next().batch.number == number
        with pytest.raises(RunError, match=f"gave micro-batch {bad} where {len(good)} was due"):
            feed.next()


def test_says_when_the_stream_ends_early() -> None:
    with Feed(numbered(0), numbers=itertools.count(), device=CPU, depth=1) as feed:
        feed.next()
        with pytest.raises(RunError, match="ended before micro-batch 1"):
            feed.next()


def test_passes_the_streams_errors_on() -> None:
    def broken() -> Iterator[Batch]:
        yield fake_batch(2, 1, 4, 4)
        raise OSError("the disk is on fire")

    with Feed(broken(), numbers=itertools.count(), device=CPU, depth=1) as feed:
        feed.next()
        with pytest.raises(OSError, match="on fire"):
            feed.next()


def test_measures_the_wait_and_reads_ahead() -> None:
    def slow() -> Iterator[Batch]:
        for number in range(4):
            time.sleep(0.1)
            yield fake_batch(1, 1, 4, 4, number=number)

    with Feed(slow(), numbers=itertools.count(), device=CPU, depth=2) as feed:
        assert feed.next().wait_seconds > 0.05
        time.sleep(0.35)
        fed = feed.next()
        assert fed.wait_seconds < 0.05
        assert fed.ready >= 1


def test_measures_how_long_ago_a_batch_was_decoded() -> None:
    decoded = replace(fake_batch(1, 1, 4, 4), cost=DecodeCost("", 0.0, 0.0, finished=time.time() - 5))
    with Feed(iter([decoded]), numbers=itertools.count(), device=CPU, depth=1) as feed:
        assert 5 <= feed.next().age_seconds < 10


def test_leaves_no_thread_behind() -> None:
    def endless() -> Iterator[Batch]:
        number = 0
        while True:
            yield fake_batch(1, 1, 4, 4, number=number)
            number += 1

    before = threading.active_count()
    with Feed(endless(), numbers=itertools.count(), device=CPU, depth=1) as feed:
        feed.next()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threading.active_count() == before
