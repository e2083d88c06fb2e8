"""The stream on clusters that nobody here has: what is assumed of them, what bends, what is done about it.

Assumed, each an attribute of `Cluster` or `Training`: GPUs by eight, decode nodes of 32 vCPUs at the measured machine's
speed, S3 with a lognormal latency and 5,500 GET/s for each prefix (AWS's published figure), 100 Gb/s to the trainers
and 12.5 Gb/s from a decode node. A step waits for the slowest of all ranks. As many decoders as the demand takes, and a
fifth more.

Each scale is simulated as it is. While training waits, what limits it is named and relieved, and it is simulated again:

    coordinator     several streams, each with its share of ranks and of decoders; or blocks of four micro-batches
    storage         more prefixes
    reading         more clips that a decoder fetches ahead
    sending         faster network cards
    object store    more micro-batches may lie decoded
    decoders        a fifth more of them
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from benchmarks.simulation.coordinator import POLL_SECONDS, TASKS_PER_ACTOR
from benchmarks.simulation.costs import Costs
from benchmarks.simulation.model import Outcome, Simulation
from benchmarks.simulation.scenario import DrawnWork, Failures, Scenario
from benchmarks.simulation.stations import StorageModel
from headrace.data.readahead import SAMPLES_AHEAD
from headrace.train.config import TrainConfig

SCALES = (8, 64, 512, 4096)
LITTLE_WAIT = 0.02
"""Share of waiting below which training counts as fed; `headrace.observe.advice` says nothing below it."""

TESTED_ACTORS, TESTED_NODES = 10_000, 250
"""With which Ray's own release tests run (release/benchmarks/README.md: "10k+" and "250+")."""

GETS_PER_PREFIX = 5500.0
HUGE_SAMPLES = 10**10
AS_IT_IS, OR_WIDER = "as it is", "(or blocks of 4)"
_SATURATED = {"coordinator": 0.7, "storage": 0.9, "receiving": 0.75, "sending": 0.75}
"""From which share on a station may be the limit. The coordinator's loop waits between two looks, and cards carry
blocks in bursts, so neither is ever busy all the time."""

_MUCH_READING = 0.15
_FEED_QUEUE = TrainConfig().queue
_MOST_STAGES = 7
_FAILURE_GPUS = 16
_LOST_AT_SECONDS = 90.0
_RECEIVER_BYTES = 100e9 / 8


@dataclass(frozen=True)
class Training:
    """What is trained.

    Attributes:
        clips_per_second: that one GPU takes.
        micro_batch: clips.
        frames, size: of a clip, and its height and width in pixels.
        clip_seconds, clip_sigma: CPU to decode a clip, mean, and deviation of its logarithm.
        clip_bytes: that a sparse read of it fetches.
    """

    name: str
    clips_per_second: float
    micro_batch: int
    clip_seconds: float
    clip_bytes: float
    frames: int = 8
    size: int = 224
    clip_sigma: float = 0.5

    @property
    def pixel_bytes(self) -> float:
        """Size of a decoded clip."""
        return self.frames * self.size**2 * 3


TRAININGS = {
    "vit-h": Training("ViT-H, videos as they are", 60.0, 16, 0.19, 1.5e6),
    "vit-b": Training("ViT-B, videos transcoded", 400.0, 64, 0.02, 0.5e6),
}
"""CPU of a clip: docs/log.md, 8 frames of real clips, and of transcoded ones with some reserve. Clips/s: assumed."""


