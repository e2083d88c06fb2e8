"""One video -> the same video in an encoding from which a few frames are cheap.

    file  ->  frames with their times  ->  those kept  ->  scaled and upright  ->  encoder  ->  mp4

Every frame keeps its own time, so a variable frame rate stays one; frames that an edit list hides are gone, rotation
is in the pixels, sound is left out. The index leads the file. The same input gives the same bytes on the same FFmpeg.
"""

from __future__ import annotations

import bisect
import heapq
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, ClassVar

import av
import numpy as np
from av.container import OutputContainer
from av.filter import Graph
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

from headrace.data.decode.demux import DemuxedVideo, decoding_error, open_video
from headrace.data.decode.geometry import Box, Orientation, centre_box
from headrace.data.decode.index import Timeline
from headrace.data.decode.limits import Limits
from headrace.data.decode.pyav import decoded_timeline
from headrace.data.decode.scale import frame_orientation
from headrace.data.failures import NoFrames, SampleError, Truncated
from headrace.errors import UserError, did_you_mean

EXTENSION = "mp4"

# An mp4 counts a frame's time in units of 1/timescale s, of which a frame may last 2**32 - 1: at this one, 71 minutes.
_FINEST_TIME_BASE = Fraction(1, 1_000_000)
_MOST_WAITING = 16  # decoded frames; no codec here reorders more
# Bicubic keeps the detail that a training decoder's own, antialiased scaling then needs.
_FILTER = "bicubic+full_chroma_int+accurate_rnd+bitexact"


class NotEncodable(SampleError):
    """The frames can be decoded, but not encoded again."""

    reason = "cannot be encoded"


@dataclass(frozen=True)
class _Codec:
    """FFmpeg's name of the encoder; which qualities it knows, and which is the default."""

    encoder: str
    qualities: range
    quality: int


CODECS = {"h264": _Codec("libx264", range(52), 20), "mjpeg": _Codec("mjpeg", range(1, 32), 5)}


@dataclass(frozen=True)
class Encoding:
    """How videos are encoded for training."""

    codec: str = "h264"
    """h264, or mjpeg: every frame by itself, at a third of the decoding and three times the size."""

    short_side: int = 256
    """Pixels of the shorter side, even; a smaller video is not enlarged."""

    gop: int | None = None
    """h264: frames from one key frame to the next, 16 by default; 1 makes every frame a key frame."""

    b_frames: int = 0
    """h264: B-frames in a row. headrace's own decoder skips those that are not wanted, others decode them too."""

    quality: int | None = None
    """Lower is better and larger. h264: constant rate factor 0 to 51, 20 by default. mjpeg: 1 to 31, 5 by default."""

    fps: float = 0
    """Most frames a second: of more, those on the screen at its ticks are kept; 0 keeps all."""

    DEFAULT_GOP: ClassVar[int] = 16

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise UserError(f"there is no codec {self.codec!r} to transcode to: {did_you_mean(self.codec, CODECS)}")
        if self.short_side < 16 or self.short_side % 2:
            raise UserError(f"--short-side is an even number of pixels, at least 16, got {self.short_side}")
        if self.codec != "h264" and (self.gop is not None or self.b_frames):
            raise UserError(f"--gop and --b-frames are about h264; {self.codec} has key frames only")
        if self.gop is not None and self.gop < 1:
            raise UserError(f"--gop counts the frames from one key frame to the next, at least 1, got {self.gop}")
        if not 0 <= self.b_frames <= 16:
            raise UserError(f"--b-frames is a number between 0 and 16, got {self.b_frames}")
        qualities = CODECS[self.codec].qualities
        if self.quality is not None and self.quality not in qualities:
            raise UserError(
                f"--quality of {self.codec} lies between {qualities[0]} and {qualities[-1]}, got {self.quality}"
            )
        if not (math.isfinite(self.fps) and self.fps >= 0):
            raise UserError(f"--fps is a number of frames a second, or 0 for all that there are, got {self.fps}")

    @property
    def encoder(self) -> str:
        """FFmpeg's name of the encoder."""
        return CODECS[self.codec].encoder

    @property
    def encoder_options(self) -> dict[str, str]:
        """What the encoder is told, in FFmpeg's names."""
        quality = CODECS[self.codec].quality if self.quality is None else self.quality
        if self.codec == "mjpeg":
            return {"qmin": str(quality), "qmax": str(quality)}
        gop = self.DEFAULT_GOP if self.gop is None else self.gop
        return {
            # Against medium: 2 % larger for half the time. Without deblocking and arithmetic coding: 11 % larger
            # at the same quality for 0.55 of the time to decode.
            "preset": "veryfast",
            "tune": "fastdecode",
            "crf": str(quality),
            "g": str(gop),
            "keyint_min": str(gop),
            "sc_threshold": "0",  # key frames at equal distances
            "bf": str(self.b_frames),
            "b_strategy": "0",
            "b-pyramid": "none",  # no frame refers to a B-frame, so each can be skipped
            "mbtree": "0",  # with it the same frames give other bytes now and then
        }


