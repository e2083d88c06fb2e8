"""A training worker's view of a run under Ray Train."""

from __future__ import annotations

from pathlib import Path

import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint, CheckpointUploadMode
from ray.train.v2._internal.execution.context import get_train_context as get_internal_train_context

from headrace.batch import BatchStream
from headrace.cluster.blocks import from_row
from headrace.cluster.context import HOLD_NONE
from headrace.cluster.ingest import stream_names
from headrace.cluster.pool import cluster_cores
from headrace.data.course import Course
from headrace.data.echo import unfold
from headrace.train.progress import CheckpointPath


class RaySession:
    """Implements `headrace.train.session.Session` inside a worker of Ray Train.

    Args:
        run: the run's folder, which all workers can reach.
        course: what the run streams.
        streams: in how many streams.
    """

    def __init__(self, run: Path, course: Course, streams: int) -> None:
        context = ray.train.get_context()
        self.run = run
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()
        self.cores = cluster_cores()
        self.course = course
        self._streams = streams

    def batches(self, step: int, first: int) -> BatchStream:
        """Return this rank's share of the stream, which `ResumableStream` built to start there.

        Both read it from the newest checkpoint, and the feed checks what comes.
        """
        # All ranks ask for all streams: Ray makes one when rank 0 asks for it.
        shards = [ray.train.get_dataset_shard(name) for name in stream_names(self._streams)]
        blocks = shards[self.rank % self._streams].iter_batches(
            batch_size=None, batch_format="numpy", prefetch_batches=HOLD_NONE
        )
        mine = self.course.agenda.numbers_of(self.rank, self.world_size, step, first)
        return unfold(map(from_row, blocks), mine)

    def leaving(self) -> bool:
        """Return whether Ray has announced that the machine of some worker will be taken away.

        Ray's public question is answered to all ranks at once, by way of an actor; that is too slow for every record,
        and the ranks tell each other anyway.
        """
        try:
            return get_internal_train_context().preemption_context.preemption_info is not None
        except AttributeError:  # a Ray that keeps it elsewhere
            return False

    def committed(self, checkpoint: CheckpointPath, step: int, loss: float) -> None:
        """Tell Ray Train, so that its dashboard shows the checkpoint where it lies in the run's folder."""
        shown = isinstance(checkpoint, Path) and self.rank == 0
        ray.train.report(
            {"step": step, "loss": loss},
            checkpoint=Checkpoint.from_directory(checkpoint) if shown else None,
            checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
        )
