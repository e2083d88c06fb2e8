"""The loop in a plain Python process: what a run consumes, and what it is worth after a stop."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_recipe import TINY, session_of

from data_pipelines.index import index
from headrace.data.manifest import Manifest
from headrace.data.scan import shards_of
from headrace.errors import RunError
from headrace.observe.records import read_records
from headrace.recipe import Recipe, replace_at
from headrace.train import checkpoint
from headrace.train.loop import train
from headrace.train.progress import STOP_FILE, Progress, newest_checkpoint
from headrace.train.session import LocalSession


@pytest.fixture
def manifest(video_folder: Path) -> Manifest:
    return index(str(video_folder), shards_of(str(video_folder))).usable()


def run(recipe: Recipe, manifest: Manifest, folder: Path) -> Progress:
    return train(recipe, session_of(recipe, folder, manifest))


def weights(recipe: Recipe, folder: Path) -> dict[str, torch.Tensor]:
    newest = newest_checkpoint(folder)
    assert newest is not None
    objective = recipe.model.build(recipe.augment.height, recipe.augment.width)
    checkpoint.load_model(newest, objective)
    return objective.state_dict()


def ledger(folder: Path) -> dict[tuple[int, int], list[int]]:
    lines = [json.loads(line) for line in (folder / "ledger-0.jsonl").read_text().splitlines()]
    return {(line["step"], line["micro_batch"]): line["samples"] for line in lines}


def steps(folder: Path) -> dict[int, float]:
    records = read_records(folder / "metrics.jsonl")
    return {r["step"]: r["loss"] for r in records if r["kind"] == "step"}  # type: ignore[misc]


def test_the_loss_falls_and_everything_is_written_down(manifest: Manifest, tmp_path: Path) -> None:
    recipe = replace(TINY, train=replace(TINY.train, steps=40, checkpoint_every=40))
    progress = run(recipe, manifest, tmp_path)
    losses = steps(tmp_path)
    assert (progress.step, progress.position) == (40, 160)
    assert sorted(losses) == list(range(1, 41))
    assert sum(losses[s] for s in range(31, 41)) < 0.8 * sum(losses[s] for s in range(1, 11))
    kinds = [record["kind"] for record in read_records(tmp_path / "metrics.jsonl")]
    assert kinds[0] == "start"
    assert kinds[-1] == "checkpoint"


def test_each_sample_of_each_epoch_is_consumed_once(manifest: Manifest, tmp_path: Path) -> None:
    run(TINY, manifest, tmp_path)
    samples = [sample for _, group in sorted(ledger(tmp_path).items()) for sample in group]
    assert len(samples) == 24
    for epoch in range(3):
        assert sorted(samples[8 * epoch : 8 * epoch + 8]) == list(range(8))


def test_a_stopped_run_that_goes_on_is_the_undisturbed_run(manifest: Manifest, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(TINY, manifest, whole)
    parts.mkdir()
    (parts / STOP_FILE).touch()
    assert run(TINY, manifest, parts).step == 1
    (parts / STOP_FILE).unlink()
    assert run(TINY, manifest, parts).step == 6
    assert ledger(parts) == ledger(whole)
    assert steps(parts) == steps(whole), "bit for bit"
    left, right = weights(TINY, whole), weights(TINY, parts)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_asked_to_stop_while_it_starts_again_it_does_not_begin(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / STOP_FILE).touch()
    assert run(TINY, manifest, tmp_path).step == 1, "with nothing to go on from it takes a step"
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert run(TINY, manifest, tmp_path).step == 1
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("micro_batch", [1, 4])
def test_accumulation_is_the_full_batch(manifest: Manifest, tmp_path: Path, micro_batch: int) -> None:
    other = replace(TINY, train=replace(TINY.train, micro_batch=micro_batch))
    run(TINY, manifest, tmp_path / "two")
    run(other, manifest, tmp_path / "other")
    assert list(steps(tmp_path / "two").values()) == pytest.approx(list(steps(tmp_path / "other").values()), rel=1e-4)


def test_going_on_with_another_micro_batch(manifest: Manifest, tmp_path: Path) -> None:
    run(replace(TINY, train=replace(TINY.train, steps=3)), manifest, tmp_path / "a")
    assert run(replace(TINY, train=replace(TINY.train, micro_batch=4)), manifest, tmp_path / "a").position == 24
    odd = replace(TINY, train=replace(TINY.train, steps=30, global_batch=10, micro_batch=10))
    with pytest.raises(RunError, match="do not reach evenly"):
        run(odd, manifest, tmp_path / "a")


def test_other_samples_under_a_resumed_run_are_refused(manifest: Manifest, tmp_path: Path) -> None:
    run(replace(TINY, train=replace(TINY.train, steps=3)), manifest, tmp_path)
    with pytest.raises(RunError, match="samples changed"):
        run(TINY, Manifest(manifest.source, manifest.table.slice(1)), tmp_path)


@pytest.mark.parametrize(
    "change", [{"data.shuffle": "none"}, {"seed": 1}, {"data.repeats": 2}], ids=lambda change: next(iter(change))
)
def test_another_order_under_a_resumed_run_is_refused(
    manifest: Manifest, tmp_path: Path, change: dict[str, object]
) -> None:
    run(replace(TINY, train=replace(TINY.train, steps=3)), manifest, tmp_path)
    [(path, value)] = change.items()
    with pytest.raises(RunError, match="order of the samples changed"):
        run(replace_at(TINY, path, value), manifest, tmp_path)


def test_a_broken_clip_is_replaced_and_written_down(manifest: Manifest, video_folder: Path, tmp_path: Path) -> None:
    (video_folder / "clip3.mp4").write_bytes(bytes((video_folder / "clip3.mp4").stat().st_size))
    tolerant = replace(TINY, data=replace(TINY.data, failures=0.5))
    progress = run(tolerant, manifest, tmp_path)
    assert progress.failures >= 3, "once an epoch, and where it was drawn to stand in for itself"
    rows = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert {row["key"] for row in rows} == {"clip3.mp4"}
    consumed = [sample for group in ledger(tmp_path).values() for sample in group]
    assert 3 not in consumed
    assert len(consumed) == 24, "batches stay full"


def test_past_the_budget_the_run_stops_and_says_why(manifest: Manifest, video_folder: Path, tmp_path: Path) -> None:
    (video_folder / "clip3.mp4").write_bytes(bytes((video_folder / "clip3.mp4").stat().st_size))
    strict = replace(TINY, data=replace(TINY.data, failures=0.0))
    with pytest.raises(RunError, match=r"[1-9]\d* of \d+ samples could not be decoded.*[1-9]\d* x .*--data.failures"):
        run(strict, manifest, tmp_path)


def test_bf16_trains(manifest: Manifest, tmp_path: Path) -> None:
    recipe = replace(TINY, train=replace(TINY.train, precision="bf16"))
    run(recipe, manifest, tmp_path)
    assert all(value.dtype == torch.float32 for value in weights(recipe, tmp_path).values())
    assert all(math.isfinite(loss) for loss in steps(tmp_path).values()), "a loss that is not finite is null"


def test_a_checkpoint_in_time_before_a_machine_is_taken_away(manifest: Manifest, tmp_path: Path) -> None:
    recipe = replace(TINY, train=replace(TINY.train, checkpoint_every=100, keep_checkpoints=9))
    steps_done = iter(range(100))

    class Spot(LocalSession):
        def leaving(self) -> bool:
            return next(steps_done) >= 2

    train(recipe, session_of(recipe, tmp_path, manifest, kind=Spot))
    written = [r["step"] for r in read_records(tmp_path / "metrics.jsonl") if r["kind"] == "checkpoint"]
    assert written == [3, 6], "at once when it was announced, not again, and at the end"


def test_between_two_records_calls_are_heard_too(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.train.loop.LOOK_SECONDS", 0.0)
    recipe = replace(TINY, train=replace(TINY.train, checkpoint_every=100, log_every=100))
    asked = iter(range(100))

    class Spot(LocalSession):
        def leaving(self) -> bool:
            return next(asked) >= 1

        def committed(self, checkpoint: object, step: int, loss: float) -> None:
            (self.run / STOP_FILE).touch()

    progress = train(recipe, session_of(recipe, tmp_path, manifest, kind=Spot))
    written = [r["step"] for r in read_records(tmp_path / "metrics.jsonl") if r["kind"] == "checkpoint"]
    assert written == [2, 3], "when the machine was announced to go, and when the run was asked to stop"
    assert progress.step == 3


def test_the_profile_and_the_arithmetic_are_in_the_records(manifest: Manifest, tmp_path: Path) -> None:
    recipe = replace(TINY, train=replace(TINY.train, profile=(2, 3), peak_teraflops=0.01))
    run(recipe, manifest, tmp_path)
    records = read_records(tmp_path / "metrics.jsonl")
    [profile] = [record for record in records if record["kind"] == "profile"]
    assert (tmp_path / profile["path"]).is_file()  # type: ignore[typeddict-item]
    measured = [record for record in records if record["kind"] == "step"]
    assert all(0 < record["mfu"] < 1 for record in measured)  # type: ignore[typeddict-item, operator]
    assert all(record["compiles"] == 0 for record in measured)  # type: ignore[typeddict-item]
    start = next(record for record in records if record["kind"] == "start")
    assert start["peak_flops"] == 1e10  # type: ignore[typeddict-item]
    assert start["flops_per_clip"] > 1e6  # type: ignore[typeddict-item]
