"""Sampling by weight: how often each sample comes, and what is said of weights by which nothing can be drawn."""

from __future__ import annotations

import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from manifest_rows import manifest_of
from numpy.typing import NDArray

from headrace import keyed
from headrace.data.order import WithoutReplacement, WithReplacement
from headrace.data.order.weighted import MOST_WITHOUT_REPLACEMENT
from headrace.data.weights import weights_of
from headrace.errors import UserError

KEYS = ["a", "b", "c", "d"]


def chi_square(counts: NDArray[np.int64], expected: NDArray[np.float64]) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


def bound(degrees: int) -> float:
    """Return what a fair draw exceeds once in about 10,000 times (Wilson & Hilferty, 1931)."""
    return degrees * (1 - 2 / (9 * degrees) + 3.72 * math.sqrt(2 / (9 * degrees))) ** 3


@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e300])
def test_with_replacement_each_sample_comes_by_its_weight(scale: float) -> None:
    weights = np.array([0.0, 1, 2, 0, 3, 0.5, 10, 0]) * scale
    draws = 100_000
    counts = np.bincount(WithReplacement(8, 1, weights).rows(np.arange(draws)), minlength=8)
    drawn = weights > 0
    assert counts[~drawn].sum() == 0
    assert chi_square(counts[drawn], draws * (weights / weights.sum())[drawn]) < bound(drawn.sum() - 1)
    assert chi_square(counts[drawn], np.full(5, draws / 5)) > 100 * bound(4), "and a wrong weight would show"


@pytest.mark.parametrize(("draw", "row"), [(0.0, 1), (0.25, 3), (1 - 2.0**-53, 3)])
def test_a_draw_on_an_edge_falls_on_no_sample_of_weight_0(
    draw: float, row: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyed, "uniform", lambda *_: np.array([draw]))
    assert WithReplacement(5, 0, np.array([0.0, 1, 0, 3, 0])).rows(np.array([7])).tolist() == [row]


def test_with_replacement_draws_are_independent_of_each_other() -> None:
    weights = np.array([1.0, 2, 3])
    rows = WithReplacement(3, 2, weights).rows(np.arange(60_000))
    pairs = np.bincount(3 * rows[:-1] + rows[1:], minlength=9)
    assert chi_square(pairs, len(rows) * np.outer(weights, weights).ravel() / 36) < bound(8)


def test_reserve_goes_by_weight_too() -> None:
    order = WithReplacement(3, 0, np.array([0.0, 1, 3]))
    counts = np.bincount([order.reserve(position, 1) for position in range(4000)], minlength=3)
    assert counts[0] == 0
    assert chi_square(counts[1:], np.array([1000.0, 3000])) < bound(1)


def test_without_replacement_nothing_comes_twice_in_an_epoch() -> None:
    weights = np.random.default_rng(0).exponential(size=1000)
    weights[::4] = 0
    order = WithoutReplacement(1000, 5, weights, share=0.4)
    assert order.epoch_samples == 300
    epochs = order.rows(np.arange(3000)).reshape(10, 300)
    assert all(len(set(epoch.tolist())) == 300 for epoch in epochs)
    assert not np.isin(epochs, np.flatnonzero(weights == 0)).any()
    assert len({frozenset(epoch.tolist()) for epoch in epochs}) == 10


def test_without_replacement_each_set_comes_as_in_draws_one_after_the_other() -> None:
    """What Efraimidis & Spirakis prove: the same as drawing by weight among those that are left."""
    weights, size, epochs = np.array([1.0, 2, 3, 6, 0]), 2, 4000
    order = WithoutReplacement(5, 3, weights, share=0.5)
    assert order.epoch_samples == size
    rows = np.sort(order.rows(np.arange(size * epochs)).reshape(epochs, size), axis=1)
    expected: dict[tuple[int, ...], float] = {}
    for first, second in permutations(range(4), 2):
        chance = weights[first] / 12 * weights[second] / (12 - weights[first])
        pair = tuple(sorted((first, second)))
        expected[pair] = expected.get(pair, 0) + chance
    counts = np.array([(rows == pair).all(axis=1).sum() for pair in expected])
    assert counts.sum() == epochs
    assert chi_square(counts, epochs * np.array(list(expected.values()))) < bound(len(expected) - 1)


