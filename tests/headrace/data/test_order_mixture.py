"""Several sources in one stream."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifest_rows import manifest_of

from headrace.data.config import DataConfig
from headrace.data.mixture import Part, format_mixture, mix, parse_mixture
from headrace.data.order import BLOCK_SLOTS, Mixture, Order, WithReplacement, quotas_of
from headrace.data.order.build import build_order
from headrace.data.split import split_samples
from headrace.errors import UserError

PARTS = (Order(100, 1), Order(1000, 2, "chunk", 4, 8), Order(30, 3, "none"))
FIRSTS = (0, 100, 1100)
MIXTURE = Mixture(1130, 7, PARTS, quotas_of([0.7, 0.2, 0.1]))


@settings(deadline=None)
@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=50))
def test_quotas_fill_a_block_and_leave_nobody_out(weights: list[float]) -> None:
    quotas = quotas_of(weights)
    ideal = np.array(weights) / sum(weights) * BLOCK_SLOTS
    assert sum(quotas) == BLOCK_SLOTS
    assert min(quotas) >= 1
    if ideal.min() >= 1:
        assert np.abs(np.array(quotas) - ideal).max() < 1, "largest remainder rounds up or down"


def test_quotas_of_many_small_sources() -> None:
    assert quotas_of([1.0] * BLOCK_SLOTS) == (1,) * BLOCK_SLOTS
    assert quotas_of([1e9, 1.0, 1.0]) == (BLOCK_SLOTS - 2, 1, 1)


def test_each_block_holds_exactly_its_quotas() -> None:
    for block in (0, 1, 10**12):
        rows = MIXTURE.rows(np.arange(BLOCK_SLOTS) + block * BLOCK_SLOTS)
        counts = np.bincount(np.searchsorted(FIRSTS, rows, side="right") - 1)
        assert tuple(counts.tolist()) == MIXTURE.quotas


def test_each_source_gives_exactly_what_it_would_give_alone() -> None:
    """Its own epochs, its own shuffle, in its own order: nothing of it is lost or repeated."""
    rows = MIXTURE.rows(np.arange(3 * BLOCK_SLOTS))
    source = np.searchsorted(FIRSTS, rows, side="right") - 1
    for number, part in enumerate(PARTS):
        own = rows[source == number] - FIRSTS[number]
        assert np.array_equal(own, part.rows(np.arange(len(own))))


def test_sources_are_mixed_evenly_within_a_block_and_otherwise_in_each() -> None:
    rows = MIXTURE.rows(np.arange(2 * BLOCK_SLOTS)).reshape(2, BLOCK_SLOTS)
    is_first = rows < 100
    shares = is_first.reshape(-1, 256).mean(axis=1)
    assert np.abs(shares - 0.7).max() < 0.15
    assert (is_first[0] == is_first[1]).mean() < 0.65, "0.58 where they are independent"


def test_the_reserve_is_of_the_same_source() -> None:
    for position in range(200):
        row, other = int(MIXTURE.rows(np.array(position))), MIXTURE.reserve(position, 1)
        assert np.searchsorted(FIRSTS, row, side="right") == np.searchsorted(FIRSTS, other, side="right")
        assert row != other


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("videos", [("videos", 1.0)]),
        ("a=0.7,b=0.3", [("a", 0.7), ("b", 0.3)]),
        ("s3://x/day=1/a=1e2, /b c=.5", [("s3://x/day=1/a", 100.0), ("/b c", 0.5)]),
        ("s3://bucket/year=2024", [("s3://bucket/year=2024", 1.0)]),
        ("/odd,name/x=3", [("/odd,name/x=3", 1.0)]),
        ("demo://street=1,a=1", [("demo://street", 1.0), ("a", 1.0)]),
    ],
)
def test_what_is_a_mixture(text: str, parts: list[tuple[str, float]]) -> None:
    found = parse_mixture(text)
    assert [(part.source, part.weight) for part in found] == parts
    assert parse_mixture(format_mixture(found)) == found


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("a=0,b=1", "'a' the weight 0: weights are positive"), ("a=1,b=1,a=2", "'a' twice"), ("a=1e999,b=1", "positive")],
)
def test_mixtures_that_are_none(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse_mixture(text)


def test_a_comma_in_the_path_of_one_of_several_is_refused() -> None:
    with pytest.raises(UserError, match="comma"):
        format_mixture([Part("/a,b", 1.0), Part("/c", 1.0)])


def test_one_manifest_of_several_sources() -> None:
    left = manifest_of(["x", "y", "z"], source="/data/left", labels=["cat", None, "dog"])
    right = manifest_of(["y", "w"], source="s3://b/right", labels=["dog", "bird"])
    both = mix("left=1,right=1", [left, right])
    assert [both.key(row) for row in range(5)] == ["x", "left/y", "z", "right/y", "w"]
    assert both.source_sizes == (3, 2)
    assert [both.bytes_of(row).location for row in (1, 3)] == ["/data/left/0.tar", "s3://b/right/0.tar"]
    assert both.shard(3) == "s3://b/right/0.tar"
    assert [both.classes[label] if label >= 0 else None for label in both.labels] == ["cat", None, "dog", "dog", "bird"]
    assert both.rows(np.array([4, 0])).bytes_of(0).location == "s3://b/right/0.tar"
    assert both.take(4).source_sizes == (3, 1)


def test_the_digest_of_a_mixture_covers_all_of_it() -> None:
    left, right = manifest_of(["a", "b"], source="/l"), manifest_of(["c"], source="/r")
    digests = {
        mix("m", manifests).digest
        for manifests in ([left, right], [right, left], [left], [left, manifest_of(["d"], source="/r")])
    }
    moved = mix("n", [manifest_of(["a", "b"], source="/elsewhere"), manifest_of(["c"], source="/r")])
    assert len(digests) == 4
    assert moved.digest in digests, "a source that was moved is the same source"
    assert left.with_weights(np.array([1.0, 2.0])).digest != left.with_weights(np.array([2.0, 1.0])).digest


def test_sources_of_the_same_name_are_told_apart() -> None:
    both = mix("m", [manifest_of(["k"], source="/a/train"), manifest_of(["k"], source="/b/train")])
    assert [both.key(row) for row in (0, 1)] == ["train-0/k", "train-1/k"]


def test_a_recipe_of_a_mixture_becomes_its_order() -> None:
    left = manifest_of([f"l{number}" for number in range(40)], source="/l", metadata=[{"w": n} for n in range(40)])
    right = manifest_of([f"r{number}" for number in range(10)], source="/r", metadata=[{"w": 1}] * 10)
    data = DataConfig(source="/l=3,/r=1", shuffle="chunk", chunk_samples=4, window_chunks=2)
    order = build_order(split_samples(data.source, [left, right], data).training, data, seed=5)
    assert isinstance(order, Mixture)
    assert order.quotas == (3072, 1024)
    rows = order.rows(np.arange(BLOCK_SLOTS))
    assert set(rows.tolist()) == set(range(50))
    assert len({part.seed for part in order.parts}) == 2, "sources of one size are shuffled otherwise"

    weighted = DataConfig(source="/l=3,/r=1", weights="w")
    order = build_order(split_samples(weighted.source, [left, right], weighted).training, weighted, seed=5)
    rows = order.rows(np.arange(BLOCK_SLOTS))
    assert all(isinstance(part, WithReplacement) for part in order.parts)  # type: ignore[attr-defined]
    assert (rows < 40).mean() == 0.75
    assert 0 not in rows, "its weight is 0"
    assert rows[rows < 40].mean() > 24, "the mean by weight is 26.3"
