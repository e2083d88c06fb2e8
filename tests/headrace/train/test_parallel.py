"""One run, in every way in which workers can share it: the losses and the weights are the same."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
import torch.distributed as dist
from small_recipe import TINY, session_of
from torch import Tensor

from data_pipelines.index import index
from headrace.data.manifest import Manifest
from headrace.data.scan import shards_of
from headrace.data.split import Split
from headrace.observe.records import read_records
from headrace.recipe import Recipe, replace_at
from headrace.train import checkpoint
from headrace.train.config import EvaluateConfig
from headrace.train.loop import train
from headrace.train.progress import STOP_FILE, newest_checkpoint

RECIPE = replace(
    TINY,
    optim=replace(TINY.optim, clip_norm=0.05),
    train=replace(TINY.train, global_batch=8, micro_batch=2),
)


def changed(recipe: Recipe, **settings: Any) -> Recipe:
    for path, value in settings.items():
        recipe = replace_at(recipe, path.replace("__", "."), value)
    return recipe


@pytest.fixture
def manifest(video_folder: Path) -> Manifest:
    return index(str(video_folder), shards_of(str(video_folder))).usable()


def worker(rank: int, jobs: Connection) -> None:
    """Be this rank of one run after the other."""
    torch.set_num_threads(1)
    while (job := jobs.recv()) is not None:
        recipe, samples, folder = job
        try:
            work(rank, recipe, samples, folder)
        except Exception:
            jobs.send(traceback.format_exc())
        else:
            jobs.send(None)


def work(rank: int, recipe: Recipe, samples: Manifest | Split, folder: Path) -> None:
    ranks = recipe.train.workers
    if ranks > 1:
        meeting = folder.with_name(f"{folder.name}-meeting-{recipe.train.parallel}-{ranks}")
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    try:
        train(recipe, session_of(recipe, folder, samples, rank, ranks))
    finally:
        if ranks > 1:
            dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks() -> Iterator[list[Connection]]:
    """Start four processes once: each takes seconds to import torch, and a forked one hangs in torch's threads."""
    spawn = multiprocessing.get_context("spawn")
    pipes = [spawn.Pipe() for _ in range(4)]
    processes = [spawn.Process(target=worker, args=(rank, theirs)) for rank, (_, theirs) in enumerate(pipes)]
    for process in processes:
        process.start()
    yield [ours for ours, _ in pipes]
    for (ours, _), process in zip(pipes, processes, strict=True):
        ours.send(None)
        process.join(10)
        process.kill()


class Run(Protocol):
    def __call__(self, recipe: Recipe, folder: Path, samples: Split | None = None) -> Path: ...


@pytest.fixture
def run(ranks: list[Connection], manifest: Manifest) -> Run:
    def run(recipe: Recipe, folder: Path, samples: Split | None = None) -> Path:
        workers = ranks[: recipe.train.workers]
        for jobs in workers:
            jobs.send((recipe, samples or manifest, folder))
        assert all(jobs.poll(120) for jobs in workers), "a rank does not come to an end"
        errors = [jobs.recv() for jobs in workers]
        assert not any(errors), errors[0]
        return folder

    return run


def measured(folder: Path, name: str) -> list[float]:
    records = read_records(folder / "metrics.jsonl")
    return [record[name] for record in records if record["kind"] == "step"]  # type: ignore[literal-required]


def weights(recipe: Recipe, folder: Path) -> dict[str, Tensor]:
    newest = newest_checkpoint(folder)
    assert newest is not None
    objective = recipe.model.build(recipe.augment.height, recipe.augment.width)
    checkpoint.load_model(newest, objective)
    return objective.state_dict()


def assert_same(one: Path, other: Path, recipe: Recipe) -> None:
    assert measured(one, "loss") == pytest.approx(measured(other, "loss"), rel=1e-5)
    assert measured(one, "grad_norm") == pytest.approx(measured(other, "grad_norm"), rel=1e-4)
    left, right = weights(recipe, one), weights(recipe, other)
    for name in left:
        torch.testing.assert_close(
            left[name], right[name], atol=1e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}"
        )


WAYS: dict[str, dict[str, Any]] = {
    "alone": {},
    "ddp on 2": {"train__workers": 2},
    "fsdp on 2": {"train__workers": 2, "train__parallel": "fsdp"},
    "fsdp on 4": {"train__workers": 4, "train__parallel": "fsdp"},
    "selective": {"train__recompute": "selective"},
    "full": {"train__recompute": "full"},
    "fsdp on 2, full": {"train__workers": 2, "train__parallel": "fsdp", "train__recompute": "full"},
}


