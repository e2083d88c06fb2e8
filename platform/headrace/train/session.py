"""What the loop needs of the world around it: who am I, where do my batches come from, who hears of me.

`LocalSession` is the world of a plain Python prompt: one process, no Ray. `headrace.cluster.session` is Ray's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import torch

from headrace.batch import BatchStream
from headrace.data.echo import unfold
from headrace.data.manifest import Manifest
from headrace.data.reader import BatchReader, Plan
from headrace.errors import UserError
from headrace.train.progress import CheckpointPath


def local_device(asked: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device of a worker in this process.

    Raises:
        UserError: a GPU is asked for, and there is none.
    """
    found = torch.cuda.is_available()
    if asked == "cuda" and not found:
        raise UserError("--train.device cuda is asked for, but there is no GPU here: run this where there is one")
    return torch.device("cuda" if found and asked != "cpu" else "cpu")


class Session(Protocol):
    """One worker's view of a run.

    Attributes:
        run: the run's folder, the same for all workers: checkpoints, metrics and the stop request meet there.
        rank, world_size: this worker among all.
        device: where this worker's model runs.
        cores: CPU cores of all machines that the run can use.
        manifest_digest, sequence: identify the samples, and the order in which they come.
    """

    run: Path
    rank: int
    world_size: int
    device: torch.device
    cores: int

    @property
    def manifest_digest(self) -> str: ...

    @property
    def sequence(self) -> str: ...

    def batches(self, first: int) -> BatchStream:
        """Return this rank's micro-batches: first + rank, first + rank + world_size, ..."""
        ...

    def leaving(self) -> bool:
        """Return whether this worker's machine is about to be taken away, as spot machines are."""
        ...

    def committed(self, checkpoint: CheckpointPath, step: int, loss: float) -> None:
        """Hear, on every rank, that a checkpoint is complete."""
        ...


@dataclass
class LocalSession:
    """One worker in this process, which decodes for itself."""

    run: Path
    manifest: Manifest
    plan: Plan
    micro_batches: int
    device: torch.device
    rank: int = 0
    world_size: int = 1
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)

    @property
    def manifest_digest(self) -> str:
        return self.manifest.digest

    @property
    def sequence(self) -> str:
        return self.plan.fingerprint()

    def batches(self, first: int) -> BatchStream:
        reader, echo = BatchReader(self.manifest, self.plan), self.plan.echo
        mine = range(first + self.rank, self.micro_batches, self.world_size)
        strips = (reader.read_strip(number) for number in mine if echo.is_decoded(number, first))
        return unfold(strips, self.world_size)

    def leaving(self) -> bool:
        """Return False: nobody tells this process."""
        return False

    def committed(self, checkpoint: CheckpointPath, step: int, loss: float) -> None:
        """Nobody else is there to hear it."""
