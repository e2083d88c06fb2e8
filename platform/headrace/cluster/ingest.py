"""How the stream reaches the ranks: in order, whole, round robin.

Rank r of n receives micro-batches first + r, first + r + n, ... `streaming_split` gives the next block to the rank with
the fewest rows so far, ties to the lowest; all blocks have one row, so this is round robin. Train's own DataConfig
splits equally, which drops a remainder.

One process of Ray's coordinates a stream, and hands out some 200 blocks a second. Of m streams, the s-th carries what
the ranks s, s + m, s + 2 m, ... take, so they need not know of each other: here of 2 streams and 4 ranks

    stream 0    0  2  4  6  8 ...     rank 0    0  4  8 ...      rank 2    2  6 ...
    stream 1    1  3  5  7  9 ...     rank 1    1  5  9 ...      rank 3    3  7 ...
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import ray.data
from ray.train import DataConfig

from headrace.cluster.pool import PoolOfRun, scale_to_demand
from headrace.train.progress import newest_checkpoint, read_progress


def stream_names(streams: int) -> list[str]:
    """Return the names of a run's streams among its trainer's datasets."""
    return [f"micro-batches {stream + 1} of {streams}" for stream in range(streams)]


class StreamBuilder(Protocol):
    """Builds a stream of a run that goes on."""

    def __call__(self, *, step: int, first: int, stream: int) -> ray.data.Dataset:
        """Return it from where `step` steps are completed and `first` is the next micro-batch of training."""
        ...


@dataclass(frozen=True)
class ResumableStream:
    """A stream as a trainer's dataset: built anew at each start of the workers, from where the run stands.

    Attributes:
        micro_batch: samples in a micro-batch.
        stream_from: builds the stream.
        pool: whom its decoders work for.
    """

    micro_batch: int
    stream_from: StreamBuilder
    pool: PoolOfRun

    def __call__(self) -> ray.data.Dataset:
        """Return the stream from the newest checkpoint on."""
        progress = read_progress(newest_checkpoint(self.pool.run))
        first = progress.micro_batch(self.micro_batch)
        stream = self.stream_from(step=progress.step, first=first, stream=self.pool.stream)
        scale_to_demand(stream, self.pool)
        return stream


class RoundRobin(DataConfig):
    """Splits each stream, in order, to the ranks that take from it.

    Args:
        streams: how many there are.
    """

    def __init__(self, streams: int) -> None:
        super().__init__()
        self._streams = streams

    def configure(
        self, datasets: dict[str, ray.data.Dataset], world_size: int, *_: Any, **__: Any
    ) -> list[dict[str, ray.data.DataIterator]]:
        """Return, for each rank, an iterator over each stream: its own over the one that it takes from."""
        ranks = world_size // self._streams
        splits = {
            name: dataset.streaming_split(ranks, equal=False, locality_hints=None) for name, dataset in datasets.items()
        }
        return [{name: split[rank // self._streams] for name, split in splits.items()} for rank in range(world_size)]
