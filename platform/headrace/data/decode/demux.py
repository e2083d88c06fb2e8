"""A video file taken apart, not decoded: its packets, when their frames are shown, where decoding may begin.

The whole file is demuxed once: 1 to 10 ms for a typical clip, against tens to hundreds to decode it. From then on
any group of pictures is decoded by handing its packets to the codec, with no seek in the file. Seeking is the part
of a container that goes wrong (an index that is missing or wrong, transport streams, time stamps before 0, edit
lists); packets in a list cannot be missed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import BinaryIO

import av
import numpy as np
from av.codec.context import CodecContext
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from headrace.data.decode.geometry import Orientation
from headrace.data.decode.index import CodecParameters, Timeline, VideoIndex
from headrace.data.decode.limits import Deadline, Limits
from headrace.data.decode.roles import ENTRY, SHOWN, Roles, roles_for
from headrace.data.decode.sniff import ends_early, is_encrypted, is_image, is_video, read_head
from headrace.data.failures import Encrypted, NoFrames, NotMedia, SampleError, TooLarge, Truncated, UnsupportedCodec

# Only containers: playlists (hls, concat, dash) would make FFmpeg open other files and addresses by name.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,ogg,asf,gif,ivf,mxf,dv,h264,hevc"
# Matroska's position is that of the block, whose data come after a header (and up to 255 sizes of other frames).
_BLOCK_HEADER_BYTES = 1024
_LEAST_PACKETS = 64  # held in any case: with them every codec gives its first frame


@dataclass
class PacketTable:
    """What is known of the packets in decoding order, from the first key frame on; one entry each.

    `role` is that of `roles`, without SHOWN where an edit list hides the frame. `offset` is -1 where the bytes
    were not looked for, or do not lie in the file as they came.
    """

    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    duration: list[int] = field(default_factory=list)
    role: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.pts)


@dataclass(frozen=True)
class DemuxedVideo:
    """The video stream of a file that stays open as long as this is in use.

    Attributes:
        container: name of the format, e.g. "mov,mp4,m4a,3gp,3g2,mj2".
        stream: its codec context is set to one thread and to refuse damaged data.
        table: what is known of its packets.
        damaged: the file ends before its container says, or cannot be read to its end.
        steady: as the packets tell, nothing that frames depend on changes on the way but other frames.
        deadline: when decoding must be done.
        head: the packets in decoding order, or, where they are too many to be held, those at the beginning.
    """

    container: str
    stream: VideoStream
    table: PacketTable
    damaged: bool
    steady: bool
    deadline: Deadline
    head: list[Packet[VideoStream]]

    @property
    def packets(self) -> list[Packet[VideoStream]]:
        """The packets in decoding order.

        Raises:
            TooLarge: there were more bytes of them than are held in memory.
        """
        if len(self.head) < len(self.table):
            raise TooLarge(f"{sum(self.table.size)} bytes of video that would have to be held in memory at once")
        return self.head

    @property
    def has_presentation_times(self) -> bool:
        """Whether the container stores when frames are shown. For AVI, FFmpeg can only guess it."""
        return self.container != "avi"

    @property
    def time_base(self) -> Fraction:
        """Seconds in one tick of the packets' time stamps."""
        return self.stream.time_base or Fraction(1, 1_000_000)

    @property
    def hides_frames(self) -> bool:
        """Whether there are packets whose frames are not shown: an edit list only has them decoded."""
        return any(not role & SHOWN for role in self.table.role)

    @cached_property
    def has_leading_pictures(self) -> bool:
        """Whether a frame is decoded after a key frame and shown before it, as in open groups of pictures."""
        latest_key = None
        for packet in self.packets:
            if packet.is_keyframe:
                latest_key = packet.pts
            elif latest_key is not None and packet.pts is not None and packet.pts < latest_key:
                return True
        return False

    @property
    def marks_only_entries(self) -> bool:
        """Whether decoding may begin at all the frames that the container calls key frames."""
        return all(
            role & ENTRY for packet, role in zip(self.packets, self.table.role, strict=True) if packet.is_keyframe
        )

    @cached_property
    def has_certain_times(self) -> bool:
        """Whether the packets alone tell which frames there are and when they are shown.

        Not so where time stamps are missing, guessed or repeated, where pictures precede the first key frame
        (whether they can be decoded is known only to the decoder), or where the codec's parameters change on
        the way.
        """
        times, decoded = self.table.pts, self.table.dts
        if not self.has_presentation_times and (self.stream.codec_context.has_b_frames or times != decoded):
            return False
        first = times[0]
        known = {time for time in times if time is not None}
        return self.steady and first is not None and len(known) == len(times) and first <= self._first_shown

    @cached_property
    def index(self) -> VideoIndex | None:
        """The index of the packets, with the pictures taken as upright; None where times are not certain."""
        if not self.has_certain_times:
            return None
        table = self.table
        return VideoIndex(
            codec=_parameters(self.stream.codec_context),
            time_base=self.time_base,
            orientation=Orientation(),
            pts=np.array(table.pts, np.int64),
            offset=np.array(table.offset, np.int64),
            size=np.array(table.size, np.int64),
            role=np.array(table.role, np.uint8),
            complete_seconds=self.complete_seconds(self._first_shown),
        )

    @property
    def _first_shown(self) -> int:
        """The earliest known time stamp of a frame that is shown."""
        stamps = zip(self.table.pts, self.table.role, strict=True)
        return min(time for time, role in stamps if role & SHOWN and time is not None)

    def last_frame_seconds(self, timeline: Timeline) -> float:
        """Return how long the last frame stays: as its packet says, else as long as frames do on average, else 0."""
        if self.index is not None and (duration := self.table.duration[int(timeline.ids[-1])]):
            return float(duration * self.time_base)
        seconds = timeline.seconds
        return float(seconds[-1] / (len(seconds) - 1)) if len(seconds) > 1 else 0.0

    def complete_seconds(self, origin: int) -> float:
        """Return up to when, after the tick `origin`, no frame is missing.

        Packets come in decoding order, so what a damaged file lost may have been shown before the last frame
        it kept. But nothing is shown before it is decoded: what was lost comes after the last decoding time.
        """
        if not self.damaged:
            return np.inf
        for tick, duration in zip(reversed(self.table.dts), reversed(self.table.duration), strict=True):
            if tick is not None:
                return float((tick + max(duration, 1) - 1 - origin) * self.time_base)
        return 0.0


