"""Measures what the parts of the stream cost on this machine; see `Costs`. Takes some minutes and should run alone."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from ray.data._internal.execution.streaming_executor_state import OpBufferQueue

from benchmarks.decode_report import Machine
from benchmarks.order import cpu_seconds
from benchmarks.simulation import paced, streams
from benchmarks.simulation.costs import Costs, fit_looks
from benchmarks.simulation.streams import Stream
from headrace.data.config import DataConfig
from headrace.data.manifest import SCHEMA, Manifest
from headrace.data.order import Order
from headrace.data.reader import BatchReader, Plan
from headrace.data.sampling import SamplingConfig

HUGE = 10**10
POOLS = (1, 4, 16, 48)
"""Decode actors with which the coordinator is watched; what a look costs with more is extrapolated."""

_LOGICAL_CPUS = 64
_TINY = Stream(micro_batch=1, frames=1, size=16, read_ahead=256)
_POLLERS, _POLL_EVERY_SECONDS = 256, 0.01
_RANKS = 4096
_ROWS = (10**5, 10**6)


def measure(say: Callable[[str], None]) -> Costs:
    """Return all costs.

    Args:
        say: is told what is measured now.
    """
    with tempfile.TemporaryDirectory(prefix="headrace-simulation-") as folder:
        manifest = streams.corpus(Path(folder) / "clips")
        cores = Machine.this(None, {}, {}).cores
        say("cores")
        paired = paired_speed(manifest.source, cores)
        say("ranks that wait, the manifest, the order")
        poll, each_rank = poll_seconds(), rank_block_seconds()
        row_bytes, row_seconds = manifest_row()
        order = order_seconds()
        with streams.embedded_ray(_LOGICAL_CPUS):
            say("a stream that rests")
            idle = streams.resting_cores(Stream(decoder=paced.INSTANT), manifest)
            say("a decoder")
            gap = streams.watch(Stream(), manifest, 1, seconds=10.0).gap_seconds
            say("the coordinator")
            look, actor, block, head = coordinator_costs(manifest, say)
            say("the coordinator of trainers")
            split = streams.split_costs(_with(paced.INSTANT), manifest, decoders=2, ranks=2, seconds=10.0)
            say("the object store's limit")
            held = streams.held_blocks(Stream(decoder=paced.INSTANT), manifest, decoders=2)
            say("a decoder that dies")
            start = streams.start_seconds(Stream(), manifest)
    return Costs(
        cores=cores,
        paired_speed=paired,
        ray_idle_cores=idle,
        look_seconds=look,
        look_actor_seconds=actor,
        block_seconds=block,
        get_seconds=split.python_seconds,
        block_outside_seconds=split.process_seconds - split.executor_seconds - split.python_seconds,
        actor_block_seconds=gap,
        poll_seconds=poll,
        rank_block_seconds=each_rank,
        store_share=held / Stream().read_ahead,
        start_seconds=start,
        head_actor_seconds=head,
        manifest_row_bytes=row_bytes,
        manifest_index_bytes=float(np.mean([len(value) for value in manifest.table["video_index"].to_pylist()])),
        manifest_row_seconds=row_seconds,
        order_seconds=order,
        machine=Machine.this(None, {}, {}).processor,
    )


def paired_speed(source: str, cores: int, rounds: int = 3, seconds: float = 5.0) -> float:
    """Return the speed of a core that decodes while all others do, against alone; the median of some rounds."""
    found = []
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as processes:
        for number in range(rounds + 1):
            [alone] = processes.map(_bare_rate, [source], [seconds])
            together = list(processes.map(_bare_rate, [source] * cores, [seconds] * cores))
            if number:  # the first one loads libraries
                found.append(float(np.mean(together)) / alone)
    return min(1.0, float(np.median(found)))


def _bare_rate(source: str, seconds: float) -> float:
    """Return the clips/s of one process that decodes and keeps nothing."""
    manifest = Manifest.load(source)
    assert manifest is not None
    data = DataConfig(height=224, width=224, sampling=SamplingConfig(frames=8))
    reader = BatchReader(manifest, Plan(Order(len(manifest), 0), data, micro_batch=4))
    began, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        reader.read(count)
        count += 1
    return 4 * count / passed


def coordinator_costs(manifest: Manifest, say: Callable[[str], None]) -> tuple[float, float, float, float]:
    """Return the CPU of a look, for each actor and each block, and that of Ray's head for each start of an actor."""
    looks: list[NDArray[np.float64]] = []
    head = 0.0
    for actors in POOLS:
        say(f"the coordinator of {actors} decode actors")
        before = streams.process_cpu_seconds("gcs_server")
        seen = streams.watch(_with(paced.RESTING), manifest, actors, seconds=15.0)
        head = (streams.process_cpu_seconds("gcs_server") - before) / actors
        looks.append(seen.looks)
    say("the coordinator of decoders that cost nothing")
    looks.append(streams.watch(_with(paced.INSTANT), manifest, 2, seconds=10.0).looks)
    look, actor, block = fit_looks(looks)
    return look, actor, block, head


