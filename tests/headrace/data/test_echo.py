"""Echo: each strip is decoded once, its clips stand far apart, and a run may begin at any step."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.batch import Batch
from headrace.data.config import DataConfig
from headrace.data.echo import Echo, unfold
from headrace.data.manifest import Manifest, table_of
from headrace.data.order import Order
from headrace.data.reader import BatchReader, Plan
from headrace.data.sampling import SamplingConfig
from headrace.data.scan import scan_shard, shards_of

echoes = st.builds(Echo, st.integers(1, 5), st.integers(0, 6), st.sampled_from([1, 2, 3, 8, 24]))
DATA = DataConfig(height=24, width=24, sampling=SamplingConfig(frames=2))


@settings(deadline=None)
@given(echo=echoes, first_step=st.integers(0, 60))
def test_every_micro_batch_is_decoded_or_held_and_never_both(echo: Echo, first_step: int) -> None:
    first, steps = first_step * echo.lanes, 80
    held: dict[int, int] = {}
    most_held = 0
    for number in range(first, first + steps * echo.lanes):
        assert echo.is_decoded(number, first) == (number not in held)
        if number not in held:
            held |= dict.fromkeys(echo.later(number), echo.strip(number))
        assert held.pop(number) == echo.strip(number)
        most_held = max(most_held, len(set(held.values())) * echo.repeats)
    assert most_held <= echo.held_micro_batches


@given(echo=echoes)
def test_a_strip_gives_each_of_its_clips_once(echo: Echo) -> None:
    steps = (echo.repeats + 2) * (echo.apart + 1) * echo.repeats
    clips = [(echo.strip(number), echo.age(number)) for number in range(steps * echo.lanes)]
    assert len(set(clips)) == len(clips)
    whole = [strip for strip, age in clips if age == 0]
    assert whole == sorted(whole), "a new strip is begun in order, and none is left out"
    assert np.all(np.diff(whole) == 1)


@pytest.mark.parametrize(("repeats", "least"), [(2, 1), (2, 16), (3, 16), (4, 17), (5, 4)])
def test_clips_of_a_sample_stand_as_far_apart_as_was_asked(repeats: int, least: int) -> None:
    echo = Echo.of(repeats, least, lanes=4)
    number = 1000 * repeats * 4
    steps = [later // 4 for later in echo.later(number)]
    assert len(steps) == repeats
    assert all(least <= after - before < least + repeats for before, after in pairwise(steps))


@given(echo=echoes, workers=st.sampled_from([1, 2, 3, 4, 8]))
def test_the_clips_of_a_strip_go_to_one_worker(echo: Echo, workers: int) -> None:
    if echo.lanes % workers == 0:
        for number in range(3 * echo.lanes):
            assert len({later % workers for later in echo.later(number)}) == 1


def test_in_the_long_run_one_strip_is_decoded_for_all_its_clips() -> None:
    echo = Echo.of(4, 16, lanes=2)
    numbers = range(10_000 * 2, 11_000 * 2)
    assert sum(echo.is_decoded(number, 0) for number in numbers) == len(numbers) // 4


def manifest_of(folder: Path) -> Manifest:
    rows = [row for shard in shards_of(str(folder)) for row in scan_shard(str(folder), shard)]
    return Manifest(str(folder), table_of(rows)).usable()


def consumed(reader: BatchReader, first: int, last: int, workers: int) -> list[Batch]:
    """Return what all workers consume, in order."""
    batches: list[Batch] = []
    for rank in range(workers):
        mine = range(first + rank, last, workers)
        batches += unfold(map(reader.read_strip, reader.plan.echo.decoded(mine, first)), mine)
    return sorted(batches, key=lambda batch: batch.number)


def test_what_is_consumed_is_the_same_from_any_step_and_for_any_number_of_workers(video_folder: Path) -> None:
    plan = Plan(Order(8, 3), DATA, 2, echo=Echo.of(3, 4, lanes=4))
    reader = BatchReader(manifest_of(video_folder), plan)
    whole = consumed(reader, 0, 96, workers=1)
    assert [batch.number for batch in whole] == list(range(96))
    for first, workers in [(0, 2), (0, 4), (20, 1), (44, 4), (92, 2)]:
        rest = consumed(reader, first, 96, workers)
        assert [batch.number for batch in rest] == list(range(first, 96))
        for one, other in zip(rest, whole[first:], strict=True):
            for name in ("pixels", "seed", "seconds", "sample", "label"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_clips_of_one_decode_differ(video_folder: Path) -> None:
    plan = Plan(Order(8, 3), DATA, 2, echo=Echo.of(3, 4, lanes=1))
    batches = BatchReader(manifest_of(video_folder), plan).read_strip(30).batches()
    assert len(batches) == 3
    for one, other in pairwise(batches):
        np.testing.assert_array_equal(one.sample, other.sample)
        assert not np.any(one.seed == other.seed)
        assert not np.array_equal(one.seconds, other.seconds)
        assert not np.array_equal(one.pixels, other.pixels)


def test_each_of_the_clips_is_what_decoding_it_alone_gives(video_folder: Path) -> None:
    manifest, echo = manifest_of(video_folder), Echo.of(3, 4, lanes=1)
    reader = BatchReader(manifest, Plan(Order(8, 3), DATA, 2, echo=echo))
    for batch in reader.read_strip(30).batches()[1:]:
        alone = reader.read_strip(batch.number).batches()[0]
        np.testing.assert_array_equal(alone.pixels, batch.pixels)
        np.testing.assert_array_equal(alone.seed, batch.seed)


def test_a_sample_that_fails_is_told_of_once(video_folder: Path) -> None:
    manifest = manifest_of(video_folder)
    (video_folder / "clip3.mp4").write_bytes(bytes((video_folder / "clip3.mp4").stat().st_size))
    plan = Plan(Order(8, 3, "none"), DATA, 8, echo=Echo.of(3, 4, lanes=1))
    reader = BatchReader(manifest, plan)
    for first in (0, 1, 2, 5):
        told = [len(batch.failures) for batch in consumed(reader, first, 30, 1)]
        strips = {plan.echo.strip(number) for number in range(first, 30) if plan.echo.is_first_clip(number)}
        assert sum(told) >= len(strips)
        again = [number for number in range(first, 30) if not plan.echo.is_first_clip(number)]
        assert all(told[number - first] == 0 for number in again)
