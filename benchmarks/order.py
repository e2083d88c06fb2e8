"""How well each order shuffles, and what it asks of the storage: none, chunk, full, and the usual shuffle buffer.

    python benchmarks/order.py
    python benchmarks/order.py --samples 1000000 --classes 1000

The samples are sorted by class, the worst case for a shuffle that keeps neighbours together. A buffer is filled in the
order of the shards, or of shards that are permuted, and drawn from at random, as WebDataset does; it holds as many
samples as a window of the chunk shuffle. Shares are of a full shuffle's value: 1 is as good as it gets.

    distance        from one sample to the next in the stream, in rows: median; a full shuffle's is 0.29 of all rows
    run             samples of one class in a row, mean and longest
    micro, global   classes in a micro-batch, in a global batch, against as many independent draws
    drift           correlation of position and row within an epoch
    epochs          of two samples in one global batch, how often they meet in the next epoch; 1: as chance has it
    reads           contiguous reads for 100 samples, where a micro-batch, or as many samples as the buffer holds, are
                    read at a time; a buffer reads in order, and holds its samples in memory instead
    us              CPU microseconds for the rows of a micro-batch
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from headrace.data.order import CHUNK_SAMPLES, WINDOW_CHUNKS, Mixture, Order, SampleOrder, quotas_of

Rows = NDArray[np.int64]
HUGE = 10**10


@dataclass(frozen=True)
class Options:
    """How well each order shuffles, and what it asks of the storage."""

    samples: int = 200_000
    """Samples, sorted by class."""

    classes: int = 1000
    """Classes, equally many of each."""

    micro_batch: int = 64
    global_batch: int = 256

    shapes: tuple[tuple[int, int], ...] = ((4, 1024), (CHUNK_SAMPLES, WINDOW_CHUNKS), (64, 64), (256, 16), (64, 256))
    """Chunk shuffles to compare: samples of a chunk, chunks of a window."""

    buffer: int = CHUNK_SAMPLES * WINDOW_CHUNKS
    """Samples that the shuffle buffer holds."""

    shard_samples: int = 1000
    """Samples of a shard, where shards are permuted before the buffer."""


@dataclass(frozen=True)
class Quality:
    """What was measured of one order; see the top of this file."""

    name: str
    distance_share: float
    run_mean: float
    run_longest: int
    micro_share: float
    global_share: float
    drift: float
    epochs: float
    reads_micro: float | None
    reads_buffer: float | None
    microseconds: float | None


def measure(name: str, epochs: Sequence[Rows], order: SampleOrder | None, options: Options) -> Quality:
    """Measure by two epochs [2][samples], and an order of ours also by what it costs."""
    first, second = epochs
    samples, per_class = options.samples, -(-options.samples // options.classes)
    labels = first // per_class
    positions = np.arange(options.micro_batch) + samples // 2
    runs = np.diff(np.flatnonzero(np.concatenate([[True], labels[1:] != labels[:-1], [True]])))
    return Quality(
        name,
        distance_share=float(np.median(np.abs(np.diff(first)))) / samples / (1 - 0.5**0.5),
        run_mean=float(runs.mean()),
        run_longest=int(runs.max()),
        micro_share=_distinct(labels, options.micro_batch) / _expected(options.classes, options.micro_batch),
        global_share=_distinct(labels, options.global_batch) / _expected(options.classes, options.global_batch),
        drift=float(np.corrcoef(np.arange(samples), first)[0, 1]),
        epochs=_met_again(first, second, options.global_batch),
        reads_micro=_reads(first, options.micro_batch) if order else None,
        reads_buffer=_reads(first, options.buffer) if order else None,
        microseconds=cpu_seconds(lambda: order.rows(positions)) * 1e6 if order else None,
    )


def _distinct(values: Rows, size: int) -> float:
    """Return the mean number of distinct values in consecutive groups of so many."""
    groups = np.sort(values[: len(values) // size * size].reshape(-1, size), axis=1)
    return float((1 + (np.diff(groups, axis=1) != 0).sum(axis=1)).mean())


def _reads(rows: Rows, size: int) -> float:
    """Return how many contiguous reads 100 rows take, where so many rows are read at a time."""
    groups = np.sort(rows[: len(rows) // size * size].reshape(-1, size), axis=1)
    return float((1 + (np.diff(groups, axis=1) != 1).sum(axis=1)).mean()) / size * 100


def _expected(classes: int, draws: int) -> float:
    return classes * (1 - (1 - 1 / classes) ** draws)


def _met_again(first: Rows, second: Rows, batch: int) -> float:
    """Return how often two samples of a batch are in one batch again, over how often chance would have it."""
    batches = len(first) // batch
    where = np.empty(len(second), np.int64)
    where[second] = np.arange(len(second)) // batch
    later = np.sort(where[first[: batches * batch]].reshape(batches, batch), axis=1)
    pairs = sum(int((later[:, gap:] == later[:, :-gap]).sum()) for gap in range(1, batch))
    return pairs / (batches * batch * (batch - 1) / 2) * batches


def buffered(rows: Rows, buffer: int, seed: int) -> Rows:
    """Return the rows as a shuffle buffer of so many samples gives them."""
    draws = np.random.default_rng(seed).integers(0, buffer, len(rows))
    held, out = rows[:buffer].tolist(), []
    for row, slot in zip(rows[buffer:].tolist(), draws.tolist(), strict=False):
        out.append(held[slot])
        held[slot] = row
    rest = np.random.default_rng((seed, 1)).permutation(np.array(held, np.int64))
    return np.concatenate([np.array(out, np.int64), rest])


def by_shard(samples: int, shard: int, seed: int) -> Rows:
    """Return all rows, shard by shard, the shards permuted."""
    shards = np.random.default_rng(seed).permutation(-(-samples // shard))
    return np.concatenate([np.arange(number * shard, min((number + 1) * shard, samples)) for number in shards])


def contenders(options: Options) -> Iterator[tuple[str, list[Rows], SampleOrder | None]]:
    """Yield a name, two epochs, and the order if it is one of ours."""
    samples = options.samples
    orders = {"none": Order(samples, 0, "none"), "full": Order(samples, 0, "full")}
    orders |= {
        f"chunk {chunk} x {window}": Order(samples, 0, "chunk", chunk, window) for chunk, window in options.shapes
    }
    for name, order in orders.items():
        yield name, [order.rows(np.arange(samples) + epoch * samples) for epoch in (0, 1)], order
    for size in (options.buffer, 4 * options.buffer):
        yield f"buffer {size}", [buffered(np.arange(samples), size, epoch) for epoch in (0, 1)], None
        shards = [by_shard(samples, options.shard_samples, epoch) for epoch in (0, 1)]
        yield f"shards, buffer {size}", [buffered(rows, size, epoch) for epoch, rows in enumerate(shards)], None


def cpu_seconds(call: Callable[[], object], times: int = 50) -> float:
    """Return the median CPU time of a call: other processes' work does not count."""
    taken = []
    for _ in range(times):
        start = time.thread_time()
        call()
        taken.append(time.thread_time() - start)
    return float(np.median(taken))