def transcode(file: BinaryIO, encoding: Encoding, limits: Limits | None = None) -> bytes:
    """Return the video as an mp4 file.

    Args:
        file: seekable, at 0; holds the whole video.
        encoding: how it is to be encoded.
        limits: how large it may be, and how long all this may take.

    Raises:
        SampleError: one of its subclasses. Damage anywhere is `Truncated`: the part that is sound would pass for
            the whole.
        OSError: the storage failed, or there is no room for a temporary file.
    """
    with open_video(file, limits or Limits()) as video:
        try:
            return _encode(video, encoding)
        except _DecodingError as error:
            raise decoding_error(file, error.cause) from error.cause
        except av.error.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            raise NotEncodable(f"its frames cannot be encoded: {error.strerror}") from error


def _encode(video: DemuxedVideo, encoding: Encoding) -> bytes:
    clock = _Clock(video)
    pictures = _Pictures(encoding)
    ticks: list[int] = []
    packets: list[Packet[VideoStream]] = []
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        path = Path(folder) / "video.mp4"  # a true file: to move the index to its front, FFmpeg opens it again
        options = {"fflags": "+bitexact", "movflags": "+faststart"}
        with av.open(str(path), "w", format="mp4", container_options=options) as output:
            stream: VideoStream | None = None
            for frame, tick in _kept(_in_order(_timed(video, clock), clock.ticks), clock, encoding.fps):
                picture = pictures.of(frame)
                picture.pts, picture.time_base = tick, clock.time_base
                if stream is None:
                    stream = _add_stream(output, encoding, picture, clock)
                ticks.append(tick)
                packets.extend(stream.encode(picture))
            if stream is None:
                raise NoFrames("no packet of it gives a picture")
            packets.extend(stream.encode(None))
            ends = dict(zip(ticks, [*ticks[1:], max(clock.end, ticks[-1] + 1)], strict=True))
            for packet in packets:
                assert packet.pts is not None
                packet.duration = ends[packet.pts] - packet.pts
                output.mux(packet)
        return path.read_bytes()


def _add_stream(output: OutputContainer, encoding: Encoding, picture: VideoFrame, clock: _Clock) -> VideoStream:
    stream = output.add_stream(encoding.encoder, rate=clock.frame_rate, options=encoding.encoder_options)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, picture.format.name
    codec = stream.codec_context
    codec.time_base, codec.thread_count = clock.time_base, 1
    codec.colorspace, codec.color_range = picture.colorspace, picture.color_range
    codec.color_primaries, codec.color_trc = picture.color_primaries, picture.color_trc
    return stream


