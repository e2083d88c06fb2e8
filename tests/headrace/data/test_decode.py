"""Every decoder against clips whose frames show their own numbers: the right frame or a typed error."""

from __future__ import annotations

import csv
import functools
import io
import itertools
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from generated_clips import ClipSpec, encode_clip, numbered_picture, read_number
from numpy.typing import NDArray
from PIL import Image

from headrace.data.decode import Decoder
from headrace.data.decode.demux import open_video
from headrace.data.decode.geometry import centre_box, orientation_from_matrix
from headrace.data.decode.limits import Limits
from headrace.data.decode.probe import probe
from headrace.data.decode.pyav import PyAVDecoder
from headrace.data.decode.scale import Scaler, frame_orientation
from headrace.data.decode.table import DECODERS, build_decoder
from headrace.data.failures import (
    Encrypted,
    NoFrames,
    NotMedia,
    SampleError,
    TooLarge,
    Truncated,
    UnsupportedCodec,
)
from headrace.errors import UserError

# "auto" gives videos to one of the others
VIDEO_DECODERS = sorted(set(DECODERS) - {"image", "auto"} - (set() if torch.cuda.is_available() else {"nvdec"}))

_GOP = "keyint=12:min-keyint=12:scenecut=0:b-adapt=0"


def _x264(more: str = "bframes=3") -> dict[str, str]:
    return {"x264-params": f"{_GOP}:{more}"}


def _x265(open_gop: int) -> dict[str, str]:
    return {"x265-params": f"{_GOP}:bframes=3:open-gop={open_gop}:log-level=none:pools=1:frame-threads=1"}


