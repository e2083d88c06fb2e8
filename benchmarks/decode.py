"""CPU time of decoding: headrace against torchcodec, decord and PyAV, and against the floor of what a codec allows.

    python benchmarks/decode.py                     real clips and generated families, 15 to 20 minutes
    python benchmarks/decode.py --quick             a part of both, a few minutes
    python benchmarks/decode.py --videos my_clips   a folder of your own in place of the real clips

For each video and each choice of frames:

    full decode (what is true)  ->  every contender, its frames compared  ->  all in turn, `repeats` times

All on one core with one thread each, in processes of their own; CPU time, not time on the clock, so that what else
runs on the machine matters little. Files lie in the page cache. Real clips that a contender cannot open or gets wrong
are left out for all, and named; of a generated family only that contender is left out. `scores.py` says what is
judged. The last line printed is JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track

from benchmarks.clips import CODECS, Codec, Encoding, generated_video
from benchmarks.contender import ContenderError, ContenderProcess, measure_in_turn, one_core
from benchmarks.decode_report import Machine, chart, print_report, summary
from benchmarks.decoders import SIZE, Request
from benchmarks.reference import Timing, Truth, wrong_frames
from benchmarks.scores import FLOOR, OURS, UNINDEXED, Case
from headrace.data.media import media_kind
from headrace.errors import RunError, UserError, exit_with_sentence

ROOT = Path(__file__).resolve().parent.parent
REAL_FOLDERS = ("road", "general", "gps_video", "asl_gestures")
QUICK_EVERY = 4  # --quick takes every fourth real clip

CONTENDERS: dict[str, tuple[str, tuple[object, ...]]] = {
    OURS: ("benchmarks.decoders:Headrace", (True,)),
    UNINDEXED: ("benchmarks.decoders:Headrace", (False,)),
    "torchcodec approximate": ("benchmarks.decoders:TorchCodec", ("approximate",)),
    "torchcodec exact": ("benchmarks.decoders:TorchCodec", ("exact",)),
    "decord": ("benchmarks.decoders:Decord", ()),
    "PyAV": ("benchmarks.decoders:PlainPyAV", ()),
    FLOOR: ("benchmarks.floor:Floor", ()),
}


@dataclass(frozen=True)
class Options:
    """Measure the CPU time of decoding against other libraries, and against the floor of what a codec allows."""

    quick: bool = False
    """Every fourth real clip and one family of each kind."""

    real_only: bool = False
    """Only real clips."""

    families_only: bool = False
    """Only generated families; they are encoded once and kept in the cache."""

    repeats: int = 5
    """Measurements of each contender on each video, of quiet rounds; the median counts."""

    videos: str | None = None
    """Folder whose videos are measured as the real clips; if not given, those of $HEADRACE_DATA/videos."""

    chart: str = str(ROOT / "docs" / "decode.svg")
    """Where the chart is written."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise UserError(f"repeats must be at least 1, got {self.repeats}")
        if self.real_only and self.families_only:
            raise UserError("--real-only and --families-only leave nothing to measure: give one of them")


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video are wanted.

    sparse, frames=4        |----.----|----.----|----.----|----.----|    the middles of 4 equal parts
    contiguous, frames=4    |              ....                     |    4 in a row, in the middle
    """

    frames: int = 8
    contiguous: bool = False

    @property
    def name(self) -> str:
        """What tables call it, e.g. "8 sparse"."""
        return f"{self.frames} {'in a row' if self.contiguous else 'sparse'}"

    def of(self, count: int) -> list[int]:
        """Return the frames, ascending, of a video that has `count`; a short one repeats some."""
        if self.contiguous:
            first = max(0, (count - self.frames) // 2)
            return [min(first + number, count - 1) for number in range(self.frames)]
        return [int((number + 0.5) * count / self.frames) for number in range(self.frames)]


@dataclass(frozen=True)
class Family:
    """A generated video and which of its frames are wanted."""

    encoding: Encoding
    sampling: Sampling = Sampling()

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.encoding.name}, {self.sampling.name}"

    @property
    def long_gop(self) -> bool:
        """Whether long groups of pictures with B-frames are judged by it."""
        encoding = self.encoding
        return (
            encoding.codec == "h264"
            and encoding.gop == 250
            and bool(encoding.b_frames)
            and not self.sampling.contiguous
        )


def families(quick: bool) -> list[Family]:
    """Return the generated families: each level of each property, not each combination of all.

    Every codec with each GOP and number of B-frames it can have, 8 sparse frames; the numbers of frames, sparse and
    in a row, with the two common forms of H.264; frames in a row out of long groups of the other codecs.
    """
    if quick:
        chosen = [Encoding("h264", 2, 0), Encoding("h264", 30, 3), Encoding("h264", 250, 0), Encoding("h264", 250, 3)]
        chosen += [Encoding("hevc", 250, 3), Encoding("vp9", 250), Encoding("av1", 250)]
        long = Encoding("h264", 250, 3)
        return [*map(Family, chosen), Family(long, Sampling(32)), Family(long, Sampling(8, contiguous=True))]
    found = [Family(encoding) for codec in CODECS for encoding in _encodings(codec)]
    for gop in (30, 250):
        samplings = [Sampling(frames, contiguous) for contiguous in (False, True) for frames in (4, 8, 16, 32)]
        found += [Family(Encoding("h264", gop, 3), sampling) for sampling in samplings if sampling != Sampling()]
    in_a_row = Sampling(8, contiguous=True)
    return found + [Family(_encodings(codec)[-1], in_a_row) for codec in CODECS if codec != "h264"]


def _encodings(codec: Codec) -> list[Encoding]:
    if codec in ("vp9", "av1"):
        return [Encoding(codec, gop) for gop in (2, 30, 250)]
    # Between the two frames of a closed group of two there is no room for a B-frame.
    return [Encoding(codec, 2, 0), *(Encoding(codec, gop, b_frames) for gop in (30, 250) for b_frames in (0, 3, 8))]


def real_clips(options: Options) -> list[Path]:
    """Return the real clips.

    Raises:
        UserError: there are none.
    """
    if options.videos is not None:
        folders = [Path(options.videos)]
    else:
        data = Path(os.environ.get("HEADRACE_DATA", ROOT.parent / "shared" / "data"))
        folders = [data / "videos" / folder for folder in REAL_FOLDERS]
    files = sorted(path for folder in folders for path in folder.rglob("*") if media_kind(path.name) == "video")
    if not files:
        raise UserError(
            f"there are no videos in {', '.join(map(str, folders))}: name a folder of some with --videos, "
            "or measure generated ones with --families-only"
        )
    return files[::QUICK_EVERY] if options.quick else files


class Arena:
    """All contenders at once, each in its process, with the reference that knows the true frames."""

    def __init__(self, stack: ExitStack) -> None:
        self.missing: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self._reference = stack.enter_context(ContenderProcess("benchmarks.reference:Reference"))
        self._contenders: dict[str, ContenderProcess] = {}
        for name, (factory, arguments) in CONTENDERS.items():
            try:
                self._contenders[name] = stack.enter_context(ContenderProcess(factory, *arguments))
            except ContenderError as error:
                if name == OURS:
                    raise RunError(f"{name} itself cannot be measured: {error}") from error
                self.missing[name] = str(error)
            else:
                self.versions |= self._contenders[name].call("versions")

    def measure(self, path: Path, sampling: Sampling, repeats: int, family: Family | None = None) -> Case:
        """Return what decoding these frames of a video costs whom."""
        name = path.name if family is None else family.name
        case = Case(name, family is not None, family is not None and family.long_gop, {})
        try:
            request, truth = self._truth(path, sampling)
        except ContenderError as error:
            return replace(case, wrong={"full decode": str(error)})
        complaints = {name: self._complaint(name, request, truth) for name in self._contenders}
        wrong = {name: complaint for name, complaint in complaints.items() if complaint}
        if OURS in wrong or (family is None and wrong):
            return replace(case, wrong=wrong)
        able = {name: process for name, process in self._contenders.items() if name not in wrong}
        try:
            return replace(case, cpu_seconds=measure_in_turn(able, "decode", request, repeats), wrong=wrong)
        except ContenderError as error:
            return replace(case, wrong={"a contender, the second time": str(error)})

    def _truth(self, path: Path, sampling: Sampling) -> tuple[Request, Truth]:
        timing: Timing = self._reference.call("timing", str(path))
        request = _request(path, timing, sampling)
        truth: Truth = self._reference.call("truth", request)
        return replace(request, checksums=truth.checksums), truth

    def _complaint(self, name: str, request: Request, truth: Truth) -> str | None:
        """Return what is wrong with a contender's frames, None if nothing is. It also warms it up."""
        try:
            self._contenders[name].call("prepare", request)
            result = self._contenders[name].call("decode", request)
        except ContenderError as error:
            return str(error)
        if name == FLOOR:
            return None if result == len(set(request.pts)) else f"gives {result} of the wanted frames"
        if name in (OURS, UNINDEXED):
            return None if np.array_equal(result, truth.exact) else "its pixels are not those of a full decode"
        return wrong_frames(result, truth)


