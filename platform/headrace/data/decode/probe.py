"""What a sample is, found out cheaply: an image's header; a video's packets and one decoded frame."""

from __future__ import annotations

from typing import BinaryIO

import av

from headrace.data.decode import MediaInfo
from headrace.data.decode.demux import DemuxedVideo, decoding_error, open_video
from headrace.data.decode.image import open_image
from headrace.data.decode.limits import Limits
from headrace.data.decode.pyav import decoded_timeline, first_frame, frame_orientation
from headrace.data.decode.sniff import is_image, read_head


def probe(file: BinaryIO, limits: Limits | None = None) -> MediaInfo:
    """Return what is known of a sample.

    An image's pixels are not decoded. Of a video all packets are read and one frame is decoded: only that
    tells its rotation, and that a decoder for it exists. Where packets do not tell the frames (no or guessed
    time stamps), every frame is decoded.

    Args:
        file: seekable, at 0; holds the whole sample.
        limits: how large a sample may be.

    Raises:
        SampleError: one of its subclasses.
    """
    limits = limits or Limits()
    return _probe_image(file, limits) if is_image(read_head(file)) else _probe_video(file, limits)


def _probe_image(file: BinaryIO, limits: Limits) -> MediaInfo:
    with open_image(file, limits) as (image, orientation):
        height, width = orientation.size(image.height, image.width)
        return MediaInfo("image", (image.format or "unknown").lower(), width, height, frames=1, seconds=0.0)


def _probe_video(file: BinaryIO, limits: Limits) -> MediaInfo:
    with open_video(file, limits) as video:
        try:
            frame = first_frame(video)
            timeline = video.timeline if video.has_certain_times else decoded_timeline(video)
        except av.error.FFmpegError as error:
            raise decoding_error(file, error) from error
        limits.check_picture(frame.width, frame.height)
        height, width = frame_orientation(frame).size(frame.height, frame.width)
        return MediaInfo(
            kind="video",
            codec=video.stream.codec_context.codec.canonical_name,
            width=width,
            height=height,
            frames=len(timeline.seconds),
            seconds=float(timeline.seconds[-1]) + video.last_frame_seconds,
            key_frame_seconds=_key_frame_seconds(video),
        )


def _key_frame_seconds(video: DemuxedVideo) -> tuple[float, ...]:
    """Return when the container's key frames are shown; only the first where times are uncertain."""
    if not video.has_certain_times:
        return (0.0,)
    keys = set(video.key_frames)
    timeline = video.timeline
    times = [float(seconds) for seconds, packet in zip(timeline.seconds, timeline.ids, strict=True) if packet in keys]
    return tuple(times) or (0.0,)