_VP9 = {"g": "12", "deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "8"}
CLIPS = {
    "h264 no b-frames": ClipSpec(options=_x264("bframes=0")),
    "h264 b-frames": ClipSpec(options=_x264()),
    "h264 b-pyramid": ClipSpec(options=_x264("bframes=7:b-pyramid=normal")),
    "h264 one key frame": ClipSpec(options={"x264-params": "keyint=250:scenecut=0"}),
    "h264 open groups": ClipSpec(options=_x264("bframes=3:open-gop=1")),
    "h264 open groups, b-pyramid": ClipSpec(options=_x264("bframes=5:open-gop=1:b-pyramid=normal")),
    "h264 intra refresh": ClipSpec(options=_x264("bframes=0:intra-refresh=1")),
    "h264 interlaced": ClipSpec(options=_x264("bframes=3:interlaced=1")),
    "h264 slices": ClipSpec(options=_x264("bframes=3:slices=4")),
    "hevc": ClipSpec(codec="libx265", options=_x265(open_gop=0)),
    "hevc open groups": ClipSpec(codec="libx265", options=_x265(open_gop=1)),
    "mpeg-4 part 2": ClipSpec(codec="mpeg4", options={"bf": "2", "g": "12"}),
    "mpeg-4 part 2 in avi": ClipSpec("avi", codec="mpeg4", options={"bf": "2", "g": "12"}),
    "h264 in avi": ClipSpec("avi", options=_x264()),
    "mpeg-2 in ts": ClipSpec("mpegts", codec="mpeg2video", options={"bf": "2", "g": "12"}),
    "h264 in ts": ClipSpec("mpegts", options=_x264()),
    "h264 in flv": ClipSpec("flv", options=_x264()),
    "h264 in mkv": ClipSpec("matroska", options=_x264()),
    "h264 in fragmented mp4": ClipSpec(options=_x264(), container_options={"movflags": "frag_keyframe+empty_moov"}),
    "vp8 in webm": ClipSpec("webm", codec="libvpx", options=_VP9 | {"deadline": "good"}),
    "h264 without a container": ClipSpec("h264", options=_x264()),
    "hevc without a container": ClipSpec("hevc", codec="libx265", options=_x265(open_gop=0)),
    "vp9 in webm": ClipSpec("webm", codec="libvpx-vp9", options=_VP9),
    "variable frame rate": ClipSpec(times=[40 * n + 13 * (n % 3) + 300 * (n > 30) for n in range(60)], options=_x264()),
    "starts at 5 s": ClipSpec(times=[40 * n + 5000 for n in range(60)], options=_x264()),
    "starts before 0, in mkv": ClipSpec("matroska", times=[40 * n - 80 for n in range(60)], options=_x264()),
    "rotated 90": ClipSpec(rotation=90),
    "rotated 180": ClipSpec(rotation=180),
    "rotated 270": ClipSpec(rotation=270),
    "mirrored": ClipSpec(mirrored=True),
    "mirrored and rotated 90": ClipSpec(mirrored=True, rotation=90),
    "odd size": ClipSpec(height=65, width=97),
    "audio beside": ClipSpec(audio=True, options=_x264()),
    "one frame": ClipSpec(frames=1),
}


@functools.cache
def clip(name: str) -> bytes:
    """Return the file of a clip, encoded once a session. A codec that FFmpeg here lacks fails in CI."""
    spec = CLIPS[name]
    if spec.codec not in av.codecs_available and "CI" not in os.environ:
        pytest.skip(f"the FFmpeg of this PyAV has no encoder {spec.codec}")
    data: bytes = encode_clip(spec)
    return data


def decode_numbers(
    decoder: Decoder, data: bytes, times: NDArray[np.float64], size: tuple[int, int] = (64, 96)
) -> tuple[list[int], NDArray[np.float64]]:
    out = np.full((len(times), *size, 3), 128, np.uint8)
    given = decoder.decode(io.BytesIO(data), times, out)
    return [read_number(picture) for picture in out], given


def decoder_or_skip(name: str) -> Decoder:
    if name == "decord":
        pytest.importorskip("decord", reason="decord has no wheel for this machine")
    try:
        return build_decoder(name)
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(params=VIDEO_DECODERS)
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return decoder_or_skip(request.param)


@pytest.mark.parametrize("name", CLIPS)
class TestConformance:
    def test_every_frame_in_random_order_with_repeats(self, decoder: Decoder, name: str) -> None:
        spec = CLIPS[name]
        order = np.random.default_rng(0).permutation(spec.frames)
        order = np.concatenate([order, order[:5]])
        numbers, given = decode_numbers(decoder, clip(name), spec.seconds[order] + 0.002)
        assert numbers == order.tolist()
        assert np.allclose(given, spec.seconds[order], atol=1.5e-3)

    def test_one_frame_at_a_time(self, decoder: Decoder, name: str) -> None:
        spec = CLIPS[name]
        for number in sorted({0, 1, 11, 12, 13, 35, 36, 37, 58, 59} & set(range(spec.frames))):
            assert decode_numbers(decoder, clip(name), spec.seconds[[number]] + 0.002)[0] == [number]

    def test_times_before_and_past_the_end(self, decoder: Decoder, name: str) -> None:
        numbers, given = decode_numbers(decoder, clip(name), np.array([-3.0, 0.0, 1e6]))
        last = CLIPS[name].frames - 1
        assert numbers == [0, 0, last]
        assert np.allclose(given, [0, 0, CLIPS[name].seconds[-1]], atol=1.5e-3)

    def test_given_times_give_the_same_frames(self, decoder: Decoder, name: str) -> None:
        asked = np.linspace(0, CLIPS[name].seconds[-1], 7)
        numbers, given = decode_numbers(decoder, clip(name), asked)
        assert (given <= asked + 1e-5).all()
        again, given_again = decode_numbers(decoder, clip(name), given)
        assert numbers == again
        assert np.array_equal(given, given_again)


@pytest.mark.parametrize("name", CLIPS)
def test_probe_counts_frames_and_tells_the_upright_size(name: str) -> None:
    spec, info = CLIPS[name], probe(io.BytesIO(clip(name)))
    assert (info.kind, info.frames, info.height, info.width) == (
        "video",
        spec.frames,
        spec.height,
        spec.width,
    )
    assert info.seconds == pytest.approx(spec.seconds[-1] + 0.04, abs=0.015)
    assert info.key_frame_seconds[0] == 0.0
    assert list(info.key_frame_seconds) == sorted(set(info.key_frame_seconds))


def test_probe_finds_the_key_frames() -> None:
    info = probe(io.BytesIO(clip("h264 b-frames")))
    assert info.codec == "h264"
    assert info.key_frame_seconds == pytest.approx([0.0, 0.48, 0.96, 1.44, 1.92])


def test_an_edit_list_hides_frames(decoder: Decoder) -> None:
    """In mp4, frames before time 0 are decoded but not shown: the clip begins with number 2."""
    data = encode_clip(ClipSpec(times=[40 * n - 80 for n in range(60)], options=_x264()))
    assert probe(io.BytesIO(data)).frames == 58
    numbers, given = decode_numbers(decoder, data, np.array([0.0, 0.042, 1.0, 99.0]))
    assert numbers == [2, 3, 27, 59]
    assert np.allclose(given, [0.0, 0.04, 1.0, 57 * 0.04])


@pytest.mark.parametrize("name", ["h264 open groups", "h264 open groups, b-pyramid", "hevc open groups"])
def test_a_stream_cut_before_an_open_group(decoder: Decoder, name: str) -> None:
    """Pictures that refer to what was cut off are not there; time 0 is the first that is."""
    data = _cut_at_second_key_frame(clip(name))
    times = np.array([0.0, 0.04, 0.2, 0.5, 0.9])
    info = probe(io.BytesIO(data))
    first = decode_numbers(decoder, data, np.zeros(1))[0][0]
    assert first == 12
    assert info.frames == 60 - first
    numbers, given = decode_numbers(decoder, data, times + 0.002)
    assert numbers == [first + round(time / 0.04) for time in given.tolist()]
    assert np.allclose(given, np.floor(times / 0.04 + 1e-6) * 0.04, atol=2e-3)


def _cut_at_second_key_frame(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(buffer, "w", format="matroska") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        second = [index for index, packet in enumerate(packets) if packet.is_keyframe][1]
        for packet in packets[second:]:
            packet.stream = stream
            output.mux(packet)
    return buffer.getvalue()


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 120), (101, 33), (128, 192)])
def test_the_picture_covers_and_is_cut_to_its_centre(decoder: Decoder, height: int, width: int) -> None:
    out = np.zeros((1, height, width, 3), np.uint8)
    decoder.decode(io.BytesIO(clip("rotated 90")), np.array([0.3]), out)
    upright = Image.fromarray(numbered_picture(7, 64, 96))
    box = centre_box(64, 96, height, width, step=2)
    corners = (box.left, box.top, box.left + box.width, box.top + box.height)
    expected = np.asarray(upright.resize((width, height), Image.Resampling.BILINEAR, box=corners)).astype(int)
    # decord's box is not rounded to even pixels, which moves these hard edges
    assert np.abs(out[0] - expected).mean() < (12 if decoder.name == "decord" else 6)


