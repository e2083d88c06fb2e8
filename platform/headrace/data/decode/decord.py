"""Decoding with decord 0.6, kept for comparison and for those who rely on it. Not for data you do not trust.

decord (https://github.com/dmlc/decord, last release 2021) carries an old FFmpeg. Of 160 real and odd files it
gave wrong frames without a word on 8: edit lists, open groups of pictures in HEVC, transport streams; it also
repeats frames that it cannot decode. So the file is demuxed here first, and only what decord is known to
decode exactly is given to it; of anything else this decoder says UnsupportedCodec. Its colours differ by a
few levels from those of PyAV on some videos.

What cannot be kept from it: on files with a few random bytes overwritten it crashed the process (one in some
forty), which no exception can catch.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import av
import numpy as np
from numpy.typing import NDArray

from headrace.data.decode.demux import DemuxedVideo, decoding_error, open_video
from headrace.data.decode.index import Timeline, VideoIndex
from headrace.data.decode.limits import Limits
from headrace.data.decode.pyav import first_frame, holds_entries
from headrace.data.decode.scale import frame_orientation
from headrace.data.failures import UnsupportedCodec

_CONTAINERS = ("mov,", "matroska,")
_SAME_TIME_SECONDS = 2e-3


class DecordDecoder:
    """Decodes whole, plainly timed videos in mp4, mov, mkv and webm. One instance serves one thread."""

    name = "decord"

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._decord = _import_decord()

    def decode(
        self,
        file: BinaryIO,
        times_seconds: NDArray[np.float64],
        out: NDArray[np.uint8],
        index: VideoIndex | None = None,
    ) -> NDArray[np.float64]:
        """See `headrace.data.decode.Decoder.decode`.

        Raises:
            UnsupportedCodec: also for what decord would open but decode wrongly.
        """
        with open_video(file, self._limits) as video:
            _refuse_what_decord_gets_wrong(video)
            try:
                frame = first_frame(video)
            except av.error.FFmpegError as error:
                raise decoding_error(file, error) from error
            orientation = frame_orientation(frame)
            if orientation.mirrored:
                raise UnsupportedCodec("decord does not mirror pictures")
            assert video.index is not None
            timeline = video.index.timeline
            which = timeline.on_screen(times_seconds)
            if not holds_entries(video, timeline.ids[which].tolist()):
                raise UnsupportedCodec("decord would begin where decoding may not begin")
        wanted, slots = np.unique(which, return_inverse=True)
        file.seek(0)
        target_height, target_width = out.shape[1:3]
        height, width = orientation.size(frame.height, frame.width)
        scale = max(target_height / height, target_width / width)
        height, width = max(target_height, round(height * scale)), max(target_width, round(width * scale))
        frames = self._frames(file, timeline, wanted, height, width)
        top, left = (height - target_height) // 2, (width - target_width) // 2  # decord cannot crop before it scales
        out[:] = frames[slots, top : top + target_height, left : left + target_width]
        return timeline.seconds[which]

    def _frames(
        self, file: BinaryIO, timeline: Timeline, wanted: NDArray[np.int64], height: int, width: int
    ) -> NDArray[np.uint8]:
        """Return the wanted frames [N, H, W, 3], upright and scaled."""
        decord = self._decord
        try:
            reader = decord.VideoReader(file, ctx=decord.cpu(0), width=width, height=height, num_threads=1)
            _check_same_frames(reader, timeline)
            frames: NDArray[np.uint8] = reader.get_batch(wanted).asnumpy()
        except (decord.DECORDError, AssertionError) as error:
            first_line = str(error).strip().partition("\n")[0]
            raise UnsupportedCodec(f"decord cannot decode this video: {first_line}") from error
        if frames.shape != (len(wanted), height, width, 3):
            raise UnsupportedCodec(f"decord gave frames of shape {frames.shape}")
        return frames


def _import_decord() -> Any:
    """Import decord on first use, and silence what its FFmpeg writes to stderr."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _refuse_what_decord_gets_wrong(video: DemuxedVideo) -> None:
    reasons = {
        f"the container {video.container}": not video.container.startswith(_CONTAINERS),
        "uncertain time stamps": not video.has_certain_times,
        "an edit list that hides frames": video.hides_frames,
        "open groups of pictures": video.has_leading_pictures,
        "key frames at which decoding may not begin": not video.marks_only_entries,
        "a damaged file": video.damaged,
    }
    if present := [reason for reason, holds in reasons.items() if holds]:
        raise UnsupportedCodec(f"decord does not decode this exactly: {', '.join(present)}")


def _check_same_frames(reader: Any, timeline: Timeline) -> None:
    """Refuse another video stream of the file, or one that decord's FFmpeg times differently."""
    if len(reader) != len(timeline.seconds):
        raise UnsupportedCodec(f"decord sees {len(reader)} frames of {len(timeline.seconds)}")
    starts = reader.get_frame_timestamp(range(len(reader)))[:, 0]
    if np.abs((starts - starts[0]) - timeline.seconds).max() > _SAME_TIME_SECONDS:
        raise UnsupportedCodec("decord times the frames differently")
