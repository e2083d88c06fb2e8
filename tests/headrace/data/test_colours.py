"""Colours: whatever the matrix, the range, the depth and the subsampling, the pixels come out as they went in."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from headrace.data.decode.probe import probe
from headrace.data.decode.pyav import PyAVDecoder

COLOURS = np.array([[220, 30, 40], [30, 200, 60], [20, 60, 230], [128, 128, 128], [250, 240, 10], [0, 0, 0]], np.uint8)
BLOCK = 32
_BT709, _BT601 = 1, 6  # as codecs number them (ITU-T H.273)


def picture() -> NDArray[np.uint8]:
    """Return blocks of colour beside each other [32, 192, 3]."""
    return np.repeat(np.repeat(COLOURS[None], BLOCK, axis=0), BLOCK, axis=1)


def video(codec: str, pix_fmt: str, matrix: Colorspace, colour_range: ColorRange) -> bytes:
    """Return a clip of the picture, tagged with the matrix and the range that it was made with."""
    out = io.BytesIO()
    options = {"x264-params": "qp=1"} if codec == "libx264" else {"x265-params": "qp=1:log-level=none:pools=1"}
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = *picture().shape[:2], pix_fmt
        stream.codec_context.colorspace = _BT709 if matrix == Colorspace.ITU709 else _BT601
        stream.codec_context.color_range = colour_range
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(picture()).reformat(
                format=pix_fmt,
                dst_colorspace=matrix,
                dst_color_range=colour_range,
                interpolation="BICUBIC",
            )
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


@pytest.mark.parametrize("colour_range", [ColorRange.MPEG, ColorRange.JPEG], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", [Colorspace.ITU709, Colorspace.ITU601], ids=["bt709", "bt601"])
@pytest.mark.parametrize(
    ("codec", "pix_fmt"),
    [("libx264", "yuv420p"), ("libx264", "yuv444p"), ("libx264", "yuv422p10le"), ("libx265", "yuv420p10le")],
)
def test_colours_come_out_as_they_went_in(
    codec: str, pix_fmt: str, matrix: Colorspace, colour_range: ColorRange
) -> None:
    data = video(codec, pix_fmt, matrix, colour_range)
    index = probe(io.BytesIO(data)).index
    assert index is not None
    for known in (index, None):
        out = np.zeros((1, *picture().shape), np.uint8)
        PyAVDecoder().decode(io.BytesIO(data), np.array([0.05]), out, known)
        middles = out[0, BLOCK // 2, BLOCK // 2 :: BLOCK].astype(int)
        assert np.abs(middles - COLOURS).max() <= 4, middles
