"""Orders in which each sample comes once an epoch, and what all orders promise."""

from __future__ import annotations

import pickle
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.data.config import DataConfig
from headrace.data.order import Mixture, Order, SampleOrder, WithoutReplacement, WithReplacement, quotas_of
from headrace.errors import UserError

SHUFFLES = ("full", "chunk", "none")
WEIGHTS = np.random.default_rng(0).exponential(size=700)
ORDERS: dict[str, SampleOrder] = {
    **{name: Order(700, 3, name) for name in SHUFFLES},  # type: ignore[arg-type]
    "with replacement": WithReplacement(700, 3, WEIGHTS),
    "without replacement": WithoutReplacement(700, 3, WEIGHTS, share=0.3),
    "mixture": Mixture(700, 3, (Order(200, 1, "chunk", 4, 8), Order(500, 2)), quotas_of([0.4, 0.6])),
}


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("samples", [1, 2, 7, 1000])
def test_each_epoch_sees_each_sample_once(shuffle: str, samples: int) -> None:
    order = Order(samples, seed=3, shuffle=shuffle)  # type: ignore[arg-type]
    for epoch in (0, 1, 10**9):
        rows = order.rows(np.arange(epoch * samples, (epoch + 1) * samples))
        assert sorted(rows.tolist()) == list(range(samples))


@settings(deadline=None)
@given(
    samples=st.integers(1, 700),
    chunk=st.integers(1, 80),
    window=st.integers(1, 40),
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 10**12),
)
def test_chunks_are_permuted_whatever_their_number_and_size(
    samples: int, chunk: int, window: int, seed: int, epoch: int
) -> None:
    rows = Order(samples, seed, "chunk", chunk, window).rows(np.arange(samples) + epoch * samples)
    assert sorted(rows.tolist()) == list(range(samples))
    windows = rows // chunk  # in any stretch of the stream there are chunks of two windows at most
    stretch = windows[: chunk * window]
    assert len(set(stretch.tolist())) <= 2 * window


def test_chunks_stay_in_one_window_and_windows_move() -> None:
    order, samples = Order(10_000, 0, "chunk", 10, 8), 10_000
    first_ends = set()
    for epoch in range(20):
        chunks = order.rows(np.arange(samples) + epoch * samples) // 10
        places = [np.flatnonzero(chunks == chunk) for chunk in range(0, 1000, 50)]
        assert max(np.ptp(place) for place in places) < 80, "a chunk is spread over one window"
        assert np.median([np.ptp(place) for place in places]) > 40, "and over most of it"
        new = [len(set(chunks[:end].tolist())) for end in range(10, 81, 10)]
        first_ends.add(next((end for end, seen in enumerate(new, 1) if seen == end), 8))
    assert len(first_ends) > 4, "the first window ends elsewhere in each epoch"


def test_a_chunk_shuffle_of_one_window_mixes_everything() -> None:
    rows = Order(4096, 1, "chunk", 16, 256).rows(np.arange(4096))
    assert abs(np.corrcoef(rows, np.arange(4096))[0, 1]) < 0.06
    assert np.median(np.abs(np.diff(rows))) > 0.26 * 4096


