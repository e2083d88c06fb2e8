"""Decoding with PyAV (FFmpeg in the process), in one thread: exactly the wanted frames, and nothing they do not need.

    times -> frames wanted -> runs of packets -> decoded frames -> pixels

**The rule.** A run begins at an entry, which is an H.264 IDR or HEVC IRAP picture, or the container's key frame
where the decoder itself confirms it, both decoded and shown no later than the wanted frame. It ends with the last
wanted frame. Of H.264 and HEVC, frames in between to which no other frame refers are left out, by their own
headers; so are, with codecs of only key frames, all but the wanted. Nothing else is ever left out.

Where that is not certain to give the frames of a decode from the start, the file is decoded from the start: packets
that do not tell the frames (no, repeated or guessed time stamps; AVI with B-frames), parameters that change on the
way, interlaced fields, damage, an entry that the decoder does not confirm.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO, TypeAlias

import av
import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from headrace.data.decode.demux import DemuxedVideo, decoding_error, open_codec, open_video
from headrace.data.decode.geometry import Orientation
from headrace.data.decode.index import Run, Timeline, VideoIndex
from headrace.data.decode.limits import Deadline, Limits
from headrace.data.decode.scale import Scaler, frame_orientation
from headrace.data.failures import NoFrames, Truncated
from headrace.data.ranges import read_ranges

Packets: TypeAlias = "Callable[[list[int]], Iterable[Packet[VideoStream]]]"
"""Gives the packets of these numbers, in this order."""


class PyAVDecoder:
    """Decodes any video that FFmpeg can. One instance serves one thread.

    Args:
        limits: what is accepted.
        sparse: leave out what no wanted frame refers to, and read only what is needed where there is an index.
            Else every frame from the entry to the wanted one is decoded: slower, and the same frames.
    """

    def __init__(self, limits: Limits | None = None, *, sparse: bool = True) -> None:
        self.name = "sparse" if sparse else "pyav"
        self._limits = limits or Limits()
        self._sparse = sparse
        self._scaler = Scaler(self._limits)

    def decode(
        self,
        file: BinaryIO,
        times_seconds: NDArray[np.float64],
        out: NDArray[np.uint8],
        index: VideoIndex | None = None,
    ) -> NDArray[np.float64]:
        """See `headrace.data.decode.Decoder.decode`."""
        deadline = self._limits.start()
        if index is not None and self._sparse:
            with suppress(Uncertain):
                codec = _codec_of(index, self._limits)
                packets = _packets_of_file(file, index)
                frames = self._frames(codec, index, packets, deadline)
                return self._fill(index.timeline, frames, times_seconds, out, index.orientation)
            file.seek(0)
        with open_video(file, self._limits, deadline) as video:
            try:
                return self._decode(video, times_seconds, out)
            except av.error.FFmpegError as error:
                raise decoding_error(file, error) from error

    def _decode(
        self, video: DemuxedVideo, times_seconds: NDArray[np.float64], out: NDArray[np.uint8]
    ) -> NDArray[np.float64]:
        index = video.index
        if index is not None:
            with suppress(Uncertain):
                codec, packets = video.stream.codec_context, _packets_in_memory(video)
                frames = self._frames(codec, index, packets, video.deadline, or_from_start=True)
                return self._fill(index.timeline, frames, times_seconds, out)
        return self._fill(decoded_timeline(video), lambda wanted: _counted_frames(video, wanted), times_seconds, out)

    def _frames(
        self,
        codec: VideoCodecContext,
        index: VideoIndex,
        packets: Packets,
        deadline: Deadline,
        *,
        or_from_start: bool = False,
    ) -> FramesOf:
        """Return what yields the wanted frames (packet numbers), decoding runs; if that fails, from the start.

        It raises Uncertain where some frame does not come even so; frames that were yielded before stay true.
        """

        def frames_of(wanted: Collection[int]) -> Iterator[tuple[int, VideoFrame]]:
            missing = set(wanted)
            try:
                for run in index.runs(wanted, discard=self._sparse):
                    for number, frame in _frames_of_run(codec, index, run, packets, deadline):
                        missing.remove(number)
                        yield number, frame
            except Uncertain:
                if not or_from_start:
                    raise
                yield from _frames_of_run(codec, index, index.from_start(missing), packets, deadline)

        return frames_of

    def _fill(
        self,
        timeline: Timeline,
        frames_of: FramesOf,
        times_seconds: NDArray[np.float64],
        out: NDArray[np.uint8],
        orientation: Orientation | None = None,
    ) -> NDArray[np.float64]:
        which = timeline.on_screen(times_seconds)
        slots: dict[int, list[int]] = defaultdict(list)
        for slot, wanted in enumerate(timeline.ids[which].tolist()):
            slots[wanted].append(slot)
        for found, frame in frames_of(slots.keys()):
            first, *others = slots[found]
            self._scaler.write(frame, out[first], orientation or frame_orientation(frame))
            if others:
                out[others] = out[first]
        return timeline.seconds[which]


FramesOf: TypeAlias = Callable[[Collection[int]], Iterator[tuple[int, VideoFrame]]]
"""Yields each wanted frame of a video once, in any order, with its number; raises rather than leave one out."""


class Uncertain(Exception):
    """Decoding only what seems to be needed may not give the frames of a decode from the start."""


def decoded_timeline(video: DemuxedVideo) -> Timeline:
    """Return the frames that a decode of the whole video gives; `ids` count them as they leave the decoder.

    Raises:
        NoFrames: not one packet gives a picture.
        av.error.FFmpegError: the first packets cannot be decoded.
    """
    frames: list[tuple[int | None, int | None]] = []
    damaged = False
    try:
        frames.extend((frame.pts, frame.dts) for frame in _decode_all(video, video.packets))
    except av.error.FFmpegError:
        if not frames:
            raise
        damaged = True
    if not frames:
        raise NoFrames("no packet of it gives a picture")
    ticks = _presentation_ticks(video, frames)
    # Without times of its own, frames are shown in the order in which they leave the decoder.
    order = np.argsort(ticks, kind="stable") if video.has_presentation_times else np.arange(len(ticks))
    ticks.sort()
    seconds = (ticks - ticks[0]) * float(video.time_base)
    complete = video.complete_seconds(int(ticks[0]))
    return Timeline(seconds, order, min(complete, float(seconds[-1])) if damaged else complete)


def first_frame(video: DemuxedVideo) -> VideoFrame:
    """Return the first frame that the decoder gives.

    Raises:
        NoFrames: there is none.
        av.error.FFmpegError: the packets before it cannot be decoded.
    """
    for frame in _decode_all(video, video.head):
        return frame
    raise NoFrames("no packet of it gives a picture")


def indexed_frame(file: BinaryIO, index: VideoIndex, packet: int, limits: Limits) -> VideoFrame:
    """Return the frame of a packet as an index alone gives it.

    Raises:
        Uncertain: it does not.
    """
    codec = _codec_of(index, limits)
    run = index.runs([packet])[0]
    for _, frame in _frames_of_run(codec, index, run, _packets_of_file(file, index), limits.start()):
        return frame
    raise Uncertain


def holds_entries(video: DemuxedVideo, wanted: Collection[int]) -> bool:
    """Whether decoding may begin where it would for these packets' frames, found out by decoding there."""
    index = video.index
    if index is None:
        return False
    codec, packets = video.stream.codec_context, _packets_in_memory(video)
    starts = {index.entry_of(packet) for packet in wanted} - {0}
    try:
        for start in starts:
            for _ in _frames_of_run(codec, index, Run([start], frozenset([start])), packets, video.deadline):
                pass
    except Uncertain:
        return False
    return True


