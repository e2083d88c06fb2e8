"""How long training waits for data over minutes, step by step, while the decoders could give more than it takes.

    python benchmarks/waiting.py --minutes 10                                  the demo recipe on its own clips
    python benchmarks/waiting.py --minutes 10 -- hjepa_tiny --data.source my_videos

What follows `--` is given to `jobs/train.py`. The run is told to stop when the time is over. The first seconds, in
which the model is built and the queues fill, are shown and not counted. Writes a chart; the last line printed is JSON.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.chart import Line, chart_svg
from headrace.errors import RunError, UserError, exit_with_sentence
from headrace.observe.advice import feeding_advice
from headrace.observe.history import History
from headrace.observe.records import METRICS_FILE, StepRecord, number, read_records

ROOT = Path(__file__).resolve().parent.parent
WINDOW_SECONDS = 10.0
WARM_SECONDS = 20.0
AIM = 0.02


@dataclass(frozen=True)
class Options:
    """Train for a while and look at the waiting."""

    minutes: float = 10.0
    """How long, from the first step on."""

    chart: str = str(ROOT / "docs" / "waiting.svg")
    """Where the chart is written."""

    def __post_init__(self) -> None:
        if 60 * self.minutes <= WARM_SECONDS + WINDOW_SECONDS:
            raise UserError(f"minutes must be more than {(WARM_SECONDS + WINDOW_SECONDS) / 60:g}, got {self.minutes}")


def main(arguments: list[str]) -> int:
    """Train, stop, chart."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = tyro.cli(Options, prog="waiting.py", args=arguments[:split])
    with tempfile.TemporaryDirectory(prefix="headrace-waiting-") as folder:
        run = Path(folder) / "run"
        _train(run, arguments[split + 1 :], 60 * options.minutes)
        history = _history(run)
    began = history.steps[0]["time"]
    counted = [step for step in history.steps if step["time"] >= began + WARM_SECONDS]
    shares = windows(history.steps, wait_share)
    steady = [share for seconds, share in shares if seconds > WARM_SECONDS + WINDOW_SECONDS]
    panels = [
        _panel(f"Waiting, % of each {WINDOW_SECONDS:.0f} s", [(x, 100 * y) for x, y in shares]),
        _panel("Micro-batches ready behind a step", windows(history.steps, lambda steps: _mean(steps, "queue"))),
        _panel(
            "Decoded and not yet consumed, MB",
            windows(history.steps, lambda steps: _mean(steps, "in_flight_bytes") / 1e6),
        ),
    ]
    advice = feeding_advice(counted, history.cores, history.pool[-1] if history.pool else None)
    result = {
        "wait_share": wait_share(counted),
        "worst_window": max(steady),
        "met": wait_share(counted) < AIM,
        "steps": len(counted),
        "minutes": (history.steps[-1]["time"] - began) / 60,
        "clips_per_second": _mean(counted, "clips_per_second"),
        "advice": advice.sentence,
    }
    note = f"{len(counted):,} steps in {result['minutes']:.1f} minutes; waited {result['wait_share']:.2%} of the time"
    Path(options.chart).write_text(chart_svg("What training waits for data", note, panels), encoding="utf-8")
    print(f"{note}; the worst {WINDOW_SECONDS:.0f} s {result['worst_window']:.2%}")
    print(f"the report says: {advice.sentence}")
    print(json.dumps(result))
    return 0


def wait_share(steps: Sequence[StepRecord]) -> float:
    """Return the share of the time of these steps that was spent waiting."""
    seconds = sum(number(step, "step_seconds") for step in steps)
    return sum(number(step, "wait_seconds") for step in steps) / seconds if seconds else math.nan


def windows(steps: Sequence[StepRecord], value: Callable[[Sequence[StepRecord]], float]) -> list[tuple[float, float]]:
    """Return a value of the steps of each window, at the window's end in seconds since the first step."""
    began, groups = steps[0]["time"], dict[int, list[StepRecord]]()
    for step in steps:
        groups.setdefault(int((step["time"] - began) / WINDOW_SECONDS), []).append(step)
    return [((window + 1) * WINDOW_SECONDS, value(group)) for window, group in sorted(groups.items())]


def _train(run: Path, arguments: Sequence[str], seconds: float) -> None:
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), *(arguments or ["demo"]), "--output", str(run)]
    long = ["--train.steps", "1000000", "--train.checkpoint-every", "1000000", "--wandb", "off"]
    with (run.parent / "said.txt").open("w+") as said:
        training = subprocess.Popen([*command, *long], cwd=ROOT, stdout=said, stderr=said, env=dict(os.environ))
        until = math.inf
        while time.monotonic() < until:
            time.sleep(0.5)
            if training.poll() is not None:
                said.seek(0)
                raise RunError(f"training ended by itself: {said.read().strip().splitlines()[-1:]}")
            if until == math.inf and _history(run).steps:
                until = time.monotonic() + seconds
        training.send_signal(signal.SIGINT)
        training.wait(timeout=300)


def _history(run: Path) -> History:
    history = History()
    for record in read_records(run / METRICS_FILE):
        history.add(record)
    return history


def _mean(steps: Sequence[StepRecord], name: str) -> float:
    return sum(number(step, name) for step in steps) / len(steps)


def _panel(title: str, points: Sequence[tuple[float, float]]) -> Line:
    return Line(title, "", [(x / 60, y) for x, y in points if math.isfinite(y)], "min")


if __name__ == "__main__":
    exit_with_sentence(lambda: main(sys.argv[1:]))
