"""torchcodec and NVDEC behind the contract: the right frame or an error; without its libraries, one clear sentence.

`test_decode` runs every decoder of the table; here it is the decoder alone, without what it falls back to.
"""

from __future__ import annotations

import csv
import functools
import importlib
import io
import os
import time
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
import torch
from generated_clips import ClipSpec, encode_clip, read_number
from numpy.typing import NDArray

from headrace.data.decode.geometry import Orientation, centre_box
from headrace.data.decode.limits import Limits
from headrace.data.decode.nvdec import NvdecDecoder
from headrace.data.decode.probe import probe
from headrace.data.decode.pyav import PyAVDecoder
from headrace.data.decode.torchcodec import TorchCodecDecoder, scale, upright_centre_box
from headrace.data.failures import NotMedia, SampleError, TooLarge, TooSlow, UnsupportedCodec
from headrace.errors import UserError


def _why_not_here() -> str:
    try:
        TorchCodecDecoder()
    except UserError as error:
        return str(error)
    return ""


WHY_NOT = _why_not_here()
needs_torchcodec = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


def _x264(more: str) -> dict[str, str]:
    return {"x264-params": f"keyint=12:min-keyint=12:scenecut=0:b-adapt=0:{more}"}


_PYRAMID = _x264("bframes=5:b-pyramid=normal")
DECODED = {
    "b-pyramid": ClipSpec(options=_PYRAMID),
    "open groups": ClipSpec(options=_x264("bframes=5:open-gop=1:b-pyramid=normal")),
    "intra refresh": ClipSpec(options=_x264("bframes=0:intra-refresh=1")),
    "hevc open groups": ClipSpec(
        codec="libx265", options={"x265-params": "keyint=12:bframes=3:open-gop=1:log-level=none:pools=1"}
    ),
    "mkv that starts before 0": ClipSpec("matroska", times=[40 * n - 80 for n in range(60)], options=_PYRAMID),
    "fragmented mp4": ClipSpec(options=_PYRAMID, container_options={"movflags": "frag_keyframe+empty_moov"}),
    "variable frame rate": ClipSpec(times=[40 * n + 13 * (n % 3) + 300 * (n > 30) for n in range(60)]),
    "starts at 5 s": ClipSpec(times=[40 * n + 5000 for n in range(60)], options=_PYRAMID),
    "vp9 in webm": ClipSpec("webm", codec="libvpx-vp9", options={"g": "12", "deadline": "realtime", "cpu-used": "8"}),
    "4:4:4, odd size": ClipSpec(height=65, width=97, options=_PYRAMID),
    "rotated 90": ClipSpec(rotation=90, options=_PYRAMID),
    "rotated 180": ClipSpec(rotation=180, options=_PYRAMID),
    "rotated 270": ClipSpec(rotation=270, options=_PYRAMID),
    "one frame": ClipSpec(frames=1),
}
REFUSED = {
    "transport stream": ClipSpec("mpegts", options=_PYRAMID),
    "mpeg-4 part 2": ClipSpec(codec="mpeg4", options={"bf": "2", "g": "12"}),
    "mirrored": ClipSpec(mirrored=True),
    "mirrored and rotated 90": ClipSpec(mirrored=True, rotation=90),
}


@functools.cache
def clip(name: str) -> bytes:
    data: bytes = encode_clip({**DECODED, **REFUSED}[name])
    return data


@functools.cache
def decoder(kind: str = "torchcodec") -> TorchCodecDecoder:
    return TorchCodecDecoder() if kind == "torchcodec" else NvdecDecoder(device="cpu")


def decode_numbers(
    data: bytes, times: NDArray[np.float64], kind: str = "torchcodec"
) -> tuple[list[int], NDArray[np.float64]]:
    out = np.full((len(times), 64, 96, 3), 128, np.uint8)
    given = decoder(kind).decode(io.BytesIO(data), times, out)
    return [read_number(picture) for picture in out], given


