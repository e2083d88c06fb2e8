"""The stream of micro-batches on Ray."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from data_pipelines.clips import batches, micro_batches
from data_pipelines.index import index
from headrace.cluster.launch import ray_cluster
from headrace.cluster.pacing import NUMBERS_AHEAD, Pacing
from headrace.data.agenda import Agenda
from headrace.data.config import DataConfig, PoolSize
from headrace.data.encode import encode_video
from headrace.data.order import Order
from headrace.data.reader import BatchReader, Plan
from headrace.data.sampling import SamplingConfig
from headrace.data.scan import shards_of
from headrace.data.split import Split

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Start Ray, whose workers find the decoder beside this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        with ray_cluster(cpus=2, dashboard=False):
            yield


@pytest.mark.usefixtures("cluster")
def test_a_clip_that_kills_its_decoder_costs_one_clip(video_folder: Path) -> None:
    """All micro-batches come, in order; the clip is replaced and named, and nothing else is."""
    fatal = np.zeros((12, 48, 64, 3), np.uint8)
    (video_folder / "clip3.mp4").write_bytes(encode_video(fatal, 12))
    manifest = index(str(video_folder), shards_of(str(video_folder))).usable()
    data = DataConfig(height=24, width=24, sampling=SamplingConfig(frames=2), decoder="fatal_decoder:build")
    plan = Plan(Order(8, 0), data, micro_batch=4)
    agenda = Agenda(steps=4)
    stream = list(batches(micro_batches(ray.put(Split.whole(manifest)), plan, agenda, PoolSize(2, 2)), agenda))

    assert [batch.number for batch in stream] == [0, 1, 2, 3]
    failures = [failure for batch in stream for failure in batch.failures]
    assert {failure.key for failure in failures} == {"clip3.mp4"}
    assert {failure.reason for failure in failures} == {"crashes the decoder"}
    assert {failure.position for failure in failures} >= {
        position for position in range(16) if plan.order.rows(np.array([position]))[0] == 3
    }
    whole = BatchReader(manifest, Plan(Order(8, 0), DataConfig(height=24, width=24, sampling=data.sampling), 4))
    for batch in stream:
        expected = whole.read(batch.number)
        same = [slot for slot in range(4) if expected.sample[slot] != 3]
        assert np.array_equal(batch.pixels[same], expected.pixels[same])
        assert 3 not in batch.sample
        assert batch.valid.all()


@pytest.mark.parametrize(("store_bytes", "kept"), [(math.inf, 4 * 2 * 24 * 24 * 3), (2_000.0, 500)])
@pytest.mark.usefixtures("cluster")
def test_streams_keep_half_of_the_object_store_at_most(video_folder: Path, store_bytes: float, kept: int) -> None:
    manifest = index(str(video_folder), shards_of(str(video_folder))).usable()
    data = DataConfig(height=24, width=24, sampling=SamplingConfig(frames=1), read_ahead=4, streams=2)
    plan, split = Plan(Order(8, 0), data, micro_batch=2), ray.put(Split.whole(manifest))
    stream = micro_batches(split, plan, Agenda(steps=1), PoolSize(2, 2), ranks=2, store_bytes=store_bytes)
    assert stream.context.execution_options.resource_limits.object_store_memory == kept


@pytest.mark.usefixtures("cluster")
def test_a_long_run_does_not_make_all_of_its_numbers_at_once(video_folder: Path) -> None:
    """While the consumer pauses, no more of them are made than may wait."""
    manifest = index(str(video_folder), shards_of(str(video_folder))).usable()
    plan = Plan(Order(8, 0), DataConfig(height=24, width=24, sampling=SamplingConfig(frames=1)), micro_batch=2)
    agenda = Agenda(steps=1_000_000)
    stream = batches(micro_batches(ray.put(Split.whole(manifest)), plan, agenda, PoolSize(1, 1)), agenda)
    assert [next(stream).number for _ in range(4)] == [0, 1, 2, 3]
    operators = [op for found in gc.get_objects() if type(found) is Pacing for op in found._topology]
    [source] = [op for op in operators if op.name.startswith("ReadStripNumbers") and not op.has_completed()]
    made = []
    while len(made) < 5 or made[-1] != made[-5]:  # until none is made for two seconds
        assert len(made) < 60, made
        time.sleep(0.5)
        made.append(source.metrics.num_task_outputs_generated)
    assert made[-1] <= 2 * NUMBERS_AHEAD
    stream.close()  # type: ignore[attr-defined]
