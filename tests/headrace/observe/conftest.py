from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest


def fake_records(
    steps: int = 200,
    *,
    wait_share: float = 0.05,
    decode_seconds: float = 0.05,
    decoders: int = 2,
    restart_at: int | None = None,
    failures: int = 0,
    end: str | None = "finished",
    cores: int | None = None,
    mfu: float | None = None,
) -> list[dict[str, Any]]:
    """Return the records of a run of 16 clips a step, with a checkpoint every 50 steps."""
    draws = random.Random(0)
    now = 1_790_000_000.0
    world: dict[str, Any] = {"python": "3.11.9", "torch": "2.13.0"}
    start = {
        "kind": "start",
        "time": now,
        "recipe": "demo",
        "workers": 2,
        "device": "cpu",
        "global_batch": 16,
        "micro_batch": 8,
        "accumulate": 1,
        "steps": steps,
        "step": 0,
        "position": 0,
        "attempt": 0,
        "parameters": 1_234_567,
        "flops_per_clip": 1_594_718_208,
        "peak_flops": None if mfu is None else 1e12,
        "world": world if cores is None else {**world, "cores": cores},
    }
    records: list[dict[str, Any]] = [start]
    numbers = list(range(1, steps + 1))
    if restart_at is not None:
        back_to = restart_at // 50 * 50
        numbers = [*range(1, restart_at + 1), *range(back_to + 1, steps + 1)]
    for index, step in enumerate(numbers):
        if restart_at is not None and index == restart_at:
            now += 12.0
            reason = "a worker was lost; the run goes on from its newest checkpoint"
            records.append({"kind": "restart", "time": now, "attempt": 1, "step": step - 1, "reason": reason})
            records.append({**start, "time": now, "step": step - 1, "position": 16 * (step - 1), "attempt": 1})
        compute = 0.28 + 0.03 * draws.random()
        share = min(0.95, wait_share * (0.5 + draws.random()))
        seconds = compute / (1 - share)
        now += seconds
        records.append(
            {
                "kind": "step",
                "time": now,
                "step": step,
                "steps": steps,
                "position": 16 * step,
                "loss": 0.4 + 2.2 * math.exp(-step / 40) + 0.06 * draws.gauss(0, 1),
                "lr": 3e-4 * min(1, step / 20) * 0.5 * (1 + math.cos(math.pi * step / steps)),
                "grad_norm": 1 + draws.random(),
                "clips_per_second": 16 / seconds,
                "step_seconds": seconds,
                "wait_seconds": seconds - compute,
                "wait_share": share,
                "decode_cpu_seconds_per_clip": decode_seconds * (0.9 + 0.2 * draws.random()),
                "decode_actors": decoders,
                "queue": 2,
                "in_flight_bytes": 24_000_000,
                "failures": min(failures, step),
                "failure_share": min(failures, step) / (16 * step),
                "memory_bytes": 1_210_000_000,
                "flops_per_second": 1_594_718_208 * 8 / seconds,
                "mfu": mfu,
                "compiles": 3 if step == 1 else 0,
                "extra": {"std": 0.9 + 0.05 * draws.random(), "mask_ratio": 0.75},
            }
        )
        if step <= failures:
            records.append(
                {
                    "kind": "failure",
                    "time": now,
                    "key": f"clip-{step:05d}",
                    "shard": "street-000003.tar",
                    "reason": ("truncated or damaged", "no frames")[step % 3 == 0],
                    "message": "moov atom not found",
                }
            )
        if step % 50 == 0:
            path = f"checkpoints/step-{step:08d}"
            records.append(
                {"kind": "checkpoint", "time": now, "step": step, "path": path, "seconds": 0.4, "blocked_seconds": 0.05}
            )
    if end is not None:
        records.append({"kind": "end", "time": now, "step": steps, "outcome": end, "message": ""})
    return records


def eventful_records() -> list[dict[str, Any]]:
    """Return the records of a run in which a step was left out, shapes changed, and two steps were profiled."""
    records = fake_records(20, mfu=0.41)
    step_10 = next(index for index, record in enumerate(records) if record.get("step") == 10)
    records[step_10]["compiles"] = 2
    now = records[step_10]["time"]
    keys = [f"clip-{number:02d}.mp4" for number in range(16)]
    kernels = [
        {"name": "aten::addmm <b>", "calls": 120, "seconds": 0.5, "share": 0.62},
        {"name": "aten::mm", "calls": 60, "seconds": 0.3, "share": 0.38},
    ]
    refused = {"kind": "refused", "time": now, "step": 10, "loss": None, "grad_norm": None, "keys": keys}
    profile = {"kind": "profile", "time": now, "step": 10, "path": "profile/steps-9-10.json.gz", "kernels": kernels}
    records[step_10 + 1 : step_10 + 1] = [refused, profile]
    return records


def evaluated_records(steps: int = 200, *, every: int = 50) -> list[dict[str, Any]]:
    """Return the records of a run that is evaluated as well; step 100 is the best."""
    records = []
    for record in fake_records(steps):
        if record["kind"] == "step" and record["step"] % every == 0:
            records.append(record)
            away = abs(record["step"] - 100)
            scores = {"loss": 0.5 + away / 1000, "rankme": 12.5 - away / 100, "knn": 0.75}
            evaluation = {"kind": "evaluation", "time": record["time"], "step": record["step"], "samples": 1024}
            took = {"seconds": 3.5, "wait_seconds": 0.01, "best": record["step"] <= 100, "compiles": 0}
            record = {**evaluation, **took, "scores": scores}
        records.append(record)
    return records


@pytest.fixture
def evaluated() -> Callable[..., list[dict[str, Any]]]:
    """The maker of the records of a run with evaluations: see `evaluated_records`."""
    return evaluated_records


@pytest.fixture
def eventful() -> list[dict[str, Any]]:
    """The records of a run in which something happened: see `eventful_records`."""
    return eventful_records()


@pytest.fixture
def fake() -> Callable[..., list[dict[str, Any]]]:
    """The maker of a run's records: see `fake_records`."""
    return fake_records
