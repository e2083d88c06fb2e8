"""Memory of a decode process over many clips: it must not grow.

    python benchmarks/decode_memory.py --clips 10000

Real clips of all kinds in random order, the broken ones too, through one reader's decoder, as a decode actor does it.
The memory is what the system counts as the process's own (resident, without file pages). Writes a chart; the last
line printed is JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import tyro
from rich.console import Console
from rich.progress import track

from benchmarks.chart import Line, chart_svg
from headrace import keyed
from headrace.data.decode.index import VideoIndex
from headrace.data.decode.probe import probe
from headrace.data.decode.table import build_decoder
from headrace.data.failures import SampleError
from headrace.data.media import media_kind
from headrace.data.storage import ByteRange
from headrace.errors import UserError, exit_with_sentence

ROOT = Path(__file__).resolve().parent.parent
POINTS = 400


@dataclass(frozen=True)
class Options:
    """Decode many clips in one process and watch its memory."""

    clips: int = 10_000
    """Clips decoded, 4 frames each."""

    videos: str | None = None
    """Folder of videos; by default the real clips that HEADRACE_DATA names."""

    largest_megabytes: float = 1.5
    """Larger files are left out: they take long, and it is the number of clips that counts here."""

    chart: str = "docs/decode_memory.svg"
    """Where the chart is written."""


def main(arguments: list[str]) -> int:
    """Decode, watch, report."""
    options = tyro.cli(Options, prog="decode_memory.py", args=arguments)
    folder = Path(options.videos or Path(os.environ.get("HEADRACE_DATA", ROOT.parent / "shared" / "data")) / "videos")
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if media_kind(path.name) == "video" and path.stat().st_size <= options.largest_megabytes * 2**20
    ]
    if not paths:
        raise UserError(
            f"{folder} holds no video of at most {options.largest_megabytes} MB: name another with --videos"
        )
    samples = [(path, *_known(path)) for path in paths]
    decoder, process, console = build_decoder("auto"), psutil.Process(), Console(stderr=True)
    out = np.zeros((4, 128, 128, 3), np.uint8)
    outcomes: Counter[str] = Counter()
    points: list[tuple[float, float]] = []
    began = time.process_time()
    for number in track(range(options.clips), "decoding", console=console, transient=True):
        path, seconds, index = samples[int(keyed.integers(len(samples), "memory", number))]
        times = np.sort(keyed.uniform("times", number, np.arange(4))) * seconds
        try:
            with ByteRange(str(path), 0, path.stat().st_size).open(in_pieces=index is not None) as file:
                decoder.decode(file, times, out, None if index is None else VideoIndex.from_bytes(index))
            outcomes["frames"] += 1
        except SampleError as error:
            outcomes[error.reason] += 1
        if number % max(1, options.clips // POINTS) == 0 or number == options.clips - 1:
            memory = process.memory_info()
            points.append((number + 1, (memory.rss - memory.shared) / 2**20))
    result = _summary(options.clips, len(paths), points, outcomes, time.process_time() - began)
    chart = Path(options.chart)
    chart.parent.mkdir(parents=True, exist_ok=True)
    chart.write_text(_chart(result, points), encoding="utf-8")
    print(f"chart: {chart}")
    print(json.dumps(result))
    return 0


def _known(path: Path) -> tuple[float, bytes | None]:
    """Return what a manifest would know of a file: its length and its index; of a broken one nothing."""
    with path.open("rb") as file:
        try:
            info = probe(file)
        except SampleError:
            return 1.0, None
    return info.seconds, None if info.index is None else info.index.to_bytes()


def _summary(
    clips: int, files: int, points: list[tuple[float, float]], outcomes: Counter[str], cpu_seconds: float
) -> dict[str, object]:
    memory = np.array([value for _, value in points])
    second, last = memory[len(memory) // 4 : len(memory) // 2], memory[-len(memory) // 4 :]
    return {
        "clips": clips,
        "files": files,
        "outcomes": dict(outcomes),
        "peak_mib": round(float(memory.max()), 1),
        "second_quarter_mib": round(float(np.median(second)), 1),
        "last_quarter_mib": round(float(np.median(last)), 1),
        "growth_mib": round(float(np.median(last) - np.median(second)), 1),
        "cpu_ms_per_clip": round(1e3 * cpu_seconds / clips, 1),
    }


def _chart(result: dict[str, object], points: list[tuple[float, float]]) -> str:
    line = Line("Memory of the process", "MiB, resident, without file pages", points, "clips")
    note = (
        f"{result['files']} real files of all kinds, broken ones among them, in random order; median of the second "
        f"quarter {result['second_quarter_mib']} MiB, of the last {result['last_quarter_mib']} MiB"
    )
    return chart_svg(f"{result['clips']:,} clips through one decode process", note, [line])


if __name__ == "__main__":
    exit_with_sentence(lambda: main(sys.argv[1:]))
