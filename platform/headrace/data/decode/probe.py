"""What a sample is, found out cheaply: an image's header; a video's packets and one decoded frame."""

from __future__ import annotations

from dataclasses import replace
from typing import BinaryIO

import av
import numpy as np
from av.video.frame import VideoFrame

from headrace.data.decode import MediaInfo
from headrace.data.decode.demux import DemuxedVideo, decoding_error, open_video
from headrace.data.decode.geometry import Orientation
from headrace.data.decode.image import open_image
from headrace.data.decode.index import Timeline, VideoIndex
from headrace.data.decode.limits import Limits
from headrace.data.decode.pyav import Uncertain, decoded_timeline, first_frame, indexed_frame
from headrace.data.decode.scale import Scaler, frame_orientation
from headrace.data.decode.sniff import is_image, read_head

# Of other codecs FFmpeg's decoder asks the container for more than `CodecParameters` holds.
_INDEXED_CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mjpeg"})


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
    with open_video(file, limits, locate=True) as video:
        try:
            frame = first_frame(video)
            timeline = video.index.timeline if video.index is not None else decoded_timeline(video)
        except av.error.FFmpegError as error:
            raise decoding_error(file, error) from error
        limits.check_picture(frame.width, frame.height)
        orientation = frame_orientation(frame)
        height, width = orientation.size(frame.height, frame.width)
        return MediaInfo(
            kind="video",
            codec=video.stream.codec_context.codec.canonical_name,
            width=width,
            height=height,
            frames=len(timeline.seconds),
            seconds=float(timeline.seconds[-1]) + video.last_frame_seconds(timeline),
            key_frame_seconds=_key_frame_seconds(video.index, timeline),
            index=_lasting_index(file, video, frame, orientation, limits),
        )


def _lasting_index(
    file: BinaryIO, video: DemuxedVideo, frame: VideoFrame, orientation: Orientation, limits: Limits
) -> VideoIndex | None:
    """Return the index if it can stand for the file: shown by decoding the first frame with it alone."""
    index = video.index
    if (
        index is None
        or video.damaged
        or frame.interlaced_frame
        or index.codec.name not in _INDEXED_CODECS
        or int(index.offset.min()) < 0
    ):
        return None
    index = replace(index, orientation=orientation)
    try:
        alone = indexed_frame(file, index, int(index.timeline.ids[0]), limits)
    except (Uncertain, av.error.FFmpegError):
        return None
    return index if _same_picture(alone, frame, limits) else None


def _same_picture(one: VideoFrame, other: VideoFrame, limits: Limits) -> bool:
    if (one.width, one.height, one.pts) != (other.width, other.height, other.pts):
        return False
    pixels = np.zeros((2, one.height, one.width, 3), np.uint8)
    for frame, out in zip((one, other), pixels, strict=True):
        Scaler(limits).write(frame, out, Orientation())
    return np.array_equal(pixels[0], pixels[1])


def _key_frame_seconds(index: VideoIndex | None, timeline: Timeline) -> tuple[float, ...]:
    """Return when the frames at which decoding may begin are shown; only the first where times are uncertain."""
    if index is None:
        return (0.0,)
    entries = set(index.entries.tolist())
    times = [float(at) for at, packet in zip(timeline.seconds, timeline.ids.tolist(), strict=True) if packet in entries]
    return tuple(times) or (0.0,)
