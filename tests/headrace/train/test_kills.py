"""kill -9 at any moment, in the midst of a checkpoint too: the newest one loads, and nothing is lost or repeated."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_recipe import TINY

from data_pipelines.index import index
from headrace.data.scan import shards_of
from headrace.recipe import Recipe
from headrace.train import checkpoint
from headrace.train.progress import name_of, newest_checkpoint, read_progress

TRAIN = """
import sys
from pathlib import Path
import torch
from data_pipelines.index import index
from headrace.data.scan import shards_of
from headrace.train import loop, places
from small_recipe import session_of
from test_kills import recipe_of

source, run, steps, stuck = sys.argv[1:]
if stuck == "stuck":  # all is written but for the name
    flush = places.flush
    def wait(folder):
        flush(folder)
        print("written", flush=True)
        import time; time.sleep(60)
    places.flush = wait
recipe = recipe_of(int(steps))
torch.set_num_threads(1)
manifest = index(source, shards_of(source)).usable()
loop.train(recipe, session_of(recipe, Path(run), manifest))
"""


def recipe_of(steps: int) -> Recipe:
    optim = replace(TINY.optim, warmup_steps=0, schedule="constant")
    return replace(TINY, optim=optim, train=replace(TINY.train, steps=steps, checkpoint_every=1, keep_checkpoints=2))


def start(source: Path, run: Path, steps: int, *, stuck: bool = False) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", TRAIN, str(source), str(run), str(steps), "stuck" if stuck else ""]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True)


def consumed(run: Path) -> dict[tuple[int, int], list[int]]:
    lines = [json.loads(line) for line in (run / "ledger-0.jsonl").read_text().splitlines() if line.endswith("}")]
    return {(line["step"], line["micro_batch"]): line["samples"] for line in lines}


def loads(run: Path) -> int:
    newest = newest_checkpoint(run)
    if newest is not None:
        checkpoint.load_model(newest, TINY.model.build(TINY.augment.height, TINY.augment.width))
    return read_progress(newest).step


@pytest.fixture
def source(video_folder: Path) -> Path:
    index(str(video_folder), shards_of(str(video_folder)))
    return video_folder


def test_killed_before_a_checkpoint_has_its_name(source: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert start(source, run, 2).wait(120) == 0
    process = start(source, run, 4, stuck=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    process.kill()
    process.wait()
    assert (run / "checkpoints" / ".step-00000003.partial" / "progress.json").is_file()
    assert loads(run) == 2
    assert start(source, run, 4).wait(120) == 0
    assert loads(run) == 4


@pytest.mark.slow
def test_killed_again_and_again_is_the_undisturbed_run(source: Path, tmp_path: Path) -> None:
    steps, draws = 60, random.Random(0)
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert start(source, whole, steps).wait(300) == 0
    kills, reached = 0, [0]
    while True:
        process = start(source, run, steps)
        while name_of(newest_checkpoint(run) or "") in ("", f"step-{reached[-1]:08d}"):
            if process.poll() is not None:
                break
            time.sleep(0.02)
        try:
            code = process.wait(draws.uniform(0, 0.4))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            reached.append(loads(run))
            assert reached[-1] > reached[-2], "each attempt gets further"
        else:
            assert code == 0
            break
    assert kills >= 5
    assert consumed(run) == consumed(whole)
    left, right = (TINY.model.build(TINY.augment.height, TINY.augment.width) for _ in range(2))
    for folder, model in ((run, left), (whole, right)):
        newest = newest_checkpoint(folder)
        assert newest is not None
        checkpoint.load_model(newest, model)
    for name, weight in left.state_dict().items():
        assert torch.equal(weight, right.state_dict()[name]), name