def poll_seconds(seconds: float = 3.0) -> float:
    """Return the CPU of one rank's look for its block, which is not there, beside a thread that is always at work.

    What the other thread loses is at least this, as only one of them can run Python; that it must wake up again comes
    on top. CPU is counted, not time, so that what else the machine does changes little.
    """
    queue, over, polls = OpBufferQueue(_POLLERS), threading.Event(), [0] * _POLLERS

    def poll(rank: int) -> None:
        while not over.is_set():
            queue.pop(rank)
            polls[rank] += 1
            time.sleep(_POLL_EVERY_SECONDS)

    threads = [threading.Thread(target=poll, args=(rank,), daemon=True) for rank in range(_POLLERS)]
    for thread in threads:
        thread.start()
    until, others, before = time.monotonic() + seconds, time.process_time() - time.thread_time(), sum(polls)
    while time.monotonic() < until:
        pass
    others, counted = time.process_time() - time.thread_time() - others, sum(polls) - before
    over.set()
    for thread in threads:
        thread.join()
    return others / counted


def rank_block_seconds() -> float:
    """Return what a block costs for each rank: Ray Data looks for who has the fewest rows, and adds up all bytes."""
    rows = [1] * _RANKS
    held = dict.fromkeys(range(_RANKS), 1)

    def once() -> None:
        min(enumerate(rows), key=lambda pair: pair[1])
        sum(held.values())

    return cpu_seconds(once) / _RANKS


def order_seconds(micro_batch: int = 64) -> float:
    """Return the CPU to build an order of 10**10 samples and get a micro-batch near its end."""
    positions = np.arange(HUGE - micro_batch, HUGE)
    return cpu_seconds(lambda: Order(HUGE, 0).rows(positions))


def manifest_row() -> tuple[float, float]:
    """Return the bytes of a row, without an index, and the CPU to look through it at the start of a run.

    Both are what the larger of two manifests has more than the smaller.
    """
    found = []
    for rows in _ROWS:
        manifest = _rows(rows)
        found.append((manifest.table.nbytes, cpu_seconds(partial(_look_through, manifest), times=1)))
    (few_bytes, few_seconds), (many_bytes, many_seconds) = found
    more = _ROWS[1] - _ROWS[0]
    return (many_bytes - few_bytes) / more, (many_seconds - few_seconds) / more


def _look_through(manifest: Manifest) -> None:
    """Do what a run does with all rows before it starts."""
    usable = Manifest(manifest.source, manifest.table.filter(pa.compute.is_null(manifest.table["error"])))
    usable.shards()
    assert len(usable.labels) == len(usable)
    assert usable.digest


def _rows(count: int) -> Manifest:
    """Return a manifest of made-up clips: a thousand in a shard, a hundred labels, some words of metadata."""
    numbers = np.arange(count)
    shards = numbers // 1000
    columns = {
        "key": [f"clip-{number:012d}" for number in numbers.tolist()],
        "shard": [f"shards/shard-{shard:08d}.tar" for shard in shards.tolist()],
        "shard_size": np.full(count, 2 * 10**9),
        "shard_mtime_ns": np.full(count, 10**18),
        "offset": numbers % 1000 * 2 * 10**6,
        "size": np.full(count, 2 * 10**6),
        "compression": ["stored"] * count,
        "column": [None] * count,
        "kind": ["video"] * count,
        "codec": ["h264"] * count,
        "width": np.full(count, 1280, np.int32),
        "height": np.full(count, 720, np.int32),
        "frames": np.full(count, 300),
        "seconds": np.full(count, 10.0),
        "key_frame_seconds": [[0.0, 8.0]] * count,
        "video_index": [None] * count,
        "label": [str(number % 100) for number in numbers.tolist()],
        "metadata": ['{"camera": "front", "drive": "2026-11-22"}'] * count,
        "error": [None] * count,
        "error_message": [None] * count,
    }
    table = pa.table({name: pa.array(columns[name], SCHEMA.field(name).type) for name in SCHEMA.names}, schema=SCHEMA)
    return Manifest("made-up", table)


def _with(decoder: str) -> Stream:
    return Stream(decoder, _TINY.micro_batch, _TINY.frames, _TINY.size, _TINY.read_ahead)
