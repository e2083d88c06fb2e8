"""Frames to the bytes of a video file, for demo data, tests and benchmarks."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

_ENCODER_OPTIONS: dict[str, dict[str, str]] = {
    "libx264": {
        "preset": "veryfast",
        "mbtree": "0",
    },  # with mbtree the same frames give other bytes now and then
    "libx265": {"preset": "veryfast", "x265-params": "log-level=error:pools=1:frame-threads=1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "6", "b": "0"},  # a bit rate of 0: only crf counts
    "libsvtav1": {"preset": "10"},
}


def encode_video(
    frames: NDArray[np.uint8],
    fps: float | Fraction,
    *,
    codec: str = "libx264",
    gop: int = 48,
    b_frames: int = 3,
    crf: int = 23,
    container: str = "mp4",
) -> bytes:
    """Return a video file that holds the frames, in 8-bit 4:2:0.

    One thread and no dates or version strings in the container: the same frames give the same bytes on the
    same FFmpeg.

    Args:
        frames: [T, H, W, 3] uint8 RGB, T at least 1, H and W even.
        fps: frames a second; 29.97 and its kin are best given as a Fraction.
        codec: FFmpeg's name of the encoder.
        gop: most frames from one key frame to the next.
        b_frames: most B-frames in a row; encoders without them ignore it.
        crf: constant rate factor, lower is better and larger; encoders without it ignore it.
        container: FFmpeg's name of the container format, e.g. "mp4", "matroska", "mpegts".

    Raises:
        ValueError: the frames' shape, dtype or size does not fit, or the encoder is not built in.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ValueError(f"frames must be uint8 [T, H, W, 3], T >= 1, got {frames.dtype} {frames.shape}")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"4:2:0 video needs an even height and width, got {height} x {width}")
    if codec not in av.codecs_available:
        raise ValueError(f"this build of PyAV has no encoder {codec!r}")

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, container_options={"fflags": "+bitexact"}) as output:
        stream = output.add_stream(
            codec,
            rate=Fraction(fps).limit_denominator(1001),
            options={"crf": str(crf), **_ENCODER_OPTIONS.get(codec, {})},
        )
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.gop_size, context.max_b_frames, context.thread_count = gop, b_frames, 1
        for pixels in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")))
        output.mux(stream.encode(None))
    return buffer.getvalue()