def _frames_of_run(
    codec: VideoCodecContext, index: VideoIndex, run: Run, packets: Packets, deadline: Deadline
) -> Iterator[tuple[int, VideoFrame]]:
    numbers = {int(index.pts[number]): number for number in run.wanted}
    first_time = int(index.pts[run.packets[0]])
    began_well = run.packets[0] == 0
    try:
        for frame in _decode(codec, packets(run.packets), deadline):
            if frame.pts == first_time and not began_well:
                began_well = _is_key_frame(frame)
            number = None if frame.pts is None else numbers.pop(frame.pts, None)
            if number is None:
                continue
            # Of two fields in two packets, the second may not be among those of the run.
            if not began_well or frame.is_corrupt or frame.interlaced_frame:
                raise Uncertain
            yield number, frame
            if not numbers:
                return
    except av.error.FFmpegError as error:
        raise Uncertain from error
    raise Uncertain


def _is_key_frame(frame: VideoFrame) -> bool:
    """Whether the decoder itself says that decoding may begin at this frame.

    Containers also mark frames that merely look like key frames, or all of them.
    """
    return frame.key_frame and frame.pict_type == PictureType.I


def _counted_frames(video: DemuxedVideo, wanted: Collection[int]) -> Iterator[tuple[int, VideoFrame]]:
    """Yield the wanted frames, counted as they leave the decoder, decoding from the start."""
    last = max(wanted)
    for number, frame in enumerate(_decode_all(video, video.packets)):
        if number in wanted:
            if frame.is_corrupt:
                raise Truncated(f"frame {number} is damaged")
            yield number, frame
        if number == last:
            return
    raise Truncated(f"frame {last} cannot be decoded")


