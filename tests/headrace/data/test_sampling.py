"""Frame times: in the clip, in order, the same for the same seed, and evenly spread over the clip."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.data.sampling import SamplingConfig, frame_times, nearest_times
from headrace.errors import UserError

configs = st.builds(
    SamplingConfig,
    frames=st.integers(1, 64),
    mode=st.sampled_from(["uniform", "clip"]),
    stride_seconds=st.floats(1e-3, 10),
)
lengths = st.one_of(st.just(0.0), st.floats(0, 1e5))
seeds = st.integers(0, 2**63 - 1)


@given(configs, lengths, seeds, st.booleans())
def test_times_are_ascending_and_within_the_clip(
    config: SamplingConfig, seconds: float, seed: int, jitter: bool
) -> None:
    times = frame_times(config, seconds, seed, jitter=jitter)
    assert times.shape == (config.frames,)
    assert times.dtype == np.float64
    assert (times >= 0).all()
    assert (times <= seconds).all()
    assert (np.diff(times) >= 0).all()


@given(configs, lengths, seeds)
def test_times_are_a_pure_function_of_the_seed(config: SamplingConfig, seconds: float, seed: int) -> None:
    first, again = (frame_times(config, seconds, seed, jitter=True) for _ in range(2))
    assert np.array_equal(first, again)
    still, other = (frame_times(config, seconds, each, jitter=False) for each in (seed, seed ^ 1))
    assert np.array_equal(still, other)


@given(st.integers(1, 64), st.floats(1e-3, 1e5), seeds)
def test_uniform_takes_one_time_from_each_segment(frames: int, seconds: float, seed: int) -> None:
    times = frame_times(SamplingConfig(frames), seconds, seed, jitter=True)
    edges = np.linspace(0, seconds, frames + 1)
    slack = 1e-9 * seconds
    assert (times >= edges[:-1] - slack).all()
    assert (times <= edges[1:] + slack).all()


def test_uniform_without_jitter_takes_the_middle_of_each_segment() -> None:
    assert np.allclose(frame_times(SamplingConfig(4), 8.0, 0, jitter=False), [1, 3, 5, 7])


def test_clip_without_jitter_is_centred() -> None:
    config = SamplingConfig(3, "clip", stride_seconds=1.0)
    assert np.allclose(frame_times(config, 10.0, 0, jitter=False), [4, 5, 6])


@given(st.integers(2, 32), st.floats(0.01, 1), st.floats(0, 100), seeds)
def test_clip_keeps_its_stride_where_the_video_is_long_enough(
    frames: int, stride: float, spare: float, seed: int
) -> None:
    config = SamplingConfig(frames, "clip", stride)
    times = frame_times(config, (frames - 1) * stride + spare, seed, jitter=True)
    assert np.allclose(np.diff(times), stride)


def test_clip_longer_than_the_video_repeats_its_end() -> None:
    config = SamplingConfig(4, "clip", stride_seconds=1.0)
    for jitter in (False, True):
        assert np.allclose(frame_times(config, 1.5, 7, jitter=jitter), [0, 1, 1.5, 1.5])


@pytest.mark.parametrize("mode", ["uniform", "clip"])
def test_an_image_is_looked_at_at_zero(mode: str) -> None:
    config = SamplingConfig(5, "uniform" if mode == "uniform" else "clip")
    assert np.array_equal(frame_times(config, 0.0, 3, jitter=True), np.zeros(5))


@pytest.mark.parametrize("mode", ["uniform", "clip"])
def test_jitter_covers_the_clip_evenly(mode: str) -> None:
    """Over many seeds the first times fill the range that is theirs: mean and extremes of a uniform law."""
    config = SamplingConfig(4, "uniform" if mode == "uniform" else "clip", stride_seconds=2.0)
    first = np.array([frame_times(config, 8.0, seed, jitter=True)[0] for seed in range(2000)])
    assert abs(first.mean() - 1.0) < 0.05
    assert first.min() < 0.02
    assert 1.98 < first.max() <= 2.0


def test_frames_of_one_clip_jitter_independently() -> None:
    draws = np.array([frame_times(SamplingConfig(2), 2.0, seed, jitter=True) for seed in range(2000)])
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.08


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (functools.partial(SamplingConfig, frames=0), "frames must be at least 1, got 0"),
        (functools.partial(replace, SamplingConfig(), mode="unifrom"), "did you mean 'uniform'"),
        (functools.partial(SamplingConfig, stride_seconds=0.0), "must be a positive number, got 0.0"),
        (functools.partial(SamplingConfig, stride_seconds=np.nan), "must be a positive number, got nan"),
    ],
)
def test_a_wrong_configuration_is_told_in_a_sentence(build: Callable[[], SamplingConfig], told: str) -> None:
    with pytest.raises(UserError, match=told):
        build()


def test_nearest_times_are_the_nearest_choices() -> None:
    choices = np.array([0.0, 2.0, 3.0, 10.0])
    times = np.array([-1.0, 0.9, 1.0, 1.1, 2.5, 2.6, 6.4, 6.6, 99.0])
    assert nearest_times(times, choices).tolist() == [0, 0, 0, 2, 2, 3, 3, 10, 10]
    assert nearest_times(times, np.array([0.0])).tolist() == [0.0] * 9


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20, unique=True), st.lists(st.floats(-10, 110), min_size=1))
def test_no_choice_is_nearer(choices: list[float], times: list[float]) -> None:
    ascending = np.array(sorted(choices))
    given_times = nearest_times(np.array(times), ascending)
    assert set(given_times.tolist()) <= set(choices)
    distances = np.abs(np.array(times)[:, None] - ascending).min(axis=1)
    assert np.allclose(np.abs(given_times - times), distances)
