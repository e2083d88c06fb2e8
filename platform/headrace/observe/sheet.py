"""The first samples of a run as the model sees them, on one picture: what a wrong crop or colour order looks like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SHEET_FILE = "batch.jpg"
CLIPS, FRAMES = 8, 4
"""Most clips on the picture, and most frames of each."""
WIDTH, CELL, GAP = 1080, 256, 6
"""Pixels: of the whole picture at most, of a frame's longer side at most, and between two clips."""


def write_sheet(run: Path, clips: NDArray[np.uint8]) -> Path:
    """Write the first of some clips to a run's folder, and return where.

    Args:
        run: the run's folder.
        clips: [B, T, H, W, 3], red, green and blue.
    """
    clips = clips[:CLIPS]
    clips = clips[:, np.linspace(0, clips.shape[1] - 1, min(clips.shape[1], FRAMES)).round().astype(int)]
    count, frames, height, width, _ = clips.shape
    shrink = min(1.0, CELL / max(height, width), WIDTH / (frames * width))
    size = max(1, int(width * shrink)), max(1, int(height * shrink))
    columns = min(count, max(1, (WIDTH + GAP) // (frames * size[0] + GAP)))
    rows = -(-count // columns)
    columns = -(-count // rows)  # as even as can be
    sheet = Image.new("RGB", (columns * (frames * size[0] + GAP) - GAP, rows * (size[1] + GAP) - GAP), (128, 128, 128))
    for number, clip in enumerate(clips):
        row, column = divmod(number, columns)
        for at, frame in enumerate(clip):
            image = Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)
            sheet.paste(image, (column * (frames * size[0] + GAP) + at * size[0], row * (size[1] + GAP)))
    path = run / SHEET_FILE
    sheet.save(path, quality=88)
    return path
