"""jobs/find.py: a plot and a rate that trains well, and a micro-batch that was really run."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_recipe import TINY
from torch import nn

from headrace.errors import RunError, UserError
from headrace.observe.range_chart import write_range_chart
from headrace.optim import OptimConfig
from headrace.train.find import RangeTest, largest_that_runs, range_test
from headrace.train.loop import build_trainable
from headrace.train.step_cost import noise_feed
from jobs import find

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    *("hjepa_tiny", "--model.patch-size", "12", "--model.width", "24", "--model.depth", "1", "--model.heads", "2"),
    *("--model.predictor-width", "16", "--model.predictor-depth", "1", "--model.predictor-heads", "2"),
    *("--data.height", "48", "--data.width", "48", "--augment.height", "48", "--augment.width", "48"),
    *("--data.sampling.frames", "2", "--train.global-batch", "4", "--train.micro-batch", "2"),
    *("--optim.warmup-steps", "2"),
]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 37, 64, 99, 100])
def test_the_largest_size_was_run_and_the_next_does_not_fit(limit: int) -> None:
    tried: dict[int, bool] = {}

    def run(size: int) -> None:
        tried[size] = size <= limit
        if size > limit:
            raise torch.OutOfMemoryError

    found = largest_that_runs(run, 64)
    assert found == min(limit, 64)
    assert tried[found]
    assert limit >= 64 or not tried[limit + 1]
    assert len(tried) <= 13


def test_near_enough_is_found_sooner() -> None:
    tried: list[int] = []

    def run(size: int) -> None:
        tried.append(size)
        if size > 1274:
            raise torch.OutOfMemoryError

    assert 0.95 * 1274 <= largest_that_runs(run, 2048, near=0.05) <= 1274
    assert len(tried) < 18


def test_not_even_one_fits() -> None:
    def run(_: int) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(RunError, match="not even a micro-batch of 1 fits"):
        largest_that_runs(run, 64)


def test_the_range_test_leaves_no_trace() -> None:
    trainable = build_trainable(TINY, torch.device("cpu"))
    before = {name: value.clone() for name, value in trainable.objective.state_dict().items()}
    with noise_feed(TINY, torch.device("cpu")) as feed:
        found = range_test(trainable, feed, TINY, 1e-5, 1e-1, 21)
    assert found.rates == pytest.approx(1e-5 * 10 ** (np.arange(21) / 5))
    assert all(torch.equal(value, before[name]) for name, value in trainable.objective.state_dict().items())
    assert not trainable.optimizer.state_dict()["state"]


@pytest.mark.parametrize("name", ["adamw", "schedule-free", "lion", "sophia-h"])
def test_any_optimizer_at_any_rate(name: str) -> None:
    schedule = "constant" if name == "schedule-free" else "wsd"
    recipe = replace(TINY, optim=OptimConfig(name=name, schedule=schedule, warmup_steps=2))  # type: ignore[arg-type]
    trainable = build_trainable(recipe, torch.device("cpu"))
    with noise_feed(recipe, torch.device("cpu")) as feed:
        found = range_test(trainable, feed, recipe, 1e-9, 1e-7, 10)
    assert len(found.rates) == 10


def test_the_edge_of_a_bowl_is_found() -> None:
    """Gradient descent on w^2 / 2 x curvature runs away beyond a rate of 2 / curvature."""
    curvature, rates = 10.0, 1e-4 * (1e4) ** (np.arange(200) / 199)
    weight, losses = nn.Parameter(torch.tensor(1.0)), []
    for rate in rates:
        loss = 0.5 * curvature * weight.square()
        losses.append(loss.item())
        [gradient] = torch.autograd.grad(loss, [weight])
        with torch.no_grad():
            weight -= rate * gradient
    smoothed = np.array(losses)
    found = RangeTest(rates, np.array(losses), smoothed)
    assert 0.001 < found.suggestion < found.highest <= 2 / curvature * 1.2


def test_a_loss_that_never_falls_gives_no_rate(tmp_path: Path) -> None:
    rates = np.logspace(-4, 0, 30)
    flat = RangeTest(rates, np.linspace(1, 2, 30), np.linspace(1, 2, 30))
    assert np.isnan(flat.suggestion)
    assert "never fell" in find.verdict(flat)
    write_range_chart(flat.rates, flat.losses, flat.smoothed, flat.suggestion, tmp_path / "lr.svg")
    assert "falls fastest" not in (tmp_path / "lr.svg").read_text()


def test_lr(video_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "plots" / "lr.svg"
    source = ["--data.source", str(video_folder)]
    assert find.main(["lr", *SMALL, *source, "--range-steps", "30", "--plot", str(plot)]) == 0
    assert plot.read_text().startswith("<svg")
    said = capsys.readouterr().out.strip().splitlines()[-1]
    assert "--optim.lr" in said or "never fell" in said


def test_batch_under_a_limit_of_memory(tmp_path: Path) -> None:
    """In a process of its own, which the limit stays with."""
    command = [sys.executable, str(ROOT / "jobs" / "find.py"), "batch", *SMALL, "--limit-gigabytes", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    *tried, verdict = ended.stdout.strip().splitlines()
    sizes = [int(line.split()[0]) for line in tried]
    assert f"A micro-batch of {max(sizes)} is the largest that ran" in verdict


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_batch_over_workers_that_share_the_model(parallel: str, tmp_path: Path) -> None:
    """Each size on all workers; the limit is met by one that has no room, and the next one is tried all the same."""
    command = [sys.executable, str(ROOT / "jobs" / "find.py"), "batch", *SMALL, "--train.workers", "2"]
    command += ["--train.parallel", parallel, "--limit-gigabytes", "0.5", "--most", "2048"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=900, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    *tried, verdict = ended.stdout.strip().splitlines()
    sizes = [int(line.split()[0]) for line in tried]
    assert f"A micro-batch of {max(sizes)} is the largest that ran on 2 workers" in verdict
    assert max(sizes) < 2048


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lrr"], "looks for lr or batch, not 'lrr'"),
        (["batch", *SMALL], "there is no GPU here.*--limit-gigabytes"),
        (["lr", *SMALL, "--lowest", "1", "--highest", "0.1"], "--lowest must be above 0 and below --highest"),
        (["lr", *SMALL, "--range-steps", "3"], "--range-steps must be at least 10"),
    ],
)
def test_what_cannot_be(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find.main(arguments)
