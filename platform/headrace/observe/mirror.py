"""What every place has in common to which a run is mirrored while it goes on: W&B, TensorBoard, Prometheus."""

from __future__ import annotations

from typing import Protocol

from headrace.observe.history import History
from headrace.observe.records import EvaluationRecord, Record, StepRecord, number

STEP_FIELDS = {
    "position": "samples consumed",
    "loss": "mean loss",
    "lr": "learning rate",
    "grad_norm": "norm of the gradient before clipping",
    "clips_per_second": "clips trained on in a second, over all workers",
    "step_seconds": "wall time of an optimizer step, in seconds",
    "wait_seconds": "part of it spent waiting for data, in seconds",
    "wait_share": "part of it spent waiting for data, as a share",
    "flops_per_second": "model floating-point operations of a worker in a second",
    "mfu": "model FLOPs utilization, as a share",
    "decode_cpu_seconds_per_clip": "CPU time of the decode pool for a clip, in seconds",
    "decode_actors": "decode actors whose batches arrived",
    "queue": "micro-batches that are ready",
    "in_flight_bytes": "pixels decoded and not yet consumed, in bytes",
    "failures": "samples that could not be decoded and were replaced",
    "failure_share": "the same, as a share of all samples",
    "memory_bytes": "most memory allocated on a training device, in bytes",
    "compiles": "graphs compiled since the record before",
}
"""What is mirrored of a step record, and what it is; the objective's own scalars besides."""


class Mirror(Protocol):
    """A place outside the run's folder where the run can be looked at. Called from one thread; no call may block.

    Attributes:
        name: of the place, for the summary.
        resumed: whether it knows already what the run recorded before.
    """

    name: str
    resumed: bool

    def see(self, record: Record, history: History) -> None:
        """Pass on a record, which `history` holds already."""

    def close(self, history: History) -> str:
        """Bring the mirroring to an end; return a line that says where the run can be looked at, or ""."""
        ...


def step_values(record: StepRecord) -> dict[str, float]:
    """Return what is mirrored of a step, the objective's own scalars as extra/<name>. A NaN is kept."""
    values = {name: number(record, name) for name in STEP_FIELDS if name in record}
    extra = record.get("extra") or {}
    return {**values, **{f"extra/{name}": number(extra, name) for name in extra}}


def held_out_values(record: EvaluationRecord) -> dict[str, float]:
    """Return what is mirrored of an evaluation, as held_out/<score>. A NaN is kept."""
    scores = record.get("scores") or {}
    return {f"held_out/{name}": number(scores, name) for name in scores}
