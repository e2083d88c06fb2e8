"""The corpora of the stream benchmark, made once and kept in the user's cache.

    long-gop   one generated scene of 10 s, 720p H.264, a key frame every 250, 3 B-frames, as 64 samples
    real       real clips, H.264 and HEVC, that everyone who is measured decodes, and decodes to the wanted frames
    images     generated photographs, 512 x 384 JPEG of about 110 kB

    clips -> which frames, and what they show (`truth/`) -> files and shards

The frames are those that headrace takes in evaluation: shown at the middles of 8 equal parts of the clip. All are told
them in advance, by number and by time; nobody has to look for them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from benchmarks.clips import Encoding, generated_video, scene
from benchmarks.contender import ContenderError, ContenderProcess
from benchmarks.decoders import Request
from benchmarks.loaders.contract import SIZE, Corpus, Kind, Pixels, Wanted
from benchmarks.reference import Reference, Truth, wrong_frames
from headrace.data.decode.probe import probe
from headrace.data.decode.pyav import PyAVDecoder
from headrace.data.failures import SampleError
from headrace.data.sampling import SamplingConfig, frame_times
from headrace.data.shards import ShardWriter
from headrace.errors import RunError

FRAMES = 8
SAMPLES_PER_SHARD = 8  # or fewer: each of two workers wants shards of its own
_CODECS = ("h264", "hevc")
_SAME_LEVELS = 3.0  # of 255, for images: other filters and other inverse transforms
_MAKER = "5"  # what is made; another number makes all corpora anew


def long_gop(samples: int, frames: int = 300, height: int = 720, width: int = 1280) -> Corpus:
    """Return the generated clips with long groups of pictures. Nobody keeps frames, so one scene does for all."""
    clip = generated_video(Encoding("h264", 250, 3, frames=frames, height=height, width=width))
    return _made("long-gop", "video", [clip] * samples, checkers=())


def real(clips: Sequence[Path], checkers: Sequence[str]) -> Corpus:
    """Return the real clips.

    Args:
        clips: files.
        checkers: decoders, by `decoding.build`, that must give the wanted frames, or the clip is left out.

    Raises:
        RunError: none is left.
    """
    return _made("real", "video", list(clips), checkers)


def images(samples: int, height: int = 384, width: int = 512) -> Corpus:
    """Return the generated photographs."""
    folder = _cache() / f"photographs-{samples}x{height}x{width}-{_MAKER}"
    if not folder.is_dir():
        unfinished = folder.with_name(f".{os.getpid()}-{folder.name}")
        unfinished.mkdir(parents=True)
        for number, planes in enumerate(scene(samples, height, width)):
            pixels = av.VideoFrame.from_ndarray(planes, "yuv420p").to_ndarray(format="rgb24")
            Image.fromarray(pixels).save(unfinished / f"{number:06d}.jpg", quality=98)
        unfinished.rename(folder)
    return _made("images", "image", sorted(folder.iterdir()), checkers=())


def load_truth(corpus: Corpus, sample: int) -> Truth:
    """Return what is right for a sample: see `wrong`."""
    with np.load(corpus.folder / "truth" / f"{corpus.samples[sample].name}.npz") as arrays:
        return Truth(arrays["exact"], arrays["stretched"], ())


def wrong(corpus: Corpus, pixels: Pixels, sample: int, *, exact: bool) -> str | None:
    """Return what is wrong with a sample's pixels [T, H, W, 3], None if they are the wanted frames.

    Args:
        corpus: which.
        pixels: what a contender gave.
        sample: of which.
        exact: they must be a full decode's, bit for bit; else filters may differ.
    """
    truth = load_truth(corpus, sample)
    if pixels.shape != truth.exact.shape:
        return f"gives {list(pixels.shape)} for {list(truth.exact.shape)}"
    if exact and corpus.kind == "video":
        return None if np.array_equal(pixels, truth.exact) else "its pixels are not those of a full decode"
    if corpus.kind == "video":
        return wrong_frames(pixels, truth)
    levels = float(np.abs(pixels - truth.exact.astype(np.int16)).mean())
    return None if levels <= _SAME_LEVELS else f"another picture ({levels:.1f} levels from the right one)"


@dataclass(frozen=True)
class _Sample:
    """A file, what is wanted of it and what that shows."""

    path: Path
    wanted: Wanted
    truth: Truth


def _made(name: str, kind: Kind, paths: Sequence[Path], checkers: Sequence[str]) -> Corpus:
    """Return the corpus of these files, from the cache or made now."""
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    said = (_MAKER, name, list(checkers), files)
    folder = _cache() / f"stream-{name}-{hashlib.sha256(repr(said).encode()).hexdigest()[:10]}"
    if folder.is_dir():
        return Corpus.load(folder)
    unfinished = folder.with_name(f".{os.getpid()}-{folder.name}")
    left_out: dict[str, str] = {}
    known: dict[Path, _Sample] = {}
    for path in track(sorted(set(paths)), f"preparing {name}", console=Console(stderr=True), transient=True):
        try:
            known[path] = _image(path) if kind == "image" else _video(path)
            if complaint := _complaint(known[path], checkers):
                raise ValueError(complaint)
        except (SampleError, ValueError, OSError) as error:
            left_out[path.name] = str(error)
            known.pop(path, None)
    samples = [known[path] for path in paths if path in known]
    if not samples:
        raise RunError(f"none of the {len(paths)} files of {name} can be measured: {left_out}")
    return _write(unfinished, folder, kind, samples, left_out)


def _write(unfinished: Path, folder: Path, kind: Kind, samples: Sequence[_Sample], left_out: dict[str, str]) -> Corpus:
    shutil.rmtree(unfinished, ignore_errors=True)
    for part in ("files", "truth"):
        (unfinished / part).mkdir(parents=True)
    corpus = Corpus(unfinished, kind, tuple(sample.wanted for sample in samples), left_out)
    per_shard = min(SAMPLES_PER_SHARD, max(1, len(samples) // 2))
    with ShardWriter(unfinished / "shards", samples_per_shard=per_shard) as shards:
        for number, sample in enumerate(samples):
            shutil.copy(sample.path, corpus.file(number))
            shards.write(corpus.key(number), {corpus.extension: sample.path.read_bytes()})
    for wanted, truth in {sample.wanted: sample.truth for sample in samples}.items():
        np.savez(unfinished / "truth" / f"{wanted.name}.npz", exact=truth.exact, stretched=truth.stretched)
    corpus.save()
    unfinished.rename(folder)
    return Corpus.load(folder)


def _video(path: Path) -> _Sample:
    with path.open("rb") as file:
        info = probe(file)
    if info.codec not in _CODECS:
        raise ValueError(f"{info.codec} is neither H.264 nor HEVC")
    reference = Reference()
    timing = reference.timing(str(path))
    times = frame_times(SamplingConfig(frames=FRAMES), info.seconds, 0, jitter=False)
    shown = (np.array(timing.pts) - timing.pts[0]) * timing.tick_seconds
    frames = np.searchsorted(shown, times + 1e-6, side="right") - 1
    middles = (shown + np.append(shown[1:], shown[-1] + timing.tick_seconds)) / 2 + timing.pts[0] * timing.tick_seconds
    request = Request(
        path=str(path),
        frames=tuple(frames.tolist()),
        pts=tuple(timing.pts[frame] for frame in frames),
        seconds=tuple(times.tolist()),
        first_seconds=0.0,
        height=SIZE,
        width=SIZE,
    )
    truth = reference.truth(request)
    pixels = np.zeros_like(truth.exact)
    with path.open("rb") as file:
        PyAVDecoder().decode(file, times, pixels)
    if not np.array_equal(pixels, truth.exact):
        raise ValueError("headrace: its pixels are not those of a full decode")
    return _Sample(path, Wanted(path.name, request.frames, tuple(middles[frames].tolist())), truth)


def _image(path: Path) -> _Sample:
    with Image.open(path) as image:
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        scaled = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)
    exact = np.asarray(scaled)[None]
    return _Sample(path, Wanted(path.name, (0,), (0.0,)), Truth(exact, np.zeros((0,), np.uint8), ()))


def _complaint(sample: _Sample, checkers: Sequence[str]) -> str | None:
    """Return which of these decoders fails on a sample, and how. Each in a process of its own: decord may crash."""
    for name, problem in _answers(sample, checkers):
        if problem is not None:
            return f"{name}: {problem}"
    return None


def _answers(sample: _Sample, checkers: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    for name in checkers:
        try:
            with ContenderProcess("benchmarks.loaders.decoding:build", name) as decoder:
                yield name, wrong_frames(decoder.call("decode", str(sample.path), sample.wanted), sample.truth)
        except ContenderError as error:
            yield name, str(error)


def _cache() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "headrace" / "benchmarks"
