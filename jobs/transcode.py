"""Encode the videos of a source anew, so that a few frames of them are cheap: pay once, not in every epoch.

    python jobs/transcode.py my_videos shards
    python jobs/transcode.py s3://bucket/shards shards --short-side 320 --gop 8
    python jobs/transcode.py my_videos trial --limit 50

Keys, labels, metadata and the times of the frames stay as they are, and so do images. What cannot be decoded is left
out and named. At the end it says what was gained: size, and CPU time to decode, before and after.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np
import tyro

from data_pipelines.transcode import Outcome, Work, needs_ray, transcode
from headrace.data import storage
from headrace.data.decode.limits import Limits
from headrace.data.manifest import Manifest
from headrace.data.members import Item, plan_items
from headrace.data.packing import check_output
from headrace.data.shards import place_of
from headrace.data.transcode import Encoding
from headrace.data.transcode_sample import Measure
from headrace.errors import UserError, exit_with_sentence
from headrace.keyed import permute
from headrace.observe.figures import figure, milliseconds, one_line, plural, size
from jobs.sources import Bar, cores, open_source

NAMED_ERRORS = 20


@dataclass(frozen=True)
class Options:
    """Encode the videos of a source anew, so that a few frames of them are cheap."""

    source: Annotated[str, tyro.conf.Positional]
    """Folder of WebDataset tars, of videos or of images, a zip, or one such file; local or s3://."""

    output: Annotated[str, tyro.conf.Positional]
    """Folder for the shards, shard-000000.tar and so on; local or s3://."""

    encoding: Annotated[Encoding, tyro.conf.arg(name="")] = field(default_factory=Encoding)

    samples_per_shard: int = 1000
    """Most samples in a shard."""

    megabytes_per_shard: int = 512
    """A shard that has reached this size takes no further sample."""

    limit: int | None = None
    """Only so many samples, drawn at random: a trial."""

    minutes_per_sample: float = 60
    """A sample that takes longer is left out."""

    workers: int | None = None
    """Ray tasks at a time; 0 transcodes in this process. By default Ray starts if there is much to do."""

    overwrite: bool = False
    """Replace the shards that OUTPUT holds."""

    measure_clips: int = 16
    """Videos, drawn at random, on which decoding is measured before and after."""

    measure_frames: int = 8
    """Frames of each that are decoded for it."""

    measure_size: int = 224
    """Height and width of these frames, in pixels."""

    all_errors: bool = False
    """Name every sample that is left out, however many."""


def main(arguments: Sequence[str]) -> int:
    """Index if need be, transcode, and say what was gained."""
    options = tyro.cli(Options, prog="transcode.py", args=arguments)
    _check(options)
    source = open_source(options.source)
    there_is_much = needs_ray(sum(shard.size for shard in source.shards)) and options.limit is None
    workers = 0 if options.workers is None and not (there_is_much and cores() > 1) else options.workers
    with _cluster(workers):
        manifest = source.manifest()
        manifest.usable()
        items = _draw(plan_items(manifest), options.limit)
        work = Work(
            options.encoding,
            Limits(seconds_per_sample=60 * options.minutes_per_sample),
            Measure(options.measure_frames, options.measure_size),
            _measured(items, options.measure_clips),
        )
        with Bar("transcoding") as bar:
            outcome = transcode(
                items,
                place_of(options.output),
                work,
                samples_per_shard=options.samples_per_shard,
                bytes_per_shard=options.megabytes_per_shard << 20,
                workers=workers,
                overwrite=options.overwrite,
                on_progress=bar,
            )
    _say_left_out(manifest, outcome, options.all_errors)
    _say_gain(outcome, options)
    return 0


