"""A decoded frame -> upright RGB pixels of the wanted size, written where they belong.

    frame (YUV, any depth)  --crop-->  centre box  --swscale-->  planes G, B, R  -->  out [H, W, 3]

The crop moves pointers and copies nothing. Planar RGB leaves swscale in 0.5 to 0.7 of the time of packed RGB with
the same pixels: for its full chroma interpolation to packed RGB swscale has no vector code.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, TypeAlias

import numpy as np
from av.error import FFmpegError
from av.filter import Graph
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from headrace.data.decode.geometry import Box, Orientation, centre_box, orientation_from_matrix
from headrace.data.decode.limits import Limits
from headrace.data.failures import UnsupportedCodec

# swscale's bilinear filter is widened by the scale when it shrinks a picture, so every source pixel counts
# and nothing aliases: the antialiased triangle filter of Pillow and of torchvision's antialias=True. With full
# chroma interpolation and accurate rounding it agrees with Pillow within 0.2 of 255 levels (1.4 to 2.4 without), so
# pictures and videos have the same statistics; without full chroma input, every second pixel of RGB is lost.
# Bit-exact: the same pixels on every processor, so that a run resumed elsewhere sees what it would have seen.
_FILTER = "bilinear+full_chroma_int+full_chroma_inp+accurate_rnd+bitexact"
_GRAPHS = 64  # one is some 100 KB

_Form: TypeAlias = tuple[int, int, str, int, int, int, int]
"""Width, height, pixel format, colour space and range of a frame; height and width that are wanted."""


class Scaler:
    """Scales decoded frames. One instance serves one thread."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._graphs: OrderedDict[_Form, Graph] = OrderedDict()

    def write(self, frame: VideoFrame, out: NDArray[np.uint8], orientation: Orientation) -> None:
        """Write the centre of `frame`, scaled and turned upright, to `out` [H, W, 3].

        Raises:
            TooLarge: the frame has more pixels than the limits accept.
            UnsupportedCodec: its pixels are of a form that FFmpeg cannot scale.
        """
        self._limits.check_picture(frame.width, frame.height)
        height, width = orientation.size(*out.shape[:2])
        form = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, height, width)
        try:
            graph = self._graph(form)
            graph.push(frame)
            scaled: Any = graph.pull()
        except FFmpegError as error:
            raise UnsupportedCodec(f"pictures of the form {frame.format.name} cannot be scaled: {error}") from error
        upright = orientation.undo(out)
        for plane, channel in zip(scaled.planes, (1, 2, 0), strict=True):
            lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
            upright[..., channel] = lines[:height, :width]

    def _graph(self, form: _Form) -> Graph:
        graph = self._graphs.pop(form, None) or _build_graph(form)
        self._graphs[form] = graph  # the last used is the last
        if len(self._graphs) > _GRAPHS:
            self._graphs.popitem(last=False)
        return graph


def frame_orientation(frame: VideoFrame) -> Orientation:
    """Return how a decoded frame becomes upright."""
    side_data: Any = frame.side_data
    matrix = side_data.get("DISPLAYMATRIX")
    return Orientation() if matrix is None else orientation_from_matrix(bytes(matrix))


def _build_graph(form: _Form) -> Graph:
    width, height, pixel_format, colorspace, color_range, target_height, target_width = form
    box: Box = centre_box(height, width, target_height, target_width, step=2)
    graph = Graph()
    graph.threads = 1
    source = graph.add(
        "buffer",
        f"video_size={width}x{height}:pix_fmt={pixel_format}:time_base=1/1000000:"
        f"colorspace={colorspace}:range={color_range}",
    )
    graph.link_nodes(
        source,
        graph.add("crop", f"{box.width}:{box.height}:{box.left}:{box.top}:exact=1"),
        graph.add("scale", f"{target_width}:{target_height}:flags={_FILTER}"),
        graph.add("format", "gbrp"),
        graph.add("buffersink"),
    )
    graph.configure()
    return graph
