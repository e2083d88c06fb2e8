"""What a run writes about itself: `<run>/metrics.jsonl`, one JSON object a line, only ever appended to.

    kind         written                                             says
    start        whenever the workers (re)start                      what runs, where, from which step
    step         after an optimizer step, or every few               one StepRecord; means over the steps
                                                                     since the record before
    evaluation   when the held-out samples were evaluated            their scores, and whether the best ones so far
    checkpoint   when a checkpoint is complete                       where it lies
    restart      when a worker was lost and the run went on          from which step, why
    failure      when a sample first could not be decoded            which sample, why
    refused      when a step was left out: its loss or gradient      which step, which samples
                 was not finite, or spiked
    profile      when the steps that were to be profiled are done    where the trace lies, what cost most
    pool         when the stream begins, and when the decode pool    how many decoders, why
                 is given another size
    end          last                                                how it ended

A number that is not finite is written as null. After a restart or a resume the steps behind the checkpoint
are written again; the later record of a step is the true one (`history.History`). A process that dies while
it writes leaves a torn line; readers pass over it and count it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias, TypedDict, cast

METRICS_FILE = "metrics.jsonl"


class StartRecord(TypedDict):
    """The workers are up and begin after `step` completed steps.

    Attributes:
        time: seconds since 1970, as everywhere in this file.
        recipe: its name.
        device: "cpu", "cuda", …
        global_batch, micro_batch: samples for each optimizer step, and for each forward pass of one worker.
        accumulate: forward passes of a worker for each optimizer step.
        steps: of the whole run.
        step, position: completed steps and consumed samples; 0 unless the run goes on from a checkpoint.
        attempt: 0, then one more for each restart after a loss. A resume by hand begins at 0 again.
        parameters: of the model.
        flops_per_clip: floating-point operations of the model, forward and backward; peak_flops: how many a second
            each device can do at most; null where they are not known.
        world: versions by package, and under "cores" the CPU cores the decoders may use, where known.
    """

    kind: Literal["start"]
    time: float
    recipe: str
    workers: int
    device: str
    global_batch: int
    micro_batch: int
    accumulate: int
    steps: int
    step: int
    position: int
    attempt: int
    parameters: int
    flops_per_clip: int | None
    peak_flops: float | None
    world: dict[str, Any]


class StepRecord(TypedDict):
    """The means over the optimizer steps since the record before.

    Attributes:
        step: completed steps; position: consumed samples.
        clips_per_second: over all workers.
        step_seconds: wall time of a step; wait_seconds: the part of it spent waiting for data, mean over
            the ranks; wait_share: their ratio.
        decode_cpu_seconds_per_clip: CPU time of the decode pool for each clip.
        decode_actors: decode actors whose batches arrived.
        queue: micro-batches that are ready.
        in_flight_bytes: pixels that are decoded and not yet consumed, over all workers, by Little's law: the rate at
            which they are consumed times their mean age then.
        failures: samples replaced so far; failure_share: of all samples so far.
        memory_bytes: the most that was allocated on a training device, or by the process on a CPU.
        flops_per_second: model floating-point operations of each worker; mfu: their share of what its device could
            do at most, null where that is not known.
        compiles: of torch.compile since the record before, on rank 0.
        extra: the objective's own scalars.
    """

    kind: Literal["step"]
    time: float
    step: int
    steps: int
    position: int
    loss: float | None
    lr: float | None
    grad_norm: float | None
    clips_per_second: float | None
    step_seconds: float | None
    wait_seconds: float | None
    wait_share: float | None
    decode_cpu_seconds_per_clip: float | None
    decode_actors: int
    queue: int | None
    in_flight_bytes: int | None
    failures: int
    failure_share: float | None
    memory_bytes: int | None
    flops_per_second: float | None
    mfu: float | None
    compiles: int
    extra: dict[str, float | None]


class EvaluationRecord(TypedDict):
    """The model after `step` steps, evaluated on held-out samples.

    Attributes:
        samples: how many; scores: means over them, and what their features say.
        seconds: what it took; wait_seconds: the part of it spent waiting for data, mean over the ranks.
        best: whether no evaluation before was better, by the recipe's metric.
        compiles: of torch.compile for it, on rank 0.
    """

    kind: Literal["evaluation"]
    time: float
    step: int
    samples: int
    seconds: float
    wait_seconds: float
    scores: dict[str, float | None]
    best: bool
    compiles: int


class CheckpointRecord(TypedDict):
    """A checkpoint is complete. `path` is relative to the run's folder, or a location; `seconds` what it took,
    `blocked_seconds` the part of it in which nobody trained."""

    kind: Literal["checkpoint"]
    time: float
    step: int
    path: str
    seconds: float
    blocked_seconds: float


class RestartRecord(TypedDict):
    """A worker was lost and the run went on from `step`. `attempt` counts from 1."""

    kind: Literal["restart"]
    time: float
    attempt: int
    step: int
    reason: str


class FailureRecord(TypedDict):
    """A sample that could not be decoded and was replaced."""

    kind: Literal["failure"]
    time: float
    key: str
    shard: str
    reason: str
    message: str


class RefusedRecord(TypedDict):
    """An optimizer step that was left out. `keys` are the samples that it would have learnt from."""

    kind: Literal["refused"]
    time: float
    step: int
    loss: float | None
    grad_norm: float | None
    keys: list[str]


class ProfileRecord(TypedDict):
    """Steps up to `step` were profiled. `path` of the trace is relative to the run's folder; `kernels` are the
    costliest, each with its name, calls, seconds by itself and share of all."""

    kind: Literal["profile"]
    time: float
    step: int
    path: str
    kernels: list[dict[str, Any]]


PoolRecord = TypedDict(
    "PoolRecord",
    {
        "kind": Literal["pool"],
        "time": float,
        "from": int,
        "to": int,
        "needed": int,
        "least": int,
        "most": int,
        "cores": int,
        "reason": str,
        "stream": int,
        "streams": int,
    },
)
"""The decode pool of a stream is to have `to` decoders in place of `from`, between its bounds `least` and `most`; its
trainers could use `needed`, and the cluster has `cores` now. Where from and to are equal, its bounds hold it back.
Sizes are 0 where Ray scales the pool itself. `stream` counts from 0 among the run's `streams`."""


