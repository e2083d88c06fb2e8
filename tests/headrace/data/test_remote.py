"""Videos in object storage: indexed there, and read in pieces, from a server that speaks S3."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import av
import boto3
import numpy as np
import pytest
from generated_clips import ClipSpec, encode_clip, read_number

from data_pipelines.index import index
from headrace.data import storage
from headrace.data.config import DataConfig
from headrace.data.order import Order
from headrace.data.reader import BatchReader, Plan
from headrace.data.sampling import SamplingConfig
from headrace.data.scan import shards_of
from headrace.errors import UserError

BUCKET = "clips"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Serve S3 on this machine, with an empty bucket; the standard variables lead there."""
    moto_server = pytest.importorskip("moto.server", reason="moto serves S3 for tests: pip install headrace[dev]")
    server = moto_server.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        storage._remote.cache_clear()
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        yield client
    storage._remote.cache_clear()
    server.stop()


@pytest.fixture
def bytes_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note the size of every read from a remote file."""
    sizes: list[int] = []
    read_at = storage._Window._read_at

    def spy(self: storage._Window, offset: int, size: int) -> bytes:
        sizes.append(size)
        return read_at(self, offset, size)

    monkeypatch.setattr(storage._Window, "_read_at", spy)
    return sizes


def long_video(container: str, repeats: int) -> tuple[bytes, int]:
    """Return a video that shows the numbers 0 to 59 again and again, 2.4 s each time, and its frames."""
    spec = ClipSpec(options={"x264-params": "keyint=12:scenecut=0:bframes=3", "crf": "1"})
    out = io.BytesIO()
    with av.open(io.BytesIO(encode_clip(spec))) as source, av.open(out, "w", format=container) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        tick = packets[0].time_base
        for repeat in range(repeats):
            for packet in packets:
                again = av.Packet(bytes(packet))
                again.is_keyframe, again.time_base, again.stream = packet.is_keyframe, tick, stream
                assert packet.pts is not None
                assert packet.dts is not None
                shift = round(repeat * 2.4 / tick)
                again.pts, again.dts = packet.pts + shift, packet.dts + shift
                target.mux(again)
    return out.getvalue(), 60 * repeats


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_frames_of_a_long_video_cost_only_their_groups_of_pictures(
    s3: object, container: str, bytes_read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, frames = long_video(container, repeats=200)
    name = f"{container}/long.{'mp4' if container == 'mp4' else 'mkv'}"
    s3.put_object(Bucket=BUCKET, Key=name, Body=data)  # type: ignore[attr-defined]
    source = f"s3://{BUCKET}/{container}"
    manifest = index(source, shards_of(source)).usable()
    assert len(manifest) == 1
    assert manifest.table["frames"].to_pylist() == [frames]

    bytes_read.clear()
    monkeypatch.setattr(storage, "_REMOTE_GAP_BYTES", 4 << 10)  # in proportion to this small video
    config = DataConfig(height=64, width=96, sampling=SamplingConfig(frames=8))
    batch = BatchReader(manifest, Plan(Order(1, 0, "none"), config, 1, training=False)).read(0)
    shown = [read_number(picture) for picture in batch.pixels[0]]
    assert shown == [round(time / 0.04) % 60 for time in batch.seconds[0].tolist()]
    assert len(bytes_read) == 8
    assert sum(bytes_read) < 0.03 * len(data)


@pytest.mark.usefixtures("s3")
def test_a_source_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(UserError, match="nothing-here"):
        shards_of(f"s3://{BUCKET}/nothing-here")


@pytest.mark.usefixtures("s3")
def test_credentials_are_in_no_location() -> None:
    """They come from the standard chain; what is saved with a run names the bucket and the key alone."""
    filesystem, path = storage._filesystem(f"s3://{BUCKET}/mp4/long.mp4")
    assert path == f"{BUCKET}/mp4/long.mp4"
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in path
    assert "test" not in repr(np.array([path]))
    assert filesystem.type_name == "s3"
