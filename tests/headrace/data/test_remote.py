"""Videos in object storage: indexed there, and read in pieces, from a server that speaks S3."""

from __future__ import annotations

import io
import logging
import time
import traceback
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import av
import boto3
import numpy as np
import pytest
from generated_clips import ClipSpec, encode_clip, read_number
from small_media import ramp_video

pytest.importorskip("moto", reason="moto serves S3 for tests: pip install headrace[dev]")
from faulty_s3 import (
    ACCESS_KEY,
    KINDS,
    SECRET,
    TOKEN,
    Faults,
    FaultyS3,
    forget_objects,
    put,
    serve_faulty_s3,
)

import jobs.index
import jobs.pack
import jobs.train
import jobs.transcode
from data_pipelines.index import index
from headrace.data import s3_client, storage
from headrace.data.config import DataConfig
from headrace.data.decode.table import build_decoder
from headrace.data.failures import SampleError
from headrace.data.order import Order
from headrace.data.ranges import read_ranges
from headrace.data.readahead import ReadAhead, Wanted
from headrace.data.reader import BatchReader, Plan
from headrace.data.remote import remote_object
from headrace.data.retry import StorageError
from headrace.data.s3_client import Connection
from headrace.data.sampling import SamplingConfig
from headrace.data.scan import shards_of
from headrace.data.storage import ByteRange
from headrace.errors import UserError

BUCKET = "clips"
BIG = np.random.default_rng(0).bytes(3 << 20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyS3]:
    with serve_faulty_s3(str(tmp_path_factory.mktemp("cache"))) as server:
        put(BUCKET, {f"clips/clip{number}.mp4": ramp_video(number) for number in range(8)})
        put(BUCKET, {"big.bin": BIG, "one.mp4": ramp_video(9)})
        yield server