class EndRecord(TypedDict):
    """The run is over: "finished" did all its steps, "stopped" was asked to end, "failed" says why."""

    kind: Literal["end"]
    time: float
    step: int
    outcome: Literal["finished", "stopped", "failed"]
    message: str


Record: TypeAlias = (
    "StartRecord | StepRecord | EvaluationRecord | CheckpointRecord | RestartRecord | FailureRecord | RefusedRecord"
    " | PoolRecord | ProfileRecord | EndRecord"
)

LARGEST = 1e100  # a number beyond is as good as infinite; below it, sums and ranges stay finite

# What an observer cannot do without. A line that lacks it is as good as torn.
_REQUIRED_NUMBERS: dict[str, tuple[str, ...]] = {
    "start": ("time", "step", "steps"),
    "step": ("time", "step", "steps"),
    "evaluation": ("time", "step"),
    "checkpoint": ("time", "step"),
    "restart": ("time", "step"),
    "failure": ("time",),
    "refused": ("time", "step"),
    "profile": ("time", "step"),
    "pool": ("time", "from", "to", "needed", "least", "most", "cores"),
    "end": ("time", "step"),
}


def number(record: Mapping[str, object], name: str) -> float:
    """Return a number of a record as a float; NaN where it is absent, null or beyond LARGEST."""
    value = record.get(name)
    if isinstance(value, (int, float)) and abs(value) <= LARGEST:
        return float(value)
    return math.nan


class MetricsWriter:
    """Appends records to a file, each complete on disk's side of the process before the next begins.

    A line is one write at the end of the file, so that several processes can write: rank 0, and at long intervals
    whoever executes the stream, and the driver. A line that an earlier process left torn is closed first.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        if _ends_inside_a_line(path):
            self._file.write(b"\n")

    def write(self, record: Record) -> None:
        """Append one record. NaN and infinities become null.

        Raises:
            TypeError: a value is not JSON (a tensor or NumPy scalar that was not converted).
        """
        line = json.dumps(_without_nan(record), allow_nan=False, separators=(",", ":"))
        self._file.write(line.encode() + b"\n")  # one write call, so that readers rarely see half a line

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Follower:
    """Reads a growing metrics file: each `poll` returns the records completed since the one before.

    The file need not exist yet. A poll that finds nothing new costs one `stat`. If the file shrank it was
    replaced, and is read from its start.

    Args:
        start: bytes to pass over: the end of a line, as `recorded_bytes` gives it.

    Attributes:
        unreadable: complete lines that were no record.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        self.path = path
        self.unreadable = 0
        self._offset = start  # of the first byte that belongs to no complete line yet
        self._size = 0

    def poll(self, until: int | None = None) -> list[Record]:
        """Return the new records, oldest first; only those in the first `until` bytes if that is given."""
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return []
        if until is not None:
            size = min(size, until)
        if size == self._size:
            return []
        if size < self._offset:
            self._offset = 0
        self._size = size
        with self.path.open("rb") as file:
            file.seek(self._offset)
            return self._parse(file.read(size - self._offset))

    def _parse(self, data: bytes) -> list[Record]:
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        lines = [line for line in complete.split(b"\n") if line.strip()]
        records = [record for line in lines if (record := parse_record(line)) is not None]
        self.unreadable += len(lines) - len(records)
        return records


def read_records(path: Path) -> list[Record]:
    """Return all complete records of a file, oldest first; none where the file does not exist."""
    return Follower(path).poll()


def parse_record(line: bytes | str) -> Record | None:
    """Return the record on a line, or None where it is torn, foreign, or lacks its step or time."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    required = _REQUIRED_NUMBERS.get(str(value.get("kind")))
    if required is None or not all(_is_finite(value.get(name)) for name in required):
        return None
    return cast("Record", value)


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= LARGEST


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return value


def _ends_inside_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
