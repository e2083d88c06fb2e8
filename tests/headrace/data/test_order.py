from __future__ import annotations

import time

import numpy as np
import pytest

from headrace.data.order import Order


@pytest.mark.parametrize("shuffle", ["full", "none"])
@pytest.mark.parametrize("samples", [1, 2, 7, 1000])
def test_each_epoch_sees_each_sample_once(shuffle: str, samples: int) -> None:
    order = Order(samples, seed=3, shuffle=shuffle)  # type: ignore[arg-type]
    for epoch in (0, 1, 10**9):
        rows = order.rows(np.arange(epoch * samples, (epoch + 1) * samples))
        assert sorted(rows.tolist()) == list(range(samples))


def test_epochs_and_seeds_differ() -> None:
    rows = [Order(500, seed).rows(np.arange(500) + 500 * epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for left, right in ((0, 1), (0, 2), (1, 2)):
        assert (rows[left] == rows[right]).mean() < 0.05


def test_it_does_not_matter_how_positions_are_grouped() -> None:
    order = Order(1000, 0)
    whole = order.rows(np.arange(990, 1030))
    assert np.array_equal(whole, np.concatenate([order.rows(np.arange(990, 1003)), order.rows(np.arange(1003, 1030))]))


def test_any_position_of_a_huge_run_is_as_cheap_as_the_first() -> None:
    order = Order(10**10, 0)
    start = time.perf_counter()
    rows = order.rows(np.arange(3 * 10**10 - 64, 3 * 10**10))
    assert time.perf_counter() - start < 0.1
    assert rows.max() < 10**10


def test_reserve_is_repeatable_and_varied() -> None:
    order = Order(1000, 0)
    draws = [order.reserve(5, attempt) for attempt in range(1, 50)]
    assert draws == [order.reserve(5, attempt) for attempt in range(1, 50)]
    assert len(set(draws)) > 40


def test_seeds_depend_on_run_position_and_key() -> None:
    seeds = {Order(10, run).seed_of(position, key) for run in (0, 1) for position in (0, 1) for key in ("a", "b")}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
