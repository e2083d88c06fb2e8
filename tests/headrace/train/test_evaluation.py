"""Evaluation on held-out samples while training goes on, and the checkpoints that it calls the best."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_recipe import TINY, session_of

from data_pipelines.index import index
from headrace.augment import Augment
from headrace.batch import BatchStream, DeviceBatch
from headrace.data.reader import BatchReader
from headrace.data.scan import shards_of
from headrace.data.split import Split
from headrace.errors import UserError
from headrace.evaluate import feature_std, knn_accuracy_left_one_out, rankme
from headrace.observe.records import EvaluationRecord, read_records
from headrace.recipe import Recipe, replace_at
from headrace.train import checkpoint
from headrace.train.config import EvaluateConfig
from headrace.train.evaluation import check_metric
from headrace.train.loop import train
from headrace.train.progress import (
    STOP_FILE,
    Progress,
    checkpoints_called,
    complete_checkpoints,
    newest_checkpoint,
    read_progress,
)
from headrace.train.session import LocalSession

HELD_OUT = 3  # of the eight samples; no multiple of any micro-batch here but 1
RECIPE = replace(
    TINY,
    data=replace(TINY.data, holdout=0.4),
    train=replace(TINY.train, checkpoint_every=100, evaluate=EvaluateConfig(every=2)),
)


def changed(recipe: Recipe, settings: dict[str, Any]) -> Recipe:
    for path, value in settings.items():
        recipe = replace_at(recipe, path, value)
    return recipe


@pytest.fixture
def split(video_folder: Path) -> Split:
    manifest = index(str(video_folder), shards_of(str(video_folder))).usable()
    return Split(manifest.take(8 - HELD_OUT), replace(manifest, table=manifest.table.slice(8 - HELD_OUT)))


def run(recipe: Recipe, split: Split, folder: Path, kind: type = LocalSession) -> list[EvaluationRecord]:
    train(recipe, session_of(recipe, folder, split, kind=kind))
    return evaluations(folder)


def evaluations(folder: Path) -> list[EvaluationRecord]:
    return [record for record in read_records(folder / "metrics.jsonl") if record["kind"] == "evaluation"]


def losses(folder: Path) -> list[float | None]:
    return [record["loss"] for record in read_records(folder / "metrics.jsonl") if record["kind"] == "step"]


def ledger(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "ledger-0.jsonl").read_text().splitlines()]


def by_hand(recipe: Recipe, split: Split, folder: Path) -> dict[str, float]:
    """Return the scores of a run's newest checkpoint, all held-out samples in one batch."""
    newest = newest_checkpoint(folder)
    assert newest is not None
    objective = recipe.model.build(recipe.augment.height, recipe.augment.width)
    checkpoint.load_model(newest, objective)
    objective.eval()
    plan = replace(session_of(recipe, folder, split).plan.held_out(HELD_OUT), micro_batch=HELD_OUT)
    batch = BatchReader(split.held_out, plan).read(0)
    pixels = Augment(recipe.augment, torch.device("cpu"), training=False)(torch.from_numpy(batch.pixels), batch.seed)
    with torch.no_grad():
        scores = objective.score(DeviceBatch(pixels, batch.seed, torch.from_numpy(batch.label)))
        features = objective.features(pixels)
    judged = objective.judge({name: values.double().mean(dim=0) for name, values in scores.items()})
    return judged | {"rankme": rankme(features), "feature_std": feature_std(features)}


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
@pytest.mark.parametrize("optim", [{}, {"optim.ema": 0.5}, {"optim.name": "schedule-free"}], ids=str)
def test_the_scores_are_those_of_what_is_saved_over_all_samples(
    micro_batch: int, optim: dict[str, Any], split: Split, tmp_path: Path
) -> None:
    if "optim.name" in optim:
        optim = {"optim.schedule": "constant", **optim}
    recipe = changed(RECIPE, {"train.micro_batch": micro_batch, **optim})
    found = run(recipe, split, tmp_path)
    assert [(record["step"], record["samples"]) for record in found] == [(2, 3), (4, 3), (6, 3)]
    assert found[-1]["scores"] == pytest.approx(by_hand(recipe, split, tmp_path), rel=1e-4)


def test_training_does_not_notice(split: Split, tmp_path: Path) -> None:
    run(RECIPE, split, tmp_path / "with")
    run(replace_at(RECIPE, "train.evaluate.every", 0), split, tmp_path / "without")
    assert losses(tmp_path / "with") == losses(tmp_path / "without"), "bit for bit"
    assert ledger(tmp_path / "with") == ledger(tmp_path / "without")


