"""A training run on a cluster where everything dies, again and again; its ledger must be that of an undisturbed run.

    python benchmarks/chaos.py --minutes 30

A head and two nodes on this machine. At random times a decode actor, a training worker, a node or the driver is killed,
or the run is asked to stop; it is then resumed, by other numbers of workers and streams. What was consumed is compared
with the order, position by position: nothing lost, nothing twice, nothing in another place. Prints what happened; the
last line is JSON, and the exit code 1 where the ledger does not hold.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tyro
from ray.cluster_utils import Cluster
from rich.console import Console

from headrace import keyed
from headrace.cli import saved_recipe
from headrace.cluster.launch import ERROR_FILE
from headrace.cluster.trainer import plan_of
from headrace.data.encode import encode_video
from headrace.data.manifest import Manifest
from headrace.errors import UserError, exit_with_sentence
from headrace.train.progress import newest_checkpoint, read_progress
from jobs import index
from jobs.recipes import RECIPES

ROOT = Path(__file__).resolve().parent.parent
CLIPS, FRAMES = 40, 24
WORKERS = (1, 2, 4)
GLOBAL_BATCH, MICRO_BATCH = 8, 2
TINY = (
    *("--model.patch-size", "12", "--model.width", "24", "--model.depth", "1", "--model.heads", "2"),
    *("--model.predictor-width", "16", "--model.predictor-depth", "1", "--model.predictor-heads", "2"),
    *("--data.height", "48", "--data.width", "48", "--augment.height", "48", "--augment.width", "48"),
    *("--data.sampling.frames", "2", "--data.read-ahead", "8", "--optim.warmup-steps", "2", "--wandb", "off"),
    *("--train.global-batch", str(GLOBAL_BATCH), "--train.micro-batch", str(MICRO_BATCH)),
    *("--train.steps", "1000000", "--train.checkpoint-every", "25", "--train.restarts", "1000"),
    *("--train.ledger", "True", "--data.decoders", "1..3"),
)


@dataclass(frozen=True)
class Options:
    """Disturb a run for so long, then look at its ledger."""

    minutes: float = 30.0
    """How long the run is disturbed."""

    seed: int = 0
    """Of what happens when."""

    pause: float = 25.0
    """Seconds from one disturbance to the next, on average."""

    repeats: int = 1
    """Clips from each decode (--data.repeats)."""

    def __post_init__(self) -> None:
        if self.minutes <= 0 or self.pause <= 0:
            raise UserError(f"minutes and pause must be positive, got {self.minutes} and {self.pause}")


@dataclass
class Disturbed:
    """The run, its cluster and what happened to it."""

    run: Path
    source: Path
    options: Options
    cluster: Cluster
    console: Console
    driver: subprocess.Popen[bytes] | None = None
    happened: Counter[str] = field(default_factory=Counter)
    workers: int = 2
    streams: int = 1
    draws: int = 0

    def draw(self, below: int) -> int:
        """Return the next random number."""
        self.draws += 1
        return int(keyed.integers(below, "chaos", self.options.seed, self.draws))

    def go_on(self) -> None:
        """Start the run, or resume it, where no driver runs."""
        if self.driver is not None:
            if self.driver.poll() is None:
                return
            if self.driver.returncode > 0:
                self.happened["the run gave up"] += 1
                self.say(f"the run gave up: {self._last_words()}")
                self.console.print(self._why())
        command = [sys.executable, str(ROOT / "jobs" / "train.py")]
        if newest_checkpoint(self.run) is None:
            self.run = self.run.with_name(f"run{self.draws}")
            command += ["hjepa_tiny", "--data.source", str(self.source), *TINY, "--output", str(self.run)]
            command += ["--data.repeats", str(self.options.repeats), "--data.repeats-apart", "8"]
        else:
            self.workers = WORKERS[self.draw(len(WORKERS))]
            self.streams = 1 + self.draw(2) if self.workers > 1 else 1
            command += ["--resume", str(self.run), "--wandb", "off"]
        self.happened["started or resumed"] += 1
        self.say(f"starting with {self.workers} workers, {self.streams} streams")
        with (self.run.parent / "said.txt").open("ab") as said:
            self.driver = subprocess.Popen(
                [*command, "--train.workers", str(self.workers), "--data.streams", str(self.streams)],
                stdout=said,
                stderr=said,
                env=os.environ | {"RAY_ADDRESS": self.cluster.address},
            )

    def disturb(self) -> None:
        """Let something happen."""
        events: list[Callable[[], str]] = [
            lambda: self._kill("ray::MapWorker(MapBatches(Decode))", "decode actor"),
            lambda: self._kill("ray::RayTrainWorker", "training worker"),
            self._kill_node,
            self._kill_driver,
            self._stop,
        ]
        what = events[self.draw(len(events))]()
        if what:
            self.happened[what] += 1
            self.say(what)

    def _last_words(self) -> str:
        said = (self.run.parent / "said.txt").read_text(errors="replace").strip().splitlines()
        return said[-1] if said else ""

    def _why(self) -> str:
        error = self.run / ERROR_FILE
        return error.read_text(errors="replace")[-4000:] if error.exists() else ""

    def say(self, what: str) -> None:
        """Print it with the step that the run's newest checkpoint is at."""
        self.console.print(f"step {read_progress(newest_checkpoint(self.run)).step:7,}  {what}")

    def end(self) -> None:
        """Bring the run to a checkpoint."""
        if self.driver is not None and self.driver.poll() is None:
            self.driver.send_signal(signal.SIGINT)
            self.driver.wait(timeout=180)

    def _kill(self, title: str, what: str) -> str:
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                if title in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        if not found:
            return ""
        found[self.draw(len(found))].kill()
        return f"killed a {what}"

    def _kill_node(self) -> str:
        nodes = list(self.cluster.worker_nodes)
        if not nodes:
            return ""
        self.cluster.remove_node(nodes[self.draw(len(nodes))], allow_graceful=False)
        time.sleep(2)
        self.cluster.add_node(num_cpus=2, object_store_memory=200 << 20)
        return "killed a node"

    def _kill_driver(self) -> str:
        if self.driver is None or self.driver.poll() is not None:
            return ""
        self.driver.kill()
        self.driver.wait()
        return "killed the driver"

    def _stop(self) -> str:
        if self.driver is None or self.driver.poll() is not None:
            return ""
        self.driver.send_signal(signal.SIGINT)
        try:
            self.driver.wait(timeout=120)
        except subprocess.TimeoutExpired:
            self.driver.kill()
            return "asked to stop, and killed as it did not"
        return "asked to stop"