def at_scale(micro_batch: int) -> dict[str, float]:
    """Return CPU milliseconds to build an order of 10**10 samples and get a micro-batch, here and there."""
    builders: dict[str, Callable[[], SampleOrder]] = {
        "full": lambda: Order(HUGE, 0),
        "chunk": lambda: Order(HUGE, 0, "chunk"),
        "mixture": lambda: Mixture(
            2 * HUGE, 0, (Order(HUGE, 1, "chunk"), Order(HUGE, 2, "chunk")), quotas_of([0.7, 0.3])
        ),
    }
    found = {}
    for name, build in builders.items():
        for where, first in (("start", 0), ("end", HUGE - micro_batch), ("1e18", 10**18)):
            positions = np.arange(first, first + micro_batch)
            found[f"{name} {where}"] = cpu_seconds(partial(_build_and_ask, build, positions)) * 1e3
    return found


def _build_and_ask(build: Callable[[], SampleOrder], positions: Rows) -> Rows:
    return build().rows(positions)


def main() -> None:
    """Measure, print, and end with a line of JSON."""
    options = tyro.cli(Options, description=__doc__)
    qualities = [measure(name, epochs, order, options) for name, epochs, order in contenders(options)]
    say(qualities, options)
    scale = at_scale(options.micro_batch)
    for name, milliseconds in scale.items():
        print(f"{HUGE:,} samples, {name}: {milliseconds:.2f} ms")
    print(json.dumps({"orders": [asdict(quality) for quality in qualities], "huge_ms": scale}))


def say(qualities: Sequence[Quality], options: Options) -> None:
    """Print the table."""
    table = Table(title=f"{options.samples:,} samples sorted into {options.classes:,} classes")
    headings = ("order", "distance", "run", "longest", "micro", "global", "drift", "epochs", "reads", "in buffer", "us")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "order" else "right")
    for q in qualities:
        figures = (
            f"{q.distance_share:.3f}",
            f"{q.run_mean:,.2f}",
            f"{q.run_longest:,}",
            f"{q.micro_share:.3f}",
            f"{q.global_share:.3f}",
            f"{q.drift:+.3f}",
            f"{q.epochs:.2f}",
        )
        costs = ("" if cost is None else f"{cost:.1f}" for cost in (q.reads_micro, q.reads_buffer, q.microseconds))
        table.add_row(q.name, *figures, *costs)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