def test_two_sizes_and_two_files_through_one_decoder(decoder: Decoder) -> None:
    """Nothing of one call is left for the next, also after a failure."""
    for name, size in [("h264 b-frames", (64, 96)), ("rotated 270", (128, 192)), ("odd size", (32, 48))]:
        with pytest.raises(SampleError):
            decode_numbers(decoder, b"no video", np.zeros(1))
        assert decode_numbers(decoder, clip(name), np.array([1.0, 0.2]), size)[0] == [25, 5]


def test_runs_cover_what_is_wanted_and_nothing_twice() -> None:
    with open_video(io.BytesIO(clip("h264 b-frames")), Limits()) as video:
        assert video.index is not None
        rng = np.random.default_rng(0)
        for _ in range(50):
            wanted = rng.choice(60, rng.integers(1, 12), replace=False).tolist()
            for discard in (True, False):
                runs = video.index.runs(wanted, discard=discard)
                assert sorted(number for run in runs for number in run.wanted) == sorted(wanted)
                assert all(run.packets == sorted(set(run.packets)) for run in runs)
                assert all(run.wanted <= set(run.packets) and max(run.wanted) == run.packets[-1] for run in runs)
                assert all(a.packets[-1] < b.packets[0] for a, b in itertools.pairwise(runs))
                assert all(run.packets[0] % 12 == 0 for run in runs)