@pytest.mark.parametrize("shuffle", ["full", "chunk"])
def test_epochs_and_seeds_differ(shuffle: str) -> None:
    orders = [Order(500, seed, shuffle, 5, 10) for seed in (0, 1)]  # type: ignore[arg-type]
    rows = [orders[seed].rows(np.arange(500) + 500 * epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for left, right in ((0, 1), (0, 2), (1, 2)):
        assert (rows[left] == rows[right]).mean() < 0.05


@pytest.mark.parametrize("name", ORDERS)
def test_it_does_not_matter_how_positions_are_grouped(name: str) -> None:
    order, positions = ORDERS[name], np.arange(4000, 4300)
    whole = order.rows(positions)
    assert np.array_equal(whole, np.concatenate([order.rows(part) for part in np.split(positions, [1, 97, 200])]))
    assert np.array_equal(whole[::-1].reshape(3, 100), order.rows(positions[::-1].reshape(3, 100)))
    assert [int(order.rows(np.array(position))) for position in (4000, 4299)] == whole[[0, -1]].tolist()
    assert whole.dtype == np.int64
    assert whole.min() >= 0
    assert whole.max() < order.samples


@pytest.mark.parametrize("name", ORDERS)
def test_orders_cross_processes_as_a_few_hundred_bytes(name: str) -> None:
    order, positions = ORDERS[name], np.arange(300)
    expected = order.rows(positions)
    pickled = pickle.dumps(order)
    assert len(pickled) < 1000
    there = pickle.loads(pickled).with_weights(WEIGHTS if "replacement" in name else None)
    assert np.array_equal(there.rows(positions), expected)
    assert there.reserve(5, 1) == order.reserve(5, 1)


@pytest.mark.parametrize("name", ORDERS)
def test_rows_are_the_same_everywhere(name: str) -> None:
    """Pinned: another value here means that every resumed run sees other samples."""
    assert ORDERS[name].rows(np.array([0, 1, 699, 700, 10**15])).tolist() == PINNED[name]


@pytest.mark.parametrize("shuffle", ["full", "chunk"])
def test_any_position_of_a_huge_run_is_as_cheap_as_the_first(shuffle: str) -> None:
    start = time.perf_counter()
    order = Order(10**10, 0, shuffle)  # type: ignore[arg-type]
    for first in (0, 10**10 - 64, 3 * 10**10 - 64, 10**18, 2**62):
        rows = order.rows(np.arange(first, first + 64))
        assert 0 <= rows.min() <= rows.max() < 10**10
        assert len(set(rows.tolist())) >= 63
    assert time.perf_counter() - start < 2


def test_a_huge_chunk_shuffle_repeats_nothing_at_the_seam_of_its_epochs() -> None:
    samples = 10**18 + 7
    order = Order(samples, 0, "chunk")
    rows = order.rows(np.arange(samples - 5000, samples))
    assert len(set(rows.tolist())) == 5000
    assert len(set((rows // 16).tolist())) < 1000, "they are neighbours"


@pytest.mark.parametrize("name", ORDERS)
def test_reserve_is_repeatable_and_varied(name: str) -> None:
    order = ORDERS[name]
    draws = [order.reserve(5, attempt) for attempt in range(1, 50)]
    assert draws == [order.reserve(5, attempt) for attempt in range(1, 50)]
    assert len(set(draws)) > 40


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_the_reserve_is_another_sample_each_time(shuffle: str) -> None:
    order = Order(10, 0, shuffle, 2, 3)  # type: ignore[arg-type]
    for position in range(30):
        failed = int(order.rows(np.array(position)))
        assert sorted([failed, *(order.reserve(position, attempt) for attempt in range(1, 10))]) == list(range(10))
    assert Order(1, 0).reserve(0, 3) == 0


def test_seeds_depend_on_run_position_and_key() -> None:
    seeds = {Order(10, run).seed_of(position, key) for run in (0, 1) for position in (0, 1) for key in ("a", "b")}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"chunk_samples": 0}, "--data.chunk-samples must be at least 1, got 0"),
        ({"window_chunks": -1}, "--data.window-chunks must be at least 1"),
        ({"weights": "class", "shuffle": "chunk"}, "--data.shuffle chunk means nothing"),
        ({"weights": "class", "without_replacement": 1.0}, "a share below 1"),
        ({"without_replacement": 0.5}, "needs --data.weights"),
        ({"holdout": 1.0}, "below 1"),
        ({"group_by": "key:"}, "needs a separator"),
    ],
)
def test_impossible_settings_are_one_sentence(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        DataConfig(**settings)  # type: ignore[arg-type]


PINNED = {
    "full": [110, 509, 179, 344, 405],
    "chunk": [79, 680, 365, 441, 108],
    "none": [0, 1, 699, 0, 300],
    "with replacement": [8, 295, 524, 138, 675],
    "without replacement": [271, 616, 233, 47, 625],
    "mixture": [514, 274, 621, 602, 16],
}
