"""Number of a micro-batch -> Batch, whatever the source holds and whichever decoder reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_pipelines.index import index
from headrace.data.config import DataConfig, PoolSize
from headrace.data.manifest import Manifest
from headrace.data.order import Order
from headrace.data.reader import BatchReader, Plan
from headrace.data.sampling import SamplingConfig
from headrace.data.scan import shards_of
from headrace.errors import RunError, UserError

DATA = DataConfig(height=24, width=24, sampling=SamplingConfig(frames=3))


def manifest_of(folder: Path) -> Manifest:
    return index(str(folder), shards_of(str(folder))).usable()


@pytest.mark.parametrize("decoder", ["auto", "pyav", "decord"])
def test_videos_and_images_side_by_side(video_folder: Path, image_folder: Path, decoder: str, tmp_path: Path) -> None:
    if decoder == "decord":
        pytest.importorskip("decord")
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for path in [*video_folder.glob("clip[01].mp4"), *sorted(image_folder.rglob("*.png"))[:2]]:
        (mixed / path.name).write_bytes(path.read_bytes())
    manifest = manifest_of(mixed)
    data = DataConfig(height=24, width=24, sampling=SamplingConfig(frames=3), decoder=decoder)  # type: ignore[arg-type]
    batch = BatchReader(manifest, Plan(Order(4, 0, "none"), data, 4)).read(0)
    assert batch.pixels.shape == (4, 3, 24, 24, 3)
    assert batch.valid.all()
    assert all(batch.pixels[slot].std() < 40 for slot in range(4))
    brightness = {manifest.key(row): batch.pixels[row, 0].mean() for row in range(4)}
    assert brightness["00.png"] == pytest.approx(200, abs=2)
    assert brightness["clip0.mp4"] < 150


def test_a_batch_is_a_pure_function_of_its_number(video_folder: Path) -> None:
    manifest = manifest_of(video_folder)
    plan = Plan(Order(8, 3), DATA, 4)
    one, other = BatchReader(manifest, plan), BatchReader(manifest, plan)
    one.read(5)
    first, second = one.read(2), other.read(2)
    assert np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(first.seed, second.seed)
    assert list(first.positions) == [8, 9, 10, 11]


def test_the_grouping_changes_nothing(video_folder: Path) -> None:
    manifest = manifest_of(video_folder)
    whole = BatchReader(manifest, Plan(Order(8, 3), DATA, 4)).read(1)
    halves = [BatchReader(manifest, Plan(Order(8, 3), DATA, 2)).read(number) for number in (2, 3)]
    assert np.array_equal(whole.pixels, np.concatenate([half.pixels for half in halves]))
    assert np.array_equal(whole.seed, np.concatenate([half.seed for half in halves]))


def test_the_next_epoch_looks_at_other_times(video_folder: Path) -> None:
    reader = BatchReader(manifest_of(video_folder), Plan(Order(8, 3, "none"), DATA, 8))
    assert not np.array_equal(reader.read(0).seconds, reader.read(1).seconds)


def test_evaluation_marks_what_training_replaces(video_folder: Path) -> None:
    manifest = manifest_of(video_folder)
    broken = video_folder / "clip2.mp4"
    broken.write_bytes(bytes(broken.stat().st_size))
    plain = BatchReader(manifest, Plan(Order(8, 0, "none"), DATA, 8, training=False)).read(0)
    assert plain.valid.tolist() == [True, True, False, True, True, True, True, True]
    assert plain.sample.tolist() == list(range(8))
    replaced = BatchReader(manifest, Plan(Order(8, 0, "none"), DATA, 8)).read(0)
    assert replaced.valid.all()
    assert replaced.sample[2] != 2
    assert [failure.key for failure in replaced.failures] == ["clip2.mp4"] * len(replaced.failures)
    assert replaced.failures[0].position == 2


def test_nothing_readable_at_all_is_one_sentence(video_folder: Path) -> None:
    manifest = manifest_of(video_folder)
    for path in video_folder.glob("*.mp4"):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(RunError, match="17 samples in a row could not be decoded"):
        BatchReader(manifest, Plan(Order(8, 0), DATA, 4)).read(0)


def test_a_shard_that_shrank_is_no_bad_sample(video_folder: Path) -> None:
    manifest = manifest_of(video_folder)
    (video_folder / "clip1.mp4").write_bytes(b"short")
    with pytest.raises(OSError, match="changed since it was indexed"):
        BatchReader(manifest, Plan(Order(8, 0, "none"), DATA, 8)).read(0)


@pytest.mark.parametrize(
    "settings",
    [{"height": 0}, {"failures": 2.0}, {"decoders": "many"}, {"read_ahead": 0}, {"streams": 3, "decoders": "2"}],
)
def test_impossible_settings(settings: dict[str, object]) -> None:
    with pytest.raises(UserError):
        DataConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("decoders", "spare", "bounds"), [("3", 9, (3, 3)), ("2..5", 9, (2, 5)), ("auto", 6, (1, 6)), ("auto", -1, (1, 1))]
)
def test_the_bounds_of_the_pool(decoders: str, spare: int, bounds: tuple[int, int]) -> None:
    pool = DataConfig(decoders=decoders).pool(spare)
    assert (pool.least, pool.most) == bounds


def test_streams_share_the_pool() -> None:
    pool = DataConfig(decoders="5..9", streams=4).pool(0)
    shares = [pool.of_stream(stream, 4) for stream in range(4)]
    assert [(share.least, share.most) for share in shares] == [(2, 3), (1, 2), (1, 2), (1, 2)]
    assert DataConfig(streams=4).pool(2) == PoolSize(4, 4)


def test_key_frames_only(video_folder: Path) -> None:
    manifest = manifest_of(video_folder)
    keys = manifest.key_frame_seconds(0)
    assert 2 < len(keys) < 6
    data = DataConfig(height=24, width=24, sampling=SamplingConfig(frames=6, key_frames=True))
    batch = BatchReader(manifest, Plan(Order(8, 0, "none"), data, 8, training=False)).read(0)
    assert np.array_equal(np.unique(batch.seconds), keys)
    exact = BatchReader(manifest, Plan(Order(8, 0, "none"), DATA, 8, training=False)).read(0)
    assert not np.isin(exact.seconds, keys).all()


def test_what_a_decoder_needs_is_said_before_anything_starts() -> None:
    with pytest.raises(UserError, match="did you mean 'sparse'"):
        DataConfig(decoder="sprase")
    with pytest.raises(UserError, match=r"--data\.decoder-gpus"):
        DataConfig(decoder="nvdec")
    assert DataConfig(decoder="my_package.decoders:build").decoder == "my_package.decoders:build"