# Damage


@pytest.mark.parametrize(
    "name",
    ["h264 b-pyramid", "h264 in mkv", "h264 in fragmented mp4", "hevc", "mpeg-4 part 2", "vp9 in webm"],
)
@pytest.mark.parametrize("index_first", [False, True])
def test_a_truncated_file_gives_the_right_frame_or_a_typed_error(
    decoder: Decoder, name: str, index_first: bool
) -> None:
    spec = CLIPS[name]
    data = clip(name)
    if index_first:
        if spec.container != "mp4" or spec.container_options:
            pytest.skip("only an mp4 has its index at the end")
        data = encode_clip(ClipSpec(**{**vars(spec), "container_options": {"movflags": "faststart"}}))
    right = 0
    for cut in np.linspace(0, len(data) - 1, 40).astype(int).tolist():
        for number in (0, 5, 14, 30, 59):
            try:
                numbers, _ = decode_numbers(decoder, data[:cut], spec.seconds[[number]] + 0.002)
            except (Truncated, NotMedia, NoFrames):
                continue
            if spec.container_options:  # fragments: a file cut between two of them is whole, and shorter
                assert numbers == [number] or numbers[0] % 12 == 11
            else:
                assert numbers == [number]
            right += numbers == [number]
    if index_first or spec.container != "mp4":
        assert right > 20


@pytest.mark.parametrize("name", ["h264 in ts", "mpeg-2 in ts", "h264 in flv"])
def test_a_stream_without_an_end_is_as_long_as_it_is(decoder: Decoder, name: str) -> None:
    """Cut anywhere, it gives frames that are what their times say, or a typed error."""
    data = clip(name)
    for cut in np.linspace(0, len(data) - 1, 30).astype(int).tolist():
        for time in (0.0, 0.5, 1.3, 2.3):
            try:
                numbers, given = decode_numbers(decoder, data[:cut], np.array([time]))
            except (Truncated, NotMedia, NoFrames):
                continue
            except ValueError as unreadable:
                pytest.fail(f"cut at {cut}: {unreadable}")
            assert numbers[0] == pytest.approx(given[0] / 0.04, abs=0.1)


def test_damage_inside_costs_only_the_frames_behind_it() -> None:
    """Zeros over the fourth group of pictures: those before are right, those in it are errors."""
    data = bytearray(clip("h264 in mkv"))
    with open_video(io.BytesIO(bytes(data)), Limits()) as video:
        packet = video.packets[36]
        begin = bytes(data).find(bytes(packet)[:40])
    assert begin > 0
    data[begin + 5 : begin + 40] = bytes(35)
    assert decode_numbers(PyAVDecoder(), bytes(data), np.array([0.0, 0.6]))[0] == [0, 15]
    with pytest.raises(Truncated):
        decode_numbers(PyAVDecoder(), bytes(data), np.array([1.5]))


def test_random_damage_never_escapes_the_typed_errors() -> None:
    """Bytes overwritten at random: frames or a SampleError, whatever the container and the codec."""
    rng = np.random.default_rng(0)
    for name in CLIPS:
        for _ in range(4):
            data = np.frombuffer(clip(name), np.uint8).copy()
            where = rng.integers(0, len(data), rng.integers(1, 30))
            data[where] = rng.integers(0, 256, len(where))
            out = np.zeros((3, 32, 48, 3), np.uint8)
            try:
                PyAVDecoder().decode(io.BytesIO(data.tobytes()), np.array([0.1, 1.2, 2.3]), out)
                probe(io.BytesIO(data.tobytes()))
            except SampleError:
                continue


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", NotMedia),
        (b"\0", NotMedia),
        (b"Not a video, but a text of some length.\n" * 100, NotMedia),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", NotMedia),
        (b"ffconcat version 1.0\nfile /etc/hostname\n", NotMedia),
        (b"\0\0\0\x18ftypisom\0\0\x02\0isomiso2" + bytes(100), Truncated),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(1000), UnsupportedCodec),
    ],
)
@pytest.mark.parametrize("name", ["auto", "decord"])
def test_what_is_no_video(name: str, data: bytes, error: type[SampleError]) -> None:
    if name == "decord":
        pytest.importorskip("decord", reason="decord has no wheel for this machine")
        error = NotMedia if error is UnsupportedCodec else error
    with pytest.raises(error):
        build_decoder(name).decode(io.BytesIO(data), np.zeros(1), np.zeros((1, 8, 8, 3), np.uint8))
    if name == "auto":
        with pytest.raises(error):
            probe(io.BytesIO(data))


