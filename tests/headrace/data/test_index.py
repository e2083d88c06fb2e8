"""Sparse decoding, the index that it needs, and the bytes that it reads."""

from __future__ import annotations

import functools
import io
import itertools
from pathlib import Path

import av
import numpy as np
import pytest
from generated_clips import ClipSpec, encode_clip, read_number
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from headrace.data.decode import pyav
from headrace.data.decode.demux import open_video
from headrace.data.decode.index import VideoIndex
from headrace.data.decode.limits import Limits
from headrace.data.decode.probe import probe
from headrace.data.decode.pyav import PyAVDecoder
from headrace.data.decode.roles import ENTRY, LAYER_SHIFT, REFERENCE, SHOWN, roles_for
from headrace.data.decode.scale import Scaler, frame_orientation
from headrace.data.decode.table import build_decoder
from headrace.data.failures import SampleError, TooLarge, TooSlow
from headrace.data.ranges import plan_requests, read_ranges
from headrace.data.storage import ByteRange

HEIGHT, WIDTH = 64, 96


def indexed(data: bytes) -> VideoIndex:
    index = probe(io.BytesIO(data)).index
    assert index is not None
    return VideoIndex.from_bytes(index.to_bytes())


def plain_decode(data: bytes) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Return times [N] and pictures [N, H, W, 3] of a decode from start to end, in presentation order."""
    scaler, shown = Scaler(Limits()), []
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for frame in container.decode(stream):
            picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            scaler.write(frame, picture, frame_orientation(frame))
            shown.append((frame.pts, picture))
        base = float(stream.time_base or 1)
    shown.sort(key=lambda pair: pair[0])
    return np.array([pts - shown[0][0] for pts, _ in shown]) * base, np.stack([picture for _, picture in shown])


def sparse_decode(data: bytes, times: NDArray[np.float64], index: VideoIndex | None) -> NDArray[np.uint8]:
    out = np.zeros((len(times), HEIGHT, WIDTH, 3), np.uint8)
    PyAVDecoder().decode(io.BytesIO(data), times, out, index)
    return out


@pytest.fixture
def no_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make opening a container an error: the index must suffice."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the container was opened")

    monkeypatch.setattr(pyav, "open_video", refuse)


# Random structures


def _x264(keyint: int, bframes: int, pyramid: str, refs: int, open_gop: int, badapt: int, weightb: int) -> ClipSpec:
    options = (
        f"keyint={keyint}:min-keyint=1:scenecut=0:bframes={bframes}:b-pyramid={pyramid}:ref={refs}"
        f":open-gop={open_gop}:b-adapt={badapt}:weightb={weightb}"
    )
    return ClipSpec(options={"x264-params": options, "preset": "veryfast"})


def _x265(keyint: int, bframes: int, pyramid: int, open_gop: int, layers: int) -> ClipSpec:
    options = (
        f"keyint={keyint}:min-keyint=1:scenecut=0:bframes={min(bframes, keyint - 1)}:b-pyramid={pyramid}"
        f":open-gop={open_gop}:temporal-layers={layers}:b-adapt=0:rc-lookahead=12:log-level=none:pools=1:frame-threads=1"
    )
    return ClipSpec(codec="libx265", options={"x265-params": options, "preset": "ultrafast"})


h264_specs = st.builds(
    _x264,
    keyint=st.integers(1, 40),
    bframes=st.integers(0, 8),
    pyramid=st.sampled_from(["none", "strict", "normal"]),
    refs=st.integers(1, 6),
    open_gop=st.integers(0, 1),
    badapt=st.integers(0, 2),
    weightb=st.integers(0, 1),
)
hevc_specs = st.builds(
    _x265,
    keyint=st.integers(2, 40),
    bframes=st.integers(0, 8),
    pyramid=st.integers(0, 1),
    open_gop=st.integers(0, 1),
    layers=st.integers(0, 1),
)


def _av1(keyint: int, levels: int, structure: int) -> ClipSpec:
    options = f"keyint={keyint}:hierarchical-levels={levels}:pred-struct={structure}:lp=1"
    return ClipSpec(codec="libsvtav1", options={"svtav1-params": options, "preset": "12"})


av1_specs = st.builds(
    _av1, keyint=st.sampled_from([-1, 8, 17, 33]), levels=st.integers(2, 4), structure=st.integers(1, 2)
)
FAMILIES = {"h264": h264_specs, "hevc": hevc_specs, "av1": av1_specs}


@functools.lru_cache(maxsize=8)
def _encoded(codec: str, options: tuple[tuple[str, str], ...], container: str) -> bytes:
    return encode_clip(ClipSpec(container, codec, dict(options)))


@pytest.mark.parametrize("family", FAMILIES)
def test_any_structure_gives_the_frames_of_a_plain_decode(family: str) -> None:
    """Property: whatever the encoder does with its groups of pictures, every wanted frame is the same, bit for bit."""

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(FAMILIES[family], st.sampled_from(["mp4", "matroska"]), st.data())
    def check(spec: ClipSpec, container: str, more: st.DataObject) -> None:
        data = _encoded(spec.codec, tuple(spec.options.items()), container)
        seconds, pictures = plain_decode(data)
        index = indexed(data)
        assert len(index.timeline.seconds) == len(seconds) == 60
        for _ in range(6):
            wanted = more.draw(st.lists(st.integers(0, 59), min_size=1, max_size=8))
            for known in (index, None):
                assert np.array_equal(sparse_decode(data, seconds[wanted] + 0.001, known), pictures[wanted])

    check()


@pytest.mark.usefixtures("no_container")
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_many_structures_give_the_frames_of_a_plain_decode(family: str) -> None:
    """As above, many times, and by the index alone: it must never be necessary to fall back."""

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(FAMILIES[family], st.sampled_from(["mp4", "matroska"]), st.data())
    def check(spec: ClipSpec, container: str, more: st.DataObject) -> None:
        data = _encoded(spec.codec, tuple(spec.options.items()), container)
        seconds, pictures = plain_decode(data)
        index = indexed(data)
        for _ in range(10):
            wanted = more.draw(st.lists(st.integers(0, 59), min_size=1, max_size=8))
            assert np.array_equal(sparse_decode(data, seconds[wanted] + 0.001, index), pictures[wanted])

    check()


# What is decoded


@pytest.mark.parametrize(
    ("spec", "share"),
    [
        (ClipSpec(options={"x264-params": "keyint=60:scenecut=0:bframes=3:b-pyramid=normal:b-adapt=0"}), 0.65),
        (ClipSpec(options={"x264-params": "keyint=60:scenecut=0:bframes=1:b-adapt=0"}), 0.65),
        (ClipSpec(options={"x264-params": "keyint=60:scenecut=0:bframes=0"}), 1.0),
        (_x265(60, 3, 1, 0, 0), 0.7),
        (_x265(60, 4, 1, 0, 1), 0.7),
        (_av1(-1, 4, 2), 0.75),
        (ClipSpec(codec="mjpeg", container="matroska", options={"strict": "unofficial"}), 0.0),
        (ClipSpec("webm", codec="libvpx-vp9", options={"g": "60", "deadline": "realtime", "cpu-used": "8"}), 1.0),
    ],
    ids=["h264 pyramid", "h264 one b", "h264 no b", "hevc", "hevc layers", "av1", "mjpeg", "vp9"],
)
def test_only_what_the_wanted_frame_needs_is_decoded(spec: ClipSpec, share: float) -> None:
    index = indexed(encode_clip(spec))
    (run,) = index.runs([int(index.timeline.ids[50])])
    assert len(run.packets) / 51 <= share + 1 / 51
    (everything,) = index.runs([int(index.timeline.ids[50])], discard=False)
    assert set(run.packets) <= set(everything.packets)


def test_roles_of_h264_and_hevc() -> None:
    with_codes = roles_for("h264", b"\0\0\0\1\x67SPS\0\0\0\1\x68PPS", only_key_frames=False)
    start = b"\0\0\0\1"
    assert with_codes.of(start + b"\x65slice", True) == SHOWN | ENTRY | REFERENCE
    assert with_codes.of(start + b"\x41slice", False) == SHOWN | REFERENCE
    assert with_codes.of(start + b"\x01slice", False) == SHOWN
    assert with_codes.of(start + b"\x67SPS" + start + b"\x65slice", True) == SHOWN | ENTRY | REFERENCE
    assert with_codes.steady
    with_codes.of(start + b"\x67other" + start + b"\x65slice", True)
    assert not with_codes.steady, "another set of parameters came on the way"

    hevc = roles_for("hevc", b"", only_key_frames=False)
    assert hevc.of(start + bytes([19 << 1, 1]) + b"IDR", True) == SHOWN | ENTRY | REFERENCE
    assert hevc.of(start + bytes([21 << 1, 1]) + b"CRA", True) == SHOWN | ENTRY | REFERENCE
    assert hevc.of(start + bytes([1 << 1, 1]) + b"TRAIL_R", False) == SHOWN | REFERENCE
    assert hevc.of(start + bytes([0 << 1, 3]) + b"TRAIL_N", False) == SHOWN | 2 << LAYER_SHIFT
    assert hevc.steady
    assert hevc.of(start + bytes([1 << 1, 8 + 1]) + b"second view", False) == SHOWN | REFERENCE
    assert not hevc.steady, "a packet without a picture"


def test_roles_of_av1() -> None:
    """Headers of a real stream, their bits changed by hand: refresh_frame_flags, the sequence header."""
    with open_video(io.BytesIO(encode_clip(_av1(17, 4, 2))), Limits()) as video:
        key, *others = [bytes(packet) for packet in video.packets[:17]]
    roles = roles_for("av1", b"", only_key_frames=False)
    assert roles.of(key, True) == SHOWN | ENTRY | REFERENCE
    assert roles.of(key, False) == SHOWN | REFERENCE, "it takes the container and the codec to agree"
    kinds = [roles.of(other, False) for other in others]
    assert set(kinds) == {SHOWN, SHOWN | REFERENCE}
    assert roles.steady
    assert roles.of(others[0][:1], False) == SHOWN | REFERENCE
    assert roles_for("av1", b"", only_key_frames=False).of(others[0], False) == SHOWN | REFERENCE, "no sequence header"
    changed = bytearray(key)
    changed[4] ^= 16
    roles.of(bytes(changed), True)
    assert not roles.steady, "another sequence header came on the way"


def test_lengths_that_lie_are_noticed() -> None:
    roles = roles_for("h264", b"\1\x64\0\x0a\xff\xe0\0", only_key_frames=False)
    assert roles.of(b"\0\0\0\2\x65a", True) == SHOWN | ENTRY | REFERENCE
    assert roles.steady
    roles.of(b"\0\0\0\x09\x65a", True)
    assert not roles.steady


# The index stands for the file


@pytest.mark.usefixtures("no_container")
@pytest.mark.parametrize("container", ["mp4", "matroska", "flv"])
def test_the_index_suffices(container: str) -> None:
    spec = ClipSpec(container, options={"x264-params": "keyint=12:scenecut=0:bframes=3"}, audio=container != "flv")
    data = encode_clip(spec)
    order = np.random.default_rng(0).permutation(60)
    pictures = sparse_decode(data, spec.seconds[order] + 0.002, indexed(data))
    assert [read_number(picture) for picture in pictures] == order.tolist()


@pytest.mark.usefixtures("no_container")
def test_a_rotated_clip_comes_upright_by_the_index() -> None:
    data = encode_clip(ClipSpec(rotation=90))
    assert read_number(sparse_decode(data, np.array([0.3]), indexed(data))[0]) == 7


@pytest.mark.parametrize(
    "spec",
    [
        ClipSpec("mpegts", options={"x264-params": "bframes=3"}),  # packets lie in pieces
        ClipSpec("avi", options={"x264-params": "bframes=3"}),  # times are guessed
        ClipSpec(options={"x264-params": "interlaced=1"}),
        ClipSpec(codec="mpeg4", options={"bf": "2"}),  # FFmpeg's decoder asks the container
    ],
    ids=["ts", "avi", "interlaced", "mpeg4"],
)
def test_no_index_where_it_would_not_be_certain(spec: ClipSpec) -> None:
    assert probe(io.BytesIO(encode_clip(spec))).index is None


def test_an_index_of_another_file_gives_the_right_frames_or_a_typed_error() -> None:
    one = encode_clip(ClipSpec(options={"x264-params": "keyint=12:bframes=3"}))
    other = encode_clip(ClipSpec("matroska", options={"x264-params": "keyint=30:bframes=0"}))
    for data in (other, other[: len(other) // 2], b"", bytes(len(one))):
        try:
            pictures = sparse_decode(data, np.array([0.2, 1.0]), indexed(one))
        except SampleError:
            continue
        assert [read_number(picture) for picture in pictures] == [5, 25]


def test_a_packed_index_is_small_and_rubbish_is_refused() -> None:
    index = indexed(encode_clip(ClipSpec(options={"x264-params": "keyint=12:bframes=3"}, audio=True)))
    assert len(index.to_bytes()) < 1000
    for rubbish in (b"", b"rubbish", index.to_bytes()[:-9]):
        with pytest.raises(ValueError, match="no packed video index"):
            VideoIndex.from_bytes(rubbish)


# Limits


def test_limits_of_frames_memory_and_time() -> None:
    data = encode_clip(ClipSpec())
    out = np.zeros((1, 8, 8, 3), np.uint8)
    with pytest.raises(TooLarge, match="more than 59 frames"):
        probe(io.BytesIO(data), Limits(frames_per_sample=59))
    with pytest.raises(TooSlow, match="not decoded within"):
        PyAVDecoder(Limits(seconds_per_sample=0.0)).decode(io.BytesIO(data), np.zeros(1), out)
    data = encode_clip(ClipSpec(frames=100))
    little = Limits(bytes_in_memory=100)
    with pytest.raises(TooLarge, match="held in memory"):
        PyAVDecoder(little).decode(io.BytesIO(data), np.zeros(1), out)
    PyAVDecoder(little).decode(io.BytesIO(data), np.zeros(1), out, indexed(data))


def test_a_video_larger_than_memory_is_indexed_all_the_same() -> None:
    data = encode_clip(ClipSpec(frames=100))
    assert probe(io.BytesIO(data), Limits(bytes_in_memory=100)).index is not None


# Bytes


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 60)), max_size=20),
    st.integers(0, 50),
    st.integers(1, 200),
)
def test_requests_cover_all_ranges_and_little_more(ranges: list[tuple[int, int]], gap: int, most: int) -> None:
    file = io.BytesIO(bytes(np.random.default_rng(0).integers(0, 256, 300, np.uint8)))
    data = file.getvalue()
    assert read_ranges(file, ranges) == [data[offset : offset + size] for offset, size in ranges]
    requests = plan_requests(ranges, gap, most)
    assert sorted(number for request in requests for number in request.serves) == list(range(len(ranges)))
    for request in requests:
        inside = [ranges[number] for number in request.serves]
        assert request.offset == min(offset for offset, _ in inside)
        assert request.offset + request.size == max(offset + size for offset, size in inside)
    assert all(a.offset <= b.offset for a, b in itertools.pairwise(requests))


def test_a_file_in_pieces_reads_no_more_than_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight frames out of a long clip, inside a larger file, cost the ranges of their groups of pictures."""
    spec = ClipSpec(options={"x264-params": "keyint=12:scenecut=0:bframes=0"}, frames=120, height=320, width=480)
    data = encode_clip(spec)
    path = tmp_path / "shard.tar"
    path.write_bytes(b"x" * 1000 + data + b"y" * 1000)
    read = list[int]()
    pread = __import__("os").pread
    monkeypatch.setattr("os.pread", lambda *a: read.append(len(piece := pread(*a))) or piece)
    monkeypatch.setattr("headrace.data.storage.LOCAL_GAP_BYTES", 0)
    out = np.zeros((2, 64, 96, 3), np.uint8)
    index = indexed(data)
    with ByteRange(str(path), 1000, len(data)).open(in_pieces=True) as file:
        build_decoder("auto").decode(file, np.array([1.0, 4.0]), out, index)
    assert [read_number(picture) for picture in out] == [25, 100]
    needed = sum(int(index.size[run.packets].sum()) for run in index.runs(index.timeline.ids[[25, 100]].tolist()))
    assert sum(read) == needed < len(data) / 8