@pytest.fixture
def s3(server: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> FaultyS3:
    """Return a sound server; whoever asks it in vain is soon tired of it."""
    server.forget()
    forget_objects()
    monkeypatch.setattr("headrace.data.retry._FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr("headrace.data.s3.START_PATIENCE_SECONDS", 2)
    return server


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


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_frames_of_a_long_video_cost_only_their_groups_of_pictures(
    container: str, bytes_read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, frames = long_video(container, repeats=200)
    name = f"{container}/long.{'mp4' if container == 'mp4' else 'mkv'}"
    put(BUCKET, {name: data})
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


def own_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the test a connection of its own."""
    own = Connection()
    for module in ("s3", "s3_client"):
        monkeypatch.setattr(f"headrace.data.{module}.connection", lambda: own)


def damaged(s3: FaultyS3) -> int:
    return sum(count for kind, count in s3.done.items() if kind != "good")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "stalled"])
def test_a_read_that_goes_wrong_is_gone_on_with(s3: FaultyS3, kind: str) -> None:
    for seed in range(4):
        s3.faults = Faults(**{kind: 0.6}, seed=seed, slow_seconds=0.01)
        forget_objects()
        assert ByteRange(f"s3://{BUCKET}/big.bin", 1000, 2 << 20).open().read() == BIG[1000 : 1000 + (2 << 20)]
    assert s3.done[kind] >= 2


def test_what_came_of_a_body_that_broke_off_is_kept(s3: FaultyS3) -> None:
    s3.faults = Faults(cut=0.7, seed=1)
    ByteRange(f"s3://{BUCKET}/big.bin", 0, 2 << 20).open()
    starts = [int(span.removeprefix("bytes=").split("-")[0]) for _, _, span in s3.requests]
    assert len(starts) > 1
    assert all(earlier < later for earlier, later in pairwise(starts)), "nothing is asked for twice"


def test_a_connection_on_which_nothing_comes_is_given_up(s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "READ_TIMEOUT_SECONDS", 0.3)
    own_connection(monkeypatch)
    s3.faults = Faults(stalled=0.6, seed=3, stall_seconds=20)
    began = time.monotonic()
    assert ByteRange(f"s3://{BUCKET}/big.bin", 0, 1 << 20).open().read() == BIG[: 1 << 20]
    assert s3.done["stalled"] >= 1
    assert time.monotonic() - began < 10


def test_all_samples_of_a_source_are_those_of_the_disk(s3: FaultyS3, tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"clip{number}.mp4").write_bytes(ramp_video(number))
    s3.faults = Faults(slow=0.05, unavailable=0.1, internal=0.05, reset=0.1, cut=0.1, short=0.1, slow_seconds=0.02)
    there = index(f"s3://{BUCKET}/clips", shards_of(f"s3://{BUCKET}/clips")).usable()
    here = index(str(tmp_path), shards_of(str(tmp_path))).usable()
    assert there.table.drop_columns(["shard_mtime_ns"]).equals(here.table.drop_columns(["shard_mtime_ns"]))
    config = DataConfig(height=32, width=48, sampling=SamplingConfig(frames=2))
    for number in range(4):
        plan = Plan(Order(8, 0, "full"), config, 2)
        left, right = BatchReader(there, plan).read(number), BatchReader(here, plan).read(number)
        assert np.array_equal(left.pixels, right.pixels)
        assert not left.failures
    assert damaged(s3) > 10


@pytest.mark.parametrize(
    ("refusal", "sentence"),
    [
        ((403, "AccessDenied"), "refused to the credentials from env"),
        ((403, "InvalidAccessKeyId"), "InvalidAccessKeyId"),
        ((403, "SignatureDoesNotMatch"), "SignatureDoesNotMatch"),
        ((400, "ExpiredToken"), "have expired: renew them"),
        ((400, "AuthorizationHeaderMalformed"), "set AWS_DEFAULT_REGION to eu-west-3"),
        ((503, "SlowDown"), "tried .* times in .* 503 SlowDown"),
    ],
)
def test_a_refusal_is_one_sentence_without_a_secret(
    s3: FaultyS3,
    refusal: tuple[int, str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("headrace.data.retry.PATIENCE_SECONDS", 0.5)
    caplog.set_level(logging.DEBUG, "urllib3")
    caplog.set_level(logging.DEBUG, "headrace")
    s3.refuse, s3.region = refusal, "eu-west-3"
    with pytest.raises(UserError, match=sentence) as at_start:
        storage.list_files(f"s3://{BUCKET}/clips")
    with pytest.raises(StorageError, match=sentence) as later:
        ByteRange(f"s3://{BUCKET}/big.bin", 0, 10).open()
    assert not isinstance(later.value, SampleError)
    shown = "".join(
        [*traceback.format_exception(at_start.value), *traceback.format_exception(later.value), repr(later.value)]
    )
    where = repr(remote_object(f"s3://{BUCKET}/big.bin"))
    for text in (shown, caplog.text, where):
        for secret in (SECRET, TOKEN, ACCESS_KEY, "Signature="):
            assert secret not in text


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (f"s3://{BUCKET}/nothing-here", "nothing-here"),
        ("s3://no-such-bucket/clips", "there is no bucket 'no-such-bucket' at http"),
    ],
)
def test_a_source_that_is_not_there_is_one_sentence(source: str, sentence: str) -> None:
    for job in (jobs.index.main, lambda arguments: jobs.train.main(["--data.source", *arguments])):
        with pytest.raises(UserError, match=sentence):
            job([source])


def test_a_server_that_does_not_answer_is_one_sentence(s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.gone = True
    with pytest.raises(UserError, match=r"tried \d+ times .* the connection to http://127.* broke"):
        storage.list_files(f"s3://{BUCKET}/clips")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    own_connection(monkeypatch)
    with pytest.raises(UserError, match=r"http://127.0.0.1:9 cannot be reached"):
        storage.list_files(f"s3://{BUCKET}/clips")
    monkeypatch.setattr("headrace.data.retry.PATIENCE_SECONDS", 0.1)
    with pytest.raises(StorageError, match=r"http://127.0.0.1:9 cannot be reached"):
        ByteRange(f"s3://{BUCKET}/big.bin", 0, 10).open()


@pytest.mark.parametrize("location", ["s3://AKIA:hush@bucket/a", "s3://b/a?secret_key=hush", "hdfs://me:hush@host/a"])
def test_credentials_in_a_location_are_refused_and_not_repeated(location: str) -> None:
    with pytest.raises(UserError, match="must not hold credentials") as refused:
        storage.list_files(location)
    assert "hush" not in str(refused.value)


@pytest.mark.usefixtures("s3")
def test_a_changed_object_is_noticed() -> None:
    put(BUCKET, {"changing.bin": b"a" * 1000})
    where = f"s3://{BUCKET}/changing.bin"
    assert ByteRange(where, 0, 10).open().read() == b"a" * 10
    put(BUCKET, {"changing.bin": b"b" * 1000})
    with pytest.raises(StorageError, match="changed while it was read"):
        ByteRange(where, 0, 10).open()
    with pytest.raises(StorageError, match="changed since it was indexed"):
        ByteRange(f"s3://{BUCKET}/one.mp4", 0, 1 << 20).open()


def test_where_there_are_no_credentials_nothing_is_signed(s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    boto3.client("s3").put_object_acl(Bucket=BUCKET, Key="big.bin", ACL="public-read")
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "true")
    own_connection(monkeypatch)
    assert ByteRange(f"s3://{BUCKET}/big.bin", 0, 10).open().read() == BIG[:10]
    s3.refuse = (403, "AccessDenied")
    with pytest.raises(StorageError, match="may not be read without credentials"):
        ByteRange(f"s3://{BUCKET}/one.mp4", 0, 10).open()


@pytest.mark.usefixtures("s3")
def test_a_key_may_hold_any_character() -> None:
    name = "a b+c/ü&x=1#?%20.bin"
    put(BUCKET, {f"odd/{name}": b"odd"})
    (file,) = storage.list_files(f"s3://{BUCKET}/odd")
    assert file.path == name
    assert ByteRange(storage.join(f"s3://{BUCKET}/odd", file.path), 0, 3).open().read() == b"odd"


def test_one_connection_serves_one_request_after_the_other(s3: FaultyS3) -> None:
    for number in range(5):
        ByteRange(f"s3://{BUCKET}/big.bin", number, 1 << 20).open()
    assert len(s3.requests) == 5
    assert len(s3.clients) <= 2


@pytest.mark.usefixtures("s3")
def test_one_object_is_a_source() -> None:
    assert [file.path for file in storage.list_files(f"s3://{BUCKET}/one.mp4")] == ["one.mp4"]
    assert storage.join(f"s3://{BUCKET}/one.mp4", "one.mp4") == f"s3://{BUCKET}/one.mp4"
    names = [file.path for file in storage.list_files(f"s3://{BUCKET}")]
    assert "clips/clip0.mp4" in names
    assert "one.mp4" in names


def test_shards_are_written_into_a_bucket_all_or_none(s3: FaultyS3, image_folder: Path, tmp_path: Path) -> None:
    there, here = f"s3://{BUCKET}/packed", tmp_path / "packed"
    s3.faults = Faults(unavailable=0.1, seed=5)
    for output in (there, str(here)):
        jobs.pack.main([str(image_folder), output, "--samples-per-shard", "15"])
    s3.faults = Faults()
    names = storage.names_in(there)
    assert names == sorted(path.name for path in here.iterdir())
    for name in names:
        with storage.open_file(f"{there}/{name}") as file:
            assert file.read() == (here / name).read_bytes()
    with pytest.raises(UserError, match="3 shards already"):
        jobs.pack.main([str(image_folder), there])
    jobs.pack.main([str(image_folder), there, "--overwrite"])
    assert [file.path for file in storage.list_files(there)] == ["shard-000000.tar"]
    objects = boto3.client("s3").list_objects_v2(Bucket=BUCKET, Prefix="packed/")["Contents"]
    assert [item["Key"] for item in objects] == ["packed/shard-000000.tar"], "no hidden folder is left"
    s3.refuse = (403, "AccessDenied")
    with pytest.raises(UserError, match="refused"):
        jobs.pack.main([str(image_folder), there, "--overwrite"])


def test_videos_are_transcoded_from_a_bucket_into_another(s3: FaultyS3, tmp_path: Path) -> None:
    source, here = tmp_path / "clips", tmp_path / "transcoded"
    source.mkdir()
    for number in range(8):
        (source / f"clip{number}.mp4").write_bytes(ramp_video(number))
    boto3.client("s3").create_bucket(Bucket="transcoded")
    s3.faults = Faults(unavailable=0.1, reset=0.05, cut=0.05, seed=5)
    for place, output in ((f"s3://{BUCKET}/clips", "s3://transcoded/shards"), (str(source), str(here))):
        options = ("--workers", "0", "--gop", "4", "--samples-per-shard", "3", "--measure-clips", "0")
        jobs.transcode.main([place, output, *options])
    s3.faults = Faults()
    names = storage.names_in("s3://transcoded/shards")
    assert names == [f"shard-{number:06d}.tar" for number in range(3)] == sorted(path.name for path in here.iterdir())
    for name in names:
        with storage.open_file(f"s3://transcoded/shards/{name}") as file:
            assert file.read() == (here / name).read_bytes()


def test_samples_are_fetched_ahead_and_errors_belong_to_theirs(s3: FaultyS3) -> None:
    s3.faults = Faults(slow=1, slow_seconds=0.1)
    wheres = [ByteRange(f"s3://{BUCKET}/big.bin", 1000 * number, 1000) for number in range(8)]
    wheres[5] = ByteRange(f"s3://{BUCKET}/gone.bin", 0, 10)
    wanted = [Wanted(where, in_pieces=number == 3, ranges=((10, 5),)) for number, where in enumerate(wheres)]
    with ReadAhead(wanted, samples=4) as ahead:
        ahead.open(0).close()
        time.sleep(0.6)
        s3.requests.clear()
        for number in (1, 2):
            assert ahead.open(number).read() == BIG[1000 * number :][:1000]
        with ahead.open(3) as file:
            assert read_ranges(file, [(10, 5), (20, 2)]) == [BIG[3010:3015], BIG[3020:3022]]
        with pytest.raises(StorageError, match="gone"):
            ahead.open(5)
        assert ahead.open(7).read() == BIG[7000:8000]
    spans = {span for _, _, span in s3.requests}
    assert "bytes=1000-1999" not in spans, "it had been fetched"
    assert "bytes=3010-3014" not in spans
    assert "bytes=3020-3021" in spans


def test_reading_ahead_is_bounded_in_bytes(s3: FaultyS3) -> None:
    wheres = [ByteRange(f"s3://{BUCKET}/big.bin", 1000 * number, 1000) for number in range(8)]
    with ReadAhead([Wanted(where) for where in wheres], samples=6, most_bytes=2500) as ahead:
        ahead.open(0)
        time.sleep(0.3)
        assert len(s3.requests) == 3
        for number in range(1, 8):
            assert ahead.open(number).read() == BIG[1000 * number :][:1000]


def test_what_a_sparse_decode_asks_for_is_known_before(s3: FaultyS3) -> None:
    source = f"s3://{BUCKET}/clips"
    manifest = index(source, shards_of(source)).usable()
    video = manifest.video_index(0)
    times = np.array([0.1, 1.5])
    wanted = Wanted.of(manifest.bytes_of(0), video, times)
    with ReadAhead([wanted]) as ahead, ahead.open(0) as file:
        s3.requests.clear()
        build_decoder("sparse").decode(file, times, np.zeros((2, 32, 48, 3), np.uint8), video)
    assert not s3.requests