def test_without_replacement_heavy_samples_do_not_come_first() -> None:
    weights = np.concatenate([np.full(500, 1.0), np.full(500, 9.0)])
    rows = WithoutReplacement(1000, 0, weights, share=0.6).rows(np.arange(60_000)).reshape(100, 600)
    heavy = (rows >= 500).mean(axis=0)
    assert abs(heavy[:300].mean() - heavy[300:].mean()) < 0.02
    assert heavy.mean() > 0.7


def test_without_replacement_survives_weights_of_all_sizes() -> None:
    weights = np.array([5e-324, 1e-300, 1.0, 1e300, 0.0])
    rows = WithoutReplacement(5, 0, weights, share=0.75).rows(np.arange(30)).reshape(10, 3)
    assert all(len(set(epoch.tolist())) == 3 for epoch in rows)
    assert {2, 3} <= set(rows[0].tolist())
    assert 4 not in rows


def test_too_many_samples_without_replacement_are_refused_with_what_to_do() -> None:
    with pytest.raises(UserError, match=r"too many .* leave --data.without-replacement 0"):
        WithoutReplacement(MOST_WITHOUT_REPLACEMENT + 1, 0)


def test_classes_are_balanced() -> None:
    manifest = manifest_of([str(number) for number in range(100)], labels=["rare"] * 10 + ["common"] * 90)
    rows = WithReplacement(100, 0, weights_of(manifest, "class")).rows(np.arange(20_000))
    assert abs((rows < 10).mean() - 0.5) < 0.015


def test_weights_from_a_column_of_the_metadata() -> None:
    manifest = manifest_of(KEYS, metadata=[{"w": 1}, {"w": 2.5, "x": "y"}, {"w": "3"}, {"w": 0}])
    assert weights_of(manifest, "w").tolist() == [1, 2.5, 3, 0]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_weights_from_a_table_beside_the_source(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{kind}"
    keys, weights = ["0012", "d", "c", "elsewhere", "b"], [4.0, 0.0, 3.0, 9.0, 2.0]
    if kind == "csv":
        path.write_text("key,weight,note\n" + "".join(f"{k},{w:g},x\n" for k, w in zip(keys, weights, strict=True)))
    else:
        pq.write_table(pa.table({"weight": weights, "key": keys}), path)
    assert weights_of(manifest_of(["0012", "b", "c", "d"]), str(path)).tolist() == [4, 2, 3, 0]


@pytest.mark.parametrize(
    ("setting", "metadata", "sentence"),
    [
        ("w", [{"w": 1}, {"w": -2}, {"w": -1}, {"w": 1}], r"2 of 4 samples have a negative weight \('b', 'c'\)"),
        ("w", [{"w": 1}, {"w": float("nan")}, {"w": 1}, {"w": 1}], r"1 of 4 samples have no weight \('b'\)"),
        ("w", [{"w": 1}, {"x": 1}, None, {"w": "many"}], r"3 of 4 samples have no weight .* 0 to leave them out"),
        ("w", [{"w": float("inf")}, {"w": 1}, {"w": 1}, {"w": 1}], "an infinite weight"),
        ("w", [{"w": 0}] * 4, "all 4 weights are 0"),
        ("w", [{"w": 1e308}] * 4, "too large to be added up"),
        ("weigth", [{"weight": 1}] * 4, "names 'weigth', which no sample .* did you mean 'weight'"),
        ("w", [None] * 4, "they have no metadata"),
        ("class", [None] * 4, "4 of 4 samples have no weight .* label them"),
        ("nowhere.csv", [None] * 4, "'nowhere.csv' cannot be read"),
    ],
)
def test_weights_by_which_nothing_can_be_drawn(
    setting: str, metadata: list[dict[str, object] | None], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        weights_of(manifest_of(KEYS, metadata=metadata), setting)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("key,weight\na,1\nb,1\nc,1\n", r"1 of 4 samples have no weight \('d'\)"),
        ("key,weight\na,1\nb,1\nc,1\nd,1\nd,2\n", "several rows of the same key"),
        ("key,weights\na,1\n", "no column 'weight': did you mean 'weights'"),
        ("key,weight\na,heavy\n", "does not hold numbers"),
        ("", "cannot be read"),
    ],
)
def test_tables_that_are_none(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        weights_of(manifest_of(KEYS), str(path))
