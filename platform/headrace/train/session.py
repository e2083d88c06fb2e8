"""What the loop needs of the world around it: who am I, where do my batches come from, who hears of me.

`LocalSession` is the world of a plain Python prompt: one process, no Ray. `headrace.cluster.session` is Ray's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, Protocol

import torch

from headrace.batch import BatchStream
from headrace.data.agenda import Agenda
from headrace.data.course import Course
from headrace.data.echo import unfold
from headrace.data.reader import Plan, RunReader
from headrace.data.split import Split
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
        course: what the run streams.
    """

    run: Path
    rank: int
    world_size: int
    device: torch.device
    cores: int

    @property
    def course(self) -> Course: ...

    def batches(self, step: int, first: int) -> BatchStream:
        """Return this rank's micro-batches, by the agenda.

        Args:
            step: completed steps.
            first: the next micro-batch of training, over all ranks.
        """
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
    split: Split
    plan: Plan
    agenda: Agenda
    device: torch.device
    rank: int = 0
    world_size: int = 1
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)

    @cached_property
    def course(self) -> Course:
        return Course.of(self.split, self.plan, self.agenda)

    def batches(self, step: int, first: int) -> BatchStream:
        reader, echo = RunReader(self.split, self.plan), self.plan.echo
        mine = partial(self.agenda.numbers_of, self.rank, self.world_size, step, first)
        return unfold(map(reader.read_strip, echo.decoded(mine(), first)), mine())

    def leaving(self) -> bool:
        """Return False: nobody tells this process."""
        return False

    def committed(self, checkpoint: CheckpointPath, step: int, loss: float) -> None:
        """Nobody else is there to hear it."""