def test_sound_alone_has_no_frames(decoder: Decoder) -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        sound.sample_rate = 16000
        output.mux([*stream.encode(sound), *stream.encode(None)])
    with pytest.raises(NoFrames, match="audio"):
        decode_numbers(decoder, buffer.getvalue(), np.zeros(1))


def test_limits() -> None:
    data, out = clip("h264 b-frames"), np.zeros((1, 8, 8, 3), np.uint8)
    for limits in (Limits(pixels_per_frame=96 * 64 - 1), Limits(bytes_per_sample=len(data) - 1)):
        with pytest.raises(TooLarge, match="the limit is"):
            PyAVDecoder(limits).decode(io.BytesIO(data), np.zeros(1), out)
        with pytest.raises(TooLarge, match="the limit is"):
            probe(io.BytesIO(data), limits)
    PyAVDecoder(Limits(96 * 64, len(data))).decode(io.BytesIO(data), np.zeros(1), out)


def test_an_error_of_the_storage_is_no_sample_error() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 1000:
                raise ConnectionError("the storage is away")
            return super().read(size)

    with pytest.raises(ConnectionError):
        PyAVDecoder().decode(Broken(clip("h264 in mkv")), np.zeros(1), np.zeros((1, 8, 8, 3), np.uint8))


# Geometry


def test_orientation_agrees_with_a_matrix_product() -> None:
    """Each of the eight matrices sends a corner of the picture where the array operation does."""
    picture = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    centre_y, centre_x = 0.5, 1.0
    for matrix in np.array([[[a, 0], [0, d]] for a in (1, -1) for d in (1, -1)]):
        for swap in (False, True):
            (a, b), (c, d) = matrix[:, ::-1] if swap else matrix
            packed = np.array([a * 65536, b * 65536, 0, c * 65536, d * 65536, 0, 0, 0, 1 << 30], np.int32)
            upright = orientation_from_matrix(packed.tobytes()).apply(picture)
            for y in range(2):
                for x in range(3):
                    column = a * (x - centre_x) + c * (y - centre_y) + (upright.shape[1] - 1) / 2
                    row = b * (x - centre_x) + d * (y - centre_y) + (upright.shape[0] - 1) / 2
                    assert upright[int(row), int(column), 0] == picture[y, x, 0]


# The table


def test_an_unknown_decoder_is_told_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'decord'"):
        build_decoder("decrod")


@pytest.mark.parametrize("name", sorted(set(DECODERS) - {"torchcodec", "nvdec"}))
def test_a_decoder_imports_no_heavy_library(name: str) -> None:
    """Decode actors start with it, and there are many of them."""
    if name == "decord":
        pytest.importorskip("decord", reason="decord has no wheel for this machine")
    code = (
        "import sys; from headrace.data.decode.table import build_decoder; "
        f"build_decoder({name!r}); "
        "heavy = {'torch', 'transformers', 'pandas', 'ray', 'scipy'} & set(sys.modules); "
        f"assert not heavy, heavy; assert {name == 'decord'} == ('decord' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)


# Real files


DATA = Path(os.environ.get("HEADRACE_DATA", Path(__file__).parents[4] / "shared" / "data")) / "videos"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="real clips are not here; HEADRACE_DATA names their folder")


def _real_files(*folders: str) -> list[str]:
    if not DATA.is_dir():
        return []
    with (DATA / "manifest.csv").open() as rows:
        files = [row["file"].removeprefix("videos/") for row in csv.DictReader(rows)]
    return [file for file in files if file.split("/")[0] in folders]