@pytest.mark.parametrize("repeats", [1, 2])
def test_a_run_that_goes_on_evaluates_as_the_undisturbed_one(repeats: int, split: Split, tmp_path: Path) -> None:
    class OneStep(LocalSession):
        def batches(self, step: int, first: int) -> BatchStream:
            (self.run / STOP_FILE).touch()
            return super().batches(step, first)

    recipe = changed(RECIPE, {"data.repeats": repeats, "data.repeats_apart": 2})
    whole, parts = run(recipe, split, tmp_path / "whole"), tmp_path / "parts"
    parts.mkdir()
    for _ in range(6):
        (parts / STOP_FILE).unlink(missing_ok=True)
        train(recipe, session_of(recipe, parts, split, kind=OneStep))
    assert [record["scores"] for record in evaluations(parts)] == [record["scores"] for record in whole]
    assert losses(parts) == losses(tmp_path / "whole")
    assert ledger(parts) == ledger(tmp_path / "whole")


def test_the_best_checkpoints_are_kept_beside_the_newest(split: Split, tmp_path: Path) -> None:
    settings = {"train.evaluate.every": 1, "train.keep_checkpoints": 1, "train.evaluate.keep_best": 2}
    recipe = changed(RECIPE, settings)
    found = {record["step"]: record["scores"]["loss"] for record in run(recipe, split, tmp_path)}
    ranked = sorted(found, key=lambda step: found[step] or math.inf)
    kept = [read_progress(path).step for path in complete_checkpoints(tmp_path)]
    assert kept == sorted({*ranked[:2], 6})
    assert list(checkpoints_called(tmp_path, "best")) == [ranked[0]]
    assert list(checkpoints_called(tmp_path, "newest")) == [6]
    assert list(checkpoints_called(tmp_path, "all")) == kept
    assert [record["step"] for record in evaluations(tmp_path) if record["best"]][-1] == ranked[0]


def test_other_samples_or_another_metric_begin_a_new_ranking() -> None:
    progress, evaluate = Progress(step=1), EvaluateConfig(metric="knn", keep_best=2)
    assert progress.rank(0.5, evaluate, "these")
    progress.step = 2
    assert progress.rank(0.7, evaluate, "these"), "more is better"
    progress.step = 3
    assert not progress.rank(math.nan, evaluate, "these")
    assert not progress.rank(0.6, evaluate, "these")
    assert progress.best == [(2, 0.7), (3, 0.6)]
    assert progress.rank(0.1, evaluate, "others")
    assert progress.best == [(3, 0.1)]
    assert progress.rank(9.0, replace(evaluate, metric="loss"), "others")
    progress.step = 4
    assert progress.rank(8.0, replace(evaluate, metric="loss"), "others"), "less is better"


def test_a_held_out_sample_that_cannot_be_decoded_is_left_out(split: Split, video_folder: Path, tmp_path: Path) -> None:
    (video_folder / "clip6.mp4").write_bytes(bytes((video_folder / "clip6.mp4").stat().st_size))
    found = run(replace_at(RECIPE, "data.failures", 0.0), split, tmp_path)
    assert [record["samples"] for record in found] == [2, 2, 2]
    records = read_records(tmp_path / "metrics.jsonl")
    assert [record["key"] for record in records if record["kind"] == "failure"] == ["clip6.mp4"], "once"
    newest = read_progress(newest_checkpoint(tmp_path))
    assert newest.failures == 0, "the budget is for samples that training loses"


def test_before_a_machine_is_taken_away_the_checkpoint_comes_first(split: Split, tmp_path: Path) -> None:
    class Spot(LocalSession):
        def leaving(self) -> bool:
            return True

    run(RECIPE, split, tmp_path, Spot)
    kinds = [record["kind"] for record in read_records(tmp_path / "metrics.jsonl")]
    assert kinds[:3] == ["start", "step", "checkpoint"], "at once"
    assert kinds.count("evaluation") == 3


def test_the_samples_that_are_evaluated_can_be_limited(split: Split, tmp_path: Path) -> None:
    found = run(replace_at(RECIPE, "train.evaluate.samples", 2), split, tmp_path)
    assert [record["samples"] for record in found] == [2, 2, 2]
    assert split.limited(2).held_out.digest == split.limited(2).held_out.digest


def test_k_nearest_of_all_others() -> None:
    features = torch.tensor([[1.0, 0.1], [1.0, 0.2], [1.0, 0.15], [0.1, 1.0], [0.2, 1.0], [1.0, 0.12]])
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    assert knn_accuracy_left_one_out(features, labels, k=1) == pytest.approx(3 / 6), "0, 2 and 5 follow each other"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"train.evaluate.every": -1}, "number of steps"),
        ({"train.evaluate.samples": 0}, "at least 1"),
        ({"train.evaluate.every": 2, "data.holdout": 0.0}, "nothing to evaluate on"),
        ({"data.validation": "elsewhere"}, "leave out one"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        changed(RECIPE, settings)


def test_a_metric_that_no_evaluation_gives_is_refused() -> None:
    objective = RECIPE.model.build(32, 32)
    check_metric(objective, "knn", "--metric knn")
    with pytest.raises(UserError, match=r"--metric los: .*did you mean 'loss'"):
        check_metric(objective, "los", "--metric los")
