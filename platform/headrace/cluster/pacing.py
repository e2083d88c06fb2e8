"""Three habits of Ray Data's executor that a long stream cannot afford.

It takes all that small outputs offer, however slow their consumer is. Its limits are in bytes, and a number of a strip
has eight; but each is an object with its records, so the numbers of a long run would take a core for minutes, and
gigabytes for good.

It goes round without a rest. Its loop waits until all running tasks have something to give, at most 0.1 s; where the
decoders pause, only the source runs, and has something to give always. That would take most of a core.

Its consumers look for their blocks a hundred times a second, which `headrace.cluster.handover` mends.

Ray Data has no public door for this. `Pacing` is one of its callbacks (`DataContext.custom_execution_callback_classes`)
and joins the executor's backpressure policies and its guard against deadlocks, which else would let a number through
each time round. Where a Ray lacks these, nothing is held back.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from headrace.cluster.handover import Handover
from headrace.cluster.numbers import NAME

NUMBERS_AHEAD = 256
"""Numbers that wait to be given to decode actors, at most."""

REST_SECONDS = 0.05
"""From one look to the next while nothing happens; Ray waits twice as long for tasks that have nothing to give."""

_NUMBER_BYTES = 1024  # about what Ray counts for one


class Pacing:
    """Holds an execution's source back while enough numbers wait, and lets its loop rest while nothing happens."""

    name = "Pacing"

    def __init__(self) -> None:
        self._looked, self._seen = 0.0, -1
        self._handover: Handover | None = None

    def before_execution_starts(self, executor: Any) -> None:
        """Take part in what the executor decides."""
        try:
            self._topology = executor._topology
            guard = executor._output_backpressure_guard
            self._unblock = guard.should_unblock
            executor._backpressure_policies.append(self)
            guard.should_unblock = self.should_unblock
        except AttributeError:
            self._topology = {}
        with suppress(AttributeError):
            self._handover = Handover(executor._output_node[1])

    def can_add_input(self, op: Any) -> bool:
        """Let every operator start tasks."""
        return True

    def max_task_output_bytes_to_read(self, op: Any) -> int | None:
        """Return how much may be taken of what an operator's tasks give; None for all but the source."""
        if not op.name.startswith(f"Read{NAME}"):
            return None
        waiting: int = self._topology[op].output_queue.num_blocks
        return _NUMBER_BYTES * max(0, NUMBERS_AHEAD - waiting)

    def should_unblock(self, op: Any) -> bool:
        """Say whether an operator that is held back must go on lest all stand still; no number is that urgent."""
        return self.max_task_output_bytes_to_read(op) is None and bool(self._unblock(op))

    def on_execution_step(self, executor: Any) -> None:
        """Wake consumers; rest, if no task gave anything or was started since the last look, and that was just now."""
        if self._handover is not None:
            self._handover.wake()
        seen = sum(op.metrics.num_task_outputs_generated + op.metrics.num_tasks_submitted for op in self._topology)
        passed = time.monotonic() - self._looked
        if seen == self._seen and passed < REST_SECONDS:
            time.sleep(REST_SECONDS - passed)
        self._looked, self._seen = time.monotonic(), seen

    def after_execution_succeeds(self, executor: Any) -> None:
        """Nothing to do."""

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Nothing to do."""
