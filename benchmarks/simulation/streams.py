"""Real streams, watched: an embedded Ray, `data_pipelines.clips`, a consumer that computes nothing or sleeps.

    consumer <- blocks in order <- Ray Data's executor (a thread of this process) <- decode actors
       |                              |                                                 |
    when it waited            CPU of each look (`Looks`)              CPU and wall of each strip (its own record)

The executor runs in the consumer's process, so both can be watched from here; trainers have it in a process of its own,
which `split_costs` looks at from outside.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import numpy as np
import psutil
import ray
import ray.data
from numpy.typing import NDArray

from benchmarks.clips import Encoding, generated_video
from data_pipelines.clips import batches, micro_batches
from data_pipelines.index import index
from headrace.batch import Batch
from headrace.cluster.context import HOLD_NONE
from headrace.data.agenda import Agenda
from headrace.data.config import DataConfig, PoolSize
from headrace.data.manifest import Manifest
from headrace.data.order import Order
from headrace.data.reader import Plan
from headrace.data.sampling import SamplingConfig
from headrace.data.scan import shards_of
from headrace.data.split import Split
from headrace.errors import RunError

ROOT = Path(__file__).resolve().parent.parent.parent
_LONG = 10**6  # steps: nobody comes to the end
_SAMPLES = 64
_GONE_SECONDS = 60.0
_WARM_SECONDS = 4.0


@dataclass(frozen=True)
class Stream:
    """What is streamed.

    Attributes:
        decoder: as `--data.decoder`.
        micro_batch: clips of a block.
        frames, size: of a clip, and height and width in pixels.
        read_ahead: micro-batches that may lie decoded.
    """

    decoder: str = "auto"
    micro_batch: int = 4
    frames: int = 8
    size: int = 224
    read_ahead: int = 32

    def open(self, manifest: Manifest, decoders: int) -> tuple[ray.data.Dataset, Agenda]:
        """Return the dataset that `jobs/train.py` would stream, and what a run consumes of it."""
        data = DataConfig(
            height=self.size,
            width=self.size,
            sampling=SamplingConfig(frames=self.frames),
            decoder=self.decoder,
            read_ahead=self.read_ahead,
        )
        plan, agenda = Plan(Order(len(manifest), 0), data, self.micro_batch), Agenda(steps=_LONG)
        split = ray.put(Split.whole(manifest))
        return micro_batches(split, plan, agenda, PoolSize(decoders, decoders)), agenda


@dataclass(frozen=True)
class Seen:
    """What was seen of a real stream over its window.

    Attributes:
        decoders: actors.
        clips_per_second, wait_share: as the consumer saw them.
        blocks: of each block, seconds that its decoder waited, and seconds of a core.
        gap_seconds: of an actor, from the end of a block to the beginning of the next, if that is there already.
        outside_seconds: CPU for each block of all processes, but for decoding, gaps, the executor and an idle Ray.
        foreign_cores: what processes of others took meanwhile, or the machine's host.
        looks: [looks, 3] of each look of the executor: seconds of CPU, blocks taken, decode actors.
    """

    decoders: int
    clips_per_second: float
    wait_share: float
    blocks: list[tuple[float, float]]
    gap_seconds: float
    outside_seconds: float
    foreign_cores: float
    looks: NDArray[np.float64]


class Looks:
    """Joins Ray Data's executor as a callback and notes the CPU of each of its looks.

    Attributes:
        noted: (thread's CPU seconds, blocks given, actors) at the end of each look of the newest execution.
        operator: the one that decodes, in the newest execution.
    """

    noted: ClassVar[list[tuple[float, float, float]]] = []
    operator: ClassVar[Any] = None

    def before_execution_starts(self, executor: Any) -> None:
        """Find the operator that decodes."""
        found = [op for op in executor._topology if op.get_autoscaling_actor_pools()]
        type(self).operator, type(self).noted = found[0], []

    def on_execution_step(self, executor: Any) -> None:
        """Note the look that ends."""
        [pool] = self.operator.get_autoscaling_actor_pools()
        actors = pool.num_running_actors()
        self.noted.append((time.thread_time(), self.operator.metrics.num_task_outputs_generated, actors))

    def after_execution_succeeds(self, executor: Any) -> None:
        """Nothing to do."""

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Nothing to do."""


def corpus(folder: Path) -> Manifest:
    """Return a folder of short clips, indexed; all are one generated video, at other moments each time."""
    video = generated_video(Encoding("h264", 30, 3, frames=90))
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(_SAMPLES):
        shutil.copy(video, folder / f"{number:03d}.mp4")
    return index(str(folder), shards_of(str(folder))).usable()


@contextlib.contextmanager
def embedded_ray(cpus: int) -> Iterator[None]:
    """Start a Ray whose workers find this package."""
    from headrace.cluster.launch import ray_cluster

    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
    context = ray.data.DataContext.get_current()
    callbacks = getattr(context, "custom_execution_callback_classes", None)
    if callbacks is None:
        raise RunError("this Ray Data has no execution callbacks, by which its executor is watched")
    with ray_cluster(cpus=cpus, dashboard=False):
        callbacks.append(Looks)
        try:
            yield
        finally:
            callbacks.remove(Looks)


def watch(
    stream: Stream,
    manifest: Manifest,
    decoders: int,
    *,
    seconds: float,
    step_seconds: float = 0.0,
    idle_cores: float = 0.0,
) -> Seen:
    """Stream for a while and return what was seen.

    Args:
        stream, manifest, decoders: what, by how many.
        seconds: of the window. Before it, all actors start, and then stream for a while.
        step_seconds: for which the consumer sleeps with each block.
        idle_cores: see `Costs.ray_idle_cores`.
    """
    dataset, agenda = stream.open(manifest, decoders)
    taking = batches(dataset, agenda)
    warm = math.inf
    while time.perf_counter() < warm:
        next(taking)
        time.sleep(step_seconds)
        if warm == math.inf and Looks.noted[-1][2] == decoders:
            warm = time.perf_counter() + _WARM_SECONDS
    cpu, busy, first_look, began = family_cpu_seconds(), _busy_seconds(), len(Looks.noted), time.perf_counter()
    came: list[Batch] = []
    waited, now = 0.0, began
    while now < began + seconds:
        asked = time.perf_counter()
        batch = next(taking)
        waited += time.perf_counter() - asked
        came.append(batch)
        time.sleep(step_seconds)
        now = time.perf_counter()
    passed, cpu, busy = now - began, family_cpu_seconds() - cpu, _busy_seconds() - busy
    looks = np.array(Looks.noted[max(0, first_look - 1) :])
    taking.close()  # type: ignore[attr-defined]
    del dataset
    _await_end_of_actors()
    blocks = [(max(0.0, b.cost.wall_seconds - b.cost.cpu_seconds), b.cost.cpu_seconds) for b in came]
    gap, executor = _gap_seconds(came), float(looks[-1, 0] - looks[0, 0])
    known = sum(work for _, work in blocks) + len(came) * gap + executor + idle_cores * passed
    return Seen(
        decoders=decoders,
        clips_per_second=len(came) * stream.micro_batch / passed,
        wait_share=waited / passed,
        blocks=blocks,
        gap_seconds=gap,
        outside_seconds=max(0.0, cpu - known) / len(came),
        foreign_cores=max(0.0, busy - cpu) / passed,
        looks=np.column_stack([np.diff(looks[:, 0]), np.diff(looks[:, 1]), looks[1:, 2]]),
    )


@contextlib.contextmanager
def _paused(stream: Stream, manifest: Manifest, decoders: int) -> Iterator[int]:
    """Start a stream, take one block and wait until nothing happens any more; yield how many blocks were decoded."""
    dataset, agenda = stream.open(manifest, decoders)
    taking = batches(dataset, agenda)
    next(taking)
    before, quiet = -1, 0
    while quiet < 4:
        time.sleep(0.5)
        given = int(Looks.operator.metrics.num_task_outputs_generated)
        before, quiet = given, quiet + 1 if given == before else 0
    yield before
    taking.close()  # type: ignore[attr-defined]
    del dataset
    _await_end_of_actors()


def held_blocks(stream: Stream, manifest: Manifest, decoders: int) -> int:
    """Return how many blocks are in flight when nobody consumes any more, besides the one that was taken."""
    with _paused(stream, manifest, decoders) as decoded:
        return decoded - 1


def resting_cores(stream: Stream, manifest: Manifest, seconds: float = 10.0) -> float:
    """Return the share of a core that all processes take, but for the executor's thread, while nobody consumes."""
    with _paused(stream, manifest, decoders=1):
        before, look = family_cpu_seconds(), Looks.noted[-1][0]
        time.sleep(seconds)
        return (family_cpu_seconds() - before - (Looks.noted[-1][0] - look)) / seconds


def start_seconds(stream: Stream, manifest: Manifest) -> float:
    """Return the time from the death of the only decode actor to its successor's first block, less that of a block."""
    dataset, agenda = stream.open(manifest, 1)
    taking = batches(dataset, agenda)
    batch = next(taking)
    process = int(batch.cost.actor.rpartition(":")[2])
    os.kill(process, 9)
    killed = time.time()
    after = next(b for b in taking if not b.cost.actor.endswith(f":{process}"))
    taking.close()  # type: ignore[attr-defined]
    del dataset
    _await_end_of_actors()
    return after.cost.finished - after.cost.wall_seconds - killed


@dataclass(frozen=True)
class SplitCosts:
    """What the coordinator of trainers takes, seen from outside.

    Attributes:
        blocks_per_second: that came, with decoders that cost nothing.
        executor_seconds: CPU of its busiest thread for each block.
        python_seconds: of its other threads that run Python, for each block.
        process_seconds: of all its threads.
    """

    blocks_per_second: float
    executor_seconds: float
    python_seconds: float
    process_seconds: float


def split_costs(stream: Stream, manifest: Manifest, decoders: int, ranks: int, seconds: float) -> SplitCosts:
    """Stream to so many ranks, as Ray Train does, for a while."""
    dataset, _ = stream.open(manifest, decoders)
    counts, over = [0] * ranks, time.perf_counter() + 600

    def consume(rank: int, split: Any) -> None:
        for _ in split.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=HOLD_NONE):
            counts[rank] += 1
            if time.perf_counter() > over:
                return

    splits = dataset.streaming_split(ranks, equal=False)
    threads = [Thread(target=consume, args=pair, daemon=True) for pair in enumerate(splits)]
    for thread in threads:
        thread.start()
    while min(counts) < 5:
        time.sleep(0.2)
    time.sleep(2.0)
    [coordinator] = [p for p in _family() if "SplitCoordinator" in _name(p)]
    before, blocks, began = _threads(coordinator), sum(counts), time.perf_counter()
    time.sleep(seconds)
    after, blocks, passed = _threads(coordinator), sum(counts) - blocks, time.perf_counter() - began
    over = 0.0
    for thread in threads:
        thread.join(timeout=10.0)
    del dataset, splits
    _await_end_of_actors()
    spent = {thread: cpu - before.get(thread, (0.0, False))[0] for thread, (cpu, _) in after.items()}
    busiest = max(spent, key=lambda thread: spent[thread])
    python = sum(cpu for thread, cpu in spent.items() if after[thread][1] and thread != busiest)
    return SplitCosts(blocks / passed, spent[busiest] / blocks, python / blocks, sum(spent.values()) / blocks)


