"""A small labelled data set made from nothing: dash-cam clips with and without roadwork, in shards.

    demo-000000.tar: 000000.cls  000000.json  000000.mp4  000001.cls  ...      demo.json: what it was made by

`headrace.demo.scenes` says what is in a clip. Half of the clips have roadwork, whatever their number, and
weather, time of day, place and traffic are drawn without regard to it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headrace.data.encode import encode_video
from headrace.data.shards import ShardWriter
from headrace.demo.drawing import scene_frames
from headrace.demo.scenes import Scene, street_scene
from headrace.errors import UserError

_VERSION = 1
"""Raised whenever the same config gives other clips, so that old folders are made anew."""

_PREFIX = "demo"
_RECORD = "demo.json"


@dataclass(frozen=True)
class DemoConfig:
    """What the demo data set is made of. 64 clips take 20 to 25 seconds on one core and 2.7 MB."""

    clips: int = 64
    """Clips in all; half of them show roadwork."""

    width: int = 192
    """Pixels, even."""

    height: int = 128
    """Pixels, even."""

    seconds: float = 2.0
    """Length of a clip."""

    fps: int = 24
    """Frames a second."""

    seed: int = 0
    """Another seed, other streets."""

    samples_per_shard: int = 16
    """Clips in a shard."""

    def __post_init__(self) -> None:
        if self.clips < 1 or self.samples_per_shard < 1:
            raise UserError(
                f"the demo needs at least one clip, and one in a shard; got clips={self.clips}, "
                f"samples_per_shard={self.samples_per_shard}"
            )
        if min(self.width, self.height) < 32 or self.width % 2 or self.height % 2:
            raise UserError(f"demo clips must be even and at least 32 pixels a side, got {self.width}x{self.height}")
        if self.fps < 1 or not 1 <= self.frames <= 100_000:
            raise UserError(f"demo clips need at least one frame, got seconds={self.seconds} at fps={self.fps}")

    @property
    def frames(self) -> int:
        """Frames in a clip."""
        return round(self.seconds * self.fps)


def make_demo_shards(
    directory: Path, config: DemoConfig, on_progress: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Write the demo data set into a folder, or find it there, and return its shards in order.

    Done once for a config: the record `demo.json` is written last, and a folder whose record says the same is
    left as it is. A folder with the demo data of another config, or of an interrupted call, is made anew.

    Args:
        directory: made if absent. It may hold other files, but no shards of another origin.
        config: what to make.
        on_progress: called with (clips done, clips in all) after each clip.

    Raises:
        UserError: the folder holds shards that are no demo data.
    """
    record = {"version": _VERSION, **dataclasses.asdict(config)}
    made = _read_record(directory, record)
    if made is not None:
        return made

    foreign = sorted(path.name for path in directory.glob("*.tar") if not path.name.startswith(f"{_PREFIX}-"))
    if foreign:
        raise UserError(f"{directory} holds {foreign[0]}, which is no demo data; give the demo a folder of its own")
    (directory / _RECORD).unlink(missing_ok=True)
    for old in directory.glob(f"{_PREFIX}-*.tar"):
        old.unlink()

    with ShardWriter(directory, _PREFIX, samples_per_shard=config.samples_per_shard) as writer:
        for index in range(config.clips):
            writer.write(f"{index:06d}", demo_sample(config, index))
            if on_progress is not None:
                on_progress(index + 1, config.clips)
    whole = {"config": record, "shards": [path.name for path in writer.paths]}
    partial = directory / f".{_RECORD}.partial"
    partial.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    partial.replace(directory / _RECORD)
    return writer.paths


def demo_sample(config: DemoConfig, index: int) -> dict[str, bytes]:
    """Return the members of clip number `index`: its video, its class and what is known of it.

    The json holds label (0 or 1), class, weather, daytime, place, speed_mps, heading_degrees (at the first
    frame, clockwise from north), seed, index and gps: [latitude, longitude] in degrees at whole seconds from
    the first frame, as a GPS receiver gives them.
    """
    scene = street_scene(config.seed, index)
    frames = scene_frames(scene, width=config.width, height=config.height, fps=config.fps, frames=config.frames)
    return {
        "mp4": encode_video(np.stack(list(frames)), config.fps, gop=48, b_frames=3),
        "json": json.dumps(_metadata(scene, config), sort_keys=True).encode(),
        "cls": b"1" if scene.roadwork else b"0",
    }


def _metadata(scene: Scene, config: DemoConfig) -> dict[str, object]:
    fixes = np.arange(int(config.frames / config.fps) + 1, dtype=np.float64)
    return {
        "label": int(scene.roadwork is not None),
        "class": "clear" if scene.roadwork is None else "roadwork",
        "weather": scene.weather,
        "daytime": scene.daytime,
        "place": scene.place,
        "speed_mps": scene.speed_mps,
        "heading_degrees": round(float(np.degrees(scene.heading)), 2),
        "gps": scene.gps(fixes).tolist(),
        "seed": scene.seed,
        "index": scene.index,
    }


def _read_record(directory: Path, record: dict[str, object]) -> list[Path] | None:
    """Return the shards of a finished demo of this very config; None if there is none."""
    try:
        whole = json.loads((directory / _RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(whole, dict) or whole.get("config") != record:
        return None
    shards = [directory / name for name in whole["shards"]]
    return shards if all(shard.is_file() for shard in shards) else None