@dataclass(frozen=True)
class Cluster:
    """What a run has.

    Attributes:
        gpus: training workers.
        streams, block_micro_batches: see `Scenario`.
        prefixes: of the object storage, over which the shards are spread.
        read_ahead: micro-batches that may lie decoded, for each GPU.
        headroom: decoders, over those that the demand takes.
        node_cores, node_gigabits: of a decode node, the latter each way.
        requests_per_clip: GETs of a sparse read.
        clips_ahead: that a decoder fetches while it decodes.
    """

    gpus: int
    streams: int = 1
    block_micro_batches: int = 1
    prefixes: int = 1
    read_ahead: int = 32
    headroom: float = 1.2
    node_cores: int = 32
    node_gigabits: float = 12.5
    requests_per_clip: float = 2.0
    clips_ahead: int = SAMPLES_AHEAD
    failures: Failures = field(default_factory=Failures)

    def storage(self, training: Training) -> StorageModel:
        """Return the storage that the decoders read from."""
        return StorageModel(
            requests_per_second=GETS_PER_PREFIX * self.prefixes,
            requests_per_clip=self.requests_per_clip,
            bytes_per_clip=training.clip_bytes,
            ahead=self.clips_ahead,
        )

    def scenario(self, training: Training, costs: Costs) -> Scenario:
        """Return what is simulated."""
        load = self.gpus * training.clips_per_second * training.clip_seconds * self.headroom
        blocks = self.gpus * self.read_ahead * costs.store_share / self.block_micro_batches / self.streams
        return Scenario(
            ranks=self.gpus,
            decoders=math.ceil(load / self.streams) * self.streams,
            micro_batch=training.micro_batch,
            step_seconds=training.micro_batch / training.clips_per_second,
            streams=self.streams,
            block_micro_batches=self.block_micro_batches,
            step_sigma=0.01,
            ahead=_FEED_QUEUE + 1,
            node_cores=self.node_cores,
            window=max(1, round(blocks)),
            block_bytes=training.pixel_bytes * training.micro_batch * self.block_micro_batches,
            sender_bytes_per_second=self.node_gigabits * 1e9 / 8,
            receiver_bytes_per_second=_RECEIVER_BYTES,
            failures=self.failures,
        )


@dataclass(frozen=True)
class Stage:
    """A cluster, simulated.

    Attributes:
        remedy: what was changed since the stage before; "as it is" at first.
        limit: what limits it, of the stations of `Outcome.busy`; "trainers": nothing else does.
        store_bytes: decoded and not consumed, on each decode node.
        first_round_seconds: until the coordinator gave each decoder its first tasks, and looks what came.
    """

    training: str
    cluster: Cluster
    remedy: str
    outcome: Outcome
    limit: str
    decoders: int
    nodes: int
    store_bytes: float
    first_round_seconds: float

    @property
    def fed(self) -> bool:
        """Whether training hardly waits."""
        return self.outcome.wait_share < LITTLE_WAIT

    @property
    def beyond_ray(self) -> bool:
        """Whether it has more actors or nodes than Ray is tested with."""
        return self.decoders > TESTED_ACTORS or self.nodes > TESTED_NODES


def simulate(training: Training, cluster: Cluster, costs: Costs, seconds: float, remedy: str = AS_IT_IS) -> Stage:
    """Simulate a cluster for so many seconds, after the time that it takes to fill.

    A coordinator with too many actors goes round for minutes, so it is watched for some rounds.
    """
    scenario = cluster.scenario(training, costs)
    storage = cluster.storage(training)
    shared = replace(storage, requests_per_second=storage.requests_per_second / cluster.streams)
    works = [
        DrawnWork(scenario.block_clips, training.clip_seconds, training.clip_sigma, shared, seed)
        for seed in range(cluster.streams)
    ]
    polls = 1 + cluster.gpus / cluster.streams * costs.poll_seconds / POLL_SECONDS
    first_round = TASKS_PER_ACTOR * scenario.decoders / cluster.streams * costs.block_seconds * polls
    fill = 20.0 + 4 * scenario.block_clips * training.clip_seconds + first_round
    outcome = Simulation(scenario, costs, works).run(fill, seconds + 4 * first_round)
    return Stage(
        training=training.name,
        cluster=cluster,
        remedy=remedy,
        outcome=outcome,
        limit=limit_of(outcome),
        decoders=scenario.decoders,
        nodes=scenario.decode_nodes,
        store_bytes=scenario.window * cluster.streams * scenario.block_bytes / scenario.decode_nodes,
        first_round_seconds=first_round,
    )


def limit_of(outcome: Outcome) -> str:
    """Return what limits a run: of the stations that make the others look busy, the busiest that is saturated.

    What ranks that wait take of the coordinator is no reason to wait.
    """
    busy = outcome.busy
    if outcome.wait_share < LITTLE_WAIT:
        return "trainers"
    saturated = [station for station, share in _SATURATED.items() if busy[station] >= share]
    if saturated:
        return max(saturated, key=lambda station: busy[station] - (busy["polls"] if station == "coordinator" else 0.0))
    if busy["window"] >= 0.5:
        return "object store"
    return "reading" if busy["reading"] >= _MUCH_READING else "decoders"