@needs_torchcodec
@pytest.mark.parametrize(("name", "kind"), [(name, "torchcodec") for name in DECODED] + [("rotated 90", "nvdec")])
def test_every_frame_together_and_some_alone(name: str, kind: str) -> None:
    spec = DECODED[name]
    order = np.random.default_rng(0).permutation(spec.frames)
    order = np.concatenate([order, order[:5]])
    numbers, given = decode_numbers(clip(name), spec.seconds[order] + 0.002, kind)
    assert numbers == order.tolist()
    assert np.allclose(given, spec.seconds[order], atol=1.5e-3)
    for number in sorted({0, 11, 12, 37, 59} & set(range(spec.frames))):
        assert decode_numbers(clip(name), spec.seconds[[number]] + 0.002, kind)[0] == [number]


@needs_torchcodec
@pytest.mark.parametrize("name", REFUSED)
def test_what_it_would_get_wrong_it_refuses(name: str) -> None:
    with pytest.raises(UnsupportedCodec, match="torchcodec"):
        decode_numbers(clip(name), np.array([0.5]))


@needs_torchcodec
@pytest.mark.parametrize("container", ["mp4", "matroska", "flv"])
def test_short_groups_give_the_right_frame_or_none(container: str) -> None:
    """A seek by decoding times passes over the wanted key frame where groups are shorter than the reordering."""
    rng = np.random.default_rng(0)
    outcomes = []
    for gop in (1, 2, 5):
        options = {"x264-params": f"keyint={gop}:min-keyint=1:scenecut=0:b-adapt=0:bframes=4:open-gop={gop % 2}"}
        spec = ClipSpec(container, options=options, frames=30, times=np.cumsum(rng.integers(5, 90, 30)).tolist())
        data = encode_clip(spec)
        for _ in range(6):
            wanted = rng.integers(0, 30, 3)
            try:
                numbers, _ = decode_numbers(data, spec.seconds[wanted] + 0.001)
            except UnsupportedCodec:
                outcomes.append(False)
            else:
                assert numbers == wanted.tolist()
                outcomes.append(True)
    assert np.mean(outcomes) > (0.0 if container == "flv" else 0.9)


@needs_torchcodec
def test_a_key_frame_that_the_seek_passes_over_is_noticed() -> None:
    """Where the container calls every frame a key frame, torchcodec alone gives other pictures with the right times."""
    options = {"x265-params": "keyint=12:bframes=4:log-level=none:pools=1:frame-threads=1"}
    buffer = io.BytesIO()
    with (
        av.open(io.BytesIO(encode_clip(ClipSpec("matroska", codec="libx265", options=options)))) as source,
        av.open(buffer, "w", format="mp4") as output,
    ):
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream, packet.is_keyframe = stream, True
                output.mux(packet)
    for number in range(0, 60, 3):
        try:
            assert decode_numbers(buffer.getvalue(), np.array([0.04 * number + 0.002]))[0] == [number]
        except UnsupportedCodec:
            continue


@needs_torchcodec
def test_hidden_frames_do_not_exist() -> None:
    """An edit list hides numbers 0 and 1; behind a hidden key frame nothing is certain."""
    data = encode_clip(ClipSpec(times=[40 * n - 80 for n in range(60)], options=_PYRAMID))
    with pytest.raises(UnsupportedCodec, match="gives a frame at"):
        decode_numbers(data, np.array([0.1]))
    assert decode_numbers(data, np.array([0.502, 99.0]))[0] == [14, 59]


@needs_torchcodec
def test_an_index_of_another_file_gives_no_frame() -> None:
    index = probe(io.BytesIO(clip("starts at 5 s"))).index
    with pytest.raises(UnsupportedCodec, match="begin"):
        decoder().decode(io.BytesIO(clip("b-pyramid")), np.array([1.0]), np.zeros((1, 8, 8, 3), np.uint8), index)


@needs_torchcodec
@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 100), (101, 33), (128, 192)])
@pytest.mark.parametrize("name", ["rotated 90", "rotated 180", "4:4:4, odd size"])
def test_pictures_are_those_of_pyav(name: str, height: int, width: int) -> None:
    out, reference = np.zeros((2, 3, height, width, 3), np.uint8)
    times = np.array([0.3, 1.0, 2.0])
    decoder().decode(io.BytesIO(clip(name)), times, out)
    PyAVDecoder().decode(io.BytesIO(clip(name)), times, reference)
    assert np.abs(out.astype(int) - reference).mean() < 3


