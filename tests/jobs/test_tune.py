"""Sweeps: what is refused, what schedulers do with trials, and a whole one on Ray Train."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import toy_runs
from ray import tune
from small_recipe import TINY
from test_train import ROOT
from test_train import TINY as TINY_OPTIONS

from headrace.cluster.launch import ray_cluster
from headrace.cluster.space import Space
from headrace.cluster.sweep import TRIALS
from headrace.cluster.tuner import Sweep, SweepOptions, build_tuner, made_as
from headrace.errors import UserError
from headrace.recipe import load_recipe, replace_all
from headrace.train.progress import complete_checkpoints, read_progress
from jobs import tune as job
from jobs.recipes import RECIPES

TOY = Space("tiny", {"optim.lr": tune.uniform(0.01, 1.0)}, "loss")
TOY_RECIPE = replace_all(TINY, {"train.steps": 60, "train.checkpoint_every": 15})


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["dmo"], "there is no space 'dmo': did you mean 'demo'"),
        (["demo", "--trials", "0"], "--trials must be at least 1"),
        (["demo", "--scheduler", "pbt", "--trials", "1"], "needs 2 at least"),
        (["demo", "--search", "bohb", "--scheduler", "pbt"], "scheduler of its own"),
        (["demo", "--search", "grid"], "cannot be counted"),
        (["demo", "--search", "grid", "--scheduler", "pbt"], "draws for itself"),
        (["demo", "--metric", "held_out/lss"], "--metric held_out/lss: .*did you mean 'loss'"),
        (["demo", "--metric", "lss"], "did you mean 'loss'"),
        (["demo", "--train.evaluate.every", "0"], "say --train.evaluate.every N"),
        (["demo", "--train.evaluate.every", "200"], "lower --train.evaluate.every"),
        (["demo", "--metric", "loss", "--train.checkpoint-every", "200"], "lower --train.checkpoint-every"),
        (["demo", "--scheduler", "pb2"], "optim.clip_norm is none|needs sklearn"),
        (["feeding", "--scheduler", "pbt"], "data.decoders decides which samples come when"),
        (["--resume", "nowhere"], "is no sweep"),
    ],
)
def test_what_cannot_be_is_said_first(
    arguments: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=complaint):
        job.main(arguments)
    assert not list(tmp_path.rglob("*.json")), "nothing was begun"


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        patch.setenv("RAY_AIR_NEW_OUTPUT", "0")
        with ray_cluster(cpus=8, dashboard=False):
            yield


def toy_sweep(folder: Path, **options: Any) -> tuple[Sweep, tune.ResultGrid]:
    sweep = Sweep("toy", TOY, TOY_RECIPE, SweepOptions(**options, wandb="off"), folder)
    given = {"split": [ray.put(None)], "prepare": toy_runs.prepare, "cluster": {}}
    return sweep, build_tuner(sweep, 4, goes_on=False, **given).fit()


def best_of(results: tune.ResultGrid) -> float:
    return min(result.metrics["loss"] for result in results)  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("scheduler", ["pbt", "pb2"])
def test_those_that_exploit_beat_random(scheduler: str, tmp_path: Path) -> None:
    """No rate is good in both halves of a run: only who changes it wins."""
    if scheduler == "pb2":
        pytest.importorskip("sklearn")
    _, random = toy_sweep(tmp_path / "random", trials=4, scheduler="none", search="random")
    _, exploited = toy_sweep(tmp_path / "exploited", trials=4, scheduler=scheduler)
    assert best_of(exploited) < best_of(random)
    taken_over = [path for path in (tmp_path / "exploited" / TRIALS).glob("*/1") if path.is_dir()]
    assert taken_over, "no trial went on from another's checkpoint"
    for run in taken_over:
        first = read_progress(complete_checkpoints(run)[0]).step
        assert first > 0
        assert json.loads((run / "recipe.json").read_text())["optim"]["lr"] > 0
    assert not list((tmp_path / "random" / TRIALS).glob("*/1"))


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_asha_ends_bad_trials_early(tmp_path: Path) -> None:
    sweep, results = toy_sweep(tmp_path, trials=8, scheduler="asha", search="random")
    steps = sorted(result.metrics["step"] for result in results)  # type: ignore[index]
    assert steps[0] < 60 <= steps[-1]
    tags = [made_as(result.metrics["experiment_tag"]) for result in results]  # type: ignore[index]
    assert tags == list(range(tags[0], tags[0] + 8))  # Tune counts from 0 or from 1, by the search
    assert job._end(sweep, results) == 0
    best = load_recipe((tmp_path / "best" / "recipe.json").read_text(), TOY_RECIPE, "best")
    assert best == replace(TOY_RECIPE, optim=replace(TOY_RECIPE.optim, lr=best.optim.lr))
    assert best.optim.lr in [result.config["optim.lr"] for result in results]  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_bohb_pauses_trials_and_lets_the_better_go_on(tmp_path: Path) -> None:
    pytest.importorskip("hpbandster", reason="--search bohb wants hpbandster and ConfigSpace")
    sweep, results = toy_sweep(tmp_path, trials=8, search="bohb")
    steps = sorted(result.metrics["step"] for result in results)  # type: ignore[index]
    assert steps[0] < 60 <= steps[-1]
    assert not [result.error for result in results if result.error]
    assert job._end(sweep, results) == 0


@pytest.mark.slow
@pytest.mark.ray
def test_a_sweep_that_is_killed_goes_on(tmp_path: Path, video_folder: Path) -> None:
    """A whole one, on Ray Train: killed with its second trial under way, it ends with all of them, and trials that were
    done are not done again."""
    assert "demo" in RECIPES
    small = [argument for argument in TINY_OPTIONS if argument not in ("--wandb", "off")]
    command = [sys.executable, str(ROOT / "jobs" / "tune.py"), "demo", *small, "--data.source", str(video_folder)]
    command += ["--train.steps", "12", "--train.evaluate.every", "4", "--train.checkpoint-every", "4", "--wandb", "off"]
    command += ["--trials", "3", "--scheduler", "none", "--sweep", str(tmp_path / "sweep")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if "trial 2, step 4" in line:
            for member in [process, *psutil.Process(process.pid).children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    member.kill()
            break
    else:
        raise AssertionError(said)
    process.wait(60)
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep" / TRIALS).glob("*/0/checkpoints/*12/*")}
    ended = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "tune.py"), "--resume", str(tmp_path / "sweep")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "best recipe: python jobs/train.py --from-run" in ended.stdout
    begun = [line.partition("trial ")[2].partition(" of ")[0] for line in ended.stdout.splitlines() if "begins" in line]
    assert begun == ["2", "3"], "they keep their numbers"
    assert len(list((tmp_path / "sweep" / TRIALS).iterdir())) == 3
    assert done
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
