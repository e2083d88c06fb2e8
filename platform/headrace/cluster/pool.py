"""The decode pool that scales by itself: just enough decoders for what the trainers take.

Ray Data scales a pool by how busy it is and knows nothing of who consumes: trainers that are slower than the decoders
leave them all in place, and Ray's cluster autoscaler is asked for ever more CPUs. Here the run says what it needs:

    <run>/metrics.jsonl      demand: clips/s that the trainers take, and how much they wait
    Ray Data's own metrics   cost: seconds of a decoder for each clip
    `pool_policy`            how many decoders that makes
    Ray's actor pool         actors that find no CPU stay pending: this is what makes an autoscaler add nodes

All this happens in the process that executes the stream. Decoders that are not needed are given back from the node
that holds fewest of them, so that whole nodes fall idle and the autoscaler takes them away; last from nodes with GPUs.

The trainers' CPUs are reserved by their placement group before the stream begins. When workers are lost, their stream
is shut down with them, so a decoder that waits for a CPU holds one of theirs for a moment at most.

Ray Data has no public door for this. What is used: `DataContext.custom_execution_callback_classes`, and two attributes
of its executor whose classes are developer API. Where a Ray lacks them, its own scaling stays, and the run says so.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.data

from headrace.cluster.pool_policy import Change, PoolPolicy, Reading
from headrace.data.config import PoolSize
from headrace.observe.records import METRICS_FILE, Follower, MetricsWriter, StepRecord, number

DECIDE_EVERY_SECONDS = 1.0
WINDOW_SECONDS = 30.0
REGISTER_EVERY_SECONDS = 20.0
EXPIRES_SECONDS = 180.0
_SETTINGS = "headrace.pool"


@dataclass(frozen=True)
class PoolOfRun:
    """Whom a decode pool works for.

    Attributes:
        run: the run's folder.
        clips_per_block: clips that a decoder gives for one order.
        stream, streams: for which of the run's streams; each takes an equal share of what the trainers take.
    """

    run: Path
    clips_per_block: int
    stream: int = 0
    streams: int = 1


def scale_to_demand(stream: ray.data.Dataset, pool: PoolOfRun) -> None:
    """Let the decode pool of a stream follow what its trainers take, from its next execution on."""
    context = stream.context
    callbacks = getattr(context, "custom_execution_callback_classes", None)
    if callbacks is None:
        _write(pool, 0, _no_door("execution callbacks"))
        return
    context.set_config(_SETTINGS, pool)
    if PoolCallback not in callbacks:
        callbacks.append(PoolCallback)


class PoolCallback:
    """Puts our scaling in the place of Ray Data's, when an execution starts."""

    def before_execution_starts(self, executor: Any) -> None:
        """Take over, if this Ray has what it needs."""
        pool: PoolOfRun = executor._data_context.get_config(_SETTINGS)
        try:
            scaler = DemandScaler(executor, pool)
            registration = Registration(executor._cluster_autoscaler, executor._dataset_id)
        except (AttributeError, ImportError, TypeError) as error:
            _write(pool, 0, _no_door(str(error)))
            return
        executor._actor_autoscaler, executor._cluster_autoscaler = scaler, registration

    def on_execution_step(self, executor: Any) -> None:
        """Nothing to do: Ray Data calls the scaler itself."""

    def after_execution_succeeds(self, executor: Any) -> None:
        """Nothing to do: the pool ends with its execution."""

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Nothing to do: the pool ends with its execution."""


class DemandScaler:
    """Implements Ray Data's `ActorAutoscaler` for a stream with one actor pool."""

    def __init__(self, executor: Any, run: PoolOfRun) -> None:
        from ray.data._internal.actor_autoscaler import ActorPoolScalingRequest

        self._request = ActorPoolScalingRequest
        pools = [(op, pool) for op in executor._topology for pool in op.get_autoscaling_actor_pools()]
        if len(pools) != 1:
            raise TypeError(f"a stream with one actor pool, not {len(pools)}")
        [(self._operator, self._pool)] = pools
        self._size = PoolSize(self._pool.min_size(), self._pool.max_size())
        self._run, self._policy = run, PoolPolicy(self._size)
        self._trainers = Trainers(run.run / METRICS_FILE)
        self._blocks = Blocks(run.clips_per_block)
        self._running, self._running_since = 0, time.time()
        self._target = self._pool.current_size()
        self._lasting: frozenset[str] = frozenset()
        self._due = 0.0
        _write(run, 0, Change(self._target, self._target, "the stream begins"), self._size)

    def try_trigger_scaling(self) -> None:
        """Read, decide and act; called many times a second by the thread that executes the stream."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + DECIDE_EVERY_SECONDS
            change = self._policy.decide(self._read(now))
            if change is not None:
                _write(self._run, self._target, change, self._size)
                self._target, self._lasting = change.decoders, lasting_nodes()
        missing = self._target - self._pool.current_size()
        if missing > 0:
            self._pool.scale(self._request(delta=missing, reason="demand"))
        elif missing < 0:
            self._give_back(-missing)

    def _read(self, now: float) -> Reading:
        running, starting = self._pool.num_alive_actors(), self._pool.num_pending_actors()
        if running != self._running:
            self._running, self._running_since = running, time.time()
        self._trainers.poll()
        metrics = self._operator.metrics
        self._blocks.see(now, metrics.block_generation_time, metrics.num_task_outputs_generated)
        lately = time.time() - WINDOW_SECONDS
        given, demand, _ = rates(self._trainers.since(lately) or self._trainers.last())
        settled = self._trainers.since(self._running_since)
        _, _, wait_share = rates([step for step in settled if step["time"] >= lately] or settled[-1:])
        starting += self._pool.num_restarting_actors()
        demand, given = demand / self._run.streams, given / self._run.streams
        return Reading(now, running, starting, demand, given, wait_share, self._blocks.seconds_per_clip)

    def _give_back(self, count: int) -> None:
        """Release decoders that still wait for a CPU, then idle ones of the node that holds fewest."""
        starting = min(count, self._pool.num_pending_actors())
        if starting:
            self._pool.scale(self._request(delta=-starting, force=True, reason="demand"))
            return
        actors: dict[Any, Any] | None = getattr(self._pool, "_running_actors", None)
        release = getattr(self._pool, "_release_running_actor", None)
        if actors is None or release is None:  # Ray chooses, and says no for a while after it grew
            self._pool.scale(self._request(delta=-count, reason="demand"))
            return
        idle = {actor for actor, state in actors.items() if state.num_tasks_in_flight == 0}
        nodes = {actor: state.actor_location for actor, state in actors.items()}
        for actor in to_release(nodes, idle, count, self._lasting):
            release(actor)


def lasting_nodes() -> frozenset[str]:
    """Return the nodes that stay whatever the decoders do: this one, where the stream lives, and those with GPUs."""
    gpus = [node["NodeID"] for node in ray.nodes() if node["Resources"].get("GPU", 0) > 0]
    return frozenset([*gpus, ray.get_runtime_context().get_node_id()])


def to_release(nodes: dict[Any, str], idle: Iterable[Any], count: int, lasting: frozenset[str]) -> list[Any]:
    """Return which decoders to release: idle ones of the node with the fewest, the newest of these nodes first.

    Args:
        nodes: the node of each decoder, in the order in which they started.
        idle: decoders that have nothing to do.
        count: how many at most; those of one node, so that nodes are emptied one after the other.
        lasting: nodes that would not go if they were empty; their decoders are the last.
    """
    on_node = Counter(nodes.values())
    age = {node: place for place, node in enumerate(dict.fromkeys(nodes.values()))}
    emptiest = min(on_node, key=lambda node: (node in lasting, on_node[node], -age[node]), default=None)
    free = set(idle)
    return [actor for actor, node in nodes.items() if node == emptiest and actor in free][:count]


class Registration:
    """Implements Ray Data's `ClusterAutoscaler`: takes what the trainers leave, and asks for nothing beyond the actors.

    Args:
        replaced: Ray's own, whose requests are withdrawn.
        name: of the execution.
    """

    def __init__(self, replaced: Any, name: str) -> None:
        from ray.data._internal.cluster_autoscaler import DefaultAutoscalingCoordinator

        self._coordinator = DefaultAutoscalingCoordinator(requester_id=f"headrace-{name}")
        self._renewed = -math.inf
        self.try_trigger_scaling()
        replaced.on_executor_shutdown()

    def try_trigger_scaling(self) -> None:
        """Renew the registration, without which the stream would be given no memory in the object store."""
        now = time.monotonic()
        if now - self._renewed < REGISTER_EVERY_SECONDS:
            return
        self._renewed = now
        remaining = ["CPU", "GPU", "memory", "object_store_memory"]
        self._coordinator.request_resources([], EXPIRES_SECONDS, request_remaining=remaining)

    def get_total_resources(self) -> Any:
        """Return what the stream may use, as `ray.data.ExecutionResources`."""
        reserved = self._coordinator.get_reserved_resources().values()
        total = ray.data.ExecutionResources.zero()
        for resources in reserved:
            total = total.add(ray.data.ExecutionResources.from_resource_dict(resources))
        return total

    def on_executor_shutdown(self) -> None:
        """Withdraw the registration."""
        self._coordinator.cancel_request()


class Trainers:
    """What the trainers of this execution wrote of their steps, but for the first, which compile and fill queues."""

    def __init__(self, metrics: Path) -> None:
        self._follower = Follower(metrics, start=metrics.stat().st_size if metrics.exists() else 0)
        self._records: deque[tuple[float, StepRecord]] = deque(maxlen=1000)  # with the time at which its steps began
        self._before = math.nan

    def poll(self) -> None:
        """Read what is new."""
        for record in self._follower.poll():
            if record["kind"] == "step" and number(record, "step_seconds") > 0:
                if not math.isnan(self._before):
                    self._records.append((self._before, record))
                self._before = record["time"]

    def since(self, moment: float) -> list[StepRecord]:
        """Return the records whose steps began after a moment (seconds since 1970)."""
        return [record for began, record in self._records if began >= moment]

    def last(self) -> list[StepRecord]:
        """Return the newest record, if there is one."""
        return [record for _, record in list(self._records)[-1:]]


def rates(steps: list[StepRecord]) -> tuple[float, float, float]:
    """Return clips/s given, clips/s demanded and the share of time waited over these steps; NaN where there is none."""
    seconds = sum(number(step, "step_seconds") for step in steps)
    clips = sum(number(step, "clips_per_second") * number(step, "step_seconds") for step in steps)
    waited = sum(number(step, "wait_seconds") for step in steps)
    if not seconds > 0 or not clips > 0:
        return math.nan, math.nan, math.nan
    busy = max(seconds - waited, 1e-3 * seconds)
    return clips / seconds, clips / busy, waited / seconds


class Blocks:
    """Wall time that a decoder takes for a clip, over the last blocks that came."""

    def __init__(self, clips_per_block: int) -> None:
        self._clips_per_block = clips_per_block
        self._seen: deque[tuple[float, float, int]] = deque()

    def see(self, now: float, decode_seconds: float, blocks: int) -> None:
        """Take note of Ray Data's totals."""
        self._seen.append((now, decode_seconds, blocks))
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW_SECONDS and self._seen[1][2] < blocks:
            self._seen.popleft()

    @property
    def seconds_per_clip(self) -> float:
        """The mean, NaN before the first block."""
        (_, seconds_before, blocks_before), (_, seconds, blocks) = self._seen[0], self._seen[-1]
        clips = (blocks - blocks_before) * self._clips_per_block
        return (seconds - seconds_before) / clips if clips else math.nan


def cluster_cores() -> int:
    """Return the cores of all nodes; on a single node the machine's own, of which Ray may count more."""
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    return int(sum(nodes)) if len(nodes) > 1 else os.cpu_count() or 1


def _no_door(what: str) -> Change:
    return Change(0, 0, f"this Ray lacks what scaling by demand needs ({what}): the pool follows Ray's own scaling")


def _write(pool: PoolOfRun, before: int, change: Change, size: PoolSize | None = None) -> None:
    with MetricsWriter(pool.run / METRICS_FILE) as metrics:
        metrics.write(
            {
                "kind": "pool",
                "time": time.time(),
                "from": before,
                "to": change.decoders,
                "needed": change.needed,
                "least": size.least if size is not None else 0,
                "most": size.most if size is not None else 0,
                "cores": cluster_cores(),
                "reason": change.reason,
                "stream": pool.stream,
                "streams": pool.streams,
            }
        )