@contextmanager
def open_video(
    file: BinaryIO, limits: Limits, deadline: Deadline | None = None, *, locate: bool = False
) -> Iterator[DemuxedVideo]:
    """Demux the first video stream (the default one, if a stream is marked so) of `file`.

    Args:
        file: seekable, at 0.
        limits: what is accepted.
        deadline: when it must be done; by default, the limits' from now.
        locate: find where each packet's bytes lie in the file.

    Raises:
        NotMedia, Truncated, NoFrames, Encrypted, UnsupportedCodec, TooLarge, TooSlow: as their docstrings say.
    """
    deadline = deadline or limits.start()
    size = limits.check_bytes(file)
    head = read_head(file)
    if size == 0:
        raise NotMedia("the file is empty")
    if is_image(head):
        raise NotMedia("a still picture, not a video")
    early = ends_early(file)
    watched = _Watched(file, deadline)
    try:
        container = av.open(watched, "r", options={"format_whitelist": _FORMATS}, metadata_errors="ignore")
    except av.error.FFmpegError as error:
        raise _why_not_opened(file, head, error) from error
    with container:
        stream = _video_stream(container)
        if getattr(stream, "codec_context", None) is None:  # which PyAV's own types do not admit
            if early:
                raise Truncated("the file ends before it says what its codec is")
            raise UnsupportedCodec("no decoder is built in for the codec of this video")
        limits.check_picture(stream.width, stream.height)
        _set_up(stream.codec_context, limits)
        reading = _Reading(stream, limits, file if locate else None)
        readable = reading.read(container)
        if not reading.table:
            raise Truncated("the file ends before its first frame") if early else NoFrames("no picture in it")
        if reading.encrypted:
            raise Encrypted("the pictures are encrypted")
        if not any(role & SHOWN for role in reading.table.role):
            raise NoFrames("its edit list shows no frame")
        yield DemuxedVideo(
            container.format.name,
            stream,
            reading.table,
            damaged=early or not readable,
            steady=reading.steady,
            deadline=deadline,
            head=reading.packets,
        )


def open_codec(parameters: CodecParameters, limits: Limits) -> VideoCodecContext:
    """Return a decoder that behaves as that of the file of which the parameters were read.

    Raises:
        av.error.FFmpegError, ValueError, OverflowError: FFmpeg here does not know them.
    """
    codec = CodecContext.create(parameters.name, "r")
    assert isinstance(codec, VideoCodecContext)
    codec.extradata = parameters.extradata or None
    codec.width, codec.height = parameters.width, parameters.height
    if parameters.pix_fmt is not None:
        codec.pix_fmt = parameters.pix_fmt
    codec.reorder_depth = parameters.reorder_depth
    codec.color_range, codec.colorspace = parameters.color_range, parameters.colorspace
    codec.color_primaries, codec.color_trc = parameters.color_primaries, parameters.color_trc
    _set_up(codec, limits)
    return codec


def decoding_error(file: BinaryIO, error: Exception) -> SampleError:
    """Return what it means that the codec refused data of a video that could be opened."""
    if is_encrypted(file):
        return Encrypted("the pictures are encrypted")
    if isinstance(error, (av.error.PatchWelcomeError, av.error.DecoderNotFoundError)):
        return UnsupportedCodec(f"the decoder lacks what this video needs: {_reason(error)}")
    return Truncated(f"the pictures cannot be decoded: {_reason(error)}")