def _check(options: Options) -> None:
    """Complain of what can be known before anything is read."""
    _check_apart(options.source, options.output)
    check_output(place_of(options.output), overwrite=options.overwrite)
    if options.workers is not None and options.workers < 0:
        raise UserError(f"--workers counts Ray tasks, or is 0 for none, got {options.workers}")
    for name in ("samples_per_shard", "megabytes_per_shard", "minutes_per_sample", "limit"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise UserError(f"--{name.replace('_', '-')} must be positive, got {value}")
    if options.measure_clips < 0:
        raise UserError(f"--measure-clips counts videos, or is 0 to measure nothing, got {options.measure_clips}")
    Measure(options.measure_frames, options.measure_size)


def _check_apart(source: str, output: str) -> None:
    """Complain of a source that would hold the output as well, or be held by it."""
    if storage.is_remote(source) != storage.is_remote(output):
        return
    here, there = (
        PurePosixPath(place) if storage.is_remote(place) else Path(place).expanduser().resolve()
        for place in (source, output)
    )
    if here == there:
        raise UserError(f"{output} is the source itself; choose another folder for the output")
    if here in there.parents or there in here.parents:
        raise UserError(
            f"of {source} and {output} one lies in the other, so a later run would take what this one writes for its "
            "source; choose another folder for the output"
        )


def _cluster(workers: int | None) -> AbstractContextManager[object]:
    if workers == 0:
        return nullcontext()
    from headrace.cluster.launch import ray_cluster  # imports torch, which takes longer than a small source

    return ray_cluster(cpus=workers or cores(), dashboard=False)


def _draw(items: list[Item], limit: int | None) -> list[Item]:
    if limit is None or limit >= len(items):
        return items
    drawn = permute(np.arange(limit), len(items), "transcode limit")
    return [items[number] for number in sorted(drawn.tolist())]


def _measured(items: list[Item], clips: int) -> frozenset[int]:
    videos = [number for number, item in enumerate(items) if item.kind == "video"]
    drawn = permute(np.arange(min(clips, len(videos))), len(videos), "transcode measure")
    return frozenset(videos[number] for number in drawn.tolist())


def _say_left_out(manifest: Manifest, outcome: Outcome, all_errors: bool) -> None:
    broken = manifest.table.filter(manifest.table["error"].is_valid())
    rows = broken.select(["key", "error", "error_message"]).to_pylist()
    left_out = [(row["key"], row["error"], row["error_message"]) for row in rows]
    left_out += [(sample.key, sample.reason, sample.message) for sample in outcome.left_out]
    if not left_out:
        return
    print(f"{plural(len(left_out), 'sample')} left out:")
    for key, reason, message in left_out if all_errors else left_out[:NAMED_ERRORS]:
        print(f"  {one_line(key)}: {reason} ({one_line(message)})")
    if len(left_out) > NAMED_ERRORS and not all_errors:
        print(f"  ... and {len(left_out) - NAMED_ERRORS:,} more: --all-errors names them")


def _say_gain(outcome: Outcome, options: Options) -> None:
    """Print the table of before and after."""
    print(f"{options.output}: {plural(outcome.samples, 'sample')} in {plural(outcome.shards, 'shard')}")
    print(f"{'':12}{'before':>12}{'after':>12}{'ratio':>8}")
    ratio = outcome.bytes_after / outcome.bytes_before
    print(f"{'size':12}{size(outcome.bytes_before):>12}{size(outcome.bytes_after):>12}{ratio:>8.3f}")
    if not outcome.comparisons:
        return
    clips = len(outcome.comparisons)
    before = sum(clip.cpu_seconds_before for clip in outcome.comparisons) / clips
    after = sum(clip.cpu_seconds_after for clip in outcome.comparisons) / clips
    difference = sum(clip.difference for clip in outcome.comparisons) / clips
    print(f"{'decoding':12}{milliseconds(before):>12}{milliseconds(after):>12}{after / before:>8.3f}  CPU a clip")
    frames, side = plural(options.measure_frames, "frame"), options.measure_size
    print(
        f"measured on {plural(clips, 'clip')}, {frames} each at {side} x {side}; "
        f"their pixels differ by {figure(difference, 2)} of 255 levels on average"
    )


def run() -> None:
    """Run as a command."""
    exit_with_sentence(lambda: main(sys.argv[1:]))


if __name__ == "__main__":
    run()