def _plain_decode(data: bytes, height: int, width: int) -> tuple[NDArray[np.float64], dict[int, NDArray[np.uint8]]]:
    """Return times [N] and, by index, the scaled pictures of a decode from start to end."""
    pictures, ticks = [], []
    scaler = Scaler(Limits())
    with av.open(io.BytesIO(data)) as container:
        streams = container.streams.video
        stream = next((s for s in streams if s.disposition & av.stream.Disposition.default), streams[0])
        stream.thread_type, stream.thread_count = "NONE", 1
        for frame in container.decode(stream):
            pixels = np.zeros((height, width, 3), np.uint8)
            scaler.write(frame, pixels, frame_orientation(frame))
            pictures.append(pixels)
            ticks.append(frame.pts)
        order = np.argsort(ticks, kind="stable")
        seconds = (np.array(ticks)[order] - min(ticks)) * float(stream.time_base or 1)
    return seconds, {index: pictures[number] for index, number in enumerate(order.tolist())}


def _check_against_plain_decode(file: str, looks: int) -> None:
    data = (DATA / file).read_bytes()
    decoder = PyAVDecoder()
    try:
        info = probe(io.BytesIO(data))
    except Encrypted:
        assert "sgpd" in file  # two files whose pictures are encrypted, as their sample entries say
        return
    seconds, pictures = _plain_decode(data, 36, 64)
    assert info.frames == len(seconds)
    rng = np.random.default_rng(len(data))
    for _ in range(looks):
        times = rng.uniform(0, info.seconds, 4)
        out = np.zeros((4, 36, 64, 3), np.uint8)
        given = decoder.decode(io.BytesIO(data), times, out)
        index = np.searchsorted(seconds, times + 1e-6, side="right") - 1
        assert np.array_equal(given, seconds[index])
        for picture, which in zip(out, index.tolist(), strict=True):
            assert np.array_equal(picture, pictures[which])


@needs_data
@pytest.mark.parametrize("file", _real_files("road", "codec_variants")[::16])
def test_some_real_files_are_decoded_as_from_the_start(file: str) -> None:
    _check_against_plain_decode(file, looks=2)


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("file", _real_files("road", "general", "gps_video", "codec_variants"))
def test_real_files_are_decoded_as_from_the_start(file: str) -> None:
    _check_against_plain_decode(file, looks=6)


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("file", _real_files("road", "general", "gps_video", "codec_variants"))
def test_decord_gives_the_same_frames(file: str) -> None:
    """Its filter and colours differ a little; another frame would differ more than the neighbours do."""
    pytest.importorskip("decord", reason="decord has no wheel for this machine")
    data = (DATA / file).read_bytes()
    try:
        info = probe(io.BytesIO(data))
    except Encrypted:
        return
    times = np.linspace(0, info.seconds, 5, endpoint=False)
    out, reference = np.zeros((2, 5, 36, 64, 3), np.uint8)
    given = build_decoder("decord").decode(io.BytesIO(data), times, out)
    expected = PyAVDecoder().decode(io.BytesIO(data), times, reference)
    assert np.abs(given - expected).max() < 1e-9
    assert np.abs(out.astype(int) - reference).mean() < 10


@needs_data
@pytest.mark.parametrize("file", _real_files("broken"))
def test_broken_files_give_a_typed_error(file: str) -> None:
    data = (DATA / file).read_bytes()
    expected = {
        "clearkey": Encrypted,
        "encrypted": Encrypted,
        "init": NoFrames,
        "dovi": UnsupportedCodec,
        "hello": NotMedia,
        "essai": NotMedia,
    }
    error = next((kind for word, kind in expected.items() if word in file), Truncated)
    with pytest.raises(error):
        probe(io.BytesIO(data))
    for name in VIDEO_DECODERS:
        if name in ("torchcodec", "nvdec"):
            continue  # theirs is in test_torchcodec.py
        decoder = decoder_or_skip(name)
        with pytest.raises(error):
            decode_numbers(decoder, data, np.zeros(1))
