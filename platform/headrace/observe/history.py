"""What is known of a run: its records folded into the line of steps that counts.

A run that loses a worker, or is resumed by hand, goes back to a checkpoint and repeats steps. The steps it
went back behind are undone: nothing that was learnt in them is in the model.
"""

from __future__ import annotations

from collections import Counter, deque

from headrace.observe.records import (
    CheckpointRecord,
    EndRecord,
    EvaluationRecord,
    FailureRecord,
    PoolRecord,
    ProfileRecord,
    Record,
    RefusedRecord,
    RestartRecord,
    StartRecord,
    StepRecord,
    number,
)

FAILURE_ROWS = 50
POOL_ROWS = 1000
LONGEST_RESTART_SECONDS = 600.0
WARM_UP_STEPS = 5


class History:
    """The state of a run after the records seen so far.

    Args:
        keep: how many of the newest step records to hold; all by default.

    Attributes:
        start: of the newest session. resumes: starts by hand after the first.
        steps: ascending, one record for each step that still counts.
        first: the first of them, also when it is no longer held.
        evaluations: on held-out samples, of steps that still count, ascending.
        checkpoints: every one that was written.
        pool: what was asked of the decode pool, or of those of all streams together, and why; the newest POOL_ROWS.
        refused: steps that were left out, of those that still count.
        failures: samples that failed, by reason; failure_rows: the first FAILURE_ROWS of them.
        profile: the newest.
        end: None while it runs, and after it was cut off.
        elapsed_seconds: time under way, without the pauses between a stop and a resume. A pause without
            an end record counts if it was shorter than LONGEST_RESTART_SECONDS: nobody went on by hand.
    """

    def __init__(self, keep: int | None = None) -> None:
        self.start: StartRecord | None = None
        self.first: StepRecord | None = None
        self.steps: deque[StepRecord] = deque(maxlen=keep)
        self.resumes: list[StartRecord] = []
        self.restarts: list[RestartRecord] = []
        self.evaluations: list[EvaluationRecord] = []
        self.checkpoints: list[CheckpointRecord] = []
        self.pool: deque[PoolRecord] = deque(maxlen=POOL_ROWS)
        self.refused: list[RefusedRecord] = []
        self.failures: Counter[str] = Counter()
        self.failure_rows: list[FailureRecord] = []
        self.profile: ProfileRecord | None = None
        self.end: EndRecord | None = None
        self.elapsed_seconds = 0.0
        self._failed: set[tuple[str, str]] = set()
        self._warm_ups: set[int] = set()
        self._warming_up = True
        self._newest_time: float | None = None
        self._pools: dict[float, PoolRecord] = {}  # of streams

    def add(self, record: Record) -> None:
        """Take in the next record."""
        self._count_time(record)
        if record["kind"] == "start":
            self._begin(record)
        elif record["kind"] == "step":
            self._take_step(record)
        elif record["kind"] == "evaluation":
            self.evaluations.append(record)
        elif record["kind"] == "checkpoint":
            self.checkpoints.append(record)
        elif record["kind"] == "restart":
            self.restarts.append(record)
            self._go_back_to(record["step"])
        elif record["kind"] == "failure":
            self._take_failure(record)
        elif record["kind"] == "refused":
            self.refused.append(record)
        elif record["kind"] == "profile":
            self.profile = record
        elif record["kind"] == "pool":
            self._take_pool(record)
        else:
            self.end = record

    @property
    def last(self) -> StepRecord | None:
        """The newest step record."""
        return self.steps[-1] if self.steps else None

    @property
    def best(self) -> EvaluationRecord | None:
        """The best evaluation, by the recipe's metric."""
        return next((record for record in reversed(self.evaluations) if record.get("best")), None)

    @property
    def step(self) -> int:
        """Completed steps."""
        if self.steps:
            return self.steps[-1]["step"]
        return self.start["step"] if self.start else 0

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, 0 while unknown."""
        newest = self.last or self.start
        return newest["steps"] if newest else 0

    @property
    def failed_samples(self) -> int:
        """Samples that could not be decoded and were replaced."""
        counted = number(self.last or {}, "failures")
        return max(len(self._failed), int(counted) if counted >= 0 else 0)

    @property
    def cores(self) -> int | None:
        """CPU cores that the decoders may use, where the run knows it: nodes may come and go."""
        if self.pool and self.start is not None and self.pool[-1]["cores"] >= 1:
            return int(self.pool[-1]["cores"])
        cores = number(self.start.get("world") or {}, "cores") if self.start else float("nan")
        return int(cores) if cores >= 1 else None

    @property
    def newest_pool(self) -> PoolRecord | None:
        """What was last asked of the decode pool."""
        return self.pool[-1] if self.pool else None

    def steady(self) -> list[StepRecord]:
        """Return the held steps without the first of each session, which compiles and fills the queues."""
        return [step for step in self.steps if not self.is_warm_up(step)] or list(self.steps)

    def compiled_again(self, step: StepRecord) -> int:
        """Return how many graphs were compiled so late in a session that something must have changed."""
        began = self.start["step"] if self.start is not None else 0
        late = self.in_session(step) and not self.is_warm_up(step) and step["step"] > began + WARM_UP_STEPS
        return int(number(step, "compiles")) if late and number(step, "compiles") > 0 else 0

    def is_warm_up(self, step: StepRecord) -> bool:
        """Tell whether a step was the first of its session."""
        return step["step"] in self._warm_ups

    def in_session(self, step: StepRecord) -> bool:
        """Tell whether a step belongs to the newest session: was taken since the last (re)start."""
        return self.start is None or step["step"] > self.start["step"]

    def _begin(self, start: StartRecord) -> None:
        if self.start is not None and not number(start, "attempt") > 0:
            self.resumes.append(start)
        self.start = start
        self.end = None
        self._go_back_to(start["step"])

    def _take_step(self, record: StepRecord) -> None:
        self._undo_after(record["step"] - 1)
        if self._warming_up:
            self._warm_ups.add(record["step"])
            self._warming_up = False
        self.steps.append(record)
        self.first = self.first or record

    def _take_pool(self, record: PoolRecord) -> None:
        """Keep what was asked of the pools of all streams together."""
        streams = number(record, "streams")
        if not streams > 1:
            self.pool.append(record)
            return
        pools = {other: pool for other, pool in self._pools.items() if number(pool, "streams") == streams}
        self._pools = pools | {number(record, "stream"): record}
        whole = record.copy()
        whole["from"] = sum(pool["to"] for pool in pools.values())
        whole["to"] = sum(pool["to"] for pool in self._pools.values())
        whole["needed"] = sum(pool["needed"] for pool in self._pools.values())
        whole["least"] = sum(pool["least"] for pool in self._pools.values())
        whole["most"] = sum(pool["most"] for pool in self._pools.values())
        self.pool.append(whole)

    def _take_failure(self, record: FailureRecord) -> None:
        sample = (str(record.get("shard", "")), str(record.get("key", "")))
        if sample in self._failed:  # met again after a restart
            return
        self._failed.add(sample)
        self.failures[str(record.get("reason", ""))] += 1
        if len(self.failure_rows) < FAILURE_ROWS:
            self.failure_rows.append(record)

    def _go_back_to(self, step: int) -> None:
        self._undo_after(step)
        self._warming_up = True

    def _undo_after(self, step: int) -> None:
        while self.steps and self.steps[-1]["step"] > step:
            self._warm_ups.discard(self.steps.pop()["step"])
        self.refused = [record for record in self.refused if record["step"] <= step]
        self.evaluations = [record for record in self.evaluations if record["step"] <= step]
        if self.first is not None and self.first["step"] > step:
            self.first = None

    def _count_time(self, record: Record) -> None:
        before, self._newest_time = self._newest_time, record["time"]
        if before is None:
            return
        gap = max(0.0, record["time"] - before)
        begins = record["kind"] in ("start", "restart")
        if not begins or (self.end is None and gap < LONGEST_RESTART_SECONDS):
            self.elapsed_seconds += gap
