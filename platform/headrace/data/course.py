"""What a run streams, as its workers know it: they hold none of its samples."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.data.agenda import Agenda
from headrace.data.reader import Plan
from headrace.data.split import Split


@dataclass(frozen=True)
class Course:
    """What a run streams.

    Attributes:
        agenda: which micro-batches, and when.
        manifest_digest, sequence: identify the samples of training, and the order in which they come.
        held_out_digest: identifies the held-out samples.
    """

    agenda: Agenda
    manifest_digest: str
    sequence: str
    held_out_digest: str

    @classmethod
    def of(cls, split: Split, plan: Plan, agenda: Agenda) -> Course:
        """Return the course of a run through these samples."""
        return cls(agenda, split.training.digest, plan.fingerprint(), split.held_out.digest)