SHORT = ("ddp on 2", "fsdp on 2, full")
"""Ways that are tried each time; `make test-all` tries all."""


@pytest.mark.parametrize("way", [way if way in SHORT else pytest.param(way, marks=pytest.mark.slow) for way in WAYS])
def test_all_ways_are_one_worker_that_accumulates(way: str, run: Run, tmp_path: Path) -> None:
    alone = run(RECIPE, tmp_path / "alone")
    recipe = changed(RECIPE, **WAYS[way])
    assert RECIPE.train.accumulate == 4
    assert_same(run(recipe, tmp_path / "other"), alone, RECIPE)


@pytest.mark.parametrize(
    ("first", "then", "optimizer"),
    [
        ("ddp on 2", "fsdp on 4", {"optim__ema": 0.9}),
        pytest.param("fsdp on 4", "ddp on 2", {"optim__ema": 0.9}, marks=pytest.mark.slow),
        ("fsdp on 2", "alone", {"optim__name": "schedule-free", "optim__schedule": "constant"}),
        pytest.param("alone", "fsdp on 2", {"optim__name": "lion"}, marks=pytest.mark.slow),
        pytest.param("alone", "full", {"optim__name": "sophia-h"}, marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_checkpoint_fits_every_way(
    first: str, then: str, optimizer: dict[str, Any], run: Run, tmp_path: Path
) -> None:
    recipe = RECIPE
    for path, value in {"optim__schedule": "constant", **optimizer}.items():
        recipe = changed(recipe, **{path: value})
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(recipe, whole)
    parts.mkdir()
    (parts / STOP_FILE).touch()
    run(changed(recipe, **WAYS[first]), parts)
    (parts / STOP_FILE).unlink()
    run(changed(recipe, **WAYS[then]), parts)
    assert_same(parts, whole, recipe)


@pytest.mark.parametrize("way", ["ddp on 2", "fsdp on 2"])
def test_steps_that_are_no_number_are_left_out_by_all(way: str, run: Run, tmp_path: Path) -> None:
    wild = changed(RECIPE, optim__lr=1e30, optim__warmup_steps=0, optim__clip_norm=None, train__guard__budget=6)
    alone, other = run(wild, tmp_path / "alone"), run(changed(wild, **WAYS[way]), tmp_path / "other")
    steps = [
        [r["step"] for r in read_records(one / "metrics.jsonl") if r["kind"] == "refused"] for one in (alone, other)
    ]
    assert steps == [[2, 3, 4, 5, 6]] * 2
    keys = [
        [r["keys"] for r in read_records(one / "metrics.jsonl") if r["kind"] == "refused"] for one in (alone, other)
    ]
    assert [sorted(one) for one in keys[0]] == [sorted(one) for one in keys[1]]
    assert all(len(one) == 8 for one in keys[0])
    with pytest.raises(
        AssertionError, match=r"RunError: 2 of the last 1,000 steps were left out.*budget of 1;.*step 3"
    ):
        run(changed(wild, **WAYS[way], train__guard__budget=1), tmp_path / "strict")
    newest = newest_checkpoint(tmp_path / "strict")
    assert newest is not None
    assert newest.name == "step-00000003", "with a larger budget it can go on from there"


@pytest.mark.parametrize("way", ["ddp on 2", "fsdp on 2, full"])
def test_evaluations_are_those_of_one_worker(way: str, run: Run, manifest: Manifest, tmp_path: Path) -> None:
    """Of the average of the weights, over samples that no number of workers divides; and training goes on from the
    weights that it had."""
    split = Split(manifest.take(5), replace(manifest, table=manifest.table.slice(5)))
    recipe = changed(RECIPE, data__holdout=0.4, optim__ema=0.5, train__evaluate=EvaluateConfig(every=2))
    alone = run(recipe, tmp_path / "alone", split)
    other = run(changed(recipe, **WAYS[way]), tmp_path / "other", split)
    assert_same(other, alone, RECIPE)
    quiet = changed(recipe, train__evaluate=EvaluateConfig())
    assert_same(run(quiet, tmp_path / "without", split), alone, RECIPE)
    records = zip(evaluations(alone), evaluations(other), strict=True)
    for one, shared in records:
        assert shared["samples"] == one["samples"] == 3
        assert shared["scores"] == pytest.approx(one["scores"], rel=1e-4)


def evaluations(folder: Path) -> list[Any]:
    return [record for record in read_records(folder / "metrics.jsonl") if record["kind"] == "evaluation"]
