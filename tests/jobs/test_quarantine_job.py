"""Broken clips among good ones: the run stops, says why, goes on if told to, and what failed can be worked with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from small_recipe import session_of

from data_pipelines.index import index
from headrace.augment import AugmentConfig
from headrace.cli import RECIPE_FILE
from headrace.data import retest
from headrace.data.config import DataConfig
from headrace.data.manifest import Manifest
from headrace.data.quarantine import QUARANTINE_FILE, read_quarantine
from headrace.data.sampling import SamplingConfig
from headrace.data.scan import shards_of
from headrace.errors import RunError, UserError
from headrace.models.hjepa import HJepaConfig
from headrace.observe.history import History
from headrace.observe.records import read_records
from headrace.observe.report import write_report
from headrace.optim import OptimConfig
from headrace.recipe import Recipe, save_recipe
from headrace.train.config import CompileConfig, TrainConfig
from headrace.train.loop import train
from headrace.train.progress import Progress, newest_checkpoint, read_progress
from jobs import quarantine
from jobs.sources import open_source

CLIPS, BROKEN = 200, frozenset({3, 57, 58, 120, 121, 199})  # 3 %

RECIPE = Recipe(
    name="hjepa_tiny",
    model=HJepaConfig(
        patch_size=8, width=16, depth=1, heads=2, predictor_width=16, predictor_depth=1, predictor_heads=2
    ),
    data=DataConfig(height=32, width=32, sampling=SamplingConfig(frames=1)),
    augment=AugmentConfig(height=32, width=32),
    optim=OptimConfig(lr=3e-3, warmup_steps=2),
    train=TrainConfig(
        steps=18,
        global_batch=25,
        micro_batch=25,
        precision="fp32",
        compile=CompileConfig(enabled=False),
        checkpoint_every=10,
    ),
)


def clips(folder: Path, clip_bytes: list[bytes], numbers: Iterable[int]) -> Path:
    """Write clips that are sound when they are indexed, and break those that are to be broken."""
    folder.mkdir()
    for number in numbers:
        (folder / f"{number:03d}.mp4").write_bytes(clip_bytes[number % 8])
    index(str(folder), shards_of(str(folder)))
    for number in BROKEN.intersection(numbers):
        path, data = folder / f"{number:03d}.mp4", clip_bytes[number % 8]
        times, kept = path.stat(), 0 if number < 100 else 32
        path.write_bytes(data[:kept] + bytes(len(data) - kept))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return folder


@pytest.fixture
def source(tmp_path: Path, clip_bytes: list[bytes]) -> Path:
    """Return three clips, two of them broken."""
    return clips(tmp_path / "clips", clip_bytes, [3, 4, 120])


def run(source: Path, folder: Path, **data: float) -> Progress:
    """Train as jobs/train.py does, in this process."""
    recipe = replace(RECIPE, data=replace(RECIPE.data, source=str(source), **data))  # type: ignore[arg-type]
    folder.mkdir(exist_ok=True)
    save_recipe(recipe, folder / RECIPE_FILE)
    manifest: Manifest = open_source(str(source)).manifest().usable()
    return train(recipe, session_of(recipe, folder, manifest))


KEYS = [f"{number:03d}.mp4" for number in sorted(BROKEN)]


def test_three_percent_of_broken_clips(
    tmp_path: Path, clip_bytes: list[bytes], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, folder = clips(tmp_path / "clips", clip_bytes, range(CLIPS)), tmp_path / "run"

    # 1. The default budget is exceeded, and the run says by what.
    sentence = r"1[1-9] of \d+ samples could not be decoded.*budget of 1.00%.*--data.failures"
    with pytest.raises(RunError, match=sentence) as stopped:
        run(source, folder)
    assert "x not a video or image" in str(stopped.value)
    assert "x truncated or damaged" in str(stopped.value)
    stand = read_progress(newest_checkpoint(folder))
    assert stand.failures > 10, "where it stopped is kept, so a larger budget goes on from here"
    assert sum(stand.failure_reasons.values()) == stand.failures

    # 2. With 5 % it goes on to its end, as the undisturbed run would have, and counts what that counts.
    resumed = run(source, folder, failures=0.05)
    undisturbed = run(source, tmp_path / "undisturbed", failures=0.05)
    assert resumed == undisturbed
    assert resumed.position == 450
    assert resumed.failures >= 12, "six in each of two epochs, and more in the third"

    # 3. All of them are in quarantine, each once, in the table and in the report.
    lines = [json.loads(line) for line in (folder / QUARANTINE_FILE).read_text().splitlines()]
    assert sorted(line["key"] for line in lines) == KEYS
    assert {row.key: row.position for row in read_quarantine(folder)} == {
        row.key: row.position for row in read_quarantine(tmp_path / "undisturbed")
    }
    history = History()
    for record in read_records(folder / "metrics.jsonl"):
        history.add(record)
    assert sum(history.failures.values()) == 6
    assert all(key in write_report(folder).read_text() for key in KEYS)

    # 4. They are listed, decoded again, and left out.
    monkeypatch.setattr(retest, "_VIDEO", ["sparse", "pyav"])
    capsys.readouterr()
    export = tmp_path / "bad.csv"
    assert quarantine.main([str(folder), "--retest", "--exclude", "--export", str(export)]) == 0
    said = capsys.readouterr().out
    assert "6 samples could not be decoded" in said
    assert "6 x bad" in said
    assert "6 samples more of" in said
    assert export.read_text().count('"bad"') == 6
    clean = run(source, tmp_path / "clean")
    assert clean.failures == 0
    assert "6 samples are excluded" in capsys.readouterr().out

    # 5. A run that counts them cannot go on without them, and says so; then they are taken back.
    with pytest.raises(RunError, match=r"samples changed.*quarantine.py RUN --include"):
        run(source, folder, failures=0.05)
    assert quarantine.main([str(folder), "--include"]) == 0
    assert run(source, folder, failures=0.05).step == 18


@pytest.fixture
def quarantined(source: Path, tmp_path: Path) -> Path:
    """Return a run with a table, written by hand."""
    folder = tmp_path / "run"
    folder.mkdir()
    save_recipe(replace(RECIPE, data=replace(RECIPE.data, source=str(source))), folder / RECIPE_FILE)
    rows = [("003.mp4", "not a video or image"), ("120.mp4", "truncated or damaged"), ("004.mp4", "too slow")]
    lines = [
        {"time": 0.0, "position": at, "key": key, "shard": key, "offset": 0, "reason": reason, "message": "it is"}
        for at, (key, reason) in enumerate(rows)
    ]
    (folder / QUARANTINE_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_what_is_asked_for_is_narrowed_down(
    quarantined: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quarantine.main([str(quarantined), "--reason", "too slow", "--exclude"])
    assert "1 of them are as asked for" in capsys.readouterr().out
    quarantine.main([str(quarantined), "--key", "120.mp4", "--key", "003.mp4", "--exclude"])
    assert open_source(str(source)).manifest().exclusions().read().keys() == {"004.mp4", "120.mp4", "003.mp4"}
    quarantine.main([str(quarantined), "--key", "120.mp4", "--include"])
    assert open_source(str(source)).manifest().exclusions().read().keys() == {"004.mp4", "003.mp4"}


def test_only_what_is_bad_is_excluded_after_a_retest(
    quarantined: Path, source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retest, "_VIDEO", ["sparse", "nothing.at.all:here"])
    quarantine.main([str(quarantined), "--retest", "--exclude"])
    said = capsys.readouterr().out
    assert "2 x bad" in said
    assert "1 x reads now" in said
    assert "not asked: nothing.at.all:here" in said
    assert open_source(str(source)).manifest().exclusions().read().keys() == {"003.mp4", "120.mp4"}


def test_bytes_are_copied_out(quarantined: Path, source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "look"
    quarantine.main([str(quarantined), "--extract", str(folder)])
    assert (folder / "00001-120.mp4").read_bytes() == (source / "120.mp4").read_bytes()
    assert len(list(folder.iterdir())) == 4


def test_each_source_of_a_mixture_gets_its_own_exclusions(tmp_path: Path, clip_bytes: list[bytes]) -> None:
    left, right = (clips(tmp_path / name, clip_bytes, [3, 4, 120]) for name in ("left", "right"))
    folder = tmp_path / "run"
    folder.mkdir()
    mixture = f"{left}=0.5,{right}=0.5"
    save_recipe(replace(RECIPE, data=replace(RECIPE.data, source=mixture)), folder / RECIPE_FILE)
    rows = [
        ("left/003.mp4", left / "003.mp4"),
        ("right/003.mp4", right / "003.mp4"),
        ("right/120.mp4", right / "120.mp4"),
    ]
    lines = [
        {"time": 0.0, "position": at, "key": key, "shard": str(shard), "offset": 0, "reason": "r", "message": "m"}
        for at, (key, shard) in enumerate(rows)
    ]
    (folder / QUARANTINE_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    quarantine.main([str(folder), "--exclude", "--extract", str(tmp_path / "look")])
    assert open_source(str(left)).manifest().exclusions().read().keys() == {"003.mp4"}
    assert open_source(str(right)).manifest().exclusions().read().keys() == {"003.mp4", "120.mp4"}
    assert len(list((tmp_path / "look" / "1").iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--export", "table.xlsx"], "--export writes .csv"),
        (["--exclude", "--include"], "give one of them"),
        (["--reason", "too slo"], "did you mean 'too slow'"),
        (["--key", "x.mp4"], "'x.mp4' is not in quarantine"),
        (["--extract-megabytes", "0"], "must be at least 1"),
        (["--extract", "."], "not an empty folder"),
    ],
)
def test_what_cannot_be_is_said(quarantined: Path, arguments: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        quarantine.main([str(quarantined), *arguments])


def test_a_folder_that_is_no_run_and_a_run_without_failures(
    tmp_path: Path, quarantined: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="is no run"):
        quarantine.main([str(tmp_path)])
    (quarantined / QUARANTINE_FILE).unlink()
    assert quarantine.main([str(quarantined), "--retest"]) == 0
    assert "0 samples could not be decoded" in capsys.readouterr().out