class _DecodingError(Exception):
    """The decoder refused a packet; what the encoder refuses is another matter."""

    def __init__(self, cause: av.error.FFmpegError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _Clock:
    """Tells when frames are shown, in ticks from the first.

    Attributes:
        time_base: seconds in a tick.
        ticks: of all frames, ascending.
        end: when the last frame ends.
    """

    def __init__(self, video: DemuxedVideo) -> None:
        self.time_base = max(video.time_base, _FINEST_TIME_BASE)
        self._scale = video.time_base / self.time_base
        self._by_number: list[int] | None = None
        if video.index is not None:
            timeline = video.index.timeline
            all_pts = video.index.pts[timeline.ids].tolist()
            self._first_pts = int(all_pts[0])
            self.ticks = [self._from_pts(pts) for pts in all_pts]
        else:
            timeline = _decoded_timeline(video)
            ticks = np.round(timeline.seconds / float(self.time_base)).astype(np.int64)
            self.ticks = ticks.tolist()
            self._by_number = ticks[np.argsort(timeline.ids)].tolist()
        if timeline.complete_seconds < np.inf:
            raise Truncated(f"the video breaks at {timeline.complete_seconds:.3f} s")
        self.end = round((float(timeline.seconds[-1]) + video.last_frame_seconds(timeline)) / self.time_base)

    @property
    def frame_rate(self) -> Fraction:
        """Frames a second, on average."""
        return Fraction(len(self.ticks), max(self.end, 1)) / self.time_base

    def tick(self, number: int, frame: VideoFrame) -> int:
        """Return when the frame is shown that left the decoder as number `number`."""
        if self._by_number is not None:
            return self._by_number[number]
        assert frame.pts is not None, "where there is an index, all packets have times"
        return self._from_pts(frame.pts)

    def _from_pts(self, pts: int) -> int:
        return round((pts - self._first_pts) * self._scale)


def _decoded_timeline(video: DemuxedVideo) -> Timeline:
    try:
        return decoded_timeline(video)
    except av.error.FFmpegError as error:
        raise _DecodingError(error) from error


def _decoded(video: DemuxedVideo) -> Iterator[VideoFrame]:
    """Yield all frames in the order in which they leave the decoder."""
    packets, codec = video.packets, video.stream.codec_context
    first = packets[0].pts
    try:
        for packet in packets:
            video.deadline.check()
            try:
                if packet.is_corrupt:
                    raise av.error.InvalidDataError(-1, "the container marks a packet as damaged")
                frames = codec.decode(packet)
            except av.error.FFmpegError:
                # Shown before the first key frame of a stream that was cut out of a longer one: no damage.
                if packet.pts is None or first is None or packet.pts >= first:
                    raise
                continue
            yield from frames
        yield from codec.decode(None)
    except av.error.FFmpegError as error:
        raise _DecodingError(error) from error


def _timed(video: DemuxedVideo, clock: _Clock) -> Iterator[tuple[VideoFrame, int]]:
    """Yield all frames, each with its tick.

    Raises:
        Truncated: a frame is damaged.
    """
    for number, frame in enumerate(_decoded(video)):
        if frame.is_corrupt:
            raise Truncated(f"frame {number} is damaged")
        yield frame, clock.tick(number, frame)


def _in_order(timed: Iterable[tuple[VideoFrame, int]], ticks: Sequence[int]) -> Iterator[tuple[VideoFrame, int]]:
    """Yield the frames in the order of their ticks. Where a file was cut, some leave the decoder a little late.

    Args:
        timed: frames, each with its tick.
        ticks: of all frames that are expected, ascending; who comes early waits for those before it.
    """
    waiting: list[tuple[int, int, VideoFrame]] = []  # a heap
    due = 0
    for number, (frame, tick) in enumerate(timed):
        heapq.heappush(waiting, (tick, number, frame))
        while waiting and (due == len(ticks) or waiting[0][0] <= ticks[due] or len(waiting) > _MOST_WAITING):
            first, _, picture = heapq.heappop(waiting)
            due = bisect.bisect_right(ticks, first)
            yield picture, first
    for first, _, picture in sorted(waiting, key=lambda entry: entry[:2]):
        yield picture, first


def _kept(timed: Iterable[tuple[VideoFrame, int]], clock: _Clock, fps: float) -> Iterator[tuple[VideoFrame, int]]:
    """Yield the frames that are seen by someone who looks `fps` times a second, from time 0 on; at 0, all.

        frames    a----b----c----d----e----f-----
        looks     |           |           |
        kept      a         c         e                each at its own time

    Of two frames at the same time only the second is ever on the screen. Times in a file are rounded to ticks, so a
    look half a tick early still finds its frame.
    """
    period = 1 / (Fraction(fps) * clock.time_base) if fps else None
    half = Fraction(1, 2)

    def is_seen(start: int, end: int) -> bool:
        if period is None:
            return start < end
        return math.ceil((start - half) / period) * period < end - half

    held: tuple[VideoFrame, int] | None = None
    for frame, tick in timed:
        if held is not None and tick < held[1]:
            raise NotEncodable("its frames leave the decoder in another order than they are shown")
        if held is not None and is_seen(held[1], tick):
            yield held
        held = frame, tick
    if held is not None and is_seen(held[1], max(clock.end, held[1] + 1)):
        yield held


class _Pictures:
    """Turns decoded frames into what the encoder is given: upright, of one size and one kind of pixels.

    The first frame decides on both. Where the size changes on the way, later frames are cut to its proportions.
    """

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        self._size: tuple[int, int] | None = None
        self._colours: tuple[int, bool] | None = None
        self._form: object = None
        self._graph = Graph()

    def of(self, frame: VideoFrame) -> VideoFrame:
        """Return the picture; its time is for the caller to set.

        Raises:
            NotEncodable: it stores colours in another way than the pictures before it.
        """
        orientation = frame_orientation(frame)
        form = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, orientation)
        if form != self._form:
            if self._size is None:
                self._size = output_size(*orientation.size(frame.height, frame.width), self._encoding.short_side)
            self._graph = _build_graph(frame, orientation, self._size, self._encoding.codec)
            self._form = form
        self._graph.vpush(frame)
        picture = self._graph.vpull()
        colours = (picture.colorspace, picture.color_range == ColorRange.JPEG)
        if self._colours not in (None, colours):
            raise NotEncodable("its colour space changes on the way")
        self._colours = colours
        picture.pict_type = PictureType.NONE  # or the encoder would repeat the source's types
        return picture


