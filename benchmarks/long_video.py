"""What a few frames of an hour of video cost to read: from disk, and from an S3 server on this machine.

    python benchmarks/long_video.py --minutes 60 --frames 8

The video is a scene of 30 s in 640x360, muxed again and again, with a key frame every 250 frames and three B-frames.
Prints a table; the last line is JSON.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import av
import boto3
import tyro
from av.packet import Packet
from moto.server import ThreadedMotoServer
from rich.console import Console
from rich.table import Table

from benchmarks.clips import Encoding, generated_video
from data_pipelines.index import index
from headrace.data import storage
from headrace.data.config import DataConfig
from headrace.data.manifest import Manifest
from headrace.data.order import Order
from headrace.data.reader import BatchReader, Plan
from headrace.data.sampling import SamplingConfig
from headrace.data.scan import shards_of
from headrace.errors import exit_with_sentence

BUCKET = "hours"


@dataclass(frozen=True)
class Options:
    """Measure what a few frames of a long video cost to read."""

    minutes: int = 60
    """Length of the video."""

    frames: int = 8
    """Frames taken from it, spread over all of it."""


@dataclass(frozen=True)
class Reading:
    """What reading the frames took."""

    container: str
    place: str
    file_bytes: int
    index_bytes: int
    index_seconds: float
    bytes_read: int
    requests: int
    seconds: float

    @property
    def share(self) -> float:
        """Share of the file's bytes that were read."""
        return self.bytes_read / self.file_bytes


def long_video(path: Path, minutes: int) -> None:
    """Write a video of this length to `path`, whose suffix says in which container."""
    scene = generated_video(Encoding("h264", gop=250, b_frames=3))
    with av.open(scene) as source, av.open(path, "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        assert source.duration is not None
        seconds = source.duration / av.time_base
        for repeat in range(round(minutes * 60 / seconds)):
            shift = round(repeat * seconds / packets[0].time_base)
            for packet in packets:
                again: Packet[Any] = Packet(bytes(packet))
                again.stream, again.time_base, again.is_keyframe = stream, packet.time_base, packet.is_keyframe
                again.pts, again.dts = (packet.pts or 0) + shift, (packet.dts or 0) + shift
                target.mux(again)


def measure(source: str, place: str, container: str, frames: int) -> Reading:
    """Index a source of one video, then read frames of it."""
    began = time.perf_counter()
    manifest: Manifest = index(source, shards_of(source)).usable()
    index_seconds = time.perf_counter() - began
    config = DataConfig(height=224, width=224, sampling=SamplingConfig(frames=frames))
    reader = BatchReader(manifest, Plan(Order(1, 0, "none"), config, 1, training=False))
    with reads() as sizes:
        began = time.perf_counter()
        reader.read(0)
        seconds = time.perf_counter() - began
    row = manifest.table.to_pylist()[0]
    return Reading(
        container, place, row["size"], len(row["video_index"]), index_seconds, sum(sizes), len(sizes), seconds
    )


@contextmanager
def reads() -> Iterator[list[int]]:
    """Yield the sizes of what is read from files that are read in pieces."""
    sizes: list[int] = []
    read_at = storage._Window._read_at

    def note(window: Any, offset: int, size: int) -> bytes:
        sizes.append(size)
        return read_at(window, offset, size)

    with patch.object(storage._Window, "_read_at", note):
        yield sizes


@contextmanager
def s3_server() -> Iterator[Any]:
    """Serve S3 on this machine and yield a client of it; the standard variables lead there."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    there = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    try:
        with patch.dict(os.environ, there):
            client = boto3.client("s3")
            client.create_bucket(Bucket=BUCKET)
            yield client
    finally:
        server.stop()


def main(arguments: list[str]) -> int:
    """Measure mp4 and mkv, on disk and in object storage."""
    options = tyro.cli(Options, prog="long_video.py", args=arguments)
    readings = []
    with tempfile.TemporaryDirectory() as folder, s3_server() as client:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        for container in ("mp4", "mkv"):
            path = Path(folder) / container / f"long.{container}"
            path.parent.mkdir()
            long_video(path, options.minutes)
            readings.append(measure(str(path.parent), "disk", container, options.frames))
            client.put_object(Bucket=BUCKET, Key=f"{container}/{path.name}", Body=io.BytesIO(path.read_bytes()))
            readings.append(measure(f"s3://{BUCKET}/{container}", "S3", container, options.frames))
    table = Table(title=f"{options.frames} frames out of {options.minutes} minutes of 640x360")
    for name in ("file", "from", "size MB", "index KB", "indexed in s", "read MB", "share", "requests", "seconds"):
        table.add_column(name, justify="right")
    for reading in readings:
        table.add_row(
            reading.container,
            reading.place,
            f"{reading.file_bytes / 1e6:.0f}",
            f"{reading.index_bytes / 1e3:.0f}",
            f"{reading.index_seconds:.1f}",
            f"{reading.bytes_read / 1e6:.2f}",
            f"{reading.share:.2%}",
            f"{reading.requests}",
            f"{reading.seconds:.2f}",
        )
    Console().print(table)
    print(
        json.dumps({"worst_share": max(reading.share for reading in readings), "readings": [vars(r) for r in readings]})
    )
    return 0


if __name__ == "__main__":
    exit_with_sentence(lambda: main(sys.argv[1:]))