def family_cpu_seconds() -> float:
    """Return the CPU that this process and all that it started have taken; of those that ended, nothing."""
    total = 0.0
    for process in _family():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _busy_seconds() -> float:
    """Return for how many seconds the machine's cores were at work for anyone, or taken away by its host."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + getattr(times, "steal", 0.0))


def process_cpu_seconds(name: str) -> float:
    """Return the CPU that a process of the embedded Ray has taken."""
    [process] = [process for process in _family() if _name(process) == name]
    times = process.cpu_times()
    return float(times.user + times.system)


def _family() -> list[psutil.Process]:
    root = psutil.Process()
    return [root, *root.children(recursive=True)]


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return "gcs_server" if process.name() == "gcs_server" else " ".join(process.cmdline())
    return ""


def _threads(process: psutil.Process) -> dict[int, tuple[float, bool]]:
    """Return the CPU seconds of each thread, and whether it runs Python: Ray's and gRPC's own have names of theirs."""
    found = {}
    for thread in process.threads():
        name = Path(f"/proc/{process.pid}/task/{thread.id}/comm").read_text(encoding="utf-8").strip()
        found[thread.id] = (thread.user_time + thread.system_time, name.startswith(("ray::", "python", "fiber")))
    return found


def _gap_seconds(came: Sequence[Batch]) -> float:
    """Return the time of an actor between two blocks where its next task is there already: the lower quartile."""
    ended: dict[str, float] = {}
    gaps: list[float] = []
    for batch in came:
        cost = batch.cost
        if cost.actor in ended:
            gaps.append(cost.finished - cost.wall_seconds - ended[cost.actor])
        ended[cost.actor] = cost.finished
    return max(0.0, float(np.percentile(gaps, 25))) if gaps else 0.0


def _await_end_of_actors() -> None:
    """Wait until the decode actors of a stream that was closed are gone."""
    until = time.monotonic() + _GONE_SECONDS
    while time.monotonic() < until:
        if ray.available_resources().get("CPU", 0) >= ray.cluster_resources().get("CPU", 0):
            time.sleep(1.0)
            return
        time.sleep(0.2)
    raise RunError("decode actors of a stream that was closed are still there")