# Errors


@needs_torchcodec
@pytest.mark.parametrize("reads", [0, 1, 2, 7])
def test_an_error_of_the_storage_passes_through(reads: int) -> None:
    """Also while C++ reads, which no exception may cross."""

    class Broken(io.BytesIO):
        left = reads

        def read(self, size: int | None = -1) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise ConnectionError("the storage is away")
            return super().read(min(size or 0, 512))

    index = probe(io.BytesIO(clip("b-pyramid"))).index
    with pytest.raises(ConnectionError, match="away"):
        decoder().decode(Broken(clip("b-pyramid")), np.array([2.0]), np.zeros((1, 8, 8, 3), np.uint8), index)


@needs_torchcodec
def test_time_is_limited_while_the_file_is_read() -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            time.sleep(0.02)
            return super().read(size)

    index = probe(io.BytesIO(clip("b-pyramid"))).index
    slow = TorchCodecDecoder(Limits(seconds_per_sample=0.01))
    with pytest.raises(TooSlow, match=r"0\.01 s"):
        slow.decode(Slow(clip("b-pyramid")), np.array([2.0]), np.zeros((1, 8, 8, 3), np.uint8), index)


@needs_torchcodec
def test_pixels_are_limited() -> None:
    index = probe(io.BytesIO(clip("b-pyramid"))).index
    for given in (None, index):
        with pytest.raises(TooLarge, match="the limit is"):
            TorchCodecDecoder(Limits(pixels_per_frame=96 * 64 - 1)).decode(
                io.BytesIO(clip("b-pyramid")), np.zeros(1), np.zeros((1, 8, 8, 3), np.uint8), given
            )


@needs_torchcodec
def test_what_is_no_video_is_told_as_such() -> None:
    with pytest.raises(NotMedia):
        decode_numbers(b"no video", np.zeros(1))


@needs_torchcodec
def test_damage_never_escapes_the_typed_errors() -> None:
    """With the index of the whole file, as after a change of the file under a manifest."""
    whole = clip("b-pyramid")
    index = probe(io.BytesIO(whole)).index
    rng = np.random.default_rng(0)
    out = np.zeros((2, 8, 8, 3), np.uint8)
    refused = 0
    for attempt in range(40):
        data = bytearray(whole)
        if attempt % 2:
            data = data[: int(rng.integers(1, len(data)))]
        else:
            data[int(rng.integers(0, len(data)))] ^= 1 << int(rng.integers(8))
        try:
            decoder().decode(io.BytesIO(bytes(data)), rng.uniform(0, 2.4, 2), out, index)
        except SampleError:
            refused += 1
    assert refused > 10
    assert decode_numbers(whole, np.array([0.402]))[0] == [10]


# Geometry


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("flip_rows", [False, True])
@pytest.mark.parametrize("flip_columns", [False, True])
def test_the_box_is_turned_with_the_picture(transpose: bool, flip_rows: bool, flip_columns: bool) -> None:
    orientation = Orientation(transpose, flip_rows, flip_columns)
    stored = np.arange(50 * 72, dtype=np.uint16).reshape(50, 72, 1).view(np.uint8)
    upright = orientation.apply(stored)
    height, width = upright.shape[:2]
    inner = centre_box(50, 72, *orientation.size(30, 30), step=2)
    cut = orientation.apply(stored[inner.top : inner.top + inner.height, inner.left : inner.left + inner.width])
    box = upright_centre_box(orientation, height, width, (30, 30))
    assert np.array_equal(cut, upright[box.top : box.top + box.height, box.left : box.left + box.width])


