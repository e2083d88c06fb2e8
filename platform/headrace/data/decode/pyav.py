"""Decoding with PyAV (FFmpeg in the process), in one thread: the reference among the decoders here.

    times -> frames wanted -> runs of packets -> decoded frames -> pixels

A run begins at a key frame and ends with the last packet that a wanted frame needs, so nothing behind it is
decoded. Frames are identified by their time stamps and are those of a decode of the whole file, bit for bit:
where that is not certain, the whole file is decoded.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

import av
import numpy as np
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from headrace.data.decode.demux import DemuxedVideo, Timeline, decoding_error, open_video
from headrace.data.decode.geometry import Orientation, cover_size, crop_centre, orientation_from_matrix
from headrace.data.decode.limits import Limits
from headrace.data.failures import NoFrames, Truncated

# swscale's bilinear filter is widened by the scale when it shrinks a picture, so every source pixel counts
# and nothing aliases: the antialiased triangle filter of Pillow and of torchvision's antialias=True. With
# full chroma interpolation and accurate rounding it agrees with Pillow within 0.2 of 255 levels (1.4 to 2.4
# without), so pictures and videos have the same statistics; the area filter is a fifth cheaper and blockier.
# Bit-exact: the same pixels on every processor, so that a run resumed elsewhere sees what it would have seen.
_BILINEAR, _FULL_CHROMA_INTERPOLATION, _ACCURATE_ROUNDING, _BIT_EXACT = 0x2, 0x2000, 0x40000, 0x80000
_FILTER = _BILINEAR | _FULL_CHROMA_INTERPOLATION | _ACCURATE_ROUNDING | _BIT_EXACT


class PyAVDecoder:
    """Decodes any video that FFmpeg can. One instance serves one thread."""

    name = "pyav"

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._scaler = FrameScaler(self._limits)

    def decode(self, file: BinaryIO, times_seconds: NDArray[np.float64], out: NDArray[np.uint8]) -> NDArray[np.float64]:
        """See `headrace.data.decode.Decoder.decode`."""
        with open_video(file, self._limits) as video:
            try:
                return self._decode(video, times_seconds, out)
            except av.error.FFmpegError as error:
                raise decoding_error(file, error) from error

    def _decode(
        self, video: DemuxedVideo, times_seconds: NDArray[np.float64], out: NDArray[np.uint8]
    ) -> NDArray[np.float64]:
        if video.has_certain_times:
            with suppress(Uncertain):
                return self._fill(video, video.timeline, frames_from_key_frames, times_seconds, out)
        return self._fill(video, decoded_timeline(video), frames_from_start, times_seconds, out)

    def _fill(
        self,
        video: DemuxedVideo,
        timeline: Timeline,
        frames_of: FramesOf,
        times_seconds: NDArray[np.float64],
        out: NDArray[np.uint8],
    ) -> NDArray[np.float64]:
        index = timeline.on_screen(times_seconds)
        slots: dict[int, list[int]] = defaultdict(list)
        for slot, wanted in enumerate(timeline.ids[index].tolist()):
            slots[wanted].append(slot)
        for found, frame in frames_of(video, slots.keys()):
            first, *others = slots[found]
            self._scaler.write(frame, out[first])
            out[others] = out[first]
        return timeline.seconds[index]


FramesOf: TypeAlias = Callable[[DemuxedVideo, Collection[int]], Iterator[tuple[int, VideoFrame]]]
"""Yields each wanted frame of a video once, in any order, with its id; raises rather than leave one out."""


class Uncertain(Exception):
    """Beginning at a key frame may not give the frames of a decode from the start."""


@dataclass(frozen=True)
class Run:
    """Packets start ... stop - 1, decoded in one go for the wanted among their frames (packet indices)."""

    start: int
    stop: int
    wanted: frozenset[int]


def plan_runs(video: DemuxedVideo, wanted: Collection[int]) -> list[Run]:
    """Return the fewest packets to decode for the wanted frames, as runs that do not overlap.

        packets in decoding order   K . . . w . w . . K . . . . . . K . w . .
        runs                        [-----------]                   [---]

    A run begins at the last key frame that is both decoded and shown no later than the wanted frame: a frame
    shown before its key frame may need pictures from before it (an open group of pictures).
    """
    runs: list[Run] = []
    for start, packet in sorted((_entry_point(video, index), index) for index in wanted):
        if runs and start < runs[-1].stop:
            last = runs.pop()
            runs.append(Run(last.start, max(last.stop, packet + 1), last.wanted | {packet}))
        else:
            runs.append(Run(start, packet + 1, frozenset({packet})))
    return runs


def frames_from_key_frames(video: DemuxedVideo, wanted: Collection[int]) -> Iterator[tuple[int, VideoFrame]]:
    """Yield the wanted frames (packet indices), decoding from key frames; from the start if that fails.

    Raises:
        Uncertain: some frame does not come even so. Frames that were yielded before stay true.
    """
    missing = set(wanted)
    try:
        for run in plan_runs(video, wanted):
            for index, frame in _frames_of_run(video, run):
                missing.remove(index)
                yield index, frame
    except Uncertain:
        yield from _frames_of_run(video, Run(0, max(missing) + 1, frozenset(missing)))


def decoded_timeline(video: DemuxedVideo) -> Timeline:
    """Return the frames that a decode of the whole video gives; `ids` count them as they leave the decoder.

    Raises:
        NoFrames: not one packet gives a picture.
        av.error.FFmpegError: the first packets cannot be decoded.
    """
    frames: list[tuple[int | None, int | None]] = []
    damaged = False
    try:
        frames.extend((frame.pts, frame.dts) for frame in _decode_from_start(video))
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


def frames_from_start(video: DemuxedVideo, wanted: Collection[int]) -> Iterator[tuple[int, VideoFrame]]:
    """Yield the wanted frames, counted as they leave the decoder, decoding from the start."""
    last = max(wanted)
    for index, frame in enumerate(_decode_from_start(video)):
        if index in wanted:
            if frame.is_corrupt:
                raise Truncated(f"frame {index} is damaged")
            yield index, frame
        if index == last:
            return
    raise Truncated(f"frame {last} cannot be decoded")


class FrameScaler:
    """Turns a decoded frame into upright RGB pixels of the wanted size."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._reformatter = VideoReformatter()  # keeps swscale's tables from one frame to the next

    def write(self, frame: VideoFrame, out: NDArray[np.uint8]) -> None:
        """Scale `frame` to cover, turn it upright and write its centre to `out` [H, W, 3]."""
        self._limits.check_picture(frame.width, frame.height)
        orientation = frame_orientation(frame)
        target_height, target_width = out.shape[:2]
        height, width = cover_size(frame.height, frame.width, *orientation.size(target_height, target_width))
        scaled = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=_FILTER, threads=1
        )
        pixels = np.asarray(scaled.to_ndarray(), np.uint8)
        out[:] = crop_centre(orientation.apply(pixels), target_height, target_width)


