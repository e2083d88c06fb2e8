"""Which file names are videos and images. The one list that indexing, packing and training share."""

from __future__ import annotations

from typing import Literal

VIDEO_EXTENSIONS = frozenset({
    "mp4", "mov", "m4v", "mkv", "webm", "avi", "ts", "mts", "m2ts", "mpg", "mpeg", "3gp", "flv", "wmv", "ogv",
    "h264", "hevc",
})  # fmt: skip
"""Lower case, without the dot."""

IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"})
"""Lower case, without the dot."""


def media_kind(name: str) -> Literal["video", "image"] | None:
    """Return what a file name, a path or a bare extension ("mp4") claims to be; None for anything else."""
    extension = name.rpartition("/")[2].rpartition(".")[2].lower()
    if extension in VIDEO_EXTENSIONS:
        return "video"
    return "image" if extension in IMAGE_EXTENSIONS else None
