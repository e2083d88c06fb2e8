"""How the stream reaches the ranks: in order, whole, round robin.

Rank r of n receives micro-batches first + r, first + r + n, ... `streaming_split` gives the next block to the rank with
the fewest rows so far, ties to the lowest; all blocks have one row, so this is round robin. Train's own DataConfig
splits equally, which drops a remainder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray.data
from ray.train import DataConfig

from headrace.cluster.pool import PoolOfRun, scale_to_demand
from headrace.train.progress import newest_checkpoint, read_progress

STREAM = "micro-batches"
"""Name of the stream among a trainer's datasets."""


class StreamBuilder(Protocol):
    """Builds the stream of a run that goes on."""

    def __call__(self, *, step: int, first: int) -> ray.data.Dataset:
        """Return it from where `step` steps are completed and `first` is the next micro-batch of training."""
        ...


@dataclass(frozen=True)
class ResumableStream:
    """The stream as a trainer's dataset: built anew at each start of the workers, from where the run stands.

    Attributes:
        run: the run's folder.
        micro_batch: samples in a micro-batch.
        stream_from: builds the stream.
        clips_per_block: clips that a decoder gives for one order.
    """

    run: Path
    micro_batch: int
    stream_from: StreamBuilder
    clips_per_block: int

    def __call__(self) -> ray.data.Dataset:
        """Return the stream from the newest checkpoint on."""
        progress = read_progress(newest_checkpoint(self.run))
        stream = self.stream_from(step=progress.step, first=progress.micro_batch(self.micro_batch))
        scale_to_demand(stream, PoolOfRun(self.run, self.clips_per_block))
        return stream


class RoundRobin(DataConfig):
    """Splits each dataset to the ranks in order."""

    def configure(
        self, datasets: dict[str, ray.data.Dataset], world_size: int, *_: Any, **__: Any
    ) -> list[dict[str, ray.data.DataIterator]]:
        """Return, for each rank, its iterator over each dataset."""
        splits = {
            name: dataset.streaming_split(world_size, equal=False, locality_hints=None)
            for name, dataset in datasets.items()
        }
        return [{name: split[rank] for name, split in splits.items()} for rank in range(world_size)]