def frame_orientation(frame: VideoFrame) -> Orientation:
    """Return how a decoded frame becomes upright."""
    side_data: Any = frame.side_data
    matrix = side_data.get("DISPLAYMATRIX")
    return Orientation() if matrix is None else orientation_from_matrix(bytes(matrix))


def first_frame(video: DemuxedVideo) -> VideoFrame:
    """Return the first frame that the decoder gives.

    Raises:
        NoFrames: there is none.
        av.error.FFmpegError: the packets before it cannot be decoded.
    """
    for frame in _decode_from_start(video):
        return frame
    raise NoFrames("no packet of it gives a picture")


def holds_key_frames(video: DemuxedVideo, wanted: Collection[int]) -> bool:
    """Whether decoding may begin where `plan_runs` would for these frames, found out by decoding there."""
    starts = {run.start for run in plan_runs(video, wanted)} - {0}
    try:
        return all(
            any(_is_key_frame(frame) for frame in _decode_packets(video, range(start, start + 1))) for start in starts
        )
    except av.error.FFmpegError:
        return False


def _is_key_frame(frame: VideoFrame) -> bool:
    """Whether the decoder itself says that decoding may begin at this frame.

    Containers also mark frames that merely look like key frames, or all of them; and with periodic intra
    refresh a "key frame" is no whole picture.
    """
    return frame.key_frame and frame.pict_type == PictureType.I


def _entry_point(video: DemuxedVideo, packet: int) -> int:
    shown_at = video.packets[packet].pts
    for key in reversed(video.key_frames[: bisect_right(video.key_frames, packet)]):
        key_shown_at = video.packets[key].pts
        if shown_at is not None and key_shown_at is not None and key_shown_at <= shown_at:
            return key
    return 0


def _frames_of_run(video: DemuxedVideo, run: Run) -> Iterator[tuple[int, VideoFrame]]:
    by_time = {video.packets[index].pts: index for index in run.wanted}
    key_time = video.packets[run.start].pts
    began_well = run.start == 0
    try:
        for frame in _decode_packets(video, range(run.start, run.stop)):
            if frame.pts == key_time and not began_well:
                began_well = _is_key_frame(frame)
            if (index := by_time.pop(frame.pts, None)) is None:
                continue
            # Of two fields in two packets, the second may lie behind the end of the run.
            if not began_well or frame.is_corrupt or frame.interlaced_frame:
                raise Uncertain
            yield index, frame
    except av.error.FFmpegError as error:
        raise Uncertain from error
    if by_time:
        raise Uncertain


def _decode_from_start(video: DemuxedVideo) -> Iterator[VideoFrame]:
    return _decode_packets(video, range(len(video.packets)))


def _decode_packets(video: DemuxedVideo, indices: range) -> Iterator[VideoFrame]:
    """Yield the frames of these packets, all of them: at the end the decoder is drained, then reset.

    A stream cut out of a longer one may begin with an open group of pictures. What is shown before its first
    key frame refers to pictures that were cut off; it is no damage that these frames do not come.
    """
    codec = video.stream.codec_context
    first_key_time = video.packets[0].pts
    try:
        for index in indices:
            packet = video.packets[index]
            try:
                if packet.is_corrupt:
                    raise av.error.InvalidDataError(-1, "the container marks a packet as damaged")
                frames = codec.decode(packet)
            except av.error.FFmpegError:
                if packet.pts is None or first_key_time is None or packet.pts >= first_key_time:
                    raise
                continue
            yield from frames
        yield from codec.decode(None)
    finally:
        codec.flush_buffers()


def _presentation_ticks(video: DemuxedVideo, frames: list[tuple[int | None, int | None]]) -> NDArray[np.int64]:
    """Return when frames with these (pts, dts) are shown: by the first that all have, else evenly spaced."""
    for stamps in zip(*frames, strict=True):
        known = [stamp for stamp in stamps if stamp is not None]
        if len(known) == len(frames):
            return np.array(known, np.int64)
    rate = video.stream.average_rate or video.stream.guessed_rate or 25
    return np.round(np.arange(len(frames)) / float(rate * video.time_base)).astype(np.int64)
