"""A run that goes on until its test is over, on a cluster that is looked after elsewhere."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from test_train import ROOT

from headrace.observe.records import read_records

SMALL = {
    "--data.height": 48,
    "--data.width": 48,
    "--augment.height": 48,
    "--augment.width": 48,
    "--data.sampling.frames": 8,
    "--train.global-batch": 8,
    "--train.micro-batch": 4,
    "--wandb": "off",
}
MODEL = [str(word) for option in SMALL.items() for word in option]
"""A model whose steps take half a second on a CPU: one decoder that does not wait is enough for it."""


@contextlib.contextmanager
def training(environment: Mapping[str, str], source: Path, run: Path, *options: str) -> Iterator[None]:
    """Train a small model until the block is left; what it said is printed then, and kept in `train.log`."""
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), "hjepa_tiny", "--data.source", str(source), *MODEL]
    command += ["--train.steps", "1000000", "--train.checkpoint-every", "100000", "--output", str(run), *options]
    log = run.parent / "train.log"
    with log.open("w") as output:
        train = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=run.parent)
    try:
        yield
    finally:
        print(log.read_text())
        train.send_signal(signal.SIGTERM)
        try:
            train.wait(60)
        except subprocess.TimeoutExpired:
            train.kill()


def steps_done(run: Path) -> int:
    """Return the step of a run's newest record."""
    if not (run / "metrics.jsonl").exists():
        return 0
    steps = [record["step"] for record in read_records(run / "metrics.jsonl") if record["kind"] == "step"]
    return max(steps, default=0)


def wait_until(holds: Callable[[], bool], seconds: float, what: str) -> float:
    """Wait, and return how long it took."""
    start = time.monotonic()
    while not holds():
        assert time.monotonic() - start < seconds, f"{what}: not within {seconds:.0f} s"
        time.sleep(1)
    return time.monotonic() - start