def main(arguments: list[str]) -> int:
    """Disturb, end, compare."""
    options = tyro.cli(Options, prog="chaos.py", args=arguments)
    console = Console(stderr=True, highlight=False, markup=False)
    with tempfile.TemporaryDirectory(prefix="headrace-chaos-") as folder, _cluster() as cluster:
        source = _clips(Path(folder) / "clips")
        disturbed = Disturbed(Path(folder) / "run", source, options, cluster, console)
        disturbed.go_on()
        until = time.monotonic() + 60 * options.minutes
        while time.monotonic() < until:
            pause = -options.pause * np.log(1 - keyed.uniform("pause", options.seed, disturbed.draws))
            time.sleep(float(np.clip(pause, 2, until - time.monotonic() if until > time.monotonic() else 2)))
            disturbed.disturb()
            disturbed.go_on()
        disturbed.end()
        result = examine(disturbed.run)
        if not result["holds"]:
            console.print((disturbed.run.parent / "said.txt").read_text()[-4000:])
    result |= {"minutes": options.minutes, "repeats": options.repeats, "happened": dict(disturbed.happened)}
    print(json.dumps(result))
    return 0 if result["holds"] else 1


def examine(run: Path) -> dict[str, Any]:
    """Compare what a run consumed, up to its newest checkpoint, with its order."""
    recipe = saved_recipe(run, RECIPES)
    manifest = Manifest.load(recipe.data.source)
    assert manifest is not None
    plan = plan_of(recipe, manifest.usable())
    steps = read_progress(newest_checkpoint(run)).step

    consumed: dict[int, list[int]] = {}
    wrong = lines = 0
    for path in sorted(run.glob("ledger-*.jsonl")):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            lines += 1
            number, samples = entry["micro_batch"], entry["samples"]
            at_its_step = number * MICRO_BATCH // GLOBAL_BATCH + 1 == entry["step"]
            wrong += not at_its_step or consumed.setdefault(number, samples) != samples
    due = range(steps * GLOBAL_BATCH // MICRO_BATCH)
    lost = sum(number not in consumed for number in due)
    for number in due:
        strip = plan.echo.strip(number)
        expected = plan.order.rows(np.arange(strip * MICRO_BATCH, (strip + 1) * MICRO_BATCH)).tolist()
        wrong += number in consumed and consumed[number] != expected
    return {
        "holds": not lost and not wrong and steps > 0,
        "steps": steps,
        "samples": steps * GLOBAL_BATCH,
        "lost": lost,
        "wrong": wrong,
        "steps_done_again": lines * MICRO_BATCH // GLOBAL_BATCH - steps,
    }


@contextmanager
def _cluster() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 200 << 20})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=2, object_store_memory=200 << 20)
        yield cluster
    finally:
        cluster.shutdown()


def _clips(folder: Path) -> Path:
    folder.mkdir()
    for number in range(CLIPS):
        levels = (40 + 5 * number + 4 * np.arange(FRAMES)) % 256
        pixels = np.broadcast_to(levels[:, None, None, None], (FRAMES, 64, 96, 3)).astype(np.uint8)
        (folder / f"clip{number:02}.mp4").write_bytes(encode_video(np.ascontiguousarray(pixels), 12, gop=8))
    index.main([str(folder)])
    return folder


if __name__ == "__main__":
    exit_with_sentence(lambda: main(sys.argv[1:]))
