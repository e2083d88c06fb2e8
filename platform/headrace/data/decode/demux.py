"""A video file taken apart, not decoded: its packets, when their frames are shown, where decoding may begin.

The whole file is demuxed once and its compressed packets are kept: 1 to 10 ms for a typical clip, against
tens to hundreds to decode it. From then on any group of pictures is decoded by handing its packets to the
codec, with no seek in the file. Seeking is the part of a container that goes wrong (an index that is missing
or wrong, transport streams, time stamps before 0, edit lists); packets in a list cannot be missed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray

from headrace.data.decode.limits import Limits
from headrace.data.decode.sniff import ends_early, is_encrypted, is_image, is_video, read_head
from headrace.data.failures import Encrypted, NoFrames, NotMedia, SampleError, Truncated, UnsupportedCodec

# Only containers: playlists (hls, concat, dash) would make FFmpeg open other files and addresses by name.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,ogg,asf,gif,ivf,mxf,dv"
# A time computed as index / fps may fall short of the frame's own time by the rounding of a float.
_ROUNDING_SECONDS = 1e-6


@dataclass(frozen=True)
class Timeline:
    """The frames of a video in presentation order.

    Attributes:
        seconds: [N] float64, ascending, the first at 0: when each frame appears.
        ids: [N] int64: which frame that is, as whoever made the timeline counts them.
        complete_seconds: up to here no frame is missing; infinite if the file is whole.
    """

    seconds: NDArray[np.float64]
    ids: NDArray[np.int64]
    complete_seconds: float = np.inf

    def on_screen(self, times_seconds: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the index [T] of the frame on the screen at each time [T].

        Raises:
            Truncated: the file breaks before one of the times.
        """
        latest = float(np.max(times_seconds, initial=0.0))
        if latest > self.complete_seconds + _ROUNDING_SECONDS:
            raise Truncated(f"the file breaks at {self.complete_seconds:.3f} s, before {latest:.3f} s")
        index = np.searchsorted(self.seconds, times_seconds + _ROUNDING_SECONDS, side="right") - 1
        return np.clip(index, 0, len(self.seconds) - 1)


@dataclass(frozen=True)
class DemuxedVideo:
    """The video stream of a file that stays open as long as this is in use.

    Attributes:
        container: name of the format, e.g. "mov,mp4,m4a,3gp,3g2,mj2".
        stream: its codec context is set to one thread and to refuse damaged data.
        packets: the stream's packets in decoding order, from the first key frame on.
        damaged: the file ends before its container says, or cannot be read to its end.
    """

    container: str
    stream: VideoStream
    packets: list[Packet[VideoStream]]
    damaged: bool

    @property
    def has_presentation_times(self) -> bool:
        """Whether the container stores when frames are shown. For AVI, FFmpeg can only guess it."""
        return self.container != "avi"

    @property
    def time_base(self) -> Fraction:
        """Seconds in one tick of the packets' time stamps."""
        return self.stream.time_base or Fraction(1, 1_000_000)

    @cached_property
    def shown(self) -> list[int]:
        """Packets, by index, whose frames are shown: all but those an edit list only decodes."""
        return [index for index, packet in enumerate(self.packets) if not packet.is_discard]

    @cached_property
    def key_frames(self) -> list[int]:
        """Packets, by index, that the container calls key frames and whose frames are shown."""
        return [index for index in self.shown if self.packets[index].is_keyframe]

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

    @cached_property
    def has_certain_times(self) -> bool:
        """Whether the packets alone tell which frames there are and when they are shown.

        Not so where time stamps are missing, guessed or repeated, where pictures precede the first key frame
        (whether they can be decoded is known only to the decoder), or where the codec's parameters change on
        the way.
        """
        if not self.has_presentation_times and (
            self.stream.codec_context.has_b_frames or any(packet.pts != packet.dts for packet in self.packets)
        ):
            return False
        first = self.packets[0].pts
        times = [self.packets[index].pts for index in self.shown]
        known = [time for time in times if time is not None]
        return (
            first is not None
            and len(set(known)) == len(times)
            and first <= min(known)
            and not any(packet.has_sidedata("new_extradata") for packet in self.packets)
        )

    @cached_property
    def timeline(self) -> Timeline:
        """The frames as the packets tell them; `ids` are indices into `packets`."""
        ids = np.array(self.shown, np.int64)
        ticks = np.array([self.packets[index].pts or 0 for index in self.shown], np.int64)
        order = np.argsort(ticks, kind="stable")
        ids, ticks = ids[order], ticks[order]
        seconds = (ticks - ticks[0]) * float(self.time_base)
        return Timeline(seconds, ids, self.complete_seconds(int(ticks[0])))

    @cached_property
    def last_frame_seconds(self) -> float:
        """How long the last frame stays: as its packet says, else as long as frames do on average, else 0."""
        if duration := self.packets[self.timeline.ids[-1]].duration:
            return float(duration * self.time_base)
        seconds = self.timeline.seconds
        return float(seconds[-1] / (len(seconds) - 1)) if len(seconds) > 1 else 0.0

    def complete_seconds(self, origin: int) -> float:
        """Return up to when no frame is missing.

        Packets come in decoding order, so what a damaged file lost may have been shown before the last frame
        it kept. But nothing is shown before it is decoded: what was lost comes after the last decoding time.
        """
        if not self.damaged:
            return np.inf
        for packet in reversed(self.packets):
            if packet.dts is not None:
                last_tick = packet.dts + max(packet.duration or 0, 1) - 1
                return float((last_tick - origin) * self.time_base)
        return 0.0


