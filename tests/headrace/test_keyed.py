from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import keyed


@settings(deadline=None)
@given(size=st.integers(1, 3000), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 2**40))
def test_permute_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    assert sorted(keyed.permute(np.arange(size), size, seed, epoch)) == list(range(size))


def test_permute_answers_for_single_elements_as_for_all() -> None:
    whole = keyed.permute(np.arange(1000), 1000, 5, 2)
    assert [int(keyed.permute(np.array(i), 1000, 5, 2)) for i in (0, 17, 999)] == whole[[0, 17, 999]].tolist()


def test_permute_reaches_the_end_of_a_huge_range_at_once() -> None:
    size = 10**15
    image = keyed.permute(np.arange(size - 1000, size), size, 1, 0)
    assert len(set(image.tolist())) == 1000
    assert image.min() >= 0
    assert image.max() < size
    assert image.std() > size / 5, "the end of the range should scatter over all of it"


@pytest.mark.parametrize("size", [2, 3, 5, 8, 17])
def test_permutations_of_few_elements_are_fair(size: int) -> None:
    """With too few rounds, a permutation of 5 favours some places by a third; a run with 5 shards would show it."""
    keys = 20_000
    images = keyed.permute(np.arange(size), size, np.arange(keys)[:, None])
    counts = np.stack([np.bincount(images[:, index], minlength=size) for index in range(size)])
    assert np.abs(counts / keys * size - 1).max() < 5 * np.sqrt(size / keys)


def test_permute_takes_a_size_for_each_element() -> None:
    sizes = np.array([1, 2, 5, 64, 65, 4096, 10**15])
    together = keyed.permute(sizes - 1, sizes, 3, np.arange(7))
    assert together.tolist() == [int(keyed.permute(np.array(n - 1), int(n), 3, i)) for i, n in enumerate(sizes)]


@pytest.mark.parametrize("index", [5, -1, 2**40])
def test_permute_knows_what_is_outside_of_the_range(index: int) -> None:
    with pytest.raises(ValueError, match="outside of the range of 5"):
        keyed.permute(np.array([0, index]), 5)


def test_exponential_is_minus_log_of_uniform() -> None:
    draws, counter = keyed.exponential("e", np.arange(100_000)), np.arange(100_000)
    assert np.allclose(draws, -np.log(1 - keyed.uniform("e", counter)), rtol=1e-14, atol=0)
    assert abs(draws.mean() - 1) < 0.015
    assert draws[:4].tolist() == PINNED_EXPONENTIAL, "to the last bit, for these are sorted"


def test_permutations_of_other_keys_differ_and_look_random() -> None:
    size = 10_000
    first, second = (keyed.permute(np.arange(size), size, 0, epoch) for epoch in (0, 1))
    assert (first == second).mean() < 0.01
    assert abs(np.corrcoef(first, np.arange(size))[0, 1]) < 0.05
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05
    assert abs(np.mean(np.abs(np.diff(first))) / (size / 3) - 1) < 0.05, "neighbours lie a third of the range apart"


@pytest.mark.parametrize("key", ["position", "seed"])
def test_uniform_is_uniform_along_each_key(key: str) -> None:
    counter = np.arange(100_000)
    draws = keyed.uniform(7, counter) if key == "position" else keyed.uniform(counter, 7)
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    chi_square = ((counts - 5000) ** 2 / 5000).sum()
    assert chi_square < 44, "0.1 % of uniform samples exceed this with 19 degrees of freedom"
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.02


def test_keys_do_not_commute_and_purposes_differ() -> None:
    values = {int(keyed.hash64(*keys)) for keys in [(1, 2), (2, 1), ("a", 1), ("b", 1), (1,), (1, 0), (0, 1)]}
    assert len(values) == 7


def test_draws_are_the_same_everywhere() -> None:
    """Pinned: another value here means that every resumed run sees other samples."""
    assert int(keyed.hash64(1, 2, "x")) == PINNED_HASH
    assert keyed.permute(np.arange(8), 8, 42, 0).tolist() == PINNED_PERMUTATION


def test_integers_stay_below_and_reach_all() -> None:
    draws = keyed.integers(6, "die", np.arange(10_000))
    assert set(draws.tolist()) == set(range(6))


PINNED_HASH = 5745297967816795426
PINNED_PERMUTATION = [7, 0, 4, 1, 6, 3, 5, 2]
PINNED_EXPONENTIAL = [0.356610372438551, 0.5534971670643327, 0.6183085045534739, 3.5982681431050305]
