from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import keyed


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
PINNED_PERMUTATION = [6, 4, 0, 7, 5, 2, 3, 1]