class _Watched:
    """A file that is read no longer than a deadline: a container may lead FFmpeg in circles."""

    def __init__(self, file: BinaryIO, deadline: Deadline) -> None:
        self._file, self._deadline = file, deadline
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        self._deadline.check()
        return self._file.read(size)


class _Reading:
    """The packets of a stream as they are read; no further ones are held once they are more than the limits allow."""

    def __init__(self, stream: VideoStream, limits: Limits, file: BinaryIO | None) -> None:
        self.table = PacketTable()
        self.packets: list[Packet[VideoStream]] = []
        self.encrypted = False
        self._stream, self._limits, self._file = stream, limits, file
        self._bytes = 0
        codec = stream.codec_context
        self._roles: Roles = roles_for(
            codec.codec.canonical_name,
            codec.extradata or b"",
            only_key_frames=codec.codec.intra_only,
        )
        self._changes = False

    @property
    def steady(self) -> bool:
        return self._roles.steady and not self._changes

    def read(self, container: InputContainer) -> bool:
        """Read all packets, and say whether the file could be read to its end."""
        skipped: list[Packet[VideoStream]] = []  # before the first key frame; all there is where none is marked
        try:
            for packet in container.demux(self._stream):
                if not packet.size:
                    continue
                if not self.table and not packet.is_keyframe:
                    skipped.append(packet)
                    continue
                self._take(packet)
        except (av.error.FFmpegError, IndexError):  # the latter from PyAV, for a stream that appears on the way
            return False
        finally:
            if not self.table:
                for packet in skipped:
                    self._take(packet)
        return True

    def _take(self, packet: Packet[VideoStream]) -> None:
        table = self.table
        if not table:
            self.encrypted = packet.has_sidedata("encryption_info")
        if len(table) == self._limits.frames_per_sample:
            raise TooLarge(f"more than {self._limits.frames_per_sample} frames")
        data = bytes(packet)
        role = self._roles.of(data, packet.is_keyframe)
        table.pts.append(packet.pts)
        table.dts.append(packet.dts)
        table.duration.append(packet.duration or 0)
        table.role.append(role & ~SHOWN if packet.is_discard else role)
        table.size.append(packet.size)
        table.offset.append(-1 if self._file is None else _find(self._file, packet.pos, data))
        self._changes |= packet.is_corrupt or packet.has_sidedata("new_extradata")
        self._bytes += packet.size
        if self._bytes <= self._limits.bytes_in_memory or len(table) <= _LEAST_PACKETS:
            self.packets.append(packet)


def _find(file: BinaryIO, position: int | None, data: bytes) -> int:
    """Return where in the file the data of a packet lie that the container says begins at `position`, else -1."""
    if position is None or position < 0:
        return -1
    here = file.tell()
    try:
        file.seek(position)
        around = file.read(len(data))
        if around == data:
            return position
        at = (around + file.read(_BLOCK_HEADER_BYTES)).find(data)
        return position + at if at >= 0 else -1
    finally:
        file.seek(here)


def _set_up(codec: VideoCodecContext, limits: Limits) -> None:
    codec.thread_count = 1
    codec.thread_type = "NONE"
    # "explode": a frame with damaged data is an error, not a guess painted over the hole.
    codec.options = {
        "err_detect": "explode",
        "max_pixels": str(2 * limits.pixels_per_frame),  # counted with the padding of the codec's buffers
    }


def _parameters(codec: VideoCodecContext) -> CodecParameters:
    return CodecParameters(
        name=codec.codec.name,
        extradata=codec.extradata or b"",
        width=codec.width,
        height=codec.height,
        pix_fmt=codec.pix_fmt,
        reorder_depth=codec.reorder_depth,
        color_range=int(codec.color_range),
        colorspace=int(codec.colorspace),
        color_primaries=int(codec.color_primaries),
        color_trc=int(codec.color_trc),
    )


def _video_stream(container: InputContainer) -> VideoStream:
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no streams"
        raise NoFrames(f"no video stream in it, only: {kinds}")
    marked = [stream for stream in streams if stream.disposition & Disposition.default]
    return (marked or streams)[0]


def _why_not_opened(file: BinaryIO, head: bytes, error: av.error.FFmpegError) -> SampleError:
    if not is_video(head):
        return NotMedia("no video or image that any decoder here knows")
    if is_encrypted(file):
        return Encrypted("the pictures are encrypted")
    return Truncated(f"begins as a video but cannot be opened: {_reason(error)}")


def _reason(error: Exception) -> str:
    """Return what FFmpeg said of it, without the number and the name of a file that has none."""
    return str(getattr(error, "strerror", None) or error)