def _decode_all(video: DemuxedVideo, packets: list[Packet[VideoStream]]) -> Iterator[VideoFrame]:
    """Yield the frames of the packets, which are all or those at the beginning.

    A stream cut out of a longer one may begin with an open group of pictures. What is shown before its first
    key frame refers to pictures that were cut off; it is no damage that these frames do not come.
    """
    return _decode(video.stream.codec_context, packets, video.deadline, forgive_before=packets[0].pts)


def _decode(
    codec: VideoCodecContext,
    packets: Iterable[Packet[VideoStream]],
    deadline: Deadline,
    forgive_before: int | None = None,
) -> Iterator[VideoFrame]:
    """Yield the frames of these packets, all of them: at the end the decoder is drained, then reset.

    A packet that cannot be decoded is an error, unless it is shown before `forgive_before`.
    """
    try:
        for packet in packets:
            deadline.check()
            try:
                if packet.is_corrupt:
                    raise av.error.InvalidDataError(-1, "the container marks a packet as damaged")
                frames = codec.decode(packet)
            except av.error.FFmpegError:
                if packet.pts is None or forgive_before is None or packet.pts >= forgive_before:
                    raise
                continue
            yield from frames
        yield from codec.decode(None)
    finally:
        codec.flush_buffers()


def _codec_of(index: VideoIndex, limits: Limits) -> VideoCodecContext:
    try:
        return open_codec(index.codec, limits)
    except (av.error.FFmpegError, ValueError, OverflowError) as error:  # an index of another FFmpeg, or damaged
        raise Uncertain from error


def _packets_in_memory(video: DemuxedVideo) -> Packets:
    def packets(numbers: list[int]) -> Iterator[Packet[VideoStream]]:
        return (video.packets[number] for number in numbers)

    return packets


def _packets_of_file(file: BinaryIO, index: VideoIndex) -> Packets:
    """Return what reads packets from where the index says that they lie."""

    end = file.seek(0, os.SEEK_END)

    def packets(numbers: list[int]) -> Iterator[Packet[VideoStream]]:
        ranges = list(zip(index.offset[numbers].tolist(), index.size[numbers].tolist(), strict=True))
        if any(offset < 0 or size <= 0 or offset + size > end for offset, size in ranges):
            raise Uncertain  # it is the index of another file, or damaged
        pieces = read_ranges(file, ranges)
        for number, piece in zip(numbers, pieces, strict=True):
            packet: Packet[Any] = Packet(len(piece))
            packet.update(piece)  # Packet(piece) would lend FFmpeg memory without the padding that it reads
            packet.pts, packet.time_base = int(index.pts[number]), index.time_base
            yield packet

    return packets


def _presentation_ticks(video: DemuxedVideo, frames: list[tuple[int | None, int | None]]) -> NDArray[np.int64]:
    """Return when frames with these (pts, dts) are shown: by the first that all have, else evenly spaced."""
    for stamps in zip(*frames, strict=True):
        known = [stamp for stamp in stamps if stamp is not None]
        if len(known) == len(frames):
            return np.array(known, np.int64)
    rate = video.stream.average_rate or video.stream.guessed_rate or 25
    return np.round(np.arange(len(frames)) / float(rate * video.time_base)).astype(np.int64)