def test_the_filter_in_floating_point_is_the_same() -> None:
    """On CUDA, pictures are scaled as floats; a picture of floats takes the same way here."""
    picture = torch.randint(0, 256, (3, 90, 120), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole, floats = scale(picture, 32, 48), scale(picture.float(), 32, 48)
    assert floats.dtype == torch.uint8
    assert (whole.int() - floats.int()).abs().max() <= 1


# Where it cannot work


def test_without_the_package_the_user_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    _let_import_fail(monkeypatch, ModuleNotFoundError("No module named 'torchcodec'", name="torchcodec"))
    with pytest.raises(UserError, match=r"pip install 'headrace\[torchcodec\]'"):
        TorchCodecDecoder()


def test_without_ffmpeg_the_user_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    _let_import_fail(monkeypatch, RuntimeError("Could not load libtorchcodec. Likely causes:\n 1. FFmpeg"))
    with pytest.raises(UserError, match="apt install ffmpeg") as caught:
        TorchCodecDecoder()
    assert "\n" not in str(caught.value)


def _let_import_fail(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(_: str) -> ModuleType:
        raise error

    monkeypatch.setattr(importlib, "import_module", fail)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_user_is_told() -> None:
    with pytest.raises(UserError, match="no CUDA device"):
        NvdecDecoder()


@needs_torchcodec
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_torchcodec_that_knows_no_gpu_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match="CUDA build of torchcodec") as caught:
        NvdecDecoder()
    assert "\n" not in str(caught.value)


@needs_torchcodec
def test_what_the_gpu_hands_to_the_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    nvdec, module = NvdecDecoder(device="cpu"), importlib.import_module("torchcodec.decoders")
    monkeypatch.setattr(module.VideoDecoder, "cpu_fallback", "Video not supported")
    with pytest.raises(UnsupportedCodec, match="Video not supported"):
        nvdec.decode(io.BytesIO(clip("b-pyramid")), np.zeros(1), np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="libnvcuvid"):
        NvdecDecoder(device="cpu")


@needs_torchcodec
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_on_a_gpu() -> None:
    try:
        nvdec = NvdecDecoder()
    except UserError as error:
        pytest.skip(str(error))
    order = np.random.default_rng(0).permutation(60)
    spec = ClipSpec(height=128, width=192, options=_PYRAMID)
    out = np.zeros((60, 64, 96, 3), np.uint8)
    nvdec.decode(io.BytesIO(encode_clip(spec)), spec.seconds[order] + 0.002, out)
    assert [read_number(picture) for picture in out] == order.tolist()


# Real files


DATA = Path(os.environ.get("HEADRACE_DATA", Path(__file__).parents[4] / "shared" / "data")) / "videos"


def _real_files(*folders: str) -> list[str]:
    if not DATA.is_dir():
        return []
    with (DATA / "manifest.csv").open() as rows:
        files = [row["file"].removeprefix("videos/") for row in csv.DictReader(rows)]
    return [file for file in files if file.split("/")[0] in folders]


def _check_against_pyav(file: str) -> None:
    data = (DATA / file).read_bytes()
    try:
        info = probe(io.BytesIO(data))
        times = np.random.default_rng(len(data)).uniform(0, info.seconds, 5)
        out, reference = np.zeros((2, 5, 72, 128, 3), np.uint8)
        given = decoder().decode(io.BytesIO(data), times, out, info.index)
    except SampleError as error:
        pytest.skip(f"refused: {error}")
    assert np.array_equal(given, PyAVDecoder().decode(io.BytesIO(data), times, reference, info.index))
    assert np.abs(out.astype(int) - reference).mean((1, 2, 3)).max() < 3


@needs_torchcodec
@pytest.mark.skipif(not DATA.is_dir(), reason="real clips are not here; HEADRACE_DATA names their folder")
@pytest.mark.parametrize("file", _real_files("road", "codec_variants")[::24])
def test_some_real_files_as_pyav_decodes_them(file: str) -> None:
    _check_against_pyav(file)


@needs_torchcodec
@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="real clips are not here; HEADRACE_DATA names their folder")
@pytest.mark.parametrize("file", _real_files("road", "general", "gps_video", "codec_variants"))
def test_real_files_as_pyav_decodes_them(file: str) -> None:
    _check_against_pyav(file)
