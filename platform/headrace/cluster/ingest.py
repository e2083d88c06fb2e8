"""How the stream reaches the ranks: in order, whole, round robin.

Rank r of n receives micro-batches first + r, first + r + n, ... `streaming_split` gives the next block to the rank with
the fewest rows so far, ties to the lowest; all blocks have one row, so this is round robin. Train's own DataConfig
splits equally, which drops a remainder.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.data
from ray.data import ExecutionResources
from ray.train import DataConfig

from headrace.train.progress import newest_checkpoint, read_progress

STREAM = "micro-batches"
"""Name of the stream among a trainer's datasets."""

StreamBuilder = Callable[[int], ray.data.Dataset]
"""Builds the stream from a given micro-batch on."""


@dataclass(frozen=True)
class ResumableStream:
    """The stream as a trainer's dataset: built anew at each start of the workers, from where the run stands.

    Attributes:
        run: the run's folder.
        micro_batch: samples in a micro-batch.
        stream_from: builds the stream.
    """

    run: Path
    micro_batch: int
    stream_from: StreamBuilder

    def __call__(self) -> ray.data.Dataset:
        """Return the stream from the newest checkpoint on."""
        progress = read_progress(newest_checkpoint(self.run))
        return self.stream_from(progress.micro_batch(self.micro_batch))


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


def quiet_context() -> ray.data.DataContext:
    """Return Ray Data's context of this process, with its own displays off: headrace has one of its own."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return context


def stream_context(in_flight_bytes: int) -> None:
    """Set up Ray Data, in this process, for streams of micro-batches in order.

    Args:
        in_flight_bytes: how much the stream may keep in the object store before the decoders pause.
    """
    context = quiet_context()
    context.target_max_block_size = 1  # a block is a row: nothing is joined, nothing is split
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources(object_store_memory=in_flight_bytes)


def died_before() -> bool:
    """Say whether the actor that asks stands in for one that died."""
    with warnings.catch_warnings():  # announced to go, with nothing that takes its place
        warnings.simplefilter("ignore", DeprecationWarning)
        return bool(ray.get_runtime_context().was_current_actor_reconstructed)