def output_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return the even size of a picture whose shorter side is scaled to `short_side`, or left if it is not longer."""
    scale = short_side / min(height, width)
    if scale >= 1:
        return max(2, height - height % 2), max(2, width - width % 2)
    return 2 * round(scale * height / 2), 2 * round(scale * width / 2)


def _build_graph(frame: VideoFrame, orientation: Orientation, size: tuple[int, int], codec: str) -> Graph:
    height, width = orientation.size(*size)
    if frame.height - height in (0, 1) and frame.width - width in (0, 1):
        box = Box(0, 0, height, width)  # an odd row or column goes; nothing is scaled
    else:
        box = centre_box(frame.height, frame.width, height, width, step=2)
    colours, pixel_format = _colours(frame, codec)
    graph = Graph()
    graph.threads = 1
    source = graph.add(
        "buffer",
        f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1000000:"
        f"colorspace={frame.colorspace}:range={frame.color_range}",
    )
    filters = [
        ("crop", f"{box.width}:{box.height}:{box.left}:{box.top}:exact=1"),
        ("scale", f"{width}:{height}:flags={_FILTER}{colours}"),
        *([("transpose", "cclock_flip")] if orientation.transpose else []),
        *([("vflip", "")] if orientation.flip_rows else []),
        *([("hflip", "")] if orientation.flip_columns else []),
        ("sidedata", "delete"),  # rotation, captions, regions of interest
        ("format", pixel_format),
        ("buffersink", ""),
    ]
    graph.link_nodes(source, *(graph.add(name, arguments) for name, arguments in filters))
    graph.configure()
    return graph


def _colours(frame: VideoFrame, codec: str) -> tuple[str, str]:
    """Return what the scale filter is told of colours, and the pixel format.

    H.264 keeps the source's matrix and range, and says which: swscale rounds down when it converts them, which
    shifts red and blue by up to a level. A JPEG has one colour space by definition (JFIF): BT.601 in full range.
    """
    if codec == "mjpeg":
        return ":out_color_matrix=bt601:out_range=full", "yuvj420p"
    if frame.format.is_rgb or frame.format.has_palette:
        return ":out_color_matrix=bt709:out_range=limited", "yuv420p"
    return "", "yuvj420p" if frame.color_range == ColorRange.JPEG else "yuv420p"
