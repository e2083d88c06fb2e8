from __future__ import annotations

import io
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from generated_clips import ClipSpec, encode_clip, read_number
from numpy.typing import NDArray

from headrace.data.decode.demux import open_video
from headrace.data.decode.limits import Limits
from headrace.data.decode.probe import probe
from headrace.data.decode.pyav import decoded_timeline
from headrace.data.decode.table import build_decoder
from headrace.data.encode import encode_video
from headrace.data.failures import NoFrames, NotMedia, SampleError, TooSlow, Truncated
from headrace.data.transcode import Encoding, output_size, transcode
from headrace.errors import UserError

H264, MJPEG = Encoding(), Encoding(codec="mjpeg")
UNEVEN = [0, 40, 41, 160, 1000, 1033, 1067, 9000]


def transcoded(data: bytes, encoding: Encoding = H264) -> bytes:
    return transcode(io.BytesIO(data), encoding)


def seconds_of(data: bytes) -> NDArray[np.float64]:
    with open_video(io.BytesIO(data), Limits()) as video:
        timeline = video.index.timeline if video.index is not None else decoded_timeline(video)
        return timeline.seconds


def pictures(data: bytes, seconds: NDArray[np.float64], height: int = 64, width: int = 96) -> NDArray[np.uint8]:
    out = np.zeros((len(seconds), height, width, 3), np.uint8)
    build_decoder("auto").decode(io.BytesIO(data), seconds, out)
    return out