def relieve(stage: Stage, training: Training, costs: Costs) -> tuple[str, Cluster]:
    """Return the remedy for what limits a stage, in words and done."""
    cluster = stage.cluster
    gets = cluster.gpus * training.clips_per_second * cluster.requests_per_clip
    prefixes = max(cluster.prefixes + 1, math.ceil(1.5 * gets / GETS_PER_PREFIX))
    streams = _streams(cluster, training, costs)
    remedies = {
        "coordinator": (f"{streams} streams", {"streams": streams}),
        "storage": (f"{prefixes} prefixes", {"prefixes": prefixes}),
        "reading": (f"{4 * cluster.clips_ahead} clips ahead", {"clips_ahead": 4 * cluster.clips_ahead}),
        "sending": (f"{2 * cluster.node_gigabits:g} Gb/s", {"node_gigabits": 2 * cluster.node_gigabits}),
        "object store": (f"read-ahead {2 * cluster.read_ahead}", {"read_ahead": 2 * cluster.read_ahead}),
        "decoders": (f"{cluster.headroom + 0.2:.1f} x the decoders", {"headroom": cluster.headroom + 0.2}),
    }
    words, changes = remedies[stage.limit]
    return words, replace(cluster, **changes)  # type: ignore[arg-type]


def _streams(cluster: Cluster, training: Training, costs: Costs) -> int:
    """Return with how many streams each coordinator is busy for half of its time: a power of two, more than now."""
    blocks = cluster.gpus * training.clips_per_second / training.micro_batch / cluster.block_micro_batches
    each = costs.block_seconds + costs.get_seconds + costs.rank_block_seconds * cluster.gpus / cluster.streams
    least = max(2 * cluster.streams, 2 * blocks * each)
    return min(cluster.gpus, 1 << math.ceil(math.log2(least)))


def stages(training: Training, gpus: int, costs: Costs, seconds: float) -> Iterator[Stage]:
    """Yield a scale as it is, and with one remedy after the other until training hardly waits.

    Where the coordinator is the limit, blocks of four micro-batches are tried as well, and not kept: they want four
    times the memory.
    """
    stage = simulate(training, Cluster(gpus), costs, seconds)
    yield stage
    for _ in range(_MOST_STAGES):
        if stage.fed or stage.limit == "receiving":
            return
        cluster = stage.cluster
        if stage.limit == "coordinator" and cluster.streams == 1:
            wider = replace(cluster, block_micro_batches=4, read_ahead=4 * cluster.read_ahead)
            yield simulate(training, wider, costs, seconds, OR_WIDER)
        words, relieved = relieve(stage, training, costs)
        stage = simulate(training, relieved, costs, seconds, words)
        yield stage


@dataclass(frozen=True)
class Lost:
    """What it costs to lose decode nodes.

    Attributes:
        gpus: whose decode nodes are lost.
        losses_per_hour: of all of them.
        wait_share, spared_wait_share: without a node to spare, and with some.
    """

    gpus: int
    losses_per_hour: float
    wait_share: float
    spared_wait_share: float


def losses(training: Training, gpus: Sequence[int], costs: Costs, per_node_hour: float) -> list[Lost]:
    """Return what lost nodes cost at each scale.

    All ranks wait for the block that is due, whoever was to decode it, so a loss stalls a large cluster for as long as
    a small one; only, there are more of them. Stalls that meet count once.

    Args:
        training, costs: what is trained, by which costs.
        gpus: scales.
        per_node_hour: losses of each node.
    """
    stalls = [stall_seconds(training, costs, spare_nodes) for spare_nodes in (0, 1)]
    found = []
    for scale in gpus:
        lost = Cluster(scale).scenario(training, costs).decode_nodes * per_node_hour
        found.append(Lost(scale, lost, *(1 - math.exp(-lost / 3600 * stall) for stall in stalls)))
    return found


def stall_seconds(training: Training, costs: Costs, spare_nodes: int) -> float:
    """Return for how long training waits when one decode node is lost; else it does not."""
    failures = Failures(node_lost_at=_LOST_AT_SECONDS, spare_nodes=spare_nodes, start_seconds=costs.start_seconds)
    cluster = Cluster(_FAILURE_GPUS, streams=2, prefixes=16, headroom=1.3, clips_ahead=16, node_gigabits=25.0)
    seconds = _LOST_AT_SECONDS + 2 * failures.replace_seconds
    quiet, lost = (
        simulate(training, replace(cluster, failures=each), costs, seconds).outcome.wait_share
        for each in (Failures(), failures)
    )
    return max(0.0, lost - quiet) * seconds


def bends_at(found: Sequence[Stage]) -> tuple[int, str] | None:
    """Return the first scale at which training waits as things are, and what limits it; None where it never does."""
    for stage in found:
        if stage.remedy == AS_IT_IS and not stage.fed:
            return stage.cluster.gpus, stage.limit
    return None
