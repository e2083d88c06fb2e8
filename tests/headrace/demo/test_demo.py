from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from numpy.typing import NDArray

from headrace.data.encode import encode_video
from headrace.demo import make_demo
from headrace.demo.dataset import DemoConfig, demo_sample, make_demo_shards
from headrace.demo.drawing import scene_frames
from headrace.demo.scenes import has_roadwork, street_scene
from headrace.errors import UserError

TINY = DemoConfig(clips=5, width=64, height=48, seconds=0.25, samples_per_shard=2)
PAIRS = 12  # scenes drawn with and without their roadwork


def picture(index: int, *, roadwork: bool | None = None) -> NDArray[np.int64]:
    """Return a frame in the middle of a scene, [H, W, 3]."""
    scene = street_scene(0, index, roadwork=roadwork)
    (frame,) = list(scene_frames(scene, width=96, height=64, fps=24, frames=1))
    return frame.astype(np.int64)


def read(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(info)
    assert file is not None
    return file.read()


def decode(video: bytes) -> Iterator[av.VideoFrame]:
    with av.open(io.BytesIO(video)) as container:
        yield from container.decode(video=0)


def test_shards_hold_videos_with_labels_and_tracks(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    shards = make_demo_shards(tmp_path, TINY, lambda done, total: seen.append((done, total)))
    assert [shard.name for shard in shards] == ["demo-000000.tar", "demo-000001.tar", "demo-000002.tar"]
    assert seen == [(number, 5) for number in range(1, 6)]
    with tarfile.open(shards[0]) as tar:
        members = {info.name: read(tar, info) for info in tar}
    assert sorted(members) == [f"00000{n}.{extension}" for n in (0, 1) for extension in ("cls", "json", "mp4")]
    for number in (0, 1):
        metadata = json.loads(members[f"00000{number}.json"])
        assert metadata["label"] == int(members[f"00000{number}.cls"]) == has_roadwork(0, number)
        assert metadata["class"] == ("clear", "roadwork")[metadata["label"]]
        frames = list(decode(members[f"00000{number}.mp4"]))
        assert [(frame.width, frame.height) for frame in frames] == [(64, 48)] * 6


def test_a_second_call_finds_the_shards_and_another_config_makes_new_ones(tmp_path: Path) -> None:
    shards = make_demo_shards(tmp_path, TINY)
    for shard in shards:
        os.utime(shard, (0, 0))
    assert make_demo_shards(tmp_path, TINY) == shards
    assert all(shard.stat().st_mtime == 0 for shard in shards)

    fewer = make_demo_shards(tmp_path, DemoConfig(**{**vars(TINY), "clips": 2}))
    assert sorted(tmp_path.glob("*.tar")) == fewer == shards[:1]


def test_an_interrupted_call_is_made_good(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if (done, total) == (3, 5):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_demo_shards(tmp_path, TINY, interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["demo-000000.tar"]
    assert len(make_demo_shards(tmp_path, TINY)) == 3


def test_shards_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.tar").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"mine\.tar"):
        make_demo_shards(tmp_path, TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.tar"]


def test_a_sample_is_a_function_of_seed_and_index() -> None:
    assert demo_sample(TINY, 3) == demo_sample(TINY, 3)
    more = DemoConfig(**{**vars(TINY), "clips": 900, "samples_per_shard": 7})
    assert demo_sample(more, 3) == demo_sample(TINY, 3)
    other = DemoConfig(**{**vars(TINY), "seed": 1})
    assert demo_sample(other, 3)["mp4"] != demo_sample(TINY, 3)["mp4"]


@pytest.mark.parametrize("wrong", [{"clips": 0}, {"width": 65}, {"height": 8}, {"seconds": 0.0}, {"fps": 0}])
def test_configs_that_cannot_be_drawn_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError):
        DemoConfig(**wrong)


def test_exactly_half_of_the_scenes_have_roadwork_in_no_simple_order() -> None:
    labels = np.array([has_roadwork(7, index) for index in range(200)])
    assert labels.sum() == 100
    assert 30 < np.sum(labels[::2]) < 70


def test_weather_and_place_tell_nothing_of_the_label() -> None:
    scenes = [street_scene(0, index) for index in range(120)]
    for attribute in ("weather", "daytime", "place"):
        for value in {getattr(scene, attribute) for scene in scenes}:
            labels = [scene.roadwork is not None for scene in scenes if getattr(scene, attribute) == value]
            assert abs(np.mean(labels) - 0.5) < 3.5 * 0.5 / math.sqrt(len(labels)), (attribute, value)


def test_roadwork_changes_what_is_seen_and_nothing_else() -> None:
    for index in range(PAIRS):
        without, withal = street_scene(0, index, roadwork=False), street_scene(0, index, roadwork=True)
        assert (without.weather, without.speed_mps, without.lanes) == (
            withal.weather,
            withal.speed_mps,
            withal.lanes,
        )
        changed = np.abs(picture(index, roadwork=False) - picture(index, roadwork=True)).max(-1) > 20
        assert 0.003 < changed.mean() < 0.5, index


def test_no_single_pixel_gives_the_label_away() -> None:
    count = 48
    labels = np.array([has_roadwork(0, index) for index in range(count)])
    pixels = np.stack([picture(index).reshape(-1) for index in range(count)])
    train, test = slice(0, count // 2), slice(count // 2, count)
    threshold = np.median(pixels[train], axis=0)
    right = ((pixels > threshold) == labels[:, None])[train].mean(0)
    best = np.argsort(np.abs(right - 0.5))[-50:]  # the pixels that look best on one half ...
    signs = right[best] < 0.5
    on_test = (((pixels > threshold)[test][:, best] ^ signs) == labels[test, None]).mean()
    assert on_test < 0.75  # ... are of little use on the other


@pytest.mark.parametrize("bend", [-0.004, 0.0, 1e-9, 0.004])
def test_the_track_has_the_speed_and_the_heading_that_the_json_says(bend: float) -> None:
    scene = dataclasses.replace(street_scene(0, 2), bend_per_metre=bend)
    seconds = np.linspace(0, 3, 31)
    track = np.radians(scene.gps(seconds))
    north = np.diff(track[:, 0]) * 6_378_137
    east = np.diff(track[:, 1]) * 6_378_137 * np.cos(track[0, 0])
    assert math.isclose(np.hypot(north, east).sum() / 3, scene.speed_mps, rel_tol=0.02)
    points = track[::10]
    first = math.atan2((points[1, 1] - points[0, 1]) * math.cos(points[0, 0]), points[1, 0] - points[0, 0])
    expected = scene.heading + 0.5 * bend * scene.speed_mps  # the chord of the first second
    assert abs(math.remainder(first - expected, 2 * math.pi)) < 0.002


def test_encoded_frames_come_back_with_b_frames_and_key_frames() -> None:
    frames = np.stack(list(scene_frames(street_scene(0, 6), width=192, height=128, fps=24, frames=30)))
    video = encode_video(frames, 24, gop=12)
    assert all(video == encode_video(frames, 24, gop=12) for _ in range(4))
    decoded = list(decode(video))
    assert sum(frame.pict_type == PictureType.B for frame in decoded) >= 10
    assert [index for index, frame in enumerate(decoded) if frame.key_frame] == [0, 12, 24]
    assert [round((frame.time or 0.0) * 24) for frame in decoded] == list(range(30))
    error = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded]).astype(float) - frames
    assert 10 * math.log10(255**2 / np.mean(error**2)) > 28  # dB


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9", "mpeg4"])
def test_other_codecs_keep_the_count_of_frames(codec: str) -> None:
    frames = np.zeros((9, 64, 96, 3), dtype=np.uint8)
    frames[:, :, :, 1] = np.linspace(0, 255, 9).astype(np.uint8)[:, None, None]
    decoded = list(decode(encode_video(frames, 30, codec=codec, container="matroska", b_frames=0)))
    assert len(decoded) == 9
    assert decoded[8].to_ndarray(format="rgb24")[..., 1].mean() > 200


@pytest.mark.parametrize("shape", [(0, 64, 64, 3), (2, 63, 64, 3), (2, 64, 64), (2, 64, 64, 4)])
def test_frames_that_cannot_be_encoded_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="got"):
        encode_video(np.zeros(shape, dtype=np.uint8), 24)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("demo://alley", "no demo 'alley'"),
        ("demo://street?clip=3", "did you mean 'clips'"),
        ("demo://street?clips=many", "whole number, got 'many'"),
    ],
)
def test_no_such_demo(source: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make_demo(source)