def moving_gradient(frames: int, height: int, width: int) -> NDArray[np.uint8]:
    """Return saturated colours [T, H, W, 3] that move, smooth enough for 4:2:0."""
    x = np.linspace(0, 2 * np.pi, width)[None, None, :]
    y = np.linspace(0, 2 * np.pi, height)[None, :, None]
    t = np.arange(frames)[:, None, None] / 5
    channels = [127 + 120 * np.sin(x + t + phase) * np.cos(y) for phase in (0, 2, 4)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def tagged_video(matrix: str, levels: str, pixel_format: str, frames: NDArray[np.uint8]) -> bytes:
    """Return a lossless video in a given colour space, tagged as such."""
    numbers = {"bt709": 1, "bt601": 5, "bt2020": 9}
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as output:
        stream = output.add_stream("libx264", rate=25, options={"qp": "0"})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixel_format
        stream.codec_context.colorspace = numbers[matrix]
        stream.codec_context.color_range = 2 if levels == "full" else 1
        graph = av.filter.Graph()
        graph.link_nodes(
            graph.add("buffer", f"video_size={frames.shape[2]}x{frames.shape[1]}:pix_fmt=rgb24:time_base=1/25"),
            graph.add("scale", f"out_color_matrix={matrix}:out_range={levels}"),
            graph.add("format", pixel_format),
            graph.add("buffersink"),
        )
        graph.configure()
        for number, pixels in enumerate(frames):
            graph.vpush(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24"))
            frame = graph.vpull()
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def with_times(ticks: list[int], time_base: Fraction, container: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream("libx264", rate=25, options={"bf": "2"})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.time_base = time_base
        for tick, pixels in zip(ticks, moving_gradient(len(ticks), 64, 96), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = tick, time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize("encoding", [H264, MJPEG, Encoding(b_frames=5)], ids=["h264", "mjpeg", "b-frames"])
@pytest.mark.parametrize("container", ["matroska", "mp4", "mpegts", "avi"])
def test_every_frame_keeps_its_time_and_its_picture(container: str, encoding: Encoding) -> None:
    source = encode_clip(ClipSpec(container=container, frames=40, audio=container == "mp4"))
    after = transcoded(source, encoding)
    assert seconds_of(after) == pytest.approx(seconds_of(source), abs=1.1e-6)
    numbers = [read_number(picture) for picture in pictures(after, seconds_of(after) + 0.01)]
    assert numbers == list(range(40))
    assert probe(io.BytesIO(after)).seconds == pytest.approx(1.6, abs=2e-6)


@pytest.mark.parametrize(
    ("ticks", "time_base", "container"),
    [
        (UNEVEN, Fraction(1, 1000), "matroska"),
        ([1 << 20, (1 << 20) + 3003, (1 << 20) + 9000, (1 << 20) + 9001], Fraction(1, 90000), "mpegts"),
        ([0, 1, 2, 5, 6], Fraction(1001, 30000), "mp4"),
        ([0, 512, 1024, 99999], Fraction(1, 12800), "mp4"),
        ([0, 1], Fraction(2000), "mp4"),
    ],
)
def test_a_variable_frame_rate_survives_exactly(ticks: list[int], time_base: Fraction, container: str) -> None:
    source = with_times(ticks, time_base, container)
    before, after = probe(io.BytesIO(source)), transcoded(source)
    assert seconds_of(after) == pytest.approx(seconds_of(source), abs=1e-9)
    assert len(seconds_of(after)) == len(ticks)
    assert probe(io.BytesIO(after)).seconds == pytest.approx(before.seconds, abs=1 / 90000)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_rotation_goes_into_the_pixels(rotation: int, mirrored: bool) -> None:
    source = encode_clip(ClipSpec(rotation=rotation, mirrored=mirrored, frames=9, height=128, width=192))
    after = transcoded(source, Encoding(short_side=64))
    with av.open(io.BytesIO(after)) as container:
        frame = next(container.decode(video=0))
        assert (frame.height, frame.width, frame.rotation) == (64, 96, 0)
    assert [read_number(picture) for picture in pictures(after, np.arange(9) * 0.04)] == list(range(9))


def test_frames_that_leave_the_decoder_late_are_put_in_order(real_data: Path) -> None:
    source = (real_data / "videos" / "road" / "mapillary_sample-5s_h265.mp4").read_bytes()
    after = transcoded(source, Encoding(short_side=16))
    assert seconds_of(after) == pytest.approx(seconds_of(source), abs=1e-9)


def test_frames_that_an_edit_list_hides_do_not_exist(real_data: Path) -> None:
    for name in ("torchcodec_discard_first_keyframe.mp4", "media3_iibbibb_editlist_videoonly.mp4"):
        source = (real_data / "videos" / "codec_variants" / name).read_bytes()
        after = transcoded(source)
        assert seconds_of(after) == pytest.approx(seconds_of(source), abs=1e-9)
        with av.open(io.BytesIO(after)) as container:
            assert container.streams.video[0].frames == len(seconds_of(source))


@pytest.mark.parametrize(
    ("height", "width", "short_side", "expected"),
    [
        (1080, 1920, 256, (256, 456)),
        (1920, 1080, 256, (456, 256)),
        (240, 320, 256, (240, 320)),
        (241, 321, 256, (240, 320)),
        (257, 257, 256, (256, 256)),
        (256, 99, 256, (256, 98)),
        (1, 1, 256, (2, 2)),
        (300, 30000, 16, (16, 1600)),
    ],
)
def test_sizes_are_even_and_never_enlarged(height: int, width: int, short_side: int, expected: tuple[int, int]) -> None:
    assert output_size(height, width, short_side) == expected


@pytest.mark.parametrize("codec", ["h264", "mjpeg"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (2, 300), (67, 99)])
def test_odd_and_tiny_pictures(height: int, width: int, codec: str) -> None:
    source = encode_clip(ClipSpec(container="matroska", codec="ffv1", frames=3, height=height, width=width))
    info = probe(io.BytesIO(transcoded(source, Encoding(codec=codec))))
    assert (info.height, info.width, info.frames) == (*output_size(height, width, 256), 3)


@pytest.mark.parametrize(
    ("encoding", "keys"),
    [
        (H264, [0, 16, 32]),
        (Encoding(gop=1), list(range(40))),
        (Encoding(gop=7), list(range(0, 40, 7))),
        (MJPEG, list(range(40))),
    ],
)
def test_key_frames_stand_where_they_should_and_nothing_is_reordered(encoding: Encoding, keys: list[int]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), dtype=np.uint8)  # a scene cut at every frame
    after = transcoded(encode_video(noise, 25), encoding)
    assert np.array(probe(io.BytesIO(after)).key_frame_seconds) == pytest.approx(np.array(keys) / 25)
    with av.open(io.BytesIO(after)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [packet.pts for packet in packets] == sorted(packet.pts or 0 for packet in packets)
    assert all(packet.pts == packet.dts for packet in packets)


def test_the_file_is_lean_and_an_index_is_enough_for_it() -> None:
    after = transcoded(encode_clip(ClipSpec(frames=30, audio=True)))
    assert after.index(b"moov") < after.index(b"mdat")
    with av.open(io.BytesIO(after)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert not container.metadata.get("encoder")
        assert "creation_time" not in container.metadata
    assert probe(io.BytesIO(after)).index is not None


@pytest.mark.parametrize("encoding", [H264, MJPEG, Encoding(b_frames=7, gop=30)], ids=["h264", "mjpeg", "b-frames"])
def test_the_same_input_gives_the_same_bytes(encoding: Encoding) -> None:
    source = encode_video(moving_gradient(40, 96, 128), 30)
    assert transcoded(source, encoding) == transcoded(source, encoding)


@pytest.mark.parametrize("codec", ["h264", "mjpeg"])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p10le"])
@pytest.mark.parametrize("levels", ["limited", "full"])
@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
def test_colours_survive(matrix: str, levels: str, pixel_format: str, codec: str) -> None:
    frames = moving_gradient(4, 128, 192)
    source = tagged_video(matrix, levels, pixel_format, frames)
    after = transcoded(source, Encoding(codec=codec, quality=2))
    seconds = np.arange(4) / 25
    before = pictures(source, seconds, 128, 192).astype(float)
    assert np.abs(before - frames).mean() < 2, "the clip itself is what it should be"
    difference = pictures(after, seconds, 128, 192) - before
    assert np.abs(difference).mean() < (1 if codec == "h264" else 2.5)
    assert np.abs(difference.mean((0, 1, 2))).max() < (0.3 if codec == "h264" else 1.5)


def test_output_is_tagged_with_its_colours() -> None:
    for matrix, levels, expected in (("bt2020", "limited", (9, 1)), ("bt709", "full", (1, 2))):
        source = tagged_video(matrix, levels, "yuv420p", moving_gradient(2, 64, 96))
        for encoding, tags in ((H264, expected), (MJPEG, (5, 2))):
            with av.open(io.BytesIO(transcoded(source, encoding))) as container:
                frame = next(container.decode(video=0))
                assert (frame.colorspace, frame.color_range) == tags


@pytest.mark.parametrize(("container", "codec", "pixel_format"), [("gif", "gif", "rgb8"), ("matroska", "ffv1", "bgr0")])
def test_rgb_and_palettes_become_yuv(container: str, codec: str, pixel_format: str) -> None:
    frames = moving_gradient(5, 64, 96)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = 64, 96, pixel_format
        for pixels in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        output.mux(stream.encode(None))
    source = buffer.getvalue()
    after = transcoded(source, Encoding(quality=2))
    seconds = seconds_of(source)
    assert seconds_of(after) == pytest.approx(seconds)
    difference = pictures(after, seconds).astype(float) - pictures(source, seconds)
    assert np.abs(difference.mean((0, 1, 2))).max() < 2
    with av.open(io.BytesIO(after)) as result:
        assert next(result.decode(video=0)).colorspace == 1


@pytest.mark.parametrize("codec", ["h264", "mjpeg"])
def test_quality_is_read(codec: str) -> None:
    source = encode_video(moving_gradient(10, 96, 128), 30, crf=5)
    sizes = [len(transcoded(source, Encoding(codec=codec, quality=quality))) for quality in (1, 10, 30)]
    assert sizes[0] > 1.2 * sizes[1] > 1.44 * sizes[2]


@pytest.mark.parametrize(
    ("fps", "kept"),
    [
        (0.0, range(60)),
        (25.0, range(60)),
        (60.0, range(60)),
        (5.0, range(0, 60, 5)),
        (10.0, [0, 2, 5, 7, 10, 12, 15, 17]),
        (0.1, [0]),
    ],
)
def test_fewer_frames_are_those_on_the_screen_at_its_ticks(fps: float, kept: range | list[int]) -> None:
    after = transcoded(encode_clip(ClipSpec(frames=60)), Encoding(fps=fps))
    seconds = seconds_of(after)[: len(kept)]
    assert seconds == pytest.approx(np.array(kept) * 0.04)
    assert [read_number(picture) for picture in pictures(after, seconds)] == list(kept)
    assert probe(io.BytesIO(after)).seconds == pytest.approx(2.4)


def test_a_frame_rate_equal_to_the_sources_loses_no_frame_to_rounded_times() -> None:
    ticks = [round(1000 * number / 30) for number in range(90)]  # 33, 67, 100 ms: as Matroska stores 30 a second
    source = with_times(ticks, Fraction(1, 1000), "matroska")
    assert len(seconds_of(transcoded(source, Encoding(fps=30)))) == 90
    assert seconds_of(transcoded(source, Encoding(fps=15)))[:45] == pytest.approx(np.array(ticks[::2]) / 1000)


@pytest.mark.parametrize("container", ["mp4", "matroska"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_video_that_breaks_off_is_no_whole_one(container: str, share: float) -> None:
    source = encode_video(moving_gradient(60, 96, 128), 25, container=container)
    with pytest.raises((Truncated, NoFrames)):
        transcoded(source[: int(share * len(source))])


def test_damage_in_the_middle_is_found() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 96, 3), dtype=np.uint8)
    source = bytearray(encode_video(noise, 30, container="matroska"))
    source[len(source) // 2 : len(source) // 2 + 40] = bytes(40)
    with pytest.raises(Truncated):
        transcoded(bytes(source))


def test_what_is_no_video_is_named() -> None:
    with pytest.raises(NotMedia):
        transcoded(b"text")


def test_it_ends_in_time() -> None:
    with pytest.raises(TooSlow):
        transcode(io.BytesIO(encode_clip(ClipSpec())), H264, Limits(seconds_per_sample=0))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"codec": "h246"}, "did you mean 'h264'"),
        ({"short_side": 255}, "even number"),
        ({"short_side": 0}, "even number"),
        ({"codec": "mjpeg", "gop": 8}, "about h264"),
        ({"codec": "mjpeg", "b_frames": 1}, "about h264"),
        ({"gop": 0}, "at least 1"),
        ({"b_frames": 17}, "between 0 and 16"),
        ({"quality": 52}, "between 0 and 51"),
        ({"codec": "mjpeg", "quality": 0}, "between 1 and 31"),
        ({"fps": -1.0}, "frames a second"),
        ({"fps": float("nan")}, "frames a second"),
    ],
)
def test_settings_that_cannot_work_are_named(settings: Mapping[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Encoding(**settings)


def test_real_videos_keep_their_times_and_colours(real_data: Path) -> None:
    paths = sorted((real_data / "videos" / "codec_variants").iterdir())[::3]
    seen = 0
    for path in paths:
        if path.stat().st_size > 150_000:
            continue
        source = path.read_bytes()
        try:
            seconds = seconds_of(source)
        except SampleError as error:
            with pytest.raises(type(error)):
                transcoded(source)
            continue
        if len(seconds) > 150:
            continue
        after = transcoded(source, Encoding(short_side=128, quality=10))
        assert seconds_of(after) == pytest.approx(seconds, abs=1.1e-6), path.name
        looks = seconds[:: max(1, len(seconds) // 3)]
        bias = (pictures(source, looks, 64, 64).astype(float) - pictures(after, looks, 64, 64)).mean((0, 1, 2))
        assert np.abs(bias).max() < 2, path.name
        seen += 1
    assert seen >= 10