def _request(path: Path, timing: Timing, sampling: Sampling) -> Request:
    frames = sampling.of(len(timing.pts))
    ticks = np.array(timing.pts)
    # Nobody knows when the last frame ends; a tick after its start it is still shown.
    middles = (ticks + np.append(ticks[1:], ticks[-1] + 1)) / 2 - ticks[0]
    return Request(
        path=str(path),
        frames=tuple(frames),
        pts=tuple(timing.pts[frame] for frame in frames),
        seconds=tuple(float(middles[frame] * timing.tick_seconds) for frame in frames),
        first_seconds=timing.pts[0] * timing.tick_seconds,
        height=SIZE,
        width=SIZE,
    )


def measure_all(arena: Arena, clips: Sequence[Path], generated: Sequence[Family], repeats: int) -> Iterator[Case]:
    """Yield the cases, with a bar of progress on the terminal."""
    console = Console(stderr=True)
    for family in track(generated, "encoding, once", console=console, transient=True):
        generated_video(family.encoding)
    for path in track(clips, "real clips", console=console, transient=True):
        yield arena.measure(path, Sampling(), repeats)
    for family in track(generated, "generated families", console=console, transient=True):
        yield arena.measure(generated_video(family.encoding), family.sampling, repeats, family)


def main(arguments: Sequence[str]) -> int:
    """Measure and report; the exit code is 1 where headrace gave other frames than a full decode."""
    options = tyro.cli(Options, prog="decode.py", args=arguments)
    clips = [] if options.families_only else real_clips(options)
    generated = [] if options.real_only else families(options.quick)
    with one_core() as core, ExitStack() as stack:
        arena = Arena(stack)
        machine = Machine.this(core, arena.versions, arena.missing)
        cases = list(measure_all(arena, clips, generated, options.repeats))
    result = summary(cases, machine, options.repeats)
    print_report(cases, result)
    path = Path(options.chart)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(chart(cases, result), encoding="utf-8")
    print(f"chart: {path}")
    print(json.dumps(result))
    return 0 if result["frames_identical"] else 1


if __name__ == "__main__":
    exit_with_sentence(lambda: main(sys.argv[1:]))