@contextmanager
def open_video(file: BinaryIO, limits: Limits) -> Iterator[DemuxedVideo]:
    """Demux the first video stream (the default one, if a stream is marked so) of `file`.

    Raises:
        NotMedia, Truncated, NoFrames, Encrypted, UnsupportedCodec, TooLarge: as their docstrings say.
    """
    size = limits.check_bytes(file)
    head = read_head(file)
    if size == 0:
        raise NotMedia("the file is empty")
    if is_image(head):
        raise NotMedia("a still picture, not a video")
    early = ends_early(file)
    try:
        container = av.open(file, "r", options={"format_whitelist": _FORMATS}, metadata_errors="ignore")
    except av.error.FFmpegError as error:
        raise _why_not_opened(file, head, error) from error
    with container:
        stream = _video_stream(container)
        if getattr(stream, "codec_context", None) is None:  # which PyAV's own types do not admit
            if early:
                raise Truncated("the file ends before it says what its codec is")
            raise UnsupportedCodec("no decoder is built in for the codec of this video")
        limits.check_picture(stream.width, stream.height)
        stream.codec_context.thread_count = 1
        stream.codec_context.thread_type = "NONE"
        # "explode": a frame with damaged data is an error, not a guess painted over the hole.
        stream.codec_context.options = {
            "err_detect": "explode",
            "max_pixels": str(2 * limits.pixels_per_frame),  # counted with the padding of the codec's buffers
        }
        packets, readable = _read_packets(container, stream)
        if not packets:
            raise Truncated("the file ends before its first frame") if early else NoFrames("no picture in it")
        if any(packet.has_sidedata("encryption_info") for packet in packets[:1]):
            raise Encrypted("the pictures are encrypted")
        video = DemuxedVideo(container.format.name, stream, packets, damaged=early or not readable)
        if not video.shown:
            raise NoFrames("its edit list shows no frame")
        yield video


def decoding_error(file: BinaryIO, error: Exception) -> SampleError:
    """Return what it means that the codec refused data of a video that could be opened."""
    if is_encrypted(file):
        return Encrypted("the pictures are encrypted")
    if isinstance(error, (av.error.PatchWelcomeError, av.error.DecoderNotFoundError)):
        return UnsupportedCodec(f"the decoder lacks what this video needs: {_reason(error)}")
    return Truncated(f"the pictures cannot be decoded: {_reason(error)}")


def _video_stream(container: InputContainer) -> VideoStream:
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no streams"
        raise NoFrames(f"no video stream in it, only: {kinds}")
    marked = [stream for stream in streams if stream.disposition & Disposition.default]
    return (marked or streams)[0]


def _read_packets(container: InputContainer, stream: VideoStream) -> tuple[list[Packet[VideoStream]], bool]:
    """Return the packets from the first key frame on, and whether the file could be read to its end."""
    packets: list[Packet[VideoStream]] = []
    readable = True
    try:
        packets.extend(packet for packet in container.demux(stream) if packet.size)
    except (av.error.FFmpegError, IndexError):  # the latter from PyAV, for a stream that appears on the way
        readable = False
    first_key = next((index for index, packet in enumerate(packets) if packet.is_keyframe), 0)
    return packets[first_key:], readable


def _why_not_opened(file: BinaryIO, head: bytes, error: av.error.FFmpegError) -> SampleError:
    if not is_video(head):
        return NotMedia("no video or image that any decoder here knows")
    if is_encrypted(file):
        return Encrypted("the pictures are encrypted")
    return Truncated(f"begins as a video but cannot be opened: {_reason(error)}")


def _reason(error: Exception) -> str:
    """Return what FFmpeg said of it, without the number and the name of a file that has none."""
    return str(getattr(error, "strerror", None) or error)
