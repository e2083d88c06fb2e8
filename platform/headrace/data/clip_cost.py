"""What decoding costs, measured: a few clips of a manifest through the reader that training uses."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.data.config import DataConfig
from headrace.data.decode_cost import compare
from headrace.data.echo import Echo
from headrace.data.failures import SampleError
from headrace.data.manifest import Manifest
from headrace.data.order import Order
from headrace.data.reader import BatchReader, Plan
from headrace.data.transcode import Encoding, transcode
from headrace.errors import RunError, UserError
from headrace.keyed import permute

ROUNDS = 2
LONGEST_TRANSCODED_SECONDS = 60.0


@dataclass(frozen=True)
class ClipCost:
    """What the clips of one sample cost.

    Attributes:
        row: of the manifest.
        kind: what was decoded: h264 640x480.
        cpu_seconds, wall_seconds: for each clip, storage included in the latter.
    """

    row: int
    kind: str
    cpu_seconds: float
    wall_seconds: float


def draw_rows(manifest: Manifest, count: int) -> NDArray[np.int64]:
    """Return so many rows of a manifest, or all it has, ascending; the same ones each time."""
    return np.sort(permute(np.arange(min(count, len(manifest))), len(manifest), "plan"))


def measure_clips(manifest: Manifest, data: DataConfig, rows: Sequence[int], rounds: int = ROUNDS) -> list[ClipCost]:
    """Decode these rows as training does, each at several moments, and return what that cost.

    Samples that cannot be decoded are left out.

    Raises:
        UserError: none of them can be decoded.
        OSError: the storage failed.
    """
    drawn = manifest.rows(np.asarray(rows))
    echo = Echo(repeats=data.repeats, apart=0, lanes=1)
    reader = BatchReader(drawn, Plan(Order(len(drawn), 0, "none"), data, micro_batch=1, echo=echo))
    costs: list[ClipCost] = []
    for place, row in enumerate(rows):
        # A round earlier than those that count: libraries load, files come into the page cache.
        numbers = [data.repeats * (place + len(rows) * turn) for turn in range(rounds + 1)]
        try:
            strips = [reader.read_strip(number) for number in numbers][1:]
        except RunError:  # the whole reserve failed as well
            continue
        if any(strip.failures for strip in strips):
            continue
        clips = rounds * data.repeats
        cpu = sum(strip.cost.cpu_seconds for strip in strips) / clips
        wall = sum(strip.cost.wall_seconds for strip in strips) / clips
        costs.append(ClipCost(row, kind_of(manifest, row), cpu, wall))
    if not costs:
        raise UserError(f"none of {len(rows)} samples of {manifest.source!r} can be decoded: run jobs/index.py on it")
    return costs


def kind_of(manifest: Manifest, row: int) -> str:
    """Return what a sample is, as costs are grouped: h264 640x480, or images."""
    facts = manifest.table.select(["kind", "codec", "width", "height"]).slice(row, 1).to_pylist()[0]
    if facts["kind"] == "image":
        return "images"
    return f"{facts['codec']} {facts['width']}x{facts['height']}"


def transcoding_ratio(manifest: Manifest, data: DataConfig, rows: Sequence[int]) -> tuple[float, int]:
    """Return what a clip costs once `jobs/transcode.py` encoded it anew, as a share of now, and from how many clips.

    Images, and videos of more than LONGEST_TRANSCODED_SECONDS, are passed over: (NaN, 0) if there is nothing else.
    """
    before = after = 0.0
    count = 0
    for row in rows:
        if not 0 < manifest.seconds[row] <= LONGEST_TRANSCODED_SECONDS:
            continue
        try:
            with manifest.bytes_of(row).open() as file:
                encoded = io.BytesIO(transcode(file, Encoding()))
                file.seek(0)
                found = compare(file, encoded, frames=data.sampling.frames, size=max(data.height, data.width))
        except SampleError:
            continue
        before, after, count = before + found.cpu_seconds_before, after + found.cpu_seconds_after, count + 1
    return (after / before, count) if count else (float("nan"), 0)
