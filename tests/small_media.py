"""Small clips and images that many tests read."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from headrace.data.encode import encode_video


def ramp_video(index: int, frames: int = 24, height: int = 32, width: int = 48) -> bytes:
    """Return a small H.264 clip whose brightness tells which clip and frame it is."""
    levels = (40 + 8 * index + 4 * np.arange(frames)) % 256
    pixels = np.broadcast_to(levels[:, None, None, None], (frames, height, width, 3)).astype(np.uint8)
    return encode_video(np.ascontiguousarray(pixels), 12, gop=8)


def flat_image(level: int, size: int = 20, kind: str = "PNG") -> bytes:
    """Return an image of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), (level, level, level)).save(file, kind)
    return file.getvalue()
