"""The stream of micro-batches on Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from data_pipelines.clips import batches, micro_batches
from data_pipelines.index import index
from headrace.cluster.launch import ray_cluster
from headrace.data.config import DataConfig, PoolSize
from headrace.data.encode import encode_video
from headrace.data.order import Order
from headrace.data.reader import BatchReader, Plan
from headrace.data.sampling import SamplingConfig
from headrace.data.scan import shards_of

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
    stream = list(batches(micro_batches(ray.put(manifest), plan, 0, 4, PoolSize(2, 2))))

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
