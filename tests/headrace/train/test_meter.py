"""Failures counted over ranks that are processes of their own, as the workers of a run are."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import multiprocessing

from headrace.batch import Failure, fake_batch
from headrace.train.meter import BUDGET_GRACE, Meter, failures_exceeded
from headrace.train.progress import Progress
from headrace.train.step import StepResult

CPU = torch.device("cpu")


def result(*failures: Failure) -> StepResult:
    batch = replace(fake_batch(2, 1, 4, 4), failures=failures)
    return StepResult(torch.tensor(1.0), torch.tensor(1.0), 0.1, {}, [batch])


def failed(position: int, reason: str) -> Failure:
    return Failure(position, f"clip{position}", "a.tar", 0, reason, "")


def test_bytes_in_flight_are_the_rate_times_the_age() -> None:
    meter = Meter(CPU)
    for _ in range(4):
        meter.add(replace(result(), step_seconds=0.5, age_seconds=3.0))
    held = [batch for step in meter.steps for batch in step.batches]
    assert not held, "pixels are not kept until the next record"
    record = meter.reduce(1, stop=False).record
    assert record["in_flight_bytes"] == 2 * 4 * 4 * 3 / 0.5 * 3
    assert record["clips_per_second"] == 4.0
    meter.add(replace(result(), step_seconds=0.5, age_seconds=math.nan))
    record = meter.reduce(1, stop=False).record
    assert record["in_flight_bytes"] is None, "a decoder that does not say when it was done"
    assert record["clips_per_second"] == 4.0


def count(rank: int, ranks: int, folder: str) -> None:
    """Be one rank: two steps, in the second of which all ranks but the last meet failures."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    meter, progress, seen = Meter(CPU), Progress(position=100), []
    for failures in [(), [failed(10 + rank, "truncated"), failed(rank, "no frames")][: ranks - 1 - rank]]:
        meter.add(result(*failures))
        new = meter.reduce(ranks, stop=False).failures
        progress.count_failures(failure.reason for failure in new)
        seen.append([failure.position for failure in new])
    told = {"seen": seen, "says": failures_exceeded(progress, 0.0), "failures": progress.failures}
    Path(folder, f"{rank}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


def test_every_rank_knows_the_failures_of_all_ranks(tmp_path: Path) -> None:
    # forked, as three processes that import torch would take longer than all else here
    multiprocessing.start_processes(count, (3, str(tmp_path)), 3, start_method="fork")
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    assert told[0]["seen"] == [[], [0, 10, 11]], "in the order of their positions"
    assert told[0] == told[1] == told[2], "or one rank would stop while the others wait for it"
    assert "3 of 100 samples" in told[2]["says"]
    assert "(2 x truncated, 1 x no frames)" in told[2]["says"]


def test_the_budget_is_a_share_but_a_few_failures_at_the_start_are_none() -> None:
    def exceeded(failures: int, position: int, budget: float) -> bool:
        progress = Progress(position=position)
        progress.count_failures(["no frames"] * failures)
        return failures_exceeded(progress, budget) is not None

    assert not exceeded(10, 20, 0.01)
    assert exceeded(11, 20, 0.01)
    assert not exceeded(20, 2 * BUDGET_GRACE, 0.01)
    assert exceeded(21, 2 * BUDGET_GRACE, 0.01)
    assert exceeded(1, 10**9, 0.0)
    assert not exceeded(0, 10**9, 0.0)
    assert not exceeded(2000, 2000, 1.0)


def test_failures_are_exact_over_restarts() -> None:
    saved = Progress()
    saved.count_failures(["no frames", "too slow", "no frames"])
    again = Progress(**json.loads(json.dumps(vars(saved))))
    again.count_failures(["too slow"])
    assert again.failures == 4
    assert again.failure_reasons == {"no frames": 2, "too slow": 2}
    assert saved.failures == 3
